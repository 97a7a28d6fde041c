"""Open files whose names change, files that are emptied while others write them, and an application
that is started again and takes its files back."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Final

from sofs.client.file import AsyncFile
from sofs.core.messages import Share
from sofs.errors import (
    DeletePending,
    FileNotAvailable,
    ObjectNameNotFound,
    SharingViolation,
    SofsError,
)
from sofs.sim.history import Operation
from sofs.sim.workloads.base import LOST, Actor, Workload

TOP: Final = "/opened"
FILES: Final = 2
CELL: Final = 64
CELLS: Final = 3


class Opened(Workload):
    """A client's own files, renamed, moved with their directory, or unlinked while they are open:
    the handle goes on, names say the new truth through whatever node, and a deleted file goes with
    its last handle. One story a step; it ends where an outcome is not known."""

    name: ClassVar[str] = "opened"

    async def setup(self, actor: Actor) -> None:
        await actor.share.mkdir(TOP)

    async def step(self, actor: Actor) -> None:
        number = self.unique()
        data = b"%08d" % number * actor.draw.choice((1, 700))
        folder, moved = f"{TOP}/d{number}", f"{TOP}/e{number}"
        try:
            await actor.share.mkdir(folder)
            file = await actor.share.open(
                f"{folder}/file", "x+b", timeout_ms=self.plan.handle_timeout_ms
            )
        except SofsError as error:
            self.world.tell(f"opened: {error}", actor.process)
            return
        try:
            await self._story(actor, file, data, folder, moved)
        except LOST as error:
            if not self.plan.handles_may_be_lost:
                self.world.fail(f"{actor.name} lost {folder}/file within its timeout: {error}")
        except SofsError as error:
            if error.definite and not isinstance(error, FileNotAvailable):
                self.unexpected(self.history.invoke(actor.name, "story", folder), error)

    async def _story(
        self, actor: Actor, file: AsyncFile, data: bytes, folder: str, moved: str
    ) -> None:
        share, draw = actor.share, actor.draw
        await file.pwrite(data, 0)
        await share.rename(folder, moved)
        self._wander(actor)
        await self._holds(actor, file, f"{moved}/file", data)
        await share.rename(f"{moved}/file", f"{moved}/other")
        self._wander(actor)
        await self._gone(actor, f"{moved}/file")
        more = data[::-1]
        await file.pwrite(more, len(data))
        await self._holds(actor, file, f"{moved}/other", data + more)
        kind = draw.choice(("unlink", "replace", "close"))
        if kind == "unlink":
            await share.unlink(f"{moved}/other")
            self._wander(actor)
            seen = await file.pread(2 * len(data), 0)
            if seen != data + more:
                self.world.fail(f"{moved}/other changed for its handle when it was unlinked")
            await self._gone(actor, f"{moved}/other")
        elif kind == "replace":
            await share.write_file(f"{moved}/new", b"new")
            await file.close()
            await share.replace(f"{moved}/new", f"{moved}/other")
            self._wander(actor)
            if await share.read_file(f"{moved}/other") != b"new":
                self.world.fail(f"{moved}/other is not what replaced it")
            await share.unlink(f"{moved}/other")
        await file.close()
        if kind == "close":
            await share.unlink(f"{moved}/other")
        await self._gone(actor, f"{moved}/other")
        await share.rmdir(moved)

    def _wander(self, actor: Actor) -> None:
        """Go on through another node, mostly."""
        if actor.draw.random() < 0.6:
            actor.share.leave()

    async def _holds(self, actor: Actor, file: AsyncFile, path: str, data: bytes) -> None:
        """The handle and the name show the same contents."""
        through_name = await actor.share.read_file(path)
        through_handle = await file.pread(len(data) + 1, 0)
        if through_name != data or through_handle != data:
            self.world.fail(
                f"{path} has {len(through_name)} bytes by its name and {len(through_handle)} by "
                f"its handle, not the {len(data)} that were written"
            )

    async def _gone(self, actor: Actor, path: str) -> None:
        """The name leads nowhere, or to a file that is being deleted."""
        try:
            await actor.share.read_file(path)
        except (ObjectNameNotFound, DeletePending):
            return
        self.world.fail(f"{path} can still be read")


class Overwrites(Workload):
    """Files that some empty by opening them, while others have them open to write and read."""

    name: ClassVar[str] = "overwrites"

    def path(self, actor: Actor) -> str:
        return f"/overwritten-{actor.draw.randrange(FILES)}"

    async def setup(self, actor: Actor) -> None:
        for number in range(FILES):
            await actor.share.write_file(f"/overwritten-{number}", b"", exclusive=True)

    async def step(self, actor: Actor) -> None:
        path, draw = self.path(actor), actor.draw
        kind = draw.choice(("empty", "write", "write", "read", "read"))
        if self.plan.reads and draw.random() < self.plan.reads:
            kind = "read"
        try:
            if kind == "empty":
                await self._empty(actor, path)
                return
            file = await self.open(actor, path)
            at = draw.randrange(CELLS) * CELL
            if kind == "write":
                data = (b"%08d" % self.unique()) * (CELL // 8)
                operation = self.history.invoke(actor.name, "write", path, at, data)
                await self.record(operation, lambda: file.pwrite(data, at), settle=actor)
            else:
                operation = self.history.invoke(actor.name, "read", path, 0, CELLS * CELL)
                await self.record(operation, lambda: file.pread(CELLS * CELL, 0), lambda got: got)
        except LOST as error:
            self.lost(actor, path, error)

    async def _empty(self, actor: Actor, path: str) -> None:
        operation = self.history.invoke(actor.name, "truncate", path, 0)
        file = await self.record(
            operation,
            lambda: actor.share.open(path, "w+b", timeout_ms=self.plan.handle_timeout_ms),
            lambda _: None,
        )
        if file is not None:
            try:
                await file.close()
            except SofsError as error:
                self.world.tell(f"close of {path}: {error}", actor.process)

    async def finish(self, actor: Actor) -> None:
        for number in range(FILES):
            await self.close(actor, f"/overwritten-{number}")

    async def verify(self, actor: Actor) -> None:
        for number in range(FILES):
            path = f"/overwritten-{number}"
            operation = self.history.invoke(actor.name, "read", path, 0, 1 << 40)
            data = await self.record(operation, lambda p=path: actor.share.read_file(p), bytes)  # type: ignore[misc]
            if data is not None:
                self.finals[path] = data


class Apps(Workload):
    """An application has its file for itself. When its client is killed and started again, the next
    one gets it at once, by the name of the application, with all that was acknowledged."""

    name: ClassVar[str] = "apps"

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self._unsure: dict[str, None] = {}  # Clients that may have an open that they do not know.

    async def step(self, actor: Actor) -> None:
        base = actor.name.partition("'")[0]
        path = f"/app-{base}"
        try:
            file = actor.files.get(path)
            if file is None or file.closed:
                file = await self._take(actor, path, base)
            if file is not None:
                await self._use(actor, path, file)
        except LOST as error:
            self._unsure[actor.name] = None
            self.lost(actor, path, error)

    async def _take(self, actor: Actor, path: str, base: str) -> AsyncFile | None:
        instance = hashlib.sha256(base.encode()).digest()[:16]
        if not await actor.share.exists(path):
            operation = self.history.invoke(actor.name, "write", path, 0, bytes(8))
            await self.record(operation, lambda: actor.share.write_file(path, bytes(8)))
        try:
            return await self.open(actor, path, "r+b", share=Share.NONE, app_instance=instance)
        except SharingViolation as error:
            if actor.name not in self._unsure:
                self.world.fail(f"{actor.name} does not get the file of its instance: {error}")
        except SofsError as error:
            self._unsure[actor.name] = None
            if error.definite and not isinstance(error, ObjectNameNotFound):
                self.unexpected(self.history.invoke(actor.name, "open", path), error)
        return None

    async def _use(self, actor: Actor, path: str, file: AsyncFile) -> None:
        if actor.draw.random() < 0.5:
            data = b"%08d" % self.unique()
            operation = self.history.invoke(actor.name, "write", path, 0, data)
            await self.record(operation, lambda: file.pwrite(data, 0), settle=actor)
        else:
            operation = self.history.invoke(actor.name, "read", path, 0, 8)
            await self.record(operation, lambda: file.pread(8, 0), lambda got: got)

    def unexpected(self, operation: Operation, error: SofsError) -> None:
        if not isinstance(error, SharingViolation):
            super().unexpected(operation, error)

    async def finish(self, actor: Actor) -> None:
        await self.close(actor, f"/app-{actor.name.partition(chr(39))[0]}")
