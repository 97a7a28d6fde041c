"""Death and power loss at every system call: what was acknowledged is read by the successor, and
what a seal reported stays so."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from dataclasses import dataclass, field

import pytest
from storage_harness import Killed, ModelDisk, Process, a_claim, process, run

from sofs.core.record import RecordKind
from sofs.errors import Corrupt, Fenced, OutcomeUnknown, SofsError, StoreUnknown
from sofs.ports.log import SealedLog
from sofs.ports.store import Lost, Won


@dataclass
class History:
    """What one owner appended and what was acknowledged, in order."""

    appended: list[bytes] = field(default_factory=list)
    acked: int = 0
    claimed: bool = False


async def owner(node: Process, history: History, *, epoch: int = 1, batches: int = 7) -> None:
    """Claim, open, append batches over several segments, close."""
    claim = a_claim(epoch)
    assert await node.fenced.try_claim(claim) is None
    history.claimed = True
    log = await node.fenced.open_log(claim, first_sequence=1)
    for batch in range(batches):
        last = 0
        for record in range(3):
            payload = b"%d/%d/" % (batch, record) * (10 + 25 * record)
            await log.room(len(payload))
            history.appended.append(payload)
            last = log.append(RecordKind.ENTRY, [payload]).sequence
        await log.durable(last)
        history.acked = len(history.appended)
    await log.close()


async def life(node: Process, history: History) -> None:
    with contextlib.suppress(Killed, SofsError):
        await owner(node, history)


async def successor(disk: ModelDisk, epoch: int, of_epoch: int = 1) -> SealedLog | None:
    """Claim the next epoch as a fresh process and seal; None when the first owner never claimed."""
    node = process(disk)
    if await node.fenced.read_claim("volume", of_epoch) is None:
        return None
    winner = await node.fenced.try_claim(a_claim(epoch, salt=1))
    assert winner is None
    below = await node.fenced.read_claim("volume", of_epoch)
    assert below is not None
    return await node.fenced.seal(below)


def contents(sealed: SealedLog | None) -> list[bytes]:
    return [] if sealed is None else [bytes(record.payload) for record in sealed.records]


def judge(history: History, sealed: SealedLog | None) -> None:
    found = contents(sealed)
    assert found == history.appended[: len(found)], "records come back as appended, in order"
    assert len(found) >= history.acked, "an acknowledged record is lost"


def calls_of_a_whole_life() -> int:
    node = process(ModelDisk())
    run(life(node, History()))
    return node.calls.calls


def kill_points() -> range:
    return range(1, calls_of_a_whole_life() + 1)


async def killed_life(disk: ModelDisk, at: int, after: bool) -> History:
    node, history = process(disk), History()
    node.calls.kill_at, node.calls.kill_after = at, after
    await life(node, history)
    return history


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_acknowledged_records_survive_death_at_every_system_call(after: bool) -> None:
    async def main() -> None:
        for at in kill_points_cached:
            disk = ModelDisk()
            history = await killed_life(disk, at, after)
            judge(history, await successor(disk, 2))

    kill_points_cached = kill_points()
    run(main())


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_acknowledged_records_survive_power_loss_at_every_system_call(seed: int | None) -> None:
    points = kill_points()

    async def main() -> None:
        for at in points:
            disk = ModelDisk()
            history = await killed_life(disk, at, after=True)
            disk.power_loss(seed)
            sealed = await successor(disk, 2)
            assert sealed is not None or history.acked == 0
            judge(history, sealed)

    run(main())


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_what_a_seal_adopted_stays_after_power_loss_and_nothing_else_comes_back(
    seed: int | None,
) -> None:
    points = kill_points()

    async def main() -> None:
        for at in points:
            disk = ModelDisk()
            history = await killed_life(disk, at, after=False)
            first = await successor(disk, 2)
            disk.power_loss(seed)
            if first is None:
                continue
            second = await successor(disk, 3)
            assert second is not None
            assert contents(second) == contents(first), f"at call {at} of {history}"

    run(main())


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_a_seal_that_dies_at_every_system_call_leaves_the_same_log_to_the_next(power: bool) -> None:
    async def main() -> None:
        total = 0
        at = 0
        while at <= total:
            disk = ModelDisk()
            history = await killed_life(disk, 10**9, after=False)
            sealer = process(disk)
            sealer.calls.kill_at, sealer.calls.kill_after = at, at % 2 == 0
            try:
                assert await sealer.fenced.try_claim(a_claim(2)) is None
                await sealer.fenced.seal(a_claim(1))
            except (Killed, StoreUnknown):
                pass
            if at == 0:
                total = sealer.calls.calls
            if power:
                disk.power_loss(at)
            claimed = await process(disk).fenced.read_claim("volume", 2) is not None
            judge(history, await successor(disk, 3 if claimed else 2))
            at += 1

    run(main())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_put_if_absent_that_dies_anywhere_leaves_all_or_nothing(after: bool) -> None:
    data, other = b"mine" * 100, b"other" * 100
    node = process(ModelDisk())
    node.fenced.store.put_if_absent("a/b/key", data)
    for at in range(1, node.calls.calls + 1):
        for power in (False, True):
            disk = ModelDisk()
            dying = process(disk)
            dying.calls.kill_at, dying.calls.kill_after = at, after
            with pytest.raises(Killed):
                dying.fenced.store.put_if_absent("a/b/key", data)
            if power:
                disk.power_loss(at)
            fresh = process(disk).fenced.store
            assert fresh.get("a/b/key") in (None, data)
            assert fresh.list("a") in ([], ["a/b/key"]), "temporary names are left out"
            existed = fresh.get("a/b/key") is not None
            assert fresh.put_if_absent("a/b/key", other) == (Lost(data) if existed else Won())


def test_a_won_object_survives_power_loss_and_so_does_one_that_made_others_lose() -> None:
    disk = ModelDisk()
    assert process(disk).fenced.store.put_if_absent("claims/v/1", b"one") == Won()
    disk.power_loss(None)
    assert process(disk).fenced.store.get("claims/v/1") == b"one"
    # The winner dies between its link and the folder's sync: whoever loses to it makes it durable.
    linked = ModelDisk()
    dying = process(linked)
    dying.calls.kill_at, dying.calls.kill_after = link_call(), True
    with pytest.raises(Killed):
        dying.fenced.store.put_if_absent("claims/v/1", b"one")
    assert process(linked).fenced.store.put_if_absent("claims/v/1", b"two") == Lost(b"one")
    linked.power_loss(None)
    assert process(linked).fenced.store.get("claims/v/1") == b"one"


def link_call() -> int:
    node = process(ModelDisk())
    node.fenced.store.put_if_absent("claims/v/1", b"one")
    return next(i for i, line in enumerate(node.calls.log, 1) if line.startswith("link "))


# Fencing ----------------------------------------------------------------------------------------


async def opened(disk: ModelDisk) -> tuple[Process, object]:
    node = process(disk)
    claim = a_claim(1)
    assert await node.fenced.try_claim(claim) is None
    return node, await node.fenced.open_log(claim, first_sequence=1)


@pytest.mark.parametrize("step", [0, 1], ids=["after-write", "after-sync"])
def test_an_owner_whose_successor_claims_before_the_check_is_fenced_and_acknowledges_nothing(
    step: int,
) -> None:
    async def main() -> None:
        disk = ModelDisk()
        node, log = await opened(disk)
        other = process(disk)

        def claim_now(lane: str, index: int) -> None:
            if lane.startswith("log/") and index == step:
                node.blocking.between = None
                assert other.fenced._try(a_claim(2)) is None

        placement = log.append(RecordKind.ENTRY, [b"late"])
        node.blocking.between = claim_now
        with pytest.raises(Fenced):
            await log.durable(placement.sequence)
        assert isinstance(log.ended, Fenced)
        with pytest.raises(Fenced):
            log.append(RecordKind.ENTRY, [b"more"])
        with pytest.raises(Fenced):
            await log.check()
        sealed = await other.fenced.seal(a_claim(1))
        assert [bytes(r.payload) for r in sealed.records] in ([], [b"late"])

    run(main())


def test_a_claim_after_the_check_finds_the_acknowledged_record() -> None:
    async def main() -> None:
        disk = ModelDisk()
        _, log = await opened(disk)
        other = process(disk)
        await log.durable(log.append(RecordKind.ENTRY, [b"acked"]).sequence)
        assert await other.fenced.try_claim(a_claim(2)) is None
        sealed = await other.fenced.seal(a_claim(1))
        assert [bytes(r.payload) for r in sealed.records] == [b"acked"]
        with pytest.raises(Fenced):
            await log.check()

    run(main())


def test_a_check_that_cannot_be_made_ends_the_log() -> None:
    async def main() -> None:
        node, log = await opened(ModelDisk())
        node.calls.fail = lambda name, path: (
            OSError(errno.EIO, "lost") if name == "stat_at" else None
        )
        with pytest.raises(OutcomeUnknown):
            await log.check()
        with pytest.raises(OutcomeUnknown):
            log.append(RecordKind.ENTRY, [b"x"])

    run(main())


# Errors of the log ------------------------------------------------------------------------------


def test_a_failed_sync_is_never_retried_and_its_bytes_are_cut_when_the_device_lacks_them() -> None:
    async def main() -> None:
        disk = ModelDisk()
        node, log = await opened(disk)
        await log.durable(log.append(RecordKind.ENTRY, [b"acked"]).sequence)
        ended: list[BaseException] = []
        log.on_end(ended.append)
        failed: list[str] = []

        def fail(name: str, path: str) -> OSError | None:
            if name == "fsync" and "logs/" in path:
                failed.append(path)
                return OSError(errno.EIO, "device error")
            return None

        node.calls.fail = fail
        waiting = [
            log.durable(log.append(RecordKind.ENTRY, [b"unsynced"]).sequence) for _ in range(3)
        ]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, OutcomeUnknown) for result in results)
        assert len(failed) == 1
        assert len(ended) == 1
        before = node.calls.calls
        with pytest.raises(OutcomeUnknown):
            log.append(RecordKind.ENTRY, [b"later"])
        assert node.calls.calls == before
        # The cache still shows the records; the device does not have them.
        sealed = await successor(disk, 2)
        assert contents(sealed) == [b"acked"]
        disk.power_loss(None)
        assert contents(await successor(disk, 3)) == [b"acked"]

    run(main())


@pytest.mark.parametrize("name", ["pwritev", "fsync"])
def test_a_failed_write_or_sync_ends_the_log_for_all_waiters(name: str) -> None:
    async def main() -> None:
        node, log = await opened(ModelDisk())
        node.calls.fail = lambda call, path: OSError(errno.EIO, "bad") if call == name else None
        with pytest.raises(OutcomeUnknown):
            await log.durable(log.append(RecordKind.ENTRY, [b"x"]).sequence)
        await log.close()

    run(main())


def test_a_short_write_ends_the_log() -> None:
    async def main() -> None:
        disk = ModelDisk()
        node, log = await opened(disk)
        whole = node.calls.pwritev
        node.calls.pwritev = lambda fd, buffers, offset: whole(fd, [b"".join(buffers)[:-1]], offset)
        with pytest.raises(OutcomeUnknown):
            await log.durable(log.append(RecordKind.ENTRY, [b"x"]).sequence)
        assert contents(await successor(disk, 2)) in ([], [b"x"])

    run(main())


def test_a_gap_in_the_segments_is_corruption_that_names_the_segment() -> None:
    async def main() -> None:
        disk = ModelDisk()
        history = History()
        await owner(process(disk), history)
        node = process(disk)
        key = "logs/volume/00000000000000000001/00000001"
        node.fenced.store.delete(key)
        with pytest.raises(Corrupt, match=key):
            await node.fenced.seal(a_claim(1))
        node.fenced.store.delete("logs/volume/00000000000000000001/00000000")
        with pytest.raises(Corrupt, match="00000000"):
            await node.fenced.seal(a_claim(1))

    run(main())


def test_a_log_that_was_claimed_and_never_opened_is_sealed_empty() -> None:
    async def main() -> None:
        node = process(ModelDisk())
        assert await node.fenced.try_claim(a_claim(1)) is None
        assert await node.fenced.try_claim(a_claim(2)) is None
        sealed = await node.fenced.seal(a_claim(1))
        assert (sealed.first_sequence, sealed.last_sequence, list(sealed.records)) == (1, 0, [])

    run(main())
