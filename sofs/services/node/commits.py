"""What was written here goes to the authority in batches: whole prefixes of the data log, in order.

Theory. A record that is durable is published and added to the open batch. One task sends batches,
one at a time, each starting where the one before it ended; the authority applies a batch exactly
when it starts at its applied sequence, so that sending one twice changes nothing and none can be
left out. A batch is due when it holds COMMIT_RECORDS records or COMMIT_BYTES bytes, when it spans
COMMIT_SEGMENTS segments, when its oldest record is COMMIT_AGE_MS old, or when somebody must know
that the authority has everything of a file (``settle``): before a token is given back or asked for
anew, before a truncate and a close. Segments matter on slots, where each is an object that a
take-over has to fetch: a request each, while the client waits.

Bounds. What the authority does not have is the tail that a take-over replays. Beyond
UNSENT_RECORDS_MAX, UNSENT_BYTES_MAX or UNSENT_AGE_MS_MAX writes wait (``full`` and ``moved``).

What may be deleted. A batch says below which segment nothing is left to name: all its records and
those before it are named by it or dead, later ones lie in its newest record's segment or behind it,
and detached records count until the transaction that names them was answered (``naming``).

Within a batch a newer extent of exactly the same pages replaces the older one; windows are whole,
as of the batch's last record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sofs.constants import (
    MIB,
    UNSENT_AGE_MS_MAX,
    UNSENT_BYTES_MAX,
    UNSENT_RECORDS_MAX,
)
from sofs.core.extents import pack_extent
from sofs.core.messages import Commit, CommitRecords, FileCommit
from sofs.errors import ProtocolError, SofsError
from sofs.ports.log import Placement
from sofs.ports.runtime import Clock
from sofs.services.node.link import AuthorityLink
from sofs.services.node.open_file import Handle, OpenFile
from sofs.services.tasks import Tasks

COMMIT_RECORDS: Final = 1024
COMMIT_BYTES: Final = 16 * MIB
COMMIT_SEGMENTS: Final = 16
COMMIT_AGE_MS: Final = 400  # Leaves 600 ms to an authority that is taken over before writes wait.

assert COMMIT_AGE_MS < UNSENT_AGE_MS_MAX
assert COMMIT_RECORDS < UNSENT_RECORDS_MAX
assert COMMIT_BYTES < UNSENT_BYTES_MAX


class _Delta:
    """What happened to one file under one token since the last batch."""

    __slots__ = ("extents", "file", "generation", "handles")

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self.generation = file.generation
        self.extents: dict[int, bytes] = {}  # first page << 10 | pages -> packed; newest last.
        self.handles: dict[int, Handle] = {}

    def message(self) -> FileCommit:
        return FileCommit(
            self.file.ino,
            self.generation,
            self.file.size,
            self.file.modified_ns,
            b"".join(self.extents.values()),
            [
                handle.window.to_message(handle.number, handle.generation)
                for handle in self.handles.values()
                if handle.window is not None
            ],
        )


class Commits:
    """The unsent tail of this incarnation's data log."""

    def __init__(
        self,
        clock: Clock,
        link: AuthorityLink,
        tasks: Tasks,
    ) -> None:
        self._clock = clock
        self._link = link
        self._open: dict[int, _Delta] = {}
        self._first_ms = 0  # When the oldest record of the open batch was published.
        self._open_records = 0
        self._open_bytes = 0
        self._sent_records = 0  # In the batch in flight.
        self._sent_bytes = 0
        self._sent_first_ms = 0
        self._in_flight = False
        self.published_sequence = 0
        self.sent_sequence = 0
        self.applied_sequence = 0
        self.batches = 0
        self._segment = 0  # Of the newest published record with pages.
        self._taken_segment = 0  # The same, when the last batch was closed.
        self._detached: dict[int, int] = {}  # Sequence -> segment of records not named yet.
        self._wanted = 0  # Somebody waits until this sequence is applied.
        self._wake: asyncio.Future[None] | None = None
        self._settling: list[tuple[int, asyncio.Future[None]]] = []
        self._waiting: list[asyncio.Future[None]] = []
        tasks.spawn(self._run(), "commits")

    # Filling
    # ---------------------------------------------------------------------------------------

    def add(
        self,
        file: OpenFile,
        handle: Handle,
        page: int,
        place: tuple[int, int, int, int],
        sums: Sequence[int],
    ) -> None:
        """Add a durable record of a file: ``place`` is (log id, segment, sequence, offset)."""
        delta = self._delta(file, handle)
        self._segment = place[1]
        pages = len(sums)
        key = page << 10 | pages
        extents = delta.extents
        if key in extents:
            del extents[key]
        extents[key] = pack_extent(page, *place, sums)
        self._open_bytes += pages << 12

    def settled_operation(self, file: OpenFile, handle: Handle) -> None:
        """A record without pages changed the handle's window."""
        self._delta(file, handle)

    def _delta(self, file: OpenFile, handle: Handle) -> _Delta:
        delta = self._open.get(file.ino)
        if delta is None:
            delta = self._open[file.ino] = _Delta(file)
        elif delta.generation != file.generation:
            # Tokens are given up only when everything was settled, so that nothing is left of it.
            raise ProtocolError(f"file {file.ino} has unsent records of an older token")
        delta.handles[handle.number] = handle
        return delta

    def published(self, last_sequence: int) -> None:
        """All records up to ``last_sequence`` are durable and added."""
        if self._open_records == 0:
            self._first_ms = self._clock.monotonic_ms()
            self._kick()
        self._open_records += last_sequence - self.published_sequence
        self.published_sequence = last_sequence
        if self._is_large():
            self._kick()
        self._wake_waiting()

    @contextmanager
    def naming(self, placement: Placement) -> Iterator[None]:
        """A detached record is about to be named by the transaction that is asked for inside. If
        nobody knows whether it was, its segment counts as needed for the rest of this life."""
        self._detached[placement.sequence] = placement.segment
        try:
            yield
        except SofsError as error:
            if error.definite:
                del self._detached[placement.sequence]
            raise
        else:
            del self._detached[placement.sequence]

    # Limits
    # ----------------------------------------------------------------------------------------

    def full(self, in_flight_records: int, in_flight_bytes: int) -> bool:
        """Is the tail, with what is appended and not durable, at its limit?"""
        if self._open_records + self._sent_records + in_flight_records >= UNSENT_RECORDS_MAX:
            return True
        if self._open_bytes + self._sent_bytes + in_flight_bytes >= UNSENT_BYTES_MAX:
            return True
        if self._in_flight:
            return self._clock.monotonic_ms() - self._sent_first_ms > UNSENT_AGE_MS_MAX
        return (
            self._open_records > 0
            and self._clock.monotonic_ms() - self._first_ms > UNSENT_AGE_MS_MAX
        )

    async def moved(self) -> None:
        """Send what there is, and return when a batch was applied or records became durable: then
        ask again. Only for one who found the tail full: then one of the two is under way."""
        if self._in_flight or self._open_records:
            self._wanted = max(self._wanted, self.published_sequence)
            self._kick()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _wake_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def settle(self, sequence: int) -> None:
        """Return when the authority has everything up to ``sequence``, durably."""
        if sequence <= self.applied_sequence:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling.append((sequence, future))
        self._wanted = max(self._wanted, sequence)
        self._kick()
        await future

    # Sending
    # ---------------------------------------------------------------------------------------

    def _kick(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _due_in_ms(self) -> int | None:
        """Milliseconds until the open batch is due; None when there is none."""
        if self._open_records == 0:
            return None
        if self._is_large() or self._wanted > self.sent_sequence:
            return 0
        return max(0, self._first_ms + COMMIT_AGE_MS - self._clock.monotonic_ms())

    def _is_large(self) -> bool:
        return (
            self._open_records >= COMMIT_RECORDS
            or self._open_bytes >= COMMIT_BYTES
            or self._segment - self._taken_segment >= COMMIT_SEGMENTS
        )

    async def _run(self) -> None:
        while True:
            due = self._due_in_ms()
            if due == 0:
                await self._send()
            else:
                await self._until(due)

    async def _until(self, limit_ms: int | None) -> None:
        """Wait for a kick, at most ``limit_ms``."""
        self._wake = asyncio.get_running_loop().create_future()
        timer: asyncio.Future[None] | None = None
        if limit_ms is not None:
            timer = asyncio.ensure_future(self._clock.sleep_ms(limit_ms))
        try:
            waiting = (self._wake,) if timer is None else (self._wake, timer)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    def _take(self) -> Commit:
        """Close the open batch: everything published since the last one."""
        commit = Commit(
            self._link.log_id,
            self.sent_sequence,
            self.published_sequence,
            [delta.message() for delta in self._open.values()],
            min((self._segment, *self._detached.values())),
        )
        self._open = {}
        self._taken_segment = self._segment
        self._sent_records, self._open_records = self._open_records, 0
        self._sent_bytes, self._open_bytes = self._open_bytes, 0
        self._sent_first_ms = self._first_ms
        self.sent_sequence = self.published_sequence
        return commit

    async def _send(self) -> None:
        await self._link.live()  # The log id is known from the first registration on.
        commit = self._take()
        self._in_flight = True
        self.batches += 1
        # A refusal ends this life (as this task's error): what was acknowledged to clients is in
        # the log, and the seal finds it.
        await self._link.call(lambda: CommitRecords(commit), own=True)
        self._in_flight = False
        self._sent_records = self._sent_bytes = 0
        self.applied_sequence = commit.through_sequence
        self._wake_waiting()
        self._wake_settled()

    def _wake_settled(self) -> None:
        left: list[tuple[int, asyncio.Future[None]]] = []
        for sequence, future in self._settling:
            if sequence > self.applied_sequence:
                left.append((sequence, future))
            elif not future.done():
                future.set_result(None)
        self._settling = left
