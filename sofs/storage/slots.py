"""Slot drivers: whole objects over an fsspec file system (R12).

``SlotStore`` is what all slot drivers share; a driver adds one thing, ``_create``: create an
object that must not exist, atomically, and say which it was. Nothing of fsspec is trusted for that
(``pipe_file`` with ``mode="create"`` looks first and then writes, on most backends), and listings
bypass every cache.

``MemorySlotStore`` is ``memory://``: objects of this process, for tests and demos. Its create is
made atomic by a lock of the whole process, since fsspec's memory file system is one for the
process, too. Nothing survives the process, and no other process can attach to it.
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from typing import Any, Final, Literal, cast

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from sofs.errors import StoreFailed, StoreUnknown
from sofs.ports.store import Lost, Won
from sofs.storage.local import check_key

_MEMORY_LOCK: Final = threading.Lock()


class SlotStore(ABC):
    """A Store of kind ``slots`` over one fsspec file system."""

    remote = False  # Does another process decide which of two creates wins?

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    @property
    def kind(self) -> Literal["append", "slots"]:
        return "slots"

    @abstractmethod
    def _create(self, path: str, data: bytes) -> bool:
        """Create the object atomically; False when it exists. StoreUnknown when the reply is lost,
        StoreFailed when it was refused."""

    def put_if_absent(self, key: str, data: bytes) -> Won | Lost:
        if self._create(self._path(key), data):
            return Won()
        try:
            existing = self.get(key)
        except StoreFailed as error:  # It may be our own, from a request whose reply was lost.
            raise StoreUnknown(f"{key} exists and cannot be read: {error.message}") from error
        if existing is None:
            raise StoreUnknown(f"{key} existed when it was created and is gone now")
        return Won() if existing == data else Lost(existing)

    def get(self, key: str) -> bytes | None:
        try:
            return cast(bytes, self._fs.cat_file(self._path(key)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreFailed(f"get {key}: {error}") from error

    def read(self, key: str, offset: int, length: int) -> bytes:
        try:
            path = self._path(key)
            return cast(bytes, self._fs.cat_file(path, start=offset, end=offset + length))
        except OSError as error:
            raise StoreFailed(f"read {length} bytes at {offset} of {key}: {error}") from error

    def list(self, prefix: str, *, after: str = "") -> list[str]:
        folder = f"{self._root}/{check_key(prefix)}" if prefix else self._root
        try:
            self._fs.invalidate_cache()
            paths = self._fs.find(folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreFailed(f"list {prefix}: {error}") from error
        start = len(self._fs._strip_protocol(self._root)) + 1
        keys = (self._fs._strip_protocol(path)[start:] for path in paths)
        return sorted(key for key in keys if key > after)

    def delete(self, key: str) -> None:
        try:
            self._fs.rm_file(self._path(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreFailed(f"delete {key}: {error}") from error

    def put_hint(self, key: str, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._fs.pipe_file(self._path(key), data)

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"


class MemorySlotStore(SlotStore):
    """``memory://name``: one process's objects."""

    def __init__(self, url: str) -> None:
        filesystem: MemoryFileSystem = fsspec.filesystem("memory", skip_instance_cache=True)
        root = str(filesystem._strip_protocol(url))
        super().__init__(filesystem, root, f"memory:/{root}")

    def _create(self, path: str, data: bytes) -> bool:
        with _MEMORY_LOCK:
            if self._fs.exists(path):
                return False
            self._fs.pipe_file(path, data)
            return True

    def get(self, key: str) -> bytes | None:
        with _MEMORY_LOCK:
            return super().get(key)

    def read(self, key: str, offset: int, length: int) -> bytes:
        with _MEMORY_LOCK:
            return super().read(key, offset, length)

    def list(self, prefix: str, *, after: str = "") -> list[str]:
        with _MEMORY_LOCK:
            return super().list(prefix, after=after)

    def delete(self, key: str) -> None:
        with _MEMORY_LOCK:
            super().delete(key)

    def put_hint(self, key: str, data: bytes) -> None:
        with _MEMORY_LOCK:
            super().put_hint(key, data)
