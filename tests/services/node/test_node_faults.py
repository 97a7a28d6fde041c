"""The real client SDK over real nodes and authorities while these die, freeze and are sealed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from node_world import World

from sofs.client.aio import AsyncShare, connect
from sofs.services.authority.service import AuthorityPart

ADDRESSES = {"a": "10.0.0.1:7000", "b": "10.0.0.2:7000", "c": "10.0.0.3:7000"}


class Load:
    """Clients that check all they read: each has a file of its own with a model, and all append to
    one shared file."""

    def __init__(self, shares: list[AsyncShare]) -> None:
        self.shares = shares
        self.stop = False
        self.operations = 0
        self.appended: list[tuple[int, bytes]] = []
        self.tasks = [
            asyncio.create_task(work(number, share))
            for number, share in enumerate(shares)
            for work in (self._own, self._shared)
        ]

    async def more(self, operations: int) -> None:
        """Return after that many further operations were acknowledged."""
        wanted = self.operations + operations
        while self.operations < wanted:  # Counted by eight tasks.
            await asyncio.sleep(0.005)
            for task in self.tasks:
                if task.done():
                    task.result()

    async def _own(self, number: int, share: AsyncShare) -> None:
        rng = random.Random(number)
        model = bytearray()
        async with await share.open(f"/own{number}", "w+b") as file:
            while not self.stop:
                kind = rng.random()
                if kind < 0.5:
                    offset = rng.randrange(60_000)
                    data = rng.randbytes(rng.choice([1, 100, 4096, 5000, 20_000]))
                    await file.pwrite(data, offset)
                    model.extend(bytes(max(0, offset - len(model))))
                    model[offset : offset + len(data)] = data
                elif kind < 0.65:
                    data = rng.randbytes(rng.randrange(1, 3000))
                    assert await file.append(data) == len(model)
                    model += data
                elif kind < 0.7:
                    cut = rng.randrange(len(model) + 1)
                    await file.truncate(cut)
                    del model[cut:]
                else:
                    offset = rng.randrange(len(model) + 1)
                    found = await file.pread(20_000, offset)
                    assert found == model[offset : offset + 20_000]
                self.operations += 1
            assert await file.readall() == model
        assert await share.read_file(f"/own{number}") == model

    async def _shared(self, number: int, share: AsyncShare) -> None:
        count = 0
        async with await share.open("/shared", "a+b") as file:
            while not self.stop:
                tag = b"<%02d:%06d>" % (number, count)
                count += 1
                offset = await file.append(tag)
                self.appended.append((offset, tag))
                assert await file.pread(len(tag), offset) == tag
                self.operations += 1

    async def finish(self) -> None:
        self.stop = True
        await asyncio.gather(*self.tasks)
        whole = await self.shares[0].read_file("/shared")
        assert len(whole) == sum(len(tag) for _, tag in self.appended), "each append exactly once"
        for offset, tag in self.appended:
            assert whole[offset : offset + len(tag)] == tag


async def standby(w: World, part: str) -> AuthorityPart:
    """Start an authority part without waiting that it is the active one."""
    made = w.make_authority(part)
    await made.start(f"{part}:0")
    return made


async def test_clients_see_no_error_and_lose_nothing_whoever_dies(tmp_path: Path) -> None:
    w = World(tmp_path)
    shares: list[AsyncShare] = []
    load: Load | None = None
    try:
        await w.authority()
        await standby(w, "resume-key")
        for name, address in ADDRESSES.items():
            await w.node(name, address=address)
        order = list(ADDRESSES.values())
        for first in range(3):
            url = ",".join(order[first:] + order[:first])
            shares.append(
                await connect(f"sofs://{url}/vol", transport=w.hub.transport(), witness=False)
            )
        load = Load(shares)
        await load.more(100)
        await w.kill_node("a")
        await load.more(100)
        await w.node("a", address=ADDRESSES["a"])
        sealed = w.nodes["b"].node
        assert sealed is not None
        await w.seal(sealed)
        await load.more(100)
        await w.kill_authority("coordinator")
        await load.more(100)
        w.hub.freeze(ADDRESSES["c"])
        await load.more(20)
        w.hub.thaw(ADDRESSES["c"])
        await standby(w, "coordinator")
        await load.more(50)
        await w.kill_authority("resume-key")
        await w.kill_node("b")
        await load.more(50)
        await asyncio.wait_for(load.finish(), 60)
        assert not w.exits
    finally:
        if load is not None:
            for task in load.tasks:
                task.cancel()
            await asyncio.gather(*load.tasks, return_exceptions=True)
        for share in shares:
            await share.close(timeout_ms=1_000)
        await w.close()
