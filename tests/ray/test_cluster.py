"""A local Ray cluster: it serves, whatever is killed comes back by Ray alone, nothing is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sofs
from sofs.actors import lifecycle, procfile, ray_cluster
from sofs.actors.lifecycle import PartReport
from sofs.core.messages import MemberList
from sofs.errors import DiskFull, InvalidParameter, OtherRun
from sofs.testing import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PSS_MIB_MAX = 90


@pytest.fixture(scope="module")
def one_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("ray") / "root") as started:
        yield started


@pytest.fixture
def cluster(one_cluster: RayCluster) -> RayCluster:
    """The module's cluster, started again if a test took it down."""
    if not one_cluster.status().serving:
        one_cluster.revive()
    return one_cluster


@pytest.fixture
def share(cluster: RayCluster) -> Iterator[sofs.Share]:
    with sofs.connect(cluster.url, credential=cluster.credential) as connected:
        yield connected


def until(condition: Callable[[], bool], what: str, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.05)


def reports(cluster: RayCluster) -> dict[str, PartReport]:
    return {part.name: part for part in cluster.status().parts}


def serving(cluster: RayCluster) -> bool:
    """Every part is there and answers, and the volume has an owner and a follower."""
    report = cluster.status()
    states = [part.state for part in report.parts]
    wrong = {"dead", "away", "starting", "taking over", "learning"}
    return report.serving and not wrong & set(states)


def listed(cluster: RayCluster) -> list[str]:
    """Whom both DNS parts list; nobody while they do not agree."""
    told = lifecycle.dns_members(cluster.run_dir, cluster.credential).values()
    lists = [
        [member.node for member in found.members if member.listed]
        if isinstance(found, MemberList)
        else []
        for found in told
    ]
    assert len(lists) == 2
    return lists[0] if lists[0] == lists[1] else []


def write(share: sofs.Share, name: str, data: bytes) -> None:
    with share.open(name, "w+b") as file:
        file.write(data)


def read(share: sofs.Share, name: str) -> bytes:
    with share.open(name, "rb") as file:
        return bytes(file.read())


def test_a_client_writes_and_reads(cluster: RayCluster, share: sofs.Share) -> None:
    write(share, "hello", b"world" * 1000)
    assert read(share, "hello") == b"world" * 1000


def test_the_head_carries_no_part_and_authorities_are_on_different_machines(
    cluster: RayCluster,
) -> None:
    nodes = {f.name: f for f in procfile.read_all(cluster.run_dir) if f.name.startswith("ray-")}
    homes: dict[str, str] = {}
    for ray_name, facts in nodes.items():
        members = procfile.session_members([facts], cluster.up.record.run_id)
        homes |= {name: ray_name for name, p in cluster.parts.items() if p.pid in members}
    assert set(homes) == set(cluster.parts)
    assert "ray-head" not in homes.values()
    assert homes["coordinator"] != homes["resume-key"]
    assert homes["dns-1"] != homes["dns-2"]
    assert len({homes[f"node-{i}"] for i in (1, 2, 3)}) == 3
    assert all(homes[f"node-{i}"] == homes[f"witness-{i}"] for i in (1, 2, 3))


def test_the_cluster_is_found_by_its_name_and_a_dead_dns_part_disturbs_no_open_file(
    cluster: RayCluster,
) -> None:
    until(lambda: serving(cluster), "serving before the kill")
    with sofs.connect(cluster.dns_url, credential=cluster.credential) as share:
        with share.open("by-name", "w+b") as file:
            file.write(b"a" * 10)
            cluster.kill("dns-1")
            with sofs.connect(cluster.dns_url, credential=cluster.credential) as second:
                assert read(second, "by-name") == b"a" * 10, "dns-2 leads clients meanwhile"
            for _ in range(100):
                file.write(b"b")
            assert share.failovers() == []
    cluster.wait_ready(["dns-1"])
    until(lambda: len(listed(cluster)) == 3, "the next one knows all")
    with sofs.connect(cluster.dns_url, credential=cluster.credential) as share:
        assert read(share, "by-name") == b"a" * 10 + b"b" * 100


def test_an_idle_part_is_small(cluster: RayCluster) -> None:
    for name, part in cluster.parts.items():
        lines = Path(f"/proc/{part.pid}/smaps_rollup").read_text().splitlines()
        [pss] = [int(line.split()[1]) // 1024 for line in lines if line.startswith("Pss:")]
        print(f"{name}: PSS {pss} MiB")
        assert pss <= PSS_MIB_MAX


@pytest.mark.parametrize(
    "victim", ["node-1", "witness-2", "coordinator", "resume-key", "leader", "dns-2", "node-3"]
)
def test_a_killed_part_comes_back_by_ray_and_nothing_else_restarts(
    cluster: RayCluster, share: sofs.Share, victim: str
) -> None:
    until(lambda: serving(cluster), "serving before the kill")
    before = {name: part.pid for name, part in cluster.parts.items()}
    lives = {name: part.incarnation for name, part in reports(cluster).items()}
    write(share, f"before-{victim}", victim.encode())
    cluster.kill(victim)
    write(share, f"after-{victim}", victim.encode())
    assert read(share, f"before-{victim}") == victim.encode()
    cluster.wait_ready()
    until(lambda: serving(cluster), "serving after the kill")
    after = {name: part.pid for name, part in cluster.parts.items()}
    assert {name for name in before if before[name] != after[name]} == {victim}
    shown = reports(cluster)[victim]
    assert shown.pid == after[victim]
    assert shown.incarnation
    assert shown.incarnation != lives[victim]


def test_a_dead_head_stops_nothing_and_status_says_so_and_up_revives_it_in_place(
    cluster: RayCluster, share: sofs.Share
) -> None:
    until(lambda: serving(cluster), "serving before the kill")
    before = {name: part.pid for name, part in cluster.parts.items()}
    cluster.kill_ray("ray-head")
    write(share, "headless", b"still here")
    assert read(share, "headless") == b"still here"
    report = cluster.status()
    assert report.serving
    assert any("head is dead" in note for note in report.notes)
    cluster.revive()
    assert cluster.up.started == ["ray-head"]
    assert {name: part.pid for name, part in cluster.parts.items()} == before
    cluster.kill("witness-1")  # Ray restarts again.
    cluster.wait_ready(["witness-1"])


def test_up_again_changes_nothing(cluster: RayCluster) -> None:
    until(lambda: serving(cluster), "serving")
    before = {name: part.pid for name, part in cluster.parts.items()}
    run, url = cluster.up.record.run_id, cluster.url
    cluster.start()
    assert cluster.up.started == []
    assert (cluster.up.record.run_id, cluster.url) == (run, url)
    assert {name: part.pid for name, part in cluster.parts.items()} == before


def test_another_run_on_the_root_is_refused_while_this_one_answers(
    cluster: RayCluster, tmp_path: Path
) -> None:
    environment = {**os.environ, "SOFS_CREDENTIAL": cluster.credential}
    options = lifecycle.UpOptions(root=str(cluster.root), run_dir=str(tmp_path / "other"))
    with pytest.raises(OtherRun, match="--take-over"):
        lifecycle.up(options, environment)
    assert procfile.read_all(tmp_path / "other") == []
    with pytest.raises(InvalidParameter):
        lifecycle.up(
            lifecycle.UpOptions(root=str(cluster.root), run_dir=str(cluster.run_dir), nodes=2),
            environment,
        )


def test_a_lost_machine_is_replaced_and_gets_the_same_addresses(
    cluster: RayCluster, share: sofs.Share
) -> None:
    until(lambda: serving(cluster), "serving before the kill")
    until(lambda: len(listed(cluster)) == 3, "all nodes are listed")
    cluster.kill_ray("ray-node-2")
    write(share, "two-machines", b"enough")
    until(lambda: listed(cluster) == ["node-1", "node-3"], "the lost one is listed no more")
    cluster.revive()
    assert cluster.up.started == ["ray-node-2"]
    until(lambda: serving(cluster), "serving again")
    until(lambda: len(listed(cluster)) == 3, "the next one is listed")
    assert cluster.parts["node-2"].address == cluster.parts["node-2"].config.address
    assert read(share, "two-machines") == b"enough"


def test_everything_killed_at_once_is_started_again_with_its_files_and_addresses(
    cluster: RayCluster,
) -> None:
    with sofs.connect(cluster.url, credential=cluster.credential) as share:
        write(share, "kept", b"over everything")
    run, url = cluster.up.record.run_id, cluster.url
    cluster.kill_all()
    assert cluster.status().serving is False
    cluster.revive()
    assert cluster.up.record.run_id != run
    assert cluster.url == url
    with sofs.connect(cluster.url, credential=cluster.credential) as share:
        assert read(share, "kept") == b"over everything"


def test_a_run_that_takes_over_ends_every_part_of_the_other_run_for_good(
    cluster: RayCluster,
) -> None:
    with sofs.connect(cluster.url, credential=cluster.credential) as share:
        write(share, "first-run", b"acknowledged")
    old = [facts for facts in (p.facts() for p in cluster.parts.values()) if facts is not None]
    other = Path(tempfile.mkdtemp(prefix="sofs-other-"))
    environment = {**os.environ, "SOFS_CREDENTIAL": cluster.credential}
    options = lifecycle.UpOptions(str(cluster.root), nodes=1, run_dir=str(other), take_over=True)
    try:
        second = lifecycle.up(options, environment)
        until(lambda: not any(map(procfile.alive, old)), "the old run's parts ended")
        with sofs.connect(second.record.url, credential=cluster.credential) as share:
            assert read(share, "first-run") == b"acknowledged"
        with pytest.raises(OtherRun):
            cluster.start()
    finally:
        lifecycle.down(other)
        shutil.rmtree(other)
    lifecycle.down(cluster.run_dir)


def test_down_leaves_no_process_no_port_and_no_folder_of_ray(cluster: RayCluster) -> None:
    cluster.wait_ready()
    record = cluster.up.record
    leaders = list(ray_cluster.ray_nodes(cluster.run_dir).values())
    pids = procfile.session_members(leaders, record.run_id)
    processes = [f for f in map(procfile.identify, pids) if f is not None]
    assert len(processes) > 20
    assert lifecycle.down(cluster.run_dir) >= len(processes)
    assert not [facts for facts in processes if procfile.alive(facts)]
    # Connections that were closed at the end keep a port from being bound for a minute (TIME_WAIT).
    for port in (record.node_port, record.witness_port, record.dns_port, record.dns_port + 1):
        until(
            lambda port=port: ray_cluster.is_free([*record.hosts, *record.dns_hosts], port),
            f"port {port} free",
        )  # type: ignore[misc]
    assert ray_cluster.is_free(["0.0.0.0"], record.ray_port)
    assert not Path(record.temp).parent.exists()
    assert lifecycle.down(cluster.run_dir) == 0
    assert procfile.read_all(cluster.run_dir) == []


def test_a_disk_that_fills_while_the_cluster_starts_fails_the_start_and_leaves_nothing(
    one_cluster: RayCluster, tmp_path: Path
) -> None:
    lifecycle.down(one_cluster.run_dir)  # Two at once are more than a small machine can bear.
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    run_dir = Path(tempfile.mkdtemp(prefix="sofs-small-"))
    try:
        options = lifecycle.UpOptions(str(folder / "root"), nodes=1, run_dir=str(run_dir))
        with pytest.raises(DiskFull, match="cannot start"):
            lifecycle.up(options, {})
        assert procfile.read_all(run_dir) == []
        assert lifecycle.down(run_dir) == 0
    finally:
        lifecycle.down(run_dir)
        shutil.rmtree(run_dir)
        subprocess.run(["umount", "-l", str(folder)], check=True)
