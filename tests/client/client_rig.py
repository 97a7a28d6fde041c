"""A volume, its nodes and a client, for one test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mini_cluster import MiniNode, MiniVolume

from sofs.client.aio import AsyncShare, connect
from sofs.sim.local_transport import LocalHub

ADDRESSES = ["10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.3:7000"]


class Rig:
    """A hub, a volume and its nodes; ``share`` connects to them."""

    def __init__(self, nodes: int) -> None:
        self.hub = LocalHub()
        self.volume = MiniVolume()
        self.nodes = [
            MiniNode(self.hub, self.volume, f"node{i}", ADDRESSES[i]) for i in range(nodes)
        ]
        for node in self.nodes:
            node.peers = [peer for peer in self.nodes if peer is not node]

    @property
    def url(self) -> str:
        return f"sofs://{','.join(node.address for node in self.nodes)}/v1"

    async def start(self) -> None:
        for node in self.nodes:
            await node.start()

    def connect(self, **options: Any) -> Any:
        options.setdefault("witness", False)
        return connect(self.url, transport=self.hub.transport(), **options)

    def node_of(self, share: AsyncShare) -> MiniNode:
        """The node that the client uses."""
        return next(n for n in self.nodes if n.address == share.facts().address)

    def other_than(self, node: MiniNode) -> MiniNode:
        return next(n for n in self.nodes if n is not node)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition; the test's own timeout is the limit."""
    while not condition():  # noqa: ASYNC110  # What it looks at has no events.
        await asyncio.sleep(0.005)


@asynccontextmanager
async def rig_of(nodes: int = 2) -> AsyncIterator[Rig]:
    rig = Rig(nodes)
    await rig.start()
    yield rig
    for node in rig.nodes:
        assert not node.crashes, node.crashes
    assert not rig.hub.crashes, rig.hub.crashes
    for node in rig.nodes:
        rig.hub.thaw(node.address)
        node.kill()
    await until(lambda: len(asyncio.all_tasks()) == 1)
