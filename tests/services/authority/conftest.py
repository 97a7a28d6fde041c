from __future__ import annotations

from collections.abc import Iterator

import pytest
from authority_harness import Client, Node, Volume


@pytest.fixture
def volume() -> Iterator[Volume]:
    volume = Volume()
    yield volume
    volume.check()
    volume.close()


@pytest.fixture
def node(volume: Volume) -> Node:
    return volume.node("a")


@pytest.fixture
def other_node(volume: Volume) -> Node:
    return volume.node("b")


@pytest.fixture
def client(volume: Volume, node: Node) -> Client:
    return volume.client("one", node)


@pytest.fixture
def other(volume: Volume, other_node: Node) -> Client:
    return volume.client("two", other_node)
