"""A share in memory for tests of the SQLite adapter: files, handles, share modes, mandatory locks,
deletion at last close, and clients that die at a chosen operation.

The rules of locks are those of ``sofs.core.locks``, so that the adapter is held against what the
servers do. ``Client.die_at`` counts operations that change something; at that one the client dies,
before or after the change took effect, and every later call of it fails. ``Client.bury`` is what
the servers do when its handles expire.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from sofs.client.file import LockedView, check_parts
from sofs.core.locks import io_conflict, lock_conflict, unlock_index
from sofs.core.messages import Access, FileInfo, HeldLock, LockRange
from sofs.core.messages import Share as ShareMode
from sofs.core.share import denies, excludes, needs
from sofs.errors import (
    DeletePending,
    FileForcedClosed,
    FileLockConflict,
    LockNotGranted,
    ObjectNameCollision,
    ObjectNameNotFound,
    RangeNotLocked,
    SharingViolation,
    Unavailable,
)


@dataclass
class Inode:
    data: bytearray = field(default_factory=bytearray)
    handles: list[DoubleFile] = field(default_factory=list)
    locks: list[HeldLock] = field(default_factory=list)
    pending: bool = False


class Volume:
    """What all clients share."""

    def __init__(self) -> None:
        self.files: dict[str, Inode] = {}
        self.mutex = threading.RLock()
        self.handles = 0


class Client:
    """One client's view of the volume; takes the place of ``sofs.client.sync.Share``."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.closed = False
        self.dead = False
        self.knows = True  # Changes of locks bring size and data along.
        self.die_at = -1
        self.die_after_effect = False
        self.changes = 0
        self.log: list[tuple[str, str]] = []
        self.open_files: list[DoubleFile] = []

    def alive(self) -> None:
        if self.dead:
            raise Unavailable("this client is dead")

    def changing(self, what: str, name: str) -> bool:
        """Count a change; True if the client dies when it has taken effect."""
        self.alive()
        self.log.append((what, name))
        self.changes += 1
        if self.changes - 1 == self.die_at:
            if not self.die_after_effect:
                self.dead = True
                self.alive()
            return True
        return False

    def done(self, dies: bool) -> None:
        if dies:
            self.dead = True
            self.alive()

    def bury(self) -> None:
        """The client is gone: its handles expire."""
        self.dead = True
        for file in list(self.open_files):
            file.drop()

    def open(
        self,
        path: str,
        mode: str = "rb",
        *,
        share: ShareMode = ShareMode.ALL,
        deletable: bool = False,
        app_instance: bytes = b"",
        timeout_ms: int = 0,
    ) -> DoubleFile:
        with self.volume.mutex:
            dies = self.changing("open", path)
            inode = self.volume.files.get(path)
            if inode is not None and app_instance:
                for old in list(inode.handles):
                    if old.app_instance == app_instance and old.client is not self:
                        old.forced = True
                        old.drop()
                inode = self.volume.files.get(path)
            if inode is None:
                if mode not in ("a+b", "x+b"):
                    raise ObjectNameNotFound(path)
                inode = self.volume.files[path] = Inode()
            elif mode == "x+b":
                raise ObjectNameCollision(path)
            if inode.pending:
                raise DeletePending(path)
            access = int(Access.READ | (Access.WRITE if mode != "rb" else 0))
            access |= int(Access.DELETE) if deletable else 0
            need, deny = needs(access), denies(access, int(share))
            if any(excludes(need, deny, h.need, h.deny) for h in inode.handles):
                raise SharingViolation(path)
            self.volume.handles += 1
            file = DoubleFile(self, path, inode, self.volume.handles, app_instance, need, deny)
            file.position = len(inode.data) if mode == "a+b" else 0
            inode.handles.append(file)
            self.open_files.append(file)
            self.done(dies)
            return file

    def stat(self, path: str) -> FileInfo:
        self.alive()
        with self.volume.mutex:
            inode = self.volume.files.get(path)
            if inode is None:
                raise ObjectNameNotFound(path)
            if inode.pending:
                raise DeletePending(path)
            return FileInfo(size=len(inode.data))


class DoubleFile:
    """An open file; takes the place of ``sofs.client.sync.File``."""

    def __init__(
        self,
        client: Client,
        path: str,
        inode: Inode,
        handle: int,
        app_instance: bytes,
        need: int,
        deny: int,
    ) -> None:
        self.client, self.path, self.inode, self.handle = client, path, inode, handle
        self.app_instance, self.need, self.deny = app_instance, need, deny
        self.position = 0
        self.forced = False

    def __enter__(self) -> DoubleFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def usable(self) -> None:
        self.client.alive()
        if self.forced:
            raise FileForcedClosed(self.path)

    def tell(self) -> int:
        return self.position

    def pread(self, size: int, offset: int) -> bytes:
        with self.client.volume.mutex:
            self.usable()
            if io_conflict(self.inode.locks, self.handle, offset, size, False):
                raise FileLockConflict(self.path)
            return bytes(self.inode.data[offset : offset + size])

    def pwrite(self, data: bytes, offset: int) -> int:
        with self.client.volume.mutex:
            self.usable()
            dies = self.client.changing("write", self.path)
            if io_conflict(self.inode.locks, self.handle, offset, len(data), True):
                raise FileLockConflict(self.path)
            have = self.inode.data
            if len(have) < offset:
                have.extend(bytes(offset - len(have)))
            have[offset : offset + len(data)] = data
            self.client.done(dies)
            return len(data)

    def pwrite_parts(self, parts: Sequence[tuple[int, bytes]]) -> int:
        """All of them or none."""
        check_parts(parts)
        with self.client.volume.mutex:
            self.usable()
            dies = self.client.changing("write", self.path)
            have = self.inode.data
            for offset, data in parts:
                if io_conflict(self.inode.locks, self.handle, offset, len(data), True):
                    raise FileLockConflict(self.path)
                have.extend(bytes(max(0, offset - len(have))))
                have[offset : offset + len(data)] = data
            self.client.done(dies)
            return sum(len(data) for _, data in parts)

    def truncate(self, size: int) -> int:
        with self.client.volume.mutex:
            self.usable()
            dies = self.client.changing("truncate", self.path)
            have = self.inode.data
            del have[size:]
            have.extend(bytes(size - len(have)))
            self.client.done(dies)
            return size

    def flush(self) -> None:
        self.usable()

    def stat(self) -> FileInfo:
        self.usable()
        return FileInfo(size=len(self.inode.data))

    def set_info(self, *, delete_on_close: bool) -> None:
        with self.client.volume.mutex:
            self.usable()
            dies = self.client.changing("delete", self.path)
            self.inode.pending = delete_on_close
            self.client.done(dies)

    def change_locks(
        self,
        *,
        drop: Sequence[LockRange] = (),
        test: Sequence[LockRange] = (),
        take: Sequence[LockRange] = (),
        wait_ms: int = 0,
        read: tuple[int, int] = (0, 0),
        beside: str = "",
    ) -> LockedView:
        """Never waits: in these tests nobody else could make the wait end."""
        with self.client.volume.mutex:
            self.usable()
            held = list(self.inode.locks)
            for each in drop:
                index = unlock_index(held, self.handle, each)
                if index is None:
                    raise RangeNotLocked(self.path)
                del held[index]
            for wanted in test:
                if lock_conflict(held, self.handle, wanted):
                    raise LockNotGranted(self.path)
            for wanted in take:
                if lock_conflict(held, self.handle, wanted):
                    raise LockNotGranted(self.path)
                held.append(HeldLock(self.handle, wanted.offset, wanted.length, wanted.exclusive))
            self.inode.locks = held
            other = self.client.volume.files.get(beside)
            nothing = bool(beside) and (other is None or not (other.data or other.pending))
            if not self.client.knows:
                return LockedView(None, b"", nothing and self.client.knows)
            data = bytes(self.inode.data[read[1] : read[1] + read[0]])
            return LockedView(len(self.inode.data), data, nothing)

    def close(self) -> None:
        with self.client.volume.mutex:
            if self in self.inode.handles:
                self.usable()
                dies = self.client.changing("close", self.path)
                self.drop()
                self.client.done(dies)

    def drop(self) -> None:
        """The server ends the handle: locks go, and a file to be deleted at its last close."""
        inode = self.inode
        if self not in inode.handles:
            return
        inode.handles.remove(self)
        inode.locks = [lock for lock in inode.locks if lock.handle != self.handle]
        if self in self.client.open_files:
            self.client.open_files.remove(self)
        files = self.client.volume.files
        if inode.pending and not inode.handles and files.get(self.path) is inode:
            del files[self.path]
