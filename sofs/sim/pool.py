"""Processes for many runs: each keeps to one processor, and is replaced before its garbage counts.

They have the collector off, so that nothing is taken apart that the end of the process gives back
(``run.quiet``), and SQLite has no locks in them.

Runs whose system calls interleave hand over between threads at each of them (``baton``). On one
processor that is a switch; between two it is a wake-up, which costs several times as much.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.pool
import os
from typing import Any, Final

from sofs.storage import without_locks

RUNS_A_PROCESS: Final = 8  # A run leaves 10 MB, some leave 50; a new process takes 20 ms.


def pool(processes: int, runs_a_process: int = RUNS_A_PROCESS) -> multiprocessing.pool.Pool:
    """A pool of ``processes`` for runs. What was imported before is not imported again."""
    context = multiprocessing.get_context("fork")
    pids = context.Array("l", processes)  # By place: who has it, dead or alive.
    return context.Pool(processes, _begin, (pids,), maxtasksperchild=runs_a_process)


def _begin(pids: Any) -> None:
    """In a new process of the pool."""
    gc.disable()
    without_locks()
    if not hasattr(os, "sched_setaffinity"):
        return
    processors = sorted(os.sched_getaffinity(0))
    with pids.get_lock():
        free = [place for place, pid in enumerate(pids) if not pid or not _lives(pid)]
        if not free:
            return
        pids[free[0]] = os.getpid()
    os.sched_setaffinity(0, {processors[free[0] % len(processors)]})


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
