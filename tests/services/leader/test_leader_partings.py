"""A node that is to be ended while it runs has its clients moved away first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from leader_world import ALL, M1, M2, M3, M4, FakePlatform, World, until
from leader_world import world as world_of

from sofs.core import messages as m
from sofs.errors import NotSupported
from sofs.ports.stream import Envelope, Stream
from sofs.services.channel import Channel, check_hello
from sofs.services.leader import partings


def addresses_of(slot: int) -> dict[str, str]:
    return {f"node-{slot}": f"10.0.0.{slot}:7000", f"witness-{slot}": f"10.0.0.{slot}:7001"}


class Witnesses:
    """All witnesses of a cluster, as far as the leader needs them; clients move when ``go`` is
    set."""

    def __init__(self, world: World, clients: int) -> None:
        self.asked: list[m.MoveClients] = []
        self.left = clients
        self.go = asyncio.Event()
        self.crashes: list[BaseException] = []
        self._clock = world.clock
        for slot in (1, 2, 3):
            world.hub.listen(f"10.0.0.{slot}:7001", self.accept)

    async def accept(self, service: str, stream: Stream) -> None:
        channel = Channel(
            stream, self._clock, self.on_message, name="w", on_crash=self.crashes.append
        )
        channel.start()
        try:
            await channel.ended
        finally:
            await channel.close()

    def on_message(self, channel: Channel, envelope: Envelope) -> None:
        body = envelope.body
        if channel.remote is None:
            channel.remote = check_hello(envelope, b"w" * 16)
            channel.reply(envelope.call, m.HelloReply(1, b"w" * 16, "w"))
        elif isinstance(body, m.MoveClients):
            self.asked.append(body)
            channel.serve(envelope.call, self._move())
        else:
            raise NotSupported(type(body).__name__)

    async def _move(self) -> m.Message:
        await self.go.wait()
        moved, self.left = self.left, 0
        return m.ClientsMoved(moved, moved)


async def drained(world: World, platform: FakePlatform) -> None:
    """Run a whole cluster, know where its parts are, and drain the third machine."""
    for slot in (1, 2, 3):
        platform.addresses |= addresses_of(slot)
    leader = await world.leader(platform)
    await until(lambda: set(platform.running) == ALL)
    reign = leader.reign
    assert reign is not None
    await until(lambda: all(n in reign.facts for n in platform.running))
    platform.drain(M3)


async def test_a_node_is_ended_when_its_clients_have_moved_and_not_before(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        platform = FakePlatform(M1, M2, M3, M4)
        witnesses = Witnesses(world, clients=2)
        await drained(world, platform)
        await until(lambda: len(witnesses.asked) == 3)
        rounds = world.leaders[0].reign.rounds
        await until(lambda: world.leaders[0].reign.rounds > rounds + 2)
        assert "node-3" in platform.running
        for body in witnesses.asked:
            assert body.leaving == "10.0.0.3:7000"
            assert set(body.destinations) == {"10.0.0.1:7000", "10.0.0.2:7000"}
        witnesses.go.set()
        await until(lambda: "node-3" in platform.removed)
        assert len(witnesses.asked) == 6  # It looked again, and found nobody.
        assert not witnesses.crashes


async def test_a_node_is_ended_at_the_limit_whatever_its_clients_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partings, "MOVE_AWAY_MS_MAX", 300)
    async with world_of(tmp_path) as world:
        platform = FakePlatform(M1, M2, M3, M4)
        witnesses = Witnesses(world, clients=1)
        await drained(world, platform)
        await until(lambda: "node-3" in platform.removed)
        assert witnesses.asked
        assert not witnesses.go.is_set()


async def test_the_clients_of_a_machine_that_is_gone_are_nobodys_to_move(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        platform = FakePlatform(M1, M2, M3, M4)
        witnesses = Witnesses(world, clients=1)
        await drained(world, platform)
        await until(lambda: witnesses.asked)
        asked = len(witnesses.asked)
        platform.alive = [machine for machine in platform.alive if machine.id != M3.id]
        await until(lambda: "node-3" in platform.removed)
        assert len(witnesses.asked) == max(asked, 3)
