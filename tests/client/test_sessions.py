"""How a client becomes known, takes its handles along, and learns that its node is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from client_rig import Rig, rig_of, until
from mini_cluster import DROP, LOSE

from sofs.client import limits, witness
from sofs.client.session import ClientCore
from sofs.core import messages as m
from sofs.errors import (
    Abandoned,
    DiskFull,
    Expired,
    HandleLost,
    LimitExceeded,
    MessageTooLarge,
    ObjectNameCollision,
    ObjectNameNotFound,
    OutcomeUnknown,
    SofsError,
    Unavailable,
)
from sofs.storage import SystemClock


def requests(rig: Rig) -> list[Any]:
    """What all nodes were asked to change, with its caller."""
    return [b for node in rig.nodes for b in node.seen if getattr(b, "caller", None) is not None]


async def test_first_operation_of_a_client_is_an_empty_reclaim_with_op_id_one() -> None:
    async with rig_of(1) as rig, rig.connect() as share:
        await asyncio.gather(share.mkdir("/a"), share.mkdir("/b"), share.write_file("/c", b"x"))
        first, *others = requests(rig)
        assert isinstance(first, m.Reclaim)
        assert (first.handles, first.caller.op_id) == ([], 1)
        assert sorted(b.caller.op_id for b in others) == [2, 3, 4]


@pytest.mark.parametrize("verdict", [DROP, LOSE])
async def test_registration_is_sent_with_the_same_number_until_it_is_answered(
    verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECLAIM_MS_MAX", 50)
    async with rig_of() as rig:
        verdicts: list[str | SofsError] = [LimitExceeded("full", retry_after_ms=1), verdict]

        def script(body: m.Message) -> str | SofsError | None:
            return verdicts.pop() if isinstance(body, m.Reclaim) and verdicts else None

        for node in rig.nodes:
            node.script = script
        async with rig.connect() as share:
            await share.mkdir("/d")
        asked = [b for b in requests(rig) if isinstance(b, m.Reclaim)]
        assert [b.caller.op_id for b in asked] == [1, 1, 1]


async def test_handles_are_reclaimed_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECLAIM_HANDLES_MAX", 4)
    async with rig_of() as rig, rig.connect() as share:
        files = [await share.open(f"/{i}", "w+b") for i in range(10)]
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        first.kill()
        assert await asyncio.gather(*(file.pwrite(b"x", 0) for file in files)) == [1] * 10
        asked = [len(b.handles) for b in second.seen if isinstance(b, m.Reclaim)]
        assert asked == [4, 4, 2]
        assert share.failovers()[0].handles_lost == 0


async def test_batch_that_is_too_large_is_halved_and_no_handle_is_lost() -> None:
    async with rig_of() as rig, rig.connect() as share:
        files = [await share.open(f"/{i}", "w+b") for i in range(10)]
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        second.script = lambda body: (
            MessageTooLarge("grants")
            if isinstance(body, m.Reclaim) and len(body.handles) > 2
            else None
        )
        first.kill()
        assert await asyncio.gather(*(file.pwrite(b"x", 0) for file in files)) == [1] * 10


@pytest.mark.parametrize("error", [DiskFull("later"), LimitExceeded("later"), Unavailable("later")])
async def test_reclaim_that_is_refused_for_now_loses_no_handle(error: SofsError) -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        refusals = [error, error]
        second.script = lambda body: (
            refusals.pop() if isinstance(body, m.Reclaim) and refusals else None
        )
        first.kill()
        assert await file.pwrite(b"x", 0) == 1
        assert not refusals


async def test_handles_of_a_forgotten_client_and_those_that_are_gone_are_lost() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        kept, gone = await share.open("/kept", "w+b"), await share.open("/gone", "w+b")
        rig.volume.drop_handle(rig.volume.handles[gone.remote.handle])
        rig.node_of(share).kill()
        assert await kept.pwrite(b"x", 0) == 1
        with pytest.raises(HandleLost):
            await gone.pwrite(b"x", 0)
        left = rig.node_of(share)
        for node in rig.nodes:
            node.script = lambda body: Expired("who?") if isinstance(body, m.Reclaim) else None
        left.kill()
        with pytest.raises((Expired, HandleLost)):
            await kept.pwrite(b"x", 0)


async def test_refusal_of_a_mutation_that_may_be_on_its_way_is_made_true_first() -> None:
    async with rig_of() as rig, rig.connect() as share:
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        first.script = lambda body: DROP if isinstance(body, m.Unlink) else None
        pending = asyncio.create_task(share.unlink("/x"))
        await until(lambda: any(isinstance(b, m.Unlink) for b in first.seen))
        [stuck] = [b for b in first.seen if isinstance(b, m.Unlink)]
        first.kill()
        with pytest.raises(ObjectNameNotFound) as caught:
            await pending
        assert caught.value.definite
        assert [b.target_op for b in second.seen if isinstance(b, m.Abandon)] == [
            stuck.caller.op_id
        ]
        # The copy that was stuck finds the tombstone, even where it could succeed now.
        rig.volume.create("/x")
        late = rig.volume.results[(share.client_id, stuck.caller.op_id)]
        assert isinstance(late, Abandoned)


async def test_refusal_of_an_operation_sent_once_costs_no_settling() -> None:
    async with rig_of() as rig, rig.connect() as share:
        with pytest.raises(ObjectNameNotFound):
            await share.unlink("/x")
        assert not [b for b in requests(rig) if isinstance(b, m.Abandon)]


@pytest.mark.parametrize("times", [1, 2])
async def test_refused_copy_of_what_was_executed_gets_the_stored_answer(times: int) -> None:
    async with rig_of() as rig, rig.connect() as share:
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        first.script = lambda body: LOSE if isinstance(body, m.Mkdir) else None
        refusals = [ObjectNameCollision("/d")] * times
        second.script = lambda body: (
            refusals.pop() if isinstance(body, m.Mkdir) and refusals else None
        )
        pending = asyncio.create_task(share.mkdir("/d"))
        await until(lambda: rig.volume.mutations)
        first.kill()
        if times == 1:
            assert (await pending).is_directory
        else:
            with pytest.raises(OutcomeUnknown, match="took effect") as caught:
                await pending
            assert (await share.settle(caught.value.token)).executed
        assert [name for name, _ in rig.volume.mutations].count("Mkdir") == 1


async def test_settling_of_a_refusal_outlives_the_node_that_refused() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        first = rig.node_of(share)

        def script(body: m.Message) -> str | None:
            return DROP if isinstance(body, m.Abandon) else None

        for node in rig.nodes:
            node.script = script
        first.script = lambda body: DROP if isinstance(body, m.Unlink) else None
        pending = asyncio.create_task(share.unlink("/x"))
        await until(lambda: any(isinstance(b, m.Unlink) for b in first.seen))
        first.kill()
        await until(lambda: any(isinstance(b, m.Abandon) for b in requests(rig)))
        second = rig.node_of(share)
        for node in rig.nodes:
            node.script = lambda body: None
        second.kill()
        with pytest.raises(ObjectNameNotFound):
            await pending


async def test_idle_client_with_open_handles_leaves_a_node_that_fell_silent() -> None:
    async with rig_of() as rig, rig.connect(warm=False) as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        rig.hub.freeze(node.address)
        await until(lambda: share.failovers())
        assert rig.volume.handles[file.remote.handle].node == rig.other_than(node).name
        assert share.failovers()[0].reason == "silence"


async def test_witness_that_is_silent_does_not_stop_the_selection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECT_MS_MAX", 300)
    async with rig_of(3) as rig, rig.connect() as plain:
        using = rig.node_of(plain)
        mute, other = (n for n in rig.nodes if n is not using)
        mute.mute_witness = True
        core = plain.core
        client = witness.WitnessClient(
            core._dialer, core.clock, core.client_id, "v1", core.move, core._tasks
        )
        using.peers = [mute, other]
        session = core._session
        assert session is not None
        assert await client._register(session.channel, session.address, session.node)
        assert client.address == other.address
        await client.close()


async def test_witness_that_freezes_after_the_registration_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECT_MS_MAX", 300)
    monkeypatch.setattr(limits, "WARM_CHECK_MS", 50)
    monkeypatch.setattr(witness, "WITNESS_RETRY_MS", 50)
    async with rig_of(3) as rig, rig.connect(witness=True) as share:
        await until(lambda: share.facts().witness_address)
        first = share.facts().witness_address
        rig.hub.freeze(first)
        await until(lambda: share.facts().witness_address not in ("", first))


class Jumping(SystemClock):
    """A clock of which the test lets time pass."""

    jumped_ms = 0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.jumped_ms


@pytest.mark.parametrize(("lasts_ms", "pauses"), [(10_000, 0), (0, 3)])
async def test_only_brief_sessions_in_which_nothing_was_answered_slow_a_client_down(
    monkeypatch: pytest.MonkeyPatch, lasts_ms: int, pauses: int
) -> None:
    paused: list[int] = []
    monkeypatch.setattr(ClientCore, "_next_pause", staticmethod(lambda ms: paused.append(ms) or 1))
    clock = Jumping()
    async with rig_of(3) as rig, rig.connect(clock=clock) as share:
        for sessions in (1, 2, 3):
            await until(lambda n=sessions: share.facts().sessions == n and share.facts().address)
            clock.jumped_ms += lasts_ms
            share.leave()
        await until(lambda: share.facts().sessions == 4)
        assert len(paused) == pauses
