"""Names: files with unique contents are made, renamed and deleted in a small tree; files are opened
by one client at a time, with and without delete-on-close."""

from __future__ import annotations

from typing import ClassVar, Final

from sofs.core.messages import Share
from sofs.errors import (
    DeletePending,
    DirectoryNotEmpty,
    FileIsADirectory,
    FileNotAvailable,
    InvalidParameter,
    NotADirectory,
    ObjectNameCollision,
    ObjectNameNotFound,
    SharingViolation,
    SofsError,
)
from sofs.sim.history import Operation
from sofs.sim.workloads.base import LOST, Actor, Workload

CONTESTED: Final = (
    ObjectNameCollision,
    ObjectNameNotFound,
    SharingViolation,
    DeletePending,
    FileNotAvailable,
    DirectoryNotEmpty,
    NotADirectory,
    FileIsADirectory,
    InvalidParameter,  # A directory is not moved into itself.
)


class Tree(Workload):
    """Create, rename, unlink, mkdir, rmdir, exists, listdir below ``/t``. Contents are unique, so
    that one file in two places shows."""

    name: ClassVar[str] = "tree"
    top: ClassVar[str] = "/t"
    concurrent: ClassVar[bool] = True

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.found: dict[str, bytes] | None = None

    def unexpected(self, operation: Operation, error: SofsError) -> None:
        if not isinstance(error, CONTESTED):
            super().unexpected(operation, error)

    async def setup(self, actor: Actor) -> None:
        for path in (self.top, f"{self.top}/d0", f"{self.top}/d1"):
            operation = self.history.invoke(actor.name, "mkdir", "volume", path)
            await self.record(operation, lambda path=path: actor.share.mkdir(path))  # type: ignore[misc]

    def path(self, actor: Actor) -> str:
        folder = actor.draw.choice(("", "/d0", "/d1"))
        return f"{self.top}{folder}/{actor.draw.choice('abc')}"

    async def step(self, actor: Actor) -> None:
        draw, share = actor.draw, actor.share
        path, other = self.path(actor), self.path(actor)
        kind = draw.choice(
            ("create", "create", "unlink", "rename", "replace", "exists", "listdir", "folders")
        )
        if self.plan.reads and draw.random() < self.plan.reads:
            kind = draw.choice(("exists", "exists", "listdir"))
        invoke, me = self.history.invoke, actor.name
        if kind == "create":
            data = b"%08d" % self.unique()
            operation = invoke(me, "create", "volume", path)
            limit = self.limit_ms(actor)
            await self.record(
                operation,
                lambda: share.write_file(path, data, exclusive=True, deadline_ms=limit),
                settle=actor,
            )
        elif kind == "unlink":
            operation = invoke(me, "unlink", "volume", path)
            limit = self.limit_ms(actor)
            await self.record(
                operation, lambda: share.unlink(path, deadline_ms=limit), settle=actor
            )
        elif kind == "rename" or kind == "replace":
            replace = kind == "replace"
            call = share.replace if replace else share.rename
            operation = invoke(me, "rename", "volume", path, other, replace)
            limit = self.limit_ms(actor)
            await self.record(operation, lambda: call(path, other, deadline_ms=limit), settle=actor)
        elif kind == "exists":
            operation = invoke(me, "exists", "volume", path)
            await self.record(operation, lambda: share.exists(path), bool)
        elif kind == "listdir":
            folder = path.rpartition("/")[0]
            operation = invoke(me, "listdir", "volume", folder)
            await self.record(operation, lambda: share.listdir(folder), list)
        else:
            await self.folders(actor)

    async def folders(self, actor: Actor) -> None:
        """Make, move or remove a directory."""
        draw, share = actor.draw, actor.share
        kind = draw.choice(("mkdir", "rmdir", "rename"))
        path = f"{self.top}/{draw.choice(('d0', 'd1'))}"
        if kind == "mkdir":
            operation = self.history.invoke(actor.name, kind, "volume", path)
            await self.record(operation, lambda: share.mkdir(path))
        elif kind == "rmdir":
            operation = self.history.invoke(actor.name, kind, "volume", path)
            await self.record(operation, lambda: share.rmdir(path))
        else:
            other = f"{self.top}/{draw.choice(('d0', 'd1'))}"
            operation = self.history.invoke(actor.name, kind, "volume", path, other, False)
            await self.record(operation, lambda: share.rename(path, other))

    async def verify(self, actor: Actor) -> None:
        found: dict[str, bytes] = {}
        async for folder, _, files in actor.share.walk(self.top):
            for name in files:
                path = f"{folder.rstrip('/')}/{name}"
                found[path] = await actor.share.read_file(path)
        self.found = found

    def judge(self) -> list[str]:
        """No file is in two places, and as many are there as were made and not deleted."""
        if self.found is None:
            return []
        told: list[str] = []
        places: dict[bytes, str] = {}
        for path, data in self.found.items():
            if data in places:
                told.append(f"one file is at {path} and at {places[data]}: {data!r}")
            places[data] = path
        mine = [
            o for o in self.history.of("create", "unlink", "rename")
            if str(o.arguments[0]).startswith(self.top)
        ]  # fmt: skip
        created = sum(o.outcome == "ok" for o in mine if o.kind == "create")
        deleted = sum(o.outcome == "ok" for o in mine if o.kind == "unlink")
        perhaps_made = sum(o.maybe for o in mine if o.kind == "create")
        perhaps_gone = sum(
            (o.maybe and o.kind == "unlink")
            or (o.kind == "rename" and o.arguments[2] and (o.maybe or o.outcome == "ok"))
            for o in mine
        )
        least = created - deleted - perhaps_gone
        most = created - deleted + perhaps_made
        if not least <= len(self.found) <= most:
            told.append(
                f"{len(self.found)} files are there; {created} were made and {deleted} deleted"
            )
        return told


class Exclusive(Workload):
    """Files that one client at a time has open: by share mode, or by their existence (created
    exclusively and deleted on close)."""

    name: ClassVar[str] = "exclusive"

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.holders: dict[str, str] = {}

    async def setup(self, actor: Actor) -> None:
        for number in range(2):
            await actor.share.write_file(f"/only-{number}", b"", exclusive=True)

    async def step(self, actor: Actor) -> None:
        number = actor.draw.randrange(2)
        shared = actor.draw.random() < 0.5
        path = f"/only-{number}" if shared else f"/temporary-{number}"
        mode = "r+b" if shared else "x+b"
        try:
            file = await actor.share.open(
                path,
                mode,
                share=Share.NONE,
                delete_on_close=not shared,
                timeout_ms=self.plan.handle_timeout_ms,
            )
        except CONTESTED:
            return
        except SofsError as error:
            if error.definite:
                self.unexpected(self.history.invoke(actor.name, "open", path), error)
            return
        holder = self.holders.get(path, "")
        if holder and not self.plan.handles_may_be_lost:
            self.world.fail(f"{actor.name} opened {path}, which {holder} has open for itself alone")
        self.holders[path] = actor.name
        try:
            data = b"%08d" % self.unique()
            operation = self.history.invoke(actor.name, "write", path, 0, data)
            await self.record(operation, lambda: file.pwrite(data, 0))
            if operation.outcome == "ok":
                operation = self.history.invoke(actor.name, "read", path, 0, 8)
                got = await self.record(operation, lambda: file.pread(8, 0), lambda got: got)
                if got is not None and got != data:
                    self.world.fail(f"{operation}: {data!r} was written through the same handle")
        except LOST as error:
            if not self.plan.handles_may_be_lost:
                self.world.fail(f"{actor.name} lost {path} within its timeout: {error}")
        if self.holders.get(path) == actor.name:
            del self.holders[path]
        try:
            await file.close()
        except SofsError as error:
            self.world.tell(f"close of {path}: {error}", actor.process)

    async def verify(self, actor: Actor) -> None:
        """Nothing that is deleted on close is left when all clients have ended."""
        if self.plan.handles_may_be_lost:
            await actor.sleep_ms(3 * self.plan.handle_timeout_ms)
        left = [name for name in await actor.share.listdir("/") if name.startswith("temporary")]
        if left:
            self.world.fail(f"{left} should be deleted: every client closed or ended")


__all__ = ["Exclusive", "Tree"]
