"""The processes that many runs share out among them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import apsw
import pytest

from sofs.sim.pool import pool
from sofs.storage import ApswState, without_locks

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
TOGETHER = multiprocessing.get_context("fork").Barrier(PROCESSORS)

BEGUN = """
import apsw, gc
from sofs.sim.pool import pool
from sofs.storage import ApswState
def begun(_):
    state = ApswState.create(["CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)"])
    state.execute("INSERT INTO t VALUES (1, zeroblob(100000))")
    return gc.isenabled(), apsw.status(apsw.SQLITE_STATUS_MEMORY_USED)[0]
with pool(1) as workers:
    print(*workers.map(begun, [0])[0])
"""


def _processors(_: int) -> tuple[int, ...]:
    TOGETHER.wait(60)  # All processes are here at the same time.
    return tuple(sorted(os.sched_getaffinity(0)))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there are no affinities here")
def test_each_process_has_a_processor_of_its_own_and_so_has_the_one_that_replaces_it() -> None:
    all_of_them = [(processor,) for processor in sorted(os.sched_getaffinity(0))]
    with pool(PROCESSORS, runs_a_process=1) as workers:
        for _ in range(3):
            assert sorted(workers.map(_processors, range(PROCESSORS), 1)) == all_of_them
    assert len(os.sched_getaffinity(0)) == PROCESSORS


def test_its_processes_collect_no_garbage_and_their_database_counts_no_memory() -> None:
    # In a process of its own: this one may have databases open.
    done = subprocess.run(
        [sys.executable, "-c", BEGUN], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "0"], done.stderr


def test_a_process_with_an_open_database_keeps_its_locks() -> None:
    state = ApswState.create(["CREATE TABLE t (a INTEGER PRIMARY KEY)"])
    try:
        assert not without_locks()
        assert apsw.status(apsw.SQLITE_STATUS_MEMORY_USED)[0] > 0
    finally:
        state.close()
