"""SQLite databases on a share: an APSW VFS.

::

    from sofs.adapters import sqlite

    with sofs.connect("sofs://cap/share") as share:
        bank = sqlite.connect(share, "/bank.db", app_instance="teller-7")
        with bank:
            bank.execute("UPDATE account SET cents = cents - 500 WHERE id = 1")

or, for code that opens its own connections: ``sqlite.register(share, "sofs")`` once and
``apsw.Connection("/bank.db", vfs="sofs")``. Several connections, in threads, processes and on
machines, may use one database at the same time; see ``sqlite_locks`` for how they exclude each
other and ``sqlite_files`` for why a transaction is whole or absent whoever dies.

Journal modes DELETE, TRUNCATE and PERSIST are allowed. WAL is refused (NotSupported), because its
index lives in memory that all connections share; with ``locking_mode=EXCLUSIVE`` set before it
needs no such memory and works. OFF and MEMORY are refused: after the death of a client nothing
could undo half a transaction. ``nolock`` and ``immutable`` in a URI are refused for the same
reason.

A server's death is a pause inside a SQLite call. A *client's* death leaves its locks and, if it was
writing, a hot journal: they belong to persistent handles, so others get SQLITE_BUSY until the
handles expire (a minute by default). A client that names its ``app_instance`` takes the files of
its dead predecessor over at once: opening the database closes the old handle with its locks,
looking at the journal closes that one, and SQLite rolls back. One application instance is one
``Share`` at a time; two at once would take the files from each other.

Temporary files never leave the machine. Result codes: see ``sqlite_errors``.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Final

import apsw

from sofs.adapters.sqlite_errors import TellsTheLog, code_for, told_to_sqlite
from sofs.adapters.sqlite_files import (
    JOURNAL_MODES,
    DatabaseFile,
    HeldJournal,
    JournalFile,
    ShareFile,
    WalFile,
    refuse_journal_mode,
)
from sofs.client.modes import PathLike, clean_path
from sofs.client.sync import File, Share
from sofs.core.messages import Share as ShareMode
from sofs.errors import (
    DeletePending,
    InvalidParameter,
    NotADirectory,
    NotSupported,
    ObjectNameNotFound,
    SharingViolation,
)
from sofs.ids import ID_BYTES

BUSY_TIMEOUT_DEFAULT_MS: Final = 10_000
PATIENCE_TRIES: Final = 40  # For a journal that another client is about to let go of ...
PATIENCE_PAUSE_S: Final = 0.025  # ... so a second in all; then SQLITE_BUSY.
_READ_ONLY_ATTRIBUTE: Final = 1
_WAL_SUFFIX: Final = "-wal"
JOURNAL_SUFFIX: Final = "-journal"
_SUPER_MARK: Final = "-mj"  # Every super-journal's name has it.
_ON_SHARE: Final = (
    apsw.SQLITE_OPEN_MAIN_DB
    | apsw.SQLITE_OPEN_MAIN_JOURNAL
    | apsw.SQLITE_OPEN_SUPER_JOURNAL
    | apsw.SQLITE_OPEN_WAL
)

_registry_lock = threading.Lock()
_registry: dict[str, SofsVfs] = {}  # APSW unregisters a VFS that nobody refers to.


class SofsVfs(TellsTheLog, apsw.VFS):
    """The VFS of one share, from ``register`` to ``unregister``."""

    def __init__(
        self,
        share: Share,
        name: str,
        *,
        app_instance: bytes = b"",
        handle_timeout_ms: int = 0,
        atomic_commits: bool = True,
        make_default: bool = False,
    ) -> None:
        self.share = share
        self.vfs_name = name
        self._app_instance = app_instance
        self._handle_timeout_ms = handle_timeout_ms
        self._atomic_commits = atomic_commits
        self._lock = threading.Lock()
        self._databases: dict[str, list[DatabaseFile]] = {}
        self._thread = threading.local()
        super().__init__(name, base="", makedefault=make_default)

    def unregister(self) -> None:
        """No new connections; open ones go on."""
        with _registry_lock:
            _registry.pop(self.vfs_name, None)
        super().unregister()

    # Opening

    def xOpen(  # type: ignore[override]  # Duck-typed files have no shared memory: WAL stays out.
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> ShareFile | HeldJournal | apsw.VFSFile:
        kind = flags[0]
        if name is None or not kind & _ON_SHARE:
            return apsw.VFSFile("", name, flags)
        if isinstance(name, apsw.URIFilename):
            _refuse_uri_options(name)
            path = name.filename()
        else:
            path = name
        with told_to_sqlite(apsw.SQLITE_CANTOPEN):
            made = self._open(path, kind)
        flags[1] = kind
        return made

    def _open(self, path: str, kind: int) -> ShareFile | HeldJournal:
        if not kind & apsw.SQLITE_OPEN_READWRITE:
            file = self._open_file(path, "rb", ShareMode.ALL)
            return (
                self._database(path, file)
                if kind & apsw.SQLITE_OPEN_MAIN_DB
                else ShareFile(path, file)
            )
        mode = "r+b"
        if kind & apsw.SQLITE_OPEN_CREATE:
            mode = "x+b" if kind & apsw.SQLITE_OPEN_EXCLUSIVE else "a+b"
        if kind & apsw.SQLITE_OPEN_MAIN_DB:
            return self._database(path, self._open_file(path, mode, ShareMode.ALL))
        if kind & apsw.SQLITE_OPEN_WAL:
            file = self._open_exclusively(path, mode)
            return WalFile(path, file, self._writer_of(path.removesuffix(_WAL_SUFFIX)))
        owner = None
        if kind & apsw.SQLITE_OPEN_MAIN_JOURNAL:
            owner = self._writer_of(path.removesuffix(JOURNAL_SUFFIX))
        if owner is None:
            return self._journal(path, mode, None)
        if self._atomic_commits and kind & apsw.SQLITE_OPEN_CREATE:
            owner.journal = HeldJournal(path, owner, self, lambda: self._journal(path, mode, owner))
        else:  # A hot one, to be rolled back, or as it was wished.
            owner.journal = self._journal(path, mode, owner)
        return owner.journal

    def _open_exclusively(self, path: str, mode: str) -> File:
        return _patiently(lambda: self._open_file(path, mode, ShareMode.READ, deletable=True))

    def _journal(self, path: str, mode: str, owner: DatabaseFile | None) -> JournalFile:
        """Open a journal on the share."""
        file = self._open_exclusively(path, mode)
        size = file.tell() if mode == "a+b" else file.stat().size  # "a" starts at the end.
        return JournalFile(path, file, owner, self, size)

    def _open_file(
        self, path: str, mode: str, share: ShareMode, *, deletable: bool = False
    ) -> File:
        return self.share.open(
            path,
            mode,
            share=share,
            deletable=deletable,
            app_instance=self._app_instance,
            timeout_ms=self._handle_timeout_ms,
        )

    def _database(self, path: str, file: File) -> DatabaseFile:
        database = DatabaseFile(path, file, self)
        with self._lock:
            self._databases.setdefault(path, []).append(database)
        return database

    def _writer_of(self, path: str) -> DatabaseFile | None:
        """The one connection of this VFS that may have a journal now: RESERVED is held once."""
        with self._lock:
            for database in self._databases.get(path, ()):
                if database.locks.may_write:
                    return database
        return None

    def forget(self, database: DatabaseFile) -> None:
        """The connection's file closes."""
        with self._lock:
            left = [d for d in self._databases.get(database.path, ()) if d is not database]
            if left:
                self._databases[database.path] = left
            else:
                self._databases.pop(database.path, None)

    # Journals between xClose and xDelete

    def park(self, journal: JournalFile | HeldJournal) -> None:
        """Keep a closed journal: SQLite may delete the file next, on this thread."""
        parked = self._parked()
        before = parked.pop(journal.path, None)
        parked[journal.path] = journal
        if before is not None:
            before.let_go()

    def settle_parked(self) -> None:
        """Close the parked journals of this thread: SQLite went on without deleting them."""
        parked = self._parked()
        while parked:
            _, journal = parked.popitem()
            journal.let_go()

    def _parked(self) -> dict[str, JournalFile | HeldJournal]:
        try:
            parked: dict[str, JournalFile | HeldJournal] = self._thread.parked
        except AttributeError:
            parked = self._thread.parked = {}
        return parked

    def entered(self, database: DatabaseFile) -> None:
        """This thread's connection took SHARED: it asks for a hot journal next."""
        self._thread.entered = database

    # Names

    def xDelete(self, name: str, syncdir: bool) -> None:
        with told_to_sqlite(apsw.SQLITE_IOERR_DELETE):
            journal = self._parked().pop(name, None)
            if journal is not None:
                journal.delete()
                return
            try:
                file = _patiently(
                    lambda: self._open_file(name, "r+b", ShareMode.READ, deletable=True)
                )
            except ObjectNameNotFound as error:
                raise apsw.exception_for(apsw.SQLITE_IOERR_DELETE_NOENT) from error
            try:
                file.set_info(delete_on_close=True)
            finally:
                file.close()

    def xAccess(self, name: str, flags: int) -> bool:
        """An empty file does not exist, as everywhere in SQLite: TRUNCATE leaves such journals."""
        if name.endswith(_WAL_SUFFIX) and not self._may_have_wal(name.removesuffix(_WAL_SUFFIX)):
            return False
        if flags == apsw.SQLITE_ACCESS_EXISTS and self._came_without(name):
            return False
        with told_to_sqlite(apsw.SQLITE_IOERR_ACCESS):
            try:
                if self._app_instance and _SUPER_MARK in name:
                    # Before anyone concludes from it: a frozen predecessor must not delete it now.
                    with self._open_file(name, "rb", ShareMode.ALL):
                        return True
                info = self.share.stat(name)
            except (ObjectNameNotFound, NotADirectory, DeletePending):
                return False
        if flags == apsw.SQLITE_ACCESS_READWRITE:
            return not info.attributes & _READ_ONLY_ATTRIBUTE
        return info.is_directory or info.size > 0

    def _came_without(self, name: str) -> bool:
        """Was there no such journal when this thread's connection took SHARED, just now?"""
        database: DatabaseFile | None = getattr(self._thread, "entered", None)
        if database is None or name != database.path + JOURNAL_SUFFIX or not database.no_journal:
            return False
        database.no_journal = False
        return True

    def _may_have_wal(self, path: str) -> bool:
        """A WAL counts only if the database's header says so; asking for it at every transaction
        would cost a round trip."""
        with self._lock:
            databases = self._databases.get(path, [])
            return not databases or any(database.may_be_wal for database in databases)

    def xFullPathname(self, name: str) -> str:
        with told_to_sqlite(apsw.SQLITE_CANTOPEN_FULLPATH):
            return clean_path(name)


def _refuse_uri_options(name: apsw.URIFilename) -> None:
    for option in ("nolock", "immutable"):
        if name.uri_boolean(option, False):
            raise NotSupported(f"{option}=1: other machines may write the file; remove the option")


def _patiently(work: Callable[[], File]) -> File:
    """Call ``work`` again while it is refused for a reason that passes by itself: another client
    looks at the journal, or closes it. The last refusal is raised."""
    for left in range(PATIENCE_TRIES - 1, -1, -1):
        try:
            return work()
        except (DeletePending, SharingViolation):
            if not left:
                raise
        time.sleep(PATIENCE_PAUSE_S)
    raise AssertionError("at least one try")


def register(
    share: Share,
    name: str = "sofs",
    *,
    app_instance: bytes | str = b"",
    handle_timeout_ms: int = 0,
    atomic_commits: bool = True,
    make_default: bool = False,
) -> SofsVfs:
    """Make ``apsw.Connection(path, vfs=name)`` open databases of ``share``.

    ``app_instance``: 16 bytes, or any text that names this application instance (see the module).
    ``handle_timeout_ms``: how long the locks of a dead client last (0: the server's default).
    ``atomic_commits``: False writes every transaction's journal to the share.
    ``result.unregister()`` ends it. InvalidParameter: the name is taken.
    """
    instance = instance_id(app_instance)
    with _registry_lock:
        if name in apsw.vfs_names():
            raise InvalidParameter(f"a VFS named {name!r} is registered; choose another name")
        _registry[name] = SofsVfs(
            share,
            name,
            app_instance=instance,
            handle_timeout_ms=handle_timeout_ms,
            atomic_commits=atomic_commits,
            make_default=make_default,
        )
        return _registry[name]


def instance_id(app_instance: bytes | str) -> bytes:
    """Return the 16 bytes for an application instance's name; b"" for none."""
    if isinstance(app_instance, str):
        if not app_instance:
            return b""
        return hashlib.blake2b(app_instance.encode(), digest_size=ID_BYTES).digest()
    if app_instance and len(app_instance) != ID_BYTES:
        raise InvalidParameter(f"app_instance must be text or {ID_BYTES} bytes")
    return app_instance


_own_lock = threading.Lock()
_own: dict[tuple[int, bytes], SofsVfs] = {}
_own_count = 0


def _vfs_for(share: Share, app_instance: bytes) -> SofsVfs:
    """The VFS that ``connect`` made for this share, or a new one; those of closed shares go."""
    global _own_count
    with _own_lock:
        for key, vfs in list(_own.items()):
            if vfs.share.closed:
                vfs.unregister()
                del _own[key]
        key = (id(share), app_instance)
        if key not in _own:
            _own_count += 1
            _own[key] = register(share, f"sofs-{_own_count}", app_instance=app_instance)
        return _own[key]


def connect(
    share: Share,
    path: PathLike,
    *,
    journal_mode: str = "truncate",
    busy_timeout_ms: int = BUSY_TIMEOUT_DEFAULT_MS,
    app_instance: bytes | str = b"",
    flags: int = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE,
) -> apsw.Connection:
    """Open a database of ``share``.

    ``busy_timeout_ms``: how long SQLite asks again for a lock before apsw.BusyError.
    ``journal_mode``: delete, truncate or persist; NotSupported for others, and for a database that
    was left in WAL mode.
    """
    wanted = journal_mode.lower()
    if wanted not in JOURNAL_MODES:
        refuse_journal_mode(wanted)
        raise InvalidParameter(f"journal_mode {journal_mode!r}; use {', '.join(JOURNAL_MODES)}")
    vfs = _vfs_for(share, instance_id(app_instance))
    connection = apsw.Connection(clean_path(path), flags=flags, vfs=vfs.vfs_name)
    try:
        connection.set_busy_timeout(busy_timeout_ms)
        got = connection.pragma("journal_mode", wanted)
        if got != wanted:
            raise NotSupported(
                f"{path}: the journal mode stays {got!r}; open it with locking_mode=EXCLUSIVE and "
                "set journal_mode=DELETE once"
            )
    except BaseException:
        connection.close()
        raise
    return connection


__all__ = [
    "BUSY_TIMEOUT_DEFAULT_MS",
    "JOURNAL_MODES",
    "SofsVfs",
    "code_for",
    "connect",
    "instance_id",
    "register",
]
