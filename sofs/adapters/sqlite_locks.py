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

Why a probe may be a read. A read inside another handle's exclusive range is refused. A one-byte
read at PENDING therefore says whether a writer waits, and at RESERVED whether there is one, without
taking a lock that a second prober or the writer itself would trip over, and without a round trip to
the volume's authority. PENDING is there to keep readers from starving a writer; mutual exclusion
rests on SHARED against EXCLUSIVE alone, so a reader that slips in between probe and lock is
harmless: the writer finds its lock and asks again.

From SHARED to EXCLUSIVE. A handle's own shared lock stands in the way of its exclusive one, so it
is given back in between. PENDING is held by then: nobody else can be on the same way (a hot journal
would otherwise be rolled back under a live writer), and if readers remain the shared lock is taken
again, which nobody can prevent. On the way down the shared lock is stacked on the exclusive one
first, so there is no gap.

Who is refused raises LockNotGranted, and SQLite's busy handler decides. That is SQLite's way out of
deadlocks: of two readers that both want to write one is refused RESERVED and must give up its
SHARED. Nobody ever waits while holding SHARED. But asking again and again is dear here: each try is
several round trips, and its reads call the file's token away from the node of the writer who is to
be waited for. So there are three short waits (COURTESY_MS at most, inside the authority's queue of
locks): to enter while a writer is PENDING; to enter again after RESERVED was refused, until the
writer is gone; and, with PENDING held, for the last readers to leave.

What may fail. An operation whose outcome stays unknown (the deadline passed) leaves the ladder
``broken``: every later use raises until the file is closed, which ends the handle and its locks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

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

_PENDING: Final = LockRange(PENDING_BYTE, 1, True)
_NO_WRITER_PENDING: Final = LockRange(PENDING_BYTE, 1, False)
_NO_WRITER: Final = LockRange(RESERVED_BYTE, 1, False)
_RESERVED: Final = LockRange(RESERVED_BYTE, 1, True)
_READERS: Final = LockRange(SHARED_FIRST, SHARED_BYTES, False)
_ALL_READERS: Final = LockRange(SHARED_FIRST, SHARED_BYTES, True)


class Lockable(Protocol):
    """What is asked of an open file; ``sofs.client.sync.File`` has it."""

    def pread(self, size: int, offset: int) -> bytes: ...

    def lock_ranges(
        self, ranges: Sequence[LockRange], *, wait: bool = True, wait_ms: int | None = None
    ) -> None: ...

    def unlock_ranges(self, ranges: Sequence[LockRange]) -> None: ...


class LockLadder:
    """The lock state of one connection's database file."""

    def __init__(self, file: Lockable) -> None:
        self._file = file
        self._readers: LockRange | None = None  # Which of the two locks on the 510 bytes is held.
        self._reserved = False
        self._pending = False
        self._was_refused = False  # RESERVED, at the last try.
        self.broken: SofsError | None = None

    @property
    def level(self) -> int:
        if self._readers is None:
            return NONE
        if self._readers is _ALL_READERS:
            return EXCLUSIVE
        if self._pending:
            return PENDING
        return RESERVED if self._reserved else SHARED

    @property
    def may_write(self) -> bool:
        """Whether this connection is the one that may hold a journal."""
        return self._reserved or self._pending or self._readers is _ALL_READERS

    def climb(self, wanted: int) -> None:
        """Rise to ``wanted`` (SHARED, RESERVED or EXCLUSIVE). LockNotGranted: others hold what
        excludes it; the level is what it was, or PENDING on the way to EXCLUSIVE."""
        self.check()
        if wanted <= self.level:
            return
        if self._readers is None:
            self._enter()
        if wanted >= RESERVED and wanted < PENDING and not self._reserved:
            self._reserve()
        if wanted >= PENDING:
            if not self._pending:
                self._lock(_PENDING)
                self._pending = True
            if wanted == EXCLUSIVE:
                self._exclude_readers()

    def descend(self, wanted: int) -> None:
        """Drop to ``wanted`` (SHARED or NONE)."""
        self.check()
        if wanted >= self.level and not self.may_write:
            return
        gone: list[LockRange] = []
        readers = self._readers
        if wanted == NONE:
            if readers is not None:
                gone.append(readers)
            readers = None
        elif readers is _ALL_READERS:
            self._lock(_READERS)
            gone.append(_ALL_READERS)
            readers = _READERS
        if self._reserved:
            gone.append(_RESERVED)
        if self._pending:
            gone.append(_PENDING)
        if gone:
            self._unlock(gone)
        self._readers = readers
        self._reserved = self._pending = False

    def is_reserved(self) -> bool:
        """Whether any connection holds RESERVED, PENDING or EXCLUSIVE as a writer."""
        self.check()
        return self._reserved or self._is_held(RESERVED_BYTE)

    def check(self) -> None:
        """Raise the error that broke the ladder, if any."""
        if self.broken is not None:
            raise StoreUnknown(
                f"the locks of this database file are not known since: {self.broken}; close the "
                "connection and open it again"
            ) from self.broken

    def _enter(self) -> None:
        if self._was_refused:
            self._was_refused = False
            self._lock(_NO_WRITER, wait_ms=COURTESY_MS)
            self._unlock([_NO_WRITER])
        if self._is_held(PENDING_BYTE):
            self._lock(_NO_WRITER_PENDING, _READERS, wait_ms=COURTESY_MS)
            self._readers = _READERS
            self._unlock([_NO_WRITER_PENDING])
        else:
            self._lock(_READERS)
            self._readers = _READERS

    def _reserve(self) -> None:
        try:
            self._lock(_RESERVED)
        except LockNotGranted:
            self._was_refused = True
            raise
        self._reserved = True

    def _exclude_readers(self) -> None:
        self._unlock([_READERS])
        self._readers = None
        try:
            self._lock(_ALL_READERS, wait_ms=COURTESY_MS)
        except LockNotGranted:
            try:
                self._lock(_READERS)
            except SofsError as error:
                self.broken = error  # PENDING without SHARED is no state that SQLite knows.
                raise
            self._readers = _READERS
            raise
        self._readers = _ALL_READERS

    def _is_held(self, byte: int) -> bool:
        try:
            self._file.pread(1, byte)
        except FileLockConflict:
            return True
        return False

    def _lock(self, *wanted: LockRange, wait_ms: int = 0) -> None:
        try:
            if wait_ms:
                self._file.lock_ranges(wanted, wait_ms=wait_ms)
            else:
                self._file.lock_ranges(wanted, wait=False)
        except SofsError as error:
            if not error.definite:
                self.broken = error
            raise

    def _unlock(self, ranges: Sequence[LockRange]) -> None:
        try:
            self._file.unlock_ranges(ranges)
        except SofsError as error:
            self.broken = error  # Even a definite refusal: a lock that stays would block others.
            raise
