"""What a SOFS error is for SQLite: one table, and a context that applies it.

SQLite acts on result codes: BUSY makes it call the busy handler and try again, FULL and IOERR make
it roll the transaction back, CORRUPT-like codes stop it. The SOFS error stays readable as the
``__cause__`` of the APSW exception that the application sees. Where SQLite hears no error (while it
closes, or unlocks on its way out of another error) the error goes to the log ``sofs.sqlite``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import apsw

from sofs.errors import (
    Corrupt,
    DeletePending,
    DiskFull,
    FileIsADirectory,
    FileNotAvailable,
    LockNotGranted,
    ReadOnlyBackend,
    SharingViolation,
    SofsError,
)

_log = logging.getLogger("sofs.sqlite")

# The first class that fits decides; everything else is the code of the operation that failed.
_CODES: tuple[tuple[type[SofsError], int], ...] = (
    (LockNotGranted, apsw.SQLITE_BUSY),
    (SharingViolation, apsw.SQLITE_BUSY),
    (FileNotAvailable, apsw.SQLITE_BUSY),
    (DeletePending, apsw.SQLITE_BUSY),
    (DiskFull, apsw.SQLITE_FULL),
    (Corrupt, apsw.SQLITE_IOERR_DATA),
    (FileIsADirectory, apsw.SQLITE_CANTOPEN_ISDIR),
    (ReadOnlyBackend, apsw.SQLITE_READONLY),
)


def code_for(error: SofsError, otherwise: int) -> int:
    """Return the SQLite result code for an error of an operation whose own code is
    ``otherwise``."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return otherwise


@contextmanager
def told_to_sqlite(otherwise: int) -> Iterator[None]:
    """Raise SOFS errors of the block as the APSW exception of the right code."""
    try:
        yield
    except SofsError as error:
        wrapped = apsw.exception_for(code_for(error, otherwise))
        wrapped.args = (f"{wrapped.args[0] if wrapped.args else 'SOFS'}: {error}",)
        raise wrapped from error


class TellsTheLog:
    """For VFS and files: what APSW does with an exception that it cannot report."""

    def excepthook(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        _log.warning("SQLite went on after: %s", error)
        return True
