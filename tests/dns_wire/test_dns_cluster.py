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


BOTH = ("dns-1", "dns-2")


def ask(
    cluster: LocalCluster, kind: str, name: str = DNS_NAME, server: int = 0
) -> dns.message.Message:
    host, port = host_port(cluster.dns_addresses[server])
    query = dns.message.make_query(name, kind)
    return dns.query.udp(query, host, timeout=5, port=port)


def registered(cluster: LocalCluster, *names: str) -> bool:
    """Every node has said where it listens to the DNS parts of now."""
    return all(
        cluster.parts[name].ready.is_set() and cluster.facts(name)["registered"] == "3"
        for name in names or BOTH
    )


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


@pytest.mark.parametrize("dead", BOTH)
def test_while_one_dns_part_is_dead_clients_are_led_by_the_other_and_the_next_one_learns_all(
    cluster: LocalCluster, dead: str
) -> None:
    until(lambda: registered(cluster), "nodes registered")
    [other] = [name for name in BOTH if name != dead]
    cluster.stop(dead)
    try:
        for number in range(3):
            with sofs.connect(cluster.dns_url, credential=cluster.credential) as share:
                share.write_file(f"/while-{dead}-is-dead-{number}", b"x")
        # Nodes go on telling the other, too: one that comes anew is heard while its twin is dead.
        cluster.kill(other)
        until(lambda: registered(cluster, other), "registered with the only one")
        assert len(texts(ask(cluster, "A", server=BOTH.index(other)))) == 3
    finally:
        cluster.revive()
    until(lambda: registered(cluster), "nodes registered with the next one")
    server = BOTH.index(dead)
    assert len(texts(ask(cluster, "SRV", f"_sofs._tcp.{DNS_NAME}", server))) == 3


def test_the_death_of_all_dns_parts_disturbs_no_open_file_and_the_next_ones_learn_all(
    cluster: LocalCluster,
) -> None:
    until(lambda: registered(cluster), "nodes registered")
    with sofs.connect(cluster.dns_url, credential=cluster.credential) as share:
        with share.open("/kept", "w+b") as file:
            for name in BOTH:
                cluster.stop(name)
            file.write(b"without a name, ")
            assert share.failovers() == []
            in_use = cluster.node_at(share.facts().address)
            cluster.kill(in_use)  # And even now it needs no name.
            file.write(b"on another node")
            assert file.pread(100, 0) == b"without a name, on another node"
            assert len(share.failovers()) == 1
            cluster.revive()
    until(lambda: registered(cluster), "nodes registered with the next ones")


def test_a_frozen_dns_part_is_passed_over_and_two_of_them_disturb_no_open_file(
    cluster: LocalCluster,
) -> None:
    until(lambda: registered(cluster), "nodes registered")
    with sofs.connect(cluster.dns_url, credential=cluster.credential) as share:
        with share.open("/frozen", "w+b") as file:
            try:
                cluster.freeze("dns-1")  # Which is asked first.
                for _ in range(20):
                    file.write(b"x")
                with sofs.connect(cluster.dns_url, credential=cluster.credential) as second:
                    second.write_file("/found", b"x")
                assert len(texts(ask(cluster, "A", server=1))) == 3
                cluster.freeze("dns-2")
                for _ in range(20):
                    file.write(b"x")
                assert share.failovers() == []
                with pytest.raises(DeadlineExceeded, match="cannot be resolved"):
                    sofs.connect(
                        cluster.dns_url, credential=cluster.credential, connect_timeout_ms=2_500
                    )
            finally:
                for name in BOTH:
                    cluster.thaw(name)


def test_every_server_names_all_servers_with_their_addresses(cluster: LocalCluster) -> None:
    for server in (0, 1):
        reply = ask(cluster, "NS", server=server)
        assert sorted(texts(reply)) == [f"ns1.{DNS_NAME}.", f"ns2.{DNS_NAME}."]
        found = {rrset.name.to_text(): rrset[0].to_text() for rrset in reply.additional}
        hosts = [host_port(address)[0] for address in cluster.dns_addresses]
        assert found == {f"ns{i}.{DNS_NAME}.": host for i, host in enumerate(hosts, 1)}


def test_the_ports_are_those_that_the_nodes_have(cluster: LocalCluster) -> None:
    until(lambda: registered(cluster), "nodes registered")
    found = texts(ask(cluster, "SRV", f"_sofs._tcp.{DNS_NAME}"))
    assert {text.split()[2] for text in found} == {str(cluster.port)}
    assert ask(cluster, "A", f"node-9.{DNS_NAME}").rcode() == dns.rcode.NXDOMAIN
    assert ask(cluster, "A").answer[0].ttl == 60


def test_dns_ls_and_status_show_who_is_listed_and_which_part_is_away(
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
        dns_hosts=cluster.dns_hosts,
        dns_port=cluster.port,
        dns_name=DNS_NAME,
    )
    rundir.write_run(cluster.run_dir, run)
    assert main(["dns", "ls", "--run-dir", str(cluster.run_dir)]) == 0
    shown = capsys.readouterr().out
    for name, address in zip(BOTH, cluster.dns_addresses, strict=True):
        assert re.search(rf"^{name} +{address} +serial [0-9]+, ", shown, re.MULTILINE)
    for i in (1, 2, 3):
        assert re.search(rf"^node-{i} +yes +{cluster.port} +127\.0\.0\.1{i} ", shown, re.MULTILINE)
    assert main(["dns", "ls", "--json", "--run-dir", str(cluster.run_dir)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [server["learned"] for server in found["servers"]] == [True, True]
    assert [(x["node"], x["registered_by"], x["listed_by"]) for x in found["members"]] == [
        (f"node-{i}", list(BOTH), list(BOTH)) for i in (1, 2, 3)
    ]
    line = f"dns      {DNS_NAME} at {' and '.join(cluster.dns_addresses)}: node-1,node-2,node-3"
    main(["status", "--run-dir", str(cluster.run_dir)])
    assert line in capsys.readouterr().out.splitlines()
    cluster.stop("dns-1")
    try:
        main(["status", "--run-dir", str(cluster.run_dir)])
        assert line in capsys.readouterr().out.splitlines()
        assert main(["dns", "ls", "--run-dir", str(cluster.run_dir)]) == 0
        shown = capsys.readouterr().out
        assert re.search(r"^dns-1 .* away: it does not run", shown, re.MULTILINE)
        assert re.search(r"^node-3 +yes ", shown, re.MULTILINE)
        assert max(map(len, shown.splitlines())) <= 100
    finally:
        cluster.revive()


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
