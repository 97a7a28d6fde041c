"""An open file, asynchronously.

Arguments are checked before anything is sent. Large reads and writes go in pieces of PIECE_BYTES
with PIECES_MAX of them in flight; each piece is atomic, the whole is not. Data that its owner could
change while it may still be sent (anything but ``bytes``) is copied first: a copy that is sent
again must hold the same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from types import TracebackType
from typing import Any, NamedTuple

from sofs.client import limits
from sofs.client.modes import Mode, check_range, own_bytes
from sofs.client.operation import (
    EVERYWHERE,
    Kind,
    Operation,
    RemoteHandle,
    Waiter,
)
from sofs.client.session import ClientCore
from sofs.constants import (
    BLOCK_BYTES,
    FILE_BYTES_MAX,
    LOCK_RANGES_MAX,
    WRITE_BYTES_MAX,
    WRITE_PARTS_MAX,
)
from sofs.core.messages import (
    ChangeLocks,
    Close,
    DataRange,
    Done,
    FileInfo,
    InfoReply,
    Lock,
    LockRange,
    LocksChanged,
    Message,
    Read,
    ReadReply,
    SetInfo,
    Stat,
    Truncate,
    Unlock,
    Write,
    WriteParts,
    WriteReply,
)
from sofs.errors import (
    DeadlineExceeded,
    FileClosed,
    InvalidParameter,
    LockNotGranted,
    SofsError,
)
from sofs.ports.store import Buffer
from sofs.ports.stream import Envelope

Piece = tuple[Operation, asyncio.Future[Envelope]]


class LockedView(NamedTuple):
    """What came along with a change of locks, of a moment at which they were held. ``size`` is None
    when the node would have had to ask: then ``data`` is empty, too. ``nothing_beside``: the other
    file surely did not exist, or was empty."""

    size: int | None
    data: bytes
    nothing_beside: bool


class AsyncFile:
    """An open file with a persistent handle. Positional calls may run at the same time; those that
    use the file's position (``read``, ``write``, ``seek``) may not."""

    def __init__(
        self, core: ClientCore, handle: RemoteHandle, mode: Mode, info: FileInfo, timeout_ms: int
    ) -> None:
        self.core = core
        self._flight = core.flight
        self.remote = handle
        self.mode = mode
        self.opened_info = info
        self.timeout_ms = timeout_ms
        self.closed = False
        self._position = info.size if mode.appends else 0

    @property
    def name(self) -> str:
        return self.remote.path

    async def __aenter__(self) -> AsyncFile:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
            return
        try:
            await self.close(deadline_ms=limits.GOODBYE_MS_MAX)
        except SofsError as second:
            error.add_note(f"closing the file failed too: {second}")

    # Operations as objects; the blocking API submits the same ones from its threads.

    def check(self, *, reads: bool = False, writes: bool = False) -> None:
        """FileClosed after close; io.UnsupportedOperation for what the mode does not allow."""
        if self.closed:
            raise FileClosed(f"{self.name} is closed; open it again")
        if reads and not self.mode.readable:
            raise io.UnsupportedOperation(
                f"{self.name} is open as {self.mode.text!r}: not readable"
            )
        if writes and not self.mode.writable:
            raise io.UnsupportedOperation(
                f"{self.name} is open as {self.mode.text!r}: not writable"
            )

    def write_operation(
        self, data: Buffer, offset: int, append: bool, deadline_ms: int, waiter: Waiter
    ) -> Operation:
        """One atomic write of at most PIECE_BYTES of immutable data."""
        n_bytes = len(data)
        handle = self.remote
        return Operation(
            self._flight,
            Write(handle=handle.handle, offset=offset, append=append),
            data,
            WriteReply,
            Kind.DATA,
            handle,
            deadline_ms,
            waiter,
            EVERYWHERE if append else (offset, offset + n_bytes),
            n_bytes,
        )

    def parts_operation(
        self, parts: Sequence[tuple[int, bytes]], deadline_ms: int, waiter: Waiter
    ) -> Operation:
        """One atomic write of several ranges."""
        check_parts(parts)
        handle = self.remote
        ranges = [DataRange(offset, len(data)) for offset, data in parts]
        data = b"".join([piece for _, piece in parts])
        last = ranges[-1]
        return Operation(
            self._flight,
            WriteParts(handle=handle.handle, parts=ranges),
            data,
            WriteReply,
            Kind.DATA,
            handle,
            deadline_ms,
            waiter,
            (ranges[0].offset, last.offset + last.length),
            len(data),
        )

    def read_operation(self, size: int, offset: int, deadline_ms: int, waiter: Waiter) -> Operation:
        """One read of at most PIECE_BYTES."""
        handle = self.remote
        return Operation(
            self._flight,
            Read(handle=handle.handle, offset=offset, length=size),
            b"",
            ReadReply,
            Kind.QUERY,
            handle,
            deadline_ms,
            waiter,
            (offset, offset + size),
            size,
        )

    # Data

    async def pread(self, size: int, offset: int, *, deadline_ms: int | None = None) -> bytes:
        """Return up to ``size`` bytes at ``offset``; fewer only at the end of the file. A read of
        more than 1 MiB is one of several pieces, each consistent in itself."""
        self.check(reads=True)
        check_range(offset, size, "read")
        if size == 0:
            return b""
        limit = self.core.deadline(deadline_ms)
        if size <= limits.PIECE_BYTES:
            envelope = await self._one(
                lambda future: self.read_operation(size, offset, limit, future)
            )
            data = envelope.data
            return data if type(data) is bytes else bytes(data)
        return b"".join([part async for part in self._read_pieces(size, offset, limit)])

    async def readinto(self, buffer: Any, offset: int, *, deadline_ms: int | None = None) -> int:
        """Read into a writable buffer at ``offset``; return how many bytes."""
        self.check(reads=True)
        view = memoryview(buffer).cast("B")
        check_range(offset, len(view), "read")
        limit = self.core.deadline(deadline_ms)
        filled = 0
        async with aclosing(self._read_pieces(len(view), offset, limit)) as parts:
            async for part in parts:
                view[filled : filled + len(part)] = part
                filled += len(part)
        return filled

    async def readall(self, offset: int = 0, *, deadline_ms: int | None = None) -> bytes:
        """Return everything from ``offset`` to the end of the file."""
        self.check(reads=True)
        check_range(offset, 0, "read")
        parts: list[Buffer] = []
        step = limits.PIECE_BYTES
        while True:
            got = 0
            limit = self.core.deadline(deadline_ms)
            async with aclosing(self._read_pieces(step, offset, limit)) as pieces:
                async for part in pieces:
                    parts.append(part)
                    got += len(part)
            offset += got
            if got < step:
                return b"".join(parts)
            step = limits.PIECE_BYTES * limits.PIECES_MAX

    async def _read_pieces(
        self, size: int, offset: int, limit: int
    ) -> AsyncGenerator[Buffer, None]:
        def pieces() -> Iterator[Piece]:
            loop = asyncio.get_running_loop()
            for start in range(0, size, limits.PIECE_BYTES):
                future: asyncio.Future[Envelope] = loop.create_future()
                length = min(limits.PIECE_BYTES, size - start)
                yield self.read_operation(length, offset + start, limit, future), future

        async with aclosing(self._pipelined(pieces(), limits.PIECES_MAX)) as answers:
            async for op, envelope in answers:
                yield envelope.data
                if len(envelope.data) < op.n_bytes:
                    return  # The end of the file; what later pieces saw beyond it is not joined on.

    async def pwrite(self, data: Buffer, offset: int, *, deadline_ms: int | None = None) -> int:
        """Write all of ``data`` at ``offset``, durably; return its length. Atomic up to 1 MiB."""
        if self.closed or not self.mode.writable:
            self.check(writes=True)
        owned = data if type(data) is bytes else own_bytes(data)
        n_bytes = len(owned)
        if offset < 0 or offset + n_bytes > FILE_BYTES_MAX:
            check_range(offset, n_bytes, "write")
        limit = self.core.deadline(deadline_ms)
        if not 0 < n_bytes <= limits.PIECE_BYTES:
            await self._write(owned, offset, False, limit)
            return n_bytes
        future: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        op = self.write_operation(owned, offset, False, limit, future)
        self._flight.submit(op)
        try:
            await future
        except asyncio.CancelledError:
            self._flight.forget(op)
            raise
        return n_bytes

    async def pwrite_parts(
        self, parts: Sequence[tuple[int, bytes]], *, deadline_ms: int | None = None
    ) -> int:
        """Write several ranges, ``(offset, bytes)`` each, durably and atomically: after any crash
        all of them are there, or none. Whole blocks of 4 KiB in ascending order, up to
        WRITE_PARTS_MAX ranges and 1 MiB in all; InvalidParameter otherwise. Returns the bytes."""
        self.check(writes=True)
        limit = self.core.deadline(deadline_ms)
        await self._one(lambda future: self.parts_operation(parts, limit, future))
        return sum(len(data) for _, data in parts)

    async def append(self, data: Buffer, *, deadline_ms: int | None = None) -> int:
        """Write all of ``data`` at the end of the file, durably and atomically up to 1 MiB (beyond,
        other appenders may come between the pieces); return the offset of its first byte."""
        self.check(writes=True)
        owned = own_bytes(data)
        check_range(0, len(owned), "append")
        return await self._write(owned, 0, True, self.core.deadline(deadline_ms))

    async def _write(self, data: bytes, offset: int, append: bool, limit: int) -> int:
        n_bytes = len(data)
        if n_bytes == 0:
            return (await self.stat()).size if append else offset
        if n_bytes <= limits.PIECE_BYTES:
            envelope = await self._one(
                lambda future: self.write_operation(data, offset, append, limit, future)
            )
            return offset_of(envelope)

        def pieces() -> Iterator[Piece]:
            loop = asyncio.get_running_loop()
            view = memoryview(data)
            for start in range(0, n_bytes, limits.PIECE_BYTES):
                future: asyncio.Future[Envelope] = loop.create_future()
                piece = view[start : start + limits.PIECE_BYTES]
                yield self.write_operation(piece, offset + start, append, limit, future), future

        first = -1
        # Pieces of an append must land in order, so each waits for the one before.
        depth = 1 if append else limits.PIECES_MAX
        async with aclosing(self._pipelined(pieces(), depth)) as answers:
            async for _, envelope in answers:
                if first < 0:
                    first = offset_of(envelope)
        return first

    async def _one(self, make: Callable[[asyncio.Future[Envelope]], Operation]) -> Envelope:
        future: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        op = make(future)
        self._flight.submit(op)
        try:
            return await future
        except asyncio.CancelledError:
            self._flight.forget(op)
            raise

    async def _pipelined(
        self, pieces: Iterator[Piece], depth: int
    ) -> AsyncGenerator[tuple[Operation, Envelope], None]:
        """Submit the pieces with ``depth`` in flight and yield their answers in order. After an
        error the pieces in flight are awaited (they may take effect); after a cancellation they are
        given up."""
        flying: deque[Piece] = deque()
        try:
            for piece in pieces:
                flying.append(piece)
                self._flight.submit(piece[0])
                if len(flying) >= depth:
                    op, future = flying[0]
                    envelope = await future
                    flying.popleft()
                    yield op, envelope
            while flying:
                op, future = flying[0]
                envelope = await future
                flying.popleft()
                yield op, envelope
        except SofsError:
            await asyncio.gather(*(future for _, future in flying), return_exceptions=True)
            raise
        finally:
            for op, future in flying:
                if not future.done():
                    self._flight.forget(op)
                elif not future.cancelled():
                    future.exception()  # Seen: the first error was raised.

    # The position

    async def read(self, size: int = -1) -> bytes:
        """Read from the position and move it; -1: to the end."""
        if size < 0:
            data = await self.readall(self._position)
        else:
            data = await self.pread(size, self._position)
        self._position += len(data)
        return data

    async def write(self, data: Buffer) -> int:
        """Write at the position (at the end in append mode) and move it."""
        owned = own_bytes(data)
        if self.mode.appends:
            at = await self.append(owned)
            if owned:  # Else nothing moves, as with a file of the system.
                self._position = at + len(owned)
        else:
            await self.pwrite(owned, self._position)
            self._position += len(owned)
        return len(owned)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.check()
        base = 0
        if whence == os.SEEK_CUR:
            base = self._position
        elif whence == os.SEEK_END:
            base = (await self.stat()).size
        elif whence != os.SEEK_SET:
            raise InvalidParameter(f"whence {whence} is none of SEEK_SET, SEEK_CUR, SEEK_END")
        if base + offset < 0:
            raise InvalidParameter(f"seek to the negative position {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        self.check()
        return self._position

    # Metadata

    async def flush(self, *, deadline_ms: int | None = None) -> None:
        """Wait until every write issued before is durable. Each is when it returns, so the server
        has nothing to add."""
        self.check()
        await self._quiet(deadline_ms)

    async def truncate(self, size: int | None = None, *, deadline_ms: int | None = None) -> int:
        """Set the file's size, down or up (zeros); default: the position. Returns the size."""
        self.check(writes=True)
        wanted = self._position if size is None else size
        check_range(wanted, 0, "truncate")
        body = Truncate(caller=self._flight.caller(), handle=self.remote.handle, size=wanted)
        await self._call(body, InfoReply, Kind.METADATA, deadline_ms, span=EVERYWHERE)
        return wanted

    async def stat(self, *, deadline_ms: int | None = None) -> FileInfo:
        self.check()
        body = Stat(handle=self.remote.handle)
        reply = await self._call(body, InfoReply, Kind.QUERY, deadline_ms, span=EVERYWHERE)
        return info_of(reply)

    async def set_info(
        self,
        *,
        attributes: int | None = None,
        created_ns: int = 0,
        modified_ns: int = 0,
        accessed_ns: int = 0,
        delete_on_close: bool | None = None,
        deadline_ms: int | None = None,
    ) -> FileInfo:
        """Set attributes, times (nanoseconds since the epoch; 0 leaves one) or delete-on-close (the
        file must have been opened with ``delete_on_close``, which brings DELETE access)."""
        self.check()
        body = SetInfo(
            caller=self._flight.caller(),
            handle=self.remote.handle,
            set_attributes=attributes is not None,
            attributes=attributes or 0,
            created_ns=created_ns,
            modified_ns=modified_ns,
            accessed_ns=accessed_ns,
            delete_on_close=0 if delete_on_close is None else 1 if delete_on_close else 2,
        )
        return info_of(await self._call(body, InfoReply, Kind.METADATA, deadline_ms))

    async def lock(
        self,
        offset: int,
        length: int,
        *,
        exclusive: bool = True,
        wait: bool = True,
        wait_ms: int | None = None,
        deadline_ms: int | None = None,
    ) -> None:
        """Lock ``[offset, offset + length)``; see ``lock_ranges``."""
        await self.lock_ranges(
            [LockRange(offset, length, exclusive)],
            wait=wait,
            wait_ms=wait_ms,
            deadline_ms=deadline_ms,
        )

    async def lock_ranges(
        self,
        ranges: Sequence[LockRange],
        *,
        wait: bool = True,
        wait_ms: int | None = None,
        deadline_ms: int | None = None,
    ) -> None:
        """Lock all ranges or none. ``wait``: until they are free, or for ``wait_ms`` at most; else
        LockNotGranted at once. The lock survives failovers and ends with unlock, close, or the
        handle. ``deadline_ms`` counts while the server is silent, not while the lock is held by
        others."""
        self.check()
        if not 0 < len(ranges) <= LOCK_RANGES_MAX:
            raise InvalidParameter(f"lock 1 to {LOCK_RANGES_MAX} ranges at once")
        for each in ranges:
            check_range(each.offset, each.length, "lock")
        clock = self.core.clock
        until = None if wait_ms is None else clock.monotonic_ms() + wait_ms
        while True:
            asked = clock.monotonic_ms()
            slice_ms = limits.LOCK_WAIT_MS if wait else 0
            if until is not None:
                slice_ms = max(0, min(slice_ms, until - asked))
            body = Lock(
                caller=self._flight.caller(),
                handle=self.remote.handle,
                ranges=list(ranges),
                wait_ms=slice_ms,
            )
            limit_ms = slice_ms + (self.core.deadline_ms if deadline_ms is None else deadline_ms)
            try:
                await self._call(body, Done, Kind.METADATA, limit_ms, span=_hull(ranges))
                return
            except LockNotGranted:
                now = clock.monotonic_ms()
                if not wait or (until is not None and now >= until):
                    raise
                if now - asked < slice_ms // 2:  # It did not wait: do not spin.
                    await clock.sleep_ms(limits.RETRY_MS_MAX / 4)

    async def unlock(self, offset: int, length: int, *, deadline_ms: int | None = None) -> None:
        """Unlock exactly one locked range; RangeNotLocked otherwise. Earlier writes land first."""
        await self.unlock_ranges([LockRange(offset, length)], deadline_ms=deadline_ms)

    async def unlock_ranges(
        self, ranges: Sequence[LockRange], *, deadline_ms: int | None = None
    ) -> None:
        """Unlock locked ranges, all or (RangeNotLocked) none; of two stacked locks on one range the
        exclusive one goes."""
        self.check()
        if not 0 < len(ranges) <= LOCK_RANGES_MAX:
            raise InvalidParameter(f"unlock 1 to {LOCK_RANGES_MAX} ranges at once")
        for each in ranges:
            check_range(each.offset, each.length, "unlock")
        body = Unlock(caller=self._flight.caller(), handle=self.remote.handle, ranges=list(ranges))
        await self._call(body, Done, Kind.METADATA, deadline_ms, span=_hull(ranges))

    async def change_locks(
        self,
        *,
        drop: Sequence[LockRange] = (),
        test: Sequence[LockRange] = (),
        take: Sequence[LockRange] = (),
        wait_ms: int = 0,
        read: tuple[int, int] = (0, 0),
        beside: str = "",
    ) -> LockedView:
        """Unlock ``drop``, find ``test`` free (without keeping it) and lock ``take``, in one step:
        LockNotGranted (when ``wait_ms`` passed) and RangeNotLocked leave everything as it was.
        Earlier writes land first. ``read``: (length, offset) of bytes to bring along; ``beside``:
        the path of a file to look at, too. Of a call that is cancelled after it took effect,
        ``take`` is given back; ``drop`` stays free, since somebody else may hold it by then."""
        self.check()
        ranges = [*drop, *test, *take]
        if not 0 < len(ranges) <= LOCK_RANGES_MAX:
            raise InvalidParameter(f"change 1 to {LOCK_RANGES_MAX} ranges at once")
        for each in ranges:
            check_range(each.offset, each.length, "lock")
        body = ChangeLocks(
            caller=self._flight.caller(),
            handle=self.remote.handle,
            drop=list(drop),
            test=list(test),
            take=list(take),
            wait_ms=wait_ms,
            read_offset=read[1],
            read_length=read[0],
            beside=beside,
        )
        limit_ms = wait_ms + self.core.deadline_ms
        span = _hull(ranges) if not drop else EVERYWHERE
        envelope = await self._call(body, LocksChanged, Kind.METADATA, limit_ms, span=span)
        reply = envelope.body
        assert isinstance(reply, LocksChanged)
        if not reply.known:
            return LockedView(None, b"", reply.nothing_beside)
        return LockedView(reply.size, bytes(envelope.data), reply.nothing_beside)

    async def close(self, *, deadline_ms: int | None = None) -> None:
        """Wait for the handle's writes and give it back. Again is harmless. Raises HandleLost if it
        is gone and no earlier call said so. After DeadlineExceeded or OutcomeUnknown the close goes
        on in the background."""
        if self.closed:
            return
        self.closed = True
        if self.core.closed or (self.remote.lost is not None and self.remote.lost_told):
            return  # The server closed it with the client, or the caller knows that it is gone.
        try:
            await self._quiet(deadline_ms)
        finally:
            body = Close(caller=self._flight.caller(), handle=self.remote.handle)
            await self._call(body, InfoReply, Kind.METADATA, deadline_ms, span=EVERYWHERE)

    async def close_unheard(self) -> None:
        """Close for a finalizer: nobody hears of an error; the client's end closes what is left."""
        with contextlib.suppress(SofsError):
            await self.close()

    async def _quiet(self, deadline_ms: int | None) -> None:
        if self._flight.is_quiet(self.remote):
            return
        limit_ms = self.core.deadline_ms if deadline_ms is None else deadline_ms
        waiting = asyncio.ensure_future(self._flight.quiet(self.remote))
        timer = asyncio.ensure_future(self.core.clock.sleep_ms(limit_ms))
        try:
            await asyncio.wait((waiting, timer), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise DeadlineExceeded(f"{self.name}: earlier writes are still unanswered")
            waiting.result()
        finally:
            timer.cancel()
            waiting.cancel()

    async def _call(
        self,
        body: Message,
        expects: type[Message],
        kind: Kind,
        limit_ms: int | None,
        span: tuple[int, int] = (0, 0),
    ) -> Envelope:
        return await self._flight.call(
            body,
            expects,
            kind,
            handle=self.remote,
            deadline_ms=self.core.deadline(limit_ms),
            span=span,
        )


def check_parts(parts: Sequence[tuple[int, bytes]]) -> None:
    """Raise InvalidParameter for what cannot be one atomic write."""
    if not 0 < len(parts) <= WRITE_PARTS_MAX:
        raise InvalidParameter(f"{len(parts)} ranges; write 1 to {WRITE_PARTS_MAX} at once")
    end = n_bytes = 0
    for offset, data in parts:
        if offset < end or offset % BLOCK_BYTES or not data or len(data) % BLOCK_BYTES:
            raise InvalidParameter(
                f"range at {offset} of {len(data)} bytes: ranges of one write are whole blocks of "
                f"{BLOCK_BYTES} bytes, in ascending order"
            )
        end = offset + len(data)
        n_bytes += len(data)
    if n_bytes > WRITE_BYTES_MAX or end > FILE_BYTES_MAX:
        raise InvalidParameter(f"one write has at most {WRITE_BYTES_MAX} bytes; split it")


def offset_of(envelope: Envelope) -> int:
    reply = envelope.body
    assert isinstance(reply, WriteReply)
    return reply.offset


def info_of(envelope: Envelope) -> FileInfo:
    reply = envelope.body
    assert isinstance(reply, InfoReply)
    return reply.info


def _hull(ranges: Iterable[LockRange]) -> tuple[int, int]:
    return min(r.offset for r in ranges), max(r.offset + r.length for r in ranges)
