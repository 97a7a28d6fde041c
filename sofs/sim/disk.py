"""A simulated file system behind the system calls of the local driver.

Fault model. A write lies in the page cache of its machine until it is synced; other machines see it
only then (on one machine, all processes see it at once). When a machine loses power, each page that
was not synced is lost, whole or in sectors, or survives, as drawn; so does each name that was made
or removed and whose folder was not synced. A write may be short. A call may fail with EIO before
its effect or after it. A sync that fails leaves the pages in the cache, marked clean: reads still
show them until they are dropped, the device does not have them, and a later sync reports success
(what Linux does). The disk may be full. A read may find its pages not cached.

Synced bytes may be damaged in place (``damage``).

Not modelled: a file system that lets two callers create one name, renames of folders.

Names are created exclusively across all machines at once: that is what the probe asks of a backend.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sofs.sim.traps import Traps
from sofs.sim.world import Killed, Machine, SimProcess
from sofs.storage.oscalls import Buffer, OsCalls

T = TypeVar("T")

ROOT: Final = "/sim-root"
CLUSTER_ROOT: Final = f"{ROOT}/cluster"  # Of the leader.
PAGE: Final = 4096
SECTOR: Final = 64  # Smaller than any real device's: harder to survive.


@dataclass(slots=True)
class _View:
    """What one machine has of a file in its cache and the device has not."""

    size: int
    dirty: dict[int, bytearray] = field(default_factory=dict)
    lost: dict[int, bytearray] = field(default_factory=dict)  # A sync of them failed.


class _File:
    __slots__ = ("durable", "links", "n_bytes", "views")

    def __init__(self) -> None:
        self.durable = bytearray()
        self.views: dict[int, _View] = {}
        self.links = 1
        self.n_bytes = 0  # What it takes of the disk.

    def size(self, machine: int) -> int:
        view = self.views.get(machine)
        return len(self.durable) if view is None else max(view.size, len(self.durable))

    def read(self, machine: int, offset: int, length: int) -> bytes:
        view = self.views.get(machine)
        if view is None:
            return bytes(self.durable[offset : offset + length])
        end = min(offset + length, self.size(machine))
        if end <= offset:
            return b""
        out = self.durable[offset:end]
        out.extend(bytes(end - offset - len(out)))
        first, last = offset // PAGE, (end - 1) // PAGE
        for pages in (view.lost, view.dirty):
            for number in range(first, last + 1) if len(pages) > last - first else list(pages):
                page = pages.get(number)
                if page is not None and first <= number <= last:
                    start = max(offset, number * PAGE)
                    stop = min(end, (number + 1) * PAGE)
                    out[start - offset : stop - offset] = page[
                        start - number * PAGE : stop - number * PAGE
                    ]
        return bytes(out)

    def write(self, machine: int, offset: int, data: bytes) -> None:
        view = self.views.get(machine)
        if view is None:
            view = self.views[machine] = _View(len(self.durable))
        end = offset + len(data)
        for number in range(offset // PAGE, (end - 1) // PAGE + 1 if data else 0):
            page = view.dirty.get(number)
            at = number * PAGE
            if page is None:
                page = view.lost.pop(number, None)
                if page is None:
                    page = self.durable[at : at + PAGE]
                    page.extend(bytes(PAGE - len(page)))
                view.dirty[number] = page
            start, stop = max(offset, at), min(end, at + PAGE)
            page[start - at : stop - at] = data[start - offset : stop - offset]
        view.size = max(view.size, end, len(self.durable))

    def sync(self, machine: int) -> None:
        view = self.views.get(machine)
        if view is None:
            return
        self._grow(view.size)
        for number, page in view.dirty.items():
            at = number * PAGE
            self.durable[at : at + PAGE] = page[: len(self.durable) - at]
        view.dirty.clear()
        if not view.lost:
            del self.views[machine]

    def _grow(self, size: int) -> None:
        if size > len(self.durable):
            self.durable.extend(bytes(size - len(self.durable)))

    def sync_failed(self, machine: int) -> None:
        view = self.views.get(machine)
        if view is not None:
            view.lost.update(view.dirty)
            view.dirty.clear()

    def drop(self, machine: int) -> None:
        """Clean pages leave the cache."""
        view = self.views.get(machine)
        if view is not None:
            view.lost.clear()
            if not view.dirty:
                del self.views[machine]

    def truncate(self, machine: int, size: int) -> None:
        del self.durable[size:]
        for view in self.views.values():
            view.size = min(view.size, size)
            for pages in (view.dirty, view.lost):
                for number in [n for n in pages if n * PAGE >= size]:
                    del pages[number]
        if machine not in self.views:
            self.views[machine] = _View(size)

    def power_loss(self, machine: int, draw: random.Random) -> None:
        view = self.views.pop(machine, None)
        if view is None:
            return
        mood = draw.random()  # Nothing survives, much does, or anything in between.
        chance = 0.0 if mood < 0.3 else 1.0 if mood > 0.9 else draw.random()
        if draw.random() < chance:
            self._grow(view.size)
        for number in sorted(view.dirty):
            page, at = view.dirty[number], number * PAGE
            whole = draw.random() < 0.7
            keep = draw.random() < chance
            for sector in range(at, min(at + PAGE, len(self.durable)), SECTOR):
                if keep if whole else draw.random() < chance:
                    self.durable[sector : sector + SECTOR] = page[
                        sector - at : sector - at + SECTOR
                    ][: len(self.durable) - sector]


class _Folder:
    __slots__ = ("changed", "durable", "entries")

    def __init__(self) -> None:
        self.entries: dict[str, _File | _Folder] = {}
        self.durable: dict[str, _File | _Folder] = {}
        self.changed: dict[str, int] = {}  # Names not synced, and the machine that changed them.

    def set(self, name: str, entry: _File | _Folder | None, machine: int) -> None:
        if entry is None:
            self.entries.pop(name, None)
        else:
            self.entries[name] = entry
        self.changed[name] = machine

    def sync(self) -> None:
        for name in self.changed:
            if name in self.entries:
                self.durable[name] = self.entries[name]
            else:
                self.durable.pop(name, None)
        self.changed.clear()

    def power_loss(self, machine: int, draw: random.Random) -> None:
        chance = draw.choice((0.0, 0.3, 0.7, 1.0))
        for name in sorted(n for n, m in self.changed.items() if m == machine):
            del self.changed[name]
            survives = draw.random() < chance
            source, target = (
                (self.entries, self.durable) if survives else (self.durable, self.entries)
            )
            if name in source:
                target[name] = source[name]
            else:
                target.pop(name, None)


@dataclass(slots=True)
class DiskFaults:
    """Chances of faults for each system call; see the module. ``full``: no byte more."""

    fail_before: float = 0.0
    fail_after: float = 0.0
    sync_fails: float = 0.0
    short_write: float = 0.0
    uncached: float = 0.2
    full: bool = False


class SimDisk:
    """The shared file system: one tree, and a cache for each machine."""

    def __init__(self, draw: random.Random, capacity: int = 1 << 40) -> None:
        self.root = _Folder()
        self.number = 1  # Of the device.
        self.capacity = capacity
        self.used = 0
        self.faults = DiskFaults()
        self.traps = Traps()
        self.draw = draw
        self._root = _Folder()
        self.root.entries[ROOT.strip("/")] = self.root.durable[ROOT.strip("/")] = self._root
        self._tokens = 0

    def make_cluster_root(self) -> None:
        """The folder of the leader's root is there."""
        made = _Folder()
        self._root.entries["cluster"] = self._root.durable["cluster"] = made

    def token(self) -> str:
        self._tokens += 1
        return f"{self._tokens:016x}"

    def find(self, path: str) -> Any:
        at: Any = self.root
        for name in path.split("/"):
            if name:
                if not isinstance(at, _Folder):
                    raise NotADirectoryError(errno.ENOTDIR, "not a folder", path)
                found = at.entries.get(name)
                if found is None:
                    raise FileNotFoundError(errno.ENOENT, "missing", path)
                at = found
        return at

    def parent(self, path: str) -> tuple[_Folder, str]:
        folder, name = os.path.split(path)
        found = self.find(folder)
        if not isinstance(found, _Folder):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", path)
        return found, name

    def take(self, file: _File, size: int) -> None:
        """Account for a file that grows to ``size`` bytes."""
        grow = size - file.n_bytes
        if grow > 0:
            if self.faults.full or self.used + grow > self.capacity:
                raise OSError(errno.ENOSPC, "full")
            self.used += grow
            file.n_bytes = size

    def give_back(self, file: _File, size: int) -> None:
        if file.n_bytes > size:
            self.used -= file.n_bytes - size
            file.n_bytes = size

    # The device, as the hand that damages it sees it -------------------------------------------

    def place(self, path: str) -> _File | None:
        """The file itself: names may be given to others later."""
        try:
            found = self.find(path)
        except OSError:
            return None
        return found if isinstance(found, _File) else None

    def device(self, path: str) -> bytearray | None:
        """What the device holds of a file; None when there is none."""
        file = self.place(path)
        return None if file is None else file.durable

    def damage(self, path: str, offset: int, data: bytes) -> _File | None:
        """Other bytes are on the device from now on, for all who have the pages clean; None when
        nobody would see it, since somebody has them dirty."""
        file = self.place(path)
        pages = range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1)
        if file is None or any(
            number in held
            for view in file.views.values()
            for held in (view.dirty, view.lost)
            for number in pages
        ):
            return None
        file.durable[offset : offset + len(data)] = data
        return file

    def names(self, path: str) -> list[str]:
        """Paths of the files in a folder, sorted."""
        return self._in(path, _File)

    def folders(self, path: str) -> list[str]:
        """Paths of the folders in a folder, sorted."""
        return self._in(path, _Folder)

    def _in(self, path: str, kind: type) -> list[str]:
        try:
            folder = self.find(path)
        except OSError:
            return []
        entries = folder.entries
        return [
            f"{path}/{name}"
            for name in sorted(entries)
            if isinstance(entries[name], kind) and not name.startswith(".")
        ]

    def power_loss(self, machine: Machine) -> None:
        """The machine's cache is gone; what of it reached the device is drawn."""
        folders = [self.root]
        files: dict[int, _File] = {}
        order: list[_File] = []
        while folders:
            folder = folders.pop()
            for entries in (folder.entries, folder.durable):
                for name in sorted(entries):
                    entry = entries[name]
                    if isinstance(entry, _File) and id(entry) not in files:
                        files[id(entry)] = entry
                        order.append(entry)
            folder.power_loss(machine.number, self.draw)
            folders.extend(
                entry
                for name in sorted(folder.entries)
                if isinstance(entry := folder.entries[name], _Folder)
            )
        for file in order:
            file.power_loss(machine.number, self.draw)


def files(disk: SimDisk) -> dict[str, int]:
    """All files that are there, by path, with the size that the device knows."""
    found: dict[str, int] = {}
    todo: list[tuple[str, _Folder]] = [("", disk.root)]
    while todo:
        path, folder = todo.pop()
        for name, entry in folder.entries.items():
            if isinstance(entry, _Folder):
                todo.append((f"{path}/{name}", entry))
            else:
                found[f"{path}/{name}"] = len(entry.durable)
    return found


class SimOs(OsCalls):
    """The system calls of one process."""

    def __init__(self, disk: SimDisk, process: SimProcess) -> None:
        self.disk = disk
        self.process = process
        self._machine = process.machine.number
        self._files: dict[int, tuple[Any, str]] = {}
        self._next = 3

    def _call(self, effect: Callable[[], T], call: str = "", path: str = "") -> T:
        process, faults = self.process, self.disk.faults
        if call:
            self.disk.traps(process, call, path, False)
        process.system_call()
        if faults.fail_before and self.disk.draw.random() < faults.fail_before:
            raise OSError(errno.EIO, "injected before the effect")
        try:
            result = effect()
        finally:  # A look for what is absent is a call like any other.
            if call:
                self.disk.traps(process, call, path, True)
        process.system_call(after=True)
        if faults.fail_after and self.disk.draw.random() < faults.fail_after:
            raise OSError(errno.EIO, "injected after the effect")
        return result

    def _of(self, fd: int) -> Any:
        found = self._files.get(fd)
        if found is None:
            raise OSError(errno.EBADF, "bad descriptor")
        return found[0]

    def _path(self, fd: int) -> str:
        found = self._files.get(fd)
        return "" if found is None else found[1]

    def token(self) -> str:
        return self.disk.token()

    def open(self, path: str, flags: int) -> int:
        def effect() -> int:
            if flags & os.O_CREAT:
                folder, name = self.disk.parent(path)
                if name in folder.entries:
                    raise FileExistsError(errno.EEXIST, "exists", path)
                if self.disk.faults.full:
                    raise OSError(errno.ENOSPC, "full")
                folder.set(name, _File(), self._machine)
            self._next += 1
            self._files[self._next] = (self.disk.find(path), path)
            return self._next

        return self._call(effect)

    def close(self, fd: int) -> None:
        if self.process.dead and not self.process.ghost:
            return  # The kernel closes for a dead process.
        if self._files.pop(fd, None) is None:
            raise OSError(errno.EBADF, "bad descriptor")

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        def effect() -> int:
            file = self._of(fd)
            data = b"".join(buffers)
            faults = self.disk.faults
            if (
                faults.short_write
                and len(data) > 1
                and self.disk.draw.random() < faults.short_write
            ):
                data = data[: self.disk.draw.randrange(1, len(data))]
            self.disk.take(file, offset + len(data))
            file.write(self._machine, offset, data)
            return len(data)

        return self._call(effect, "pwritev", self._path(fd))

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return self._call(lambda: self._read(fd, length, offset), "pread", self._path(fd))

    def _read(self, fd: int, length: int, offset: int) -> bytes:
        data: bytes = self._of(fd).read(self._machine, offset, length)
        return data

    def pread_nowait(self, fd: int, buffer: bytearray, offset: int) -> int:
        if self.disk.faults.uncached and self.disk.draw.random() < self.disk.faults.uncached:
            raise BlockingIOError(errno.EAGAIN, "not cached")
        data = self.pread(fd, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def fsync(self, fd: int) -> None:
        def effect() -> None:
            found = self._of(fd)
            faults = self.disk.faults
            fails = faults.sync_fails and self.disk.draw.random() < faults.sync_fails
            if isinstance(found, _Folder):
                if not fails:
                    found.sync()
            elif fails:
                found.sync_failed(self._machine)
            else:
                found.sync(self._machine)
            if fails:
                raise OSError(errno.EIO, "a sync failed")

        self._call(effect, "fsync", self._path(fd))

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        def effect() -> None:
            file = self._of(fd)
            end = offset + length
            self.disk.take(file, end)
            if end > file.size(self._machine):
                view = file.views.get(self._machine)
                if view is None:
                    view = file.views[self._machine] = _View(end)
                view.size = end

        self._call(effect)

    def truncate(self, fd: int, size: int) -> None:
        def effect() -> None:
            file = self._of(fd)
            file.truncate(self._machine, size)
            self.disk.give_back(file, size)

        self._call(effect)

    def advise(self, fd: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED:
            self._call(lambda: self._of(fd).drop(self._machine))

    def size(self, fd: int) -> int:
        return self._call(lambda: int(self._of(fd).size(self._machine)))

    def links(self, fd: int) -> int:
        return 2

    def next_data(self, fd: int, offset: int) -> int:
        raise OSError(errno.EINVAL, "not told")

    def next_hole(self, fd: int, offset: int) -> int:
        raise OSError(errno.EINVAL, "not told")

    def identity(self, path: str) -> tuple[int, int]:
        return self._call(lambda: (self.disk.number, len(path)))  # No root is ever replaced.

    def host(self) -> str:
        return self.process.machine.name

    def stat_at(self, name: str, folder_fd: int) -> None:
        def effect() -> None:
            if name not in self._of(folder_fd).entries:
                raise FileNotFoundError(errno.ENOENT, "missing", name)

        self._call(effect, "stat_at", f"{self._path(folder_fd)}/{name}")

    def link(self, source: str, target: str) -> None:
        def effect() -> None:
            folder, name = self.disk.parent(target)
            if name in folder.entries:
                raise FileExistsError(errno.EEXIST, "exists", target)
            file = self.disk.find(source)
            file.links += 1
            folder.set(name, file, self._machine)

        self._call(effect, "link", target)

    def unlink(self, path: str) -> None:
        def effect() -> None:
            file = self.disk.find(path)
            if isinstance(file, _Folder):
                raise IsADirectoryError(errno.EISDIR, "a folder", path)
            folder, name = self.disk.parent(path)
            folder.set(name, None, self._machine)
            file.links -= 1
            if file.links == 0:
                self.disk.give_back(file, 0)

        self._call(effect, "unlink", path)

    def rename(self, source: str, target: str) -> None:
        def effect() -> None:
            file = self.disk.find(source)
            here, old = self.disk.parent(source)
            there, name = self.disk.parent(target)
            before = there.entries.get(name)
            if isinstance(before, _File):
                before.links -= 1
                if before.links == 0:
                    self.disk.give_back(before, 0)
            here.set(old, None, self._machine)
            there.set(name, file, self._machine)

        self._call(effect)

    def mkdir(self, path: str) -> None:
        def effect() -> None:
            folder, name = self.disk.parent(path)
            if name in folder.entries:
                raise FileExistsError(errno.EEXIST, "exists", path)
            folder.set(name, _Folder(), self._machine)

        self._call(effect)

    def scan(self, path: str) -> list[tuple[str, bool]]:
        def effect() -> list[tuple[str, bool]]:
            folder = self.disk.find(path)
            if not isinstance(folder, _Folder):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", path)
            return [(name, isinstance(entry, _Folder)) for name, entry in folder.entries.items()]

        return self._call(effect)

    def modified_s(self, path: str) -> float:
        return 0.0


__all__ = ["ROOT", "DiskFaults", "Killed", "SimDisk", "SimOs"]
