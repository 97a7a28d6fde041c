"""Faults at a step of a protocol: something happens when a process makes a certain system call.

A protocol's windows are microseconds wide, and a fault at a random moment rarely meets one. A
``Trap`` waits for the n-th call of a kind, on a path, by one process or by any other, and acts just
before or just after its effect. Which traps are laid is drawn from the seed like any fault.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sofs.sim.world import SimProcess

# What may be trapped: (system call, part of its path).
STEPS: Final = (
    ("pwritev", "/logs/"),
    ("fsync", "/logs/"),
    ("stat_at", "/claims/"),
    ("link", "/claims/"),
    ("link", "/checkpoints/"),
    ("unlink", "/checkpoints/"),
    ("unlink", "/logs/"),
    ("pread", "/logs/"),
)
SLOT_STEPS: Final = (
    ("create", "/logs/"),
    ("create", "/claims/"),
    ("create", "/checkpoints/"),
    ("delete", "/checkpoints/"),
    ("delete", "/logs/"),
    ("get", "/claims/"),
    ("get", "/logs/"),
    ("list", "/logs/"),
)
TRAPS_MAX: Final = 16  # Laid at the same time; the oldest goes.


@dataclass(eq=False)
class Trap:
    """``process``: whose call it is; ``other``: anybody's but its. ``left``: how many of the calls
    pass before it acts."""

    process: SimProcess
    call: str
    path: str
    after: bool
    left: int
    action: Callable[[SimProcess, str], None]
    other: bool = False


class Traps:
    """Called around the effect of every system call (``disk.SimOs``), and of every request to the
    object store when it lands there (``objects``)."""

    def __init__(self) -> None:
        self._laid: list[Trap] = []

    def lay(self, trap: Trap) -> None:
        self._laid.append(trap)
        del self._laid[:-TRAPS_MAX]

    def clear(self) -> None:
        self._laid.clear()

    def __call__(self, process: SimProcess, call: str, path: str, after: bool) -> None:
        if not self._laid or process.dead:
            return
        for trap in list(self._laid):
            if (trap.process is process) == trap.other or (trap.call, trap.after) != (call, after):
                continue
            if trap.path not in path:
                continue
            trap.left -= 1
            if trap.left <= 0:
                self._laid.remove(trap)
                trap.action(process, path)


def drawn(
    draw: random.Random,
    process: SimProcess,
    action: Callable[[SimProcess, str], None],
    calls: Sequence[str] = (),
    slots: bool = False,
) -> Trap:
    """A trap at a step of ``process``: at one of ``calls``, or any."""
    steps = SLOT_STEPS if slots else STEPS
    call, path = draw.choice([step for step in steps if step[0] in calls] or steps)
    return Trap(process, call, path, draw.random() < 0.7, draw.choice((1, 1, 2, 5, 20)), action)
