"""The leader on a real local Ray cluster: machines leave and join, shares come and go, the leader
dies and freezes, and open files notice nothing but short pauses."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from open_file import OpenFile, until

import sofs
from sofs.actors import admin, foreign
from sofs.core.messages import (
    ChangeMachine,
    ChangeShare,
    ListMachines,
    MachineList,
    Message,
    ShareInfo,
    ShareList,
)
from sofs.errors import BadNetworkName, Unavailable
from sofs.services.leader.desk import CREATE, REMOVE
from sofs.testing import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("leader") / "root") as started:
        yield started


@pytest.fixture
def open_file(cluster: RayCluster) -> Iterator[OpenFile]:
    made = OpenFile(cluster)
    yield made
    made.close()


def ask(cluster: RayCluster, body: Message) -> ShareList:
    return admin.ask(str(cluster.root), cluster.credential, body, ShareList)


def change(action: int, name: str) -> ChangeShare:
    return ChangeShare(admin.token(), action, ShareInfo(name, "share", False, True))


def served(cluster: RayCluster, name: str, address: str) -> bool:
    try:
        with sofs.connect(f"sofs://{address}/{name}", credential=cluster.credential):
            return True
    except BadNetworkName:
        return False


def drain(cluster: RayCluster, machine: str, avoided: bool) -> None:
    body = ChangeMachine(admin.token(), machine, avoided)
    admin.ask(str(cluster.root), cluster.credential, body, MachineList)


def machines(cluster: RayCluster) -> dict[str, list[str]]:
    """Machine -> the parts that are meant for it. Asked again if no leader answers: when its
    machine is lost, Ray takes up to 15 s to know that, and then starts it elsewhere."""
    for tries_left in (2, 1, 0):
        try:
            reply = admin.ask(str(cluster.root), cluster.credential, ListMachines(), MachineList)
        except Unavailable:
            if not tries_left:
                raise
        else:
            break
    return {machine.name: machine.parts for machine in reply.machines}


def all_run(cluster: RayCluster) -> bool:
    report = cluster.status()
    states = {part.state for part in report.parts}
    return report.serving and not {"dead", "away", "starting", "taking over"} & states


def test_a_share_reaches_every_node_and_is_gone_from_every_node(
    cluster: RayCluster, open_file: OpenFile
) -> None:
    began = time.monotonic()
    created = ask(cluster, change(CREATE, "logs"))
    assert all(served(cluster, "logs", address) for address in cluster.addresses)
    print(f"created, and seen on every node, in {time.monotonic() - began:.2f} s")
    assert created.waiting == []
    began = time.monotonic()
    removed = ask(cluster, change(REMOVE, "logs"))
    assert removed.waiting == []
    assert not any(served(cluster, "logs", address) for address in cluster.addresses)
    print(f"removed, and gone from every node, in {time.monotonic() - began:.2f} s")
    cluster.kill("node-2")
    cluster.wait_ready(["node-2"])
    assert not served(cluster, "logs", cluster.addresses[1])
    open_file.goes_on(cluster)


def test_the_leader_dies_and_freezes_and_open_files_go_on(
    cluster: RayCluster, open_file: OpenFile
) -> None:
    cluster.kill("leader")
    open_file.goes_on(cluster)
    ask(cluster, change(CREATE, "after-death"))  # Waits until Ray has started another.
    cluster.freeze("leader")
    open_file.goes_on(cluster)
    assert served(cluster, "after-death", cluster.addresses[0])
    cluster.thaw("leader")
    assert "after-death" not in [s.name for s in ask(cluster, change(REMOVE, "after-death")).shares]
    open_file.goes_on(cluster)


def test_a_machine_is_drained_and_resumed_under_an_open_file(
    cluster: RayCluster, open_file: OpenFile
) -> None:
    until(lambda: all_run(cluster), "everything runs", cluster)
    [machine] = [name for name, parts in machines(cluster).items() if "coordinator" in parts]
    drain(cluster, machine, True)
    until(lambda: machines(cluster)[machine] == [], f"{machine} is left", cluster)
    until(
        lambda: "drained" in [part.state for part in cluster.status().parts],
        "the node on it has ended",
        cluster,
    )
    open_file.goes_on(cluster)
    drain(cluster, machine, False)
    until(lambda: len(machines(cluster)[machine]) == 2, f"{machine} serves again", cluster)
    until(lambda: all_run(cluster), "everything runs again", cluster)
    open_file.goes_on(cluster)


def test_a_machine_that_left_as_announced_is_brought_back_by_up(
    cluster: RayCluster, open_file: OpenFile
) -> None:
    until(lambda: all_run(cluster), "everything runs", cluster)
    foreign.leave(cluster.run_dir, cluster.up.record, "machine-2", 60)
    until(lambda: "machine-2" not in machines(cluster), "it is empty and gone", cluster)
    open_file.goes_on(cluster)
    states = {part.name: part.state for part in cluster.status().parts}
    assert states["ray-node-2"] == "dead"  # Its raylet has ended; what started it has not.
    cluster.revive()
    assert cluster.up.started == ["ray-node-2"]
    until(lambda: len(machines(cluster)["machine-2"]) >= 2, "it serves again", cluster)
    open_file.goes_on(cluster)


def test_machines_that_leave_are_forgotten_and_those_that_join_serve(
    cluster: RayCluster, open_file: OpenFile
) -> None:
    for number in (1, 3):
        until(lambda: all_run(cluster), "everything runs", cluster)
        name = f"machine-{number}"
        cluster.kill_ray(f"ray-node-{number}")
        until(lambda name=name: name not in machines(cluster), f"{name} is gone", cluster)  # type: ignore[misc]
        open_file.goes_on(cluster)
        cluster.revive()
        until(lambda name=name: len(machines(cluster).get(name, [])) >= 2, "it serves", cluster)  # type: ignore[misc]
    until(lambda: all_run(cluster), "everything runs", cluster)
    homes = machines(cluster)
    assert not any({"coordinator", "resume-key"} <= set(parts) for parts in homes.values())


def test_another_volume_is_served_by_the_same_nodes(
    cluster: RayCluster, open_file: OpenFile
) -> None:
    admin.create_volume(str(cluster.root), cluster.credential, "archive")
    url = cluster.url.replace("/share", "/archive")
    with sofs.connect(url, credential=cluster.credential) as share:
        share.write_file("/open-file", b"another file of that name")
        assert share.read_file("/open-file") == b"another file of that name"
    until(lambda: all_run(cluster), "everything runs", cluster)
    homes = {name: machine for machine, names in machines(cluster).items() for name in names}
    assert homes["coordinator-archive"] != homes["resume-key-archive"]
    assert homes["coordinator-archive"] != homes["coordinator"]
    open_file.goes_on(cluster)
