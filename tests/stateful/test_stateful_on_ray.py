"""The same state machine, a few short runs of it, on a real local Ray cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from fs_machine import FileSystemMachine
from fs_ray_world import RayWorld
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from sofs.testing import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

LONG = settings.get_current_profile_name() == "long"
EXAMPLES = 40 if LONG else 4
STEPS = 40 if LONG else 20


def test_what_the_model_says_holds_on_real_processes(tmp_path: Path) -> None:
    with RayCluster(tmp_path / "root") as cluster:

        class OnRay(FileSystemMachine):
            make_world = staticmethod(lambda: RayWorld(cluster))
            kills_max = 1

        run_state_machine_as_test(
            OnRay,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                phases=[Phase.generate],
                derandomize=not LONG,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
