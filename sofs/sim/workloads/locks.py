"""Byte-range locks of many handles on few ranges; every grant is a fact for the checker."""

from __future__ import annotations

from typing import ClassVar, Final

from sofs.client.file import AsyncFile
from sofs.errors import FileLockConflict, LockNotGranted, RangeNotLocked, SofsError
from sofs.sim.history import Operation
from sofs.sim.workloads.base import LOST, Actor, Workload

PATH: Final = "/locked"
PLACES: Final = 3
PLACE_BYTES: Final = 100
LEFT_MS: Final = 70_000  # Longer than the handle of any client that died.


class Locks(Workload):
    """Exclusive and shared locks, some waiting for a while. A handle that is lost, or whose lock or
    unlock has no answer, is closed: only then is it known what it holds."""

    name: ClassVar[str] = "locks"

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.held: dict[AsyncFile, list[tuple[int, int]]] = {}

    def unexpected(self, operation: Operation, error: SofsError) -> None:
        if isinstance(error, LockNotGranted):
            # Who asks may stand behind one who waits: the refusal tells nothing of who holds what.
            operation.code = "NOT_ITS_TURN"
        elif not isinstance(error, FileLockConflict):
            super().unexpected(operation, error)

    async def setup(self, actor: Actor) -> None:
        await actor.share.write_file(PATH, bytes(PLACES * PLACE_BYTES), exclusive=True)

    async def step(self, actor: Actor) -> None:
        try:
            file = await self.open(actor, PATH)
        except LOST as error:
            self.lost(actor, PATH, error)
            return
        if file not in self.held:
            self._opened(actor, file)
        held = self.held[file]
        if actor.draw.random() < 0.2:
            await self._write(actor, file)
        elif held and actor.draw.random() < 0.6:
            await self._unlock(actor, file, held)
        else:
            await self._lock(actor, file, held)
        if actor.draw.random() < 0.03:
            await self._release(actor, file)

    def _opened(self, actor: Actor, file: AsyncFile) -> None:
        """A new handle. Where the server may let it go before its client learns of it, that may be
        at any time; else only after the client's death."""
        self.held[file] = []

        def died() -> None:
            if file in self.held:
                self._gone(actor, file)

        if self.plan.handles_may_be_lost:
            self.history.invoke("server", "release", PATH, self._holder(actor, file))
        else:
            actor.process.on_crash.append(died)

    def _holder(self, actor: Actor, file: AsyncFile) -> str:
        return f"{actor.name}/{file.remote.handle}"

    async def _lock(self, actor: Actor, file: AsyncFile, held: list[tuple[int, int]]) -> None:
        draw = actor.draw
        first = draw.randrange(PLACES)
        last = draw.randrange(first, PLACES)
        offset, length = first * PLACE_BYTES, (last - first + 1) * PLACE_BYTES
        if any(offset < o + n and o < offset + length for o, n in held):
            return  # Locks of one handle on one range stack; the model of the checker is simpler.
        exclusive = draw.random() < 0.6
        wait_ms = draw.choice((0, 0, 50, 500))
        operation = self.history.invoke(
            actor.name, "lock", PATH, offset, length, exclusive, self._holder(actor, file)
        )
        try:
            await self.record(
                operation,
                lambda: file.lock(
                    offset, length, exclusive=exclusive, wait=wait_ms > 0, wait_ms=wait_ms
                ),
            )
        except LOST as error:
            self._gone(actor, file)
            self.lost(actor, PATH, error)
            return
        if operation.outcome == "ok":
            held.append((offset, length))
        elif operation.maybe:
            await self._release(actor, file)

    async def _unlock(self, actor: Actor, file: AsyncFile, held: list[tuple[int, int]]) -> None:
        offset, length = held.pop(actor.draw.randrange(len(held)))
        holder = self._holder(actor, file)
        operation = self.history.invoke(actor.name, "unlock", PATH, offset, length, holder)
        try:
            await self.record(operation, lambda: file.unlock(offset, length))
        except LOST as error:
            self._gone(actor, file)
            self.lost(actor, PATH, error)
            return
        if operation.code == RangeNotLocked.code:
            self.world.fail(f"{operation}: it was locked")
        elif operation.maybe:
            await self._release(actor, file)

    async def _write(self, actor: Actor, file: AsyncFile) -> None:
        """A write where another handle holds a lock from before it until after it is refused."""
        place = actor.draw.randrange(PLACES) * PLACE_BYTES
        others = [
            (other, lock)
            for other, locks in self.held.items()
            for lock in locks
            if other is not file and lock[0] <= place < lock[0] + lock[1]
        ]
        operation = self.history.invoke(
            actor.name, "write-at-lock", PATH, place, self._holder(actor, file)
        )
        try:
            await self.record(operation, lambda: file.pwrite(b"x", place))
        except LOST as error:
            self._gone(actor, file)
            self.lost(actor, PATH, error)
            return
        if operation.outcome == "ok" and not self.plan.handles_may_be_lost:
            for other, lock in others:
                # The very same grant, by identity: a range may be unlocked and locked again.
                if any(lock is still for still in self.held.get(other, ())):
                    self.world.fail(f"{operation}: it landed in the lock {lock} of another handle")

    async def _release(self, actor: Actor, file: AsyncFile) -> None:
        """Close the handle; all its locks go."""
        operation = self.history.invoke(actor.name, "release", PATH, self._holder(actor, file))
        self.held.pop(file, None)
        actor.files.pop(PATH, None)
        try:
            await self.record(operation, file.close)
        except LOST:
            return

    def _gone(self, actor: Actor, file: AsyncFile) -> None:
        """The server let the handle go at some time."""
        self.held.pop(file, None)
        operation = self.history.invoke("server", "release", PATH, self._holder(actor, file))
        self.history.unknown(operation)

    async def finish(self, actor: Actor) -> None:
        file = actor.files.get(PATH)
        if file is not None:
            await self._release(actor, file)

    async def verify(self, actor: Actor) -> None:
        """When everybody has gone, every lock is granted, and still excludes."""
        first = await actor.share.open(PATH, "r+b")
        second = await actor.share.open(PATH, "r+b")
        for place in range(PLACES):
            at, length = place * PLACE_BYTES, PLACE_BYTES
            exclusive = bool(place % 2)
            try:
                await first.lock(at, length, exclusive=exclusive, wait=True, wait_ms=LEFT_MS)
            except LockNotGranted as error:
                self.world.fail(
                    f"the lock of {PATH} at {at} is not granted to the last client: {error}"
                )
                continue
            try:
                await second.lock(at, length, exclusive=not exclusive, wait=False)
            except LockNotGranted:
                continue
            self.world.fail(f"two handles hold locks of {PATH} at {at} that exclude each other")
        await first.close()
        await second.close()
