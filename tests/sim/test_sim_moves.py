"""Planned moves by way of the witnesses, in virtual time."""

from __future__ import annotations

import pytest

from sofs.sim.moves import CROSSING, DEADLY, PLAIN
from sofs.sim.plan import Plan
from sofs.sim.run import run_seed


def plan_of(*faults: str) -> Plan:
    return Plan(
        nodes=3,
        machines=3,
        witnesses=3,
        clients=3,
        workloads=["registers", "appends", "locks"],
        faults=list(faults),
        fault_every_ms=200.0,
        fault_ms=2_500.0,
        think_ms=10.0,
        lanes=2,
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_without_other_faults_every_move_is_made_also_those_that_cross(seed: int) -> None:
    outcome = run_seed(seed, plan=plan_of(PLAIN, CROSSING))
    assert outcome.ok, outcome.failures
    assert outcome.faults["move moved"] > 5
    assert "move refused" not in outcome.faults


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_moves_among_deaths_break_no_promise(seed: int) -> None:
    outcome = run_seed(seed, plan=plan_of(DEADLY, PLAIN, "kill-authority"))
    assert outcome.ok, outcome.failures
    assert outcome.faults["move moved"] > 1
