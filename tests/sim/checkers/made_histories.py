"""Histories for the tests of the checkers: told step by step, or drawn from a seed.

``drawn`` plays clients against a model: each operation is called, takes effect at some later event,
and returns at a later one still, so the history is linearizable by construction.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

from sofs.sim.checkers.wgl import Model
from sofs.sim.history import History, Operation

Draw = Callable[[random.Random, int], tuple[str, tuple[Any, ...]]]


class Story(History):
    """A history told in the order of its events: ``call`` returns an operation, ``ok``, ``refused``
    and ``unknown`` end it, ``did`` is a call and its return at once."""

    def __init__(self) -> None:
        super().__init__(itertools.count(0, 1000).__next__)

    def call(self, client: str, kind: str, *arguments: Any, key: str = "/f") -> Operation:
        return self.invoke(client, kind, key, *arguments)

    def did(
        self, client: str, kind: str, *arguments: Any, gives: Any = None, key: str = "/f"
    ) -> Operation:
        operation = self.invoke(client, kind, key, *arguments)
        self.ok(operation, gives)
        return operation


def drawn(
    model: Model[Any],
    answer: Callable[[Any, Operation], Any],
    draw: Draw,
    *,
    seed: int,
    clients: int = 4,
    operations: int = 30,
    unknown: float = 0.1,
) -> History:
    """A random linearizable history. ``answer``: the result that the model gives in a state;
    ``draw``: the next (kind, arguments)."""
    chance = random.Random(seed)
    story = Story()
    state = model.initial()
    open_: list[tuple[Operation, bool]] = []  # (operation, has taken effect)
    called = 0
    while called < operations or open_:
        choice = chance.random()
        if called < operations and len(open_) < clients and choice < 0.5:
            kind, arguments = draw(chance, called)
            called += 1
            open_.append((story.call(f"c{called}", kind, *arguments), False))
        elif open_:
            at = chance.randrange(len(open_))
            operation, done = open_.pop(at)
            if done:
                if chance.random() < unknown:
                    operation.result = None
                    story.unknown(operation, "UNKNOWN_OUTCOME")
                else:
                    story.ok(operation, operation.result)
            elif chance.random() < unknown / 2:
                story.unknown(operation, "UNKNOWN_OUTCOME")  # Never takes effect.
            else:
                operation.result = answer(state, operation)
                after = model.step(state, operation)
                if after is None:
                    story.refused(operation, "OTHER")
                    continue
                state = after
                open_.append((operation, True))
    return story


def brute_force(model: Model[Any], operations: Sequence[Operation]) -> bool:
    """Whether any order of any choice of the operations explains them: by trying all."""
    definite = [o for o in operations if not o.maybe]
    maybes = [o for o in operations if o.maybe]
    for count in range(len(maybes) + 1):
        for some in itertools.combinations(maybes, count):
            for order in itertools.permutations([*definite, *some]):
                if _respects_time(order) and _plays(model, order):
                    return True
    return False


def _respects_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.end < earlier.called for i, earlier in enumerate(order) for later in order[i + 1 :]
    )


def _plays(model: Model[Any], order: Sequence[Operation]) -> bool:
    state = model.initial()
    for operation in order:
        state = model.step(state, operation)
        if state is None:
            return False
    return True
