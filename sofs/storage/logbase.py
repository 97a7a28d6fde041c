"""What the log writers of both kinds of backend share: group commit, waiters, and the end of a log.

Theory. ``append`` decides synchronously where a record lies and puts its buffers into the open
batch; nothing is copied. One committer task per log takes the oldest batch, has the driver make it
durable in the log's lane, and acknowledges it; what was appended meanwhile is the next batch.
There is no timer: a batch is what queued up while the one before it was written, and what comes
during a few turns of the event loop when more may be expected (``core.pace``). The first append of
an idle log starts the committer as a task, which runs after the current callback, so that all
records of one frame go together.

Why safe. Order of appends is order of records. ``_acknowledge`` runs only after the driver has
said that the batch is durable *and* that no successor existed after that (R3, R8). The first error
of any kind ends the log (R7): nothing is written afterwards, every waiter learns
``OutcomeUnknown`` or ``Fenced``, and ``on_end`` is called once. What was acknowledged before stays
acknowledged.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, overload

from sofs.constants import KIB, MIB, SEGMENT_BYTES, SEGMENT_FIRST_BYTES
from sofs.core.pace import CommitPace, next_turn
from sofs.core.record import RecordKind, encode_record
from sofs.core.trace import NO_CONTEXT, SpanKind, SpanStatus
from sofs.errors import Fenced, LimitExceeded, OutcomeUnknown, SofsError, invariant
from sofs.ids import Sequence as Seq
from sofs.ports.log import Claim, Placement
from sofs.ports.runtime import Blocking
from sofs.ports.store import Buffer
from sofs.ports.trace import NO_RECORDER, Recorder

BATCH_BYTES_MAX: Final = 8 * MIB  # One write, sync and check.
QUEUE_BYTES_MAX: Final = 64 * MIB  # Appended and not yet durable: beyond it ``room`` waits.
# Of finished segments that were made for large records this much stays in the page cache.
LARGE_CACHED_BYTES: Final = 128 * MIB
FULL_FIRST_BYTES: Final = 64 * KIB  # Enough to tell everybody else that the disk is full.
QUEUE_BYTES_HARD_MAX: Final = 256 * MIB  # Beyond it ``append`` refuses who did not ask for room.


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Sizes of logs, in bytes; tests make them small. ``recorder`` gets a span a batch."""

    first_bytes: int = SEGMENT_FIRST_BYTES
    full_first_bytes: int = FULL_FIRST_BYTES  # The first segment of a log opened on a full disk.
    segment_bytes: int = SEGMENT_BYTES
    batch_bytes_max: int = BATCH_BYTES_MAX
    queue_bytes_max: int = QUEUE_BYTES_MAX
    large_cached_bytes: int = LARGE_CACHED_BYTES
    recorder: Recorder = NO_RECORDER


class Batch:
    """Records that become durable together."""

    __slots__ = ("first", "last", "n_bytes", "records")

    def __init__(self, first: int) -> None:
        self.first = first
        self.last = first - 1
        self.n_bytes = 0
        self.records: list[Sequence[Buffer]] = []  # The buffers of each record.

    @property
    def n_records(self) -> int:
        return len(self.records)


class EncodedRecords(Sequence[bytes]):
    """The records of a batch as bytes, joined only when somebody looks."""

    def __init__(self, records: list[Sequence[Buffer]]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [b"".join(buffers) for buffers in self._records[index]]
        return b"".join(self._records[index])


class BaseLog(ABC):
    """A LogWriter without the driver's half."""

    def __init__(
        self, claim: Claim, first_sequence: int, blocking: Blocking, options: LogOptions
    ) -> None:
        self._claim = claim
        self._blocking = blocking
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._lane = f"log/{claim.role}/{claim.epoch}"
        self._recorder = options.recorder
        self._batch_trace = NO_CONTEXT
        self._next = first_sequence
        self._durable = first_sequence - 1
        self._stated = 0  # What records state as durable: 0 until a record of this very log is.
        self._open: Batch | None = None
        self._queue: deque[Batch] = (
            deque()
        )  # Full batches, oldest first; ``_open`` comes after them.
        self._queued_bytes = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._pace = CommitPace()
        self._committer: asyncio.Task[None] | None = None
        self._end_callbacks: list[Callable[[BaseException], None]] = []
        self._durable_callbacks: list[Callable[[int, int, Sequence[bytes]], None]] = []
        self._ended: BaseException | None = None
        self._closed = False
        self._batches = self._records = self._bytes = self._checks = 0

    # The port's plain parts ---------------------------------------------------------------------

    @property
    def claim(self) -> Claim:
        return self._claim

    @property
    def next_sequence(self) -> int:
        return self._next

    @property
    def durable_sequence(self) -> int:
        return self._durable

    @property
    def ended(self) -> BaseException | None:
        return self._ended

    @property
    def batch_trace(self) -> bytes:
        return self._batch_trace

    def on_end(self, callback: Callable[[BaseException], None]) -> None:
        self._end_callbacks.append(callback)

    def on_durable(self, callback: Callable[[int, int, Sequence[bytes]], None]) -> None:
        self._durable_callbacks.append(callback)

    def append(
        self,
        kind: RecordKind,
        payload: Sequence[Buffer],
        extension: bytes = b"",
        *,
        block_sums: bool = False,
    ) -> Placement:
        """Queue one record; see the port. Raises LimitExceeded (definite) when
        QUEUE_BYTES_HARD_MAX are queued already, and why the log ended when it did."""
        if self._ended is not None:
            raise self._refusal()
        invariant(not self._closed, "append to a closed log")
        payload_bytes = sum(map(len, payload))
        if self._queued_bytes > QUEUE_BYTES_HARD_MAX:
            raise LimitExceeded(
                f"{QUEUE_BYTES_HARD_MAX} bytes wait for the disk; call room() first"
            )
        segment, offset, batch = self._place(payload_bytes, len(extension), block_sums)
        sequence = self._next
        claim = self._claim
        header, padding, sums = encode_record(
            kind,
            nonce=claim.nonce,
            incarnation=claim.incarnation,
            segment=segment,
            sequence=sequence,
            durable_to=self._stated,
            payload=payload,
            extension=extension,
            with_block_sums=block_sums,
        )
        buffers = (header, *payload, padding) if padding else (header, *payload)
        n_bytes = len(header) + payload_bytes + len(padding)
        self._put(batch, buffers, n_bytes)
        batch.records.append(buffers)
        batch.last = sequence
        batch.n_bytes += n_bytes
        self._queued_bytes += n_bytes
        self._next = sequence + 1
        if self._committer is None:
            self._committer = self._loop.create_task(self._commit())
        return Placement(Seq(sequence), segment, offset + len(header), sums)

    async def durable(self, sequence: int) -> None:
        """Return once ``sequence`` is durable and checked; raises why the log ended otherwise."""
        if sequence <= self._durable:
            return
        if self._ended is not None:
            raise self._refusal()
        invariant(
            sequence < self._next, f"waiting for sequence {sequence}, which was never appended"
        )
        future: asyncio.Future[None] = self._loop.create_future()
        waiters = self._waiters
        if not waiters or waiters[-1][0] <= sequence:
            waiters.append((sequence, future))
        else:
            at = bisect_right(waiters, sequence, key=_sequence_of)
            waiters.insert(at, (sequence, future))
        await future

    def counters(self) -> dict[str, int]:
        return {
            "batches": self._batches,
            "records": self._records,
            "bytes": self._bytes,
            "checks": self._checks,
        }

    async def close(self) -> None:
        """Finish the queue and release what the driver holds. The claim stays."""
        while self._committer is not None:
            await asyncio.wait([self._committer])
        if not self._closed:
            self._closed = True
            await self._release()

    # The driver's half --------------------------------------------------------------------------

    @abstractmethod
    def _place(
        self, payload_bytes: int, extension_bytes: int, block_sums: bool
    ) -> tuple[int, int, Batch]:
        """Decide where the next record goes: (segment, offset in it, batch)."""

    @abstractmethod
    def _put(self, batch: Batch, buffers: Sequence[Buffer], n_bytes: int) -> None:
        """Take a record's buffers for the place that ``_place`` gave."""

    @abstractmethod
    async def _make_durable(self, batch: Batch) -> None:
        """Return when the batch is durable and, after that, no successor existed; raise
        otherwise."""

    @abstractmethod
    async def _release(self) -> None:
        """Give back descriptors. Nothing is written."""

    # Group commit -------------------------------------------------------------------------------

    async def _commit(self) -> None:
        trace = NO_CONTEXT
        try:
            while self._ended is None:
                if self._queue:
                    batch = self._queue.popleft()
                elif self._open is None:
                    return
                elif self._pace.wait(self._open.n_records):
                    await next_turn()
                    continue
                else:
                    batch, self._open = self._open, None
                self._pace.took(batch.n_records)
                trace = self._recorder.begin(SpanKind.BATCH)
                await self._make_durable(batch)
                self._recorder.end(trace, number=batch.n_records, length=batch.n_bytes)
                self._batch_trace, trace = trace, NO_CONTEXT
                if self._ended is None:
                    self._acknowledge(batch)
        except SofsError as error:
            self._end(error)
        except BaseException as error:
            # A bug or a cancellation: the log ends, and the error goes on to whoever watches the
            # task.
            self._end(error)
            raise
        finally:
            self._committer = None
            self._recorder.end(trace, SpanStatus.ERROR)

    def _acknowledge(self, batch: Batch) -> None:
        self._batches += 1
        self._records += batch.last - batch.first + 1
        self._bytes += batch.n_bytes
        self._queued_bytes -= batch.n_bytes
        durable = batch.last
        if durable >= batch.first:
            self._durable = self._stated = durable
        if self._durable_callbacks:
            encoded = EncodedRecords(batch.records)
            for callback in self._durable_callbacks:
                callback(batch.first, durable, encoded)
        waiters = self._waiters
        while waiters and waiters[0][0] <= durable:
            future = waiters.popleft()[1]
            if not future.done():
                future.set_result(None)

    def _end(self, cause: BaseException) -> None:
        """End the log for good (R7). ``cause`` becomes the context of what everybody is told."""
        if self._ended is not None:
            return
        if isinstance(cause, Fenced) or not isinstance(cause, Exception | asyncio.CancelledError):
            self._ended = cause
        else:
            reason = OutcomeUnknown(
                f"the log {self._claim.role}/{self._claim.epoch} ended: "
                f"{str(cause) or type(cause).__name__}; "
                "send the same call again"
            )
            reason.__cause__ = cause
            self._ended = reason
        self._queue.clear()
        self._open = None
        waiters, self._waiters = self._waiters, deque()
        for _, future in waiters:
            if not future.done():
                future.set_exception(self._refusal())
        for callback in self._end_callbacks:
            callback(self._ended)

    def _refusal(self) -> BaseException:
        """Why the log ended, as a fresh exception for one caller (a shared one would grow
        tracebacks)."""
        ended = self._ended
        if not isinstance(ended, Fenced | OutcomeUnknown):
            assert ended is not None
            return ended
        copy = type(ended)(ended.message)
        copy.__cause__ = ended.__cause__
        return copy


def _sequence_of(waiter: tuple[int, asyncio.Future[None]]) -> int:
    return waiter[0]
