"""A cluster of real processes that is reached by its name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
from zone_rig import host_port, texts

import sofs
from sofs.actors import rundir
from sofs.actors.lifecycle import DNS_NAME
from sofs.actors.rundir import RunRecord
from sofs.cli.main import main
from sofs.errors import DeadlineExceeded
from sofs.testing import LocalCluster


def until(condition: Callable[[], object], what: str, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("named") / "root", witness=False, dns=True) as made:
        yield made


def ask(cluster: LocalCluster, kind: str, name: str = DNS_NAME) -> dns.message.Message:
    host, port = host_port(cluster.dns_address)
    query = dns.message.make_query(name, kind)
    return dns.query.udp(query, host, timeout=5, port=port)


def registered(cluster: LocalCluster) -> bool:
    """Every node has said where it listens to the DNS part of now."""
    return cluster.parts["dns"].ready.is_set() and cluster.facts("dns")["registered"] == "3"


def test_a_share_is_found_by_the_access_points_name_and_each_client_has_one_node(
    cluster: LocalCluster,
) -> None:
    until(lambda: registered(cluster), "nodes registered")
    used = []
    for number in range(3):
        with sofs.connect(cluster.dns_url, credential=cluster.credential) as share:
            share.write_file(f"/named-{number}", b"x")
            used.append(share.facts().address)
    assert sorted(used) == sorted(cluster.addresses), "each began with the next node"


def test_the_dead_are_listed_and_passed_over(cluster: LocalCluster) -> None:
    until(lambda: registered(cluster), "nodes registered")
    cluster.stop("node-2")
    try:
        assert len(texts(ask(cluster, "A"))) == 3
        for _ in range(3):
            with sofs.connect(cluster.dns_url, credential=cluster.credential) as share:
                share.write_file("/after", b"x")
                assert share.facts().address != cluster.parts["node-2"].config.address
    finally:
        cluster.revive()


def test_the_death_of_the_dns_part_disturbs_no_open_file_and_the_next_one_learns_all(
    cluster: LocalCluster,
) -> None:
    until(lambda: registered(cluster), "nodes registered")
    with sofs.connect(cluster.dns_url, credential=cluster.credential) as share:
        with share.open("/kept", "w+b") as file:
            cluster.stop("dns")
            file.write(b"without a name, ")
            assert share.failovers() == []
            in_use = cluster.node_at(share.facts().address)
            cluster.kill(in_use)  # And even now it needs no name.
            file.write(b"on another node")
            assert file.pread(100, 0) == b"without a name, on another node"
            assert len(share.failovers()) == 1
            cluster.revive()
    until(lambda: registered(cluster), "nodes registered with the next one")
    assert len(texts(ask(cluster, "SRV", f"_sofs._tcp.{DNS_NAME}"))) == 3


def test_a_frozen_dns_part_disturbs_no_open_file(cluster: LocalCluster) -> None:
    until(lambda: registered(cluster), "nodes registered")
    with sofs.connect(cluster.dns_url, credential=cluster.credential) as share:
        with share.open("/frozen", "w+b") as file:
            cluster.freeze("dns")
            try:
                for _ in range(20):
                    file.write(b"x")
                assert share.failovers() == []
                with pytest.raises(DeadlineExceeded, match="cannot be resolved"):
                    sofs.connect(
                        cluster.dns_url, credential=cluster.credential, connect_timeout_ms=1_500
                    )
            finally:
                cluster.thaw("dns")


def test_the_ports_are_those_that_the_nodes_have(cluster: LocalCluster) -> None:
    until(lambda: registered(cluster), "nodes registered")
    found = texts(ask(cluster, "SRV", f"_sofs._tcp.{DNS_NAME}"))
    assert {text.split()[2] for text in found} == {str(cluster.port)}
    assert ask(cluster, "A", f"node-9.{DNS_NAME}").rcode() == dns.rcode.NXDOMAIN
    assert ask(cluster, "A").answer[0].ttl == 60


def test_dns_ls_and_status_show_who_is_listed(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: registered(cluster), "nodes registered")
    monkeypatch.setenv("SOFS_CREDENTIAL", cluster.credential)
    run = RunRecord(
        root=str(cluster.root),
        cluster="",
        run_id="",
        nodes=3,
        node_port=cluster.port,
        witness_port=0,
        ray_port=0,
        temp="",
        dns_host="127.0.0.10",
        dns_port=cluster.port,
        dns_name=DNS_NAME,
    )
    rundir.write_run(cluster.run_dir, run)
    assert main(["dns", "ls", "--run-dir", str(cluster.run_dir)]) == 0
    shown = capsys.readouterr().out
    assert f"answers  {cluster.dns_address}  (UDP and TCP)" in shown
    for i in (1, 2, 3):
        assert re.search(rf"^node-{i} +yes +{cluster.port} +127\.0\.0\.1{i} ", shown, re.MULTILINE)
    assert main(["dns", "ls", "--json", "--run-dir", str(cluster.run_dir)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["learned"] is True
    assert [(x["node"], x["registered"], x["listed"]) for x in found["members"]] == [
        (f"node-{i}", True, True) for i in (1, 2, 3)
    ]
    main(["status", "--run-dir", str(cluster.run_dir)])
    line = f"dns      {DNS_NAME} at {cluster.dns_address}: node-1,node-2,node-3"
    assert line in capsys.readouterr().out.splitlines()


def test_a_client_that_names_addresses_never_loads_dnspython(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    code = (
        "import sofs, sys\n"
        "with sofs.connect(sys.argv[1], credential=sys.argv[2]) as share:\n"
        "    share.write_file('/plain', b'x')\n"
        "print(any(name == 'dns' or name.startswith('dns.') for name in sys.modules))\n"
    )
    for url, loaded in [(cluster.url, "False"), (cluster.dns_url, "True")]:
        done = subprocess.run(
            [sys.executable, "-c", code, url, cluster.credential],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.strip() == loaded
