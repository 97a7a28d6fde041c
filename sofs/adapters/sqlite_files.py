"""The files of a SQLite database on a share: the database, its journals, and order between them.

A write to a share is durable when it returns, and whole. Nothing is written before it must be:

**A transaction that fits into one write needs no journal on the share.** Its rollback journal stays
in this process (``HeldJournal``), its pages are held back, and what finalizes the journal (the cut,
the zeroed header, the deletion: SQLite's commit point) writes all pages in one atomic write of
several ranges instead. A client that dies before leaves nothing; one that dies after has committed.
There is never a hot journal to roll back. ``xSync`` of either file has nothing to do: SQLite needs
the order of journal, pages and commit, and all of it happens in one step.

**A larger one is spilled:** when the pages held back reach HELD_BACK_BYTES_MAX, or the journal
names a super-journal (a transaction over several databases), the journal goes to the share whole
(``JournalFile``), then the pages. Then atomicity rests on order, which is kept whatever ``PRAGMA
synchronous`` says:

- a journal's writes are gathered into runs, and reach the share in the order SQLite made them;
- before the first database page is handed over the journal has been;
- before a journal is truncated, zeroed or deleted (the commit) every database page has been;
- before a lock is given back everything has been.

A client that dies leaves either an untouched database, or a journal that undoes whatever touched
it.

The commit point belongs to a handle: of the database in the first case, of the journal in the
second, which is opened so that nobody else may open it for writing, and truncated, zeroed and
deleted through that handle. A client that lost its handles (they expired, or a newer instance of
the application took them over) while it was frozen can thus not commit any more, although it could
still name the files. This is why ``xClose`` of a journal only parks it: SQLite closes a journal
immediately before it deletes it by name.

If the one write fails, the pages are forgotten: the transaction is absent (or, after an unknown
outcome, whole), and SQLite hears an error from its commit.

A database page that arrives while no journal is open is refused: it is what the journal modes OFF
and MEMORY would do, and a client's death would then leave half a transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import apsw

from sofs.adapters.sqlite_errors import TellsTheLog, told_to_sqlite
from sofs.adapters.sqlite_locks import NONE, LockLadder
from sofs.client.sync import File
from sofs.constants import BLOCK_BYTES, WRITE_BYTES_MAX, WRITE_PARTS_MAX
from sofs.errors import NotSupported

SECTOR_BYTES: Final = 4096
HELD_BACK_BYTES_MAX: Final = WRITE_BYTES_MAX  # A run of a journal, or the gathered database pages.
HELD_JOURNAL_BYTES_MAX: Final = WRITE_BYTES_MAX + 64 * 1024  # As many pages, with their numbers.
JOURNAL_MODES: Final = ("delete", "truncate", "persist")
_REFUSED_MODES: Final = ("off", "memory", "wal")
_SUPER_ENDS: Final = bytes.fromhex(
    "d9d505f920a163d7"
)  # Written alone behind a super-journal's name.
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

    def park(self, journal: JournalFile | HeldJournal) -> None: ...

    def settle_parked(self) -> None: ...

    def forget(self, database: DatabaseFile) -> None: ...

    def entered(self, database: DatabaseFile) -> None: ...


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

    def let_go(self) -> None:
        """Closed by SQLite and not deleted."""
        self.file.close()

    def put(self, content: bytes) -> None:
        """Make the file hold exactly ``content``."""
        if self._size:
            self.file.truncate(0)
        for start in range(0, len(content), WRITE_BYTES_MAX):
            self.file.pwrite(content[start : start + WRITE_BYTES_MAX], start)
        self._size = len(content)

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


class HeldJournal(TellsTheLog):
    """A rollback journal in this process, until it is finalized or must be spilled to the share.
    ``make`` opens it there."""

    def __init__(
        self,
        path: str,
        database: DatabaseFile,
        parking: Parking,
        make: Callable[[], JournalFile],
    ) -> None:
        self.path = path
        self.database = database
        self._parking = parking
        self._make = make
        self._content = bytearray()
        self._spilled: JournalFile | None = None

    def hand_over(self) -> JournalFile:
        """Spill: the journal on the share has all that SQLite wrote. Raises SofsError."""
        if self._spilled is None:
            journal = self._make()
            try:
                journal.put(bytes(self._content))
            except BaseException:
                journal.let_go()
                raise
            self._spilled = self.database.journal = journal
            self._content.clear()
        return self._spilled

    def _commit(self) -> bool:
        """Write the database's pages at once; False: they do not fit, so the journal is spilled."""
        if self._spilled is None and self.database.write_at_once():
            self._content.clear()
            return True
        self.hand_over()
        return False

    def forget(self) -> None:
        """The transaction is given up: what it wrote never happened."""
        if self._spilled is None:
            self._content.clear()

    def let_go(self) -> None:
        """Closed by SQLite and not deleted: committed before, or given up."""
        if self._spilled is None and self._content:
            self.database.forget_pages()
        self.forget()

    def delete(self) -> None:
        """The commit in DELETE mode. Raises SofsError."""
        if not self._commit():
            self.hand_over().delete()

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._spilled is not None:
            return self._spilled.xRead(amount, offset)
        return bytes(self._content[offset : offset + amount])

    def xWrite(self, data: Any, offset: int) -> None:
        if self._spilled is not None:
            self._spilled.xWrite(data, offset)
            return
        piece = bytes(data)
        with told_to_sqlite(apsw.SQLITE_IOERR_WRITE):
            if offset == 0 and not any(piece):  # PERSIST: zeroing the header is the commit.
                if not self._commit():
                    self.hand_over().xWrite(piece, 0)
                return
            content = self._content
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(piece)] = piece
            if piece == _SUPER_ENDS or len(content) > HELD_JOURNAL_BYTES_MAX:
                self.hand_over()

    def xTruncate(self, size: int) -> None:
        if self._spilled is None:
            with told_to_sqlite(apsw.SQLITE_IOERR_TRUNCATE):
                if size:
                    del self._content[size:]
                    return
                if self._commit():
                    return
        self.hand_over().xTruncate(size)

    def xSync(self, flags: int) -> None:
        if self._spilled is not None:
            self._spilled.xSync(flags)

    def xFileSize(self) -> int:
        return len(self._content) if self._spilled is None else self._spilled.xFileSize()

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
        if self._spilled is not None:
            self._spilled.xClose()
            return
        if self.database.journal is self:
            self.database.journal = None
        self._parking.park(self)


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
        self.locks = LockLadder(file, f"{path}-journal")
        self.journal: JournalFile | HeldJournal | None = None
        self.wal = False
        self.may_be_wal = True  # Until the header was read.
        self.no_journal = False  # As of the moment when SHARED was taken; asked for once.
        self._exclusive_mode = False
        self._parking = parking
        self._pages: dict[int, bytes] = {}
        self._pages_bytes = 0
        # What is known of the file on the share while SHARED is held: see ``sqlite_locks``.
        self._size: int | None = None
        self._first = b""

    # Pages held back

    @property
    def _is_held(self) -> bool:
        """Does nothing of this transaction reach the share before its commit?"""
        return isinstance(self.journal, HeldJournal)

    def _write(self, data: bytes, offset: int) -> None:
        size, self._size = self._size, None  # Not known while it is not known what happened.
        if offset < len(self._first):
            self._first = b""
        self.file.pwrite(data, offset)
        if size is not None:
            self._size = max(size, offset + len(data))

    def _runs(self) -> list[tuple[int, bytes]]:
        """The pages held back, neighbours together up to WRITE_BYTES_MAX."""
        runs: list[tuple[int, bytearray]] = []
        for at in sorted(self._pages):
            page = self._pages[at]
            if runs:
                start, run = runs[-1]
                if start + len(run) == at and len(run) + len(page) <= WRITE_BYTES_MAX:
                    run += page
                    continue
            runs.append((at, bytearray(page)))
        return [(start, bytes(run)) for start, run in runs]

    def hand_over(self) -> None:
        """Write the pages held back, the journal before. Raises SofsError; pages not written stay
        for another try."""
        if not self._pages:
            return
        if self.journal is not None:
            self.journal.hand_over()
        for start, run in self._runs():
            self._write(run, start)
            at = start
            while at < start + len(run):
                at += len(self._pages.pop(at))
        self._pages_bytes = 0

    def write_at_once(self) -> bool:
        """Write the pages held back in one atomic write. False: they do not fit into one, and
        nothing happened. Raises SofsError; then the pages stay until they are forgotten."""
        runs = self._runs()
        if len(runs) > 1:
            if self._pages_bytes > WRITE_BYTES_MAX or len(runs) > WRITE_PARTS_MAX:
                return False
            if any(start % BLOCK_BYTES or len(run) % BLOCK_BYTES for start, run in runs):
                return False
            size, self._size, self._first = self._size, None, b""
            self.file.pwrite_parts(runs)
            if size is not None:
                self._size = max(size, runs[-1][0] + len(runs[-1][1]))
        elif runs:
            self._write(runs[0][1], runs[0][0])
        self.forget_pages()
        return True

    def forget_pages(self) -> None:
        """Drop the pages held back."""
        self._pages.clear()
        self._pages_bytes = 0

    # SQLite's calls

    def xRead(self, amount: int, offset: int) -> bytes:
        with told_to_sqlite(apsw.SQLITE_IOERR_READ):
            self.locks.check()
            if not self._is_held:
                self.hand_over()
            data = self._read(amount, offset)
        self._look_at_header(data, offset)
        return data

    def _read(self, amount: int, offset: int) -> bytes:
        page = self._pages.get(offset)
        if page is not None and len(page) == amount:
            return page
        end = offset + amount
        if end <= len(self._first):
            data = self._first[offset:end]
        else:
            data = self.file.pread(amount, offset)
        over = [at for at, page in self._pages.items() if at < end and at + len(page) > offset]
        if not over:
            return data
        whole = bytearray(data)
        for at in over:
            page = self._pages[at]
            piece = page[max(0, offset - at) : end - at]
            start = max(0, at - offset)
            whole.extend(bytes(max(0, start - len(whole))))
            whole[start : start + len(piece)] = piece
        return bytes(whole)

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
            if self._is_held:
                for at in [at for at in self._pages if at >= size]:
                    self._pages_bytes -= len(self._pages.pop(at))
                if self._end() == size:
                    return
            self.hand_over()
            if self.journal is not None and self.journal.xFileSize():  # Else it was committed.
                self.journal.hand_over()
            self._size, self._first = None, b""
            self.file.truncate(size)

    def xSync(self, flags: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_FSYNC):
            if not self._is_held:
                self.hand_over()
                self.file.flush()

    def xFileSize(self) -> int:
        with told_to_sqlite(apsw.SQLITE_IOERR_FSTAT):
            return self._end()

    def _end(self) -> int:
        """The size of the file, with the pages held back."""
        size = self._size
        if size is None:
            size = self.file.stat().size
            if self.locks.level:
                self._size = size
        return max(size, max((at + len(page) for at, page in self._pages.items()), default=0))

    def xLock(self, level: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_LOCK):
            self._parking.settle_parked()
            enters = self.locks.level == NONE
            try:
                self.locks.climb(level)
            finally:
                view = self.locks.view
                if enters and view is not None:
                    self._size, self._first = view.size, view.data
                    self.no_journal = view.nothing_beside
                    self._parking.entered(self)

    def xUnlock(self, level: int) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_UNLOCK):
            self._parking.settle_parked()
            try:
                if isinstance(self.journal, HeldJournal):
                    # Its commit failed: a journal that stays means that the transaction is undone.
                    self.forget_pages()
                    self.journal.forget()
                self.hand_over()
            finally:
                self.no_journal = False
                if level == NONE:
                    self._size, self._first = None, b""
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
            self.forget_pages()  # Of a transaction that failed: a journal undoes the rest.
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
