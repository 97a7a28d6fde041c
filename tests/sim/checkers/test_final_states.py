"""Checkers that compare a history with what is there in the end, and those of locks and times."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_histories import Story

from sofs.sim.checkers.appends import check_appends
from sofs.sim.checkers.contents import check_contents
from sofs.sim.checkers.exclusion import check_exclusion
from sofs.sim.checkers.liveness import (
    Absence,
    GateEvent,
    check_absences,
    check_gates,
    check_progress,
)
from sofs.sim.checkers.models import FileModel
from sofs.sim.checkers.once import check_equal, check_once, check_totals
from sofs.sim.history import History, Operation

# Contents -----------------------------------------------------------------------------------------


def test_an_acknowledged_write_that_is_not_there_is_lost() -> None:
    story = Story()
    story.did("a", "write", 0, b"oldoldold")
    story.did("a", "write", 3, b"new")
    assert not check_contents(story, {"/f": b"oldnewold"})
    (found,) = check_contents(story, {"/f": b"oldoldold"})
    assert "which a later write replaced" in str(found)
    (found,) = check_contents(story, {"/f": b"old"})
    assert "(zeros)" in str(found)
    (found,) = check_contents(story, {"/f": b"oldn?wold"})
    assert "nobody wrote" in str(found)


def test_either_of_two_concurrent_writes_may_be_last_but_not_each_in_one_part() -> None:
    story = Story()
    one, two = story.call("a", "write", 0, b"1111"), story.call("b", "write", 0, b"2222")
    story.ok(one)
    story.ok(two)
    story.did("c", "write", 1, b"x")
    assert not check_contents(story, {"/f": b"1x11"})
    assert not check_contents(story, {"/f": b"2x22"})
    (found,) = check_contents(story, {"/f": b"1x22"})
    assert "torn" in str(found)


def test_a_write_of_unknown_outcome_is_there_whole_or_not_at_all() -> None:
    story = Story()
    story.did("a", "write", 0, b"........")
    story.unknown(story.call("a", "write", 0, b"ABCDEFGH"))
    story.did("b", "write", 2, b"xy")
    for final, good in ((b"..xy....", True), (b"ABxyEFGH", True), (b"ABCDEFGH", True),
                        (b"ABxy....", False), (b"..CDEFGH", False)):  # fmt: skip
        assert bool(check_contents(story, {"/f": final})) != good, final


def test_a_refused_write_is_not_there() -> None:
    story = Story()
    story.refused(story.call("a", "write", 0, b"abc"), "DISK_FULL")
    assert not check_contents(story, {"/f": b""})
    assert check_contents(story, {"/f": b"abc"})


def test_what_a_truncate_cut_off_stays_cut_off() -> None:
    story = Story()
    story.did("a", "write", 0, b"abcdef")
    story.did("a", "truncate", 2)
    story.did("a", "write", 5, b"z")
    assert not check_contents(story, {"/f": b"ab\0\0\0z"})
    assert check_contents(story, {"/f": b"abcdez"})


def test_what_was_there_before_stays_unless_written_over() -> None:
    story = Story()
    story.did("a", "write", 1, b"X")
    assert not check_contents(story, {"/f": b"aXc", "/g": b"g"}, before={"/f": b"abc", "/g": b"g"})
    assert check_contents(story, {"/f": b"aX"}, before={"/f": b"abc"})
    assert check_contents(story, {"/f": b"aXc", "/g": b""}, before={"/f": b"abc", "/g": b"g"})


def test_an_append_that_nobody_was_told_of_may_be_anywhere() -> None:
    story = Story()
    story.did("a", "append", b"first", gives=0)
    story.unknown(story.call("a", "append", b"second"))
    assert not check_contents(story, {"/f": b"firstsecond"})
    assert not check_contents(story, {"/f": b"first"})
    assert check_contents(story, {"/f": b"firstthird"})


def test_of_an_append_with_an_unknown_place_a_tail_is_left_only_with_its_head() -> None:
    story = Story()
    story.did("a", "append", b"first", gives=0)
    for data in (b"second", b"third"):
        story.unknown(story.call("a", "append", data))
    assert not check_contents(story, {"/f": b"firstthirdsecond"})
    assert not check_contents(story, {"/f": b"firstthi"})  # A truncate may have cut it,
    assert check_contents(story, {"/f": b"firstsecondird"})
    story.did("a", "truncate", 7)
    assert not check_contents(story, {"/f": b"firstththird"})  # and the next one lands there.
    assert check_contents(story, {"/f": b"firstthirdird"})


_WRITE = st.tuples(st.integers(0, 4), st.sampled_from([b"a", b"bc", b"def"]))


@st.composite
def _writes(draw: Any) -> tuple[History, bytes]:
    story = Story()
    open_: list[Operation] = []
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["write", "write", "write", "append", "truncate"]))
        data = bytes([65 + number]) * draw(st.integers(1, 3))
        given_ = {"write": (draw(st.integers(0, 4)), data), "append": (data,),
                  "truncate": (draw(st.integers(0, 5)),)}[kind]  # fmt: skip
        open_.append(story.call("c", kind, *given_))
        while open_ and draw(st.booleans()):
            done = open_.pop(0)
            if draw(st.booleans()):
                story.ok(done)
            else:
                story.unknown(done)
    finals = sorted(_outcomes(story.operations))
    return story, draw(st.sampled_from(finals))


def _outcomes(operations: list[Operation]) -> set[bytes]:
    """Contents that some linearization leaves."""
    model = FileModel(page=4)
    definite = [o for o in operations if not o.maybe]
    maybes = [o for o in operations if o.maybe]
    finals = set()
    for count in range(len(maybes) + 1):
        for some in itertools.combinations(maybes, count):
            for order in itertools.permutations([*definite, *some]):
                if any(b.end < a.called for i, a in enumerate(order) for b in order[i + 1 :]):
                    continue
                state = model.initial()
                for operation in order:
                    state = model.step(state, operation) or state
                finals.add(b"".join(state.pages)[: state.size])
    return finals


@settings(max_examples=300, deadline=None)
@given(_writes())
def test_no_content_that_a_linearization_leaves_is_called_wrong(
    drawn: tuple[History, bytes],
) -> None:
    history, final = drawn
    assert not check_contents(history, {"/f": final})


@pytest.mark.parametrize("seed", range(20))
def test_any_lost_write_of_clients_with_files_of_their_own_is_found(seed: int) -> None:
    chance = random.Random(seed)
    story, finals = Story(), {}
    for key in ("/a", "/b"):
        content = bytearray(40_000)
        for _ in range(60):
            at, data = chance.randrange(30_000), chance.randbytes(chance.choice((1, 50, 9000)))
            story.did(key, "write", at, data, key=key)
            content[at : at + len(data)] = data
        finals[key] = bytes(content)
    assert not check_contents(story, finals)
    shown = [o for o in story.operations if o.arguments[1] in finals[o.key] and o.arguments[1][1:]]
    lost = chance.choice(shown)
    at = lost.arguments[0]
    content = bytearray(finals[lost.key])
    content[at : at + len(lost.arguments[1])] = bytes(len(lost.arguments[1]))
    finals[lost.key] = bytes(content)
    (found,) = check_contents(story, finals)
    assert lost in found.operations


# Appends ------------------------------------------------------------------------------------------


def _log() -> Story:
    story = Story()
    story.did("a", "append", b"one ", gives=0)
    story.unknown(story.call("b", "append", b"two "))
    story.refused(story.call("b", "append", b"bad "), "DISK_FULL")
    story.did("a", "append", b"three ")
    return story


def test_appends_fill_the_file_each_once() -> None:
    for final, good in (
        (b"one two three ", True), (b"one three two ", True), (b"one three ", True),
        (b"one two ", False), (b"one three three ", False), (b"one two two three ", False),
        (b"one bad three ", False), (b"one tw three ", False), (b"xne two three ", False),
        (b"three one ", False), (b"one three \0", False),
    ):  # fmt: skip
        assert bool(check_appends(_log(), {"/f": final})) != good, final


def test_appends_lie_in_the_order_in_which_they_were_made() -> None:
    story = Story()
    story.did("a", "append", b"one ", gives=4)
    story.did("b", "append", b"two ", gives=0)
    assert check_appends(story, {"/f": b"two one "})
    story.operations[0].returned = 100  # They overlap.
    assert not check_appends(story, {"/f": b"two one "})


def test_appends_that_were_told_the_same_place_are_found_without_the_file() -> None:
    story = Story()
    story.did("a", "append", b"one ", gives=0)
    story.did("b", "append", b"two ", gives=2)
    assert check_appends(story, {})


def test_records_that_look_alike_are_counted() -> None:
    story = Story()
    for _ in range(30):
        story.did("a", "append", b"aa")
        story.call("b", "append", b"a")
    assert not check_appends(story, {"/f": b"a" * 75})
    assert check_appends(story, {"/f": b"a" * 91})
    assert check_appends(story, {"/f": b"a" * 59})


# Locks --------------------------------------------------------------------------------------------


def test_a_lock_is_exclusive_from_its_grant_to_the_call_that_gives_it_back() -> None:
    story = Story()
    story.did("a", "lock", 0, 4, True, "h1")
    unlock = story.call("a", "unlock", 0, 4, "h1")
    story.did("b", "lock", 0, 4, True, "h2")
    story.ok(unlock)
    assert not check_exclusion(story)
    story.did("c", "lock", 3, 4, True, "h3")
    (found,) = check_exclusion(story)
    assert "h3 got" in str(found)


def test_a_refused_unlock_gives_nothing_back_and_an_unknown_one_may() -> None:
    for end, good in (("refused", False), ("unknown", True)):
        story = Story()
        story.did("a", "lock", 0, 4, True, "h1")
        unlock = story.call("a", "unlock", 0, 4, "h1")
        if end == "refused":
            story.refused(unlock, "UNAVAILABLE")
        else:
            story.unknown(unlock)
        story.did("b", "lock", 0, 4, True, "h2")
        assert bool(check_exclusion(story)) != good


def test_a_lock_is_refused_only_while_somebody_holds_or_wants_one_that_conflicts() -> None:
    story = Story()
    refused = story.call("a", "lock", 0, 4, True, "h1")
    story.refused(refused, "NOT_ITS_TURN")
    (found,) = check_exclusion(story)
    assert "nobody held or wanted" in str(found)
    for other in ((2, 4, False, "h2"), (0, 1, True, "h2")):
        story = Story()
        waits = story.call("b", "lock", *other)
        story.refused(story.call("a", "lock", 0, 4, True, "h1"), "LOCK_NOT_GRANTED")
        story.refused(waits, "DEADLINE_EXCEEDED")
        assert not check_exclusion(story)
    story = Story()
    story.did("b", "lock", 0, 4, True, "h2")
    story.did("b", "unlock", 0, 4, "h2")
    story.refused(story.call("a", "lock", 0, 4, True, "h1"), "LOCK_NOT_GRANTED")
    assert check_exclusion(story)


def test_a_handle_that_may_be_released_at_any_time_holds_nothing_for_sure() -> None:
    story = Story()
    story.call("server", "release", "h1")
    story.did("a", "lock", 0, 4, True, "h1")
    story.did("b", "lock", 0, 4, True, "h2")
    assert not check_exclusion(story)


def test_appends_to_a_file_that_may_shrink_are_not_judged_by_their_order() -> None:
    story = Story()
    story.did("a", "append", b"long", gives=0)
    story.did("a", "truncate", 0)
    story.did("a", "append", b"x", gives=0)
    assert not check_appends(story, {"/f": b"x"})


def test_a_lock_that_was_not_granted_or_whose_grant_nobody_knows_of_excludes_nobody() -> None:
    story = Story()
    story.refused(story.call("a", "lock", 0, 4, True, "h1"), "DEADLINE_EXCEEDED")
    story.unknown(story.call("b", "lock", 0, 4, True, "h2"))
    early = story.call("c", "unlock", 0, 4, "h3")
    story.did("c", "lock", 0, 4, True, "h3")
    story.refused(early, "RANGE_NOT_LOCKED")
    assert not check_exclusion(story)


def test_a_stolen_lock_shows_when_its_holder_gives_it_back() -> None:
    story = Story()
    story.did("a", "lock", 0, 4, True, "h1")
    story.refused(story.call("a", "unlock", 0, 4, "h1"), "RANGE_NOT_LOCKED")
    (found,) = check_exclusion(story)
    assert "lost" in str(found)


def test_a_lock_may_be_gone_after_its_holder_was_away_too_long() -> None:
    story = Story()
    story.did("a", "lock", 0, 4, True, "h1")
    story.call("a", "release", "h1")
    story.did("b", "lock", 0, 4, True, "h2")
    story.refused(story.call("a", "unlock", 0, 4, "h1"), "HANDLE_LOST")
    assert not check_exclusion(story)


def test_shared_locks_stand_beside_each_other_and_in_the_way_of_exclusive_ones() -> None:
    story = Story()
    story.did("a", "lock", 0, 4, False, "h1")
    story.did("b", "lock", 0, 4, False, "h2")
    assert not check_exclusion(story)
    story.did("c", "lock", 0, 1, True, "h3")
    assert len(check_exclusion(story)) == 2


# Exactly once -------------------------------------------------------------------------------------


def test_effects_show_once_if_acknowledged_never_if_refused_and_at_most_once_else() -> None:
    story = Story()
    story.did("a", "create", "/ok", key="vol")
    story.refused(story.call("a", "create", "/no", key="vol"), "DISK_FULL")
    story.unknown(story.call("a", "create", "/may", key="vol"))
    for there, wrong in (
        (["/ok"], 0), (["/ok", "/may"], 0), (["/ok", "/may", "/may"], 1), (["/ok", "/no"], 1),
        ([], 1), (["/ok", "/ok", "/no"], 2),
    ):  # fmt: skip
        times = [check_once(story, ["create"], lambda o, at=there: at.count(o.arguments[0]))]
        assert len(times[0]) == wrong, there


def test_a_total_lies_between_what_was_acknowledged_and_what_may_have_happened() -> None:
    story = Story()
    story.did("a", "add", 1, key="n")
    story.unknown(story.call("a", "add", 2, key="n"))
    story.refused(story.call("a", "add", 4, key="n"), "EXPIRED")
    wrong = [total for total in range(9) if check_totals(story, {"n": total})]
    assert wrong == [0, 4, 5, 6, 7, 8]
    assert not check_totals(story, {})


def test_a_difference_is_told_with_both_sides() -> None:
    assert not check_equal("names", ["a"], ["a"])
    assert "['b'] instead of ['a']" in str(check_equal("names", ["a"], ["b"])[0])


# Progress and gates -------------------------------------------------------------------------------


def _timed(*spans: tuple[str, int, int | None]) -> History:
    history = History(lambda: 0)
    for client, called, returned in spans:
        operation = history.invoke(client, "get", "n")
        operation.called_us = called
        if returned is not None:
            history.ok(operation, 0)
            operation.returned_us = returned
    return history


def test_every_client_finishes_something_within_the_bound_after_the_healing() -> None:
    judge: dict[str, Any] = {"healed_us": 1000, "bound_us": 500, "ended_us": 2000}
    assert not check_progress(_timed(("a", 1100, 1200), ("b", 1000, 1500)), ["a", "b"], **judge)
    assert check_progress(_timed(("a", 1100, 1200)), ["a", "b"], **judge)
    assert check_progress(_timed(("a", 900, 1200)), ["a"], **judge)  # Called before.
    assert check_progress(_timed(("a", 1300, 1600)), ["a"], **judge)  # Too late.
    assert not check_progress(_timed(("a", 1100, 1200), ("a", 1900, None)), ["a"], **judge)


def test_no_operation_waits_longer_than_the_bound_after_the_healing() -> None:
    history = _timed(("a", 1100, 1200), ("a", 100, None))
    judge: dict[str, Any] = {"healed_us": 1000, "bound_us": 500, "ended_us": 2000}
    assert "took 1000 us" in str(check_progress(history, ["a"], **judge)[0])
    assert not check_progress(history, ["a"], waiting_kinds=["get"], **judge)
    with pytest.raises(ValueError, match="go on for the bound"):
        check_progress(history, ["a"], healed_us=1000, bound_us=500, ended_us=1400)


SECOND = 1_000_000


def _gate(*phases: tuple[int, str, int]) -> list[GateEvent]:
    return [GateEvent(at * SECOND, "x", phase, open_) for at, phase, open_ in phases]


def _judge(events: list[GateEvent], ended: int = 100, lost: tuple[str, ...] = ()) -> list[str]:
    found = check_gates(
        events, window_us=60 * SECOND, slack_us=SECOND, ended_us=ended * SECOND, lost=lost
    )
    return [str(v) for v in found]


def test_a_gate_that_keeps_its_times_passes() -> None:
    assert not _judge(_gate((0, "LOADING", 0), (1, "RESUME_LOCAL", 3), (2, "RESUME_REMOTE", 3),
                            (61, "RELEASE", 3), (61, "ONLINE", 0)))  # fmt: skip
    assert not _judge(_gate((0, "LOADING", 0), (1, "RESUME_LOCAL", 3), (2, "ONLINE", 0)))


def test_a_gate_that_opens_early_is_found() -> None:
    early = _gate((0, "LOADING", 0), (1, "RESUME_REMOTE", 3), (60, "RELEASE", 3), (61, "ONLINE", 0))
    assert "released after" in _judge(early)[0]
    waiting = _gate((0, "LOADING", 0), (1, "RESUME_REMOTE", 3), (5, "ONLINE", 1))
    assert "open while 1 handles" in _judge(waiting)[0]


def test_a_gate_that_opens_late_is_found_unless_its_owner_ended_or_nobody_could_come() -> None:
    late = _gate((0, "LOADING", 0), (1, "RESUME_REMOTE", 3))
    assert "in phase RESUME_REMOTE" in _judge(late)[0]
    assert not _judge(late, lost=("x",))
    assert not _judge(late, ended=61)
    alone = [GateEvent(0, "x", "RESUME_REMOTE", 3, accepting=False)]
    assert not _judge(alone)
    assert "loading" in _judge(_gate((0, "LOADING", 0)))[0]
    assert "earlier phase" in _judge(_gate((0, "ONLINE", 0), (1, "RELEASE", 0)))[0]


def test_a_handle_is_kept_for_its_timeout_and_no_longer_promised() -> None:
    assert not check_absences(
        [Absence("a", "h", 0, 9, 10, True), Absence("a", "h", 0, 10, 10, False)]
    )
    assert check_absences([Absence("a", "h", 0, 9, 10, False)])
