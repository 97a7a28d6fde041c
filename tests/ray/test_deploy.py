"""The deployment file is one that this version of Ray takes, and says what SOFS relies on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from sofs.actors import ray_cluster
from sofs.actors.platform import NAME_LABEL, NODE_RESOURCE

FILE = Path(__file__).parents[2] / "deploy" / "ray-cluster.yaml"


@pytest.fixture
def written() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text()))


def test_ray_takes_the_file(written: dict[str, Any]) -> None:
    prepared = prepare_config(written)
    validate_config(prepared)
    workers = len(written["provider"]["worker_ips"])
    assert prepared["max_workers"] == workers
    assert prepared["available_node_types"]["local.cluster.node"]["min_workers"] == workers


def start_of(commands: list[str]) -> tuple[dict[str, str], list[str]]:
    """Environment and arguments of the `ray start` in a list of commands."""
    [command] = [text for text in commands if "ray start" in text]
    words = shlex.split(command)
    settings = dict(
        word.rstrip(";").split("=", 1) for word in words if word[0].isupper() and "=" in word
    )
    return settings, words[words.index("start") + 1 :]


def test_machines_are_marked_as_the_leader_looks_for_them(written: dict[str, Any]) -> None:
    _, worker = start_of(written["worker_start_ray_commands"])
    _, head = start_of(written["head_start_ray_commands"])
    assert f'--resources={{"{NODE_RESOURCE}": 1}}' in worker
    assert any(word.startswith(f"--labels={NAME_LABEL}=") for word in worker)
    assert "--head" in head
    assert not any(NODE_RESOURCE in word for word in head)
    assert "--num-cpus=0" in worker
    assert "--num-cpus=0" in head


def test_its_environment_is_that_of_a_local_cluster(written: dict[str, Any]) -> None:
    head, _ = start_of(written["head_start_ray_commands"])
    worker, _ = start_of(written["worker_start_ray_commands"])
    for settings in (head, worker):
        assert settings["RAY_AUTH_MODE"] == "token"
        assert settings["RAY_AUTH_TOKEN_PATH"]
        reconnect = settings["RAY_gcs_rpc_server_reconnect_timeout_s"]
        assert int(reconnect) == ray_cluster.RECONNECT_S
    assert head["RAY_gcs_storage"] == "rocksdb"
    assert {name: worker[name] for name in ray_cluster.MALLOC} == ray_cluster.MALLOC
