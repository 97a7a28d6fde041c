"""The explorer, on protocols whose truth is known: two processes and one critical section."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar

import pytest

from .explore import Model, TooManyStates, explore, replay

Lock = tuple[tuple[str, str], tuple[bool, bool], int]


class TwoLock(Model[Lock]):
    """Peterson's lock. State: where each process is, its flag, whose turn it is."""

    name = "two processes, one lock"
    variants: ClassVar[Mapping[str, str]] = {
        "no turn": "progress",
        "looks before it raises its flag": "one at a time",
        "the turn is not asked": "one at a time",
    }

    def initial(self) -> Iterable[Lock]:
        yield ("out", "out"), (False, False), 0

    def actions(self, state: Lock) -> Iterator[tuple[str, Lock]]:
        for me in (0, 1):
            for place, flag, turn in self.moves(me, state):
                where, flags = list(state[0]), list(state[1])
                where[me], flags[me] = place, flag
                yield f"{me}: {place}", ((where[0], where[1]), (flags[0], flags[1]), turn)

    def moves(self, me: int, state: Lock) -> Iterator[tuple[str, bool, int]]:
        place, other, turn = state[0][me], state[1][1 - me], state[2]
        if self.variant == "looks before it raises its flag":
            if place == "out" and not other:
                yield "looked", False, turn
            elif place == "looked":
                yield "in", True, turn
        elif place == "out":
            yield "raised", True, turn
        elif place == "raised":
            yield "waits", True, 1 - me
        elif place == "waits":
            mine = turn == me and self.variant != "no turn"
            if not other or mine or self.variant == "the turn is not asked":
                yield "in", True, turn
        if place == "in":
            yield "out", False, turn

    def invariants(self) -> Mapping[str, Callable[[Lock], bool]]:
        return {"one at a time": lambda state: state[0] != ("in", "in")}

    def goals(self) -> Mapping[str, Callable[[Lock], bool]]:
        return {"both get in": lambda state: state[0][0] == "in"}

    def may_stop(self, state: Lock) -> bool:
        return False


class Counter(Model[int]):
    """Counts for ever, or in a ring."""

    name = "counter"

    def __init__(self, ring: int = 0, floor: int = -1) -> None:
        super().__init__()
        self.ring = ring
        self.floor = floor

    def initial(self) -> Iterable[int]:
        yield 0

    def actions(self, state: int) -> Iterator[tuple[str, int]]:
        yield "+1", state + 1
        yield "+2", state + 2

    def invariants(self) -> Mapping[str, Callable[[int], bool]]:
        return {"below": lambda state: self.floor < 0 or state < self.floor}

    def canonical(self, state: int) -> int:
        return state % self.ring if self.ring else state


class Drain(Counter):
    """Counts down from three, and from two it may fall into a hole."""

    def actions(self, state: int) -> Iterator[tuple[str, int]]:
        if state < 3:
            yield "+1", state + 1
        if state == 2:
            yield "fall", 99

    def goals(self) -> Mapping[str, Callable[[int], bool]]:
        return {"three": lambda state: state == 3}


def test_a_right_protocol_has_no_counterexample_and_all_its_states_are_visited() -> None:
    model = TwoLock()
    found = explore(model)
    assert found.counterexample is None
    closure = set(model.initial())
    for _ in range(20):  # Closed without order, counters or memory of what is done.
        closure |= {after for state in closure for _, after in model.actions(state)}
    assert found.states == len(closure)
    assert found.steps == sum(len(list(model.actions(state))) for state in closure)


@pytest.mark.parametrize("variant", TwoLock.variants)
def test_each_wrong_protocol_is_found_wrong_and_its_trace_happens(variant: str) -> None:
    model = TwoLock(variant)
    found = explore(model).counterexample
    assert found is not None
    assert found.broken == TwoLock.variants[variant]
    assert found.state in replay(model, found.steps)


def test_the_first_counterexample_is_a_shortest_one() -> None:
    found = explore(Counter(floor=7)).counterexample
    assert found is not None
    assert found.steps == ("+1", "+2", "+2", "+2")
    assert str(found).splitlines()[0] == "broken: below"


def test_states_that_differ_in_names_only_are_one_state() -> None:
    found = explore(Counter(ring=5))
    assert (found.states, found.steps, found.depth) == (5, 10, 2)


def test_a_model_that_is_too_large_is_an_error_and_no_result() -> None:
    with pytest.raises(TooManyStates, match="more than 1000 states"):
        explore(Counter(), states_max=1000)


def test_a_state_from_which_a_goal_is_out_of_reach_is_found() -> None:
    found = explore(Drain()).counterexample
    assert found is not None
    assert (found.broken, found.steps, found.state) == ("three", ("+1", "+1", "fall"), 99)


def test_a_state_without_steps_is_an_error_where_the_model_may_not_stop() -> None:
    class Stops(Drain):
        def may_stop(self, state: int) -> bool:
            return state == 3

    found = explore(Stops()).counterexample
    assert found is not None
    assert (found.broken, found.state) == ("progress", 99)


def test_a_trace_that_the_model_does_not_allow_leads_nowhere() -> None:
    assert replay(TwoLock(), ["0: raised", "0: in"]) == set()


def test_a_variant_that_a_model_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no variant"):
        TwoLock("no flags at all")
