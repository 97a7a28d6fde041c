"""Schedules that the simulator found, each as the shortest script that shows the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from node_world import world

from sofs.core import messages as m
from sofs.services.channel import result_of

LIMIT_S = 5.0


async def test_a_whole_file_is_read_through_a_node_whose_token_never_arrived(
    tmp_path: Path,
) -> None:
    """The authority counts the node as the holder; the node knows nothing of it, and nobody writes,
    which would make it ask for the token again."""
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/file")
        await file.write(0, b"data")
        node = w.nodes["a"].node
        assert node is not None
        held = node.table.files[file.info.ino]
        await node.table.settle(held)
        node.table.drop_token(held)
        envelope = await asyncio.wait_for(client.send(m.ReadFile("/file", 0, 100)), LIMIT_S)
        assert bytes(result_of(envelope)[1]) == b"data"


async def test_a_size_asked_while_the_token_leaves_is_not_older_than_what_was_acknowledged(
    tmp_path: Path,
) -> None:
    """The authority answers that the node itself knows best, without its newest record; before the
    answer arrives another node gets the token, and this one knows nothing any more."""
    async with world(tmp_path, "a", "b") as w:
        client = await w.client()
        file = await client.open("/file")
        await file.write(0, b"data")
        node = w.nodes["a"].node
        assert node is not None
        ask = node.link.call
        other = await (await w.client("two", "b")).open("/file")
        asked: list[m.Message] = []

        async def call(build: Callable[[], m.Message], *more: object, **named: object) -> m.Message:
            reply = await ask(build, *more, **named)  # type: ignore[arg-type]
            if isinstance(reply, m.InfoReply):
                asked.append(reply)
                if len(asked) == 1:
                    assert reply.held_by_asker
                    reply.info.size = 0  # As it was in the tables before our commit.
                    await other.write(10, b"more")
            return reply

        node.link.call = call  # type: ignore[method-assign]
        envelope = await asyncio.wait_for(client.send(m.Stat(path="/file")), LIMIT_S)
        reply = result_of(envelope)[0]
        assert isinstance(reply, m.InfoReply)
        assert reply.info.size == 14
        assert len(asked) == 2
