"""Races between a node, its authority and returning clients that a review found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from node_world import RW, Client, File, World, refused, world

from sofs.core import messages as m
from sofs.errors import StaleGeneration
from sofs.services.channel import result_of

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
