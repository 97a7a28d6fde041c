"""Group commit of transactions: what was changed becomes one changeset, one record, one fdatasync.

Theory. Transactions run on the event loop and take effect in memory at once; nothing may leave
before the log holds what it saw (R8). ``GroupLog`` keeps one *open group*: every transaction since
the last changeset was taken. While a changeset is being made durable, the next group gathers, and
for a few turns of the event loop when more may be expected (``core.pace``); there is no timer.
``settled`` waits for the group that holds everything applied so far, and that is what every reply
awaits, reads included: a read that saw a change must not tell of it before it is durable.

An acknowledgement means: the changeset is on the backend (fdatasync returned), and after that no
successor had claimed (``LogWriter`` checks once per batch). When the log ends, every group fails
with the reason and the authority's life is over: its memory holds changes that may never have
happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sofs.core.entries import Changeset, Entry, EntryCodec
from sofs.core.pace import CommitPace, next_turn
from sofs.core.record import RecordKind
from sofs.errors import DiskFull, SofsError
from sofs.ports.log import LogWriter, Placement
from sofs.ports.state import StateDatabase
from sofs.ports.trace import CURRENT, NO_RECORDER, Recorder
from sofs.services.tasks import Tasks

# Asked for before a mutation, so that a full disk is definite.
GROUP_ROOM_BYTES: Final = 1024 * 1024
# Of the room in the log this much is left to what gives back: close, delete, a client's goodbye.
RESERVE_BYTES: Final = 1536 * 1024
RESERVED_BYTES: Final = 64 * 1024  # What one such operation needs at most, with its record.
ROW_BYTES: Final = 512  # Of a changed row in a changeset, at a guess above the average.
# Beyond it mutations wait: with what one transaction may change (a commit: 16,384 rows of at most
# 0.2 KiB), a group stays far below PAYLOAD_BYTES_MAX, the limit of one record.
GROUP_ROWS_MAX: Final = 8192


class GroupLog:
    """The one way by which an authority changes its state. ``logged`` gets every durable entry in
    order."""

    def __init__(
        self,
        database: StateDatabase,
        log: LogWriter,
        codec: EntryCodec,
        schema_version: int,
        tasks: Tasks,
        logged: Callable[[Placement, bytes], None],
        recorder: Recorder = NO_RECORDER,
    ) -> None:
        self._database = database
        self._log = log
        self._codec = codec
        self._schema_version = schema_version
        self._tasks = tasks
        self._logged = logged
        self._recorder = recorder
        self._open: asyncio.Future[None] | None = None
        self._in_flight: asyncio.Future[None] | None = None
        self._flushing = False
        self._open_rows = 0  # Changed by transactions of the open group.
        self._open_transactions = 0
        self._told: list[Callable[[], None]] = []  # When the open group is durable.
        self._pace = CommitPace()
        self._ended: SofsError | None = None
        self.groups = 0
        self.transactions = 0

    @property
    def log(self) -> LogWriter:
        return self._log

    @property
    def clean(self) -> bool:
        """Does the log hold every change that the database holds?"""
        return self._open is None and self._in_flight is None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside take effect together, or none when the block raises. No await
        inside."""
        before, n_told = self._database.changes(), len(self._told)
        try:
            with self._database.transaction():
                yield
        except BaseException:
            del self._told[n_told:]  # It rolled back: there is nothing to tell.
            raise
        self._open_rows += self._database.changes() - before
        self.transactions += 1
        self._open_transactions += 1
        if self._open is None:
            self._open = asyncio.get_running_loop().create_future()
            self._open.add_done_callback(_retrieved)
            if not self._flushing:
                self._flushing = True
                self._tasks.spawn(self._flush(), "group-commit")

    async def room(self) -> None:
        """Before a mutation: raises DiskFull (definite) while the log could not take it; waits
        while the open group holds as many changes as one record should."""
        while self._open_rows >= GROUP_ROWS_MAX and self._open is not None:
            await self.settled()
        await self._log.room(GROUP_ROOM_BYTES + RESERVE_BYTES)

    async def room_in_reserve(self, n_bytes: int = 0) -> None:
        """Before a mutation of ``n_bytes`` that gives something back: on a full disk it may use
        what ``room`` leaves. Raises DiskFull when that is used up, too. What the open group holds
        is counted, so that many such operations at a time go in several groups."""
        while True:
            try:
                await self._log.room(n_bytes + RESERVED_BYTES + self._open_rows * ROW_BYTES)
                return
            except DiskFull:
                if self._open_rows == 0:
                    raise
                await self.settled()

    async def settled(self) -> None:
        """Return when everything applied before this call is durable and checked; raises why
        not."""
        if self._ended is not None:
            raise self._ended
        group = self._open or self._in_flight
        if group is not None:
            await asyncio.shield(group)
            self._recorder.link(CURRENT.get(), self._log.batch_trace)
        else:
            await self._log.check()

    async def write(self, entry: Entry) -> Placement:
        """Log an entry that is no changeset and return when it is durable and checked."""
        payload = self._codec.encode(entry)
        await self._log.room(len(payload))
        placement = self._log.append(RecordKind.ENTRY, [payload])
        await self._log.durable(placement.sequence)
        self._logged(placement, payload)
        return placement

    def end(self, error: SofsError) -> None:
        """The life is over: whoever waits for a group gets the reason."""
        self._ended = error
        for group in (self._open, self._in_flight):
            if group is not None and not group.done():
                group.set_exception(error)

    def when_durable(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` when what the transaction under way changed is durable and checked; never,
        if that does not come to pass. It must not raise."""
        self._told.append(tell)

    async def _flush(self) -> None:
        while self._open is not None:
            if self._pace.wait(self._open_transactions):
                await next_turn()
                continue
            self._pace.took(self._open_transactions)
            self._open_transactions = 0
            group, self._open = self._open, None
            told, self._told = self._told, []
            self._in_flight = group
            try:
                await self._flush_group()
            except SofsError as error:
                # The changes left the database's session and are in no log: this life is over.
                if not group.done():
                    group.set_exception(error)
                raise
            self._in_flight = None
            if not group.done():
                group.set_result(None)
            for tell in told:
                tell()
        self._flushing = False

    async def _flush_group(self) -> None:
        changes = self._database.take_changeset()
        self._open_rows = 0
        if not changes:
            await self._log.check()
            return
        payload = self._codec.encode(Changeset(self._schema_version, changes))
        await self._log.room(len(payload))
        placement = self._log.append(RecordKind.ENTRY, [payload])
        await self._log.durable(placement.sequence)
        self.groups += 1
        self._logged(placement, payload)


def _retrieved(future: asyncio.Future[None]) -> None:
    """A group that nobody awaited may fail without a warning: the life's end tells the reason."""
    if not future.cancelled():
        future.exception()
