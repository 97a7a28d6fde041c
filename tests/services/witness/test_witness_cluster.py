"""Real processes: a client leaves a killed or frozen node because a witness said so. Times are
printed, not judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sofs
from sofs.testing import LocalCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(Path(tmp_path_factory.mktemp("witness")) / "root") as made:
        yield made


@pytest.fixture
def share(cluster: LocalCluster) -> Iterator[sofs.Share]:
    """An idle client whose witness listens: nothing but the witness hurries it."""
    cluster.wait_ready()
    with sofs.connect(cluster.url_from("node-1"), credential=cluster.credential) as made:
        until(cluster, lambda: made.facts().witness_address)
        yield made


def until(cluster: LocalCluster, condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, cluster.last_words()
        time.sleep(0.002)


def host(address: str) -> str:
    return address.rpartition(":")[0]


def left_after(cluster: LocalCluster, share: sofs.Share, fault: Callable[[str], None]) -> None:
    """Apply ``fault`` to the node in use and wait until another one serves."""
    before = len(share.failovers())
    began = time.monotonic()
    fault(cluster.node_at(share.facts().address))
    until(cluster, lambda: len(share.failovers()) > before)
    took_ms = (time.monotonic() - began) * 1000
    record = share.failovers()[-1]
    print(f"\n{fault.__name__}: served elsewhere after {took_ms:.0f} ms ({record.reason})")


def test_the_witness_is_on_another_host_than_the_node_in_use(
    cluster: LocalCluster, share: sofs.Share
) -> None:
    facts = share.facts()
    assert host(facts.witness_address) != host(facts.address)


def test_an_idle_client_leaves_a_frozen_node_because_its_witness_says_so(
    cluster: LocalCluster, share: sofs.Share
) -> None:
    share.write_file("/frozen", b"acknowledged")
    node = cluster.node_at(share.facts().address)
    try:
        left_after(cluster, share, cluster.freeze)
        assert share.failovers()[-1].reason == "witness: node unavailable"
        assert cluster.node_at(share.facts().address) != node
        assert share.read_file("/frozen") == b"acknowledged"
    finally:
        cluster.thaw(node)


def test_a_client_finds_a_new_witness_elsewhere_after_it_moved(
    cluster: LocalCluster, share: sofs.Share
) -> None:
    first = share.facts()
    left_after(cluster, share, cluster.kill)
    until(cluster, lambda: share.facts().witness_address)
    facts = share.facts()
    assert facts.address != first.address
    assert host(facts.witness_address) != host(facts.address)


def test_the_death_of_a_witness_disturbs_no_client(
    cluster: LocalCluster, share: sofs.Share
) -> None:
    witness = share.facts().witness_address
    [name] = [n for n, part in cluster.parts.items() if part.config.address == witness]
    before = len(share.failovers())
    cluster.kill(name)
    share.write_file("/unmoved", b"x")
    assert share.read_file("/unmoved") == b"x"
    assert len(share.failovers()) == before
