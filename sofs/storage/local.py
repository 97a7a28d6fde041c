"""The append driver: a folder on a local or coherent cluster file system (R3, R6, R11).

Why safe. *Exclusive create*: the object is written and fsynced under a temporary name and then
linked to its key. ``link`` is atomic and refuses an existing name, so exactly one caller wins, an
object that can be seen is complete, and after the folder's fsync it stays. A caller that loses
compares the bytes: its own (a retry after a lost reply) are a win. The folder is fsynced in both
cases, since a loser acts on what it saw. *Segments* are created with O_EXCL and written by their
one owner at offsets that it decides. *Guards* hold the claim folder's descriptor: a path may
silently lead elsewhere after a lazy unmount, the descriptor cannot. Only ENOENT in a folder that
still has links means "absent".

May fail: everything, typed and with the key. A failed or short write or sync is never retried
here. What fsspec offers (check-then-create, copy without fsync, listings that omit errors) is used
for URLs only.

Temporary names start with a dot, which no key may; listings leave them out. ``clean_temporaries``
removes those that are old; removing one in use is harmless, as its owner's ``link`` then fails
before any effect.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Sequence
from typing import Final, Literal

from fsspec.implementations.local import LocalFileSystem

from sofs.constants import MIB
from sofs.errors import InvalidParameter, StoreFailed, StoreUnknown
from sofs.ports.shared_root import RootPlace
from sofs.ports.store import Buffer, Lost, Won
from sofs.storage.oscalls import OsCalls, store_error

_KEY: Final = re.compile(r"[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*")
_IOV_MAX: Final = 1024
_ZEROS: Final = memoryview(bytes(MIB))
_DATA_RANGES_MAX: Final = 16  # Of one segment; with more it is read to its end.
_TEMPORARY_END: Final = ".tmp"
TEMPORARY_AGE_S: Final = 3600
KNOWN_FOLDERS_MAX: Final = 4096  # Folders remembered as durable; forgetting costs one fsync each.


def check_key(key: str) -> str:
    """Return ``key`` if it is a valid key, else raise InvalidParameter."""
    if _KEY.fullmatch(key) is None:
        raise InvalidParameter(
            f"{key!r} is no key: use components of a-z 0-9 . _ - between slashes"
        )
    return key


def write_all(calls: OsCalls, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
    """Write all ``buffers`` at ``offset`` in as few calls as the system allows; raises OSError(EIO)
    when the system wrote less than it was given."""
    for start in range(0, len(buffers), _IOV_MAX):
        part = buffers[start : start + _IOV_MAX]
        expected = sum(map(len, part))
        written = calls.pwritev(fd, part, offset)
        if written != expected:
            raise OSError(errno.EIO, f"wrote {written} of {expected} bytes")
        offset += written


def fill(calls: OsCalls, fd: int, view: memoryview, offset: int) -> None:
    """Write ``view`` to a file that nobody uses yet. A short write is gone on with: what it ran
    into (most often a full disk) is then told by the next call."""
    while view:
        written = calls.pwritev(fd, [view], offset)
        if written == 0:
            raise OSError(errno.EIO, "wrote nothing")
        view = view[written:]
        offset += written


def read_all(calls: OsCalls, fd: int, offset: int, length: int) -> bytes:
    """Read ``length`` bytes; shorter only at the end of the file."""
    data = calls.pread(fd, length, offset)
    if len(data) in (length, 0):
        return data
    parts = [data]
    missing = length - len(data)
    while missing:
        data = calls.pread(fd, missing, offset + length - missing)
        if not data:
            break
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


class LocalSegment:
    """A segment being written by its owner."""

    def __init__(self, calls: OsCalls, key: str, fd: int) -> None:
        self._calls = calls
        self._key = key
        self._fd = fd

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        try:
            write_all(self._calls, self._fd, buffers, offset)
        except OSError as error:
            raise store_error(error, f"append at {offset} to", self._key) from error

    def sync(self) -> None:
        try:
            self._calls.fdatasync(self._fd)
        except OSError as error:
            raise StoreFailed(f"sync {self._key}: {error.strerror}; the log ends here") from error

    def reserve(self, size: int) -> None:
        try:
            have = self._calls.size(self._fd)
            if size > have:
                self._calls.allocate(self._fd, have, size - have)
        except OSError as error:
            raise store_error(error, f"reserve {size} bytes for", self._key) from error

    def trim(self, size: int) -> None:
        try:
            self._calls.truncate(self._fd, size)
        except OSError as error:
            raise store_error(error, "trim", self._key) from error

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._calls.close(fd)


class LocalSegmentReader:
    """A segment being read. It stays valid after the file was deleted."""

    def __init__(self, calls: OsCalls, key: str, path: str, fd: int) -> None:
        self._calls = calls
        self._key = key
        self._path = path
        self._fd = fd
        self._nowait = True
        self._data_end: int | None = None

    def size(self) -> int:
        try:
            return self._calls.size(self._fd)
        except OSError as error:
            raise store_error(error, "stat", self._key) from error

    def read(self, offset: int, length: int) -> bytes:
        try:
            return read_all(self._calls, self._fd, offset, length)
        except OSError as error:
            raise StoreFailed(f"read {length} bytes at {offset} of {self._key}: {error}") from error

    def next_data(self, offset: int) -> int:
        """See the port. What is a hole is asked once, before anything is read: cached pages of
        reserved space (read-ahead makes them) count as data."""
        if self._data_end is None:
            self._data_end = self._find_data_end()
        return offset if offset < self._data_end else max(offset, self.size())

    def _find_data_end(self) -> int:
        end = 0
        try:
            for _ in range(_DATA_RANGES_MAX):
                end = self._calls.next_hole(self._fd, self._calls.next_data(self._fd, end))
        except OSError as error:
            # ENXIO: only a hole follows. A file system that cannot tell says something else.
            return end if error.errno == errno.ENXIO else self.size()
        return self.size()

    def read_cached(self, offset: int, length: int) -> bytes | None:
        if not self._nowait:
            return None
        buffer = bytearray(length)
        try:
            got = self._calls.pread_nowait(self._fd, buffer, offset)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # tmpfs of older kernels.
                self._nowait = False
                return None
            raise StoreFailed(f"read {length} bytes at {offset} of {self._key}: {error}") from error
        return bytes(buffer) if got == length else None

    def will_need(self, offset: int, length: int) -> None:
        with contextlib.suppress(OSError):  # Advice only.
            self._calls.advise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def uncache(self) -> None:
        with contextlib.suppress(OSError):  # Advice only.
            self._calls.advise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync_and_drop(self) -> None:
        try:
            self._calls.fsync(self._fd)
            _sync_folder(self._calls, os.path.dirname(self._path))
            self._calls.advise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise StoreFailed(f"sync {self._key} before adopting it: {error.strerror}") from error

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._calls.close(fd)


class LocalGuard:
    """The claim check: one ``stat`` relative to the folder that was opened when the claim was
    won."""

    def __init__(self, calls: OsCalls, folder: str, fd: int) -> None:
        self._calls = calls
        self._folder = folder
        self._fd = fd

    def absent(self, name: str) -> bool:
        try:
            self._calls.stat_at(name, self._fd)
        except FileNotFoundError:
            # A removed folder answers ENOENT for every name: there it means nothing.
            if self._links() == 0:
                raise StoreUnknown(f"the claim folder {self._folder} was removed") from None
            return True
        except OSError as error:
            raise StoreUnknown(f"look up {name} in {self._folder}: {error.strerror}") from error
        return False

    def _links(self) -> int:
        try:
            return self._calls.links(self._fd)
        except OSError as error:
            raise StoreUnknown(f"stat {self._folder}: {error.strerror}") from error

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._calls.close(fd)


def _sync_folder(calls: OsCalls, path: str) -> None:
    fd = calls.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        calls.fsync(fd)
    finally:
        calls.close(fd)


class LocalAppendStore:
    """One root folder. Safe for use by any number of processes and threads at once."""

    def __init__(self, url: str, *, calls: OsCalls | None = None) -> None:
        self._calls = calls or OsCalls()
        self._root: str = os.path.realpath(str(LocalFileSystem._strip_protocol(url)))
        self._durable_folders: dict[str, None] = {}

    @property
    def url(self) -> str:
        return f"file://{self._root}"

    @property
    def root(self) -> str:
        """The root folder's real path."""
        return self._root

    @property
    def kind(self) -> Literal["append", "slots"]:
        return "append"

    def put_if_absent(self, key: str, data: bytes) -> Won | Lost:
        path = self._path(key)
        folder, name = os.path.split(path)
        temporary = f"{folder}/.{name}.{self._calls.token()}{_TEMPORARY_END}"
        try:
            self._ensure_folder(folder)
            self._write_new(temporary, data)
        except OSError as error:
            raise store_error(error, "create", key) from error
        won = True
        try:
            self._calls.link(temporary, path)
        except FileExistsError:
            won = False
        except OSError as error:
            self._discard(temporary)
            # These refusals are made before any effect; anything else may come from a reply that
            # was lost.
            unknown = error.errno in (errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EINTR)
            raise store_error(error, "create", key, unknown=unknown) from error
        try:
            _sync_folder(self._calls, folder)
        except OSError as error:
            raise store_error(error, "sync the folder of", key, unknown=True) from error
        finally:
            self._discard(temporary)
        return Won() if won else self._compare(key, data)

    def _compare(self, key: str, data: bytes) -> Won | Lost:
        try:
            existing = self.get(key)
        except StoreFailed as error:
            raise StoreUnknown(f"{key} exists and cannot be read: {error.message}") from error
        if existing is None:
            raise StoreUnknown(f"{key} existed when it was created and is gone now")
        return Won() if existing == data else Lost(existing)

    def _write_new(self, path: str, data: bytes) -> None:
        fd = self._calls.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            view = memoryview(data)
            for at in range(0, len(view), 8 * MIB):
                fill(self._calls, fd, view[at : at + 8 * MIB], at)
            self._calls.fsync(fd)
        except OSError:
            self._discard(path)
            raise
        finally:
            self._calls.close(fd)

    def _discard(self, path: str) -> None:
        """Remove a temporary name. One that stays is invisible and is cleaned at a later attach."""
        with contextlib.suppress(OSError):
            self._calls.unlink(path)

    def get(self, key: str) -> bytes | None:
        try:
            fd = self._calls.open(self._path(key), os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise store_error(error, "open", key) from error
        try:
            return read_all(self._calls, fd, 0, self._calls.size(fd))
        except OSError as error:
            raise StoreFailed(f"read {key}: {error}") from error
        finally:
            self._calls.close(fd)

    def read(self, key: str, offset: int, length: int) -> bytes:
        reader = self.open_segment(key)
        try:
            return reader.read(offset, length)
        finally:
            reader.close()

    def list(self, prefix: str, *, after: str = "") -> list[str]:
        found: list[str] = []
        folders = [check_key(prefix)] if prefix else [""]
        while folders:
            folder = folders.pop()
            try:
                entries = self._calls.scan(f"{self._root}/{folder}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise store_error(error, "list", folder) from error
            for name, is_folder in entries:
                if not name.startswith("."):
                    key = f"{folder}/{name}" if folder else name
                    (folders if is_folder else found).append(key)
        return sorted(key for key in found if key > after)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            self._calls.unlink(path)
            _sync_folder(self._calls, os.path.dirname(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise store_error(error, "delete", key, unknown=error.errno == errno.EIO) from error

    def place(self) -> RootPlace:
        """Return where this process sees the root's folder."""
        try:
            device, inode = self._calls.identity(self._root)
        except OSError as error:
            raise store_error(error, "stat", self.url) from error
        return RootPlace(self.url, self._calls.host(), device, inode)

    def link_object(self, source: str, key: str) -> None:
        """Give the object ``source`` the further name ``key``. Not durable; StoreFailed when the
        object is missing or the name is taken."""
        path = self._path(key)
        try:
            self._ensure_folder(os.path.dirname(path))
            self._calls.link(self._path(source), path)
        except OSError as error:
            raise store_error(error, f"link {source} to", key) from error

    def unlink_object(self, key: str) -> None:
        """Remove a name that ``link_object`` made, if it is there. Not durable."""
        try:
            self._calls.unlink(self._path(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise store_error(error, "unlink", key) from error

    def put_hint(self, key: str, data: bytes) -> None:
        path = self._path(key)
        folder, name = os.path.split(path)
        temporary = f"{folder}/.{name}.{self._calls.token()}{_TEMPORARY_END}"
        with contextlib.suppress(OSError):  # A hint that is missing or old costs a few look-ups.
            fd = self._calls.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                write_all(self._calls, fd, [data], 0)
            finally:
                self._calls.close(fd)
            self._calls.rename(temporary, path)

    def create_segment(self, key: str, *, zero_fill_bytes: int) -> LocalSegment:
        path = self._path(key)
        folder = os.path.dirname(path)
        try:
            self._ensure_folder(folder)
            fd = self._calls.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except OSError as error:
            raise store_error(error, "create the segment", key) from error
        try:
            if zero_fill_bytes:
                # A full disk is told at once, not after writing what is left of it.
                self._calls.allocate(fd, 0, zero_fill_bytes)
            for at in range(0, zero_fill_bytes, len(_ZEROS)):
                fill(self._calls, fd, _ZEROS[: zero_fill_bytes - at], at)
            self._calls.fsync(fd)
            _sync_folder(self._calls, folder)
        except OSError as error:
            # Nobody else ever opens a segment that its log did not reach, so the name is free
            # again.
            self._calls.close(fd)
            self._discard(path)
            raise store_error(error, "prepare the segment", key) from error
        return LocalSegment(self._calls, key, fd)

    def open_segment(self, key: str) -> LocalSegmentReader:
        path = self._path(key)
        try:
            fd = self._calls.open(path, os.O_RDONLY)
        except OSError as error:
            raise StoreFailed(f"open {key}: {error.strerror}") from error
        return LocalSegmentReader(self._calls, key, path, fd)

    def open_guard(self, folder: str) -> LocalGuard:
        path = self._path(folder)
        try:
            self._ensure_folder(path)
            fd = self._calls.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise store_error(error, "open the folder", folder) from error
        return LocalGuard(self._calls, folder, fd)

    def clean_temporaries(self, *, older_than_s: float = TEMPORARY_AGE_S) -> int:
        """Remove temporary names older than ``older_than_s`` seconds and return how many. Ages are
        taken between two file times of the backend itself, so the host's clock does not matter."""
        marker = f"{self._root}/.now.{self._calls.token()}{_TEMPORARY_END}"
        removed = 0
        try:
            self._write_new(marker, b"")
            now_s = self._calls.modified_s(marker)
            folders = [self._root]
            while folders:
                folder = folders.pop()
                try:
                    entries = self._calls.scan(folder)
                except FileNotFoundError:
                    continue  # Another process's probe, which cleans up after itself.
                for name, is_folder in entries:
                    path = f"{folder}/{name}"
                    if is_folder:
                        folders.append(path)
                    elif name.startswith(".") and name.endswith(_TEMPORARY_END):
                        removed += self._clean_one(path, now_s - older_than_s)
        except OSError as error:
            raise store_error(error, "clean temporary names of", self.url) from error
        finally:
            self._discard(marker)
        return removed

    def _clean_one(self, path: str, before_s: float) -> int:
        try:
            if self._calls.modified_s(path) >= before_s:
                return 0
            self._calls.unlink(path)
        except FileNotFoundError:  # Its owner was quicker.
            return 0
        return 1

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _ensure_folder(self, path: str) -> None:
        """Create the folder and its parents up to the root durably. A folder that exists may have
        been made by somebody who has not synced it yet, so its parent is synced by whoever creates
        in it: only the first use pays, as the fast path finds the folder in
        ``_durable_folders``."""
        if path in self._durable_folders:
            return
        if path != self._root:
            parent = os.path.dirname(path)
            self._ensure_folder(parent)
            with contextlib.suppress(FileExistsError):
                self._calls.mkdir(path)
            _sync_folder(self._calls, parent)
        if len(self._durable_folders) >= KNOWN_FOLDERS_MAX:
            self._durable_folders.clear()
        self._durable_folders[path] = None
