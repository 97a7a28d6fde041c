"""Interleavings that once made the authority lose, tell, hang or end what it must not.

Each test holds one door open (an event in a store or log call, a message that is kept back) until
the other side did its step, so that the order is the same in every run.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import warnings
from collections.abc import Awaitable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from authority_cluster import PeerNode, World, world

import sofs
from sofs.core import messages as m
from sofs.core.entries import CheckpointEntry, Entry, Handover
from sofs.errors import (
    DiskFull,
    Expired,
    InvalidParameter,
    ObjectNameCollision,
    ObjectNameNotFound,
    SofsError,
    Unavailable,
)
from sofs.ids import Epoch, Incarnation, Position
from sofs.ports.log import Claim
from sofs.ports.stream import Envelope
from sofs.rpc import frames
from sofs.rpc.options import METHODS
from sofs.services.authority import follower as follower_module
from sofs.services.authority import idle
from sofs.services.authority.follower import Follower, checkpoint_info, take_checkpoint
from sofs.services.authority.group_log import GROUP_ROOM_BYTES, RESERVE_BYTES
from sofs.services.authority.service_active import ActiveAuthority
from sofs.services.authority.turns import Turns
from sofs.services.channel import Channel
from sofs.sim import local_transport
from sofs.sim.local_transport import LocalStream

T = TypeVar("T")
CLIENT, OTHER = b"c" * 16, b"d" * 16
OVERWRITE = 4  # The disposition of an open that empties an existing file.
NEVER_MS = 20_000  # A limit that passes in no test: who is slow here is not to be suspected.
HANG_S = 10  # No step here takes a tenth of it: what does not end by then hangs.


def caller(op_id: int, client: bytes = CLIENT) -> m.Caller:
    return m.Caller(client=client, principal="p", op_id=op_id)


def open_request(op_id: int, path: str, client: bytes = CLIENT, share: int = 7) -> m.Open:
    return m.Open(
        caller=caller(op_id, client), path=path, access=3, share=share, disposition=3,
        create_guid=client[:8] + op_id.to_bytes(8, "big"),
    )  # fmt: skip


async def ends(work: Awaitable[T]) -> T:
    """Await what once hung."""
    return await asyncio.wait_for(work, HANG_S)


async def alone(w: World) -> tuple[ActiveAuthority, PeerNode]:
    """A coordinator without a follower, and one node."""
    await w.start("coordinator")
    active = (await w.until_active("coordinator")).active
    assert active is not None
    return active, await PeerNode(w, "n1").join()


async def followed(w: World) -> tuple[ActiveAuthority, Follower, PeerNode]:
    """A coordinator, a resume-key in step with it, and one node."""
    w.settings["silence_ms"] = NEVER_MS
    active, node = await alone(w)
    return active, await in_step(w, "resume-key"), node


async def in_step(w: World, part: str) -> Follower:
    await w.start(part)
    await w.until_in_step(part)
    follower = w.parts[part]._follower
    assert follower is not None
    return follower


async def caught_up(w: World, active: ActiveAuthority, follower: Follower) -> None:
    last = active.feed.last_sequence
    await w.until("the follower has all", lambda: follower.state.position.sequence == last)


async def opened(node: PeerNode, request: m.Open) -> m.OpenReply:
    reply = await node.call(request)
    assert isinstance(reply, m.OpenReply)
    return reply


async def names(node: PeerNode) -> list[str]:
    reply = await ends(node.call(m.ReadDir(path="/", entries_max=1000, caller=caller(0))))
    assert isinstance(reply, m.ReadDirReply)
    return [entry.name for entry in reply.entries]


def ask(node: PeerNode, request: m.Message) -> Coroutine[Any, Any, tuple[m.Message, Any]]:
    """One attempt over the node's stream as it is: no reconnecting."""
    assert node.channel is not None
    return node.channel.call(request)


# Claims and durability: what an answer tells


async def superseded(w: World) -> None:
    """Somebody wins the next epoch, and the owner has not noticed yet."""
    owner = await w.fenced.highest_claim("volume")
    assert owner is not None
    claim = Claim(
        "volume", Epoch(owner.epoch + 1), Incarnation(b"z" * 16), b"n" * 16, "nowhere:1"
    )  # fmt: skip
    assert await w.fenced.try_claim(claim) is None


@pytest.mark.parametrize(
    "question",
    [
        m.Stat(path="/a", caller=caller(0)),
        m.ReadDir(path="/not-here", caller=caller(0)),
        m.Mkdir(caller(2), "/a"),
    ],
    ids=["stat", "a refusal to read", "a refusal to change"],
)
async def test_a_superseded_owner_answers_neither_stat_nor_refusals(
    tmp_path: Path, question: m.Message
) -> None:
    """Claim of a successor, then a question that the old owner could answer from memory."""
    async with world(tmp_path) as w:
        _, node = await alone(w)
        await node.call(m.Mkdir(caller(1), "/a"))
        await superseded(w)
        with pytest.raises(Unavailable):
            await ends(ask(node, question))
        await node.die()


@pytest.mark.parametrize(
    ("change", "question", "refusal"),
    [
        (m.Mkdir(caller(2), "/b"), m.Mkdir(caller(3), "/b"), ObjectNameCollision),
        (m.Rmdir(caller(2), "/a"), m.Stat(path="/a", caller=caller(0)), ObjectNameNotFound),
        (m.Rmdir(caller(2), "/a"), m.ReadDir(path="/a", caller=caller(0)), ObjectNameNotFound),
    ],
    ids=["mkdir", "stat", "readdir"],
)
async def test_a_refusal_waits_until_what_it_saw_is_durable(
    tmp_path: Path, change: m.Message, question: m.Message, refusal: type[SofsError]
) -> None:
    """The change is applied, its fdatasync under way, and the question is refused because of it."""
    async with world(tmp_path) as w:
        active, node = await alone(w)
        await node.call(m.Mkdir(caller(1), "/a"))
        gate, syncing, waiting = asyncio.Event(), asyncio.Event(), asyncio.Event()
        real_durable, real_settled = active._writer.durable, active.group.settled

        async def durable(sequence: int) -> None:
            syncing.set()
            await gate.wait()
            await real_durable(sequence)

        async def settled() -> None:
            task = asyncio.current_task()
            if task is not None and "serve" in task.get_name():  # Not one of the owner's own.
                waiting.set()
            await real_settled()

        active._writer.durable = durable  # type: ignore[method-assign]
        first = asyncio.create_task(ask(node, change))
        await ends(syncing.wait())
        active.group.settled = settled  # type: ignore[method-assign]
        second = asyncio.create_task(ask(node, question))
        await w.until("the second was judged", lambda: second.done() or waiting.is_set())
        assert not second.done(), "told of a change that is not durable"
        gate.set()
        with pytest.raises(refusal):
            await ends(second)
        await ends(first)
        await node.die()


async def test_a_flush_that_meets_a_full_disk_ends_the_life_and_the_next_one_serves(
    tmp_path: Path,
) -> None:
    """The mutation found room; its changeset, once taken out of the database, does not."""
    async with world(tmp_path) as w:
        active, node = await alone(w)
        real = active._writer.room

        async def room(n_bytes: int) -> None:
            if n_bytes != GROUP_ROOM_BYTES + RESERVE_BYTES:
                raise DiskFull("full")
            await real(n_bytes)

        active._writer.room = room  # type: ignore[method-assign]
        await ends(node.call(m.Mkdir(caller(1), "/a")))
        assert isinstance(active.ended.result(), DiskFull)
        assert await names(node) == ["a"]
        await node.die()


async def test_operation_1_of_a_client_that_ended_is_not_executed_again(tmp_path: Path) -> None:
    """mkdir /a, goodbye, rmdir /a by another; then a late copy of the mkdir arrives."""
    async with world(tmp_path) as w:
        _, node = await alone(w)
        await node.call(m.Mkdir(caller(1), "/a"))
        await node.call(m.EndClient(caller(0)))
        await node.call(m.Rmdir(caller(1, OTHER), "/a"))
        with pytest.raises(Expired):
            await ask(node, m.Mkdir(caller(1), "/a"))
        assert await names(node) == []
        await node.die()


# Following


async def test_an_entry_too_large_for_the_wire_reaches_the_follower_through_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changeset over MESSAGE_BYTES_MAX, then small ones; the follower takes over with all."""
    real = LocalStream.send

    async def send(stream: LocalStream, envelopes: Sequence[Envelope]) -> None:
        frames.encode(envelopes)  # As on gRPC: MessageTooLarge when it does not fit.
        await real(stream, envelopes)

    monkeypatch.setattr(LocalStream, "send", send)
    async with world(tmp_path) as w:
        active, follower, node = await followed(w)
        with active.group.transaction():
            active.state._run("INSERT INTO meta VALUES(?,?)", "large", b"x" * (5 << 20))
        await active.group.settled()
        await node.call(m.Mkdir(caller(1), "/later"))
        await caught_up(w, active, follower)
        await w.kill("coordinator")
        assert await names(node) == ["later"]
        successor = w.parts["resume-key"].active
        assert successor is not None
        [kept] = successor.state._all("SELECT length(value) FROM meta WHERE name='large'")
        assert kept[0] == 5 << 20
        await node.die()


async def test_a_follower_that_missed_an_entry_does_not_take_over_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pushed entry is lost on the way; the next one arrives."""
    real = LocalStream.send
    lost: list[int] = []

    async def send(stream: LocalStream, envelopes: Sequence[Envelope]) -> None:
        kept = []
        for envelope in envelopes:
            if isinstance(envelope.body, m.Entries) and not lost:
                lost.extend(entry.sequence for entry in envelope.body.entries)
            else:
                kept.append(envelope)
        await real(stream, kept)

    async with world(tmp_path) as w:
        active, follower, node = await followed(w)
        await node.call(m.Mkdir(caller(1), "/a"))
        await node.call(m.Mkdir(caller(1, OTHER), "/b"))
        await caught_up(w, active, follower)
        monkeypatch.setattr(LocalStream, "send", send)
        await node.call(m.SetInfo(caller(2), path="/a", modified_ns=1))
        await w.until("an entry was lost", lambda: lost)
        # It touches no row that the lost entry touched: it applies all the same.
        await node.call(m.SetInfo(caller(2, OTHER), path="/b", modified_ns=2))
        await caught_up(w, active, follower)
        await w.kill("coordinator")
        for path, modified_ns in (("/a", 1), ("/b", 2)):
            reply = await ends(node.call(m.Stat(path=path, caller=caller(0))))
            assert isinstance(reply, m.InfoReply)
            assert reply.info.modified_ns == modified_ns
        await node.die()


async def test_entries_that_wait_behind_a_checkpoint_are_not_applied_twice_after_a_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower writes a checkpoint, more entries queue than one batch takes, the stream is
    reset: the next stream sends again what was queued."""
    monkeypatch.setattr(follower_module, "APPLY_BATCH_MAX", 2)
    async with world(tmp_path) as w:
        w.settings["checkpoint_every_bytes"] = 2_000
        active, follower, node = await followed(w)
        begun, gate = asyncio.Event(), asyncio.Event()
        real = w.fenced.put_object

        async def put_object(key: str, data: bytes) -> None:
            if not begun.is_set():
                begun.set()
                await gate.wait()
            await real(key, data)

        w.fenced.put_object = put_object  # type: ignore[method-assign]
        op = 0
        while not begun.is_set():
            op += 1
            await node.call(m.Mkdir(caller(op), f"/d{op}"))
        for _ in range(5):
            op += 1
            await node.call(m.Mkdir(caller(op), f"/d{op}"))
        await w.until("entries wait", lambda: len(follower._queue) >= 5)
        assert follower._channel is not None
        follower._channel.end(Unavailable("reset"))
        last = active.feed.last_sequence
        await w.until(
            "the follower has all",
            lambda: w.crashes or follower.state.position.sequence >= last,
        )
        gate.set()
        assert not w.crashes
        await w.kill("coordinator")
        assert len(await names(node)) == op
        assert w.parts["resume-key"].takeovers[0].kept, "what it followed is a point of the history"
        await node.die()


async def test_an_older_checkpoint_is_not_named_after_a_newer_one(tmp_path: Path) -> None:
    """Two followers make checkpoints; that of the slower one arrives last. Recovery begins at the
    newest entry, and what lies below the newer checkpoint is deleted."""
    async with world(tmp_path) as w:
        active, node = await alone(w)
        taken = []
        for op in (1, 2):
            await node.call(m.Mkdir(caller(op), f"/d{op}"))
            position = Position(active.claim.epoch, active.feed.last_sequence)
            taken.append(await take_checkpoint(active.env, active._database, position))
        for reference in reversed(taken):
            await active._name_checkpoint(m.CheckpointTaken(checkpoint_info(reference)))
        await w.kill("coordinator")
        await w.start("coordinator")
        await w.until_active("coordinator")
        assert await names(node) == ["d1", "d2"]
        assert await w.fenced.list_objects("checkpoints") == [taken[1].key]
        await node.die()


async def test_a_checkpoint_that_is_named_twice_stays(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        active, node = await alone(w)
        await node.call(m.Mkdir(caller(1), "/d1"))
        position = Position(active.claim.epoch, active.feed.last_sequence)
        reference = await take_checkpoint(active.env, active._database, position)
        for _ in range(2):
            await active._name_checkpoint(m.CheckpointTaken(checkpoint_info(reference)))
        assert await w.fenced.list_objects("checkpoints") == [reference.key]
        await w.kill("coordinator")
        await w.start("coordinator")
        await w.until_active("coordinator")
        assert await names(node) == ["d1"]
        await node.die()


async def test_a_checkpoint_whose_naming_was_cut_off_is_named_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its follower's stream broke in between: the follower sends the same again, and is told that
    the checkpoint is named only when a record says so."""
    async with world(tmp_path) as w:
        active, node = await alone(w)
        await node.call(m.Mkdir(caller(1), "/d1"))
        position = Position(active.claim.epoch, active.feed.last_sequence)
        reference = await take_checkpoint(active.env, active._database, position)
        naming = m.CheckpointTaken(checkpoint_info(reference))

        async def cut_off(entry: object) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(active.group, "write", cut_off)
            with pytest.raises(asyncio.CancelledError):
                await active._name_checkpoint(naming)
        await active._name_checkpoint(naming)
        named = [
            decoded.checkpoint
            for entry in active.feed._backlog
            if isinstance(decoded := active.env.entries.decode(entry.payload), CheckpointEntry)
        ]
        assert named == [reference]
        await node.die()


async def test_what_an_owner_was_about_to_delete_when_it_died_is_deleted_by_the_next(
    tmp_path: Path,
) -> None:
    """An owner names a checkpoint and dies before it deleted the log of its predecessor, which no
    later lineage holds any more."""
    async with world(tmp_path) as w:
        active, node = await alone(w)
        await node.call(m.Mkdir(caller(1), "/d1"))
        first = tmp_path / "logs" / "volume" / f"{int(active.claim.epoch):020d}"
        await w.kill("coordinator")
        await w.start("coordinator")
        active = (await w.until_active("coordinator")).active
        assert active is not None
        position = Position(active.claim.epoch, active.feed.last_sequence)
        taken = await take_checkpoint(active.env, active._database, position)
        assert list(first.glob("*"))
        await active.group.write(CheckpointEntry(taken))
        await w.kill("coordinator")
        await w.start("coordinator")
        await w.until_active("coordinator")
        # Without another checkpoint: an idle volume names none.
        await w.until("the old log is gone", lambda: not list(first.glob("*")))
        assert not list(first.glob("*"))
        assert await names(node) == ["d1"]
        await node.die()


async def test_what_a_transaction_that_rolled_back_would_have_told_is_never_told(
    tmp_path: Path,
) -> None:
    """An event says what is durable; the rules that hand it over may still be refused."""
    async with world(tmp_path) as w:
        active, node = await alone(w)
        told: list[str] = []

        def refused() -> None:
            with active.group.transaction():
                active.group.when_durable(lambda: told.append("rolled back"))
                raise InvalidParameter("refused after all")

        with pytest.raises(InvalidParameter):
            refused()
        with active.group.transaction():
            active.group.when_durable(lambda: told.append("durable"))
        await active.group.settled()
        assert told == ["durable"]
        await node.die()


# Handing back


class HandingBack:
    """The resume-key acts; a coordinator in step asked for the volume. ``gate`` holds the handover
    before it is written."""

    def __init__(self, w: World) -> None:
        self.world = w
        self.gate = asyncio.Event()

    async def begin(self) -> PeerNode:
        w = self.world
        _, _, node = await followed(w)
        await w.kill("coordinator")
        active = (await w.until_active("resume-key")).active
        assert active is not None
        self.active = active
        self.follower = await in_step(w, "coordinator")
        await node.connect()
        await w.until("ONLINE", lambda: active.resume.online)
        at_the_door = asyncio.Event()
        real = active.group.write

        async def write(entry: Entry) -> Any:
            if isinstance(entry, Handover):
                at_the_door.set()
                await self.gate.wait()
            return await real(entry)

        active.group.write = write  # type: ignore[method-assign]
        assert self.follower._channel is not None
        request = m.HandBack(w.parts["coordinator"].incarnation)
        self.asking = asyncio.create_task(self.follower._channel.call(request))
        await ends(at_the_door.wait())
        return node


async def test_a_hand_back_whose_asker_went_away_does_not_stop_the_volume(tmp_path: Path) -> None:
    """The coordinator's stream is reset while the owner is between refusing work and the
    handover."""
    async with world(tmp_path) as w:
        hand_back = HandingBack(w)
        node = await hand_back.begin()
        [asker] = hand_back.active.feed.followers.values()
        assert hand_back.follower._channel is not None
        hand_back.follower._channel.end(Unavailable("reset"))
        await asyncio.gather(hand_back.asking, return_exceptions=True)
        await w.until("the owner saw the reset", lambda: not asker.channel.alive)
        hand_back.gate.set()
        await ends(node.call(m.Mkdir(caller(1), "/a")))
        assert hand_back.active.ended.done(), "the handover was written: this life is over"
        await node.die()


async def test_a_node_that_leaves_during_a_hand_back_takes_nobody_along(tmp_path: Path) -> None:
    """A node's call waits for the end of the hand-back; its stream is reset, and the call is
    cancelled."""
    async with world(tmp_path) as w:
        hand_back = HandingBack(w)
        node, other = await hand_back.begin(), await PeerNode(w, "n2").join()
        link = hand_back.active.nodes.link(node.incarnation)
        assert link is not None
        served = link.channel.messages_received
        call = asyncio.create_task(ask(node, m.Mkdir(caller(1), "/a")))
        await w.until("the call waits", lambda: link.channel.messages_received > served)
        await asyncio.sleep(0)  # The task that serves it has begun.
        assert node.channel is not None
        node.channel.end(Unavailable("the node is gone"))
        await asyncio.gather(call, return_exceptions=True)
        await w.until("the owner saw it", lambda: not link.channel.alive)
        await link.channel.close()
        assert not hand_back.active.ended.done()
        hand_back.gate.set()
        await ends(hand_back.asking)
        await w.until_active("coordinator")
        await ends(other.call(m.Mkdir(caller(1, OTHER), "/b")))
        assert await names(other) == ["b"]
        await w.until_in_step("resume-key")  # The part composed another life.
        await node.die()
        await other.die()


async def test_a_hand_back_that_cannot_be_written_leaves_the_volume_where_it_is(
    tmp_path: Path,
) -> None:
    """The disk is full when the handover is to be logged; a call waits for the outcome."""
    async with world(tmp_path) as w:
        hand_back = HandingBack(w)
        node = await hand_back.begin()
        writer = hand_back.active._writer
        real = writer.room

        async def room(n_bytes: int) -> None:
            writer.room = real  # type: ignore[method-assign]
            raise DiskFull("full")

        call = asyncio.create_task(ask(node, m.Mkdir(caller(1), "/a")))
        writer.room = room  # type: ignore[method-assign]
        hand_back.gate.set()
        reply, _ = await ends(hand_back.asking)
        assert reply == m.HandBackReply(False)
        await ends(call)
        assert w.parts["resume-key"].active is hand_back.active
        await node.die()


# Nodes that leave


async def test_a_slow_store_while_a_node_dies_delays_and_ends_nothing(tmp_path: Path) -> None:
    """The node is gone; our own store does not answer within the limit, later it does."""
    async with world(tmp_path) as w:
        w.settings["recall_ms"] = 50
        active, node = await alone(w)
        real, probes, slow = w.fenced.probe_latency, [0], asyncio.Event()

        async def probe_latency() -> None:
            probes[0] += 1
            await slow.wait()
            await real()

        w.fenced.probe_latency = probe_latency  # type: ignore[method-assign]
        await node.die()
        await w.until("it was looked at twice", lambda: probes[0] >= 2 or active.ended.done())
        assert not active.ended.done()
        assert active.state.is_live_node(node.incarnation), "nobody is accused by a slow disk"
        slow.set()
        await w.until("it is sealed", lambda: not active.state.is_live_node(node.incarnation))
        assert not active.ended.done()


async def test_a_node_that_falls_silent_loses_its_handles_though_nobody_asks_for_them(
    tmp_path: Path,
) -> None:
    """Its host lost its power: the stream is reset, and nobody refuses a new connection. No
    operation needs the node, so no recall's limit finds it."""
    async with world(tmp_path) as w:
        w.settings["recall_ms"] = 50
        active, node = await alone(w)
        held = await opened(node, open_request(1, "/f", share=0))
        w.hub.freeze(node.endpoint)
        assert node.channel is not None
        node.channel.end(Unavailable("reset"))
        await w.until("its handle waits for its client", active.state.disconnected_handles)
        assert [handle for handle, _ in active.state.disconnected_handles()] == [held.handle]
        w.hub.thaw(node.endpoint)
        await node.die()


async def test_a_handle_that_came_back_to_its_node_is_detached_there_once_more(
    tmp_path: Path,
) -> None:
    """Reclaim through n2 asks n1 to let go of generation 1; before the answer, the client reclaims
    through n1 again. n1's answer is about generation 1, and generation 2 is still in use there."""
    async with world(tmp_path) as w:
        w.settings["recall_ms"] = NEVER_MS
        _, one = await alone(w)
        two = await PeerNode(w, "n2").join()
        request = open_request(1, "/f")
        handle = (await opened(one, request)).handle
        item = m.ReclaimItem(handle, request.create_guid)
        asked: list[tuple[Channel, Envelope]] = []
        assert one.channel is not None
        one.channel._handler = lambda channel, envelope: asked.append((channel, envelope))

        away = asyncio.create_task(ask(two, m.Reclaim(caller(2), [item])))
        await w.until("n1 is asked", lambda: asked)
        back, _ = await ends(ask(one, m.Reclaim(caller(2), [item])))
        assert isinstance(back, m.ReclaimReply)
        assert back.results[0].generation == 2
        answer(asked[0])
        await w.until("n1 is asked again, or it was not", lambda: len(asked) == 2 or away.done())
        assert detached(asked) == [1, 2], "generation 2 was taken from n1, which never let go of it"
        answer(asked[1])
        reply, _ = await ends(away)
        assert isinstance(reply, m.ReclaimReply)
        assert reply.results[0].generation == 3
        await one.die()
        await two.die()


def answer(asked: tuple[Channel, Envelope]) -> None:
    channel, envelope = asked
    channel.reply(envelope.call, m.CommitReply())


def detached(asked: Sequence[tuple[Channel, Envelope]]) -> list[int]:
    """The generations that a node was asked to let go of, in order."""
    bodies = [envelope.body for _, envelope in asked]
    return [h.generation for body in bodies if isinstance(body, m.Detach) for h in body.handles]


# Names of services


def _named(expression: ast.expr, module: ast.Module, function: ast.AST | None) -> list[str]:
    """The strings that an argument can be: a literal, a constant of its module, or a parameter with
    its default."""
    if isinstance(expression, ast.Constant):
        return [str(expression.value)]
    assert isinstance(expression, ast.Name), ast.dump(expression)
    for statement in module.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=expression.id), value=ast.expr() as value):
                return _named(value, module, None)
    assert isinstance(function, ast.AsyncFunctionDef), f"{expression.id} comes from elsewhere"
    arguments = function.args.args
    defaults: list[ast.expr | None] = [None] * len(arguments)
    if function.args.defaults:
        defaults[-len(function.args.defaults) :] = function.args.defaults
    [default] = [d for a, d in zip(arguments, defaults, strict=True) if a.arg == expression.id]
    return [] if default is None else _named(default, module, None)


def _services_asked_for() -> dict[str, str]:
    """Each service name that an ``open_channel`` in services and client gets -> where."""
    gc.collect()  # Finalizers of older garbage that parse, too, are not to run inside the parser.
    found: dict[str, str] = {}
    package = Path(sofs.__file__).parent
    for path in [*package.glob("services/**/*.py"), *package.glob("client/**/*.py")]:
        source = path.read_text()
        if "open_channel(" not in source and "dialer.open(" not in source:
            continue
        module = ast.parse(source)
        for function in ast.walk(module):
            if not isinstance(function, ast.AsyncFunctionDef):
                continue
            for call in ast.walk(function):
                if not isinstance(call, ast.Call):
                    continue
                name = ast.unparse(call.func)
                if name == "open_channel":
                    service = call.args[3]
                elif name.endswith("dialer.open") and len(call.args) > 1:
                    service = call.args[1]  # Dialer hands its parameter on.
                else:
                    continue
                for value in _named(service, module, function):
                    found[value] = f"{path.relative_to(package)}:{call.lineno}"
    return found


def test_every_service_that_a_part_connects_to_exists_on_every_transport() -> None:
    """Nodes were once looked at by a name that only the transport of the tests knew."""
    asked = _services_asked_for()
    assert {"file", "volume", "resume_key", "witness", "cluster"} <= asked.keys()
    for known in (METHODS, local_transport.SERVICES):
        assert {name: where for name, where in asked.items() if name not in known} == {}


async def test_a_request_whose_stream_ends_at_once_leaves_nothing_that_was_never_awaited(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        active, node = await alone(w)
        [channel] = [channel for channel, link in active._channels.items() if link is not None]
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            request = Envelope(call=7, is_reply=False, body=m.AcquireToken(ino=1, mode=1))
            active._on_node_message(channel, request)
            await channel.close()  # Before the request's task took its first step.
            for _ in range(20):
                await asyncio.sleep(0)
            gc.collect()
        assert [str(one.message) for one in seen if "never awaited" in str(one.message)] == []
        await node.die()


async def test_clients_that_hold_files_are_not_remembered_by_their_last_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "FORGET_EVERY_MS", 5)
    async with world(tmp_path) as w:
        active, node = await alone(w)
        await ends(node.call(open_request(1, "/f")))
        await w.until("the client is forgotten there", lambda: not active.idle.last_seen)
        assert active.state.knows_client(CLIENT)
        await node.die()


async def test_whoever_waits_for_a_turn_keeps_it_in_the_table() -> None:
    turns = Turns()
    inside: list[int] = []

    async def user(number: int) -> None:
        async with turns.held(1):
            inside.append(number)
            assert len(inside) == 1, "one at a time"
            await asyncio.sleep(0)
            inside.remove(number)

    first = await turns.take(1)
    second = asyncio.create_task(user(2))
    await asyncio.sleep(0)
    turns.give_back(first)  # Free, until the second wakes: now a third asks.
    assert len(turns) == 1
    await asyncio.gather(second, user(3))
    given_up = asyncio.create_task(turns.take(2))
    held = await turns.take(2)
    given_up.cancel()
    await asyncio.wait([given_up])
    turns.give_back(held)
    assert len(turns) == 0


async def test_the_reply_of_an_open_arrives_before_a_copy_through_another_node_takes_the_handle(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        _, one = await alone(w)
        two, holder = await PeerNode(w, "n2").join(), await PeerNode(w, "n3").join()
        await holder.call(open_request(1, "/file", OTHER))  # It has the token from now on.
        assert one.channel is not None
        told_before: list[bool] = []
        first = one.channel.begin(open_request(1, "/file"))
        seen = one.asked

        class Asked(list[m.Message]):
            def append(self, body: m.Message) -> None:
                if isinstance(body, m.Detach):
                    told_before.append(first.done())
                seen.append(body)

        one.asked = Asked()
        second = await ends(two.call(open_request(1, "/file")))
        reply = (await ends(first)).body
        assert isinstance(reply, m.OpenReply)
        assert isinstance(second, m.OpenReply)
        assert (reply.handle, reply.generation) == (second.handle, second.generation - 1)
        assert told_before == [True], "else the node takes what it is told for a handle that lives"
        for node in (one, two, holder):
            await node.die()
