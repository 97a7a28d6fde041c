"""Appends of many clients to one file: each record there once, whole, where its writer was told."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Final

from sofs.errors import FileLockConflict, SofsError
from sofs.sim.workloads.base import LOST, Actor, Workload

PATH: Final = "/log"
MARK: Final = b"\n"


class Appends(Workload):
    """Records are lines of 20 to 6,000 bytes that begin with their number."""

    name: ClassVar[str] = "appends"
    concurrent: ClassVar[bool] = True
    tagged: ClassVar[str | None] = "append"

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.final: bytes | None = None

    async def setup(self, actor: Actor) -> None:
        async with await actor.share.open(PATH, "xb"):
            pass

    def line(self, actor: Actor) -> bytes:
        length = actor.draw.choice((0, 10, 100, 3_000, 6_000))
        return b"%08d" % self.unique() + b"." * length + MARK

    async def step(self, actor: Actor) -> None:
        data = self.line(actor)
        try:
            file = await self.open(actor, PATH, "a+b")
            if actor.draw.random() < 0.8:
                operation = self.history.invoke(actor.name, "append", PATH, data)
                limit = self.limit_ms(actor)
                await self.record(
                    operation,
                    lambda: file.append(data, deadline_ms=limit),
                    lambda at: at,
                    settle=actor,
                )
            else:
                operation = self.history.invoke(actor.name, "size", PATH)
                await self.record(operation, file.stat, lambda info: info.size)
        except LOST as error:
            self.lost(actor, PATH, error)

    async def finish(self, actor: Actor) -> None:
        await self.close(actor, PATH)

    async def verify(self, actor: Actor) -> None:
        operation = self.history.invoke(actor.name, "read", PATH, 0, 1 << 40)
        data = await self.record(operation, lambda: actor.share.read_file(PATH), lambda data: data)
        self.final = data
        if data is not None:
            self.finals[PATH] = data

    def judge(self) -> list[str]:
        found: list[str] = []
        appends = self.history.by_key("append").get(PATH, [])
        sizes = self.history.by_key("size").get(PATH, [])
        for size in sizes:
            if size.outcome != "ok":
                continue
            done = [a for a in appends if a.outcome == "ok" and a.end < size.called]
            least = max((a.result + len(a.arguments[0]) for a in done), default=0)
            if size.result < least:
                found.append(f"{size} is less than the {least} bytes that were acknowledged before")
        if self.final is None:
            return found
        places: dict[bytes, list[int]] = {}
        at = 0
        for line in self.final.split(MARK)[:-1]:
            places.setdefault(line + MARK, []).append(at)
            at += len(line) + 1
        if at != len(self.final):
            found.append(f"{PATH} ends with a record that is not whole")
        known = {a.arguments[0]: a for a in appends}
        for line, where in places.items():
            append = known.get(line)
            if append is None:
                found.append(f"{PATH}: bytes at {where} that nobody appended")
            elif len(where) > 1:
                found.append(f"{append} is there {len(where)} times, at {where}")
            elif append.outcome == "refused":
                found.append(f"{append} is there, at {where}")
            elif append.outcome == "ok" and append.result != where[0]:
                found.append(f"{append} is at {where[0]}")
        for append in appends:
            if append.outcome == "ok" and append.arguments[0] not in places:
                found.append(f"{append} is not there")
        return found


class Counters(Workload):
    """A counter that is read and written under an exclusive lock: no increment is lost, and no two
    clients hold the lock at once."""

    name: ClassVar[str] = "counters"
    path: ClassVar[str] = "/counter"

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.holder = ""
        self.sure = 0
        self.maybe = 0

    async def setup(self, actor: Actor) -> None:
        await actor.share.write_file(self.path, bytes(8), exclusive=True)

    async def step(self, actor: Actor) -> None:
        try:
            file = await self.open(actor, self.path)
            await file.lock(0, 8, deadline_ms=20_000)
        except LOST as error:
            self.lost(actor, self.path, error)
            return
        if self.holder and not self.plan.handles_may_be_lost:
            self.world.fail(f"{actor.name} and {self.holder} hold the lock of the counter")
        self.holder = actor.name
        wrote = False
        try:
            value = int.from_bytes(await file.pread(8, 0), "little")
            operation = self.history.invoke(actor.name, "add", self.path, 1)
            self.maybe += 1
            data = (value + 1).to_bytes(8, "little")
            await self.record(operation, lambda: file.pwrite(data, 0), lambda _: value + 1)
            wrote = operation.outcome == "ok"
            if operation.outcome == "refused":
                self.maybe -= 1
        except LOST as error:
            self.lost(actor, self.path, error)
        except SofsError as error:
            # Not even read: a full disk refuses the token that a read needs. The lock is held.
            self.world.tell(f"counter: {error}", actor.process)
        finally:
            self.sure += wrote
            if self.holder == actor.name:
                self.holder = ""
        await self.unlock(actor)

    async def unlock(self, actor: Actor) -> None:
        file = actor.files.get(self.path)
        if file is None:
            return
        try:
            await file.unlock(0, 8)
        except LOST as error:
            self.lost(actor, self.path, error)
        except SofsError as error:
            # Whatever happened to the unlock, the close that follows ends the lock.
            self.world.tell(f"unlock: {error}", actor.process)
            await self.close(actor, self.path)

    async def finish(self, actor: Actor) -> None:
        await self.close(actor, self.path)

    async def verify(self, actor: Actor) -> None:
        while True:
            try:
                data = await actor.share.read_file(self.path)
                break
            except FileLockConflict:  # Of a client that died while it held it: for its timeout.
                await actor.sleep_ms(1_000)
        value = self.totals[self.path] = int.from_bytes(data, "little")
        if not self.sure <= value <= self.maybe:
            self.world.fail(
                f"{self.path} is {value}; {self.sure} increments were acknowledged, and "
                f"{self.maybe} at most took effect"
            )
        doubled = [
            value
            for value, times in Counter(
                o.result for o in self.history.of("add") if o.outcome == "ok"
            ).items()
            if times > 1
        ]
        if doubled:
            self.world.fail(f"{self.path}: two increments gave the same value: {doubled}")


__all__ = ["Appends", "Counters"]
