"""Whole files, written and read by compound calls: each value is there whole or not at all."""

from __future__ import annotations

from typing import ClassVar

from sofs.errors import ObjectNameNotFound, SofsError
from sofs.sim.history import Operation
from sofs.sim.workloads.base import Actor, Workload

FILES = 3


class Whole(Workload):
    """``write_file`` and ``read_file``. The values of one file have one length, so that a register
    is what the checker sees."""

    name: ClassVar[str] = "whole"
    concurrent: ClassVar[bool] = True

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.lengths = [self.draw.choice((8, 100, 4_096, 9_000, 70_000)) for _ in range(FILES)]

    def unexpected(self, operation: Operation, error: SofsError) -> None:
        if not isinstance(error, ObjectNameNotFound) or operation.kind == "write":
            super().unexpected(operation, error)

    async def setup(self, actor: Actor) -> None:
        for number in range(FILES):
            await self.write(actor, number)

    async def step(self, actor: Actor) -> None:
        number = actor.draw.randrange(FILES)
        if actor.draw.random() < 0.5:
            await self.write(actor, number)
        else:
            await self.read(actor, number)

    async def write(self, actor: Actor, number: int) -> None:
        length = self.lengths[number]
        text = b"%08d" % self.unique()
        data = (text * (length // len(text) + 1))[:length]
        path = f"/whole-{number}"
        operation = self.history.invoke(actor.name, "write", path, 0, data)
        limit = self.limit_ms(actor)
        await self.record(
            operation,
            lambda: actor.share.write_file(path, data, deadline_ms=limit),
            settle=actor,
        )

    async def read(self, actor: Actor, number: int) -> bytes | None:
        path = f"/whole-{number}"
        operation = self.history.invoke(actor.name, "read", path, 0, self.lengths[number])
        return await self.record(operation, lambda: actor.share.read_file(path), lambda data: data)

    async def verify(self, actor: Actor) -> None:
        for number in range(FILES):
            data = await self.read(actor, number)
            if data is not None:
                self.finals[f"/whole-{number}"] = data
