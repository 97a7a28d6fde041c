"""Schedules that the simulator found, each as the shortest script that shows the same."""

from __future__ import annotations

import asyncio
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
