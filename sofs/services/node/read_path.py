"""Reads: from the map of durable records, every page verified, the claim checked before the reply.

A read sees what is published: all writes acknowledged before it began are (they are published
before their answers). Records never change, so a read under way needs the map only once. Each page
is verified against the sum that its extent names, seeded by the record's identity, so that it is
*that* record's page. A page that fails is read again from the device once; then it is Corrupt, and
reported (``reporter.py``).

The reply is queued ``checked``: before its frame leaves, one look at the claim proves that nobody
had sealed this incarnation's log when the frame's reads were done (R3).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from sofs.constants import BLOCK_BYTES, FILE_BYTES_MAX, MIB, READ_BYTES_MAX
from sofs.core.extent_map import ExtentMap, PagePlace, Run
from sofs.core.locks import io_conflict
from sofs.core.messages import Access, Read, ReadReply
from sofs.core.record import record_seed
from sofs.errors import (
    AccessDenied,
    Corrupt,
    FileLockConflict,
    InvalidParameter,
    MessageTooLarge,
    SofsError,
)
from sofs.ports.log import BlockReader
from sofs.ports.store import Buffer
from sofs.services.node.file_table import FileTable
from sofs.services.node.open_file import Handle, Need, check_handle, leaving
from sofs.services.node.session import Session
from sofs.services.tasks import Tasks

READ_AHEAD_BYTES: Final = 4 * MIB
READ_AHEAD_PAGES: Final = READ_AHEAD_BYTES // BLOCK_BYTES
READ_AHEAD_RUNS_MAX: Final = 64  # Requests to the system for one read-ahead.
_SHIFT: Final = 12
_MASK: Final = BLOCK_BYTES - 1
_READ: Final = int(Access.READ)
_R: Final = 1

CorruptHook = Callable[[int, int, tuple[int, int, int], str], None]
"""``report(ino, page, (log id, segment, sequence), what)``: a page failed its checksum twice."""


class ReadPath:
    """What all reads of a life share."""

    def __init__(
        self,
        blocks: BlockReader,
        table: FileTable,
        tasks: Tasks,
        report_corrupt: CorruptHook,
    ) -> None:
        self._blocks = blocks
        self.table = table
        self._tasks = tasks
        self._report = report_corrupt

    def read(self, session: Session, call: int, handle: Handle, body: Read) -> None:
        """Take one read of a client."""
        if handle.leaving:
            session.finished(body.length)
            raise leaving(handle)
        handle.busy += 1
        handle.file.submit(ReadOp(self, session, call, handle, body), passes=True)

    # Pages
    # ---------------------------------------------------------------------------------------

    def _seed(self, log_id: int, segment: int, sequence: int) -> int:
        return record_seed(self.table.log(log_id)[1], segment, sequence)

    def is_page(self, place: PagePlace, data: Buffer) -> bool:
        """Is ``data`` the page at ``place``?"""
        seed = self._seed(place.log_id, place.segment, place.sequence)
        return xxh3_64_intdigest(data, seed) == place.sum

    def cached_page(self, place: PagePlace) -> bytes | None:
        """Return a verified page if that needs no waiting, else None."""
        log_id, segment, sequence, offset, expected = place
        role, nonce = self.table.log(log_id)
        data = self._blocks.cached(role, 1, segment, offset, BLOCK_BYTES)
        if data is None or len(data) != BLOCK_BYTES:
            return None
        if xxh3_64_intdigest(data, record_seed(nonce, segment, sequence)) != expected:
            return None
        return data

    async def read_page(self, ino: int, page: int, place: PagePlace) -> bytes:
        """Return a verified page, from the device if need be; Corrupt when it fails twice."""
        role, _ = self.table.log(place.log_id)
        for _ in range(2):
            data = await self._blocks.read(role, 1, place.segment, place.offset, BLOCK_BYTES)
            if self.is_page(place, data):
                return data
        raise self._corrupt(ino, page, place.log_id, place.segment, place.sequence, place.offset)

    def _corrupt(
        self, ino: int, page: int, log_id: int, segment: int, sequence: int, offset: int
    ) -> Corrupt:
        what = (
            f"page {page} of file {ino} fails its checksum "
            f"(log {log_id}, segment {segment}, sequence {sequence}, offset {offset})"
        )
        self._report(ino, page, (log_id, segment, sequence), what)
        return Corrupt(what)

    # Ranges
    # --------------------------------------------------------------------------------------

    def gather_cached(self, runs: list[Run]) -> bytearray | bytes | None:
        """Return the pages of ``runs``, verified, if that needs no waiting, else None."""
        if len(runs) == 1 and runs[0].log_id:
            return self._cached_run(runs[0])
        whole = bytearray(sum(run.pages for run in runs) << _SHIFT)
        at = 0
        for run in runs:
            end = at + (run.pages << _SHIFT)
            if run.log_id:
                data = self._cached_run(run)
                if data is None:
                    return None
                whole[at:end] = data
            at = end
        return whole

    def _cached_run(self, run: Run) -> bytes | None:
        role, _ = self.table.log(run.log_id)
        data = self._blocks.cached(role, 1, run.segment, run.offset, run.pages << _SHIFT)
        if data is None or len(data) != run.pages << _SHIFT:
            return None
        return data if self._bad_page(run, data) is None else None

    def _bad_page(self, run: Run, data: bytes) -> int | None:
        """Return the index of the first page of a run that fails its checksum, or None."""
        seed = self._seed(run.log_id, run.segment, run.sequence)
        if run.pages == 1:
            return None if xxh3_64_intdigest(data, seed) == run.sums[0] else 0
        view = memoryview(data)
        at = 0
        for index, expected in enumerate(run.sums):
            end = at + BLOCK_BYTES
            if xxh3_64_intdigest(view[at:end], seed) != expected:
                return index
            at = end
        return None

    async def gather(self, ino: int, runs: list[Run]) -> bytearray:
        """Return the pages of ``runs``, verified, from the device if need be."""
        for run in runs:
            if run.log_id:
                role, _ = self.table.log(run.log_id)
                self._blocks.will_need(role, 1, run.segment, run.offset, run.pages << _SHIFT)
        whole = bytearray(sum(run.pages for run in runs) << _SHIFT)
        at = 0
        for run in runs:
            end = at + (run.pages << _SHIFT)
            if run.log_id:
                data = self._cached_run(run)
                whole[at:end] = data if data is not None else await self._read_run(ino, run)
            at = end
        return whole

    async def _read_run(self, ino: int, run: Run) -> bytes:
        role, _ = self.table.log(run.log_id)
        bad: int | None = 0
        for _ in range(2):
            data = await self._blocks.read(role, 1, run.segment, run.offset, run.pages << _SHIFT)
            bad = self._bad_page(run, data)
            if bad is None:
                return data
        index = bad or 0
        raise self._corrupt(
            ino,
            run.page + index,
            run.log_id,
            run.segment,
            run.sequence,
            run.offset + (index << _SHIFT),
        )

    async def read_range(self, ino: int, table: ExtentMap, offset: int, length: int) -> Buffer:
        """Return ``length`` bytes at ``offset`` by a map of its own (all of it known)."""
        if not length:
            return b""
        first, end = offset >> _SHIFT, (offset + length - 1 >> _SHIFT) + 1
        whole = await self.gather(ino, table.runs(first, end))
        return memoryview(whole)[offset & _MASK : (offset & _MASK) + length]

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.spawn(work, name)

    # Read-ahead
    # ----------------------------------------------------------------------------------

    def ahead(self, handle: Handle, offset: int, length: int) -> None:
        """Notice a sequential reader, and have the system read READ_AHEAD_BYTES ahead of it."""
        end = offset + length
        if offset != handle.next_offset:
            handle.next_offset = end
            handle.ahead_page = 0
            return
        handle.next_offset = end
        page = (end >> _SHIFT) + 1
        if handle.ahead_page > page + READ_AHEAD_PAGES // 2:
            return
        file = handle.file
        start = max(page, handle.ahead_page)
        stop = min(page + READ_AHEAD_PAGES, -(-file.size // BLOCK_BYTES))
        if start >= stop or file.map.missing(start, stop) is not None:
            return
        handle.ahead_page = stop
        for run in file.map.runs(start, stop)[:READ_AHEAD_RUNS_MAX]:
            if run.log_id:
                role, _ = self.table.log(run.log_id)
                self._blocks.will_need(role, 1, run.segment, run.offset, run.pages << _SHIFT)


class ReadOp:
    """One read, from its arrival to its answer."""

    __slots__ = ("_asked", "_body", "_call", "_epoch", "_paths", "_session", "handle")

    def __init__(
        self, paths: ReadPath, session: Session, call: int, handle: Handle, body: Read
    ) -> None:
        self._paths = paths
        self._session = session
        self._call = call
        self.handle = handle
        self._epoch = handle.epoch
        self._body = body
        self._asked = -1  # Generation of the token that was acquired for this operation.

    @property
    def alive(self) -> bool:
        return self._session.alive

    @property
    def trace(self) -> bytes:
        """See ``open_file.Operation``."""
        return self._session.trace(self._call)

    def attempt(self) -> Need | None:
        """See ``open_file.Operation``."""
        body, handle = self._body, self.handle
        file = handle.file
        self._check()
        if not file.mode:
            return Need(lambda: self._acquire(_R), remote=True)
        offset, size = body.offset, file.size
        length = min(body.length, size - offset) if offset < size else 0
        if file.locks:
            lock = io_conflict(file.locks, handle.number, offset, body.length, False)
            if lock is not None:
                if self._asked != file.generation:
                    return Need(lambda: self._acquire(file.mode), remote=True)
                raise FileLockConflict(
                    f"bytes {lock.offset} to {lock.offset + lock.length} are locked by handle "
                    f"{lock.handle}"
                )
        if length <= 0:
            self._reply(b"", size)
            return None
        first, end = offset >> _SHIFT, (offset + length - 1 >> _SHIFT) + 1
        missing = file.map.missing(first, end)
        if missing is not None:
            return Need(lambda: self._paths.table.fetch(file, missing), remote=True)
        paths = self._paths
        if end - first == 1:
            place = file.map.page(first)
            data: Buffer | None
            data = bytes(BLOCK_BYTES) if place is None else paths.cached_page(place)
            runs = None
        else:
            runs = file.map.runs(first, end)
            data = paths.gather_cached(runs)
        if offset == handle.next_offset or length >= BLOCK_BYTES:
            paths.ahead(handle, offset, length)
        if data is not None:
            skip = offset & _MASK
            whole = skip == 0 and length == len(data)
            self._reply(data if whole else memoryview(data)[skip : skip + length], size)
            return None
        file.readers += 1
        runs = runs or file.map.runs(first, end)
        paths.spawn(self._slowly(runs, offset, length, size), "read")
        return None

    def _check(self) -> None:
        body, handle = self._body, self.handle
        check_handle(handle, body.generation)
        if not handle.access & _READ:
            raise AccessDenied("the handle was not opened for reading")
        if body.length > READ_BYTES_MAX:
            raise MessageTooLarge(f"a read takes at most {READ_BYTES_MAX} bytes; split it")
        if body.offset > FILE_BYTES_MAX:
            raise InvalidParameter(f"a file ends at {FILE_BYTES_MAX} bytes")

    async def _acquire(self, mode: int) -> None:
        file = self.handle.file
        await self._paths.table.acquire(file, mode)
        self._asked = file.generation

    async def _slowly(self, runs: list[Run], offset: int, length: int, size: int) -> None:
        """Read from the device. ``size`` is as of the admission, as the map was."""
        file = self.handle.file
        try:
            data = await self._paths.gather(file.ino, runs)
        except SofsError as error:
            self.fail(error)
        else:
            skip = offset & _MASK
            self._reply(memoryview(data)[skip : skip + length], size)
        finally:
            file.read_done()

    def _reply(self, data: Buffer, size: int) -> None:
        self._session.answer(self._call, ReadReply(size), data, checked=True)
        self._finished()

    def fail(self, error: SofsError) -> None:
        """See ``open_file.Operation``."""
        self._session.refuse(self._call, error, checked=True)
        self._finished()

    def drop(self) -> None:
        """See ``open_file.Operation``."""
        self._finished()

    def _finished(self) -> None:
        self._session.finished(self._body.length)
        self.handle.finished(self._epoch)
