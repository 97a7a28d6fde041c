"""Changes of byte-range locks: whole or not at all, in order of asking, with what comes along."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from node_world import Client, File, World, refused, world

from sofs.core import messages as m
from sofs.core.messages import LockRange

ONE = LockRange(0, 10, True)
ONE_SHARED = LockRange(0, 10, False)
OTHER = LockRange(100, 10, True)


async def change(
    file: File, *, drop: Any = (), test: Any = (), take: Any = (), wait_ms: int = 0, **more: Any
) -> tuple[m.LocksChanged, bytes]:
    body = m.ChangeLocks(
        file.client.caller(), file.handle, file.generation, list(drop), list(test), list(take),
        wait_ms, **more,
    )  # fmt: skip
    envelope = await file.client.send(body)
    if isinstance(envelope.body, m.Failure):
        await file.client.call(body)  # Raises it: refused again for the same reason.
    assert isinstance(envelope.body, m.LocksChanged)
    return envelope.body, bytes(envelope.data)


def waiting(w: World) -> int:
    active = w.authorities["coordinator"].active
    assert active is not None
    return active.locks.waiting()


async def crowd(w: World, count: int) -> list[File]:
    """The same file, opened by so many clients."""
    return [await (await w.client(f"c{n}")).open("/f") for n in range(count)]


async def ask(w: World, file: File, *take: LockRange, wait_ms: int = 30_000) -> asyncio.Task[Any]:
    """Begin to wait for locks; return when the request stands in the queue."""
    before = waiting(w)
    task = asyncio.ensure_future(change(file, take=take, wait_ms=wait_ms))
    await w.until("in the queue", lambda: waiting(w) == before + 1)
    return task


async def test_a_change_gives_back_tests_and_takes_in_one_step_or_not_at_all(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        mine, other = await crowd(w, 2)
        await change(mine, take=[ONE_SHARED])
        await change(other, take=[OTHER])
        assert await refused(change(mine, drop=[ONE_SHARED], take=[ONE, OTHER])) == (
            "LOCK_NOT_GRANTED"
        )
        assert await refused(change(other, take=[ONE])) == "LOCK_NOT_GRANTED", "mine still holds it"
        await change(mine, drop=[ONE_SHARED], take=[ONE])  # Over its own shared lock, at once.
        assert await refused(change(other, take=[ONE_SHARED])) == "LOCK_NOT_GRANTED"
        assert await refused(change(mine, drop=[OTHER])) == "RANGE_NOT_LOCKED"
        assert await refused(change(mine, test=[OTHER], take=[])) == "LOCK_NOT_GRANTED"
        await change(other, drop=[OTHER])
        await change(mine, test=[OTHER])
        await change(other, take=[OTHER])  # What was tested is not kept.


async def test_requests_that_wait_are_served_in_the_order_of_asking(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        holder, *files = await crowd(w, 5)
        await change(holder, take=[ONE])
        order: list[int] = []
        tasks = []
        for n, file in enumerate(files):
            task = await ask(w, file, ONE)
            task.add_done_callback(lambda _, n=n: order.append(n))
            tasks.append(task)
        current = holder
        for n, file in enumerate(files):
            await change(current, drop=[ONE])
            await tasks[n]
            assert order == list(range(n + 1))
            assert [task.done() for task in tasks[n + 1 :]] == [False] * (3 - n)
            current = file
        assert waiting(w) == 0


async def test_nobody_overtakes_one_who_waits_unless_that_one_waits_for_him(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        reader, writer, late, elsewhere = await crowd(w, 4)
        await change(reader, take=[ONE_SHARED])
        first = await ask(w, writer, ONE)
        assert await refused(change(late, take=[ONE_SHARED])) == "LOCK_NOT_GRANTED"
        second = await ask(w, late, ONE_SHARED)
        await change(elsewhere, take=[OTHER])  # That excludes nobody.
        await change(reader, take=[LockRange(5, 1, False)])  # The writer waits for this one anyway.
        await change(reader, drop=[ONE_SHARED, LockRange(5, 1, False)])
        await first
        assert not second.done()
        await change(writer, drop=[ONE])
        await second


async def test_who_leaves_the_queue_holds_nobody_up(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        reader, brief, closing, late = await crowd(w, 4)
        await change(reader, take=[ONE_SHARED])
        first = await ask(w, brief, ONE, wait_ms=300)
        second = await ask(w, closing, ONE)
        third = await ask(w, late, ONE_SHARED)
        assert await refused(first) == "LOCK_NOT_GRANTED", "its time is over"
        assert not third.done()
        assert closing.client.channel is not None
        await change(closing, test=[OTHER])  # A request of the same handle is not held up by it.
        await w.until("two are left", lambda: waiting(w) == 2)
        # Its handle goes while it waits: refused when its turn comes, and skipped.
        await closing.close()
        await change(reader, drop=[ONE_SHARED])
        assert await refused(second) == "FILE_CLOSED"
        await third
        assert waiting(w) == 0


async def test_who_asks_again_in_time_has_his_old_place(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        holder, slicing, late = await crowd(w, 3)
        await change(holder, take=[ONE])
        assert await refused(change(slicing, take=[ONE], wait_ms=1)) == "LOCK_NOT_GRANTED"
        second = await ask(w, late, ONE)
        first = await ask(w, slicing, ONE)
        await change(holder, drop=[ONE])
        await first
        assert not second.done()
        await change(slicing, drop=[ONE])
        await second


async def test_a_copy_of_a_request_that_waits_gets_the_answer_of_the_first(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        holder, file = await crowd(w, 2)
        await change(holder, take=[ONE])
        body = m.ChangeLocks(
            file.client.caller(), file.handle, file.generation, take=[ONE], wait_ms=30_000
        )
        copies = [asyncio.ensure_future(file.client.call(body)) for _ in range(3)]
        await w.until("all wait", lambda: waiting(w) == 3)
        await change(holder, drop=[ONE])
        replies = await asyncio.gather(*copies)
        assert replies == [replies[0]] * 3
        await change(file, drop=[ONE])
        assert await refused(change(file, drop=[ONE])) == "RANGE_NOT_LOCKED", "it was taken once"


async def test_more_requests_than_may_wait_for_a_file_are_told_to_ask_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sofs.services.authority.file_locks.LOCK_WAITERS_MAX", 2)
    async with world(tmp_path, "a") as w:
        holder, *files = await crowd(w, 4)
        await change(holder, take=[ONE])
        tasks = [await ask(w, file, ONE) for file in files[:2]]
        assert await refused(change(files[2], take=[ONE], wait_ms=30_000)) == "LIMIT_EXCEEDED"
        await change(holder, drop=[ONE])
        await tasks[0]
        await change(files[0], drop=[ONE])
        await tasks[1]


async def test_locks_of_a_client_that_ends_go_to_those_who_wait(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        holder, other = await crowd(w, 2)
        await change(holder, take=[ONE])
        task = await ask(w, other, ONE)
        await holder.close()
        await task


async def test_size_and_bytes_come_along_when_the_node_has_the_file(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        here: Client = await w.client("here", "a")
        there: Client = await w.client("there", "b")
        mine = await here.open("/f")
        await mine.write(0, b"x" * 5000)
        seen, data = await change(mine, take=[ONE], read_offset=4990, read_length=100)
        assert (seen.known, seen.size, data) == (True, 5000, b"x" * 10)
        its = await there.open("/f")
        seen, data = await change(its, take=[OTHER], read_offset=0, read_length=100)
        assert (seen.known, data) == (False, b""), "another node holds the file's token"
        await its.write(200, b"y")
        await change(its, drop=[OTHER])
        seen, data = await change(its, take=[OTHER], read_offset=200, read_length=1)
        assert (seen.known, seen.size, data) == (True, 5000, b"y")
        seen, _ = await change(its, drop=[OTHER])
        assert not seen.known, "nothing is held any more"


async def test_whether_there_is_something_beside_is_said_only_when_it_is_sure(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/f")

        async def nothing() -> bool:
            seen, _ = await change(file, take=[ONE], beside="/f-journal")
            await change(file, drop=[ONE])
            return seen.nothing_beside

        assert await nothing(), "there is none"
        beside = await client.open("/f-journal")
        assert not await nothing(), "a node may write to it and knows more"
        await beside.close()
        assert await nothing(), "it is empty, and nobody writes"
        beside = await client.open("/f-journal")
        await beside.write(0, b"x")
        assert not await nothing()
        await beside.close()
        assert not await nothing()
        seen, _ = await change(file, take=[ONE], beside="/no/such/folder")
        assert not seen.nothing_beside
        seen, _ = await change(file, drop=[ONE], take=[ONE])
        assert not seen.nothing_beside, "nobody asked"


async def test_a_nodes_lock_table_does_not_grow_with_the_changes_of_one_handle(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/f")
        for _ in range(20):
            await change(file, take=[ONE])
            await change(file, drop=[ONE])
            await file.lock(50, 1)
            await file.unlock(50, 1)
        node = w.nodes["a"].node
        assert node is not None
        assert len(node.table.files[file.info.ino].locks) == 2


async def test_a_change_of_nothing_or_outside_the_file_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/f")
        assert await refused(change(file)) == "INVALID_PARAMETER"
        assert await refused(change(file, take=[ONE] * 65)) == "INVALID_PARAMETER"
        assert await refused(change(file, take=[ONE], wait_ms=60_001)) == "INVALID_PARAMETER"
        assert await refused(change(file, take=[ONE], read_length=2**20 + 1)) == (
            "INVALID_PARAMETER"
        )
        assert await refused(change(file, take=[ONE], read_offset=2**63)) == "INVALID_PARAMETER"
        await change(file, take=[ONE])  # None of them took anything.
