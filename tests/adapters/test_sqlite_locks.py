"""The lock ladder against the rules of share locks, and against stock SQLite."""

from __future__ import annotations

import itertools
import random
import sqlite3
from pathlib import Path

import apsw
import pytest
from sqlite_double import Client, DoubleFile, Volume

from sofs.adapters import sqlite
from sofs.adapters.sqlite_locks import (
    EXCLUSIVE,
    NONE,
    PENDING,
    RESERVED,
    SHARED,
    LockLadder,
)
from sofs.client.file import LockedView
from sofs.errors import LockNotGranted, StoreUnknown, Unavailable


def ladders(count: int) -> list[LockLadder]:
    volume = Volume()
    return [LockLadder(Client(volume).open("/db", "a+b")) for _ in range(count)]


def refused(ladder: LockLadder, level: int) -> bool:
    try:
        ladder.climb(level)
    except LockNotGranted:
        return True
    return False


def test_a_reader_and_one_reserved_writer_live_together_until_the_writer_wants_all() -> None:
    reader, writer, third = ladders(3)
    reader.climb(SHARED)
    writer.climb(SHARED)
    writer.climb(RESERVED)
    assert reader.is_reserved()
    third.climb(SHARED)  # A reader may still enter.
    assert refused(third, RESERVED)
    third.descend(NONE)
    assert refused(writer, EXCLUSIVE)
    assert writer.level == PENDING
    assert refused(third, SHARED)  # Now nobody enters any more.
    reader.descend(NONE)
    writer.climb(EXCLUSIVE)
    assert writer.level == EXCLUSIVE
    assert refused(reader, SHARED)
    writer.descend(SHARED)
    reader.climb(SHARED)
    assert not reader.is_reserved()


def test_of_two_readers_that_find_a_hot_journal_one_at_most_gets_in() -> None:
    first, second = ladders(2)
    first.climb(SHARED)
    second.climb(SHARED)
    assert refused(first, EXCLUSIVE)  # SHARED to EXCLUSIVE without RESERVED.
    assert first.level == PENDING
    assert refused(second, EXCLUSIVE)
    assert second.level == SHARED
    second.descend(NONE)
    first.climb(EXCLUSIVE)
    assert first.level == EXCLUSIVE


def test_who_was_refused_as_writer_comes_back_as_one() -> None:
    writer, loser, late = ladders(3)
    for ladder in (writer, loser):
        ladder.climb(SHARED)
    writer.climb(RESERVED)
    assert refused(loser, RESERVED)
    loser.descend(NONE)
    loser.climb(SHARED)  # A writer is at work: he may read, and is refused again.
    assert refused(loser, RESERVED)
    loser.descend(NONE)
    writer.descend(NONE)
    loser.climb(SHARED)
    late.climb(SHARED)
    assert refused(late, RESERVED), "the one who was refused before holds it already"
    assert loser.level == SHARED
    loser.climb(RESERVED)
    assert loser.level == RESERVED
    late.descend(NONE)
    loser.climb(EXCLUSIVE)
    loser.descend(NONE)
    assert not refused(late, SHARED)
    assert not refused(late, RESERVED)


def test_a_lock_held_in_advance_does_not_hide_a_hot_journal() -> None:
    writer, loser = ladders(2)
    for ladder in (writer, loser):
        ladder.climb(SHARED)
    writer.climb(RESERVED)
    assert refused(loser, RESERVED)
    loser.descend(NONE)
    writer.descend(NONE)
    loser.climb(SHARED)
    assert writer.is_reserved(), "others see that somebody may write"
    assert not loser.is_reserved(), "SQLite would take a hot journal for that of a living writer"
    assert not loser.may_write
    loser.climb(EXCLUSIVE)  # To roll it back.
    loser.descend(SHARED)
    assert not writer.is_reserved()


@pytest.mark.parametrize("seed", range(20))
def test_no_order_of_climbs_and_descents_breaks_the_rules_of_the_levels(seed: int) -> None:
    chance = random.Random(seed)
    crowd = ladders(4)
    for _ in range(400):
        ladder = chance.choice(crowd)
        before = [each.level for each in crowd]
        if chance.random() < 0.6:
            wanted = min(chance.choice((SHARED, RESERVED, EXCLUSIVE)), ladder.level + 3)
            if wanted != SHARED and ladder.level == NONE:
                wanted = SHARED
            got_in = not refused(ladder, wanted)
            others = [each.level for each in crowd if each is not ladder]
            if wanted == SHARED and ladder.level == SHARED and before[crowd.index(ladder)] == NONE:
                assert max(others) < PENDING
            if got_in:
                assert ladder.level >= wanted
        else:
            ladder.descend(chance.choice((NONE, SHARED)) if ladder.level else NONE)
        levels = sorted(each.level for each in crowd)
        assert levels[-2] < RESERVED or levels[-1] < PENDING or levels[-2] == RESERVED
        assert sum(each.level == RESERVED for each in crowd) <= 1
        assert sum(each.level >= PENDING for each in crowd) <= 1
        if levels[-1] == EXCLUSIVE:
            assert levels[-2] == NONE
    for ladder in crowd:
        ladder.descend(NONE)
    assert not any(each.is_reserved() for each in crowd)


def test_a_lock_whose_outcome_is_unknown_stops_every_later_use() -> None:
    client = Client(Volume())
    ladder = LockLadder(client.open("/db", "a+b"))
    client.dead = True
    with pytest.raises(Unavailable):
        ladder.is_reserved()
    client.dead = False
    ladder.climb(SHARED)  # A probe that failed leaves nothing behind.

    class Lost(DoubleFile):
        def change_locks(self, **_: object) -> LockedView:
            raise Unavailable("no answer")

    file = client.open("/db", "a+b")
    file.__class__ = Lost
    ladder = LockLadder(file)
    with pytest.raises(Unavailable):
        ladder.climb(SHARED)
    with pytest.raises(StoreUnknown, match="open it again"):
        ladder.climb(SHARED)


# Each step: who does what. Both engines must say ok or busy alike, at every step.
SCRIPTS = {
    "readers do not block a writer before its commit": [
        ("a", "BEGIN; SELECT * FROM t"),
        ("b", "BEGIN IMMEDIATE; INSERT INTO t VALUES(1)"),
        ("c", "SELECT * FROM t"),
        ("b", "COMMIT"),
        ("c", "SELECT * FROM t"),
        ("a", "COMMIT"),
        ("b", "COMMIT"),
        ("c", "SELECT * FROM t"),
    ],
    "one writer at a time": [
        ("a", "BEGIN IMMEDIATE"),
        ("b", "BEGIN IMMEDIATE"),
        ("a", "ROLLBACK"),
        ("b", "BEGIN IMMEDIATE"),
        ("b", "COMMIT"),
    ],
    "two readers that both want to write do not wait for each other for ever": [
        ("a", "BEGIN; SELECT * FROM t"),
        ("b", "BEGIN; SELECT * FROM t"),
        ("a", "INSERT INTO t VALUES(1)"),
        ("b", "INSERT INTO t VALUES(2)"),
        ("a", "COMMIT"),
        ("b", "ROLLBACK"),
        ("a", "COMMIT"),
    ],
    "exclusive keeps readers out": [
        ("a", "BEGIN EXCLUSIVE"),
        ("b", "SELECT * FROM t"),
        ("b", "BEGIN IMMEDIATE"),
        ("a", "COMMIT"),
        ("b", "SELECT * FROM t"),
    ],
    "a reader keeps exclusive out": [
        ("a", "BEGIN; SELECT * FROM t"),
        ("b", "BEGIN EXCLUSIVE"),
        ("a", "COMMIT"),
        ("b", "BEGIN EXCLUSIVE"),
        ("b", "ROLLBACK"),
    ],
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("mode", ["delete", "truncate", "persist"])
def test_connections_get_busy_exactly_where_stock_sqlite_says_busy(
    script: str, mode: str, tmp_path: Path
) -> None:
    volume, serial = Volume(), itertools.count()
    vfs = [sqlite.register(Client(volume), f"locks-{next(serial)}") for _ in "abc"]  # type: ignore[arg-type]
    try:
        ours = {n: apsw.Connection("/db", vfs=v.vfs_name) for n, v in zip("abc", vfs, strict=True)}
        stock = {
            n: sqlite3.connect(tmp_path / "db", timeout=0, isolation_level=None) for n in "abc"
        }
        for engine in (ours, stock):
            for each in engine.values():
                each.execute(f"PRAGMA journal_mode={mode}").fetchall()
            engine["a"].execute("CREATE TABLE t(x)")
            for each in engine.values():
                each.execute("SELECT * FROM t").fetchall()
        for step, (who, sql) in enumerate(SCRIPTS[script]):
            got, wanted = _outcome(ours[who], sql), _outcome(stock[who], sql)
            assert got == wanted, f"step {step}: {who}: {sql}"
        for each in (*ours.values(), *stock.values()):
            each.close()
    finally:
        for each_vfs in vfs:
            each_vfs.unregister()


def _outcome(connection: apsw.Connection | sqlite3.Connection, sql: str) -> str:
    try:
        for statement in sql.split(";"):
            connection.execute(statement).fetchall()
    except apsw.BusyError:
        return "busy"
    except sqlite3.OperationalError as error:
        return "busy" if "locked" in str(error) else str(error)
    except apsw.SQLError as error:
        return str(error)
    return "ok"
