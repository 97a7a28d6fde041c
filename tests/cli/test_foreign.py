"""What `sofs up --address` decides without Ray: which machines, what drivers say, who shall end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from sofs.actors import foreign, lifecycle, procfile, rundir
from sofs.actors.lifecycle import UpOptions
from sofs.actors.platform import is_here, machines_of
from sofs.actors.rundir import ALL_END, LEADER_ENDS, RunRecord
from sofs.errors import InvalidParameter, NotSupported, Unavailable

RUN = "ab" * 16


def record(tmp_path: Path) -> RunRecord:
    return RunRecord(
        root=str(tmp_path / "root"),
        cluster="cd" * 16,
        run_id=RUN,
        nodes=3,
        node_port=20_000,
        witness_port=20_001,
        ray_port=0,
        temp="",
        foreign=True,
        ray_address="192.0.2.1:6379",
    )


def ray_node(name: str, address: str, resource: str = "sofs_node") -> dict[str, object]:
    """One of what ``ray.nodes()`` returns."""
    return {
        "NodeID": name * 8,
        "Alive": True,
        "NodeManagerAddress": address,
        "Resources": {resource: 1.0},
        "Labels": {"sofs/name": f"machine-{name}"},
    }


def test_loopback_addresses_are_here_and_addresses_for_documents_are_not() -> None:
    assert is_here("127.0.0.1")
    assert is_here("127.0.0.77")
    assert not is_here("198.51.100.7")
    assert not is_here("2001:db8::7")


def test_machines_are_the_living_ray_nodes_for_sofs_and_those_of_others_are_marked() -> None:
    dead = {**ray_node("d", "127.0.0.1"), "Alive": False}
    nodes = [
        ray_node("b", "198.51.100.7"),
        ray_node("a", "127.0.0.1"),
        ray_node("c", "127.0.0.1", "GPU"),
        dead,
    ]
    found = machines_of(nodes, ["b" * 8], "a" * 8)
    assert [(m.name, m.draining, m.own, m.elsewhere) for m in found] == [
        ("machine-a", False, True, ""),
        ("machine-b", True, False, "198.51.100.7"),
    ]


def test_what_a_driver_refuses_is_raised_as_what_it_is(tmp_path: Path) -> None:
    log = tmp_path / "launch.log"
    assert foreign.said('noise\nsofs: {"address": "a:1"}\n', log) == {"address": "a:1"}
    with pytest.raises(NotSupported, match=r"nodes .*: on other machines"):
        foreign.said("refused: NOT_SUPPORTED: Ray nodes x: on other machines\n", log)
    with pytest.raises(Unavailable, match="Boom"):
        foreign.said("Traceback\nBoom\n", log)


def test_each_run_has_its_own_names_in_a_ray_cluster_of_others(tmp_path: Path) -> None:
    first = record(tmp_path)
    assert first.namespace != replace(first, run_id="ef" * 16).namespace
    assert replace(first, foreign=False).namespace == "sofs"


def test_the_leader_is_told_first_and_whoever_is_of_an_older_run_ends_too(tmp_path: Path) -> None:
    assert not rundir.must_end(tmp_path, RUN, leader=True)  # There is no run directory any more.
    run = record(tmp_path)
    for word, ends in (("", []), (LEADER_ENDS, [True]), (ALL_END, [True, False])):
        run.ending = word
        rundir.write_run(tmp_path, run)
        found = [leader for leader in (True, False) if rundir.must_end(tmp_path, RUN, leader)]
        assert found == ends
    rundir.write_run(tmp_path, replace(run, ending=""))
    assert rundir.must_end(tmp_path, "00" * 16, leader=False)


def sleeper(run_dir: Path, name: str) -> subprocess.Popen[bytes]:
    """A process that is recorded as a part and does not end by itself."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    facts = procfile.ProcFacts(
        name, name, process.pid, procfile.start_ticks(process.pid), procfile.boot_id()
    )
    procfile.write(run_dir, facts)
    return process


def test_who_does_not_end_by_itself_is_killed_and_so_is_what_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "GRACE_S_MAX", 0.3)
    started = [sleeper(tmp_path, "leader"), sleeper(tmp_path, "node-1")]

    def come_back() -> None:
        started[1].wait()
        started.append(sleeper(tmp_path, "node-1"))  # As Ray would.
        started[2].wait()

    back = threading.Thread(target=come_back)
    back.start()
    outlived: list[bool] = []

    def note_order() -> None:
        started[0].wait()
        outlived.append(started[1].returncode is None)

    order = threading.Thread(target=note_order)
    order.start()
    assert foreign.end(tmp_path, record(tmp_path)) == 3
    back.join()
    order.join()
    assert outlived == [True], "the leader ends first"
    assert [process.wait() for process in started] == [-9, -9, -9]
    assert procfile.read_all(tmp_path) == []


def test_a_run_that_is_being_ended_is_not_started_again(tmp_path: Path) -> None:
    run_dir, root = tmp_path / "run", tmp_path / "root"
    run_dir.mkdir(mode=0o700)
    environment = {n: v for n, v in os.environ.items() if n != "SOFS_CREDENTIAL"}
    options = UpOptions(str(root), run_dir=str(run_dir), address="192.0.2.1:6379")
    credential = rundir.credential_for(str(root), None, run_dir, environment)
    cluster = lifecycle.create_roots(str(root), credential, lifecycle.SHARE)
    run = replace(record(tmp_path), root=str(root), cluster=cluster.hex(), ending=ALL_END)
    rundir.write_run(run_dir, run)
    with pytest.raises(InvalidParameter, match="being ended"):
        lifecycle.up(options, environment)
    rundir.write_run(run_dir, replace(run, ending=""))
    with pytest.raises(InvalidParameter, match="Ray cluster at 192"):
        lifecycle.up(replace(options, address=""), environment)
