"""A file of one client's own, against a byte array: writes, truncates, appends, reads, sizes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar, Final, TypeVar

from sofs.errors import SofsError
from sofs.sim.history import Operation
from sofs.sim.workloads.base import LOST, Actor, Workload

T = TypeVar("T")
Change = Callable[[bytes], bytes]
State = tuple[bytes, tuple[int, ...]]
"""Contents, and the open changes that it does not have."""

BYTES_MAX: Final = 40_000
STATES_MAX: Final = 64


class Private(Workload):
    """What the file may hold is a list of states: one, unless outcomes are unknown; every read and
    every append strikes out those that it contradicts. A change of unknown outcome is *open* in a
    state that does not have it: it may still land there, until an operation of the handle that
    waits for it (a truncate or append: they touch everything) has succeeded. A whole-file read
    goes by the path and does not wait. Now and then the client moves to another node."""

    name: ClassVar[str] = "private"

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.states: dict[str, list[State]] = {}
        self._open: dict[int, Change] = {}
        self._next = 0

    def path(self, actor: Actor) -> str:
        return f"/private-{actor.name.replace(chr(39), '-')}"

    async def step(self, actor: Actor) -> None:
        path, draw = self.path(actor), actor.draw
        try:
            if path not in self.states:
                await self.open(actor, path, "w+b")
                self.states[path] = [(b"", ())]
            kind = draw.choice(("write", "write", "truncate", "append", "read", "read", "whole"))
            await getattr(self, f"_{kind}")(actor, path)
            if draw.random() < 0.05:
                actor.share.leave()
            if draw.random() < 0.05:
                await self.close(actor, path)
        except LOST as error:
            self.lost(actor, path, error)

    async def change(
        self,
        actor: Actor,
        path: str,
        operation: Operation,
        work: Callable[[], Awaitable[T]],
        change: Change,
        *,
        settles: bool = False,
    ) -> T | None:
        """Do what changes the file: until it is over it is open; for ever, if its client is killed
        meanwhile. ``settles``: with its success nothing older is open any more."""
        before = self._closure(path)
        number, self._next = self._next, self._next + 1
        self._open[number] = change
        self.states[path] = [(data, (*left, number)) for data, left in before]
        try:
            return await self.record(operation, work, _offset, settle=actor)
        finally:
            if operation.outcome == "ok":
                self.states[path] = list(
                    dict.fromkeys((change(data), () if settles else left) for data, left in before)
                )
            elif operation.outcome == "refused":
                self.states[path] = before

    def _closure(self, path: str) -> list[State]:
        """The states, and those that open changes may make of them."""
        states = list(self.states[path])
        for data, left in states:  # Grows while it is walked.
            if len(states) >= STATES_MAX:
                break
            for number in left:
                made = (self._open[number](data), tuple(n for n in left if n != number))
                if made not in states:
                    states.append(made)
        return states[:STATES_MAX]

    def seen(self, path: str, what: str, fits: Callable[[bytes], bool]) -> None:
        """Only the states that ``fits`` says yes to are left."""
        states = self._closure(path)
        left = [state for state in states if fits(state[0])]
        if not left and len(states) < STATES_MAX:
            sizes = [len(data) for data, _ in states]
            self.world.fail(f"{path}: {what} contradicts what was written (sizes {sizes})")
        self.states[path] = left or states

    async def _write(self, actor: Actor, path: str) -> None:
        draw = actor.draw
        offset = draw.randrange(BYTES_MAX)
        data = (b"%07d|" % self.unique()) * draw.choice((1, 10, 512, 1_100))
        file = await self.open(actor, path)
        operation = self.history.invoke(actor.name, "write", path, offset, data)
        limit = self.limit_ms(actor)
        await self.change(
            actor,
            path,
            operation,
            lambda: file.pwrite(data, offset, deadline_ms=limit),
            lambda old: _written(old, offset, data),
        )

    async def _append(self, actor: Actor, path: str) -> None:
        data = (b"%07d+" % self.unique()) * actor.draw.choice((1, 600))
        file = await self.open(actor, path)
        if max(len(data) for data, _ in self.states[path]) > 2 * BYTES_MAX:
            return
        operation = self.history.invoke(actor.name, "append", path, data)
        limit = self.limit_ms(actor)
        at = await self.change(
            actor,
            path,
            operation,
            lambda: file.append(data, deadline_ms=limit),
            lambda old: old + data,
            settles=True,
        )
        if at is not None:
            self.seen(path, f"an append at {at}", lambda state: len(state) == at + len(data))

    async def _truncate(self, actor: Actor, path: str) -> None:
        size = actor.draw.randrange(BYTES_MAX)
        file = await self.open(actor, path)
        operation = self.history.invoke(actor.name, "truncate", path, size)
        limit = self.limit_ms(actor)
        await self.change(
            actor,
            path,
            operation,
            lambda: file.truncate(size, deadline_ms=limit),
            lambda old: old[:size] + bytes(max(0, size - len(old))),
            settles=True,
        )

    async def _read(self, actor: Actor, path: str) -> None:
        offset, length = actor.draw.randrange(BYTES_MAX), actor.draw.choice((10, 5_000, 20_000))
        file = await self.open(actor, path)
        operation = self.history.invoke(actor.name, "read", path, offset, length)
        data = await self.record(operation, lambda: file.pread(length, offset), lambda data: data)
        if data is not None:
            self.seen(path, str(operation), lambda state: state[offset : offset + length] == data)

    async def _whole(self, actor: Actor, path: str) -> None:
        operation = self.history.invoke(actor.name, "read", path, 0, 1 << 40)
        data = await self.record(operation, lambda: actor.share.read_file(path), lambda data: data)
        if data is not None:
            self.seen(path, str(operation), lambda state: state == data)

    async def finish(self, actor: Actor) -> None:
        await self.close(actor, self.path(actor))

    async def verify(self, actor: Actor) -> None:
        """All files, through a client that wrote none of them."""
        for path in list(self.states):
            try:
                data = await actor.share.read_file(path)
            except SofsError as error:
                self.world.fail(f"{path} cannot be read at the end: {error}")
                continue
            self.finals[path] = data
            self.seen(path, "the last read", data.__eq__)


def _offset(value: object) -> object:
    return value


def _written(old: bytes, offset: int, data: bytes) -> bytes:
    if offset > len(old):
        old += bytes(offset - len(old))
    return old[:offset] + data + old[offset + len(data) :]
