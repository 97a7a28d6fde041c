"""What a leader did is in its ring, also when it was killed amid it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from leader_world import ALL, M1, M2, M3, FakePlatform, World, until, world

from sofs.core import messages as m
from sofs.core.spans import RingView, Span, assemble
from sofs.core.trace import TRACE_BYTES, SpanKind, SpanStatus
from sofs.errors import Unavailable
from sofs.ports.platform import PartOrder
from sofs.services.channel import open_channel
from sofs.services.leader.desk import CREATE
from sofs.telemetry.ring import open_ring, read_rings


def spans(folder: Path, *, alive: bool = True) -> list[Span]:
    return assemble(RingView(found.contents, alive) for found in read_rings(folder))


def about(folder: Path, operation: str) -> list[str]:
    return [note for s in spans(folder) if s.operation == operation for note in s.notes]


class Slow(FakePlatform):
    """It never comes back from making the node of the second machine."""

    async def create(self, order: PartOrder) -> None:
        if order.name == "node-2":
            await asyncio.get_running_loop().create_future()
        await super().create(order)


class Refusing(FakePlatform):
    """It makes no witness."""

    async def create(self, order: PartOrder) -> None:
        if order.name == "witness-1":
            raise Unavailable("not now")
        await super().create(order)


async def ask(w: World, address: str, body: m.Message) -> m.Message:
    channel = await open_channel(
        w.hub.transport(),
        w.clock,
        address,
        "cluster",
        m.Hello(),
        lambda _channel, _envelope: None,
        name="operator",
        on_crash=w.fatal.append,
        timeout_ms=5_000,
    )
    try:
        return (await channel.call(body))[0]
    finally:
        await channel.close()


async def test_every_part_that_is_made_or_ended_is_a_span(tmp_path: Path) -> None:
    ring = tmp_path / "trace"
    async with world(tmp_path / "root") as w:
        platform = FakePlatform(M1, M2, M3)
        recorder = open_ring(ring, "leader", "leader", 1)
        leader = await w.leader(platform, recorder=recorder)
        await until(lambda: set(platform.running) == ALL)
        platform.running["node-9"] = platform.running["node-1"]
        await until(lambda: "node-9" not in platform.running)
        await leader.close()
        recorder.close()
    assert sorted(about(ring, "CreatePart")) == sorted(ALL)
    assert about(ring, "RemovePart") == ["node-9"]
    decisions = [s for s in spans(ring) if s.operation == "Decide"]
    batches = {s.id for s in spans(ring) if s.kind is SpanKind.BATCH}
    assert decisions
    for decided in decisions:  # Linked to what made it durable.
        assert any(link[TRACE_BYTES:] in batches for link in decided.links)


async def test_what_an_operator_changes_is_a_span_and_what_he_looks_at_is_none(
    tmp_path: Path,
) -> None:
    ring = tmp_path / "trace"
    async with world(tmp_path / "root") as w:
        leader = await w.leader(
            FakePlatform(M1, M2, M3), recorder=open_ring(ring, "leader", "leader", 1)
        )
        await until(lambda: leader.reign is not None)
        share = m.ShareInfo("more", "share", False, True)
        await ask(w, leader.address, m.ChangeShare(w.entropy.token(16), CREATE, share))
        await ask(w, leader.address, m.ListShares())
    names = [s.operation for s in spans(ring) if s.kind is SpanKind.LEADER]
    assert names.count("ChangeShare") == 1
    assert "ListShares" not in names


async def test_a_leader_that_dies_while_a_part_is_made_leaves_that_as_killed(
    tmp_path: Path,
) -> None:
    ring = tmp_path / "trace"
    async with world(tmp_path / "root") as w:
        await w.leader(Slow(M1, M2, M3), recorder=open_ring(ring, "leader", "leader", 1))
        await until(lambda: "node-2" in about(ring, "CreatePart"))
        found = spans(ring, alive=False)  # As of a process that was killed at this moment.
    [span] = [s for s in found if s.notes == ["node-2"]]
    assert span.status is SpanStatus.KILLED


async def test_what_the_platform_refused_says_so(tmp_path: Path) -> None:
    ring = tmp_path / "trace"
    async with world(tmp_path / "root") as w:
        await w.leader(Refusing(M1, M2, M3), recorder=open_ring(ring, "leader", "leader", 1))
        await until(lambda: "witness-1" in about(ring, "CreatePart"))
        await until(lambda: any(s.status is SpanStatus.ERROR for s in spans(ring)))
        [first, *_] = [s for s in spans(ring) if "witness-1" in s.notes]
    assert (first.status, first.notes) == (SpanStatus.ERROR, ["witness-1", "UNAVAILABLE"])
