"""The same rounds on a real local Ray cluster: Ray starts again what is killed, every role has its
turn."""

from __future__ import annotations

from pathlib import Path

import pytest

import sofs
from sofs.testing import RayCluster

from .runner import Runner
from .test_kill_loop import play, workers_on
from .workloads import verify

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(3600)]

ROLES = ("node", "coordinator", "resume-key", "witness", "leader")


def test_every_role_is_killed_and_frozen_under_clients_on_ray(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--chaos-seed")
    rounds = request.config.getoption("--chaos-rounds")
    with RayCluster(tmp_path / "root") as cluster:
        workers = workers_on(cluster, seed)
        for worker in workers:
            worker.start()
        runner = Runner(cluster, workers, seed)
        counted = 0
        try:
            for role in ROLES:
                for fault in ("kill", "freeze"):
                    counted += runner.one(fault, runner.pick(role)) is not None
        finally:
            for worker in workers:
                worker.finish()
        wrong = runner.errors()
        if not wrong:
            with sofs.connect(cluster.url, credential=cluster.credential) as share:
                wrong += verify(workers, share)
        assert not wrong, "\n".join([f"seed {seed}:", *wrong, cluster.last_words()])
        assert counted == 2 * len(ROLES), "rounds with nothing in flight do not count"
        play(cluster, [(f, role) for role in ROLES for f in ("kill", "freeze")], seed, rounds, 1)
