"""What the simulator found once is tried for ever, and the file that says what is read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from sofs.sim.main import Row, parse_regression, save
from sofs.sim.plan import draw_plan
from sofs.sim.run import run_seed

FILE = Path(__file__).with_name("regressions.txt")
LINES = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.partition(" ")[0])
def test_a_run_that_failed_once_holds_every_promise(line: str) -> None:
    seed, plan = parse_regression(line)
    outcome = run_seed(seed, plan=plan)
    assert outcome.ok, f"replay with `sofs sim --regression '{line}' --trace`: {outcome.failures}"


def test_a_saved_run_is_the_same_run_whatever_becomes_of_its_seeds_plan(tmp_path: Path) -> None:
    path = tmp_path / "regressions.txt"
    plan = draw_plan(11)
    row = Row(11, ["something # odd\nsecond line"], plan.to_json(), 0, 0, 0, 0, 0)
    save(path, [row])
    save(path, [row])
    [line] = [line for line in path.read_text().splitlines() if not line.startswith("# ")]
    assert parse_regression(line) == (11, plan)
