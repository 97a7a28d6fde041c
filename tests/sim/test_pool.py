"""The processes that many runs share out among them."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from sofs.sim.pool import pool

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
TOGETHER = multiprocessing.get_context("fork").Barrier(PROCESSORS)


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
