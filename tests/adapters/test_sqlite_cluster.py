"""SQLite on a real cluster of processes: several nodes, kills of nodes, kills of a client."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

import sofs
from sofs.adapters import sqlite
from sofs.testing import LocalCluster

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
ACCOUNTS = 50
CENTS = 1000
_serial = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("sqlite") / "root", witness=False) as running:
        yield running


class Clients:
    """Shares through chosen nodes, closed at the end of a test."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.shares: list[sofs.Share] = []
        self.connections: list[apsw.Connection] = []

    def share(self, node: int) -> sofs.Share:
        self.cluster.wait_ready()
        url = self.cluster.url_from(f"node-{node}")
        self.shares.append(sofs.connect(url, credential=self.cluster.credential))
        return self.shares[-1]

    def open(self, path: str, node: int, **how: object) -> apsw.Connection:
        connection = sqlite.connect(self.share(node), path, **how)  # type: ignore[arg-type]
        connection.transaction_mode = "IMMEDIATE"
        self.connections.append(connection)
        return connection

    def close(self) -> None:
        for connection in self.connections:
            connection.close(True)
        for share in self.shares:
            share.close()


@pytest.fixture
def clients(cluster: LocalCluster) -> Iterator[Clients]:
    made = Clients(cluster)
    yield made
    made.close()


def make_bank(connection: apsw.Connection) -> None:
    with connection:
        connection.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, cents INTEGER, pad BLOB)")
        connection.executemany(
            "INSERT INTO account VALUES(?, ?, zeroblob(300))",
            [(n, CENTS) for n in range(ACCOUNTS)],
        )


def transfer(connection: apsw.Connection, chance: random.Random) -> None:
    payer, payee = chance.sample(range(ACCOUNTS), 2)
    with connection:
        connection.execute("UPDATE account SET cents = cents - 5 WHERE id = ?", (payer,))
        connection.execute("UPDATE account SET cents = cents + 5 WHERE id = ?", (payee,))


def check(connection: apsw.Connection) -> None:
    assert connection.pragma("integrity_check") == "ok"
    ((total, rows),) = connection.execute("SELECT sum(cents), count(*) FROM account")
    assert (total, rows) == (ACCOUNTS * CENTS, ACCOUNTS)


def test_transfers_of_clients_on_two_nodes_keep_the_sum(clients: Clients) -> None:
    path = f"/bank-{next(_serial)}.db"
    first = clients.open(path, 1)
    make_bank(first)
    second = clients.open(path, 2)
    errors: list[BaseException] = []

    def work(connection: apsw.Connection, seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(12):
                transfer(connection, chance)
        except BaseException as error:
            errors.append(error)

    began = time.perf_counter()
    threads = [
        threading.Thread(target=work, args=(connection, seed))
        for seed, connection in enumerate((first, second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    print(f"\nSQLite: {24 / took:.1f} transactions/s by two clients that race on two nodes")
    assert not errors
    check(first)
    check(second)


def test_one_client_alone_measured(clients: Clients) -> None:
    for mode in sqlite.JOURNAL_MODES:
        connection = clients.open(f"/alone-{mode}.db", 1, journal_mode=mode)
        make_bank(connection)
        chance = random.Random(1)
        began = time.perf_counter()
        for _ in range(15):
            transfer(connection, chance)
        took = time.perf_counter() - began
        print(f"\nSQLite: {15 / took:.1f} transactions/s by one client, journal_mode={mode}")
        check(connection)


def test_a_reader_on_another_node_sees_what_was_committed_and_nothing_else(
    clients: Clients,
) -> None:
    path = f"/seen-{next(_serial)}.db"
    writer = clients.open(path, 1)
    make_bank(writer)
    reader = clients.open(path, 3)
    writer.execute("BEGIN IMMEDIATE; UPDATE account SET cents = 0 WHERE id = 0")
    check(reader)
    writer.execute("COMMIT")
    assert reader.execute("SELECT cents FROM account WHERE id = 0").get == 0


def test_the_serving_node_dies_inside_transactions_and_nothing_is_lost(
    clients: Clients, cluster: LocalCluster
) -> None:
    path = f"/killed-{next(_serial)}.db"
    connection = clients.open(path, 1)
    share = clients.shares[-1]
    make_bank(connection)
    connection.execute("CREATE TABLE done(n INTEGER PRIMARY KEY)")
    chance = random.Random(7)
    acknowledged = 0
    for n in range(6):
        cluster.wait_ready()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO done VALUES(?)", (n,))
        payer, payee = chance.sample(range(ACCOUNTS), 2)
        connection.execute("UPDATE account SET cents = cents - 5 WHERE id = ?", (payer,))
        if n % 3 == 1:
            connection.cache_flush()  # Journal and pages are out; the commit is not.
        node = cluster.node_at(share.facts().address)
        if n % 3 == 2:
            killer = threading.Timer(0.01, cluster.kill, args=(node,))
            killer.start()  # Somewhere inside the rest.
        else:
            killer = None
            cluster.kill(node)
        connection.execute("UPDATE account SET cents = cents + 5 WHERE id = ?", (payee,))
        connection.execute("COMMIT")
        acknowledged += 1
        if killer is not None:
            killer.join()
    assert connection.execute("SELECT count(*) FROM done").get == acknowledged
    other = clients.open(path, 2)
    check(other)
    assert other.execute("SELECT count(*) FROM done").get == acknowledged


def die_inside(
    cluster: LocalCluster, path: str, instance: str = "", handle_timeout_ms: int = 0
) -> None:
    """Start a client on node 2 and kill it when its uncommitted pages are in the file."""
    cluster.wait_ready()
    program = str(Path(__file__).with_name("sqlite_client.py"))
    url = cluster.url_from("node-2")
    arguments = [url, cluster.credential, path, instance, str(handle_timeout_ms)]
    with subprocess.Popen(
        [sys.executable, program, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "inside\n"
        finally:
            process.kill()


def test_a_client_killed_inside_a_transaction_comes_back_at_once_as_the_same_instance(
    clients: Clients, cluster: LocalCluster
) -> None:
    path = f"/crash-{next(_serial)}.db"
    setup = clients.open(path, 1)
    make_bank(setup)
    setup.close()
    die_inside(cluster, path, "teller-7")
    assert clients.shares[0].stat(f"{path}-journal").size > 0, "there is a hot journal"
    again = clients.open(path, 3, app_instance="teller-7", busy_timeout_ms=0)
    check(again)
    transfer(again, random.Random(3))
    check(again)


def test_others_are_busy_until_a_dead_clients_handles_expire_and_then_roll_it_back(
    clients: Clients, cluster: LocalCluster
) -> None:
    path = f"/expire-{next(_serial)}.db"
    other = clients.open(path, 1, busy_timeout_ms=0)
    make_bank(other)
    die_inside(cluster, path, handle_timeout_ms=2500)
    with pytest.raises(apsw.BusyError):
        other.execute("SELECT sum(cents) FROM account").fetchall()
    other.set_busy_timeout(30_000)
    check(other)


def test_vacuum_attach_and_large_values_work_across_nodes(clients: Clients) -> None:
    number = next(_serial)
    first = clients.open(f"/large-{number}.db", 1)
    make_bank(first)
    first.execute("CREATE TABLE blob(data); INSERT INTO blob VALUES(randomblob(3000000))")
    first.execute(f"ATTACH '/side-{number}.db' AS side")
    first.execute("CREATE TABLE side.copy AS SELECT * FROM account")
    with first:
        first.execute("DELETE FROM blob")
        first.execute("UPDATE side.copy SET cents = 0")
    first.execute("DETACH side")
    first.execute("VACUUM")
    second = clients.open(f"/large-{number}.db", 2)
    check(second)
    assert second.pragma("page_count") < 50
    side = clients.open(f"/side-{number}.db", 3)
    assert side.execute("SELECT sum(cents) FROM copy").get == 0
