"""What the storage tests share: a model of a disk that can lose, lie and fill up, and processes
that can be killed at any system call."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sofs.ids import Epoch, Incarnation
from sofs.ports.log import Claim
from sofs.storage import LocalAppendStore, LogOptions, StoreFences, open_fenced
from sofs.storage.oscalls import Buffer, OsCalls

T = TypeVar("T")
ROOT = "/model-root"
SMALL = LogOptions(first_bytes=2048, segment_bytes=4096, batch_bytes_max=64 * 1024)


class Killed(BaseException):
    """The process is gone: no call of it has an effect any more."""


class VirtualClock:
    def __init__(self) -> None:
        self.now_ms = 0.0

    def monotonic_ms(self) -> int:
        return int(self.now_ms)

    def wall_ns(self) -> int:
        return int(self.now_ms * 1e6)

    async def sleep_ms(self, duration_ms: float) -> None:
        self.now_ms += duration_ms
        await asyncio.sleep(0)


class SeededEntropy:
    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def token(self, n_bytes: int) -> bytes:
        return self._random.randbytes(n_bytes)

    def stream(self, name: str) -> random.Random:
        return random.Random(name)


class InlineBlocking:
    """Runs steps on the loop; ``between(lane, index)`` is called after each step."""

    def __init__(self) -> None:
        self.between: Callable[[str, int], None] | None = None

    async def run(
        self, lane: str, *steps: Callable[[], object], brief: bool = False
    ) -> list[object]:
        await asyncio.sleep(0)
        results: list[object] = []
        for index, step in enumerate(steps):
            results.append(step())
            if self.between is not None:
                self.between(lane, index)
        return results


@dataclass
class _File:
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    dirty: bool = False
    nlink: int = 0


@dataclass
class _Folder:
    entries: dict[str, _File | _Folder] = field(default_factory=dict)
    durable: dict[str, _File | _Folder] = field(default_factory=dict)


class ModelDisk:
    """Files and folders with what is cached and what is durable. Shared by the processes of one
    host."""

    def __init__(self, capacity: int = 1 << 40) -> None:
        self.root = _Folder()
        self.capacity = capacity
        self.tokens = 0
        self._lookup(os.path.dirname(ROOT)).entries[os.path.basename(ROOT)] = _Folder()
        self._sync_all(self.root)

    def _sync_all(self, folder: _Folder) -> None:
        folder.durable = dict(folder.entries)
        for entry in folder.entries.values():
            if isinstance(entry, _Folder):
                self._sync_all(entry)

    def _lookup(self, path: str) -> Any:
        at: Any = self.root
        for name in path.strip("/").split("/"):
            if name:
                if not isinstance(at, _Folder):
                    raise NotADirectoryError(errno.ENOTDIR, "not a folder", path)
                if name not in at.entries:
                    raise FileNotFoundError(errno.ENOENT, "missing", path)
                at = at.entries[name]
        return at

    def used(self) -> int:
        return sum(len(file.data) for file in self.files())

    def files(self) -> list[_File]:
        found: dict[int, _File] = {}
        folders = [self.root]
        while folders:
            for entry in folders.pop().entries.values():
                if isinstance(entry, _Folder):
                    folders.append(entry)
                else:
                    found[id(entry)] = entry
        return list(found.values())

    def power_loss(self, seed: int | None) -> None:
        """Go back to what is durable. With a seed, a random part of the rest made it: names one by
        one, contents in sectors of 64 bytes."""
        rng = random.Random(seed) if seed is not None else None
        folders = [self.root]
        while folders:
            folder = folders.pop()
            kept = dict(folder.durable)
            if rng is not None:
                for name in sorted({*folder.entries, *folder.durable}):
                    if rng.random() < 0.5:
                        if name in folder.entries:
                            kept[name] = folder.entries[name]
                        else:
                            kept.pop(name, None)
            folder.entries, folder.durable = kept, dict(kept)
            for name in sorted(kept):
                entry = kept[name]
                if isinstance(entry, _Folder):
                    folders.append(entry)
                else:
                    self._lose(entry, rng)

    def _lose(self, file: _File, rng: random.Random | None) -> None:
        data = bytearray(file.durable)
        if rng is not None and file.dirty:
            if rng.random() < 0.5 and len(file.data) > len(data):
                data.extend(bytes(len(file.data) - len(data)))
            for at in range(0, min(len(data), len(file.data)), 64):
                if rng.random() < 0.5:
                    data[at : at + 64] = file.data[at : at + 64][: len(data) - at]
        file.data, file.durable, file.dirty = data, bytes(data), False


class ModelOs(OsCalls):
    """One process on a ModelDisk. ``kill_at``: the call (from 1) at which it dies, before or after
    the effect. ``fail(name, path)`` may return an OSError to raise instead of the effect."""

    def __init__(self, disk: ModelDisk) -> None:
        self.disk = disk
        self.calls = 0
        self.log: list[str] = []
        self.kill_at = 0
        self.kill_after = False
        self.dead = False
        self.fail: Callable[[str, str], OSError | None] | None = None
        self._fds: dict[int, tuple[Any, str]] = {}
        self._next_fd = 3

    def _call(self, name: str, path: str, effect: Callable[[], T]) -> T:
        if self.dead:
            raise Killed
        self.calls += 1
        self.log.append(f"{name} {path}")
        if self.calls == self.kill_at and not self.kill_after:
            self.dead = True
            raise Killed
        error = self.fail(name, path) if self.fail is not None else None
        if error is not None:
            raise error
        result = effect()
        if self.calls == self.kill_at:
            self.dead = True
            raise Killed
        return result

    def _of(self, fd: int) -> Any:
        if fd not in self._fds:
            raise OSError(errno.EBADF, "bad descriptor")
        return self._fds[fd][0]

    def _path_of(self, fd: int) -> str:
        return self._fds[fd][1] if fd in self._fds else "?"

    def token(self) -> str:
        self.disk.tokens += 1
        return f"{self.disk.tokens:016x}"

    def open(self, path: str, flags: int) -> int:
        def effect() -> int:
            folder, name = os.path.split(path)
            parent = self.disk._lookup(folder)
            if flags & os.O_CREAT:
                if name in parent.entries:
                    raise FileExistsError(errno.EEXIST, "exists", path)
                parent.entries[name] = _File(nlink=1)
            found = self.disk._lookup(path)
            self._next_fd += 1
            self._fds[self._next_fd] = (found, path)
            return self._next_fd

        return self._call("open", path, effect)

    def close(self, fd: int) -> None:
        if self.dead:  # The kernel closes for a dead process.
            return
        self._call("close", self._path_of(fd), lambda: self._fds.pop(fd) and None)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        def effect() -> int:
            file = self._of(fd)
            data = b"".join(buffers)
            grow = max(0, offset + len(data) - len(file.data))
            if self.disk.used() + grow > self.disk.capacity:
                raise OSError(errno.ENOSPC, "full")
            file.data.extend(bytes(grow))
            file.data[offset : offset + len(data)] = data
            file.dirty = True
            return len(data)

        return self._call("pwritev", self._path_of(fd), effect)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        file = self._of(fd) if not self.dead else None
        return self._call(
            "pread", self._path_of(fd), lambda: bytes(file.data[offset : offset + length])
        )

    def pread_nowait(self, fd: int, buffer: bytearray, offset: int) -> int:
        data = self.pread(fd, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def fsync(self, fd: int) -> None:
        def effect() -> None:
            found = self._of(fd)
            if isinstance(found, _Folder):
                found.durable = dict(found.entries)
            elif found.dirty:
                found.durable, found.dirty = bytes(found.data), False

        def failed() -> None:
            found = self._of(fd)
            if isinstance(found, _File):
                found.dirty = False  # What Linux does: the pages stay in the cache, marked clean.

        try:
            self._call("fsync", self._path_of(fd), effect)
        except OSError:
            failed()
            raise

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        def effect() -> None:
            if self.disk.used() + length > self.disk.capacity:
                raise OSError(errno.ENOSPC, "full")
            file = self._of(fd)
            file.data.extend(bytes(max(0, offset + length - len(file.data))))
            file.dirty = True

        self._call("allocate", self._path_of(fd), effect)

    def truncate(self, fd: int, size: int) -> None:
        def effect() -> None:
            file = self._of(fd)
            del file.data[size:]
            file.dirty = True

        self._call("truncate", self._path_of(fd), effect)

    def advise(self, fd: int, offset: int, length: int, advice: int) -> None:
        def effect() -> None:
            file = self._of(fd)
            if advice == os.POSIX_FADV_DONTNEED and not file.dirty:
                file.data = bytearray(file.durable)

        self._call("advise", self._path_of(fd), effect)

    def size(self, fd: int) -> int:
        return self._call("size", self._path_of(fd), lambda: len(self._of(fd).data))

    def links(self, fd: int) -> int:
        return 2

    def next_data(self, fd: int, offset: int) -> int:
        raise OSError(errno.EINVAL, "not told")

    def stat_at(self, name: str, folder_fd: int) -> None:
        def effect() -> None:
            if name not in self._of(folder_fd).entries:
                raise FileNotFoundError(errno.ENOENT, "missing", name)

        self._call("stat_at", name, effect)

    def link(self, source: str, target: str) -> None:
        def effect() -> None:
            folder, name = os.path.split(target)
            parent = self.disk._lookup(folder)
            if name in parent.entries:
                raise FileExistsError(errno.EEXIST, "exists", target)
            parent.entries[name] = self.disk._lookup(source)

        self._call("link", target, effect)

    def unlink(self, path: str) -> None:
        def effect() -> None:
            folder, name = os.path.split(path)
            self.disk._lookup(path)
            del self.disk._lookup(folder).entries[name]

        self._call("unlink", path, effect)

    def rename(self, source: str, target: str) -> None:
        def effect() -> None:
            folder, name = os.path.split(target)
            file = self.disk._lookup(source)
            del self.disk._lookup(os.path.dirname(source)).entries[os.path.basename(source)]
            self.disk._lookup(folder).entries[name] = file

        self._call("rename", target, effect)

    def mkdir(self, path: str) -> None:
        def effect() -> None:
            folder, name = os.path.split(path)
            parent = self.disk._lookup(folder)
            if name in parent.entries:
                raise FileExistsError(errno.EEXIST, "exists", path)
            parent.entries[name] = _Folder()

        self._call("mkdir", path, effect)

    def scan(self, path: str) -> list[tuple[str, bool]]:
        def effect() -> list[tuple[str, bool]]:
            folder = self.disk._lookup(path)
            return [(name, isinstance(entry, _Folder)) for name, entry in folder.entries.items()]

        return self._call("scan", path, effect)

    def modified_s(self, path: str) -> float:
        return 0.0


@dataclass
class Process:
    """One process: its system calls, blocking port and fenced store."""

    calls: ModelOs
    blocking: InlineBlocking
    fenced: StoreFences


def process(disk: ModelDisk, options: LogOptions = SMALL) -> Process:
    """Start a process on ``disk``."""
    calls, blocking = ModelOs(disk), InlineBlocking()
    store = LocalAppendStore(ROOT, calls=calls)
    disk.tokens += 1
    fenced = open_fenced(store, VirtualClock(), SeededEntropy(disk.tokens), blocking, options)
    return Process(calls, blocking, fenced)


def a_claim(epoch: int, role: str = "volume", salt: int = 0) -> Claim:
    """A claim whose ids follow from its numbers."""
    rng = random.Random(f"{role}/{epoch}/{salt}")
    return Claim(
        role, Epoch(epoch), Incarnation(rng.randbytes(16)), rng.randbytes(16), f"host:{epoch}"
    )


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` for tests that kill processes: what dead processes leave behind is silent."""

    async def quiet() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        return await main

    return asyncio.run(quiet())
