"""SQLite's five lock levels as byte-range locks of a share, at SQLite's own lock bytes.

========== ==================================== ===========================================
level      lock bytes                           others may
========== ==================================== ===========================================
SHARED     shared on 510 bytes at 0x40000002    read, and one of them prepare a write
RESERVED   exclusive on 0x40000001              read
PENDING    exclusive on 0x40000000              finish their reads; no new reader enters
EXCLUSIVE  exclusive on the 510 bytes           nothing
========== ==================================== ===========================================

The layout is that of SQLite on Windows and Unix, so a client that reaches the same file through a
mount that maps advisory locks agrees with this one. Locks of a share are mandatory, but SQLite
never stores data on the page of the lock bytes, so they exclude nobody's reads and writes.

Each transition is one change of locks, which the authority makes whole or not at all:

- NONE to SHARED: take the 510 bytes shared, if PENDING is free. A writer that waits for readers to
  leave is not starved by new ones.
- SHARED to RESERVED: take it.
- to EXCLUSIVE: give the own shared lock back and take the 510 bytes exclusively. While readers
  remain nothing changes; then PENDING is taken alone, so that no new ones come, and the rest is
  tried again. Without readers PENDING is never needed: nobody can come between.
- EXCLUSIVE to SHARED: the same backwards, RESERVED and PENDING go along.
- to NONE: everything goes.

What stock SQLite does in several steps with a lock held in between needs none here; two writers, or
two that found a hot journal, exclude each other by the 510 bytes alone.

Who is refused raises LockNotGranted, and SQLite's busy handler decides. That is SQLite's way out of
deadlocks: of two readers that both want to write one is refused RESERVED and must give up its
SHARED. But asking again and again is dear here: each try is a round trip, and its reads call the
file's token away from the node of the writer who is to be waited for. So there are two short waits
(COURTESY_MS at most, in the authority's queue of the file): to enter, while a writer is PENDING or
EXCLUSIVE, or, after RESERVED was refused, until the other writer is gone; and, with PENDING held,
for the last readers to leave. In the first nothing is held; in the second SHARED is, but whoever
waits for that waits for PENDING first.

Who was refused RESERVED takes it together with SHARED when he comes back: the queue has an order,
and a race of all who have SHARED has none, so that the slowest of them never wrote. Should he only
read this time, other writers wait for him as for a writer.

Why the probe for a writer may be a read. A read inside another handle's exclusive range is refused:
one byte at RESERVED says whether there is a writer, without taking a lock that a second prober or
the writer itself would trip over.

What comes along. The change that enters brings the file's size and first bytes, and whether there
is a journal (``view``). While SHARED is held nobody else writes the database: a writer needs
EXCLUSIVE, which this lock keeps from him. So size and bytes stay true until the lock goes or this
connection writes. A journal that another writer begins meanwhile is not hot, because he cannot have
touched the database.

What may fail. An operation whose outcome stays unknown (the deadline passed) leaves the ladder
``broken``: every later use raises until the file is closed, which ends the handle and its locks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from sofs.client.file import LockedView
from sofs.core.messages import LockRange
from sofs.errors import FileLockConflict, LockNotGranted, SofsError, StoreUnknown

NONE: Final = 0
SHARED: Final = 1
RESERVED: Final = 2
PENDING: Final = 3
EXCLUSIVE: Final = 4

PENDING_BYTE: Final = 0x40000000
RESERVED_BYTE: Final = PENDING_BYTE + 1
SHARED_FIRST: Final = PENDING_BYTE + 2
SHARED_BYTES: Final = 510

COURTESY_MS: Final = 150
FIRST_BYTES: Final = 4096  # Brought along when SHARED is taken: SQLite looks at them first.

_PENDING: Final = LockRange(PENDING_BYTE, 1, True)
_NO_WRITER_PENDING: Final = LockRange(PENDING_BYTE, 1, False)
_RESERVED: Final = LockRange(RESERVED_BYTE, 1, True)
_READERS: Final = LockRange(SHARED_FIRST, SHARED_BYTES, False)
_ALL_READERS: Final = LockRange(SHARED_FIRST, SHARED_BYTES, True)


class Lockable(Protocol):
    """What is asked of an open file; ``sofs.client.sync.File`` has it."""

    def pread(self, size: int, offset: int) -> bytes: ...

    def change_locks(
        self,
        *,
        drop: Sequence[LockRange] = (),
        test: Sequence[LockRange] = (),
        take: Sequence[LockRange] = (),
        wait_ms: int = 0,
        read: tuple[int, int] = (0, 0),
        beside: str = "",
    ) -> LockedView: ...


class LockLadder:
    """The lock state of one connection's database file. ``journal``: its path, looked at when
    SHARED is taken."""

    def __init__(self, file: Lockable, journal: str = "") -> None:
        self._file = file
        self._journal = journal
        self._readers: LockRange | None = None  # Which of the two locks on the 510 bytes is held.
        self._reserved = False
        self._pending = False
        self._was_refused = False  # RESERVED, at the last try.
        self._in_advance = False  # RESERVED is held, and SQLite has not asked for it yet.
        self.view: LockedView | None = None  # What came along with SHARED, while it is held.
        self.broken: BaseException | None = None

    @property
    def level(self) -> int:
        if self._readers is None:
            return NONE
        if self._readers is _ALL_READERS:
            return EXCLUSIVE
        if self._pending:
            return PENDING
        return RESERVED if self._reserved and not self._in_advance else SHARED

    @property
    def may_write(self) -> bool:
        """Whether this connection is the one that may hold a journal."""
        reserved = self._reserved and not self._in_advance
        return reserved or self._pending or self._readers is _ALL_READERS

    def climb(self, wanted: int) -> None:
        """Rise to ``wanted`` (SHARED, RESERVED or EXCLUSIVE). LockNotGranted: others hold what
        excludes it; the level is what it was, or PENDING on the way to EXCLUSIVE."""
        self.check()
        if wanted <= self.level:
            return
        if self._readers is None:
            self._enter()
        if RESERVED <= wanted < PENDING and (not self._reserved or self._in_advance):
            self._reserve()
        if wanted == EXCLUSIVE:
            self._exclude_readers()

    def descend(self, wanted: int) -> None:
        """Drop to ``wanted`` (SHARED or NONE)."""
        self.check()
        readers = self._readers
        if wanted >= self.level and not self.may_write:
            return
        drop = [_RESERVED] if self._reserved else []
        if self._pending:
            drop.append(_PENDING)
        take: list[LockRange] = []
        if readers is not None and (wanted == NONE or readers is _ALL_READERS):
            drop.append(readers)
            readers = None
            if wanted == SHARED:
                take.append(_READERS)
                readers = _READERS
        if drop:
            self._change(drop=drop, take=take, descends=True)
        self._readers = readers
        self._reserved = self._pending = self._in_advance = False
        if readers is None:
            self.view = None

    def is_reserved(self) -> bool:
        """Whether any connection holds RESERVED, PENDING or EXCLUSIVE as a writer. Our own, held in
        advance, does not count: SQLite asks in order to tell a hot journal from that of a writer at
        work, and would take the one for the other."""
        self.check()
        return (self._reserved and not self._in_advance) or self._is_held(RESERVED_BYTE)

    def check(self) -> None:
        """Raise the error that broke the ladder, if any."""
        if self.broken is not None:
            raise StoreUnknown(
                f"the locks of this database file are not known since: {self.broken}; close the "
                "connection and open it again"
            ) from self.broken

    def _enter(self) -> None:
        if self._was_refused and self._enter_as_writer():
            return
        self._look(take=[_READERS], wait_ms=0 if self._was_refused else COURTESY_MS)
        self._readers = _READERS

    def _enter_as_writer(self) -> bool:
        """Take SHARED and RESERVED, in the order of the queue; False when there still is a writer:
        who only reads may read meanwhile."""
        try:
            self._look(take=[_READERS, _RESERVED], wait_ms=COURTESY_MS)
        except LockNotGranted:
            return False
        self._readers = _READERS
        self._reserved = self._in_advance = True
        self._was_refused = False
        return True

    def _look(self, *, take: list[LockRange], wait_ms: int) -> None:
        self.view = self._change(
            test=[_NO_WRITER_PENDING],
            take=take,
            wait_ms=wait_ms,
            read=(FIRST_BYTES, 0),
            beside=self._journal,
        )

    def _reserve(self) -> None:
        if self._in_advance:
            self._in_advance = False
            return
        try:
            self._change(take=[_RESERVED])
        except LockNotGranted:
            self._was_refused = True
            raise
        self._reserved = True

    def _exclude_readers(self) -> None:
        if not self._pending:
            try:
                self._change(drop=[_READERS], take=[_ALL_READERS])
            except LockNotGranted:
                self._change(take=[_PENDING])
                self._pending = True
        if self._readers is _READERS and self._pending:
            self._change(drop=[_READERS], take=[_ALL_READERS], wait_ms=COURTESY_MS)
        self._readers = _ALL_READERS

    def _is_held(self, byte: int) -> bool:
        try:
            self._file.pread(1, byte)
        except FileLockConflict:
            return True
        return False

    def _change(
        self,
        *,
        drop: Sequence[LockRange] = (),
        test: Sequence[LockRange] = (),
        take: Sequence[LockRange] = (),
        wait_ms: int = 0,
        read: tuple[int, int] = (0, 0),
        beside: str = "",
        descends: bool = False,
    ) -> LockedView:
        try:
            return self._file.change_locks(
                drop=drop, test=test, take=take, wait_ms=wait_ms, read=read, beside=beside
            )
        except BaseException as error:
            definite = isinstance(error, SofsError) and error.definite
            if not definite or descends:  # A lock that stays would block others.
                self.broken = error
            raise
