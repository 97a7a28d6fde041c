"""The log writer of append backends: segments, rolling, and the three steps of a commit.

Why safe. A batch is one ``write`` per segment it touches, then one ``fdatasync`` per segment, then
one look at the claim folder, in this order and in the log's own lane (R3): if no successor's claim
existed after the sync, the successor reads what was synced. A record's place follows from the
appends before it alone, so it is known before anything is written. A segment is created durably
before the ROLL record that leads to it is written. ROLL carries the sequence of the record that
comes next and uses up none.

Segments (R6). The next segment is prepared in the pool when a quarter of the current one is used:
small records get a zero-filled one, since overwriting needs no change of metadata and half the
time; large records (from LARGE_RECORD_BYTES) get one that is only reserved, since zero-filling
would cost a fifth of the bandwidth. A segment may take records of either size; only the
preparation differs. If SMALL_RUN small records in a row meet a reserved segment, a zero-filled one
is prepared and the log rolls to it early; what the old one had reserved is given back. Either way
a full disk is met while preparing, where it is harmless: ``room`` says DiskFull and the log lives
on. An error of any other kind ends the log.

Page cache. What is written in large records is mostly written once and read late, and each page of
it is a page less for everybody else; on a virtual machine whose memory is handed out at first
touch, a page that was never used before costs ten times the copy into it. So of the segments that
were made for large records only the newest LARGE_CACHED_BYTES stay cached: older ones are let go,
and their pages take the next ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from sofs.constants import BLOCK_BYTES, LARGE_RECORD_BYTES, MIB
from sofs.core.record import (
    DATA_EXTENSION_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordKind,
    encode_record,
    encode_segment_header,
    record_bytes,
)
from sofs.errors import DiskFull, Fenced, SofsError, StoreFailed, StoreUnknown, invariant
from sofs.ports.log import Claim
from sofs.ports.runtime import Blocking
from sofs.ports.store import AppendStore, Buffer, Guard, Segment
from sofs.storage.ballast import Ballast
from sofs.storage.logbase import BaseLog, Batch, LogOptions
from sofs.storage.names import claim_folder, epoch_name, segment_key

ROLL_BYTES: Final = record_bytes(0, 0, 0)
BRIEF_BYTES_MAX: Final = 64 * 1024  # A batch of that size may be written from the event loop.
SMALL_RUN: Final = 256  # Small records in a row after which a reserved segment is left early.
_EXTENSION_BYTES_MAX: Final = DATA_EXTENSION_BYTES + 64
_ZEROS: Final = memoryview(bytes(MIB))


class _Place:
    """One segment of the log: being prepared, current, or being written out."""

    __slots__ = ("at", "capacity", "error", "number", "segment", "task", "zeroed")

    def __init__(self, number: int, capacity: int, zeroed: bool) -> None:
        self.number = number
        self.capacity = capacity
        self.zeroed = zeroed
        self.at = SEGMENT_HEADER_BYTES
        self.segment: Segment | None = None
        self.error: SofsError | None = None
        self.task: asyncio.Task[None] | None = None


class _Run:
    """Adjacent bytes for one segment."""

    __slots__ = ("buffers", "offset", "place")

    def __init__(self, place: _Place, offset: int) -> None:
        self.place = place
        self.offset = offset
        self.buffers: list[Buffer] = []


class _AppendBatch(Batch):
    __slots__ = ("rolled", "runs")

    def __init__(self, first: int) -> None:
        super().__init__(first)
        self.runs: list[_Run] = []
        self.rolled: list[_Place] = []  # Their ROLL is in this batch.

    def write(self) -> None:
        for run in self.runs:
            segment = run.place.segment
            assert segment is not None
            segment.write(run.offset, run.buffers)

    def sync(self) -> None:
        for run in self.runs:
            segment = run.place.segment
            assert segment is not None
            segment.sync()


class AppendLog(BaseLog):
    """The LogWriter of an append backend. Made by ``open_append_log``."""

    def __init__(
        self,
        store: AppendStore,
        claim: Claim,
        first_sequence: int,
        blocking: Blocking,
        options: LogOptions,
        guard: Guard,
        first: Segment,
        first_bytes: int,
    ) -> None:
        super().__init__(claim, first_sequence, blocking, options)
        self._store = store
        self._guard = guard
        self._successor = epoch_name(claim.epoch + 1)
        self._current = _Place(0, first_bytes, True)
        self._current.segment = first
        self._headers: dict[int, bytes] = {0: self._segment_header(0)}
        self._spare: _Place | None = None
        self._disk_full = False  # Set by a failed preparation; only ``room`` tries again then.
        self._prepare_at = first_bytes // 4
        self._large_bytes = 0  # In the current segment.
        self._small_run = 0
        self._cached: deque[tuple[int, int]] = deque()  # (number, bytes) of large segments.
        self._cached_bytes = 0
        self._background: dict[asyncio.Task[None], None] = {}
        self._syncs = 0

    # Room ---------------------------------------------------------------------------------------

    async def room(self, n_bytes: int) -> None:
        """Return when an append of ``n_bytes`` of payload cannot meet a full disk; see the port."""
        size = record_bytes(n_bytes, _EXTENSION_BYTES_MAX, -(-n_bytes // BLOCK_BYTES)) + ROLL_BYTES
        while True:
            if self._ended is not None:
                raise self._refusal()
            if self._queued_bytes > self._options.queue_bytes_max:
                await self.durable(self._durable + 1)
                continue
            current = self._current
            if current.segment is None:  # Somebody appended without asking for room.
                await self._prepared(current)
                continue
            if current.at + size <= current.capacity:
                return
            spare = self._spare or self._prepare(size)
            if spare.segment is None:
                await self._prepared(spare)
            elif SEGMENT_HEADER_BYTES + size <= spare.capacity:
                return
            else:
                self._extend(spare, SEGMENT_HEADER_BYTES + size)

    async def _prepared(self, place: _Place) -> None:
        """Wait for a preparation under way; raises its error."""
        if place.task is not None:
            await asyncio.wait([place.task])
        if place.error is not None:
            error = place.error
            raise type(error)(error.message) from error

    def _prepare(self, size: int) -> _Place:
        """Start preparing the segment after the current one, with room for a record of ``size``
        bytes."""
        invariant(self._spare is None, "one segment is prepared at a time")
        self._disk_full = False
        zeroed = self._large_bytes * 2 <= self._current.at or self._small_run >= SMALL_RUN
        capacity = max(self._options.segment_bytes, SEGMENT_HEADER_BYTES + size)
        place = self._spare = _Place(self._current.number + 1, capacity, zeroed)
        place.task = self._start(self._create(place, SEGMENT_HEADER_BYTES + size))
        return place

    async def _create(self, place: _Place, at_least: int) -> None:
        """Create the segment; on a full disk try a small one before giving up."""
        try:
            try:
                segment = await self._create_with(place)
            except DiskFull:
                small = max(at_least, self._options.first_bytes)
                if small >= place.capacity:
                    raise
                place.capacity = small
                segment = await self._create_with(place)
        except SofsError as error:
            self._preparation_failed(place, error)
            return
        if self._ended is not None:
            await self._blocking.run(self._lane, segment.close)
            place.error = StoreUnknown("the log ended")
            return
        place.segment = segment

    async def _create_with(self, place: _Place) -> Segment:
        key = segment_key(self._claim.role, self._claim.epoch, place.number)
        zeros = place.capacity if place.zeroed else 0

        def create() -> Segment:
            segment = self._store.create_segment(key, zero_fill_bytes=zeros)
            if not zeros:
                try:
                    segment.reserve(place.capacity)
                except DiskFull:
                    segment.close()
                    self._store.delete(key)
                    raise
            return segment

        [segment] = await self._blocking.run("", create)
        return segment  # type: ignore[return-value]

    def _preparation_failed(self, place: _Place, error: SofsError) -> None:
        place.error = error
        if isinstance(error, DiskFull) and self._spare is place:
            self._spare = None  # Nothing leads to it yet: the name is free and the log lives on.
            self._disk_full = True
        else:
            self._end(error)

    def _extend(self, place: _Place, capacity: int) -> None:
        """Reserve more for a prepared segment that is too small for the record at hand."""
        segment, place.segment, place.error = place.segment, None, None
        assert segment is not None
        before, place.capacity = place.capacity, capacity
        step = functools.partial(segment.reserve, capacity)
        place.task = self._start(self._enlarge(place, segment, step, before))

    def _zero(self, place: _Place) -> None:
        """Turn a reserved spare segment into a zero-filled one."""
        segment, place.segment, place.zeroed = place.segment, None, True
        assert segment is not None

        def zero() -> None:
            for at in range(0, place.capacity, len(_ZEROS)):
                segment.write(at, [_ZEROS[: place.capacity - at]])
            segment.sync()

        place.task = self._start(self._enlarge(place, segment, zero, place.capacity))

    async def _enlarge(
        self, place: _Place, segment: Segment, step: Callable[[], None], before: int
    ) -> None:
        """Change a prepared segment; a full disk leaves it with the capacity ``before``."""
        try:
            await self._blocking.run("", step)
        except DiskFull as error:
            place.capacity, place.error = before, error
            if self._spare is not place:
                self._end(error)
        except SofsError as error:
            place.error = error
            self._end(error)
        if self._ended is not None:
            place.error = place.error or StoreUnknown("the log ended")
            await self._blocking.run(self._lane, segment.close)
        else:
            place.segment = segment

    # Placing ------------------------------------------------------------------------------------

    def _place(
        self, payload_bytes: int, extension_bytes: int, block_sums: bool
    ) -> tuple[int, int, Batch]:
        blocks = payload_bytes // BLOCK_BYTES if block_sums else 0
        size = record_bytes(payload_bytes, extension_bytes, blocks)
        current = self._current
        if current.at + size + ROLL_BYTES > current.capacity:
            current = self._roll(size)
        elif current.at > self._prepare_at and self._spare is None and not self._disk_full:
            self._prepare(ROLL_BYTES)
        if size >= LARGE_RECORD_BYTES:
            self._large_bytes += size
            self._small_run = 0
        else:
            self._small_run += 1
            if not current.zeroed and self._small_run >= SMALL_RUN:
                current = self._leave_reserved(size)
        batch = self._batch_for(size)
        return current.number, current.at, batch

    def _leave_reserved(self, size: int) -> _Place:
        """Get small records out of a segment that was reserved for large ones, when the next is
        ready."""
        spare = self._spare
        if spare is None:
            if not self._disk_full:
                self._prepare(ROLL_BYTES)
        elif spare.segment is not None and spare.error is None:
            if not spare.zeroed:
                self._zero(spare)
            elif SEGMENT_HEADER_BYTES + size + ROLL_BYTES <= spare.capacity:
                return self._roll(size)
        return self._current

    def _roll(self, size: int) -> _Place:
        """End the current segment with a ROLL record and go on in the next one. A caller that did
        not ask for room may find it unprepared: then the committer waits for it, and a full disk
        ends the log."""
        spare = self._spare or self._prepare(size + ROLL_BYTES)
        if SEGMENT_HEADER_BYTES + size + ROLL_BYTES > spare.capacity and spare.segment is not None:
            self._extend(spare, SEGMENT_HEADER_BYTES + size + ROLL_BYTES)
        old = self._current
        header, padding, _ = encode_record(
            RecordKind.ROLL,
            nonce=self._claim.nonce,
            incarnation=self._claim.incarnation,
            segment=old.number,
            sequence=self._next,
            durable_to=self._stated,
            payload=(),
        )
        batch = self._batch_for(ROLL_BYTES)
        self._add(batch, old, (header, padding) if padding else (header,), ROLL_BYTES)
        batch.rolled.append(old)
        self._headers[spare.number] = self._segment_header(spare.number)
        self._current, self._spare = spare, None
        self._prepare_at = spare.capacity // 4
        self._large_bytes = 0
        self._small_run = 0
        return spare

    def _batch_for(self, size: int) -> _AppendBatch:
        batch = self._open
        if batch is not None and batch.n_bytes + size > self._options.batch_bytes_max:
            self._queue.append(batch)
            batch = None
        if batch is None:
            batch = self._open = _AppendBatch(self._next)
        assert isinstance(batch, _AppendBatch)
        return batch

    def _put(self, batch: Batch, buffers: Sequence[Buffer], n_bytes: int) -> None:
        assert isinstance(batch, _AppendBatch)
        self._add(batch, self._current, buffers, n_bytes)

    def _add(
        self, batch: _AppendBatch, place: _Place, buffers: Sequence[Buffer], n_bytes: int
    ) -> None:
        runs = batch.runs
        if not runs or runs[-1].place is not place:
            runs.append(_Run(place, place.at))
            head = self._headers.pop(place.number, None)
            if head is not None:
                runs[-1].offset = 0
                runs[-1].buffers.append(head)
        runs[-1].buffers.extend(buffers)
        place.at += n_bytes

    def _segment_header(self, number: int) -> bytes:
        claim = self._claim
        return encode_segment_header(
            nonce=claim.nonce,
            incarnation=claim.incarnation,
            epoch=claim.epoch,
            segment=number,
            first_sequence=self._next,
        )

    # Committing ---------------------------------------------------------------------------------

    async def _make_durable(self, batch: Batch) -> None:
        assert isinstance(batch, _AppendBatch)
        runs = batch.runs
        for run in runs:
            if run.place.segment is None:
                await self._prepared(run.place)
        results = await self._blocking.run(
            self._lane,
            batch.write,
            batch.sync,
            self._successor_absent,
            brief=batch.n_bytes <= BRIEF_BYTES_MAX,
        )
        self._syncs += len(runs)
        self._checks += 1
        if results[2] is not True:
            raise self._fenced()
        for place in batch.rolled:
            self._start(self._finish(place))

    def _successor_absent(self) -> bool:
        return self._guard.absent(self._successor)

    def _fenced(self) -> Fenced:
        return Fenced(
            f"epoch {self._claim.epoch + 1} of {self._claim.role} is claimed; find the owner again"
        )

    async def _finish(self, place: _Place) -> None:
        """Close a segment whose ROLL is durable; give back what was only reserved, and the cache of
        older ones."""
        segment, place.segment = place.segment, None
        assert segment is not None
        uncached = [] if place.zeroed else self._leave_cached(place)

        def finish() -> None:
            if not place.zeroed and place.capacity - place.at >= MIB:
                segment.trim(place.at)
            segment.close()
            for number in uncached:
                self._uncache(number)

        try:
            await self._blocking.run("", finish)
        except SofsError as error:
            self._end(error)

    def _leave_cached(self, place: _Place) -> list[int]:
        """Count a finished large segment; returns the older ones that are cached no longer."""
        self._cached.append((place.number, place.at))
        self._cached_bytes += place.at
        uncached: list[int] = []
        while self._cached_bytes > self._options.large_cached_bytes:
            number, n_bytes = self._cached.popleft()
            self._cached_bytes -= n_bytes
            uncached.append(number)
        return uncached

    def _uncache(self, number: int) -> None:
        with contextlib.suppress(StoreFailed):  # It was deleted meanwhile.
            reader = self._store.open_segment(
                segment_key(self._claim.role, self._claim.epoch, number)
            )
            reader.uncache()
            reader.close()

    async def check(self) -> None:
        """One ``stat`` on the loop: 1 to 2 microseconds, and nothing to wait for."""
        if self._ended is not None:
            raise self._refusal()
        self._checks += 1
        try:
            absent = self._guard.absent(self._successor)
        except StoreUnknown as error:
            self._end(error)
            raise self._refusal() from error
        if not absent:
            self._end(self._fenced())
            raise self._refusal()

    def counters(self) -> dict[str, int]:
        return {**super().counters(), "syncs": self._syncs, "segments": self._current.number + 1}

    # Ending -------------------------------------------------------------------------------------

    def _start(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)  # type: ignore[arg-type]
        self._background[task] = None
        task.add_done_callback(self._background_done)
        return task

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._end(error)
            self._loop.call_exception_handler(
                {"message": "preparing a log segment failed", "exception": error, "task": task}
            )

    async def _release(self) -> None:
        while self._background:
            await asyncio.wait(list(self._background))
        segments = [p.segment for p in (self._current, self._spare) if p and p.segment is not None]
        steps = [segment.close for segment in segments]
        await self._blocking.run(self._lane, *steps, self._guard.close)


async def open_append_log(
    store: AppendStore,
    claim: Claim,
    first_sequence: int,
    blocking: Blocking,
    options: LogOptions,
    ballast: Ballast | None = None,
) -> AppendLog:
    """Open the log of a claim that was won just now, with a smaller first segment if the disk is
    full. Raises Fenced when a successor exists already, and DiskFull."""
    lane = f"log/{claim.role}/{claim.epoch}"

    def guard() -> Guard:
        opened = store.open_guard(claim_folder(claim.role))
        if opened.absent(epoch_name(claim.epoch)):
            opened.close()
            raise StoreUnknown(f"the claim {claim.role}/{claim.epoch} is not in its folder")
        return opened

    first_bytes = options.first_bytes

    def segment() -> Segment:
        nonlocal first_bytes
        key = segment_key(claim.role, claim.epoch, 0)
        try:
            return store.create_segment(key, zero_fill_bytes=first_bytes)
        except DiskFull:
            if ballast is None:
                raise
        first_bytes = min(first_bytes, options.full_first_bytes)
        return ballast.relieve(lambda: store.create_segment(key, zero_fill_bytes=first_bytes))

    opened, first = await blocking.run(lane, guard, segment)
    return AppendLog(store, claim, first_sequence, blocking, options, opened, first, first_bytes)  # type: ignore[arg-type]
