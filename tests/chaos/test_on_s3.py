"""A volume on an object store: the same promises, kept with whole objects and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from s3_servers import BUCKET, environment, seaweedfs, weed

import sofs
from sofs.testing import LocalCluster

from .runner import Runner
from .test_kill_loop import workers_on
from .workloads import verify

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

FAULTS = [("kill", "node"), ("kill", "coordinator"), ("kill", "resume-key"), ("freeze", "node")]
SHORT_ROUNDS = 4


def test_a_volume_on_s3_loses_nothing_while_its_nodes_and_authority_are_killed(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if weed() is None:
        pytest.skip("there is no SeaweedFS program for this kind of machine")
    seed = request.config.getoption("--chaos-seed")
    rounds = request.config.getoption("--chaos-rounds") or SHORT_ROUNDS
    (data := tmp_path / "weed").mkdir()
    with environment(), seaweedfs(data) as endpoint:
        root = f"s3://{BUCKET}/root?endpoint_url={endpoint}"
        with LocalCluster(root) as cluster:
            workers = workers_on(cluster, seed)
            for worker in workers:
                worker.start()
            runner = Runner(cluster, workers, seed)
            try:
                runner.run(FAULTS, rounds)
            finally:
                for worker in workers:
                    worker.finish()
            wrong = runner.errors()
            if not wrong:
                with sofs.connect(cluster.url, credential=cluster.credential) as share:
                    wrong += verify(workers, share)
            assert not wrong, f"seed {seed}: {wrong}\n{cluster.last_words()}"
            assert len(runner.rounds) == rounds
