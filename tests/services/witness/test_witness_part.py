"""The witness over an in-process network: real time, nodes that only greet and answer pings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from sofs.core import messages as m
from sofs.core import witness as w
from sofs.errors import InvalidParameter, InvalidState, NotFound, NotSupported, RevisionMismatch
from sofs.ports.stream import Envelope, Stream
from sofs.services.channel import Channel, check_hello, expect, open_channel
from sofs.services.witness.part import WitnessConfig, WitnessPart
from sofs.sim.local_transport import LocalHub
from sofs.storage import SystemClock, SystemEntropy

NODES = ["10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.3:7000"]
WITNESSES = ["10.0.0.1:7001", "10.0.0.2:7001", "10.0.0.3:7001"]
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
            config=WitnessConfig("w", WITNESSES[HERE], NODES, WITNESSES, "share"),
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
    made = m.RegisterWitness(w.VERSION, "", "share", NODES[0], "client", 0, 100)
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


async def test_a_killed_node_is_told_at_once_and_its_return_next() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        asked = asyncio.ensure_future(ask(channel, context))
        await net.until(lambda: [r for r in net.part.registry.registrations() if r.asker])
        net.hub.cut(NODES[0])
        name = f"node at {NODES[0]}"
        assert await asked == m.Notification(w.RESOURCE_CHANGE, w.UNAVAILABLE, name, NODES[0])
        net.start_node(NODES[0])
        assert (await ask(channel, context)).state == w.AVAILABLE


async def test_a_node_that_restarted_unseen_is_told_as_gone() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        net.hub.cut(NODES[0])
        net.start_node(NODES[0])  # Before the witness dials again.
        assert (await ask(channel, context)).state == w.UNAVAILABLE
        assert (await ask(channel, context)).state == w.AVAILABLE


async def test_a_frozen_node_is_told_after_the_limit_and_its_return_when_it_speaks() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        net.hub.freeze(NODES[0])
        assert (await ask(channel, context)).state == w.UNAVAILABLE
        net.hub.thaw(NODES[0])
        assert (await ask(channel, context)).state == w.AVAILABLE


async def test_the_change_of_another_node_is_not_told() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        asked = asyncio.ensure_future(ask(channel, context))
        net.hub.cut(NODES[2])
        await net.until(lambda: net.state(NODES[2]) == w.UNAVAILABLE)
        assert not asked.done()
        asked.cancel()


async def test_the_interface_list_waits_until_another_node_is_available() -> None:
    async with net_of() as net:
        channel = await net.client()
        asked = asyncio.ensure_future(channel.call(m.GetInterfaceList()))
        await net.until(lambda: net.state(NODES[0]) == w.UNAVAILABLE)
        assert not asked.done()
        net.start_node(NODES[2])
        listed = expect(await asked, m.InterfaceList).interfaces
        assert [i.state for i in listed] == [w.UNAVAILABLE, w.AVAILABLE, w.AVAILABLE]
        assert [bool(i.flags & w.MAY_WITNESS) for i in listed] == [True, False, True]
        assert listed[2].node == f"node at {NODES[2]}"
        assert [i.port for i in listed] == [7001] * 3


async def test_the_own_node_is_not_watched() -> None:
    async with net_of(0, 2) as net:
        assert list(net.part.watched) == [NODES[0], NODES[2]]
        with pytest.raises(InvalidState):
            await net.registered(address=NODES[HERE])


async def test_a_registration_waits_for_a_node_that_just_comes_back() -> None:
    async with net_of(2) as net:
        await net.until(lambda: net.state(NODES[0]) == w.UNAVAILABLE)
        asked = asyncio.ensure_future(net.registered())
        await net.until(lambda: len(net.channels) == 1)
        net.start_node(NODES[0])
        await asked
        assert len(net.part.registry) == 1


async def test_a_registration_for_a_node_out_of_reach_is_refused() -> None:
    async with net_of(2) as net:
        await net.until(lambda: net.state(NODES[0]) == w.UNAVAILABLE)
        with pytest.raises(InvalidState, match="another witness"):
            await net.registered()


async def test_requests_with_unknown_contexts_and_versions_get_typed_errors() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        with pytest.raises(RevisionMismatch):
            await channel.call(request(version=1))
        with pytest.raises(NotFound):
            await ask(channel, b"?" * 16)
        await channel.call(m.UnregisterWitness(context))
        with pytest.raises(InvalidParameter):
            await channel.call(m.UnregisterWitness(context))
        with pytest.raises(NotSupported):
            await channel.call(m.Read(1, 1, 0, 1))
        assert channel.alive


async def test_a_registration_ends_with_its_stream() -> None:
    async with net_of(0, 2) as net:
        channel, _ = await net.registered()
        await channel.close()
        await net.until(lambda: len(net.part.registry) == 0)


async def test_a_client_is_moved() -> None:
    async with net_of(0, 2) as net:
        channel, context = await net.registered()
        assert net.part.move_client("client", NODES[0]) == 0
        assert net.part.move_client("client", NODES[2]) == 1
        notice = await ask(channel, context)
        assert (notice.kind, notice.address) == (w.CLIENT_MOVE, NODES[2])
        assert net.part.move_share("share", NODES[2]) == 1
        assert (await ask(channel, context)).kind == w.SHARE_MOVE


async def test_the_part_describes_what_it_sees() -> None:
    async with net_of(0) as net:
        channel, _ = await net.registered()
        state = expect(await channel.call(m.PartState()), m.PartStateReply)
        assert (state.part, state.name, state.state) == ("witness", "w", "serving")
        assert "registrations=1" in state.facts
        assert any(fact.startswith(f"node {NODES[0]}=available") for fact in state.facts)
