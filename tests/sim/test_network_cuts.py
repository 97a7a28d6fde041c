"""What a cut holds back arrives when it heals, also what a process said that is dead by then."""

from __future__ import annotations

import asyncio

import pytest

from sofs.errors import Unavailable
from sofs.ports.stream import Stream
from sofs.sim.loop import SimLoop, simulate
from sofs.sim.network import SimNetwork, SimTransport
from sofs.sim.world import World


@pytest.mark.parametrize("seed", range(4))
def test_the_reset_of_a_process_that_died_behind_a_cut_arrives_when_it_heals(seed: int) -> None:
    loops: list[SimLoop] = []

    async def main() -> str:
        world = World(loops[0], seed)
        network = world.network = SimNetwork(world)
        server = world.process("server", world.machine("m1"), "10.0.0.1")
        client = world.process("client", world.machine("m2"), "10.0.0.2")
        ends: list[str] = []

        async def accept(service: str, stream: Stream) -> None:
            try:
                await stream.receive()
            except Unavailable as error:
                ends.append(str(error))

        async def listen() -> None:
            await SimTransport(network, server).listen("10.0.0.1:7000", accept)

        async def connect() -> None:
            await SimTransport(network, client).connect("10.0.0.1:7000", "file", timeout_ms=1_000)

        await server.spawn(listen())
        await client.spawn(connect())
        network.cut("10.0.0.2", "10.0.0.1")
        client.crash("killed")
        await asyncio.sleep(5)
        assert not ends, "the reset is behind the cut"
        network.heal()
        await asyncio.sleep(5)
        return "".join(ends)

    assert simulate(seed, main(), prepare=loops.append)[0]
