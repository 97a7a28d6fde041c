"""Writes of several ranges: all of them are there, or none, whoever dies."""

from __future__ import annotations

import asyncio
from pathlib import Path

from node_world import KIB, Client, File, refused, world

from sofs.core import messages as m
from sofs.core.messages import DataRange

BLOCK = 4 * KIB


def parts_message(file: File, *ranges: tuple[int, int], op: int | None = None) -> m.WriteParts:
    if op is None:
        op, file.next_op = file.next_op, file.next_op + 1
    parts = [DataRange(offset, length) for offset, length in ranges]
    return m.WriteParts(file.handle, file.generation, op, file.acked, parts)


def blocks(text: bytes) -> bytes:
    """One block of each letter."""
    return b"".join(bytes([letter]) * BLOCK for letter in text)


async def put(file: File, text: bytes, *pages: int) -> None:
    """Write one block a letter, at these pages, each a range of its own."""
    ranges = [(page * BLOCK, BLOCK) for page in pages]
    await file.client.call(parts_message(file, *ranges), blocks(text))


async def pages_of(file: File, count: int) -> bytes:
    """One letter a page; "." for zeros."""
    data = await file.read(0, count * BLOCK)
    assert len(data) == count * BLOCK
    return bytes(
        data[at] or ord(".")
        for at in range(0, len(data), BLOCK)
        if data[at : at + BLOCK] == data[at : at + 1] * BLOCK
    )


async def test_ranges_land_where_they_belong_here_and_after_a_recall(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        client: Client = await w.client("one", "a")
        file = await client.open("/f")
        await put(file, b"abc", 1, 4, 9)
        assert await pages_of(file, 10) == b".a..b....c"
        assert file.size == 10 * BLOCK
        await put(file, b"xy", 0, 4)
        await file.write(9 * BLOCK, b"z" * BLOCK)
        assert await pages_of(file, 10) == b"xa..y....z"
        other = await (await w.client("two", "b")).open("/f")
        assert await pages_of(other, 10) == b"xa..y....z"
        await put(other, b"mn", 0, 9)
        assert await pages_of(file, 10) == b"ma..y....n"


async def test_one_write_of_several_ranges_is_one_record_and_one_sync(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/f")
        await file.write(0, b"x")
        node = w.nodes["a"].node
        assert node is not None
        await node.commits.settle(node.commits.published_sequence)
        before = node.commits.published_sequence
        pages = [2 * n for n in range(256)]
        ranges = [(page * BLOCK, BLOCK) for page in pages]
        await client.call(parts_message(file, *ranges), b"p" * 1024 * KIB)
        assert node.commits.published_sequence == before + 1


async def test_a_dead_nodes_tail_brings_all_ranges_and_once(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        client: Client = await w.client("one", "a")
        file = await client.open("/f")
        await put(file, b"abc", 0, 3, 5)
        await put(file, b"de", 3, 8)
        message = parts_message(file, (0, BLOCK), (8 * BLOCK, BLOCK))
        await client.call(message, blocks(b"xy"))
        await w.kill_node("a")  # Nothing of this was sent to the authority.
        moved = await w.client("one", "b", like=client)
        again = await file.reclaim(moved)
        assert await pages_of(again, 9) == b"x..d.c..y"
        other = await (await w.client("two", "b")).open("/f")
        await other.write(0, b"n" * BLOCK)
        message.generation = again.generation
        await moved.call(message, blocks(b"xy"))  # A copy: it has its answer, and no effect.
        assert await pages_of(other, 9) == b"n..d.c..y"


async def test_a_copy_in_flight_shares_the_outcome_and_an_abandoned_one_never_happens(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/f")
        message = parts_message(file, (0, BLOCK), (2 * BLOCK, BLOCK))
        copies = [client.send(message, blocks(b"ab")) for _ in range(2)]
        replies = [(await copy).body for copy in copies]
        assert replies == [m.WriteReply(0)] * 2
        late = parts_message(file, (0, BLOCK), (BLOCK, BLOCK))
        abandon = m.Abandon(
            client.caller(), 0, file.handle, file.generation, op_sequence=late.op_sequence
        )
        reply = await client.call(abandon)
        assert not reply.executed
        assert await refused(client.call(late, blocks(b"zz"))) == "ABANDONED"
        assert await pages_of(file, 3) == b"a.b"


async def test_an_unaligned_write_behind_ranges_in_flight_sees_them(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/f")
        await file.write(0, b"-" * 6 * BLOCK)
        sent = client.send(parts_message(file, (BLOCK, BLOCK), (4 * BLOCK, BLOCK)), blocks(b"ab"))
        patch = file.begin_write(4 * BLOCK + 1, b"!")
        await asyncio.gather(sent, patch)
        assert await file.read(4 * BLOCK, 3) == b"b!b"
        assert await file.read(BLOCK, 2) == b"aa"


async def test_ranges_that_are_no_whole_blocks_in_order_are_refused_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/f")
        wrong = [
            [],
            [(0, BLOCK), (0, BLOCK)],
            [(BLOCK, BLOCK), (0, BLOCK)],
            [(0, 2 * BLOCK), (BLOCK, BLOCK)],
            [(1, BLOCK)],
            [(0, 100)],
            [(0, 0), (BLOCK, BLOCK)],
            [(2**63 - BLOCK, BLOCK)],
            [(n * BLOCK, BLOCK) for n in range(257)],
        ]
        for ranges in wrong:
            data = b"x" * min(sum(length for _, length in ranges), 2**20)
            code = await refused(client.call(parts_message(file, *ranges), data))
            assert code == "INVALID_PARAMETER", ranges
        too_much = [(0, 2**20), (2**20, BLOCK)]
        data = b"x" * (2**20 + BLOCK)
        assert await refused(client.call(parts_message(file, *too_much), data)) == (
            "MESSAGE_TOO_LARGE"
        )
        short = parts_message(file, (0, BLOCK), (BLOCK, BLOCK))
        assert await refused(client.call(short, b"x" * BLOCK)) == "INVALID_PARAMETER"
        assert (await file.stat()).size == 0
        reader = await client.open("/f", m.Access.READ)
        assert await refused(client.call(parts_message(reader, (0, BLOCK)), b"x" * BLOCK)) == (
            "ACCESS_DENIED"
        )


async def test_a_lock_of_another_handle_on_any_range_refuses_all_of_them(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        file = await (await w.client("one")).open("/f")
        other = await (await w.client("two")).open("/f")
        await put(file, b"abc", 0, 1, 2)
        await other.lock(2 * BLOCK, 1)
        message = parts_message(file, (0, BLOCK), (2 * BLOCK, BLOCK))
        assert await refused(file.client.call(message, blocks(b"xy"))) == "FILE_LOCK_CONFLICT"
        await other.unlock(2 * BLOCK, 1)
        assert await pages_of(file, 3) == b"abc"
        await put(file, b"xy", 0, 2)
        assert await pages_of(file, 3) == b"xby"
