"""Planned moves of a client, over an in-process network, with every answer under control."""

from __future__ import annotations

import asyncio

import pytest
from client_rig import Rig, rig_of, until
from mini_cluster import DROP, LOSE, MiniNode

from sofs.client import limits, witness
from sofs.client.aio import AsyncFile, AsyncShare
from sofs.core import messages as m
from sofs.errors import SofsError, Unavailable

MOVE = 2


def elsewhere(rig: Rig, share: AsyncShare) -> MiniNode:
    """A node that the client neither uses nor has a warm stream to."""
    facts = share.facts()
    return next(n for n in rig.nodes if n.address not in (facts.address, facts.warm_address))


async def writes(file: AsyncFile, stop: asyncio.Event) -> int:
    """Write one block after the other; an error is the test's."""
    done = 0
    while not stop.is_set():
        await file.pwrite(b"%04d" % done, 4 * done)
        done += 1
    return done


async def test_a_move_under_writes_loses_and_repeats_none_and_nobody_sees_an_error() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        stop = asyncio.Event()
        writing = asyncio.ensure_future(writes(file, stop))
        for _ in range(6):
            target = elsewhere(rig, share)
            await share.move(target.address)
            assert share.facts().address == target.address
            before = len(rig.volume.executed)
            await until(lambda before=before: len(rig.volume.executed) > before + 3)
        stop.set()
        done = await writing
        assert rig.volume.files["/a"].data == b"".join(b"%04d" % i for i in range(done))
        assert len(rig.volume.executed) == len(set(rig.volume.executed)) == done
        moves = [record for record in share.failovers() if record.planned]
        assert len(moves) == 6
        assert all(r.warm and r.attempts == 1 and not r.handles_lost for r in moves)


async def test_a_move_lets_the_old_node_answer_what_it_has() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        old = rig.node_of(share)
        old.script = lambda body: DROP if isinstance(body, m.Reclaim) else None
        await file.pwrite(b"x", 0)
        await share.move(elsewhere(rig, share).address)
        assert share.failovers()[0].replayed == 0


async def test_what_the_old_node_still_owes_is_sent_again_once() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b", deadline_ms=60_000)
        old = rig.node_of(share)
        old.script = lambda body: LOSE if isinstance(body, m.Write) else None
        writing = asyncio.ensure_future(file.pwrite(b"once", 0))
        await until(lambda: rig.volume.executed)
        await share.move(elsewhere(rig, share).address)
        assert await writing == 4
        assert len(rig.volume.executed) == 1
        assert share.failovers()[0].replayed == 1


async def test_a_destination_that_is_not_there_leaves_the_client_where_it_is() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        target = elsewhere(rig, share)
        at = share.facts()
        target.kill()
        with pytest.raises(Unavailable):
            await share.move(target.address)
        assert await file.pwrite(b"x", 0) == 1
        assert (share.facts().address, share.facts().sessions) == (at.address, 1)
        assert share.core.mover.failed == 1


async def test_a_destination_without_the_authority_leaves_the_client_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MOVE_PROOF_MS_MAX", 50)
    async with rig_of(3) as rig, rig.connect() as share:
        await share.open("/a", "w+b")
        target = elsewhere(rig, share)
        target.script = lambda body: DROP if isinstance(body, m.Reclaim) else None
        with pytest.raises(Unavailable):
            await share.move(target.address)
        assert share.facts().sessions == 1


async def test_a_destination_that_dies_in_the_middle_sends_the_client_back() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        first = rig.node_of(share)  # Which it would choose, left to itself.
        old, target = (node for node in rig.nodes if node is not first)
        await share.move(old.address)

        def die_at_the_reclaim(body: m.Message) -> SofsError | None:
            if isinstance(body, m.Reclaim) and body.handles:
                target.kill()
            return None

        target.script = die_at_the_reclaim
        with pytest.raises(Unavailable, match="did not take"):
            await share.move(target.address)
        assert rig.node_of(share) is old
        assert await file.pwrite(b"x", 0) == 1


async def test_the_old_node_may_die_while_it_is_drained() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        old, target = rig.node_of(share), elsewhere(rig, share)
        old.script = lambda body: DROP if isinstance(body, m.Write) else None
        writing = asyncio.ensure_future(file.pwrite(b"x", 0))
        await until(lambda: any(isinstance(body, m.Write) for body in old.seen))
        moving = asyncio.ensure_future(share.move(target.address))
        await until(lambda: share.core.flight._channel is None)
        old.kill()
        await moving
        assert await writing == 1
        assert rig.node_of(share) is target
        assert len(rig.volume.executed) == 1


async def test_two_moves_at_once_are_made_one_after_the_other() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        stop = asyncio.Event()
        writing = asyncio.ensure_future(writes(file, stop))
        one, two = (n for n in rig.nodes if n is not rig.node_of(share))
        await asyncio.gather(share.move(one.address), share.move(two.address))
        stop.set()
        await writing
        assert rig.node_of(share) is two
        assert share.facts().sessions == 3


async def test_a_move_to_the_node_in_use_changes_nothing() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        await share.move(share.facts().address)
        assert share.facts().sessions == 1
        assert not share.failovers()


async def test_a_cancelled_move_leaves_a_client_that_goes_on() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        old = rig.node_of(share)
        old.script = lambda body: DROP if isinstance(body, m.Write) else None
        writing = asyncio.ensure_future(file.pwrite(b"x", 0))
        await until(lambda: any(isinstance(body, m.Write) for body in old.seen))
        moving = asyncio.ensure_future(share.move(elsewhere(rig, share).address))
        await until(lambda: share.core.flight._channel is None)
        moving.cancel()
        assert await writing == 1


# By the witness


async def test_swn_client_move_is_made_and_told_and_a_new_witness_is_chosen() -> None:
    async with rig_of(3) as rig, rig.connect(witness=True) as share:
        file = await share.open("/a", "w+b")
        await file.pwrite(b"x", 0)
        old = rig.node_of(share)
        await until(lambda: any(n._notify for n in rig.nodes))
        teller = next(n for n in rig.nodes if n._notify)
        teller.notify(m.Notification(MOVE, 1, teller.name, teller.address))
        await until(lambda: teller.outcomes)
        assert teller.outcomes == [m.MoveOutcome(b"context", teller.address, "")]
        assert rig.node_of(share) is teller
        assert await file.pread(1, 0) == b"x"
        await until(lambda: share.facts().witness_address)
        assert share.facts().witness_address != teller.address
        assert rig.volume.handles[file.remote.handle].node == teller.name != old.name


async def test_a_move_that_fails_is_told_and_the_same_registration_listens_on() -> None:
    async with rig_of(3) as rig, rig.connect(witness=True) as share:
        await until(lambda: any(n._notify for n in rig.nodes))
        teller = next(n for n in rig.nodes if n._notify)
        teller.notify(m.Notification(MOVE, 1, "nowhere", "10.0.0.9:7000"))
        await until(lambda: teller.outcomes and teller._notify)
        assert "10.0.0.9:7000" in teller.outcomes[0].text
        assert share.facts().sessions == 1
        assert sum(isinstance(body, m.RegisterWitness) for body in teller.seen) == 1
        teller.notify(m.Notification(MOVE, 1, "here", share.facts().address))
        await until(lambda: len(teller.outcomes) == 2)
        assert teller.outcomes[1].text == ""
        assert share.facts().sessions == 1
        [listened] = [c for c in teller.channels if c.name.endswith("-witness")]
        share.leave()
        await until(lambda: not listened.alive)


async def test_swn_reregister_after_a_failover_the_witness_is_not_on_the_node_in_use() -> None:
    async with rig_of(3) as rig, rig.connect(witness=True) as share:
        await until(lambda: share.facts().witness_address)
        rig.node_of(share).kill()
        await share.exists("/a")
        await until(lambda: share.facts().witness_address)
        facts = share.facts()
        assert facts.witness_address != facts.address


class Minutes:
    """A clock of which the long sleeps end when the test says so."""

    def __init__(self, real: object) -> None:
        self._real = real
        self.asked: list[float] = []
        self.turn = asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    async def sleep_ms(self, ms: float) -> None:
        if ms < witness.WITNESS_RETRY_MS:
            await asyncio.sleep(ms / 1000)
            return
        self.asked.append(ms)
        await self.turn.wait()
        self.turn.clear()


async def test_swn_reregister_without_a_candidate_it_is_tried_again_each_minute() -> None:
    async with rig_of(2) as rig, rig.connect() as share:
        node, other = rig.node_of(share), rig.other_than(rig.node_of(share))
        core = share.core
        node.peers, clock = [], Minutes(core.clock)  # It names nobody but itself.
        client = witness.WitnessClient(
            core._dialer,
            clock,
            core.client_id,
            "v1",
            core.move,
            core._tasks,  # type: ignore
        )
        session = core._session
        assert session is not None
        heeding = asyncio.ensure_future(client.heed(session.channel, session.address, session.node))
        for tries in (1, 2, 3):
            await until(lambda tries=tries: len(clock.asked) == tries)
            assert clock.asked[-1] == 60_000
            if tries == 3:
                node.peers = [other]
            clock.turn.set()
        await other.registered.wait()
        heeding.cancel()
        await asyncio.gather(heeding, return_exceptions=True)


async def test_a_list_that_is_long_in_coming_is_asked_for_once_and_used_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECT_MS_MAX", 50)
    async with rig_of(2) as rig, rig.connect() as share:
        node, other = rig.node_of(share), rig.other_than(rig.node_of(share))
        core = share.core
        gate, asked = asyncio.Event(), []
        listed = node._interfaces

        async def late() -> m.Message:
            asked.append(1)
            await gate.wait()
            return listed()

        on_file = node._on_file

        def hold(channel: object, envelope: object) -> None:
            if isinstance(envelope.body, m.GetInterfaceList):  # type: ignore[attr-defined]
                channel.serve(envelope.call, late())  # type: ignore[attr-defined]
            else:
                on_file(channel, envelope)  # type: ignore[arg-type]

        session = core._session
        assert session is not None
        node.channels[0]._handler = hold
        clock = Minutes(core.clock)
        client = witness.WitnessClient(
            core._dialer,
            clock,
            core.client_id,
            "v1",
            core.move,
            core._tasks,  # type: ignore
        )
        heeding = asyncio.ensure_future(client.heed(session.channel, session.address, session.node))
        for tries in (1, 2):
            await until(lambda tries=tries: len(clock.asked) == tries)
            if tries == 1:
                clock.turn.set()
        assert len(asked) == 1
        gate.set()
        await other.registered.wait()
        heeding.cancel()
        await asyncio.gather(heeding, return_exceptions=True)
