"""The blocking SDK: ``with sofs.connect("sofs://host/share") as share``.

A facade: all of it runs on the process's one loop thread (``background``). A read or write of up to
1 MiB is one operation object that the calling thread builds and the loop sends; everything else
runs as a coroutine there. Any number of threads may use a share and its files at once; the calls
that use a file's position take the file's lock.

A ``File`` is an ``io.RawIOBase``, so ``io.BufferedReader``, ``io.BufferedRandom`` and
``io.TextIOWrapper`` work on it. It differs from an operating-system file in this: every write is
durable when it returns, and ``io.UnsupportedOperation`` apart all errors are SOFS errors, most of
which are also the Python error one expects (``FileNotFoundError``, ``ValueError`` after close,
...).
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

from sofs.client import aio, limits
from sofs.client.background import LoopThread, ThreadWaiter, loop_thread
from sofs.client.dialing import Resolver
from sofs.client.facts import ClusterFacts, FailoverRecord
from sofs.client.file import AsyncFile, LockedView, offset_of
from sofs.client.modes import PathLike, check_range, own_bytes
from sofs.client.operation import Settled
from sofs.client.trees import WalkStep
from sofs.constants import DEADLINE_DEFAULT_MS
from sofs.core.messages import DirectoryEntry, FileInfo, LockRange
from sofs.core.messages import Share as ShareMode
from sofs.errors import FileClosed, InvalidParameter
from sofs.ports.store import Buffer
from sofs.ports.stream import Transport

T = TypeVar("T")
_END: Final = object()


class File(io.RawIOBase):
    """An open file; see the module. Made by ``Share.open``."""

    def __init__(self, loop: LoopThread, file: AsyncFile) -> None:
        self._loop = loop
        self._file = file
        self._core = file.core
        self._flight = file.core.flight
        self._position_lock = threading.RLock()
        self._position = file.opened_info.size if file.mode.appends else 0

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<sofs file {self.name!r} {self._file.mode.text!r}{state}>"

    @property
    def name(self) -> str:
        return self._file.name

    @property
    def mode(self) -> str:
        return self._file.mode.text

    @property
    def handle(self) -> int:
        """The persistent handle's number, for people."""
        return self._file.remote.handle

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.closed:
            self._loop.run(self._file.__aexit__(kind, error, traceback))

    # Positional data

    def pread(self, size: int, offset: int, *, deadline_ms: int | None = None) -> bytes:
        """Return up to ``size`` bytes at ``offset``; fewer only at the end of the file."""
        file = self._file
        file.check(reads=True)
        check_range(offset, size, "read")
        if size == 0:
            return b""
        if size > limits.PIECE_BYTES:
            return self._loop.run(file.pread(size, offset, deadline_ms=deadline_ms))
        data = self._read_piece(size, offset, deadline_ms)
        return data if type(data) is bytes else bytes(data)

    def _read_piece(self, size: int, offset: int, deadline_ms: int | None) -> Buffer:
        waiter = ThreadWaiter()
        op = self._file.read_operation(size, offset, self._core.deadline(deadline_ms), waiter)
        return self._loop.perform(self._flight, op, waiter).data

    def pwrite(self, data: Buffer, offset: int, *, deadline_ms: int | None = None) -> int:
        """Write all of ``data`` at ``offset``, durably; return its length. Atomic up to 1 MiB."""
        file = self._file
        file.check(writes=True)
        owned = own_bytes(data)
        n_bytes = len(owned)
        check_range(offset, n_bytes, "write")
        if 0 < n_bytes <= limits.PIECE_BYTES:
            waiter = ThreadWaiter()
            limit = self._core.deadline(deadline_ms)
            op = file.write_operation(owned, offset, False, limit, waiter)
            self._loop.perform(self._flight, op, waiter)
        elif n_bytes:
            self._loop.run(file.pwrite(owned, offset, deadline_ms=deadline_ms))
        return n_bytes

    def pwrite_parts(
        self, parts: Sequence[tuple[int, bytes]], *, deadline_ms: int | None = None
    ) -> int:
        """Write several ranges in one atomic step; see ``AsyncFile.pwrite_parts``."""
        self._file.check(writes=True)
        waiter = ThreadWaiter()
        op = self._file.parts_operation(parts, self._core.deadline(deadline_ms), waiter)
        self._loop.perform(self._flight, op, waiter)
        return op.n_bytes

    def append(self, data: Buffer, *, deadline_ms: int | None = None) -> int:
        """Write all of ``data`` at the end of the file, durably and atomically up to 1 MiB; return
        the offset of its first byte."""
        file = self._file
        file.check(writes=True)
        owned = own_bytes(data)
        if not 0 < len(owned) <= limits.PIECE_BYTES:
            return self._loop.run(file.append(owned, deadline_ms=deadline_ms))
        waiter = ThreadWaiter()
        op = file.write_operation(owned, 0, True, self._core.deadline(deadline_ms), waiter)
        return offset_of(self._loop.perform(self._flight, op, waiter))

    # The file object

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        with self._position_lock:
            data = self.pread(size, self._position)
            self._position += len(data)
        return data

    def readall(self) -> bytes:
        with self._position_lock:
            data = self._loop.run(self._file.readall(self._position))
            self._position += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        self._file.check(reads=True)
        with self._position_lock:
            if not len(view):
                return 0
            if len(view) <= limits.PIECE_BYTES:
                check_range(self._position, len(view), "read")
                data = self._read_piece(len(view), self._position, None)
                n_bytes = len(data)
                view[:n_bytes] = data
            else:
                n_bytes = self._loop.run(self._file.readinto(view, self._position))
            self._position += n_bytes
        return n_bytes

    def write(self, data: Any, /) -> int:
        owned = own_bytes(data)
        with self._position_lock:
            if self._file.mode.appends:
                at = self.append(owned)
                if owned:  # Else nothing moves, as with a file of the system.
                    self._position = at + len(owned)
            else:
                self._position += self.pwrite(owned, self._position)
        return len(owned)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._file.check()
        with self._position_lock:
            base = 0
            if whence == os.SEEK_CUR:
                base = self._position
            elif whence == os.SEEK_END:
                base = self.stat().size
            elif whence != os.SEEK_SET:
                raise InvalidParameter(f"whence {whence} is none of SEEK_SET, SEEK_CUR, SEEK_END")
            if base + offset < 0:
                raise InvalidParameter(f"seek to the negative position {base + offset}")
            self._position = base + offset
            return self._position

    def tell(self) -> int:
        self._file.check()
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        with self._position_lock:
            wanted = self._position if size is None else size
            return self._loop.run(self._file.truncate(wanted))

    def flush(self) -> None:
        """Wait until the writes that other threads issued before are durable too."""
        self._file.check()
        if not self._flight.is_quiet(self._file.remote):
            self._loop.run(self._file.flush())

    def readable(self) -> bool:
        self._file.check()
        return self._file.mode.readable

    def writable(self) -> bool:
        self._file.check()
        return self._file.mode.writable

    def seekable(self) -> bool:
        self._file.check()
        return True

    @property
    def closed(self) -> bool:
        file = getattr(self, "_file", None)
        return file is None or file.closed

    def close(self, *, deadline_ms: int | None = None) -> None:
        """Wait for the handle's writes and give it back. Again is harmless."""
        if not self.closed:
            self._loop.run(self._file.close(deadline_ms=deadline_ms))

    def __del__(self) -> None:
        """A file that nobody closed is closed in the background: a finalizer may run on any thread,
        the loop's own too, and must not wait."""
        if self.closed or self._core.closed:
            return
        warnings.warn(f"unclosed file {self!r}", ResourceWarning, source=self, stacklevel=2)
        file = self._file
        try:
            self._loop.start_soon(file.close_unheard)
        except FileClosed:
            return  # The child of a fork: the handle is the parent's.

    # Locks and metadata

    def lock(
        self,
        offset: int,
        length: int,
        *,
        exclusive: bool = True,
        wait: bool = True,
        wait_ms: int | None = None,
        deadline_ms: int | None = None,
    ) -> None:
        """Lock ``[offset, offset + length)``: LockNotGranted at once unless ``wait`` (for
        ``wait_ms`` at most, if given). Ends with unlock, close, or the handle."""
        self._loop.run(
            self._file.lock(
                offset,
                length,
                exclusive=exclusive,
                wait=wait,
                wait_ms=wait_ms,
                deadline_ms=deadline_ms,
            )
        )

    def lock_ranges(
        self, ranges: Sequence[LockRange], *, wait: bool = True, wait_ms: int | None = None
    ) -> None:
        """Lock all ranges or none."""
        self._loop.run(self._file.lock_ranges(ranges, wait=wait, wait_ms=wait_ms))

    def unlock(self, offset: int, length: int, *, deadline_ms: int | None = None) -> None:
        """Unlock exactly one locked range; RangeNotLocked otherwise."""
        self._loop.run(self._file.unlock(offset, length, deadline_ms=deadline_ms))

    def unlock_ranges(self, ranges: Sequence[LockRange], *, deadline_ms: int | None = None) -> None:
        """Unlock exactly these locked ranges, all or (RangeNotLocked) none."""
        self._loop.run(self._file.unlock_ranges(ranges, deadline_ms=deadline_ms))

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
        """Unlock, test and lock in one step; see ``AsyncFile.change_locks``."""
        return self._loop.run(
            self._file.change_locks(
                drop=drop, test=test, take=take, wait_ms=wait_ms, read=read, beside=beside
            )
        )

    def stat(self, *, deadline_ms: int | None = None) -> FileInfo:
        return self._loop.run(self._file.stat(deadline_ms=deadline_ms))

    def set_info(
        self,
        *,
        attributes: int | None = None,
        created_ns: int = 0,
        modified_ns: int = 0,
        accessed_ns: int = 0,
        delete_on_close: bool | None = None,
    ) -> FileInfo:
        """See ``AsyncFile.set_info``."""
        return self._loop.run(
            self._file.set_info(
                attributes=attributes,
                created_ns=created_ns,
                modified_ns=modified_ns,
                accessed_ns=accessed_ns,
                delete_on_close=delete_on_close,
            )
        )


class Share:
    """A connected share; made by ``connect``. Every method is that of ``AsyncShare``, blocking."""

    def __init__(self, loop: LoopThread, share: aio.AsyncShare) -> None:
        self._loop = loop
        self._share = share

    def __repr__(self) -> str:
        return f"<sofs share {self._share.url}>"

    def __enter__(self) -> Share:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.run(self._share.__aexit__(kind, error, traceback))

    @property
    def name(self) -> str:
        return self._share.name

    @property
    def client_id(self) -> bytes:
        return self._share.client_id

    @property
    def closed(self) -> bool:
        return self._share.core.closed

    def close(self, *, timeout_ms: int | None = None) -> None:
        """Close all handles at the servers and end."""
        self._loop.run(self._share.close(timeout_ms=timeout_ms))

    def facts(self) -> ClusterFacts:
        """The node in use, the warm one, the witness, and the failovers so far."""

        async def facts() -> ClusterFacts:
            return self._share.facts()

        return self._loop.run(facts())

    def failovers(self) -> list[FailoverRecord]:
        return list(self.facts().failovers)

    def move(self, address: str) -> None:
        """Use the node at ``address`` from now on; see ``AsyncShare.move``."""
        self._loop.run(self._share.move(address))

    def leave(self) -> None:
        """Leave the node in use at once, as if it had failed."""
        self._loop.post(self._share.leave)

    def settle(self, token: object, *, timeout_ms: int | None = None) -> Settled:
        """Say what became of the operation of an OutcomeUnknown: ``error.token``."""
        return self._loop.run(self._share.settle(token, timeout_ms=timeout_ms))

    def open(
        self,
        path: PathLike,
        mode: str = "rb",
        *,
        share: ShareMode = ShareMode.ALL,
        delete_on_close: bool = False,
        deletable: bool = False,
        app_instance: bytes = b"",
        timeout_ms: int = 0,
        attributes: int = 0,
        deadline_ms: int | None = None,
    ) -> File:
        """Open a file with a persistent handle; see ``AsyncShare.open``."""
        file = self._loop.run(
            self._share.open(
                path,
                mode,
                share=share,
                delete_on_close=delete_on_close,
                deletable=deletable,
                app_instance=app_instance,
                timeout_ms=timeout_ms,
                attributes=attributes,
                deadline_ms=deadline_ms,
            )
        )
        return File(self._loop, file)

    def read_file(self, path: PathLike, *, deadline_ms: int | None = None) -> bytes:
        return self._loop.run(self._share.read_file(path, deadline_ms=deadline_ms))

    def write_file(
        self,
        path: PathLike,
        data: Buffer,
        *,
        exclusive: bool = False,
        deadline_ms: int | None = None,
    ) -> FileInfo:
        """Create or overwrite a whole file; atomic up to 1 MiB."""
        return self._loop.run(
            self._share.write_file(path, data, exclusive=exclusive, deadline_ms=deadline_ms)
        )

    def stat(self, path: PathLike, *, deadline_ms: int | None = None) -> FileInfo:
        return self._loop.run(self._share.stat(path, deadline_ms=deadline_ms))

    def exists(self, path: PathLike) -> bool:
        return self._loop.run(self._share.exists(path))

    def listdir(self, path: PathLike = "/") -> list[str]:
        return self._loop.run(self._share.listdir(path))

    def scandir(self, path: PathLike = "/") -> Iterator[DirectoryEntry]:
        """Yield a directory's entries, page by page."""
        return self._iterate(lambda: self._share.scandir(path))

    def walk(self, top: PathLike = "/") -> Iterator[WalkStep]:
        """Yield (directory, its directories, its files) from the top down."""
        return self._iterate(lambda: self._share.walk(top))

    def mkdir(self, path: PathLike, *, deadline_ms: int | None = None) -> FileInfo:
        return self._loop.run(self._share.mkdir(path, deadline_ms=deadline_ms))

    def makedirs(self, path: PathLike, *, exist_ok: bool = False) -> None:
        self._loop.run(self._share.makedirs(path, exist_ok=exist_ok))

    def rmdir(self, path: PathLike, *, deadline_ms: int | None = None) -> None:
        self._loop.run(self._share.rmdir(path, deadline_ms=deadline_ms))

    def rmtree(self, path: PathLike) -> None:
        self._loop.run(self._share.rmtree(path))

    def unlink(self, path: PathLike, *, deadline_ms: int | None = None) -> None:
        """Delete a file; an open one goes at its last close."""
        self._loop.run(self._share.unlink(path, deadline_ms=deadline_ms))

    def rename(self, source: PathLike, target: PathLike, *, deadline_ms: int | None = None) -> None:
        """Rename atomically; ObjectNameCollision if the target exists."""
        self._loop.run(self._share.rename(source, target, deadline_ms=deadline_ms))

    def replace(
        self, source: PathLike, target: PathLike, *, deadline_ms: int | None = None
    ) -> None:
        """Rename atomically over what is there."""
        self._loop.run(self._share.replace(source, target, deadline_ms=deadline_ms))

    def set_times(
        self,
        path: PathLike,
        *,
        created_ns: int = 0,
        modified_ns: int = 0,
        accessed_ns: int = 0,
    ) -> FileInfo:
        """Set times, in nanoseconds since the epoch; 0 leaves one as it is."""
        return self._loop.run(
            self._share.set_times(
                path, created_ns=created_ns, modified_ns=modified_ns, accessed_ns=accessed_ns
            )
        )

    def set_attributes(self, path: PathLike, attributes: int) -> FileInfo:
        """Set the attribute bits: 1 read-only, 2 hidden, 4 system, 32 archive."""
        return self._loop.run(self._share.set_attributes(path, attributes))

    def _iterate(self, make: Callable[[], AsyncGenerator[T, None]]) -> Iterator[T]:
        generator = make()

        async def step() -> object:
            return await anext(generator, _END)

        try:
            while (item := self._loop.run(step())) is not _END:
                yield item  # type: ignore[misc]  # ``object`` only because of the sentinel.
        finally:
            self._loop.run(generator.aclose())


def connect(
    url: str,
    *,
    credential: str | None = None,
    principal: str = "",
    deadline_ms: int = DEADLINE_DEFAULT_MS,
    connect_timeout_ms: int | None = None,
    client_id: bytes = b"",
    resolver: Resolver | None = None,
    warm: bool = True,
    witness: bool = True,
    transport: Transport | None = None,
) -> Share:
    """Connect to a share: ``sofs://host[:port][,host2...]/share``; arguments and errors are those
    of ``sofs.client.aio.connect``."""
    loop = loop_thread()

    async def start() -> aio.AsyncShare:
        share = await aio.connect(
            url,
            credential=credential,
            principal=principal,
            deadline_ms=deadline_ms,
            connect_timeout_ms=connect_timeout_ms,
            client_id=client_id,
            resolver=resolver,
            warm=warm,
            witness=witness,
            transport=transport,
        )
        loop.adopt(share.core)
        return share

    return Share(loop, loop.run(start()))
