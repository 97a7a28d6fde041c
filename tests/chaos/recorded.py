"""What chaos clients did and saw, judged by the simulator's checkers.

Workers on shared files record their operations in one ``History``; the runner notes its faults
between them. At the end ``judge`` holds the history, and what is stored, to linearizability of
shared registers, appended files, locks and counters, and to exactly-once.

Cost. The search (``sofs/sim/checkers/wgl.py``) grows with the operations in flight on one object,
and with the length of what cannot be split. So few workers share a file; what is read and written
stays inside pages, which are judged one by one; appended files are short, and are followed by new
ones. What is not decided within STEPS_MAX steps an object is a failure that says so: more rounds
need smaller files, not a blind eye.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from sofs.sim.checkers.appends import check_appends
from sofs.sim.checkers.contents import check_contents
from sofs.sim.checkers.exclusion import check_exclusion
from sofs.sim.checkers.linear import check_linearizable
from sofs.sim.checkers.once import check_totals
from sofs.sim.checkers.violation import Violation, stories
from sofs.sim.history import History, Operation

STEPS_MAX: Final = 1_000_000  # Questions to the model, for each object.
LOG_APPENDS: Final = 200  # Of one worker to one file; then it goes on to the next.
REGISTERS: Final = 16
PAGE: Final = 4096
REGISTER_BYTES: Final = 64


def new_history() -> History:
    """An empty history in the time of this process."""
    return History(lambda: time.monotonic_ns() // 1000)


class Told:
    """What the caller says that an operation returned."""

    result: Any = None


@contextmanager
def recorded(history: History, client: str, kind: str, key: str, *arguments: Any) -> Iterator[Told]:
    """Record the block as one operation. What raises, it may have happened: the run fails anyway,
    and the history must not say more than is known."""
    operation: Operation = history.invoke(client, kind, key, *arguments)
    told = Told()
    try:
        yield told
    except BaseException as error:
        history.unknown(operation, type(error).__name__)
        raise
    history.ok(operation, told.result)


def violations(
    history: History,
    finals: Mapping[str, bytes],
    before: Mapping[str, bytes],
    totals: Mapping[str, int],
) -> list[Violation]:
    """Everything that the history and what is stored in the end break. ``finals``: contents of
    shared files; ``before``: what they held before; ``totals``: counters."""
    return [
        *check_linearizable(history, contents=before, steps_max=STEPS_MAX),
        *check_contents(history, finals, before=before),
        *check_appends(history, finals),
        *check_exclusion(history),
        *check_totals(history, totals),
    ]


def judge(
    history: History,
    finals: Mapping[str, bytes],
    before: Mapping[str, bytes],
    totals: Mapping[str, int],
) -> list[str]:
    """``violations`` with the operations around them, for the message of a failed test."""
    found = violations(history, finals, before, totals)
    return [stories(history, found)] if found else []
