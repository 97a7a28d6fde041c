"""A client dies at every single operation of a transaction: it is there whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import apsw
import pytest
from sqlite_double import Client, Volume

from sofs.adapters import sqlite
from sofs.adapters.sqlite_files import JOURNAL_MODES
from sofs.errors import DiskFull

_serial = itertools.count()
ROWS = 40
PATH = "/bank.db"


class Bank:
    """A database on a volume of the double, and clients of it."""

    def __init__(self) -> None:
        self.volume = Volume()
        self.made: list[sqlite.SofsVfs] = []
        self.connections: list[apsw.Connection] = []

    def client(
        self,
        mode: str = "truncate",
        app_instance: bytes = b"",
        extra: str = "",
        atomic: bool = False,
    ) -> tuple[Client, apsw.Connection]:
        client = Client(self.volume)
        name = f"double-{next(_serial)}"
        self.made.append(
            sqlite.register(
                client,  # type: ignore[arg-type]
                name,
                app_instance=app_instance,
                atomic_commits=atomic,
            )
        )
        connection = self.opened(PATH, vfs=name)
        connection.execute(f"PRAGMA cache_size=4; {extra}")
        connection.pragma("journal_mode", mode)
        return client, connection

    def opened(self, path: str, **how: object) -> apsw.Connection:
        connection = apsw.Connection(path, **how)  # type: ignore[arg-type]
        self.connections.append(connection)
        return connection

    def close(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(apsw.Error):  # A dead client's handles.
                connection.close(True)
        for vfs in self.made:
            vfs.unregister()


@pytest.fixture
def bank() -> Iterator[Bank]:
    bank = Bank()
    _, connection = bank.client()
    connection.execute(
        f"CREATE TABLE account(id INTEGER PRIMARY KEY, cents INTEGER, pad BLOB);"
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS})"
        f"INSERT INTO account SELECT i, 100, zeroblob(900) FROM n"
    )
    connection.close()
    yield bank
    bank.close()


def change_all(connection: apsw.Connection) -> None:
    """One transaction over more pages than the cache has, so that it spills."""
    with connection:
        connection.execute("UPDATE account SET cents = cents + 1")
        connection.execute("INSERT INTO account SELECT id+1000, 0, zeroblob(900) FROM account")


def state(connection: apsw.Connection) -> tuple[int, int]:
    assert connection.pragma("integrity_check") == "ok"
    ((total, rows),) = connection.execute("SELECT sum(cents), count(*) FROM account")
    return total, rows


BEFORE = (ROWS * 100, ROWS)
AFTER = (ROWS * 101, 2 * ROWS)


@pytest.mark.parametrize("mode", JOURNAL_MODES)
@pytest.mark.parametrize("synchronous", ["FULL", "OFF"])
@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
def test_a_transaction_is_whole_or_absent_wherever_its_client_dies(
    mode: str, synchronous: str, effect: bool
) -> None:
    outcomes = set()
    for at in range(500):
        bank = Bank()
        _, connection = bank.client()
        connection.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, cents INTEGER, pad BLOB)")
        connection.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS})"
            "INSERT INTO account SELECT i, 100, zeroblob(900) FROM n"
        )
        connection.close()
        client, connection = bank.client(mode, extra=f"PRAGMA synchronous={synchronous}")
        client.die_at, client.die_after_effect = client.changes + at, effect
        acknowledged = False
        try:
            change_all(connection)
            acknowledged = True
        except apsw.Error:
            pass
        survived = not client.dead
        client.bury()
        _, reader = bank.client(mode)
        got = state(reader)
        assert got in (BEFORE, AFTER), f"died at {at} ({client.log[-1]}): {got}"
        assert not acknowledged or got == AFTER, f"a commit was lost at {at} ({client.log[-1]})"
        outcomes.add(got)
        reader.close()
        bank.close()
        if survived:
            break
    assert survived, "the transaction has more operations than were tried"
    assert at > 8
    assert outcomes == {BEFORE, AFTER}


@pytest.mark.parametrize("mode", JOURNAL_MODES)
@pytest.mark.parametrize("synchronous", ["FULL", "OFF"])
@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("big", [False, True], ids=["fits", "spilled"])
def test_a_transaction_in_one_write_is_whole_or_absent_wherever_its_client_dies(
    mode: str, synchronous: str, effect: bool, big: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a journal on the share while it fits into one write, with one from then on."""
    if big:
        monkeypatch.setattr("sofs.adapters.sqlite_files.HELD_BACK_BYTES_MAX", 5 * 4096)
    outcomes = set()
    for at in range(500):
        bank = Bank()
        _, connection = bank.client()
        connection.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, cents INTEGER, pad BLOB)")
        connection.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS})"
            "INSERT INTO account SELECT i, 100, zeroblob(900) FROM n"
        )
        connection.close()
        client, connection = bank.client(
            mode, extra=f"PRAGMA synchronous={synchronous}", atomic=True
        )
        client.log.clear()
        client.die_at, client.die_after_effect = client.changes + at, effect
        acknowledged = False
        try:
            change_all(connection)
            acknowledged = True
        except apsw.Error:
            pass
        survived = not client.dead
        touched = [name for _, name in client.log if name == f"{PATH}-journal"]
        client.bury()
        _, reader = bank.client(mode)
        got = state(reader)
        assert got in (BEFORE, AFTER), f"died at {at} ({client.log[-1]}): {got}"
        assert not acknowledged or got == AFTER, f"a commit was lost at {at} ({client.log[-1]})"
        outcomes.add(got)
        reader.close()
        bank.close()
        if survived:
            break
    assert survived, "the transaction has more operations than were tried"
    assert bool(touched) == big, "what fits into one write needs no journal on the share"
    assert outcomes == ({BEFORE, AFTER} if big or not effect else {AFTER})
    assert at > 4 if big else at == 1, "one write is the whole transaction"


def test_a_commit_that_is_refused_leaves_nothing_and_the_connection_goes_on(bank: Bank) -> None:
    client, connection = bank.client(atomic=True)
    refusals = [DiskFull("full")]
    real = client.changing

    def changing(what: str, name: str) -> bool:
        if what == "write" and refusals:
            raise refusals.pop()
        return real(what, name)

    client.changing = changing  # type: ignore[method-assign]
    with pytest.raises(apsw.FullError):
        change_all(connection)
    assert state(connection) == BEFORE
    change_all(connection)
    assert state(connection) == AFTER
    assert f"{PATH}-journal" not in [name for _, name in client.log], client.log


@pytest.mark.parametrize("mode", JOURNAL_MODES)
def test_a_rollback_and_a_savepoint_read_the_journal_that_is_held_back(
    bank: Bank, mode: str
) -> None:
    client, connection = bank.client(mode, atomic=True)
    client.log.clear()
    connection.execute("BEGIN IMMEDIATE; UPDATE account SET cents = 0; DELETE FROM account")
    connection.execute("ROLLBACK")
    assert state(connection) == BEFORE
    with connection:
        connection.execute("UPDATE account SET cents = cents + 1")
        connection.execute("SAVEPOINT s; UPDATE account SET cents = 0, pad = zeroblob(2000)")
        assert connection.execute("SELECT sum(cents) FROM account").get == 0
        connection.execute("ROLLBACK TO s; RELEASE s")
    assert state(connection) == (ROWS * 101, ROWS)
    with connection:
        connection.execute("DELETE FROM account WHERE id > 5")
    connection.execute("VACUUM")
    assert state(connection) == (505, 5)
    _, reader = bank.client(mode)
    assert state(reader) == (505, 5)
    assert f"{PATH}-journal" not in [name for _, name in client.log], client.log


@pytest.mark.parametrize("page_bytes", [512, 1024, 8192, 65536])
def test_databases_of_any_page_size_change_in_one_write_or_by_a_journal(page_bytes: int) -> None:
    bank = Bank()
    client, connection = bank.client(extra=f"PRAGMA page_size={page_bytes}", atomic=True)
    connection.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, cents INTEGER, pad BLOB)")
    connection.executemany(
        "INSERT INTO account VALUES(?, 100, zeroblob(900))", [(n,) for n in range(ROWS)]
    )
    client.log.clear()
    change_all(connection)
    spilled = any(name == f"{PATH}-journal" for _, name in client.log)
    assert not spilled or page_bytes < 4096, "whole blocks need no journal on the share"
    _, reader = bank.client()
    assert reader.pragma("page_size") == page_bytes
    assert reader.pragma("integrity_check") == "ok"
    bank.close()


def test_an_older_instance_cannot_commit_by_one_write_after_a_newer_one_took_its_file(
    bank: Bank,
) -> None:
    me = b"application-0001"
    _, connection = bank.client(app_instance=me, atomic=True)
    connection.execute("BEGIN IMMEDIATE; UPDATE account SET cents = cents + 1 WHERE id = 1")
    connection.cache_flush()
    _, newer = bank.client(app_instance=me, atomic=True)
    assert state(newer) == BEFORE
    with pytest.raises(apsw.Error):
        connection.execute("COMMIT")
    assert state(newer) == BEFORE


def test_a_transaction_costs_one_journal_write_however_many_pages_it_changes(bank: Bank) -> None:
    client, connection = bank.client()
    connection.execute("PRAGMA cache_size=-4000")
    connection.execute("SELECT count(*) FROM account").fetchall()
    client.log.clear()
    with connection:
        connection.execute("UPDATE account SET cents = cents + 1")
    writes = [name for what, name in client.log if what == "write"]
    assert writes.count(f"{PATH}-journal") == 1
    assert writes[0] == f"{PATH}-journal", "no page may be written before the journal"
    assert writes.count(PATH) <= 2, "neighbouring pages are written together"


@pytest.mark.parametrize("mode", JOURNAL_MODES)
@pytest.mark.parametrize("opened", ["before the pages are written", "before the commit"])
def test_an_older_instance_cannot_commit_after_a_newer_one_took_its_files(
    bank: Bank, mode: str, opened: str
) -> None:
    me = b"application-0001"
    old, connection = bank.client(mode, me)
    takeover: list[apsw.Connection] = []

    def newer() -> None:
        takeover.append(bank.client(mode, me)[1])
        assert state(takeover[0]) == BEFORE

    if opened == "before the pages are written":
        connection.execute("BEGIN IMMEDIATE; UPDATE account SET cents = cents + 1 WHERE id = 1")
        newer()
    else:
        real = old.changing
        commits = {"truncate": "truncate", "delete": "delete", "persist": "write"}

        def changing(what: str, name: str) -> bool:
            written = ("write", PATH) in old.log
            if not takeover and written and (what, name) == (commits[mode], f"{PATH}-journal"):
                newer()
                old_file = next(f for f in connection_files if f.path == name)
                old_file.usable()
            return real(what, name)

        old.log.clear()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE account SET cents = cents + 1 WHERE id = 1")
        connection_files = list(old.open_files)
        old.changing = changing  # type: ignore[method-assign]
    with pytest.raises(apsw.Error):
        connection.execute("COMMIT")
    assert state(takeover[0]) == BEFORE
    takeover[0].execute("UPDATE account SET cents = cents + 7 WHERE id = 2")
    assert state(takeover[0]) == (BEFORE[0] + 7, BEFORE[1])


@pytest.mark.parametrize("mode", ["WAL", "OFF", "MEMORY"])
def test_a_journal_mode_that_breaks_a_promise_is_refused_with_a_typed_error(
    bank: Bank, mode: str
) -> None:
    from sofs.errors import NotSupported

    _, connection = bank.client()
    with pytest.raises(NotSupported, match=mode):
        connection.pragma("journal_mode", mode)
    assert connection.pragma("journal_mode") == "truncate"
    with pytest.raises(NotSupported):
        sqlite.connect(Client(bank.volume), PATH, journal_mode=mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["OFF", "MEMORY"])
def test_an_attached_database_cannot_slip_into_a_refused_journal_mode(
    bank: Bank, mode: str
) -> None:
    client = Client(bank.volume)
    bank.made.append(sqlite.register(client, "attached"))  # type: ignore[arg-type]
    connection = bank.opened(":memory:", flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    connection.execute(f"ATTACH 'file:{PATH}?vfs=attached' AS bank")
    connection.pragma("journal_mode", mode)  # Goes to the database in memory, and on to all.
    with pytest.raises(Exception, match="without a journal"):
        connection.execute("UPDATE bank.account SET cents = 0")
    connection.close()
    _, reader = bank.client()
    assert state(reader) == BEFORE


def test_wal_works_in_exclusive_mode_and_keeps_everybody_else_out(bank: Bank) -> None:
    client, connection = bank.client()
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    assert connection.pragma("journal_mode", "wal") == "wal"
    connection.execute("UPDATE account SET cents = cents + 1")
    other = Client(bank.volume)
    with pytest.raises((apsw.BusyError, apsw.CantOpenError)):
        sqlite.connect(other, PATH, busy_timeout_ms=0)  # type: ignore[arg-type]
    client.bury()  # It died with all its changes in the log.
    with pytest.raises((apsw.CantOpenError, Exception)):
        sqlite.connect(other, PATH, busy_timeout_ms=0)  # type: ignore[arg-type]
    heir = Client(bank.volume)
    bank.made.append(sqlite.register(heir, "heir"))  # type: ignore[arg-type]
    again = bank.opened(PATH, vfs="heir")
    again.execute("PRAGMA locking_mode=EXCLUSIVE")
    assert state(again) == (ROWS * 101, ROWS)
    assert again.pragma("journal_mode", "delete") == "delete"
    again.close()
    _, reader = bank.client()
    assert state(reader) == (ROWS * 101, ROWS)


@pytest.mark.parametrize("option", ["nolock", "immutable"])
def test_uri_options_that_skip_locks_are_refused(bank: Bank, option: str) -> None:
    client = Client(bank.volume)
    bank.made.append(sqlite.register(client, f"uri-{option}"))  # type: ignore[arg-type]
    with pytest.raises(Exception, match=option):
        bank.opened(
            f"file:{PATH}?vfs=uri-{option}&{option}=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        ).execute("SELECT * FROM account").fetchall()


@pytest.mark.parametrize("atomic", [False, True], ids=["journal", "atomic"])
def test_two_attached_databases_change_together_or_not_at_all_wherever_the_client_dies(
    atomic: bool,
) -> None:
    outcomes = set()
    for at in range(500):
        bank = Bank()
        _, first = bank.client("delete")
        first.execute("CREATE TABLE account(cents); INSERT INTO account VALUES(100)")
        first.execute("ATTACH '/other.db' AS other")
        first.execute("CREATE TABLE other.account(cents); INSERT INTO other.account VALUES(100)")
        first.close()
        client, connection = bank.client("delete", atomic=atomic)
        connection.execute("ATTACH '/other.db' AS other")
        connection.execute("SELECT * FROM main.account, other.account").fetchall()
        client.die_at = client.changes + at
        with contextlib.suppress(apsw.Error):
            connection.execute(
                "BEGIN; UPDATE main.account SET cents=99; UPDATE other.account SET cents=101;COMMIT"
            )
        survived = not client.dead
        client.bury()
        _, reader = bank.client("delete")
        reader.execute("ATTACH '/other.db' AS other")
        ((a, b),) = reader.execute(
            "SELECT main.account.cents, other.account.cents FROM main.account, other.account"
        )
        assert a + b == 200, f"half of it at {at}: {a} and {b} ({client.log[-1]})"
        outcomes.add(a)
        reader.close()
        bank.close()
        if survived:
            break
    assert survived
    assert outcomes == {99, 100}


def test_temporary_files_never_reach_the_share(bank: Bank) -> None:
    client, connection = bank.client()
    client.log.clear()
    connection.execute("PRAGMA temp_store=FILE; PRAGMA cache_size=2")
    connection.execute("CREATE TEMP TABLE big AS SELECT a.id, b.pad FROM account a, account b")
    connection.execute("SELECT id, pad FROM big ORDER BY pad, id DESC").fetchall()
    assert {name for _, name in client.log} <= {PATH, f"{PATH}-journal"}
    assert not [name for what, name in client.log if what == "write"]


@pytest.mark.parametrize("mode", JOURNAL_MODES)
def test_pages_far_apart_change_together_or_not_at_all(bank: Bank, mode: str) -> None:
    client, connection = bank.client(mode, atomic=True)
    client.die_at, survived = client.changes, False
    try:
        with connection:
            connection.execute("UPDATE account SET cents = cents - 5 WHERE id = 1")
            connection.execute(f"UPDATE account SET cents = cents + 5 WHERE id = {ROWS}")
        survived = True
    except apsw.Error:
        pass
    assert not survived
    client.bury()
    assert state(bank.client(mode)[1]) == BEFORE
    client, connection = bank.client(mode, atomic=True)
    client.log.clear()
    with connection:
        connection.execute("UPDATE account SET cents = cents - 5 WHERE id = 1")
        connection.execute(f"UPDATE account SET cents = cents + 5 WHERE id = {ROWS}")
    assert client.log == [("write", PATH)], "one atomic write is the whole transaction"
    assert state(bank.client(mode)[1]) == BEFORE
