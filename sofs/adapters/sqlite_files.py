"""The files of a SQLite database on a share: the database, its journals, and order between them.

A write to a share is durable when it returns, so ``xSync`` has nothing to wait for but what this
module itself holds back. It holds back writes for one reason: a rollback journal is written in
pieces of four bytes and a page, a dozen of them a transaction, and each would be an acknowledged
operation of its own.

Order is what atomicity rests on, and it is kept whatever ``PRAGMA synchronous`` says:

- a journal's writes are gathered into runs, and reach the share in the order SQLite made them;
- before the first database page is handed over the journal has been;
- before a journal is truncated, zeroed or deleted (the commit) every database page has been;
- before a lock is given back everything has been.

A client that dies therefore leaves either an untouched database, or a journal that undoes whatever
touched it.

The commit point belongs to a handle. A rollback journal is opened so that nobody else may open it
for writing, and it is truncated, zeroed and deleted through that handle. A client that lost its
handles (they expired, or a newer instance of the application took them over) while it was frozen
can thus not commit any more: what it would do to the journal is refused, although it could still
name the file. This is why ``xClose`` of a journal only parks its handle: SQLite closes a journal
immediately before it deletes it by name.

A database page that arrives while no journal is open is refused: it is what the journal modes OFF
and MEMORY would do, and a client's death would then leave half a transaction.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import apsw

from sofs.adapters.sqlite_errors import TellsTheLog, told_to_sqlite
from sofs.adapters.sqlite_locks import LockLadder
from sofs.client.sync import File
from sofs.constants import WRITE_BYTES_MAX
from sofs.errors import NotSupported

SECTOR_BYTES: Final = 4096
HELD_BACK_BYTES_MAX: Final = WRITE_BYTES_MAX  # A run of a journal, or the gathered database pages.
JOURNAL_MODES: Final = ("delete", "truncate", "persist")
_REFUSED_MODES: Final = ("off", "memory", "wal")
_HEADER_WAL_VERSION: Final = (18, 20)  # The bytes of the header that say "2" in WAL mode.

# What is true of a share: bytes beside a write stay as they are; a write and the size it makes
# appear together; any range may be read. ATOMIC would be true too (a write is one record, whole or
# absent), but SQLite takes it as leave to go without a journal. SEQUENTIAL is not, because of what
# is held back here.
CHARACTERISTICS: Final = (
    apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE
    | apsw.SQLITE_IOCAP_SAFE_APPEND
    | apsw.SQLITE_IOCAP_SUBPAGE_READ
)


class Parking(Protocol):
    """Where a journal's handle waits for its deletion; the VFS."""

    def park(self, journal: JournalFile) -> None: ...

    def settle_parked(self) -> None: ...

    def forget(self, database: DatabaseFile) -> None: ...


class ShareFile(TellsTheLog):
    """A file of the share, unbuffered: a super-journal, or a WAL in exclusive mode."""

    def __init__(self, path: str, file: File) -> None:
        self.path = path
        self.file = file

    def xRead(self, amount: int, offset: int) -> bytes:
        with told_to_sqlite(apsw.SQLITE_IOERR_READ):
            return self.file.pread(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_WRITE):
            self.file.pwrite(data, offset)

    def xTruncate(self, size: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_TRUNCATE):
            self.file.truncate(size)

    def xSync(self, flags: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_FSYNC):
            self.file.flush()

    def xFileSize(self) -> int:
        with told_to_sqlite(apsw.SQLITE_IOERR_FSTAT):
            return self.file.stat().size

    def xLock(self, level: int) -> None:
        """Only the database file of a connection is ever locked."""

    def xUnlock(self, level: int) -> None:
        """See xLock."""

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        return int(CHARACTERISTICS)

    def xClose(self) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_CLOSE):
            self.file.close()


class JournalFile(ShareFile):
    """A rollback journal or super-journal, opened for writing: nobody else may write it meanwhile.
    ``database`` is whose journal it is (None for a super-journal)."""

    def __init__(
        self, path: str, file: File, database: DatabaseFile | None, parking: Parking, size: int
    ) -> None:
        super().__init__(path, file)
        self.database = database
        self._parking = parking
        self._size = size  # Ours to count: nobody else may write.
        self._run = bytearray()
        self._run_offset = 0

    def hand_over(self) -> None:
        """Write what was held back. Raises SofsError; the run stays for another try."""
        if self._run:
            self.file.pwrite(bytes(self._run), self._run_offset)
            self._run.clear()

    def xWrite(self, data: Any, offset: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_WRITE):
            piece = bytes(data)
            if offset == 0 and not any(piece):  # PERSIST: zeroing the header is the commit.
                self._commit_follows()
                self.hand_over()
                self.file.pwrite(piece, 0)
            else:
                self._hold_back(piece, offset)
            self._size = max(self._size, offset + len(piece))

    def _hold_back(self, data: bytes, offset: int) -> None:
        end = self._run_offset + len(self._run)
        if offset != end or len(self._run) + len(data) > HELD_BACK_BYTES_MAX:
            self.hand_over()
        if not self._run:
            self._run_offset = offset
        self._run += data

    def _commit_follows(self) -> None:
        if self.database is not None:
            self.database.hand_over()

    def xRead(self, amount: int, offset: int) -> bytes:
        with told_to_sqlite(apsw.SQLITE_IOERR_READ):
            self.hand_over()
            return self.file.pread(amount, offset)

    def xTruncate(self, size: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_TRUNCATE):
            self._commit_follows()
            self.hand_over()
            self.file.truncate(size)
            self._size = size

    def xSync(self, flags: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_FSYNC):
            self.hand_over()
            self.file.flush()

    def xFileSize(self) -> int:
        return self._size

    def xClose(self) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_CLOSE):
            try:
                self.hand_over()
            finally:
                if self.database is not None and self.database.journal is self:
                    self.database.journal = None
                self._parking.park(self)

    def delete(self) -> None:
        """Delete the file through this handle: refused if the handle was lost. Raises
        SofsError."""
        try:
            self._commit_follows()
            self.file.set_info(delete_on_close=True)
        finally:
            self.file.close()


class WalFile(ShareFile):
    """The write-ahead log of a connection in locking_mode=EXCLUSIVE."""

    def __init__(self, path: str, file: File, database: DatabaseFile | None) -> None:
        super().__init__(path, file)
        self.database = database
        if database is not None:
            database.wal = True

    def xClose(self) -> None:
        if self.database is not None:
            self.database.wal = False
        super().xClose()


class DatabaseFile(ShareFile):
    """The main database file of one connection."""

    def __init__(self, path: str, file: File, parking: Parking) -> None:
        super().__init__(path, file)
        self.locks = LockLadder(file)
        self.journal: JournalFile | None = None
        self.wal = False
        self.may_be_wal = True  # Until the header was read.
        self._exclusive_mode = False
        self._parking = parking
        self._pages: dict[int, bytes] = {}
        self._pages_bytes = 0

    def hand_over(self) -> None:
        """Write the pages held back, neighbours together. Raises SofsError; pages not written stay
        for another try."""
        if not self._pages:
            return
        if self.journal is not None:
            self.journal.hand_over()
        while self._pages:
            start = min(self._pages)
            piece, end = bytearray(), start
            while (page := self._pages.get(end)) is not None:
                if piece and len(piece) + len(page) > WRITE_BYTES_MAX:
                    break
                piece += page
                end += len(page)
            self.file.pwrite(bytes(piece), start)
            at = start
            while at < end:
                at += len(self._pages.pop(at))
        self._pages_bytes = 0

    def xRead(self, amount: int, offset: int) -> bytes:
        with told_to_sqlite(apsw.SQLITE_IOERR_READ):
            self.locks.check()
            self.hand_over()
            data = self.file.pread(amount, offset)
        self._look_at_header(data, offset)
        return data

    def _look_at_header(self, data: bytes, offset: int) -> None:
        first, end = _HEADER_WAL_VERSION
        if offset <= first and offset + len(data) >= end:
            self.may_be_wal = max(data[first - offset : end - offset]) > 1

    def xWrite(self, data: Any, offset: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_WRITE):
            self.locks.check()
            if self.journal is None and not self.wal:
                raise NotSupported(
                    f"{self.path}: a page was to be written without a journal on the share; use "
                    f"journal_mode {', '.join(JOURNAL_MODES)}"
                )
            page = bytes(data)
            self._look_at_header(page, offset)
            held = self._pages.get(offset)
            if held is not None and len(held) != len(page):
                self.hand_over()
                held = None
            self._pages[offset] = page
            self._pages_bytes += 0 if held is not None else len(page)
            if self._pages_bytes >= HELD_BACK_BYTES_MAX or self.wal:
                self.hand_over()

    def xTruncate(self, size: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_TRUNCATE):
            self.locks.check()
            self.hand_over()
            if self.journal is not None:
                self.journal.hand_over()
            self.file.truncate(size)

    def xSync(self, flags: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_FSYNC):
            self.hand_over()
            self.file.flush()

    def xFileSize(self) -> int:
        with told_to_sqlite(apsw.SQLITE_IOERR_FSTAT):
            self.hand_over()
            return self.file.stat().size

    def xLock(self, level: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_LOCK):
            self._parking.settle_parked()
            self.locks.climb(level)

    def xUnlock(self, level: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_UNLOCK):
            self._parking.settle_parked()
            try:
                self.hand_over()
            finally:
                self.locks.descend(level)

    def xCheckReservedLock(self) -> bool:
        with told_to_sqlite(apsw.SQLITE_IOERR_CHECKRESERVEDLOCK):
            return self.locks.is_reserved()

    def xFileControl(self, op: int, pointer: int) -> bool:
        if op == apsw.SQLITE_FCNTL_PRAGMA:
            self._on_pragma(apsw.VFSFcntlPragma(pointer))
        return False

    def _on_pragma(self, pragma: apsw.VFSFcntlPragma) -> None:
        """Refuse what would break atomicity, before SQLite looks at it."""
        name, value = pragma.name.lower(), (pragma.value or "").strip("'\" ").lower()
        if name == "locking_mode" and value:
            self._exclusive_mode = value == "exclusive"
        elif name == "journal_mode":
            refuse_journal_mode(value, exclusive=self._exclusive_mode)

    def xClose(self) -> None:
        self._parking.forget(self)
        with told_to_sqlite(apsw.SQLITE_IOERR_CLOSE):
            self._parking.settle_parked()
            self._pages.clear()  # Of a transaction that failed: the journal undoes the rest.
            self.file.close()


def refuse_journal_mode(mode: str, *, exclusive: bool = False) -> None:
    """Raise NotSupported for a journal mode in which a share cannot keep its promises.
    ``exclusive``: whether the connection is in locking_mode=EXCLUSIVE."""
    if mode not in _REFUSED_MODES or (mode == "wal" and exclusive):
        return
    if mode == "wal":
        raise NotSupported(
            "journal_mode=WAL needs memory shared by all clients, who are on different machines "
            "here; use TRUNCATE, or set PRAGMA locking_mode=EXCLUSIVE first"
        )
    raise NotSupported(
        f"journal_mode={mode.upper()} leaves half a transaction when the client dies; use "
        f"{', '.join(JOURNAL_MODES).upper()}"
    )
