"""The linearizability checker on histories of which the verdict is known."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_histories import Draw, Story, brute_force, drawn

from sofs.sim.checkers.evidence import pinned
from sofs.sim.checkers.linear import (
    check_counters,
    check_data,
    check_linearizable,
    check_locks,
    check_names,
)
from sofs.sim.checkers.models import (
    CounterModel,
    FileModel,
    LockModel,
    NameModel,
    PagesModel,
)
from sofs.sim.checkers.violation import stories
from sofs.sim.checkers.wgl import linearize
from sofs.sim.history import History, Operation

# Registers: the classic puzzles -------------------------------------------------------------------


def test_a_read_that_overlaps_a_write_may_give_the_old_or_the_new_value() -> None:
    for seen in (b"0", b"1"):
        story = Story()
        story.did("a", "write", 0, b"0")
        write = story.call("a", "write", 0, b"1")
        story.did("b", "read", 0, 1, gives=seen)
        story.ok(write)
        assert not check_data(story)


def test_a_read_after_a_write_gives_the_new_value() -> None:
    story = Story()
    story.did("a", "write", 0, b"0")
    story.did("a", "write", 0, b"1")
    story.did("b", "read", 0, 1, gives=b"0")
    (found,) = check_data(story)
    assert found.decided
    assert "#5 b read /f(0, 1) = b'0'" in found.story(story)


def test_two_reads_during_one_write_may_not_go_back_in_time() -> None:
    for first, second, good in ((b"0", b"1", True), (b"1", b"0", False)):
        story = Story()
        story.did("a", "write", 0, b"0")
        write = story.call("a", "write", 0, b"1")
        story.did("b", "read", 0, 1, gives=first)
        story.did("c", "read", 0, 1, gives=second)
        story.ok(write)
        assert bool(check_data(story)) != good


def test_two_readers_may_not_see_two_concurrent_writes_in_different_orders() -> None:
    story = Story()
    one, two = story.call("a", "write", 0, b"1"), story.call("b", "write", 0, b"2")
    for client, first, second in (("c", b"1", b"2"), ("d", b"2", b"1")):
        story.did(client, "read", 0, 1, gives=first)
        story.did(client, "read", 0, 1, gives=second)
    story.ok(one)
    story.ok(two)
    assert check_data(story)


def test_the_puzzle_of_herlihy_and_wing_with_a_value_nobody_wrote_last() -> None:
    """Three writes overlap; what is read afterwards must be one of them, and stay."""
    for reads, good in (((b"a", b"a"), True), ((b"a", b"b"), False), ((b"z",), False)):
        story = Story()
        writes = [story.call(f"w{v!r}", "write", 0, v) for v in (b"a", b"b", b"c")]
        for write in writes:
            story.ok(write)
        for value in reads:
            story.did("r", "read", 0, 1, gives=value)
        assert bool(check_data(story)) != good


def test_a_write_of_unknown_outcome_may_land_long_after_and_never_twice() -> None:
    story = Story()
    lost = story.call("a", "write", 0, b"late")
    story.unknown(lost, "UNKNOWN_OUTCOME")
    story.did("b", "write", 0, b"soon")
    story.did("b", "read", 0, 4, gives=b"soon")
    story.did("b", "read", 0, 4, gives=b"late")
    assert not check_data(story)
    story.did("b", "write", 0, b"more")
    story.did("b", "read", 0, 4, gives=b"late")
    assert check_data(story)


def test_a_refused_write_never_shows() -> None:
    story = Story()
    story.did("a", "write", 0, b"old")
    story.refused(story.call("a", "write", 0, b"new"), "DISK_FULL")
    story.did("b", "read", 0, 3, gives=b"new")
    assert check_data(story)


def test_a_torn_write_over_two_pages_is_found() -> None:
    story = Story()
    story.did("a", "write", 0, b"1" * 8)
    lost = story.call("a", "write", 0, b"2" * 8)
    story.unknown(lost)
    story.did("b", "read", 0, 8, gives=b"2" * 4 + b"1" * 4)
    assert check_data(story, page=4)


def test_pages_that_nothing_ties_together_are_judged_one_by_one() -> None:
    story = Story()
    for page in range(300):
        story.did("a", "write", page * 4096, b"%d" % page)
    story.did("b", "read", 7 * 4096, 1, gives=b"8")
    (found,) = check_data(story)
    assert {o.arguments[0] // 4096 for o in found.operations} == {7}


# Files with a size --------------------------------------------------------------------------------


def test_two_appends_cannot_land_at_the_same_place() -> None:
    story = Story()
    one, two = story.call("a", "append", b"xx"), story.call("b", "append", b"yy")
    story.ok(one, 0)
    story.ok(two, 0)
    assert check_data(story)


def test_a_lost_append_shows_in_the_next_offset() -> None:
    story = Story()
    story.did("a", "append", b"xx", gives=0)
    story.did("a", "append", b"yy", gives=0)
    assert check_data(story)


def test_bytes_cut_by_a_truncate_do_not_come_back() -> None:
    for seen, good in ((b"ab\0\0", True), (b"abcd", False)):
        story = Story()
        story.did("a", "write", 0, b"abcd")
        story.did("a", "truncate", 2)
        story.did("a", "truncate", 4)
        story.did("b", "read", 0, 4, gives=seen)
        assert bool(check_data(story)) != good


def test_a_size_that_nobody_made_is_found() -> None:
    story = Story()
    story.did("a", "write", 10, b"abcd")
    story.did("a", "size", gives=13)
    assert check_data(story)


def test_what_the_file_held_before_is_known() -> None:
    story = Story()
    story.did("a", "read", 1, 10, gives=b"bc")
    assert not check_data(story, contents={"/f": b"abc"})
    assert check_data(story)


# Locks, counters ----------------------------------------------------------------------------------


def test_two_holders_of_one_exclusive_range_are_found() -> None:
    story = Story()
    story.did("a", "lock", 0, 10, True, "h1")
    story.did("b", "lock", 5, 10, True, "h2")
    assert check_locks(story)


def test_shared_locks_and_other_ranges_exclude_nobody() -> None:
    story = Story()
    story.did("a", "lock", 0, 10, False, "h1")
    story.did("b", "lock", 5, 10, False, "h2")
    story.did("a", "lock", 20, 10, True, "h1")
    story.did("a", "lock", 22, 2, False, "h1")
    story.refused(story.call("b", "lock", 0, 1, True, "h2"), "LOCK_NOT_GRANTED")
    assert not check_locks(story)


def test_a_lock_refused_without_a_lock_in_the_way_is_found() -> None:
    story = Story()
    story.did("a", "lock", 0, 10, True, "h1")
    story.did("a", "release", "h1")
    story.refused(story.call("b", "lock", 0, 1, True, "h2"), "LOCK_NOT_GRANTED")
    assert check_locks(story)


def test_an_unlock_of_unknown_outcome_lets_the_next_one_in() -> None:
    story = Story()
    story.did("a", "lock", 0, 10, True, "h1")
    story.unknown(story.call("a", "unlock", 0, 10, "h1"))
    story.did("b", "lock", 0, 10, True, "h2")
    assert not check_locks(story)
    story.refused(story.call("a", "lock", 0, 10, True, "h1"), "LOCK_NOT_GRANTED")
    story.did("a", "unlock", 0, 10, gives=None)
    story.operations[-1].arguments = (0, 10, "h1")
    assert check_locks(story)  # It was unlocked already, or b could not have it.


def test_an_increment_executed_twice_is_found() -> None:
    story = Story()
    story.did("a", "add", 1, key="n")
    story.did("a", "get", gives=2, key="n")
    assert check_counters(story)
    again = Story()
    again.unknown(again.call("a", "add", 1, key="n"))
    again.did("a", "add", 1, gives=2, key="n")
    again.did("a", "get", gives=2, key="n")
    assert not check_counters(again)


def test_an_effect_may_come_after_any_number_of_others() -> None:
    story = Story()
    story.unknown(story.call("a", "add", 1, key="n"))
    for _ in range(100):
        story.did("b", "get", gives=0, key="n")
    story.did("b", "get", gives=1, key="n")
    assert not check_counters(story)
    story.did("b", "get", gives=0, key="n")
    assert check_counters(story)


def test_an_unknown_write_that_was_seen_is_taken_for_done_and_no_other() -> None:
    story = Story()
    story.did("a", "write", 0, b"x" * 64)
    seen = story.call("a", "write", 0, bytes(range(1, 65)))
    twin = story.call("b", "write", 0, b"y" * 64)
    story.call("c", "write", 0, b"y" * 64)
    story.call("d", "append", b"never to be seen")
    read = story.did("e", "read", 8, 64, gives=bytes(range(9, 65)))
    story.did("e", "read", 0, 64, gives=b"y" * 64)
    ends = {o.number: o.end for o in pinned(story.operations)}
    assert ends[seen.number] == read.returned
    assert ends[twin.number] == float("inf")  # Its twin may have written that.
    assert sum(end == float("inf") for end in ends.values()) == 3


# Names --------------------------------------------------------------------------------------------


def _name(story: Story, kind: str, *given: Any, gives: Any = None, code: str = "") -> Operation:
    operation = story.call("a", kind, *given, key="vol")
    if code:
        story.refused(operation, code)
    else:
        story.ok(operation, gives)
    return operation


def test_a_name_is_created_exclusively_once() -> None:
    story = Story()
    one = story.call("a", "create", "/x", key="vol")
    two = story.call("b", "create", "/x", key="vol")
    story.ok(one)
    story.ok(two)
    assert check_names(story)


def test_a_collision_needs_somebody_who_made_the_name() -> None:
    story = Story()
    _name(story, "create", "/x", code="OBJECT_NAME_COLLISION")
    assert check_names(story)
    assert not check_names(story, names=[("/x", False)])


def test_a_renamed_file_is_at_one_place_at_any_time() -> None:
    for at_source, at_target, good in ((True, False, True), (False, True, True),
                                       (True, True, False), (False, False, False)):  # fmt: skip
        story = Story()
        _name(story, "create", "/x")
        move = story.call("b", "rename", "/x", "/y", False, key="vol")
        names = [n for n, there in (("x", at_source), ("y", at_target)) if there]
        _name(story, "listdir", "/", gives=names)
        story.ok(move)
        assert bool(check_names(story)) != good


def test_a_directory_moves_with_all_that_is_in_it() -> None:
    story = Story()
    _name(story, "mkdir", "/d")
    _name(story, "create", "/d/x")
    _name(story, "rename", "/d", "/e", False)
    _name(story, "exists", "/e/x", gives=True)
    _name(story, "create", "/d/y", code="OBJECT_NAME_NOT_FOUND")
    _name(story, "create", "/e/z/y", code="OBJECT_NAME_NOT_FOUND")
    _name(story, "rmdir", "/e", code="DIRECTORY_NOT_EMPTY")
    assert not check_names(story)
    _name(story, "exists", "/d/x", gives=True)
    assert check_names(story)


def test_a_replaying_unlink_may_not_remove_the_next_file_of_that_name() -> None:
    story = Story()
    _name(story, "create", "/x")
    _name(story, "unlink", "/x")
    _name(story, "create", "/x")
    _name(story, "exists", "/x", gives=False)
    assert check_names(story)


def test_names_that_nothing_ties_together_do_not_multiply() -> None:
    story = Story()
    for number in range(12):
        story.unknown(story.call("a", "create", f"/n{number}", key="vol"))
        story.unknown(story.call("a", "unlink", f"/n{number}", key="vol"))
    for number in range(12):
        _name(story, "exists", f"/n{number}", gives=number % 2 == 0)
    assert not check_names(story, steps_max=300)


# Limits and what is told --------------------------------------------------------------------------


def _hard() -> Story:
    """Many concurrent appends of different lengths, and an impossible end."""
    story = Story()
    some = [story.call(f"c{i}", "append", bytes(1 << i)) for i in range(12)]
    for operation in some:
        story.ok(operation)
    story.did("r", "size", gives=1)
    return story


def test_what_is_not_decided_within_the_limit_is_no_pass() -> None:
    (found,) = check_linearizable(_hard(), steps_max=2000)
    assert not found.decided
    assert "undecided" in str(found)


def test_an_undecided_file_is_still_judged_page_by_page() -> None:
    story = Story()
    some = [story.call(f"c{i}", "append", bytes([i]) * (1 << i)) for i in range(12)]
    for i, operation in enumerate(some):
        story.ok(operation, (1 << i) - 1)
    story.did("r", "size", gives=1)
    story.did("r", "read", 0, 3, gives=b"\x00\x01\x02")
    found = check_data(story, steps_max=20)
    assert [f.decided for f in found] == [False, False] or any(f.decided for f in found)


def test_the_story_of_a_violation_names_the_operation_and_the_state() -> None:
    story = Story()
    story.did("a", "write", 0, b"old")
    story.note("kill node-1")
    story.did("b", "read", 0, 3, gives=b"new")
    text = stories(story, check_data(story))
    assert "no order explains #4 b read /f(0, 3) = b'new'" in text
    assert "kill node-1" in text


# Against random histories -------------------------------------------------------------------------


def _file_answer(state: Any, operation: Operation) -> Any:
    model = FileModel(page=8)
    if operation.kind == "read":
        return model._read(state, *operation.arguments)
    return {"size": state.size, "append": state.size}.get(operation.kind)


def _file_draw(chance: random.Random, number: int) -> tuple[str, tuple[Any, ...]]:
    data = bytes([number + 1]) * chance.choice((1, 3, 10))
    return chance.choice(
        [
            ("read", (chance.randrange(20), 12)),
            ("read", (chance.randrange(20), 12)),
            ("write", (chance.randrange(20), data)),
            ("append", (data,)),
            ("truncate", (chance.randrange(24),)),
            ("size", ()),
        ]
    )


def _appends_draw(chance: random.Random, number: int) -> tuple[str, tuple[Any, ...]]:
    return chance.choice([("append", (bytes([number + 1]) * 3,)), ("read", (0, 1000))])


def _drawn_file(seed: int, operations: int = 40, draw: Draw = _file_draw) -> History:
    return drawn(FileModel(page=8), _file_answer, draw, seed=seed, operations=operations)


@pytest.mark.parametrize("seed", range(60))
def test_a_drawn_linearizable_history_passes(seed: int) -> None:
    assert not check_data(_drawn_file(seed), page=8)


def test_one_byte_that_nobody_wrote_in_a_drawn_history_is_found() -> None:
    found = 0
    for seed in range(60):
        history = _drawn_file(seed)
        chance = random.Random(f"mutate/{seed}")
        told = [o for o in history.operations if o.outcome == "ok" and o.kind == "read"]
        victim = chance.choice([o for o in told if o.result])
        at = chance.randrange(len(victim.result))
        victim.result = victim.result[:at] + b"\xff" + victim.result[at + 1 :]
        found += any(f.decided for f in check_data(history, page=8))
    assert found == 60


def test_one_forgotten_append_in_a_drawn_history_is_found() -> None:
    for seed in range(60):
        history = _drawn_file(seed, 40, _appends_draw)
        chance = random.Random(f"forget/{seed}")
        told = [o for o in history.operations if o.outcome == "ok" and o.kind == "append"]
        gone = chance.choice(told[:-2])
        assert not check_data(history, page=8)
        history.operations.remove(gone)
        assert check_data(history, page=8)


def test_a_long_history_of_random_block_writes_is_judged_within_its_steps() -> None:
    def draw(chance: random.Random, number: int) -> tuple[str, tuple[Any, ...]]:
        at = chance.randrange(16) * 4096
        if chance.random() < 0.5:
            return "read", (at, 64)
        return "write", (at, chance.randbytes(64))

    def answer(state: Any, operation: Operation) -> Any:
        if operation.kind == "read":
            at = operation.arguments[0] // 4096
            return state[at][:64]
        return None

    model = PagesModel(range(16))
    history = drawn(model, answer, draw, seed=5, clients=16, operations=5000, unknown=0.01)
    began = time.process_time()
    assert not check_data(history)
    print(f"5000 operations on 16 pages: {time.process_time() - began:.2f} s")


# Against brute force ------------------------------------------------------------------------------

_OUTCOME = st.sampled_from(["ok", "ok", "ok", "refused", "unknown", "pending"])


@st.composite
def _small(draw: Any, operations: Any) -> list[Operation]:
    story = Story()
    count = draw(st.integers(1, 5))
    waiting: list[Operation] = []
    for _ in range(count):
        kind, given_, result, code = draw(operations)
        operation = story.call("c", kind, *given_)
        operation.result, operation.code = result, code
        waiting.append(operation)
        while waiting and draw(st.booleans()):
            done = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
            outcome = draw(_OUTCOME)
            if outcome == "ok":
                story.ok(done, done.result)
            elif outcome == "refused":
                story.refused(done, done.code)
            elif outcome == "unknown":
                story.unknown(done)
    return story.operations


_OTHER = st.just("OTHER")


def _op(kind: str, arguments: Any, result: Any, code: Any = _OTHER) -> Any:
    return st.tuples(st.just(kind), arguments, result, code)


_DATA = st.sampled_from([b"a", b"b", b"cd"])
_FILE = st.one_of(
    _op(
        "read", st.tuples(st.integers(0, 2), st.just(3)), st.sampled_from([b"", b"a", b"ab", b"b"])
    ),
    _op("write", st.tuples(st.integers(0, 2), _DATA), st.none()),
    _op("append", st.tuples(_DATA), st.one_of(st.none(), st.integers(0, 3))),
    _op("truncate", st.tuples(st.integers(0, 3)), st.none()),
    _op("size", st.just(()), st.integers(0, 3)),
)
_RANGE = st.tuples(st.integers(0, 2), st.integers(1, 2))
_LOCK = st.one_of(
    st.tuples(
        st.just("lock"),
        st.tuples(st.integers(0, 2), st.integers(1, 2), st.booleans(), st.sampled_from("xy")),
        st.none(),
        st.just("LOCK_NOT_GRANTED"),
    ),
    st.tuples(
        st.just("unlock"),
        st.tuples(st.integers(0, 2), st.integers(1, 2), st.sampled_from("xy")),
        st.none(),
        st.just("RANGE_NOT_LOCKED"),
    ),
    _op("release", st.tuples(st.sampled_from("xy")), st.none()),
)
_PATH = st.sampled_from(["/a", "/b", "/a/c", "/b/c"])
_NAME_CODE = st.sampled_from(["OBJECT_NAME_NOT_FOUND", "OBJECT_NAME_COLLISION", "OTHER"])
_NAME = st.one_of(
    _op("create", st.tuples(_PATH), st.none(), _NAME_CODE),
    _op("mkdir", st.tuples(st.sampled_from(["/a", "/b"])), st.none(), _NAME_CODE),
    _op("unlink", st.tuples(_PATH), st.none(), _NAME_CODE),
    _op("rmdir", st.tuples(_PATH), st.none(), st.sampled_from(["DIRECTORY_NOT_EMPTY", "OTHER"])),
    _op("rename", st.tuples(_PATH, _PATH, st.booleans()), st.none(), _NAME_CODE),
    _op("exists", st.tuples(_PATH), st.booleans()),
)
_COUNTER = st.one_of(
    _op("add", st.tuples(st.integers(1, 2)), st.one_of(st.none(), st.integers(0, 4))),
    _op("get", st.just(()), st.integers(0, 4)),
)


@settings(max_examples=400, deadline=None)
@given(_small(_FILE))
def test_the_search_agrees_with_brute_force_on_files(operations: list[Operation]) -> None:
    model = FileModel(page=2)
    assert (linearize(model, operations).outcome == "linearizable") == brute_force(
        model, operations
    )


@settings(max_examples=400, deadline=None)
@given(_small(_LOCK))
def test_the_search_agrees_with_brute_force_on_locks(operations: list[Operation]) -> None:
    model = LockModel()
    assert (linearize(model, operations).outcome == "linearizable") == brute_force(
        model, operations
    )


@settings(max_examples=400, deadline=None)
@given(_small(_NAME))
def test_the_split_of_names_agrees_with_brute_force_on_all_names(
    operations: list[Operation],
) -> None:
    story = Story()
    story.operations = operations
    changes = [o for o in operations if o.kind != "exists"]
    made = {path for o in changes for path in o.arguments if isinstance(path, str)}
    model = NameModel(made)
    assert (not check_names(story)) == brute_force(model, operations)


@settings(max_examples=300, deadline=None)
@given(_small(_COUNTER))
def test_the_search_agrees_with_brute_force_on_counters(operations: list[Operation]) -> None:
    model = CounterModel()
    assert (linearize(model, operations).outcome == "linearizable") == brute_force(
        model, operations
    )


@settings(max_examples=300, deadline=None)
@given(_small(st.one_of(
    _op("read", st.tuples(st.integers(0, 6), st.integers(0, 3)), st.binary(max_size=3)),
    _op("write", st.tuples(st.integers(0, 6), _DATA), st.none()),
)))  # fmt: skip
def test_the_split_of_pages_agrees_with_brute_force_on_the_whole_file(
    operations: list[Operation],
) -> None:
    story = Story()
    story.operations = [
        o for o in operations if o.kind == "write" or len(o.result or b"") == o.arguments[1]
    ]
    model = PagesModel(range(8), page=2)
    assert (not check_data(story, page=2)) == brute_force(model, story.operations)
