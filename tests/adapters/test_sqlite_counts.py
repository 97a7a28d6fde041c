"""What a SQLite transaction costs, counted: requests of the client, requests to the authority,
records. Real client, node and authority in one process; timings are never looked at."""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from node_world import World

import sofs
from sofs.adapters import sqlite
from sofs.adapters.sqlite_files import JournalFile
from sofs.client.background import loop_thread
from sofs.client.sync import Share
from sofs.ports.stream import Envelope
from sofs.sim.local_transport import LocalStream

_serial = itertools.count()
TIMED = {"Ping", "CommitRecords", "Hello", "Follow", "Followed", "GetInterfaceList", "ReadDir"}
ROWS = 200


class Counted:
    """A volume with two nodes on the client's loop thread, and what was asked on its streams."""

    def __init__(self, root: Path) -> None:
        self.loop = loop_thread()
        self.world: World = self.loop.run(self._start(root))
        self.shares: list[Share] = []
        self.connections: list[apsw.Connection] = []
        self.asked: collections.Counter[str] = collections.Counter()

    @staticmethod
    async def _start(root: Path) -> World:
        w = World(root)
        await w.authority()
        await w.node("a", address="127.0.0.1:7001")
        await w.node("b", address="127.0.0.1:7002")
        return w

    def share(self, node: str = "a") -> Share:
        endpoint = self.world.nodes[node].endpoint
        share = sofs.connect(
            f"sofs://{endpoint}/vol",
            transport=self.world.hub.transport(),
            witness=False,
            warm=False,
        )
        self.shares.append(share)
        return share

    def open(self, share: Share, path: str = "/bank.db", **how: Any) -> apsw.Connection:
        atomic = how.pop("atomic_commits", True)
        mode = how.pop("journal_mode", "truncate")
        name = f"counted-{next(_serial)}"
        sqlite.register(share, name, atomic_commits=atomic)
        connection = apsw.Connection(path, vfs=name)
        connection.transaction_mode = "IMMEDIATE"
        connection.pragma("journal_mode", mode)
        self.connections.append(connection)
        return connection

    @contextmanager
    def counting(self) -> Iterator[collections.Counter[str]]:
        """Requests "client Kind" and "node Kind" of the block."""
        self.asked.clear()
        yield self.asked
        self.loop.run(_nothing())

    def records(self) -> int:
        """Data records of node a, and with them its syncs at most."""
        node = self.world.nodes["a"].node
        assert node is not None
        return node.commits.published_sequence

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        for share in self.shares:
            share.close()
        self.loop.run(self.world.close())


async def _nothing() -> None:
    """Whatever was posted before has been done."""


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    made = Counted(tmp_path)
    real = LocalStream.send

    async def send(self: LocalStream, envelopes: Sequence[Envelope]) -> None:
        for each in envelopes:
            kind = type(each.body).__name__
            if not each.is_reply and kind not in TIMED:
                to_node = self.server.startswith("127.") and self.peer == self.server
                made.asked[f"{'client' if to_node else 'node'} {kind}"] += 1
        await real(self, envelopes)

    monkeypatch.setattr(LocalStream, "send", send)
    yield made
    made.close()


def make_bank(connection: apsw.Connection) -> None:
    with connection:
        connection.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, cents INTEGER, pad BLOB)")
        connection.executemany(
            "INSERT INTO account VALUES(?, 1000, zeroblob(300))", [(n,) for n in range(ROWS)]
        )


def transfer(connection: apsw.Connection) -> None:
    with connection:
        connection.execute("UPDATE account SET cents = cents - 5 WHERE id = 1")
        connection.execute("UPDATE account SET cents = cents + 5 WHERE id = ?", (ROWS - 1,))


@pytest.mark.parametrize("mode", sqlite.JOURNAL_MODES)
def test_a_transaction_is_one_write_and_its_lock_transitions(counted: Counted, mode: str) -> None:
    connection = counted.open(counted.share(), journal_mode=mode)
    make_bank(connection)
    transfer(connection)
    before = counted.records()
    with counted.counting() as asked:
        for _ in range(10):
            transfer(connection)
    assert asked == {"client ChangeLocks": 50, "client WriteParts": 10, "node ChangeLocks": 50}
    assert counted.records() == before + 10


def test_reading_what_is_cached_costs_the_lock_and_nothing_else(counted: Counted) -> None:
    connection = counted.open(counted.share())
    make_bank(connection)
    connection.execute("SELECT sum(cents) FROM account").fetchall()
    with counted.counting() as asked:
        for _ in range(10):
            connection.execute("SELECT sum(cents) FROM account").fetchall()
    assert asked == {"client ChangeLocks": 20, "node ChangeLocks": 20}


def test_connections_through_one_node_read_only_the_pages_that_the_other_changed(
    counted: Counted,
) -> None:
    first = counted.open(counted.share())
    make_bank(first)
    second = counted.open(counted.share())
    for connection in (first, second, first, second):
        transfer(connection)
    with counted.counting() as asked:
        transfer(first)
        transfer(second)
    pages = asked.pop("client Read")
    assert pages <= 8, "the two leaves, and what leads to them, each"
    assert asked == {"client ChangeLocks": 10, "client WriteParts": 2, "node ChangeLocks": 10}


def test_a_larger_transaction_costs_its_journal_once(counted: Counted) -> None:
    connection = counted.open(counted.share())
    make_bank(connection)
    connection.execute("CREATE TABLE blob(data)")
    with counted.counting() as asked, connection:
        connection.execute("INSERT INTO blob VALUES(zeroblob(3000000))")
        connection.execute("UPDATE account SET cents = cents + 1")
    assert asked["client Open"] == asked["client Close"] == 1
    assert asked["client Truncate"] == 1
    assert asked["client Write"] <= 64, "not one a page, of which there are 732"
    connection.execute("PRAGMA cache_size=-8000")
    assert connection.pragma("integrity_check") == "ok"


def test_with_journals_on_the_share_a_transaction_opens_writes_cuts_and_closes_one(
    counted: Counted,
) -> None:
    connection = counted.open(counted.share(), atomic_commits=False)
    make_bank(connection)
    transfer(connection)
    with counted.counting() as asked:
        transfer(connection)
    assert {kind: n for kind, n in asked.items() if kind.startswith("client")} == {
        "client ChangeLocks": 5,
        "client Stat": 1,  # Of the empty journal: the node that cut it may still write to it.
        "client Open": 1,
        "client Write": 4,
        "client Truncate": 1,
        "client Close": 1,
    }


def test_the_journal_of_a_dead_client_is_seen_although_locks_bring_word_of_none(
    counted: Counted,
) -> None:
    share = counted.share()
    connection = counted.open(share)
    make_bank(connection)
    other = counted.open(counted.share("b"))
    total = other.execute("SELECT sum(cents) FROM account").get
    dying = counted.open(share, atomic_commits=False)
    counted.connections.remove(dying)
    dying.execute("BEGIN IMMEDIATE; UPDATE account SET cents = 0")
    dying.cache_flush()
    vfs = sqlite._registry[dying.open_vfs]
    [database] = vfs._databases["/bank.db"]
    assert isinstance(database.journal, JournalFile)
    for file in (database.journal.file, database.file):
        file.close()  # As the servers do when a dead client's handles expire.
    assert share.stat("/bank.db-journal").size > 0, "there is a hot journal"
    assert other.execute("SELECT sum(cents) FROM account").get == total
    assert connection.execute("SELECT sum(cents) FROM account").get == total
    with contextlib.suppress(apsw.Error):
        dying.close(True)
