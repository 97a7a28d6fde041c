"""Lineage and replay: what successors agree on, however many of them die on the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import fsspec
import pytest
from storage_harness import (
    InlineBlocking,
    Killed,
    ModelDisk,
    SeededEntropy,
    VirtualClock,
    a_claim,
    process,
    run,
)

from sofs.core.entries import (
    Boundary,
    Changeset,
    CheckpointEntry,
    CheckpointRef,
    Entry,
    Handover,
    Lineage,
    SealedEpoch,
)
from sofs.core.record import RecordKind
from sofs.errors import Corrupt, Fenced, FormatRefused, OutcomeUnknown, SofsError
from sofs.ids import Position
from sofs.ports.log import Claim, LogWriter
from sofs.ports.recovery import Known
from sofs.storage import (
    LogOptions,
    MemorySlotStore,
    ProtobufEntries,
    StoreFences,
    StoreRecovery,
    open_fenced,
)

CODEC = ProtobufEntries()
LOG_1 = "logs/volume/00000000000000000001"


@pytest.fixture(params=["append", "slots"])
def fresh(request: pytest.FixtureRequest) -> Iterator[Callable[[], StoreFences]]:
    """A maker of processes on one root, for each kind of backend."""
    if request.param == "append":
        disk = ModelDisk()
        yield lambda: process(disk, LogOptions(first_bytes=1024, segment_bytes=2048)).fenced
        return
    seeds = iter(range(1000))
    yield lambda: open_fenced(
        MemorySlotStore("memory://recovery"),
        VirtualClock(),
        SeededEntropy(next(seeds)),
        InlineBlocking(),
    )
    filesystem = fsspec.filesystem("memory")
    for path in filesystem.find("/recovery"):
        filesystem.rm_file(path)


@dataclass
class Owner:
    """One incarnation that claimed ``epoch``; ``state`` is the list of changes it stands on."""

    fenced: StoreFences
    claim: Claim
    recovery: StoreRecovery
    state: list[bytes] = field(default_factory=list)
    lineage: Lineage = field(default_factory=lambda: Lineage(None, ()))
    log: LogWriter | None = None
    position: Position = field(default_factory=lambda: Position(0, 0))

    async def write(self, entry: Entry) -> int:
        assert self.log is not None
        placement = self.log.append(RecordKind.ENTRY, [CODEC.encode(entry)])
        await self.log.durable(placement.sequence)
        self.position = Position(self.claim.epoch, placement.sequence)
        return placement.sequence

    async def change(self, change: bytes) -> None:
        await self.write(Changeset(1, change))
        self.state.append(change)

    async def checkpoint(self, key: str) -> CheckpointRef:
        image = b"|".join(self.state)
        await self.fenced.put_object(key, image)
        reference = CheckpointRef(key, self.position, self.recovery.digest(image), len(image), 1)
        await self.write(CheckpointEntry(reference))
        return reference


async def claimed(fenced: StoreFences) -> Owner:
    """Win the next epoch."""
    highest = await fenced.highest_claim("volume")
    claim = a_claim(1 if highest is None else highest.epoch + 1)
    assert await fenced.try_claim(claim) is None
    return Owner(fenced, claim, StoreRecovery(fenced, CODEC, "volume"))


async def recovered(owner: Owner, *, after: Position | None = None, kept=()) -> Owner:
    """Derive, replay, open the log; the lineage is not written yet."""
    owner.lineage = await owner.recovery.derive_lineage(owner.claim)
    replay = await owner.recovery.replay(owner.lineage, after=after)
    base = list(kept) if replay.image is None else [p for p in replay.image.split(b"|") if p]
    owner.state = [*base, *replay.changesets]
    owner.position = replay.position
    owner.log = await owner.fenced.open_log(
        owner.claim, first_sequence=replay.position.sequence + 1
    )
    return owner


async def serving(fenced: StoreFences) -> Owner:
    owner = await recovered(await claimed(fenced))
    await owner.write(owner.lineage)
    return owner


def test_the_first_owner_stands_on_nothing(fresh) -> None:
    async def main() -> None:
        owner = await serving(fresh())
        assert owner.lineage == Lineage(None, ())
        assert owner.state == []
        assert owner.position == Position(1, 1)

    run(main())


def test_a_successor_stands_on_all_that_was_acknowledged(fresh) -> None:
    async def main() -> None:
        owner = await serving(fresh())
        for index in range(30):
            await owner.change(b"one-%d" % index)
        second = await serving(fresh())
        assert second.state == owner.state
        assert second.lineage.history == (SealedEpoch(1, 1, 31, a_claim(1).nonce),)
        assert second.position == Position(2, 32)
        with pytest.raises((Fenced, OutcomeUnknown)):
            await owner.change(b"late")
        await second.change(b"two")
        third = await serving(fresh())
        assert third.state == [*owner.state, b"two"]
        assert [s.epoch for s in third.lineage.history] == [1, 2]
        assert third.position == Position(3, 34)

    run(main())


@pytest.mark.parametrize("progress", ["claimed", "sealed", "opened"])
def test_a_successor_that_dies_before_its_lineage_changes_nothing(fresh, progress: str) -> None:
    async def main() -> None:
        owner = await serving(fresh())
        await owner.change(b"a")
        middle = await claimed(fresh())
        if progress == "sealed":
            await middle.recovery.derive_lineage(middle.claim)
        elif progress == "opened":
            await recovered(middle)
        third = await serving(fresh())
        assert third.claim.epoch == 3
        assert third.state == [b"a"]
        assert [s.epoch for s in third.lineage.history] == [1]
        await third.change(b"c")
        # The middle one wakes up late: it can neither serve nor change what others stand on.
        if middle.log is None:
            with pytest.raises(SofsError):
                middle = await recovered(middle)
                await middle.write(middle.lineage)
        else:
            with pytest.raises(SofsError):
                await middle.write(middle.lineage)
        fourth = await serving(fresh())
        assert fourth.state == [b"a", b"c"]
        assert [s.epoch for s in fourth.lineage.history] == [1, 3]

    run(main())


def test_a_late_lineage_below_a_successor_that_died_is_taken_and_loses_nothing(fresh) -> None:
    async def main() -> None:
        owner = await serving(fresh())
        await owner.change(b"a")
        frozen = await recovered(await claimed(fresh()))
        await claimed(fresh())  # Epoch 3 dies at once, before it sealed anything.
        if fresh().store.kind == "append":
            with pytest.raises(Fenced):
                await frozen.write(frozen.lineage)
        else:
            # Nobody has put a fence: the slot is free, and whoever comes next reads what is in it.
            await frozen.write(frozen.lineage)
        fourth = await serving(fresh())
        assert fourth.state == [b"a"]
        await fourth.change(b"d")
        assert (await serving(fresh())).state == [b"a", b"d"]

    run(main())


def test_what_a_frozen_owner_writes_after_the_seal_never_counts() -> None:
    async def main() -> None:
        disk = ModelDisk()
        options = LogOptions(first_bytes=64 * 1024, segment_bytes=64 * 1024)
        owner = await serving(process(disk, options).fenced)
        await owner.change(b"a")
        second = await serving(process(disk, options).fenced)
        for index in range(3):
            owner.log.append(RecordKind.ENTRY, [CODEC.encode(Changeset(1, b"zombie %d" % index))])
        batch, owner.log._open = owner.log._open, None
        batch.write()
        batch.sync()
        third = await serving(process(disk, options).fenced)
        assert third.state == second.state == [b"a"]
        assert third.lineage.history[0].last_sequence == 2

    run(main())


def test_recovery_starts_at_the_newest_checkpoint_and_drops_what_it_covers(fresh) -> None:
    async def main() -> None:
        owner = await serving(fresh())
        for index in range(10):
            await owner.change(b"a%d" % index)
        await owner.checkpoint("checkpoints/first")
        await owner.change(b"b")
        reference = await owner.checkpoint("checkpoints/second")
        await owner.change(b"c")
        await owner.write(Boundary(reference.position, ["checkpoints/first"]))
        await owner.fenced.delete_object("checkpoints/first")
        numbers = await owner.fenced.list_objects(LOG_1)
        await owner.fenced.delete_segments(
            owner.claim, below_segment=max(1, len(numbers) - 4), keep_first=True
        )
        second = await serving(fresh())
        assert second.lineage.checkpoint == reference
        assert second.state == owner.state
        third = await serving(fresh())
        assert third.state == owner.state
        assert third.lineage.checkpoint == reference
        newer = await third.checkpoint("checkpoints/third")
        await third.fenced.delete_object("checkpoints/second")
        assert await third.fenced.delete_segments(owner.claim, below_segment=2**31) > 0
        fourth = await serving(fresh())
        assert fourth.state == owner.state
        assert fourth.lineage.checkpoint == newer
        assert [s.epoch for s in fourth.lineage.history] == [3]

    run(main())


def test_a_follower_keeps_its_state_inside_the_lineage_and_reloads_outside(fresh) -> None:
    async def main() -> None:
        owner = await serving(fresh())
        followed: list[tuple[Position, list[bytes]]] = []
        for index in range(20):
            await owner.change(b"a%d" % index)
            followed.append((owner.position, list(owner.state)))
            if index == 9:
                await owner.checkpoint("checkpoints/c")
        for position, state in followed:
            successor = await recovered(await claimed(fresh()), after=position, kept=state)
            assert successor.state == owner.state
        recovery = StoreRecovery(fresh(), CODEC, "volume")
        lineage = await recovery.derive_lineage(await_claim := a_claim(22))
        assert await_claim.epoch == 22
        for outside in (Position(1, 1000), Position(7, 3)):
            replay = await recovery.replay(lineage, after=outside)
            assert replay.image == b"|".join(owner.state[:10])
            assert replay.changesets == owner.state[10:]
        inside = await recovery.replay(lineage, after=owner.position)
        assert (inside.image, list(inside.changesets)) == (None, [])
        assert inside.position == owner.position

    run(main())


def test_a_follower_behind_what_was_deleted_starts_at_the_checkpoint(fresh) -> None:
    """It was frozen while the owner named a checkpoint and deleted what that covers; then the owner
    died. All is there that anybody needs (simulator, seed 188394 with the plan of 88109)."""

    async def main() -> None:
        owner = await serving(fresh())
        for index in range(10):
            await owner.change(b"a%d" % index * 20)
        behind = Known(owner.position, None)
        for index in range(30):
            await owner.change(b"b%d" % index * 20)
        reference = await owner.checkpoint("checkpoints/c")
        for index in range(3):
            await owner.change(b"c%d" % index)
        numbers = await owner.fenced.list_objects(LOG_1)
        below = len(numbers) - 4
        assert await owner.fenced.delete_segments(owner.claim, below_segment=below, keep_first=True)
        claim = a_claim(2)
        assert await owner.fenced.try_claim(claim) is None
        recovery = StoreRecovery(fresh(), CODEC, "volume")
        lineage = await recovery.derive_lineage(claim, known=behind)
        assert lineage.checkpoint == reference
        replay = await recovery.replay(lineage, after=behind.position)
        assert replay.image == b"|".join(owner.state[:40])
        assert list(replay.changesets) == owner.state[40:]
        kept = await recovery.replay(lineage, after=reference.position)
        assert (kept.image, list(kept.changesets)) == (None, owner.state[40:])

    run(main())


def test_a_follower_that_knows_most_of_the_log_derives_the_same_lineage(fresh) -> None:
    async def main() -> None:
        owner = await serving(fresh())
        named: CheckpointRef | None = None
        seen: list[tuple[Known, list[bytes]]] = []
        for index in range(40):
            await owner.change(b"a%d" % index * 10)
            if index in (7, 30):
                named = await owner.checkpoint(f"checkpoints/{index}")
            seen.append((Known(owner.position, named), list(owner.state)))
        claim = a_claim(2)
        assert await owner.fenced.try_claim(claim) is None
        whole = await StoreRecovery(fresh(), CODEC, "volume").derive_lineage(claim)
        for known, state in seen:
            recovery = StoreRecovery(fresh(), CODEC, "volume")
            assert await recovery.derive_lineage(claim, known=known) == whole
            replay = await recovery.replay(whole, after=known.position)
            if replay.image is None:
                assert state + list(replay.changesets) == owner.state
            else:
                assert known.position.sequence < named.position.sequence
        other = Known(Position(9, 4), None)
        recovery = StoreRecovery(fresh(), CODEC, "volume")
        assert await recovery.derive_lineage(claim, known=other) == whole
        # What was read for a follower that is ahead does not serve one that is behind.
        assert await recovery.derive_lineage(claim, known=seen[-1][0]) == whole
        replay = await recovery.replay(whole, after=None)
        assert replay.image == b"|".join(owner.state[:31])
        assert list(replay.changesets) == owner.state[31:]

    run(main())


def test_a_damaged_or_missing_checkpoint_is_told(fresh) -> None:
    async def main() -> None:
        owner = await serving(fresh())
        await owner.change(b"abc")
        await owner.checkpoint("checkpoints/c")
        fenced = fresh()
        recovery = StoreRecovery(fenced, CODEC, "volume")
        lineage = await recovery.derive_lineage(a_claim(2))
        await fenced.delete_object("checkpoints/c")
        with pytest.raises(Corrupt, match="checkpoints/c is missing"):
            await recovery.replay(lineage, after=None)
        await fenced.put_object("checkpoints/c", b"abd")
        with pytest.raises(Corrupt, match="checkpoints/c is damaged"):
            await recovery.replay(lineage, after=None)

    run(main())


def test_segments_deleted_without_a_checkpoint_above_them_are_told(fresh) -> None:
    async def main() -> None:
        owner = await serving(fresh())
        for index in range(40):
            await owner.change(b"a%d" % index * 20)
        assert await owner.fenced.delete_segments(owner.claim, below_segment=4) == 3
        with pytest.raises(Corrupt, match="no checkpoint covers"):
            await serving(fresh())

    run(main())


def test_a_log_that_served_is_never_taken_for_one_that_did_not() -> None:
    async def main() -> None:
        disk = ModelDisk()
        options = LogOptions(first_bytes=64 * 1024, segment_bytes=64 * 1024)
        owner = await serving(process(disk, options).fenced)
        await owner.change(b"acked")
        folder = disk._lookup(f"/model-root/{LOG_1}")
        file = folder.entries["00000000"]
        whole = bytes(file.data)
        for at in range(0, 360):
            file.data[at] ^= 0x10
            file.durable = bytes(file.data)
            try:
                lineage = await StoreRecovery(
                    process(disk, options).fenced, CODEC, "volume"
                ).derive_lineage(a_claim(2))
            except Corrupt:
                pass
            else:
                assert [s.first_sequence for s in lineage.history] == [1], f"offset {at}"
            file.data, file.durable = bytearray(whole), whole

    run(main())


def test_a_log_that_does_not_begin_with_a_lineage_is_refused(fresh) -> None:
    async def main() -> None:
        owner = await recovered(await claimed(fresh()))
        await owner.write(Changeset(1, b"no lineage before it"))
        with pytest.raises(FormatRefused):
            await serving(fresh())

    run(main())


def test_a_live_log_is_read_from_its_newest_checkpoint(fresh) -> None:
    async def main() -> None:
        owner = await serving(fresh())
        for index in range(30):
            await owner.change(b"a%d" % index * 10)
        reader = StoreRecovery(fresh(), CODEC, "volume")
        lineage, entries = await reader.read_live(owner.claim, through_sequence=11)
        assert lineage == owner.lineage
        assert [sequence for sequence, _ in entries] == list(range(2, 12))
        reference = await owner.checkpoint("checkpoints/c")
        await owner.write(Handover(b"t" * 16, owner.position.sequence))
        await owner.change(b"after")
        assert await owner.fenced.delete_segments(owner.claim, below_segment=2, keep_first=True)
        last = owner.position.sequence
        lineage, entries = await reader.read_live(owner.claim, through_sequence=last)
        assert lineage.checkpoint == reference
        await owner.fenced.delete_object("checkpoints/c")
        replay = await reader.replay(lineage, after=None)
        changes = [entry.changes for _, entry in entries if isinstance(entry, Changeset)]
        assert replay.image == b"|".join(owner.state[:-1])
        assert [*replay.changesets, *changes] == [b"after"]
        assert replay.position == reference.position
        with pytest.raises(Corrupt, match="cannot be followed"):
            await reader.read_live(owner.claim, through_sequence=last + 5)

    run(main())


@pytest.mark.parametrize("seed", range(40))
def test_random_lives_agree_on_one_history(seed: int) -> None:
    """Owners that die at a random system call, with and without power loss, zombies that write on,
    and checkpoints: every owner that served stands on all that was acknowledged before its
    claim."""

    async def main() -> None:
        rng = random.Random(seed)
        disk = ModelDisk()
        acked: list[bytes] = []
        zombies: list[Owner] = []
        options = LogOptions(first_bytes=1024, segment_bytes=2048)
        for life in range(12):
            node = process(disk, options)
            node.calls.kill_at = rng.randrange(20, 260)
            node.calls.kill_after = rng.random() < 0.5
            try:
                owner = await claimed(node.fenced)
                await recovered(owner)
                await owner.write(owner.lineage)
                assert owner.state[: len(acked)] == acked
                acked = list(owner.state)  # What was adopted without an answer stays from here on.
                for index in range(rng.randrange(30)):
                    await owner.change(b"%d.%d" % (life, index) * rng.randrange(1, 30))
                    acked = list(owner.state)
                    if rng.random() < 0.1:
                        await owner.checkpoint(f"checkpoints/{life}-{index}")
                zombies.append(owner)
            except (Killed, SofsError):
                pass
            if rng.random() < 0.4:
                disk.power_loss(rng.randrange(100))
                zombies.clear()
            if zombies and rng.random() < 0.3:
                zombie = rng.choice(zombies)
                if zombie.log.ended is None and life > zombies.index(zombie):
                    zombie.log.append(
                        RecordKind.ENTRY, [CODEC.encode(Changeset(1, b"zombie %d" % life))]
                    )
        final = await serving(process(disk, options).fenced)
        assert final.state[: len(acked)] == acked

    run(main())


# Entries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        Changeset(3, b"\0\xffchanges"),
        Changeset(0, b""),
        Lineage(None, ()),
        Lineage(
            CheckpointRef("c/1", Position(2, 9), 2**64 - 1, 12, 1),
            (SealedEpoch(2, 5, 9, b"n" * 16), SealedEpoch(3, 10, 10, b"m" * 16)),
        ),
        Handover(b"t" * 16, 77),
        CheckpointEntry(CheckpointRef("c/2", Position(0, 0), 0, 0, 0)),
        Boundary(Position(4, 5), ("a", "b")),
        Boundary(Position(0, 0), ()),
    ],
)
def test_entries_read_back_as_written(entry: Entry) -> None:
    data = CODEC.encode(entry)
    assert CODEC.decode(data) == entry
    assert CODEC.decode(memoryview(data)) == entry


@pytest.mark.parametrize("data", [b"", b"\x7a\x01x", b"\x0a\xff\x01", b"\x22\x00"])
def test_an_unknown_entry_is_refused(data: bytes) -> None:
    with pytest.raises(FormatRefused):
        CODEC.decode(data)
