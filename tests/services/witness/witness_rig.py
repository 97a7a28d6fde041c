"""A witness over an in-process network: real time, nodes that only greet and answer pings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sofs.core import messages as m
from sofs.core import witness as w
from sofs.errors import NotSupported
from sofs.ports.stream import Envelope, Stream
from sofs.services.channel import Channel, check_hello, expect, open_channel
from sofs.services.witness.part import WitnessConfig, WitnessPart
from sofs.sim.local_transport import LocalHub
from sofs.storage import SystemClock, SystemEntropy

NODES = ["10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.3:7000"]
WITNESSES = ["10.0.0.1:7001", "10.0.0.2:7001", "10.0.0.3:7001"]
NAME = "sofs.example"
HERE = 1  # The witness under test is beside the second node.


class Net:
    """Nodes, one witness, and clients of it."""

    def __init__(self) -> None:
        self.hub = LocalHub()
        self.clock = SystemClock()
        self.crashes: list[BaseException] = []
        self.channels: list[Channel] = []
        self.lives = 0
        self.part = WitnessPart(
            clock=self.clock,
            entropy=SystemEntropy(),
            transport=self.hub.transport(),
            config=WitnessConfig("w", WITNESSES[HERE], NODES, WITNESSES, "share", NAME),
            on_exit=self.crashes.append,
        )

    def start_node(self, address: str) -> None:
        """A process that lives: it greets under a fresh incarnation."""
        self.lives += 1
        incarnation = b"%016d" % self.lives

        def on_message(channel: Channel, envelope: Envelope) -> None:
            check_hello(envelope, incarnation)
            channel.reply(envelope.call, m.HelloReply(1, incarnation, f"node at {address}"))

        async def accept(service: str, stream: Stream) -> None:
            channel = Channel(
                stream, self.clock, on_message, name=address, on_crash=self.crashes.append
            )
            channel.start()
            try:
                await channel.ended
            finally:
                await channel.close()

        self.hub.listen(address, accept)

    async def client(self) -> Channel:
        def on_message(channel: Channel, envelope: Envelope) -> None:
            raise NotSupported("the witness asks nothing")

        channel = await open_channel(
            self.hub.transport(),
            self.clock,
            WITNESSES[HERE],
            "witness",
            m.Hello(client=b"c" * 16),
            on_message,
            name="client",
            on_crash=self.crashes.append,
            timeout_ms=1000,
        )
        self.channels.append(channel)
        return channel

    async def registered(self, **fields: object) -> tuple[Channel, bytes]:
        channel = await self.client()
        reply = await channel.call(request(**fields))
        return channel, expect(reply, m.RegisterWitnessReply).context

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():  # noqa: ASYNC110  # What it looks at has no events.
            await asyncio.sleep(0.005)

    def state(self, address: str) -> int:
        return self.part.registry.state(address)


def request(**fields: object) -> m.RegisterWitness:
    made = m.RegisterWitness(w.VERSION, NAME, "share", NODES[0], "client", 0, 100)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@asynccontextmanager
async def net_of(*nodes: int) -> AsyncIterator[Net]:
    net = Net()
    for node in nodes:
        net.start_node(NODES[node])
    await net.part.start(WITNESSES[HERE])
    await net.until(lambda: all(net.state(NODES[node]) == w.AVAILABLE for node in nodes))
    yield net
    for channel in net.channels:
        await channel.close()
    await net.part.close()
    for address in NODES:
        net.hub.thaw(address)
        net.hub.cut(address)
    await net.until(lambda: len(asyncio.all_tasks()) == 1)
    assert not net.crashes, net.crashes
    assert not net.hub.crashes, net.hub.crashes


async def ask(channel: Channel, context: bytes) -> m.Notification:
    return expect(await channel.call(m.AsyncNotify(context)), m.Notification)
