"""Locks exclude, and nobody loses one: judged without a search, for histories of any length.

A lock is surely held from the return of ``lock`` until the call of the first ``unlock`` of its
range, or ``release`` of its holder, that was not refused. Two that exclude each other are never
surely held at the same time. And as long as a lock is surely held, its holder is never told that it
has none. What may take a lock from an absent holder, such as the end of its handle's timeout, is a
``release`` too: whoever records the history enters it, with an unknown outcome, when the holder's
absence has become long enough. Whatever may end a lock and overlaps its grant leaves it unsure.

A refusal is judged, too: somebody must hold, or wait for, a lock that conflicts at some moment of
it. Who waits counts, since locks are granted in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sofs.sim.checkers.models import HeldRange
from sofs.sim.checkers.violation import Violation
from sofs.sim.history import History, Operation

CHECKER: Final = "lock exclusion"
REFUSED_CODES: Final = ("LOCK_NOT_GRANTED", "NOT_ITS_TURN")
LOST_CODES: Final = ("RANGE_NOT_LOCKED", "HANDLE_LOST", "FILE_CLOSED", "EXPIRED")


@dataclass(frozen=True, slots=True)
class Held:
    """A lock while it is surely held: events ``since`` to ``until``."""

    range: HeldRange
    since: float
    until: float
    lock: Operation


def check_exclusion(history: History) -> list[Violation]:
    """Judge the locks of every file."""
    found: list[Violation] = []
    for operations in history.by_key("lock", "unlock", "release").values():
        held = _held(operations)
        found += _check_pairs(held)
        found += _check_lost(held, operations)
        found += _check_refused(operations)
    return found


def _held(operations: Sequence[Operation]) -> list[Held]:
    held: list[Held] = []
    for lock in operations:
        if lock.kind != "lock" or lock.outcome != "ok":
            continue
        span = HeldRange(*lock.arguments)
        ends = [o for o in operations if _may_end(o, lock, span)]
        until = min((o.called for o in ends), default=float("inf"))
        if lock.end < until:
            held.append(Held(span, lock.end, until, lock))
    return held


def _may_end(operation: Operation, lock: Operation, span: HeldRange) -> bool:
    """Whether the operation can have taken effect after the lock was granted, and ended it."""
    if operation.kind == "lock" or operation.outcome == "refused":
        return False
    return operation.end > lock.called and _ends(operation, span)


def _ends(operation: Operation, span: HeldRange) -> bool:
    if operation.kind == "release":
        return bool(operation.arguments[0] == span.holder)
    return operation.arguments == (span.offset, span.length, span.holder)


def _check_pairs(held: Sequence[Held]) -> list[Violation]:
    found: list[Violation] = []
    active: list[Held] = []
    for one in sorted(held, key=lambda h: h.since):
        active = [h for h in active if h.until > one.since]
        for other in active:
            if other.range.excludes(one.range) and other.range.holder != one.range.holder:
                message = (
                    f"{one.range.holder} got {one.lock} while {other.range.holder} held "
                    f"{other.lock}"
                )
                found.append(Violation(CHECKER, message, (other.lock, one.lock)))
        active.append(one)
    return found


def _check_lost(held: Sequence[Held], operations: Sequence[Operation]) -> list[Violation]:
    """A holder is told that its lock is not there, though it never gave it back."""
    found: list[Violation] = []
    for told in operations:
        if told.kind == "lock" or told.outcome != "refused" or told.code not in LOST_CODES:
            continue
        for one in held:
            if _ends(told, one.range) and one.since < told.called and told.end < one.until:
                message = f"{one.range.holder} lost {one.lock} before it gave it back: {told}"
                found.append(Violation(CHECKER, message, (one.lock, told)))
                break
    return found


def _check_refused(operations: Sequence[Operation]) -> list[Violation]:
    """A lock was refused, and nobody held or waited for one that conflicts while it was tried."""
    spans = [
        (lock, HeldRange(*lock.arguments), _latest_end(lock, operations))
        for lock in operations
        if lock.kind == "lock"
    ]
    found: list[Violation] = []
    for told, wanted, _ in spans:
        if told.outcome != "refused" or told.code not in REFUSED_CODES:
            continue
        near = [
            other for other, span, until in spans
            if other is not told and (span.excludes(wanted) or wanted.excludes(span))
            and other.called < told.end and until > told.called
        ]  # fmt: skip
        if not near:
            message = f"{told}, though nobody held or wanted a lock that conflicts"
            found.append(Violation(CHECKER, message, (told,)))
    return found


def _latest_end(lock: Operation, operations: Sequence[Operation]) -> float:
    """Until when the lock may have been held or waited for."""
    if lock.outcome == "refused":
        return lock.end
    span = HeldRange(*lock.arguments)
    return min(
        (
            o.end for o in operations
            if o.kind != "lock" and o.outcome == "ok" and o.called > lock.end and _ends(o, span)
        ),
        default=float("inf"),
    )  # fmt: skip
