"""Every reachable state of a small protocol: the explorer that all models share.

A model says which states it may start in and which steps each state allows. ``explore`` visits
every state that can be reached, breadth first, and checks in each one

- the *invariants*: predicates that hold in every state;
- *progress*: a state without steps is one in which the model may stop (``may_stop``);
- the *goals*: from every state a state of each goal can still be reached. That finds protocols that
  are safe because they are stuck. (It says "possible", not "certain": no fairness is assumed.)

Breadth first means that the counterexample of a broken invariant is a shortest one. For a goal it
is a shortest way to a state from which the goal is out of reach.

States are hashable values that are never changed. ``canonical`` may map states that differ in names
only to one of them; then the steps of a trace are those of the representatives.

More than ``states_max`` states raise TooManyStates: a model that was cut off has shown nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

S = TypeVar("S", bound=Hashable)

STATES_MAX = 300_000


class TooManyStates(RuntimeError):
    """The model has more states than it was given; nothing is known about the others."""


class Model(ABC, Generic[S]):
    """A protocol, or with ``variant`` a protocol with one rule broken.

    ``variants`` says for each broken rule which property is the first to fail.
    """

    name: ClassVar[str]
    variants: ClassVar[Mapping[str, str]] = {}

    def __init__(self, variant: str = "") -> None:
        if variant and variant not in self.variants:
            raise ValueError(f"{self.name} has no variant {variant!r}")
        self.variant = variant

    @abstractmethod
    def initial(self) -> Iterable[S]:
        """The states to start from."""

    @abstractmethod
    def actions(self, state: S) -> Iterator[tuple[str, S]]:
        """The steps of a state: what happens, and the state after it."""

    @abstractmethod
    def invariants(self) -> Mapping[str, Callable[[S], bool]]:
        """What holds in every state, by name."""

    def goals(self) -> Mapping[str, Callable[[S], bool]]:
        """What can be reached from every state, by name."""
        return {}

    def may_stop(self, state: S) -> bool:
        """May the protocol end in this state, which has no steps?"""
        return True

    def canonical(self, state: S) -> S:
        """One state for all that differ from ``state`` in names only."""
        return state


@dataclass(frozen=True)
class Counterexample(Generic[S]):
    """A shortest way to a state in which ``broken`` does not hold."""

    broken: str
    steps: tuple[str, ...]
    state: S

    def __str__(self) -> str:
        lines = [f"{number:3} {step}" for number, step in enumerate(self.steps, 1)]
        return "\n".join([f"broken: {self.broken}", *lines, f"    {self.state}"])


@dataclass(frozen=True)
class Exploration(Generic[S]):
    """What was seen. ``states`` and ``steps`` count up to the counterexample, if there is one."""

    states: int
    steps: int
    depth: int
    counterexample: Counterexample[S] | None


class _Seen(Generic[S]):
    """The states in the order of their discovery, and how each was reached first."""

    def __init__(self, states_max: int) -> None:
        self.states: list[S] = []
        self.depths = array("L")
        self._number: dict[S, int] = {}
        self._parents = array("l")
        self._labels: list[str] = []
        self._states_max = states_max

    def number(self, state: S, parent: int, label: str) -> tuple[int, bool]:
        """The number of a state, and whether it is new."""
        known = self._number.setdefault(state, len(self.states))
        if known < len(self.states):
            return known, False
        if known >= self._states_max:
            raise TooManyStates(f"more than {self._states_max} states; the model is not checked")
        self.states.append(state)
        self._parents.append(parent)
        self._labels.append(label)
        self.depths.append(self.depths[parent] + 1 if parent >= 0 else 0)
        return known, True

    def counterexample(self, broken: str, number: int) -> Counterexample[S]:
        steps: list[str] = []
        state = self.states[number]
        while self._parents[number] >= 0:
            steps.append(self._labels[number])
            number = self._parents[number]
        return Counterexample(broken, tuple(reversed(steps)), state)


def explore(model: Model[S], *, states_max: int = STATES_MAX) -> Exploration[S]:
    """Visit every state; stop at the first that breaks a property."""
    seen: _Seen[S] = _Seen(states_max)
    sources, targets = array("L"), array("L")
    invariants = list(model.invariants().items())
    canonical = model.canonical
    steps = 0

    def ended(counterexample: Counterexample[S] | None) -> Exploration[S]:
        depth = max(seen.depths, default=0)
        return Exploration(len(seen.states), steps, depth, counterexample)

    def broken_in(state: S) -> str | None:
        return next((name for name, holds in invariants if not holds(state)), None)

    for state in model.initial():
        number, new = seen.number(canonical(state), -1, "")
        broken = broken_in(seen.states[number]) if new else None
        if broken is not None:
            return ended(seen.counterexample(broken, number))
    at = 0
    while at < len(seen.states):
        before = steps
        for label, after in model.actions(seen.states[at]):
            steps += 1
            number, new = seen.number(canonical(after), at, label)
            sources.append(at)
            targets.append(number)
            broken = broken_in(seen.states[number]) if new else None
            if broken is not None:
                return ended(seen.counterexample(broken, number))
        if steps == before and not model.may_stop(seen.states[at]):
            return ended(seen.counterexample("progress", at))
        at += 1
    for name, reached in model.goals().items():
        stuck = _first_stuck(seen.states, sources, targets, reached)
        if stuck is not None:
            return ended(seen.counterexample(name, stuck))
    return ended(None)


def _first_stuck(
    states: list[S], sources: array[int], targets: array[int], reached: Callable[[S], bool]
) -> int | None:
    """The first state from which no state that is ``reached`` can be reached."""
    before: list[list[int]] = [[] for _ in states]
    for source, target in zip(sources, targets, strict=True):
        before[target].append(source)
    able = bytearray(len(states))
    waiting = [number for number, state in enumerate(states) if reached(state)]
    for number in waiting:
        able[number] = 1
    while waiting:
        for source in before[waiting.pop()]:
            if not able[source]:
                able[source] = 1
                waiting.append(source)
    first = able.find(0)
    return None if first < 0 else first


def replay(model: Model[S], steps: Iterable[str]) -> set[S]:
    """The states in which the model may be after these steps: none if it does not allow them."""
    states = {model.canonical(state) for state in model.initial()}
    for step in steps:
        states = {
            model.canonical(after)
            for state in states
            for label, after in model.actions(state)
            if label == step
        }
    return states
