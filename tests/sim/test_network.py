"""The simulated network: late messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from sofs.core.messages import Done
from sofs.errors import Unavailable
from sofs.ports.stream import Envelope, Stream
from sofs.sim.loop import SimLoop, simulate
from sofs.sim.network import SimNetwork, SimTransport
from sofs.sim.world import SimProcess, World

Scenario = Callable[[World, SimProcess, SimProcess], Coroutine[None, None, None]]


def _run(seed: int, scenario: Scenario) -> None:
    loops: list[SimLoop] = []

    async def main() -> None:
        world = World(loops[0], seed)
        world.network = SimNetwork(world)
        processes = [
            world.process(name, world.machine(name), f"10.0.0.{n}")
            for n, name in enumerate(("server", "client"), start=1)
        ]
        await scenario(world, *processes)

    simulate(seed, main(), prepare=loops.append)


async def _listen(world: World, server: SimProcess, got: list[tuple[int, int]]) -> None:
    """Note (order of the stream, call) of everything that is received."""
    streams = 0

    async def accept(service: str, stream: Stream) -> None:
        nonlocal streams
        streams += 1
        number = streams
        while True:
            try:
                for envelope in await stream.receive():
                    got.append((number, envelope.call))
            except Unavailable:
                return

    await SimTransport(world.network, server).listen("10.0.0.1:1", accept)


async def _send(stream: Stream, call: int) -> None:
    await stream.send([Envelope(call, False, Done(), b"")])


def test_what_arrived_at_a_frozen_process_is_handled_when_it_thaws_though_the_sender_left() -> None:
    kept: list[bool] = []

    async def scenario(world: World, server: SimProcess, client: SimProcess) -> None:
        got: list[tuple[int, int]] = []
        await _listen(world, server, got)
        stream = await SimTransport(world.network, client).connect(
            "10.0.0.1:1", "file", timeout_ms=1_000
        )
        await _send(stream, 1)
        await asyncio.sleep(0.1)
        server.freeze()
        await _send(stream, 2)
        await asyncio.sleep(0.1)
        stream.close()
        await asyncio.sleep(10)
        assert got == [(1, 1)]
        server.thaw()
        await asyncio.sleep(0.1)
        kept.append(got == [(1, 1), (1, 2)])

    for seed in range(10):
        _run(seed, scenario)
    assert all(kept)


def test_a_stream_that_lags_brings_what_was_sent_first_behind_what_another_brought() -> None:
    async def scenario(world: World, server: SimProcess, client: SimProcess) -> None:
        got: list[tuple[int, int]] = []
        await _listen(world, server, got)
        transport = SimTransport(world.network, client)
        first = await transport.connect("10.0.0.1:1", "file", timeout_ms=1_000)
        second = await transport.connect("10.0.0.1:1", "file", timeout_ms=1_000)
        network: SimNetwork = world.network
        network.lag[first] = 500_000  # type: ignore[index]
        await _send(first, 1)
        await asyncio.sleep(0.1)
        await _send(second, 2)
        await asyncio.sleep(1)
        assert got == [(2, 2), (1, 1)]

    for seed in range(5):
        _run(seed, scenario)
