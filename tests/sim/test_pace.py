"""A run that has had its operations goes on more slowly."""

from __future__ import annotations

from dataclasses import replace

from sofs.sim.plan import Plan, draw_plan
from sofs.sim.run import run_seed

BUSY = Plan(clients=2, workloads=["registers"], faults=["cut"], fault_ms=2_000.0, think_ms=5.0)


def test_after_its_share_of_operations_a_run_goes_on_but_more_slowly() -> None:
    free, paced, unreached = (
        run_seed(3, plan=replace(BUSY, paced_after=after)) for after in (0, 40, 1_000_000)
    )
    assert free.ok
    assert paced.ok
    assert 40 < paced.operations < free.operations / 2
    # (Their digests differ: the plan is a part of the story.)
    assert (unreached.operations, unreached.callbacks) == (free.operations, free.callbacks)


def test_every_drawn_plan_has_a_pace_and_a_plan_that_was_saved_before_has_none() -> None:
    assert all(draw_plan(seed).paced_after > 0 for seed in range(20))
    assert Plan().paced_after == 0
