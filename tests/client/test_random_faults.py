"""Random kills, freezes and lost replies under load: what was acknowledged happened just once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from client_rig import Rig, rig_of
from mini_cluster import DROP, LOSE, MiniNode

from sofs.client.aio import AsyncFile, AsyncShare
from sofs.errors import DeadlineExceeded, OutcomeUnknown

RUN_S = 1.2
RECORD_BYTES = 8


class Load:
    """Writers that remember what they were told."""

    def __init__(self, share: AsyncShare, chance: random.Random) -> None:
        self.share = share
        self.chance = chance
        self.appended: dict[bytes, int] = {}
        self.unknown: list[tuple[bytes, object]] = []
        self.refused: list[bytes] = []
        self.registers: dict[int, list[bytes]] = {}
        self.directories: list[str] = []
        self.stopping = False

    def deadline_ms(self) -> int | None:
        return 150 if self.chance.random() < 0.1 else None

    async def append(self, file: AsyncFile, writer: int) -> None:
        count = 0
        while not self.stopping:
            count += 1
            record = writer.to_bytes(2, "big") + count.to_bytes(6, "big")
            try:
                self.appended[record] = await file.append(record, deadline_ms=self.deadline_ms())
            except OutcomeUnknown as error:
                self.unknown.append((record, error.token))
            except DeadlineExceeded:
                self.refused.append(record)

    async def register(self, file: AsyncFile, place: int) -> None:
        """Write a counter in place; ``registers`` holds what may be there now."""
        count = 0
        self.registers[place] = [bytes(RECORD_BYTES)]
        while not self.stopping:
            count += 1
            value = count.to_bytes(RECORD_BYTES, "big")
            self.registers[place].append(value)
            try:
                await file.pwrite(value, place * RECORD_BYTES, deadline_ms=self.deadline_ms())
                self.registers[place] = [value]
                assert await file.pread(RECORD_BYTES, place * RECORD_BYTES) == value
            except OutcomeUnknown:
                seen = await file.pread(RECORD_BYTES, place * RECORD_BYTES)
                assert seen in self.registers[place]
                self.registers[place] = [seen]  # It is settled: nothing lands late.
            except DeadlineExceeded:
                self.registers[place].pop()

    async def mkdir(self, writer: int) -> None:
        count = 0
        while not self.stopping:
            count += 1
            name = f"/d{writer}-{count}"
            await self.share.mkdir(name)
            self.directories.append(name)


async def _trouble(rig: Rig, share: AsyncShare, chance: random.Random, stop: asyncio.Event) -> None:
    while not stop.is_set() or not share.failovers():
        await asyncio.sleep(chance.uniform(0.01, 0.15))
        used = [n for n in rig.nodes if n.address == share.facts().address]
        node = chance.choice([*rig.nodes, *used, *used])
        kind = chance.choice(["kill", "freeze", "lose", "drop", "cut"])
        if kind == "freeze":
            rig.hub.freeze(node.address)
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            rig.hub.thaw(node.address)
        elif kind == "cut":
            for channel in [c for c in node.channels if c.alive]:
                channel.end(DeadlineExceeded("the test cut the stream"))
        else:
            if kind in ("lose", "drop"):
                _misbehave(node, LOSE if kind == "lose" else DROP, chance)
                await asyncio.sleep(chance.uniform(0, 0.03))
            node.kill()
            node.script = lambda body: None
            await asyncio.sleep(chance.uniform(0, 0.2))
            await node.start()


def _misbehave(node: MiniNode, how: str, chance: random.Random) -> None:
    node.script = lambda body: how if chance.random() < 0.5 else None


@pytest.mark.parametrize("seed", range(4))
async def test_acknowledged_operations_happen_exactly_once_under_faults(seed: int) -> None:
    chance = random.Random(seed)
    async with rig_of(3) as rig, rig.connect() as share:
        load = Load(share, chance)
        log = await share.open("/log", "w+b")
        table = await share.open("/table", "w+b")
        await table.truncate(8 * RECORD_BYTES)
        workers = [asyncio.create_task(load.append(log, i)) for i in range(3)]
        workers += [asyncio.create_task(load.register(table, i)) for i in range(3)]
        workers += [asyncio.create_task(load.mkdir(0))]
        stop = asyncio.Event()
        trouble = asyncio.create_task(_trouble(rig, share, chance, stop))
        await asyncio.sleep(RUN_S)
        stop.set()
        await trouble
        load.stopping = True
        await asyncio.gather(*workers)
        await _judge(rig, share, load)
        assert share.failovers()


async def _judge(rig: Rig, share: AsyncShare, load: Load) -> None:
    settled = {record: await share.settle(token) for record, token in load.unknown}
    data = await share.read_file("/log")
    records = [data[i : i + RECORD_BYTES] for i in range(0, len(data), RECORD_BYTES)]
    assert max(Counter(records).values()) == 1
    places = {record: i * RECORD_BYTES for i, record in enumerate(records)}
    assert {record: places.get(record) for record in load.appended} == load.appended
    for record, verdict in settled.items():
        assert (record in places) == verdict.executed
        if verdict.executed:
            assert verdict.offset == places[record]
    assert not places.keys() & set(load.refused)
    assert places.keys() <= load.appended.keys() | settled.keys()
    table = await share.read_file("/table")
    for place, values in load.registers.items():
        assert table[place * RECORD_BYTES : (place + 1) * RECORD_BYTES] in values
    assert max(Counter(rig.volume.executed).values()) == 1
    made = [name for name, _ in rig.volume.mutations if name == "Mkdir"]
    assert len(made) == len(load.directories)
