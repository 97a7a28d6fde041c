"""Writes, appends and abandonments: one durable record each, answered when it is acknowledged.

Theory. ``WriteOp.attempt`` checks everything and appends the record in one go, without suspending:
the handle's generation and access, the completed window (exactly once), byte-range locks, limits of
the unsent tail, room on the disk. Payloads are whole file-aligned pages; a partial first or last
page is completed from the newest record under way, else from the map, else with zeros. When the
log says that a batch is durable and checked, its records are published in order: map, size, window,
commit batch, and only then the answer (R8). Nothing is ever taken back: if the log ends, this whole
life ends, and the successor decides what happened (R7).

A copy of an operation in flight attaches to it; a copy of a completed one is answered from the
window, even if others have overwritten the bytes since.

The unsent tail counts from the append, so that what a take-over must replay is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from sofs.constants import (
    BLOCK_BYTES,
    FILE_BYTES_MAX,
    WINDOW_OPS_MAX,
    WRITE_BYTES_MAX,
)
from sofs.core.extent_map import PagePlace
from sofs.core.locks import io_conflict
from sofs.core.messages import Abandon, AbandonReply, Access, Write, WriteReply
from sofs.core.record import FLAG_DETACHED, DataHeader, DataOp, RecordKind
from sofs.core.window import FRESH, BeyondWindow, Completed, Forgotten, Judgement, WasAbandoned
from sofs.errors import (
    Abandoned,
    AccessDenied,
    Expired,
    FileLockConflict,
    InvalidParameter,
    LimitExceeded,
    MessageTooLarge,
    SofsError,
    StaleGeneration,
)
from sofs.ports.log import LogWriter, Placement
from sofs.ports.runtime import Clock
from sofs.ports.store import Buffer
from sofs.services.node.commits import Commits
from sofs.services.node.file_table import FileTable
from sofs.services.node.nowait import finished
from sofs.services.node.open_file import (
    RW,
    Handle,
    Need,
    Pending,
    check_handle,
    leaving,
)
from sofs.services.node.read_path import ReadPath
from sofs.services.node.session import Session

ZERO_BLOCK: Final = memoryview(bytes(BLOCK_BYTES))
_SHIFT: Final = 12
_MASK: Final = BLOCK_BYTES - 1
_WRITE: Final = int(Access.WRITE)
_WRITE_OR_APPEND: Final = int(Access.WRITE | Access.APPEND)

assert 1 << _SHIFT == BLOCK_BYTES


class WritePath:
    """What all writes of a life share."""

    def __init__(
        self,
        clock: Clock,
        log: LogWriter,
        table: FileTable,
        commits: Commits,
        reads: ReadPath,
    ) -> None:
        self.clock = clock
        self.log = log
        self.table = table
        self.commits = commits
        self.reads = reads
        self.pending: deque[Pending] = deque()
        self.pending_bytes = 0
        self.log_id = 0  # Set by the first registration.
        log.on_durable(self._durable)

    def write(self, session: Session, call: int, handle: Handle, body: Write, data: Buffer) -> None:
        """Take one write of a client."""
        if handle.leaving:
            session.finished(len(data))
            raise leaving(handle)
        handle.busy += 1
        handle.file.submit(WriteOp(self, session, call, handle, body, data))

    def abandon(self, session: Session, call: int, handle: Handle, body: Abandon) -> None:
        """Settle one write of a client."""
        if handle.leaving:
            session.finished(0)
            raise leaving(handle)
        handle.busy += 1
        handle.file.submit(AbandonOp(self, session, call, handle, body))

    def _durable(self, first: int, last: int, records: Sequence[bytes]) -> None:
        """A batch of the log is durable and checked: publish its records in order."""
        pending = self.pending
        while pending and pending[0].sequence <= last:
            pending.popleft().publish()
        self.commits.published(last)

    def full(self) -> bool:
        return self.commits.full(len(self.pending), self.pending_bytes)

    async def room(self) -> None:
        """Return when the tail is not full."""
        while self.full():
            await self.commits.moved()

    def append_detached(self, ino: int, data: Sequence[Buffer], length: int) -> Placement:
        """Append a record that only an authority transaction makes count. The caller asked for
        room."""
        header = DataHeader(
            file=ino,
            offset=0,
            length=length,
            generation=0,
            handle=0,
            op_sequence=0,
            token_generation=0,
            resulting_offset=0,
            first_page=0,
            mtime_ns=self.clock.wall_ns(),
            op=DataOp.WRITE,
            flags=FLAG_DETACHED,
        )
        return self.log.append(RecordKind.DATA, data, header.pack(), block_sums=True)


class WriteOp:
    """One write or append, from its arrival to its answer."""

    __slots__ = (
        "_asked",
        "_body",
        "_call",
        "_copies",
        "_data",
        "_epoch",
        "_file",
        "_first_page",
        "_landed",
        "_modified_ns",
        "_pages",
        "_paths",
        "_payload",
        "_placement",
        "_session",
        "handle",
        "sequence",
    )

    def __init__(
        self,
        paths: WritePath,
        session: Session,
        call: int,
        handle: Handle,
        body: Write,
        data: Buffer,
    ) -> None:
        self._paths = paths
        self._session = session
        self._call = call
        self.handle = handle
        self._epoch = handle.epoch
        self._file = handle.file
        self._body = body
        self._data = data
        self._asked = -1  # Generation of the token that was acquired for this operation.
        self._copies: list[tuple[Session, int, bool]] | None = None
        self._pages: dict[int, bytes] | None = None  # Read from the device for this operation.

    @property
    def alive(self) -> bool:
        return self._session.alive

    @property
    def trace(self) -> bytes:
        """See ``open_file.Operation``."""
        return self._session.trace(self._call)

    # Admission
    # -------------------------------------------------------------------------------------

    def attempt(self) -> Need | None:
        """See ``open_file.Operation``."""
        paths, body, handle, file = self._paths, self._body, self.handle, self._file
        if handle.generation != body.generation or handle.closing:
            check_handle(handle, body.generation)
        window = handle.window
        if file.mode != RW or window is None:
            if file.mode == RW and self._asked == file.generation:
                raise StaleGeneration(f"handle {handle.number} is not connected through this node")
            return Need(self._acquire, remote=True)
        op_sequence = body.op_sequence
        if body.acked_below > handle.acked:
            handle.acked = body.acked_below
            window.ack_below(body.acked_below)
        flight = handle.in_flight.get(op_sequence)
        if flight is not None:
            flight.attach(self._session, self._call, False)
            self._finished()
            return None
        verdict = window.judge(op_sequence)
        if verdict is not FRESH:
            self._answer_settled(verdict)
            return None
        length = len(self._data)
        offset = file.size_pending if body.append else body.offset
        self._check(offset, length)
        if file.locks and (conflict := self._lock_conflict(offset, length)) is not None:
            return conflict
        if not length:
            self._reply(offset)
            return None
        if paths.full():
            return Need(paths.room, remote=True)
        payload = self._compose(offset, length)
        if isinstance(payload, Need):
            return payload
        if not finished(paths.log.room(length + 2 * BLOCK_BYTES)):
            return Need(lambda: paths.log.room(length + 2 * BLOCK_BYTES), remote=False)
        self._append(offset, length, payload)
        return None

    def _check(self, offset: int, length: int) -> None:
        """Refuse what is no valid write through this handle."""
        body, access = self._body, self.handle.access
        if not access & (_WRITE_OR_APPEND if body.append else _WRITE):
            raise AccessDenied("the handle was not opened for this; open it with write access")
        if length > WRITE_BYTES_MAX:
            raise MessageTooLarge(f"a write takes at most {WRITE_BYTES_MAX} bytes; split it")
        if offset + length > FILE_BYTES_MAX:
            raise InvalidParameter(f"a file ends at {FILE_BYTES_MAX} bytes")

    def _lock_conflict(self, offset: int, length: int) -> Need | None:
        """What to do about a lock in the way: ask once whether it is still held, then refuse."""
        file = self._file
        lock = io_conflict(file.locks, self.handle.number, offset, length, True)
        if lock is None:
            return None
        if self._asked != file.generation:
            return Need(self._acquire, remote=True)
        raise FileLockConflict(
            f"bytes {lock.offset} to {lock.offset + lock.length} are locked by handle {lock.handle}"
        )

    async def _acquire(self) -> None:
        """Get a token to write, with the newest lock table and windows."""
        await self._paths.table.acquire(self._file, RW)
        self._asked = self._file.generation

    def _compose(self, offset: int, length: int) -> list[Buffer] | Need:
        """Complete partial first and last pages; Need when one must be read from the device."""
        head = offset & _MASK
        end = offset + length
        tail = end & _MASK
        if not head and not tail:
            return [self._data]
        data = memoryview(self._data)
        first, last = offset >> _SHIFT, end - 1 >> _SHIFT
        old_first: Buffer = ZERO_BLOCK
        if head or first == last:
            found = self._old_page(first)
            if isinstance(found, Need):
                return found
            old_first = found
        old_last = old_first
        if tail and last != first:
            found = self._old_page(last)
            if isinstance(found, Need):
                return found
            old_last = found
        if first == last:
            after = memoryview(old_first)[tail:] if tail else b""
            return [b"".join((memoryview(old_first)[:head], data, after))]
        payload: list[Buffer] = []
        at = 0
        if head:
            at = BLOCK_BYTES - head
            payload.append(b"".join((memoryview(old_first)[:head], data[:at])))
        middle_end = length - tail
        if middle_end > at:
            payload.append(data[at:middle_end])
        if tail:
            payload.append(b"".join((data[middle_end:], memoryview(old_last)[tail:])))
        return payload

    def _old_page(self, page: int) -> Buffer | Need:
        """The contents of a page with everything that was appended before."""
        file, reads = self._file, self._paths.reads
        if page << _SHIFT >= file.size_pending:
            return ZERO_BLOCK
        for record in reversed(file.pending):
            under_way = record.page(page)
            if under_way is not None:
                return under_way
        missing = file.map.missing(page, page + 1)
        if missing is not None:
            return Need(lambda: self._paths.table.fetch(file, missing), remote=True)
        place = file.map.page(page)
        if place is None:
            return ZERO_BLOCK
        fetched = self._pages
        if fetched is not None and page in fetched and reads.is_page(place, fetched[page]):
            return fetched[page]
        cached = reads.cached_page(place)
        if cached is not None:
            return cached
        return Need(lambda: self._read_page(page, place), remote=False)

    async def _read_page(self, page: int, place: PagePlace) -> None:
        """Read a page from the device for this operation."""
        data = await self._paths.reads.read_page(self._file.ino, page, place)
        if self._pages is None:
            self._pages = {}
        self._pages[page] = data

    def _append(self, offset: int, length: int, payload: list[Buffer]) -> None:
        paths, body, handle, file = self._paths, self._body, self.handle, self._file
        modified_ns = paths.clock.wall_ns()
        first_page = offset >> _SHIFT
        header = self._header(offset, length, modified_ns)
        placement = paths.log.append(RecordKind.DATA, payload, header.pack(), block_sums=True)
        self.sequence: int = placement.sequence
        self._placement = placement
        self._first_page = first_page
        self._payload = payload
        self._landed = offset
        self._modified_ns = modified_ns
        end = self._end_at(offset, length)
        if end > file.size_pending:
            file.size_pending = end
        file.pending.append(self)
        handle.in_flight[body.op_sequence] = self
        paths.pending.append(self)
        paths.pending_bytes += length

    def _header(self, offset: int, length: int, modified_ns: int) -> DataHeader:
        body, handle, file = self._body, self.handle, self._file
        return DataHeader(
            file.ino,
            offset,
            length,
            handle.generation,
            handle.number,
            body.op_sequence,
            file.generation,
            offset,
            offset >> _SHIFT,
            modified_ns,
            DataOp.APPEND if body.append else DataOp.WRITE,
        )

    def _end_at(self, offset: int, length: int) -> int:
        """The offset behind the last byte, when it lands at ``offset``."""
        return offset + length

    # In flight and after
    # ---------------------------------------------------------------------------

    def page(self, page: int) -> memoryview | None:
        """See ``open_file.Pending``."""
        at = (page - self._first_page) << _SHIFT
        if at < 0:
            return None
        for buffer in self._payload:
            if at < len(buffer):
                return memoryview(buffer)[at : at + BLOCK_BYTES]
            at -= len(buffer)
        return None

    def attach(self, session: Session, call: int, is_abandon: bool) -> None:
        """A copy of the operation, or its abandonment: answered together with it."""
        if self._copies is None:
            self._copies = []
        if len(self._copies) >= WINDOW_OPS_MAX:
            raise LimitExceeded("too many copies of one operation", retry_after_ms=20)
        self._copies.append((session, call, is_abandon))

    def publish(self) -> None:
        """See ``open_file.Pending``."""
        paths, body, handle, file = self._paths, self._body, self.handle, self._file
        placement = self._placement
        offset, length = self._landed, len(self._data)
        self._enter()
        end = self._end_at(offset, length)
        if end > file.size:
            file.size = end
        if self._modified_ns > file.modified_ns:
            file.modified_ns = self._modified_ns
        file.last_sequence = placement.sequence
        window = handle.window
        if window is not None:
            window.complete(body.op_sequence, offset if body.append else None)
        del handle.in_flight[body.op_sequence]
        paths.pending_bytes -= length
        file.published()
        self._reply(offset)

    def _enter(self) -> None:
        """Into the map and the commit batch."""
        paths, placement = self._paths, self._placement
        sums = placement.sums
        place = (paths.log_id, placement.segment, placement.sequence, placement.payload_offset)
        self._file.map.insert(self._first_page, *place, sums)
        paths.commits.add(self._file, self.handle, self._first_page, place, sums)

    def _answer_settled(self, verdict: Judgement) -> None:
        """Answer a copy of an operation that was settled before."""
        body = self._body
        if isinstance(verdict, Completed):
            self._reply(body.offset if verdict.offset is None else verdict.offset)
        elif isinstance(verdict, WasAbandoned):
            raise Abandoned(f"operation {body.op_sequence} was settled as never to be executed")
        elif isinstance(verdict, Forgotten):
            if body.append:
                raise Expired(f"append {body.op_sequence} was acknowledged; its answer is gone")
            self._reply(body.offset)
        else:
            raise _beyond(verdict)

    def _reply(self, offset: int) -> None:
        self._session.answer(self._call, WriteReply(offset))
        if self._copies is not None:
            for session, call, is_abandon in self._copies:
                session.answer(
                    call, AbandonReply(True, offset) if is_abandon else WriteReply(offset)
                )
        self._finished()

    def fail(self, error: SofsError) -> None:
        """See ``open_file.Operation``. A refusal says something about the file, so it is checked
        like a read."""
        self._session.refuse(self._call, error, checked=True)
        self._finished()

    def drop(self) -> None:
        """See ``open_file.Operation``."""
        self._finished()

    def _finished(self) -> None:
        self._session.finished(len(self._data))
        self.handle.finished(self._epoch)


class AbandonOp:
    """Settles a write as never to be executed, unless it was."""

    __slots__ = (
        "_asked",
        "_body",
        "_call",
        "_copies",
        "_epoch",
        "_paths",
        "_session",
        "handle",
        "sequence",
    )

    def __init__(
        self, paths: WritePath, session: Session, call: int, handle: Handle, body: Abandon
    ) -> None:
        self._paths = paths
        self._session = session
        self._call = call
        self.handle = handle
        self._epoch = handle.epoch
        self._body = body
        self._asked = -1
        self._copies: list[tuple[Session, int, bool]] = []

    @property
    def alive(self) -> bool:
        return self._session.alive

    @property
    def trace(self) -> bytes:
        """See ``open_file.Operation``."""
        return self._session.trace(self._call)

    def attempt(self) -> Need | None:
        """See ``open_file.Operation``."""
        paths, body, handle = self._paths, self._body, self.handle
        check_handle(handle, body.generation)
        file = handle.file
        if file.mode != RW or handle.window is None:
            if file.mode == RW and self._asked == file.generation:
                raise StaleGeneration(f"handle {handle.number} is not connected through this node")
            return Need(self._acquire, remote=True)
        flight = handle.in_flight.get(body.op_sequence)
        if flight is not None:
            flight.attach(self._session, self._call, True)
            self._finished()
            return None
        verdict = handle.window.judge(body.op_sequence)
        if isinstance(verdict, Completed):
            self._reply(AbandonReply(True, verdict.offset or 0))
        elif isinstance(verdict, Forgotten):
            # Appends and abandonments are kept until the client acknowledges them, and nobody
            # settles what he has the answer of: it is a write that happened.
            self._reply(AbandonReply(True))
        elif isinstance(verdict, WasAbandoned):
            self._reply(AbandonReply(False))
        elif isinstance(verdict, BeyondWindow):
            raise _beyond(verdict)
        elif paths.full():
            return Need(paths.room, remote=True)
        elif not finished(paths.log.room(0)):
            return Need(lambda: paths.log.room(BLOCK_BYTES), remote=False)
        else:
            self._append()
        return None

    async def _acquire(self) -> None:
        file = self.handle.file
        await self._paths.table.acquire(file, RW)
        self._asked = file.generation

    def _append(self) -> None:
        paths, body, handle = self._paths, self._body, self.handle
        header = DataHeader(
            file=handle.file.ino,
            offset=0,
            length=0,
            generation=handle.generation,
            handle=handle.number,
            op_sequence=body.op_sequence,
            token_generation=handle.file.generation,
            resulting_offset=0,
            first_page=0,
            mtime_ns=handle.file.modified_ns,
            op=DataOp.ABANDON,
        )
        placement = paths.log.append(RecordKind.DATA, (), header.pack(), block_sums=True)
        self.sequence: int = placement.sequence
        handle.in_flight[body.op_sequence] = self
        handle.file.pending.append(self)
        paths.pending.append(self)

    def page(self, page: int) -> memoryview | None:
        """See ``open_file.Pending``."""
        return None

    def attach(self, session: Session, call: int, is_abandon: bool) -> None:
        """A copy of the abandoned write, or of the abandonment."""
        if len(self._copies) >= WINDOW_OPS_MAX:
            raise LimitExceeded("too many copies of one operation", retry_after_ms=20)
        self._copies.append((session, call, is_abandon))

    def publish(self) -> None:
        """See ``open_file.Pending``."""
        handle, body = self.handle, self._body
        if handle.window is not None:
            handle.window.abandon(body.op_sequence)
        del handle.in_flight[body.op_sequence]
        handle.file.last_sequence = self.sequence
        self._paths.commits.settled_operation(handle.file, handle)
        handle.file.published()
        for session, call, is_abandon in self._copies:
            if is_abandon:
                session.answer(call, AbandonReply(False))
            else:
                session.refuse(
                    call,
                    Abandoned(f"operation {body.op_sequence} is settled as never to be executed"),
                )
        self._reply(AbandonReply(False))

    def _reply(self, reply: AbandonReply) -> None:
        self._session.answer(self._call, reply)
        self._finished()

    def fail(self, error: SofsError) -> None:
        """See ``open_file.Operation``."""
        self._session.refuse(self._call, error, checked=True)
        self._finished()

    def drop(self) -> None:
        """See ``open_file.Operation``."""
        self._finished()

    def _finished(self) -> None:
        self._session.finished(0)
        self.handle.finished(self._epoch)


def _beyond(verdict: Judgement) -> SofsError:
    return LimitExceeded(
        f"the handle has {WINDOW_OPS_MAX} operations above its oldest unsettled one; "
        "wait for answers first",
        retry_after_ms=5,
    )
