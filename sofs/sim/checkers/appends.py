"""Appends take effect exactly once, in order, at the place that the client was told.

For files that are only appended to: the file must be a row of appended records without a gap or a
rest. Those with a known offset stand there; what lies between must be records whose offset nobody
was told, each used at most once, and those that were acknowledged all used. So a record that is
lost, doubled, torn, or refused and yet there, leaves bytes that no record explains.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from sofs.sim.checkers.violation import Violation
from sofs.sim.history import History, Operation, show

CHECKER: Final = "appends"
STEPS_MAX: Final = 100_000


def check_appends(history: History, finals: Mapping[str, bytes]) -> list[Violation]:
    """Judge files that the history only appends to (and that were empty before): where their
    appends were told to be, and of those in ``finals`` what they hold."""
    found: list[Violation] = []
    others = history.by_key("write", "truncate")
    for key, operations in history.by_key("append").items():
        done = [o for o in operations if o.outcome != "refused" and o.arguments[0]]
        if key in others:
            continue
        found += _check_order(key, done)
        if key in finals:
            found += _check_row(key, finals[key], done)
    return found


def _told(operation: Operation) -> bool:
    return operation.outcome == "ok" and operation.result is not None


def _check_order(key: str, operations: Sequence[Operation]) -> list[Violation]:
    """An append that began after another had returned lies behind it, and none overlap. Only in a
    file that never shrinks."""
    told = sorted((o for o in operations if _told(o)), key=lambda o: int(o.result))
    found: list[Violation] = []
    for one, two in itertools.pairwise(told):
        end = int(one.result) + len(one.arguments[0])
        if end > int(two.result):
            message = f"two appends to {key} were told overlapping places: {one} and {two}"
            found.append(Violation(CHECKER, message, (one, two)))
    first_end: Operation | None = None
    for operation in reversed(told):
        if first_end is not None and first_end.end < operation.called:
            message = f"{operation} began after {first_end} had returned, but lies before it"
            found.append(Violation(CHECKER, message, (first_end, operation)))
        if first_end is None or operation.end < first_end.end:
            first_end = operation
    return found


def _check_row(key: str, final: bytes, operations: Sequence[Operation]) -> list[Violation]:
    placed = {int(o.result): o for o in operations if _told(o)}
    free = [o for o in operations if not _told(o)]
    for offset, operation in sorted(placed.items()):
        there = final[offset : offset + len(operation.arguments[0])]
        if there != operation.arguments[0]:
            message = f"{operation} was acknowledged, but {key} holds {show(there)} there"
            return [Violation(CHECKER, message, (operation,))]
    at, used = _farthest(final, placed, free)
    if at < len(final):
        message = (
            f"{key} bytes {at}.. hold {show(final[at : at + 64])}, which no append explains: lost, "
            f"doubled, torn, or refused and yet there (of {len(free)} that nobody was told of, "
            f"{len(used)} are in the file)"
        )
        near = [o for o in operations if _told(o) and abs(int(o.result) - at) < 4096]
        return [Violation(CHECKER, message, tuple(near[-3:]))]
    return [
        Violation(CHECKER, f"{o} was acknowledged, but is not in {key}", (o,))
        for o in free
        if not o.maybe and o.number not in used
    ]


def _farthest(
    final: bytes, placed: Mapping[int, Operation], free: Sequence[Operation]
) -> tuple[int, frozenset[int]]:
    """How far the file can be explained from its start, and by which of ``free``. Acknowledged
    ones are tried first; the search is bounded, and stops with the farthest."""
    order = sorted(free, key=lambda o: (o.maybe, o.called))
    best: tuple[int, frozenset[int]] = (0, frozenset())
    stack: list[tuple[int, frozenset[int]]] = [best]
    must = frozenset(o.number for o in free if not o.maybe)
    for _ in range(STEPS_MAX):
        if not stack:
            break
        at, used = stack.pop()
        while at in placed:
            at += len(placed[at].arguments[0])
        if (at, len(used & must)) > (best[0], len(best[1] & must)):
            best = (at, used)
        if at == len(final) and must <= used:
            break
        fits = [
            o for o in order
            if o.number not in used and final.startswith(o.arguments[0], at)
        ]  # fmt: skip
        stack += [(at + len(o.arguments[0]), used | {o.number}) for o in reversed(fits)]
    return best
