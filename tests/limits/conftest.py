"""One cluster for each module of bad input, and proof after every test that nothing of it broke."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits_rig import lives, starts

import sofs
from sofs.testing import LocalCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    root = Path(tmp_path_factory.mktemp("limits")) / "root"
    with LocalCluster(root, nodes=2, witness=False) as made:
        yield made


@pytest.fixture(scope="module")
def share(cluster: LocalCluster) -> Iterator[sofs.Share]:
    with sofs.connect(
        cluster.url, credential=cluster.credential, deadline_ms=20_000, witness=False
    ) as made:
        yield made


@pytest.fixture
def unharmed(cluster: LocalCluster, share: sofs.Share) -> Iterator[None]:
    """No process was restarted by the test, no node began a new life, and other clients are
    served."""
    share.write_file("/witness-of-health", b"before")
    before = starts(cluster), asyncio.run(lives(cluster))
    failovers = len(share.failovers())
    yield
    assert share.read_file("/witness-of-health") == b"before"
    share.write_file("/witness-of-health", b"after")
    assert share.read_file("/witness-of-health") == b"after"
    assert (starts(cluster), asyncio.run(lives(cluster))) == before, cluster.last_words()
    assert len(share.failovers()) == failovers
