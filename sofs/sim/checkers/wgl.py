"""Is a history linearizable? The algorithm of Wing and Gong, with Lowe's memory of configurations,
as in Porcupine.

A history is linearizable when every operation can be given one point between its call and its
return so that the operations, taken in the order of their points, do what the sequential model
says. The search takes, of the operations that were called before the first return that is still to
be explained, one that the model allows next, and goes on; at a return that no choice explains it
goes back. A *configuration* is which operations were taken and the state of the model; one seen
before is not entered again.

Operations whose outcome nobody knows have no return. They need not be taken at all, and may be
taken at any point after their call. They are tried when nothing else can go on, newest first: that
is where the truth mostly is. Of the others the one that returns first is tried first. A
configuration is also passed over when one with the same state and the same definite operations was
seen which had used *fewer* of the unknown ones: whatever the former can still do, the latter could.

The search is bounded by ``steps_max`` questions to the model. Beyond it the verdict is
``undecided``, which is not a pass. The time of a step is that of the model and of copying a bit an
operation, so histories of some thousand operations a part are practical; the caller splits a
history into independent parts first (``linear.py``).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, Protocol, TypeVar

from sofs.sim.history import Operation

STEPS_MAX: Final = 200_000
HORIZONS: Final = (8, 64)

S = TypeVar("S", bound=Hashable)


class Model(Protocol[S]):
    """A sequential object. States are values: hashable, and never changed."""

    def initial(self) -> S:
        """The state before the first operation."""

    def step(self, state: S, operation: Operation) -> S | None:
        """The state after ``operation``, or None when it could not have happened in ``state``.

        Of an ok operation the result is checked. A refused one leaves the state, and is impossible
        when its code tells of something that is not so. One of unknown outcome takes effect: that
        it may not have is the search's affair.
        """

    def describe(self, state: S) -> str:
        """The state, for people, in a line."""


@dataclass
class Verdict(Generic[S]):
    """``order``: a linearization, or the longest one found. ``stuck``: the operation whose return
    could not be explained after it; ``state``: the state then."""

    outcome: Literal["linearizable", "violated", "undecided"]
    steps: int
    order: list[Operation] = field(default_factory=list)
    stuck: Operation | None = None
    state: S | None = None


@dataclass(slots=True)
class _Point(Generic[S]):
    """A configuration on the way, and which of its choices comes next. Choices are entries (calls
    of definite operations), then ``-1 - n`` for the n-th operation of unknown outcome."""

    state: S
    definite: int
    used: int
    choices: list[int]
    next: int = 0


class _Search(Generic[S]):
    """One run of the algorithm. Entries 1.. are calls and returns of definite operations in the
    order of events, doubly linked; 0 is the head."""

    def __init__(
        self,
        model: Model[S],
        operations: Sequence[Operation],
        steps_max: int,
        horizon: int | None,
    ) -> None:
        self.model = model
        self.steps_max = steps_max
        self.definite = [o for o in operations if not o.maybe]
        self.maybes = sorted((o for o in operations if o.maybe), key=lambda o: -o.called)
        events: list[tuple[float, int, bool]] = []
        for index, operation in enumerate(self.definite):
            events.append((operation.called, index, False))
            events.append((operation.end, index, True))
        events.sort()
        count = len(events)
        self.place = [0.0, *(event[0] for event in events)]
        self.index = [-1, *(event[1] for event in events)]
        self.is_return = [False, *(event[2] for event in events)]
        self.next = [*range(1, count + 1), 0]
        self.previous = [count, *range(count)]
        self.return_of = [0] * len(self.definite)
        for entry in range(1, count + 1):
            if self.is_return[entry]:
                self.return_of[self.index[entry]] = entry
        returns = [place for place, _, is_return in events if is_return]
        self.until = [_until(returns, o, horizon) for o in self.maybes]
        self.seen: dict[tuple[int, S], list[int]] = {}
        self.path: list[_Point[S]] = []
        self.best: list[Operation] = []
        self.best_state = model.initial()
        self.stuck: Operation | None = None

    def lift(self, entry: int) -> None:
        """Take a call and its return out of the list."""
        following, preceding = self.next, self.previous
        for e in (entry, self.return_of[self.index[entry]]):
            following[preceding[e]] = following[e]
            preceding[following[e]] = preceding[e]

    def put_back(self, entry: int) -> None:
        following, preceding = self.next, self.previous
        for e in (self.return_of[self.index[entry]], entry):
            following[preceding[e]] = e
            preceding[following[e]] = e

    def is_new(self, definite: int, used: int, state: S) -> bool:
        """Whether no configuration was seen that could do whatever this one can."""
        seen = self.seen.setdefault((definite, state), [])
        if any(other & used == other for other in seen):
            return False
        seen[:] = [other for other in seen if used & other != used]
        seen.append(used)
        return True

    def choices(self, used: int) -> list[int]:
        """What may be taken next: called before the first return that is left. The operation that
        must return first comes first, so that others are taken early only when that helps."""
        entry, calls = self.next[0], []
        while not self.is_return[entry]:
            calls.append(entry)
            entry = self.next[entry]
        calls.sort(key=lambda call: self.return_of[self.index[call]])
        place = self.place[entry]
        for number, operation in enumerate(self.maybes):
            if not used >> number & 1 and operation.called < place <= self.until[number]:
                calls.append(-1 - number)
        return calls

    def run(self) -> Verdict[S]:
        steps = 0
        if not self.next[0]:
            return self.verdict("linearizable", steps)
        self.path.append(_Point(self.model.initial(), 0, 0, self.choices(0)))
        while self.path:
            point = self.path[-1]
            if point.next == len(point.choices):
                self.remember(point)
                self.path.pop()
                if self.path:
                    taken = self.path[-1].choices[self.path[-1].next - 1]
                    if taken > 0:
                        self.put_back(taken)
                continue
            if steps >= self.steps_max:
                return self.verdict("undecided", steps)
            steps += 1
            choice = point.choices[point.next]
            point.next += 1
            after = self.model.step(point.state, self.operation(choice))
            if after is None or (choice < 0 and after == point.state):
                continue
            definite, used = point.definite, point.used
            if choice > 0:
                definite |= 1 << self.index[choice]
            else:
                used |= 1 << -1 - choice
            if not self.is_new(definite, used, after):
                continue
            if choice > 0:
                self.lift(choice)
            if not self.next[0]:
                self.best, self.best_state, self.stuck = self.order(), after, None
                return self.verdict("linearizable", steps)
            self.path.append(_Point(after, definite, used, self.choices(used)))
        return self.verdict("violated", steps)

    def operation(self, choice: int) -> Operation:
        return self.definite[self.index[choice]] if choice > 0 else self.maybes[-1 - choice]

    def order(self) -> list[Operation]:
        """The operations taken on the way to where the search is."""
        return [self.operation(point.choices[point.next - 1]) for point in self.path]

    def remember(self, point: _Point[S]) -> None:
        """Nothing goes on from ``point``: keep it if it is the farthest of these."""
        if self.stuck is None or len(self.path) - 1 > len(self.best):
            self.best, self.best_state = self.order()[:-1], point.state
            self.stuck = self.operation(point.choices[0])

    def verdict(
        self, outcome: Literal["linearizable", "violated", "undecided"], steps: int
    ) -> Verdict[S]:
        return Verdict(outcome, steps, self.best, self.stuck, self.best_state)


def _until(returns: Sequence[float], operation: Operation, horizon: int | None) -> float:
    if horizon is None:
        return math.inf
    at = bisect.bisect(returns, operation.called) + horizon
    return returns[at] if at < len(returns) else math.inf


def linearize(
    model: Model[S],
    operations: Sequence[Operation],
    *,
    steps_max: int = STEPS_MAX,
    horizon: int | None = None,
) -> Verdict[S]:
    """Judge one object's operations against its model.

    With a ``horizon``, operations of unknown outcome take effect before that many others have
    returned, or never: "linearizable" is then as good as without, "violated" is not.
    """
    return _Search(model, operations, steps_max, horizon).run()


def judge(
    model: Model[S], operations: Sequence[Operation], *, steps_max: int = STEPS_MAX
) -> Verdict[S]:
    """``linearize``, at first with small horizons: what nobody knows to have happened mostly
    happened soon or never, and the search for that is short. Each try has ``steps_max`` steps."""
    definite = [o for o in operations if not o.maybe]
    verdict = linearize(model, definite, steps_max=steps_max)
    if len(definite) == len(operations):
        return verdict
    for horizon in (*HORIZONS, None):
        if verdict.outcome != "linearizable":
            last = linearize(model, operations, steps_max=steps_max, horizon=horizon)
            if last.stuck is not None or last.outcome == "linearizable":
                verdict = last
            verdict.outcome = last.outcome
    return verdict
