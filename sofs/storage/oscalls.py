"""The system calls of the local driver, in one small object.

Everything that touches the disk goes through one ``OsCalls``, one method a system call, so that a
test can fail, freeze or kill the process at each of them, or model what a power loss takes.
Nothing here decides anything; errors are the system's own ``OSError``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final, TypeAlias

from sofs.errors import DiskFull, ReadOnlyBackend, SofsError, StoreFailed, StoreUnknown

Buffer: TypeAlias = bytes | bytearray | memoryview

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def store_error(error: OSError, doing: str, key: str, *, unknown: bool = False) -> SofsError:
    """Return the typed error of a system call that failed while ``doing`` something to ``key``.

    With ``unknown`` the call may have taken effect all the same, whatever the system says.
    """
    text = f"{doing} {key}: {error.strerror or error}"
    if unknown:
        return StoreUnknown(f"{text}; whether it happened is open")
    if error.errno in _FULL:
        return DiskFull(f"{text}; free space, then repeat the call")
    if error.errno in _READ_ONLY:
        return ReadOnlyBackend(f"{text}; mount the backend writable or fix its permissions")
    return StoreFailed(text)


class OsCalls:
    """System calls on paths and descriptors. Replaced by tests."""

    def token(self) -> str:
        return os.urandom(8).hex()

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        return os.pwritev(fd, buffers, offset)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def pread_nowait(self, fd: int, buffer: bytearray, offset: int) -> int:
        return os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        os.posix_fallocate(fd, offset, length)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def advise(self, fd: int, offset: int, length: int, advice: int) -> None:
        os.posix_fadvise(fd, offset, length, advice)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def next_data(self, fd: int, offset: int) -> int:
        return os.lseek(fd, offset, os.SEEK_DATA)

    def next_hole(self, fd: int, offset: int) -> int:
        return os.lseek(fd, offset, os.SEEK_HOLE)

    def links(self, fd: int) -> int:
        return os.fstat(fd).st_nlink

    def identity(self, path: str) -> tuple[int, int]:
        """Return the device and the inode of a folder."""
        found = os.stat(path)
        return found.st_dev, found.st_ino

    def host(self) -> str:
        """Name this run of this kernel; "" when it is not told."""
        try:
            with open("/proc/sys/kernel/random/boot_id") as file:
                return file.read().strip()
        except OSError:
            return ""

    def stat_at(self, name: str, folder_fd: int) -> None:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)

    def link(self, source: str, target: str) -> None:
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def mkdir(self, path: str) -> None:
        os.mkdir(path, 0o755)

    def scan(self, path: str) -> list[tuple[str, bool]]:
        """Return (name, is a folder) of every entry."""
        with os.scandir(path) as entries:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]

    def modified_s(self, path: str) -> float:
        return os.stat(path, follow_symlinks=False).st_mtime
