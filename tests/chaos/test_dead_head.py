"""Ray's head is dead for a long time under clients, and the next head adopts the cluster.

At Ray's defaults every raylet, and so every part, would die 60 s after its head. The long form
(`make chaos`) goes beyond that; the short one shows the rest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import sofs
from sofs.testing import RayCluster

from .recorded import new_history
from .runner import Runner
from .workloads import Appender, BlockWriter, Worker, verify

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(900)]

SHORT_S = 8.0
LONG_S = 75.0  # Ray's own limit is 60.
BACK_S_MAX = 90.0


def until(condition: Callable[[], bool], what: str, cluster: RayCluster) -> None:
    deadline = time.monotonic() + BACK_S_MAX
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}\n{cluster.last_words()}"
        time.sleep(0.05)


# Nodes and authorities may begin a new life in their process because a loaded machine was slow.
ONE_LIFE = ("leader", "dns-1", "dns-2", "witness-1", "witness-2", "witness-3")


def lives(cluster: RayCluster) -> dict[str, tuple[int, str]]:
    """Part -> its process, and its incarnation if nothing but a restart changes that."""
    found = [part for part in cluster.status().parts if part.name in cluster.parts]
    return {p.name: (p.pid, p.incarnation if p.name in ONE_LIFE else "") for p in found}


def all_run(cluster: RayCluster) -> bool:
    report = cluster.status()
    wrong = {"dead", "away", "starting", "taking over", "learning"}
    return report.serving and not wrong & {part.state for part in report.parts}


def workers_on(cluster: RayCluster, seed: int) -> list[Worker]:
    def connect_at(node: int) -> Callable[[], sofs.Share]:
        return lambda: sofs.connect(cluster.url_from(f"node-{node}"), credential=cluster.credential)

    history = new_history()
    return [
        kind(f"{kind.__name__.lower()}-{node}", connect_at(node), seed, history)
        for kind in (Appender, BlockWriter)
        for node in (1, 2)
    ]


def test_a_head_that_was_dead_for_long_finds_every_part_as_it_was_and_restarts_again(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--chaos-seed")
    dead_s = LONG_S if request.config.getoption("--chaos-rounds") else SHORT_S
    with RayCluster(tmp_path / "root") as cluster:
        workers = workers_on(cluster, seed)
        runner = Runner(cluster, workers, seed)
        for worker in workers:
            worker.start()
        try:
            until(lambda: all_run(cluster), "everything runs", cluster)
            before = lives(cluster)
            cluster.kill_ray("ray-head")
            end = time.monotonic() + dead_s
            cluster.kill("node-2")
            while time.monotonic() < end:
                runner.wait_recovered("kill", "ray-head")
                assert not runner.errors()
            report = cluster.status()
            assert report.serving
            assert any("head is dead" in note for note in report.notes)
            during = lives(cluster)
            assert {name for name in before if during[name] != before[name]} == {"node-2"}
            assert not cluster.parts["node-2"].pid, "nobody restarts a part while the head is dead"
            began = time.monotonic()
            cluster.start()  # As `sofs up` again.
            assert cluster.up.started == ["ray-head"]
            until(lambda: all_run(cluster), "everything runs again", cluster)
            print(
                f"head dead {dead_s:.0f} s; {time.monotonic() - began:.1f} s to all parts",
                file=sys.stderr,
            )
            after = lives(cluster)
            assert {name for name in before if after[name] != before[name]} == {"node-2"}
            for victim in ("node-1", "coordinator"):
                assert runner.one("kill", victim) is not None
                cluster.wait_ready([victim])
            until(lambda: all_run(cluster), "what was killed is back", cluster)
        finally:
            for worker in workers:
                worker.finish()
        wrong = runner.errors()
        if not wrong:
            with sofs.connect(cluster.url, credential=cluster.credential) as share:
                wrong += verify(workers, share)
        assert not wrong, "\n".join([f"seed {seed}:", *wrong, cluster.last_words()])
