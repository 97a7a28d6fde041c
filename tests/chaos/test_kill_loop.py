"""Kill and freeze the processes that serve a volume, again and again, under clients of every
kind."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import sofs
from sofs.testing import LocalCluster, RayCluster

from .recorded import new_history
from .runner import Runner
from .workloads import Appender, BlockWriter, Counter, Namer, Registers, Worker, verify

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

ROLES = ("node", "coordinator", "resume-key", "witness", "dns")  # The leader needs Ray.
FAULTS = [(fault, role) for role in ROLES for fault in ("kill", "freeze")]
SHORT_ROUNDS = len(FAULTS)  # Each of them once.
EPISODE_ROUNDS = 25


def workers_on(cluster: LocalCluster | RayCluster, seed: int, episode: int = 0) -> list[Worker]:
    """Two of each kind, on different nodes, with one history; another episode's have files of
    their own."""
    history = new_history()

    def connect_at(node: int):  # type: ignore[no-untyped-def]
        return lambda: sofs.connect(cluster.url_from(f"node-{node}"), credential=cluster.credential)

    kinds: list[type[Worker]] = [BlockWriter, Appender, Counter, Namer, Registers]
    return [
        kind(
            f"{kind.__name__.lower()}-{episode}-{i}",
            connect_at(1 + (n + i) % 3),
            seed + episode,
            history,
            episode,
        )
        for n, kind in enumerate(kinds)
        for i in range(2)
    ]


def play(
    cluster: LocalCluster | RayCluster,
    faults: Sequence[tuple[str, str]],
    seed: int,
    rounds: int,
    first_episode: int = 0,
) -> None:
    """Play rounds in episodes with workers of their own, and judge each episode: histories stay
    short enough to be decided, however long this goes on. The cluster has a DNS part: who looks at
    the files in the end finds the nodes by it."""
    for episode, done in enumerate(range(0, rounds, EPISODE_ROUNDS), first_episode):
        workers = workers_on(cluster, seed, episode)
        runner = Runner(cluster, workers, seed + episode)
        wanted = min(EPISODE_ROUNDS, rounds - done)
        for worker in workers:
            worker.start()
        try:
            runner.run(faults, wanted)
        finally:
            for worker in workers:
                worker.finish()
        wrong = runner.errors()
        if not wrong:
            with sofs.connect(cluster.dns_url, credential=cluster.credential) as share:
                wrong += verify(workers, share)
        operations = len(workers[0].history.operations)
        print(f"episode {episode}: {operations} operations recorded", file=sys.stderr, flush=True)
        assert not wrong, "\n".join([f"seed {seed}:", *wrong, cluster.last_words()])
        assert len(runner.rounds) == wanted
        hit = {(round_.fault, round_.role) for round_ in runner.rounds}
        assert hit == set(faults) or len(hit) == wanted, "each fault once before any again"


def test_no_acknowledged_operation_is_lost_or_doubled_while_processes_are_killed_and_frozen(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--chaos-seed")
    rounds = request.config.getoption("--chaos-rounds") or SHORT_ROUNDS
    with LocalCluster(tmp_path / "root", dns=True) as cluster:
        play(cluster, FAULTS, seed, rounds)
