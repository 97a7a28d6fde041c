"""Reads and writes of cells at odd offsets; every value is written once."""

from __future__ import annotations

from typing import ClassVar

from sofs.sim.history import Operation
from sofs.sim.workloads.base import LOST, Actor, Workload

CELLS = 6
FILES = 2


class Registers(Workload):
    """Cells of 24 to 9,000 bytes: within a page, across pages, several whole pages. A write covers
    one cell with a value of its own; a read that returns anything but one whole value is torn."""

    name: ClassVar[str] = "registers"
    concurrent: ClassVar[bool] = True

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.cells: dict[str, tuple[int, int]] = {}
        for number in range(FILES):
            at = self.draw.randrange(3_000)
            for cell in range(CELLS):
                length = self.draw.choice((24, 200, 4_096, 5_000, 9_000))
                self.cells[f"/reg-{number}#{cell}"] = (at, length)
                at += length + self.draw.choice((0, 0, 100, 3_000))

    def value(self, key: str) -> bytes:
        length = self.cells[key][1]
        text = b"%08d|" % self.unique()
        return (text * (length // len(text) + 1))[:length]

    async def setup(self, actor: Actor) -> None:
        for number in range(FILES):
            async with await actor.share.open(f"/reg-{number}", "xb"):
                pass
        for key in self.cells:
            await self.write(actor, key)
        await self.finish(actor)

    async def step(self, actor: Actor) -> None:
        key = actor.draw.choice(list(self.cells))
        path = key.partition("#")[0]
        try:
            if actor.draw.random() < 0.5:
                await self.write(actor, key)
            else:
                await self.read(actor, key)
        except LOST as error:
            self.lost(actor, path, error)

    async def write(self, actor: Actor, key: str) -> None:
        file = await self.open(actor, key.partition("#")[0])
        data = self.value(key)
        offset = self.cells[key][0]
        operation = self.history.invoke(actor.name, "write", key, 0, data)
        limit = self.limit_ms(actor)
        await self.record(
            operation, lambda: file.pwrite(data, offset, deadline_ms=limit), settle=actor
        )

    async def read(self, actor: Actor, key: str) -> bytes | None:
        file = await self.open(actor, key.partition("#")[0])
        offset, length = self.cells[key]
        operation = self.history.invoke(actor.name, "read", key, 0, length)
        return await self.record(operation, lambda: file.pread(length, offset), lambda data: data)

    async def finish(self, actor: Actor) -> None:
        for path in [p for p in actor.files if p.startswith("/reg-")]:
            await self.close(actor, path)

    async def verify(self, actor: Actor) -> None:
        for key in self.cells:
            data = await self.read(actor, key)
            if data is not None:
                self.finals[key] = data
        await self.finish(actor)

    def judge(self) -> list[str]:
        """Every read returns a value whose write may be the newest at some moment of the read."""
        found: list[str] = []
        for key, operations in self.history.by_key("read", "write").items():
            if key in self.cells:
                found.extend(_judge(key, operations))
        return found


def _judge(key: str, operations: list[Operation]) -> list[str]:
    writes = {o.arguments[1]: o for o in operations if o.kind == "write"}
    done = sorted((w for w in writes.values() if w.outcome == "ok"), key=lambda w: w.end)
    found: list[str] = []
    overwritten = 0  # The latest call among writes that ended before the read.
    latest: Operation | None = None
    at = 0
    for read in operations:  # In the order of their calls.
        while at < len(done) and done[at].end < read.called:
            if done[at].called > overwritten:
                overwritten, latest = done[at].called, done[at]
            at += 1
        if read.kind != "read" or read.outcome != "ok":
            continue
        write = writes.get(read.result)
        if write is None:
            found.append(f"{key}: {read} returned bytes that nobody wrote")
        elif write.outcome == "refused":
            found.append(f"{key}: {read} returned the refused {write}")
        elif write.called > read.end:
            found.append(f"{key}: {read} returned a value before it was written by {write}")
        elif write.end < overwritten:
            found.append(f"{key}: {read} returned {write}, overwritten by {latest} before it")
    return found
