"""The state database on SQLite (APSW): tables in memory, changes as session changesets.

Theory. One session records every change to the tables of ``main`` between two calls of
``take_changeset``; what a rolled back transaction did leaves no trace, since the session compares
old and new rows when the changeset is made. Changes that came from ``apply_changesets`` are not
captured: they are in the log already. The session extension identifies rows by primary key, so
every table must have one that cannot be NULL, and AUTOINCREMENT (whose counter is a table without
one) is refused. Keys are small numbers, never byte offsets: multiples of 4096 collide in the
session's hash.

May fail: a conflict while applying means that the base and the changes do not belong together.
That is an InvariantViolation: the process ends and recovers from the store.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Self, cast

import apsw

from sofs.errors import InvariantViolation, invariant
from sofs.ports.state import Row, Value

CHANGESETS_MERGED: Final = 500  # Changesets applied as one.
_STATEMENTS_CACHED: Final = 512
_IMAGE_BYTES_MAX: Final = 1 << 40  # SQLite's own limit for loaded images is 1 GiB.


class _Transaction(AbstractContextManager[None]):
    """A savepoint; they nest."""

    __slots__ = ("_connection",)

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.__exit__(kind, error, trace)


class ApswState:
    """A StateDatabase. Made by ``create`` with the schema, or empty and then ``load``\\ ed."""

    def __init__(self, schema_sql: Sequence[str] = ()) -> None:
        self._schema = {_name_of(statement): statement for statement in schema_sql}
        self._connection = apsw.Connection(":memory:", statementcachesize=_STATEMENTS_CACHED)
        # Without this every binding of a value that a plan might depend on compiles the statement
        # again: 3 to 20 us for each query with a join, a range or an ORDER BY.
        self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        self._execute = self._connection.execute
        self._session: Any = None

    @classmethod
    def create(cls, schema_sql: Sequence[str] = ()) -> Self:
        """Return a database with the tables of ``schema_sql``, which are part of no changeset."""
        state = cls(schema_sql)
        state._make_missing()
        state._check_tables()
        state._attach()
        return state

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[Row]:
        return cast("Iterator[Row]", self._execute(sql, parameters))

    def one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        cursor = self._execute(sql, parameters)
        row = cursor.fetchone()
        cursor.close()
        return cast("Row | None", row)

    def changes(self) -> int:
        return int(self._connection.total_changes())

    def transaction(self) -> AbstractContextManager[None]:
        return _Transaction(self._connection)

    def take_changeset(self) -> bytes:
        invariant(not self._connection.in_transaction, "a changeset is taken between transactions")
        session = self._session
        if session.is_empty:
            return b""
        changes = cast(bytes, session.changeset())
        session.close()
        self._attach()
        return changes

    def apply_changesets(self, changesets: Sequence[bytes]) -> None:
        invariant(
            self._session is None or self._session.is_empty,
            "own changes are taken before others come",
        )
        if self._session is not None:
            self._session.enabled = False
        try:
            with self._connection:
                for start in range(0, len(changesets), CHANGESETS_MERGED):
                    self._apply(changesets[start : start + CHANGESETS_MERGED])
        finally:
            if self._session is not None:
                self._session.enabled = True

    def _apply(self, part: Sequence[bytes]) -> None:
        changes = [changeset for changeset in part if changeset]
        if not changes:
            return
        try:
            if len(changes) > 1:
                builder: Any = apsw.ChangesetBuilder()  # type: ignore[no-untyped-call]
                for changeset in changes:
                    builder.add(changeset)
                merged = builder.output()
                builder.close()
            else:
                merged = changes[0]
            apsw.Changeset.apply(merged, self._connection, conflict=_conflict)
        except apsw.Error as error:
            raise InvariantViolation(f"a changeset does not apply: {error}") from error

    def serialize(self) -> bytes:
        invariant(not self._connection.in_transaction, "an image is taken between transactions")
        return self._connection.serialize("main")

    def load(self, image: bytes) -> None:
        """Replace everything by ``image``. Changes not taken yet are dropped with the old state.
        Tables of the schema that the image does not have are made: it is of an older version."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._connection.deserialize("main", image)
        limit = ctypes.c_int64(_IMAGE_BYTES_MAX)
        self._connection.file_control("main", apsw.SQLITE_FCNTL_SIZE_LIMIT, ctypes.addressof(limit))
        self._make_missing()
        self._check_tables()
        self._attach()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        self._connection.close()

    def _attach(self) -> None:
        session = self._session = apsw.Session(self._connection, "main")
        session.attach()

    def _make_missing(self) -> None:
        there = {name for (name,) in self._execute("SELECT name FROM main.sqlite_schema")}
        for name, statement in self._schema.items():
            if name not in there:
                self._execute(statement)

    def _check_tables(self) -> None:
        """Every table must be one whose changes a session can capture."""
        tables = [
            name
            for (name,) in self._execute("SELECT name FROM main.sqlite_schema WHERE type='table'")
        ]
        for table in tables:
            invariant(table != "sqlite_sequence", "AUTOINCREMENT is not captured; give out numbers")
            if table.startswith("sqlite_"):
                continue
            keys = [
                (kind, required, at)
                for _, _, kind, required, _, at in self._execute(
                    f'PRAGMA main.table_info("{table}")'
                )
                if at > 0
            ]
            rowid = len(keys) == 1 and str(keys[0][0]).upper() == "INTEGER"
            invariant(
                bool(keys) and (rowid or all(required for _, required, _ in keys)),
                f"table {table} needs an explicit primary key that is NOT NULL",
            )


def without_locks() -> bool:
    """For a process in which one thread runs at a time, before it opens a database: SQLite takes no
    locks, and does not count its memory, for which it takes one at each allocation: a tenth of a
    simulated run. False, and nothing changed, when a database is open already."""
    if apsw.connections():
        return False
    apsw.shutdown()
    try:
        apsw.config(apsw.SQLITE_CONFIG_MULTITHREAD)
        apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, False)
    finally:
        apsw.initialize()
    return True


def _name_of(statement: str) -> str:
    """What a CREATE TABLE or INDEX of a schema makes."""
    words = statement.replace("(", " ").split()
    kind = "TABLE" if "TABLE" in words[:2] else "INDEX"
    return words[words.index(kind) + 1]


def _conflict(reason: int, change: Any) -> int:
    """Stop: the changes are not for this base."""
    return int(apsw.SQLITE_CHANGESET_ABORT)
