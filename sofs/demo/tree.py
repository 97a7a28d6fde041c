"""A copy of a real tree: the Python standard library of this machine, read back and compared.

Workers copy file by file with one call each (create, write and close in one), and when nothing is
left to copy they read files back through another node and compare SHA-256. The bytes on the local
disk are the reference: a file counts as acknowledged when ``write_file`` returned.
"""

from __future__ import annotations

import hashlib
import os
import random
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sofs.client.sync import Share
from sofs.demo.activity import Activity
from sofs.demo.bank import Acknowledged
from sofs.errors import SofsError

TARGET: Final = "/stdlib"
FILE_BYTES_MAX: Final = 8 * 1024 * 1024
_LEFT_OUT: Final = {"site-packages", "dist-packages", "__pycache__"}


@dataclass
class Entry:
    """One file of the tree. ``digest`` and ``at`` are set when its copy was acknowledged."""

    source: Path
    target: str
    n_bytes: int
    digest: bytes = b""
    at: float = 0.0


class Tree:
    """The files to copy, handed out to workers. Thread-safe."""

    def __init__(self, top: Path | None = None, *, files_max: int | None = None) -> None:
        """Of the local folder ``top`` (default: the standard library), its first files only with
        ``files_max``."""
        self.top = top or Path(sysconfig.get_path("stdlib"))
        self.entries = list(_files(self.top))[:files_max]
        folders = {folder for e in self.entries for folder in Path(e.target).parents}
        self.directories = sorted(folder.as_posix() for folder in folders if folder.name)
        self._next = 0
        self._lock = threading.Lock()

    def take(self) -> Entry | None:
        with self._lock:
            if self._next == len(self.entries):
                return None
            self._next += 1
            return self.entries[self._next - 1]

    def copied(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.digest]

    def make_directories(self, share: Share) -> None:
        for directory in self.directories:
            share.mkdir(directory)


def _files(top: Path) -> Iterator[Entry]:
    """Packages first, their tests last: if time runs out the tests are missing."""
    found = []
    for folder, below, names in os.walk(top):
        below[:] = sorted(
            name for name in below if name not in _LEFT_OUT and not name.startswith("config-")
        )
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                n_bytes = path.stat().st_size
                if n_bytes <= FILE_BYTES_MAX:
                    relative = path.relative_to(top).as_posix()
                    found.append((Entry(path, f"{TARGET}/{relative}", n_bytes), relative))
    found.sort(key=lambda item: ("test" in item[1], item[1]))
    return (entry for entry, _ in found)


class Copier(Activity):
    """Copies through one client; reads back through another, connected to another node."""

    def __init__(
        self, name: str, tree: Tree, connect: Callable[[], Share], elsewhere: Callable[[], Share]
    ) -> None:
        super().__init__(name)
        self._tree = tree
        self._connect, self._elsewhere = connect, elsewhere
        self._chance = random.Random(name)
        self.compared = 0

    def set_up(self) -> None:
        self._share, self._other = self._connect(), self._elsewhere()

    def step(self) -> bool:
        entry = self._tree.take()
        if entry is not None:
            data = entry.source.read_bytes()
            self._share.write_file(entry.target, data)
            entry.n_bytes, entry.at = len(data), time.monotonic()
            entry.digest = hashlib.sha256(data).digest()
            return True
        copied = self._tree.copied()
        if not copied:
            return False
        entry = self._chance.choice(copied)
        if hashlib.sha256(self._other.read_file(entry.target)).digest() != entry.digest:
            raise AssertionError(f"{entry.target}: what was read is not what was acknowledged")
        self.compared += 1
        return True

    def tear_down(self) -> None:
        self._share.close()
        self._other.close()


class Comparer(Activity):
    """Reads a share of the tree back, once."""

    def __init__(self, name: str, entries: list[Entry], connect: Callable[[], Share]) -> None:
        super().__init__(name)
        self._entries = iter(entries)
        self._connect = connect
        self.n_bytes = 0
        self.different: list[Acknowledged] = []

    def set_up(self) -> None:
        self._share = self._connect()

    def step(self) -> bool:
        entry = next(self._entries, None)
        if entry is None:
            return False
        try:
            data = self._share.read_file(entry.target)
        except SofsError as error:
            self.different.append(Acknowledged(f"{entry.target}: {error}", entry.at))
            return True
        self.n_bytes += len(data)
        if hashlib.sha256(data).digest() != entry.digest:
            self.different.append(Acknowledged(entry.target, entry.at))
        return True

    def tear_down(self) -> None:
        self._share.close()
