"""SOFS in a Ray cluster that others started: jobs start and use it, machines join and leave, the
head dies, `sofs down` leaves Ray as it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from open_file import OpenFile, until
from other_ray import Guest, OtherRay

import sofs
from sofs.actors import procfile

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

JOBS = Path(__file__).parents[2] / "deploy" / "jobs"
NODES_MAX = 4  # Of SOFS; Ray has three for it at first.
OTHERS_ACTOR = "somebody-elses"


@pytest.fixture(scope="module")
def ray() -> Iterator[OtherRay]:
    with OtherRay(nodes=0, jobs=True) as started:
        yield started


@pytest.fixture(scope="module")
def refusals(ray: OtherRay, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `sofs up --address` says where it cannot be."""
    folder = tmp_path_factory.mktemp("refused")
    root, run_dir = str(folder / "root"), str(folder / "run")
    said = {}
    for name, address in (("no node", ray.address), ("no Ray", "127.0.0.1:9")):
        done = ray.sofs("up", "--address", address, "--root", root, "--run-dir", run_dir)
        assert done.returncode == 3, done.stdout
        said[name] = done.stderr.splitlines()[-1]
    assert not any(map(procfile.alive, procfile.read_all(run_dir)))
    assert ray.alive("ray-head"), ray.last_words()
    return said


@pytest.fixture(scope="module")
def guest(ray: OtherRay, refusals: dict[str, str]) -> Iterator[Guest]:
    """SOFS, started by a job as README and docs/RAY.md tell it."""
    folder = Path(tempfile.mkdtemp(prefix="sofs-guest-"))
    made = Guest(folder)
    for number in (1, 2, 3):
        ray.add(number)
    try:
        start(ray, made)
        yield made
    finally:
        ray.sofs("down", "--run-dir", str(made.run_dir))
        shutil.rmtree(folder, ignore_errors=True)


def start(ray: OtherRay, guest: Guest) -> str:
    """Run the job that starts SOFS; returns what it printed."""
    place = ["--root", str(guest.root), "--run-dir", str(guest.run_dir)]
    nodes = ["--nodes", str(NODES_MAX)]
    job = ray.job(
        ["--working-dir", str(JOBS), "--", sys.executable, "start_sofs.py", *place, *nodes]
    )
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 0, said
    return str(said)


@pytest.fixture
def served(ray: OtherRay, guest: Guest) -> Guest:
    """The guest, with three machines and everything running."""
    numbers = (1, 2, 3)
    for number in numbers:
        if not ray.alive(f"ray-node-{number}"):
            ray.add(number)
    until(lambda: guest.complete(len(numbers)), "everything runs on three machines", guest)
    return guest


@pytest.fixture
def open_file(served: Guest) -> Iterator[OpenFile]:
    made = OpenFile(served)
    yield made
    made.close()


def names(ray: OtherRay) -> list[tuple[str, str]]:
    """(namespace, name) of all named actors."""
    found = ray.ask("ray.util.list_named_actors(True)")
    assert isinstance(found, list)
    return sorted((actor["namespace"], actor["name"]) for actor in found)


def test_where_ray_has_no_node_for_it_nothing_is_started(refusals: dict[str, str]) -> None:
    assert "INVALID_PARAMETER" in refusals["no node"]
    assert "--resources" in refusals["no node"]
    assert "UNAVAILABLE" in refusals["no Ray"]
    assert "127.0.0.1:9" in refusals["no Ray"]


def test_a_job_starts_it_and_another_job_changes_nothing(ray: OtherRay, served: Guest) -> None:
    before = served.processes()
    parts = {"leader", "coordinator", "resume-key", "dns-1", "dns-2", "node-3", "witness-3"}
    assert parts <= set(before)
    assert "node-4" not in before
    states = {part.name: part.state for part in served.status().parts}
    assert states["node-4"] == "free"
    assert "already up" in start(ray, served)
    assert served.processes() == before
    space = served.record.namespace
    assert {(space, name) for name in before} <= set(names(ray))


def test_a_job_uses_it_while_the_nodes_are_killed(ray: OtherRay, served: Guest) -> None:
    credential = {"SOFS_CREDENTIAL": str(served.run_dir / "credential")}
    job = ray.job(
        [
            *("--working-dir", str(JOBS)),
            *("--runtime-env-json", json.dumps({"env_vars": credential}), "--"),
            *(sys.executable, "use_sofs.py", "--url", served.url, "--until", "/enough"),
        ]
    )
    try:
        with sofs.connect(served.url, credential=served.credential) as share:
            for number in (1, 2, 3):
                until(lambda: grows(share), "the job writes", served)
                served.kill(f"node-{number}")
                until(lambda n=number: served.listens(f"node-{n}"), "it is back", served)  # type: ignore[misc]
            share.write_file("/enough", b"")
        said, _ = job.communicate(timeout=120)
    finally:
        job.kill()
    assert job.returncode == 0, said
    [facts] = [json.loads(line) for line in said.splitlines() if line.startswith('{"writers"')]
    print(facts)
    assert facts["lost"] == []
    assert all(writer["records"] > 0 for writer in facts["writers"])
    assert sum(writer["failovers"] for writer in facts["writers"]) > 0


def grows(share: sofs.Share) -> bool:
    """Do the files of all writers of the job grow?"""
    try:
        files = [f"/jobs/{name}" for name in share.listdir("/jobs")]
        sizes = [share.stat(path).size for path in files]
        time.sleep(0.05)
        return bool(files) and all(
            share.stat(path).size > size for path, size in zip(files, sizes, strict=True)
        )
    except FileNotFoundError:
        return False


def test_a_machine_that_joins_serves_and_one_that_is_lost_costs_no_open_file(
    ray: OtherRay, served: Guest, open_file: OpenFile
) -> None:
    open_file.goes_on(served)
    began = time.monotonic()
    ray.add(4)
    joined = time.monotonic()
    until(lambda: served.listens("node-4") and served.listens("witness-4"), "it serves", served)
    print(f"joined in {joined - began:.1f} s, served {time.monotonic() - joined:.1f} s later")
    address = served.record.addresses[3]
    with sofs.connect(f"sofs://{address}/share", credential=served.credential) as share:
        share.write_file("/on-the-new-one", b"served")
    with sofs.connect(
        served.url.replace("sofs://", f"sofs://{address},"), credential=served.credential
    ) as share:
        with share.open("/stays-open", "w+b") as file:
            file.write(b"before")
            ray.end("ray-node-4")
            file.write(b", after")
            assert file.pread(100, 0) == b"before, after"
    open_file.goes_on(served)
    until(lambda: "machine-4" not in served.machines(), "it is forgotten", served)
    until(served.all_run, "everything else runs", served)
    open_file.goes_on(served)


def test_a_ray_node_on_another_machine_is_refused_and_one_that_joins_later_is_left_alone(
    ray: OtherRay, served: Guest, tmp_path: Path
) -> None:
    with ray.elsewhere(9) as address:
        place = ["--root", str(tmp_path / "root"), "--run-dir", str(tmp_path / "run")]
        done = ray.sofs("up", "--address", ray.address, *place)
        assert done.returncode == 3
        assert "NOT_SUPPORTED" in done.stderr
        assert f"machine-9 at {address}" in done.stderr
        until(
            lambda: any(f"machine-9 ({address})" in note for note in served.status().notes),
            "status tells of it",
            served,
        )
        assert "machine-9" not in served.machines()
        assert served.facts("node-4") is None
        assert served.all_run()
    until(
        lambda: not any("machine-9" in note for note in served.status().notes),
        "Ray has found that it is gone",
        served,
    )
    assert "already up" in start(ray, served)


def test_a_machine_that_is_about_to_leave_is_left_by_all_and_no_call_fails(
    ray: OtherRay, served: Guest, open_file: OpenFile
) -> None:
    [leaving] = [name for name, parts in served.machines().items() if "coordinator" in parts]
    done = ray.sofs("node", "leave", leaving, "--wait", "60", "--run-dir", str(served.run_dir))
    assert done.returncode == 0, done.stderr
    assert served.machines().get(leaving, []) == []
    open_file.goes_on(served)
    number = leaving[-1]
    until(
        lambda: not served.listens(f"node-{number}") and not served.listens(f"witness-{number}"),
        "its node and witness have ended",
        served,
    )
    on_it = f"ray-node-{number}"
    leader = leader_is_elsewhere(ray, served, on_it)
    until(leader, "the leader is elsewhere", served)
    until(lambda: not ray.alive(on_it), "the Ray node, with nothing on it, has ended", served)
    until(served.all_run, "everything runs on the others", served)
    homes = served.machines()
    assert not any({"coordinator", "resume-key"} <= set(parts) for parts in homes.values())
    open_file.goes_on(served)


def leader_is_elsewhere(ray: OtherRay, served: Guest, name: str) -> Callable[[], bool]:
    """Has the leader a process, and none in that Ray node?"""

    def check() -> bool:
        node = procfile.read(procfile.proc_folder(ray.folder) / f"{name}.json")
        leader = served.facts("leader")
        assert node is not None
        return leader is not None and leader.pid not in procfile.session_members([node], ray.run)

    return check


def test_while_the_head_is_dead_files_are_served_and_the_next_head_adopts_everything(
    ray: OtherRay, served: Guest, open_file: OpenFile
) -> None:
    before = served.processes()
    ray.end("ray-head")
    open_file.goes_on(served)
    until(
        lambda: any("head is dead" in note for note in served.status().notes),
        "status tells of it",
        served,
    )
    open_file.goes_on(served)
    ray.start_head()
    until(served.all_run, "everything runs", served)
    assert served.processes() == before
    served.kill("witness-1")
    until(lambda: served.listens("witness-1"), "Ray starts what was killed", served)
    open_file.goes_on(served)


def test_down_ends_exactly_its_parts_and_up_serves_the_same_files(
    ray: OtherRay, served: Guest
) -> None:
    with sofs.connect(served.url, credential=served.credential) as share:
        share.write_file("/kept", b"over down and up")
    ray.ask(
        "str(ray.remote(num_cpus=0)(type('A', (), {})).options("
        f"name={OTHERS_ACTOR!r}, namespace='theirs', lifetime='detached').remote())"
    )
    nodes = ray.ask("sorted(n['NodeID'] for n in ray.nodes() if n['Alive'])")
    parts, space = served.parts(), served.record.namespace
    assert len(parts) >= 10
    done = ray.sofs("down", "--run-dir", str(served.run_dir))
    assert done.returncode == 0, done.stderr
    assert served.parts() == []
    assert not any(map(procfile.alive, parts))
    actors = names(ray)
    assert ("theirs", OTHERS_ACTOR) in actors
    assert not [name for namespace, name in actors if namespace == space]
    assert ray.ask("sorted(n['NodeID'] for n in ray.nodes() if n['Alive'])") == nodes
    assert "up in" in start(ray, served)
    with sofs.connect(served.url, credential=served.credential) as share:
        assert share.read_file("/kept") == b"over down and up"
    assert served.record.namespace != space


def test_down_with_a_dead_head_and_a_frozen_part_is_final(ray: OtherRay, served: Guest) -> None:
    parts, space = served.parts(), served.record.namespace
    [frozen] = [facts for facts in parts if facts.name == "node-2"]
    ray.end("ray-head")
    os.kill(frozen.pid, signal.SIGSTOP)
    done = ray.sofs("down", "--run-dir", str(served.run_dir))
    assert done.returncode == 0, done.stderr
    assert not any(map(procfile.alive, parts))
    ray.start_head()
    deadline = time.monotonic() + 60
    while [name for namespace, name in names(ray) if namespace == space]:
        assert time.monotonic() < deadline, names(ray)
    until(lambda: served.parts() == [], "nothing that came back stays", served)
    start(ray, served)
