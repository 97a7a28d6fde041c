"""Exactly once: what was acknowledged is there one time, what was refused is not there, and what
nobody knows of is there at most once.

The caller says how often the effect of an operation shows in the end; each must be recognisable by
itself (a name, a tagged line, a number's increments).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sofs.sim.checkers.violation import Violation, named
from sofs.sim.history import History, Operation

CHECKER: Final = "exactly once"


def check_once(
    history: History, kinds: Sequence[str], times: Callable[[Operation], int]
) -> list[Violation]:
    """Judge operations of ``kinds``; ``times``: how often the effect of one shows in the end."""
    found: list[Violation] = []
    for operation in history.of(*kinds):
        count = times(operation)
        least, most = _bounds(operation)
        if not least <= count <= most:
            wanted = str(least) if least == most else f"{least} or {most}"
            message = f"{operation} shows {count} times, not {wanted}"
            found.append(Violation(CHECKER, message, (operation,)))
    return found


def _bounds(operation: Operation) -> tuple[int, int]:
    if operation.outcome == "refused":
        return 0, 0
    return (0, 1) if operation.maybe else (1, 1)


def check_totals(history: History, finals: Mapping[str, int]) -> list[Violation]:
    """Judge numbers that ``add`` only raises (from 0): at least what was acknowledged, at most what
    may have happened, too. ``finals``: what they are in the end."""
    found: list[Violation] = []
    for key, operations in history.by_key("add").items():
        if key not in finals:
            continue
        surely = sum(int(o.arguments[0]) for o in operations if o.outcome == "ok")
        maybes = [o for o in operations if o.maybe]
        most = surely + sum(int(o.arguments[0]) for o in maybes)
        if not surely <= finals[key] <= most:
            message = (
                f"{key} is {finals[key]}, but acknowledged additions make {surely}"
                f"{f', with {named(maybes)} at most {most}' if maybes else ''}"
            )
            found.append(Violation(CHECKER, message, tuple(operations[-3:])))
    return found


def check_equal(what: str, expected: Any, found: Any) -> list[Violation]:
    """A plain comparison, such as of a sole client's own model with what is stored."""
    if expected == found:
        return []
    return [Violation(CHECKER, f"{what}: {found!r} instead of {expected!r}")]
