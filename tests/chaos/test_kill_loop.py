"""Kill and freeze the processes that serve a volume, again and again, under clients of every
kind."""

from __future__ import annotations

from pathlib import Path

import pytest

import sofs
from sofs.testing import LocalCluster, RayCluster

from .runner import Runner
from .workloads import Appender, BlockWriter, Counter, Namer, Worker, verify_counter

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

FAULTS = [
    ("kill", "node"),
    ("kill", "node"),
    ("kill", "coordinator"),
    ("kill", "resume-key"),
    ("freeze", "node"),
    ("freeze", "coordinator"),
    ("freeze", "resume-key"),
]
SHORT_ROUNDS = 12


def workers_on(cluster: LocalCluster | RayCluster, seed: int) -> list[Worker]:
    """Two of each kind, on different nodes."""

    def connect_at(node: int):  # type: ignore[no-untyped-def]
        return lambda: sofs.connect(cluster.url_from(f"node-{node}"), credential=cluster.credential)

    kinds: list[type[Worker]] = [BlockWriter, Appender, Counter, Namer]
    return [
        kind(f"{kind.__name__.lower()}-{i}", connect_at(1 + (n + i) % 3), seed)
        for n, kind in enumerate(kinds)
        for i in range(2)
    ]


def test_no_acknowledged_operation_is_lost_or_doubled_while_processes_are_killed_and_frozen(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--chaos-seed")
    rounds = request.config.getoption("--chaos-rounds") or SHORT_ROUNDS
    with LocalCluster(tmp_path / "root") as cluster:
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
                for worker in workers:
                    wrong += worker.verify(share)
                wrong += verify_counter(workers, share)
        assert not wrong, f"seed {seed}: {wrong}\n{cluster.last_words()}"
        assert len(runner.rounds) == rounds
