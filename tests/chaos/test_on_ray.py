"""The same rounds on a real local Ray cluster: Ray starts again what is killed, every role has its
turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from sofs.testing import RayCluster

from .test_kill_loop import ROLES, play

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(3600)]

FAULTS = [(fault, role) for role in (*ROLES, "leader") for fault in ("kill", "freeze")]


def test_every_role_is_killed_and_frozen_under_clients_on_ray(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--chaos-seed")
    rounds = request.config.getoption("--chaos-rounds")
    with RayCluster(tmp_path / "root") as cluster:
        play(cluster, FAULTS, seed, len(FAULTS) + rounds)
