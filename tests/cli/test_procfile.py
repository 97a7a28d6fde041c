"""Exactly the recorded processes are meant: never a pid that is used again, never another boot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sofs.actors import procfile, ray_cluster
from sofs.actors.procfile import RUN_MARK, ProcFacts

CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"


class Spawner:
    """Starts processes that wait, and ends them after the test."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, code: str = "input()", **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self.started.append(process)
        return process

    def facts(self, process: subprocess.Popen[bytes], name: str, role: str = "node") -> ProcFacts:
        ticks = procfile.start_ticks(process.pid)
        return ProcFacts(name, role, process.pid, ticks, procfile.boot_id(), run="r1")


@pytest.fixture
def spawn() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    for process in spawner.started:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def test_a_recorded_process_is_ended_and_its_file_removed(tmp_path: Path, spawn: Spawner) -> None:
    process = spawn.start()
    procfile.write(tmp_path, spawn.facts(process, "node-1"))
    assert ray_cluster.end_all(tmp_path, "r1") == 1
    assert process.wait() == -9
    assert procfile.read_all(tmp_path) == []
    assert ray_cluster.end_all(tmp_path, "r1") == 0


@pytest.mark.parametrize("change", [{"boot_id": "another"}, {"start_ticks": 1}])
def test_a_process_that_only_has_the_pid_is_left_alone(
    tmp_path: Path, spawn: Spawner, change: dict[str, str | int]
) -> None:
    process = spawn.start()
    facts = replace(spawn.facts(process, "node-1", ray_cluster.RAY_NODE), **change)  # type: ignore[arg-type]
    procfile.write(tmp_path, facts)
    assert not procfile.alive(facts)
    procfile.kill(facts)
    assert ray_cluster.end_all(tmp_path, "r1") == 0
    assert process.poll() is None
    assert procfile.read_all(tmp_path) == []


def wait_for_members(facts: ProcFacts, count: int) -> list[int]:
    while True:
        members = procfile.session_members([facts], "r1")
        if len(members) >= count:
            return members


def test_the_children_of_a_ray_node_end_with_it(tmp_path: Path, spawn: Spawner) -> None:
    process = spawn.start(CHILD)
    facts = spawn.facts(process, "ray-node-1", ray_cluster.RAY_NODE)
    procfile.write(tmp_path, facts)
    members = wait_for_members(facts, 2)
    assert ray_cluster.end_all(tmp_path, "r1") == 2
    assert procfile.wait_gone([f for f in map(procfile.identify, members) if f], 5) == []


@pytest.mark.parametrize("mark", ["r1", "r2"])
def test_children_of_a_dead_ray_node_end_only_if_they_carry_the_runs_mark(
    tmp_path: Path, spawn: Spawner, mark: str
) -> None:
    process = spawn.start(CHILD, **{RUN_MARK: mark})
    facts = spawn.facts(process, "ray-node-1", ray_cluster.RAY_NODE)
    procfile.write(tmp_path, facts)
    [child] = [pid for pid in wait_for_members(facts, 2) if pid != process.pid]
    identity = procfile.identify(child)
    assert identity is not None
    process.kill()
    process.wait()
    try:
        assert ray_cluster.end_all(tmp_path, "r1") == (1 if mark == "r1" else 0)
        assert procfile.alive(identity) == (mark != "r1")
    finally:
        procfile.kill(identity)


def test_files_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    folder = procfile.proc_folder(tmp_path)
    folder.mkdir()
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text("[1]")
    (folder / "c.json").write_text('{"name": "c"}')
    assert procfile.read_all(tmp_path) == []


def test_own_facts_are_of_this_living_process() -> None:
    facts = procfile.own_facts("me", "test", "127.0.0.1:1", "r1")
    assert facts.pid == os.getpid()
    assert procfile.alive(facts)


def test_a_zombie_counts_as_gone(spawn: Spawner) -> None:
    process = spawn.start("pass")
    facts = spawn.facts(process, "node-1")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not procfile.alive(facts)
    assert procfile.wait_gone([facts], 0) == []
