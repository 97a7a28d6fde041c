"""Races between a node, its authority and returning clients that a review found."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from node_world import RW, Client, File, World, refused, world

from sofs.core import messages as m
from sofs.errors import DiskFull, LimitExceeded, StaleGeneration, Unavailable
from sofs.services.channel import result_of, within
from sofs.storage import SystemClock

LIMIT_S = 5.0


async def limited(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, LIMIT_S)


def slow_first_group(w: World) -> asyncio.Event:
    """The authority's next transaction waits for the returned event before its answer leaves."""
    active = w.authorities["coordinator"].active
    assert active is not None
    gate, real, armed = asyncio.Event(), active.group.settled, [True]

    async def settled() -> None:
        first, armed[0] = armed[0], False
        await real()
        if first:
            await gate.wait()

    active.group.settled = settled  # type: ignore[method-assign]
    return gate


def slow_log(w: World, node: str = "a") -> asyncio.Event:
    """Nothing that the node appends becomes durable before the returned event."""
    life = w.nodes[node].node
    assert life is not None
    gate = asyncio.Event()
    log: Any = life.log
    real: Callable[[Any], Awaitable[Any]] = log._make_durable

    async def make_durable(batch: Any) -> Any:
        await gate.wait()
        return await real(batch)

    log._make_durable = make_durable
    return gate


async def reader_of_old(w: World, client: Client) -> File:
    """A handle that has read ``old`` under a token to read."""
    made = await client.open()
    await made.write(0, b"old")
    await made.close()
    reader = await client.open(access=m.Access.READ, disposition=m.Disposition.OPEN)
    assert await reader.read(0, 3) == b"old"
    return reader


# Tokens that the authority replaced
# --------------------------------------------------------------------------------------


async def test_a_recall_of_a_grant_that_never_came_takes_the_older_token_too(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a", "b") as w:
        one, two = await w.client("one", "a"), await w.client("two", "a")
        three = await w.client("three", "b")
        reader = await reader_of_old(w, one)
        writer = await three.open()
        await (await two.open("/warm")).close()
        gate = slow_first_group(w)
        opening = asyncio.ensure_future(two.open())
        await asyncio.sleep(0.05)
        await limited(writer.write(0, b"NEW"))
        gate.set()
        await limited(opening)
        assert await limited(reader.read(0, 3)) == b"NEW"


async def test_a_recall_of_a_newer_generation_than_is_held_leaves_no_token(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        reader = await reader_of_old(w, one)
        node = w.nodes["a"].node
        assert node is not None
        file = node.table.files[reader.info.ino]
        inbound: Any = node.link.inbound.__self__  # type: ignore[attr-defined]
        await limited(inbound._recall(m.Recall(file.ino, file.generation + 1)))
        assert not file.mode
        assert await limited(reader.read(0, 3)) == b"old"


async def test_a_lock_table_reaches_a_node_whose_newer_grant_never_came(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        reader = await reader_of_old(w, one)
        node = w.nodes["a"].node
        assert node is not None
        file = node.table.files[reader.info.ino]
        inbound: Any = node.link.inbound.__self__  # type: ignore[attr-defined]
        locks = [m.HeldLock(99, 0, 10, True)]
        channel: Any = one.channel  # Its reply to call 0 is none.
        inbound._lock_update(channel, 0, m.LockUpdate(file.ino, file.generation + 1, locks))
        assert file.locks == locks


async def test_a_token_to_read_that_the_authority_disowns_is_asked_for_anew(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        reader = await reader_of_old(w, one)
        node = w.nodes["a"].node
        assert node is not None
        file = node.table.files[reader.info.ino]
        active = w.authorities["coordinator"].active
        assert active is not None
        with active.group.transaction():
            active.state._run("UPDATE token SET generation=generation+1 WHERE ino=?", file.ino)
        file.map.reset(0, 1)
        assert await limited(reader.read(0, 3)) == b"old"
        assert w.nodes["a"].lives == 1


# Limits and repetition
# ------------------------------------------------------------------------------------------


async def test_writes_beyond_the_unsent_limit_wait_while_none_is_durable(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        file = await one.open()
        await file.write(0, b"1")
        node = w.nodes["a"].node
        assert node is not None
        await node.commits.settle(node.commits.published_sequence)
        gate = slow_log(w)
        data = bytes(1024 * 1024)
        writes = [file.begin_write(i * len(data), data) for i in range(34)]
        await w.until("full", node.writes.full)
        gate.set()  # Reached only because the loop still turns.
        for write in writes:
            assert isinstance(result_of(await limited(write))[0], m.WriteReply)


async def test_a_full_disk_at_the_authority_delays_commits_and_ends_no_life(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        file = await one.open()
        await file.write(0, b"1")
        active = w.authorities["coordinator"].active
        node = w.nodes["a"].node
        assert active is not None
        assert node is not None
        real, asked = active.group.room_in_reserve, []

        async def full(n_bytes: int = 0) -> None:
            asked.append(1)
            raise DiskFull("no room")

        active.group.room_in_reserve = full  # type: ignore[method-assign]
        await file.write(0, b"2")
        settled = asyncio.ensure_future(node.commits.settle(node.commits.published_sequence))
        await w.until("asked again", lambda: len(asked) > 2)
        active.group.room_in_reserve = real  # type: ignore[method-assign]
        await limited(settled)
        assert w.nodes["a"].lives == 1


async def test_a_refusal_for_now_of_a_copy_is_not_passed_on(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        node = w.nodes["a"].node
        assert node is not None
        await node.link.live(5_000)
        outcomes: list[BaseException | m.Message] = [
            Unavailable("no answer"),
            LimitExceeded("busy"),
            DiskFull("no room"),
            m.Done(),
        ]

        async def once(*_: object) -> m.Message:
            outcome = outcomes.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        node.link._once = once  # type: ignore[method-assign]
        assert isinstance(await limited(node.link.call(m.Done)), m.Done)
        outcomes = [LimitExceeded("busy")]
        assert await refused(node.link.call(m.Done)) == "LIMIT_EXCEEDED"
        outcomes = [Unavailable("no answer"), *(LimitExceeded("busy") for _ in range(99))]
        assert await refused(limited(node.link.call(m.Done, deadline_ms=100))) == "UNAVAILABLE"


async def test_an_error_of_work_that_ran_out_of_time_is_never_unretrieved() -> None:
    lost: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: lost.append(context))

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise StaleGeneration("late") from None

    assert await refused(within(SystemClock(), 1, fails_when_cancelled(), "work")) == "UNAVAILABLE"
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    assert lost == []


# Sessions and handles
# ------------------------------------------------------------------------------------------


async def test_a_hello_leaves_the_session_in_use_and_a_request_ends_it(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        file = await one.open()
        newer = await w.client("one", "a")
        await file.write(0, b"1")
        await newer.call(m.Stat(path="/file"))
        assert one.channel is not None
        await limited(asyncio.shield(one.channel.ended))


async def test_a_detach_of_an_older_generation_keeps_the_reclaimed_handle(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        file = await one.open()
        await file.append(b"1")
        node = w.nodes["a"].node
        assert node is not None
        await node.commits.settle(node.commits.published_sequence)
        gate, real, armed = asyncio.Event(), node.table.settle, [True]

        async def settle(of: Any) -> None:
            await real(of)
            if armed[0]:
                armed[0] = False
                await gate.wait()

        node.table.settle = settle  # type: ignore[method-assign]
        inbound: Any = node.link.inbound.__self__  # type: ignore[attr-defined]
        old = m.Detach([m.BoundHandle(file.handle, file.generation)], "")
        detach = asyncio.ensure_future(inbound._detach(old))
        await w.until("detaching", lambda: not armed[0])
        back = await limited(file.reclaim(await w.client("one", "a")))
        back.client.send(back.write_message(0, append=True, op=2), b"TWO")
        await w.until("admitted", lambda: node.table.handles[file.handle].window is not None)
        gate.set()
        await detach
        again = await limited(back.reclaim(await w.client("one", "a")))
        await limited(again.append(b"TWO", op=2))
        assert await again.read(0, 100) == b"1TWO"


async def test_a_lost_handle_with_a_write_in_flight_ends_its_session_only(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        file = await one.open()
        await file.write(0, b"1")
        node = w.nodes["a"].node
        assert node is not None
        gate = slow_log(w)
        file.begin_write(0, b"2")
        handle = node.table.handles[file.handle]
        await w.until("in flight", lambda: handle.in_flight)
        tokens = [m.Grant(f.ino, f.generation, f.mode) for f in node.table.files.values()]
        node.table.registered(
            m.RegisterNodeReply(
                applied_sequence=node.commits.applied_sequence,
                lost_handles=[file.handle],
                tokens=tokens,
            )
        )
        assert one.channel is not None
        await limited(asyncio.shield(one.channel.ended))
        gate.set()
        back = await limited(file.reclaim(await w.client("one", "a")))
        assert await limited(back.read(0, 1)) == b"2"
        assert w.nodes["a"].lives == 1


async def test_a_client_whose_handle_was_taken_elsewhere_loses_its_session(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a", "b") as w:
        one = await w.client("one", "a")
        file = await one.open()
        at_b = await w.client("one", "b")
        at_b.send(m.Reclaim(m.Caller(op_id=50), [m.ReclaimItem(file.handle, file.guid)]))
        assert one.channel is not None
        await limited(asyncio.shield(one.channel.ended))
        back = await limited(file.reclaim(await w.client("one", "a")))
        await limited(back.write(0, b"1"))


async def test_nothing_is_opened_or_reclaimed_for_a_session_that_ended(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        node = w.nodes["a"].node
        assert node is not None
        await w.client("one", "a")
        session = next(iter(node._streams.values()))
        session.alive = False
        sent = node.link.calls
        caller = m.Caller(session.client, op_id=1)
        for work in (
            node.metadata._open(session, m.Open(caller, "/new", int(RW)), b""),
            node.metadata._reclaim(session, m.Reclaim(caller), b""),
        ):
            assert await refused(limited(work)) == "STALE_GENERATION"
        assert node.link.calls == sent


async def test_a_handle_told_as_disconnected_is_served_only_after_a_reclaim(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        file = await one.open()
        node = w.nodes["a"].node
        assert node is not None
        handle = node.table.handles[file.handle]
        session, real = handle.session, node.link.call
        assert session is not None

        async def call(build: Any, *rest: Any, **more: Any) -> m.Message:
            reply = await real(build, *rest, **more)
            handle.session = session  # A copy of its open was answered meanwhile.
            return reply

        handle.session = None
        node.link.call = call  # type: ignore[method-assign]
        await limited(node.metadata.report_disconnected([handle]))
        node.link.call = real  # type: ignore[method-assign]
        assert not session.alive
        back = await limited(file.reclaim(await w.client("one", "a")))
        await limited(back.write(0, b"1"))


async def test_fields_that_the_node_fills_are_not_taken_from_a_client(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        file = await one.open()
        await file.write(0, b"12345")
        node = w.nodes["a"].node
        assert node is not None
        log_id = node.link.log_id
        evil = m.Commit(log_id, 0, 1 << 40, [])
        cut = m.Truncate(one.caller(), file.handle, file.generation, 3, evil, b"junk")
        await limited(one.call(cut))
        whole = m.WriteFile(one.caller(), "/w", int(m.Disposition.OVERWRITE_IF), commit=evil)
        await limited(one.call(whole, b"all"))
        assert await file.read(0, 10) == b"123"
        await limited(one.call(m.Close(one.caller(), file.handle, file.generation, evil, 77)))
        again = await one.open()
        await limited(again.write(0, b"9"))
        await limited(again.close())
        assert w.nodes["a"].lives == 1


async def test_a_stale_close_leaves_a_handle_that_was_reclaimed_meanwhile(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        one = await w.client("one", "a")
        file = await one.open()
        node = w.nodes["a"].node
        assert node is not None
        handle, real = node.table.handles[file.handle], node.link.call

        async def call(*_: Any, **__: Any) -> m.Message:
            handle.generation += 1
            raise StaleGeneration("it was reclaimed")

        node.link.call = call  # type: ignore[method-assign]
        closing = m.Close(one.caller(), file.handle, file.generation)
        assert await refused(limited(node.metadata._close(closing, handle))) == "STALE_GENERATION"
        node.link.call = real  # type: ignore[method-assign]
        assert node.table.handles[file.handle] is handle
