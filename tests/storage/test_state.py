"""The state database: changesets, merging, conflicts, images."""

from __future__ import annotations

import pytest

from sofs.errors import InvariantViolation
from sofs.storage import ApswState
from sofs.storage import state as state_module

SCHEMA = (
    "CREATE TABLE inode (ino INTEGER PRIMARY KEY, size INTEGER NOT NULL, name TEXT)",
    "CREATE TABLE extent (ino INTEGER NOT NULL, page INTEGER NOT NULL, at BLOB, "
    "PRIMARY KEY (ino, page)) WITHOUT ROWID",
    "CREATE INDEX by_name ON inode (name)",
)


def state() -> ApswState:
    return ApswState.create(SCHEMA)


def rows(db: ApswState) -> tuple[list[object], list[object]]:
    return (
        list(db.execute("SELECT * FROM inode ORDER BY ino")),
        list(db.execute("SELECT * FROM extent ORDER BY ino, page")),
    )


def test_changes_of_transactions_make_the_same_rows_elsewhere() -> None:
    one, two = state(), state()
    with one.transaction():
        one.execute("INSERT INTO inode VALUES (?, ?, ?)", (1, 10, "a"))
        one.execute("INSERT INTO extent VALUES (1, 0, x'00ff')")
    first = one.take_changeset()
    with one.transaction():
        one.execute("UPDATE inode SET size = 20 WHERE ino = 1")
        one.execute("DELETE FROM extent")
        one.execute("INSERT INTO inode VALUES (2, 0, NULL)")
    second = one.take_changeset()
    assert one.take_changeset() == b""
    two.apply_changesets([first, b"", second])
    assert rows(two) == rows(one) == ([(1, 20, "a"), (2, 0, None)], [])


def test_a_transaction_that_raises_leaves_neither_rows_nor_changes() -> None:
    db = state()
    with pytest.raises(ZeroDivisionError):
        with db.transaction():
            db.execute("INSERT INTO inode VALUES (1, 1, 'a')")
            raise ZeroDivisionError
    assert db.take_changeset() == b""
    assert rows(db) == ([], [])


def test_transactions_nest_and_an_inner_one_can_be_undone_alone() -> None:
    one, two = state(), state()
    with one.transaction():
        one.execute("INSERT INTO inode VALUES (1, 1, 'outer')")
        with pytest.raises(ValueError, match="inner"):
            with one.transaction():
                one.execute("INSERT INTO inode VALUES (2, 2, 'inner')")
                raise ValueError("inner")
        with one.transaction():
            one.execute("INSERT INTO inode VALUES (3, 3, 'kept')")
    two.apply_changesets([one.take_changeset()])
    assert rows(two)[0] == [(1, 1, "outer"), (3, 3, "kept")]


def test_changes_that_cancel_out_are_no_changes() -> None:
    db = state()
    with db.transaction():
        db.execute("INSERT INTO inode VALUES (1, 1, 'a')")
        db.execute("DELETE FROM inode")
    assert db.take_changeset() == b""


def test_a_changeset_inside_a_transaction_is_refused() -> None:
    db = state()
    with db.transaction():
        with pytest.raises(InvariantViolation):
            db.take_changeset()
        with pytest.raises(InvariantViolation):
            db.serialize()


@pytest.mark.parametrize("merged", [1, 2, 7, 500])
def test_many_changesets_merge_to_the_same_rows(
    merged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "CHANGESETS_MERGED", merged)
    one, two = state(), state()
    changes = []
    for index in range(200):
        with one.transaction():
            ino = index % 13
            if one.one("SELECT 1 FROM inode WHERE ino = ?", (ino,)) is None:
                one.execute("INSERT INTO inode VALUES (?, ?, ?)", (ino, index, str(index)))
            elif index % 5 == 0:
                one.execute("DELETE FROM inode WHERE ino = ?", (ino,))
            else:
                one.execute("UPDATE inode SET size = ? WHERE ino = ?", (index, ino))
            one.execute("INSERT INTO extent VALUES (?, ?, ?)", (ino, index, bytes(8)))
        changes.append(one.take_changeset())
    two.apply_changesets(changes)
    assert rows(two) == rows(one)


@pytest.mark.parametrize(
    "there", ["INSERT INTO inode VALUES (1, 5, 'x')", "INSERT INTO inode VALUES (9, 5, 'x')"]
)
def test_a_conflict_is_fatal_and_changes_nothing(there: str) -> None:
    one, two = state(), state()
    one.execute("INSERT INTO inode VALUES (1, 1, 'a')")
    first = one.take_changeset()
    one.execute("UPDATE inode SET size = 2")
    second = one.take_changeset()
    two.execute(there)
    two.take_changeset()
    before = rows(two)
    with pytest.raises(InvariantViolation):
        two.apply_changesets([second])
    if "(1," in there:
        with pytest.raises(InvariantViolation):
            two.apply_changesets([first])
    assert rows(two) == before


def test_what_was_applied_is_not_captured_again() -> None:
    one, two = state(), state()
    one.execute("INSERT INTO inode VALUES (1, 1, 'a')")
    two.apply_changesets([one.take_changeset()])
    assert two.take_changeset() == b""
    two.execute("UPDATE inode SET size = 7")
    one.apply_changesets([two.take_changeset()])
    assert rows(one) == rows(two)


def test_others_changes_are_refused_while_own_ones_wait() -> None:
    one, two = state(), state()
    one.execute("INSERT INTO inode VALUES (1, 1, 'a')")
    two.execute("INSERT INTO inode VALUES (2, 1, 'a')")
    with pytest.raises(InvariantViolation):
        two.apply_changesets([one.take_changeset()])


def test_an_image_loads_elsewhere_and_changes_are_captured_after_it() -> None:
    one = state()
    one.execute("INSERT INTO inode VALUES (1, 1, 'a')")
    one.take_changeset()
    for two in (ApswState(), state()):
        two.execute("CREATE TEMP TABLE scratch (a INTEGER PRIMARY KEY)")
        two.load(one.serialize())
        assert rows(two) == rows(one)
        two.execute("INSERT INTO temp.scratch VALUES (5)")
        assert two.take_changeset() == b""
        two.execute("INSERT INTO inode VALUES (2, 2, 'b')")
        change = two.take_changeset()
        assert change != b""
        three = ApswState()
        three.load(one.serialize())
        three.apply_changesets([change])
        assert rows(three) == rows(two)
        image = three.serialize()
        three.load(image)
        assert rows(three) == rows(two)
        two.close()


def test_a_loaded_image_can_grow_far() -> None:
    db = ApswState()
    db.load(state().serialize())
    with db.transaction():
        for ino in range(64):
            db.execute("INSERT INTO extent VALUES (?, 0, zeroblob(65536))", (ino,))
    assert len(db.serialize()) > 4_000_000


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE bad (a INTEGER)",
        "CREATE TABLE bad (a TEXT PRIMARY KEY)",
        "CREATE TABLE bad (a INTEGER NOT NULL, b TEXT, PRIMARY KEY (a, b))",
        "CREATE TABLE bad (a INTEGER PRIMARY KEY AUTOINCREMENT)",
    ],
)
def test_a_table_whose_changes_would_be_lost_is_refused(table: str) -> None:
    with pytest.raises(InvariantViolation):
        ApswState.create([table])


def test_one_returns_the_first_row_and_holds_nothing_open() -> None:
    db = state()
    for ino in range(3):
        db.execute("INSERT INTO inode VALUES (?, 0, NULL)", (ino,))
    assert db.one("SELECT ino FROM inode ORDER BY ino DESC") == (2,)
    assert db.one("SELECT ino FROM inode WHERE ino = 77") is None
    with db.transaction():
        db.execute("DELETE FROM inode")
    assert db.take_changeset() == b""


def test_tables_that_an_older_image_lacks_are_made_and_take_changes() -> None:
    """A version that added a table takes over from one that did not know it, and back."""
    old = ("CREATE TABLE one(id INTEGER NOT NULL PRIMARY KEY, v TEXT NOT NULL)",)
    new = (
        *old,
        "CREATE TABLE two(k TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID",
        "CREATE UNIQUE INDEX two_k ON two(k)",
    )
    before, after, follower = ApswState.create(old), ApswState.create(new), ApswState.create(new)
    with before.transaction():
        list(before.execute("INSERT INTO one VALUES(1,'kept')"))
    for state in (after, follower):
        state.load(before.serialize())
    with after.transaction():
        list(after.execute("INSERT INTO two VALUES('new')"))
        list(after.execute("INSERT INTO one VALUES(2,'both')"))
    changes = after.take_changeset()
    follower.apply_changesets([changes])
    assert list(follower.execute("SELECT * FROM two")) == [("new",)]
    before.take_changeset()
    before.apply_changesets([changes])
    assert list(before.execute("SELECT * FROM one")) == [(1, "kept"), (2, "both")]
    for state in (before, after, follower):
        state.close()
