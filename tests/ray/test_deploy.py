"""The deployment files are ones that this version of Ray takes, or KubeRay, and say what SOFS
relies on.

``kuberay_crds`` has the schemas of KubeRay's custom resources: version v1 of
``ray-operator/config/crd/bases/ray.io_{rayclusters,rayjobs}.yaml`` at its tag v1.7.0 (commit
59d663ae, Apache License 2.0), without descriptions, as JSON.
"""

from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from sofs.actors import ray_cluster
from sofs.actors.platform import NAME_LABEL, NODE_RESOURCE
from sofs.cli.main import build_parser

DEPLOY = Path(__file__).parents[2] / "deploy"
ON_PREMISE = DEPLOY / "ray-cluster.yaml"
AWS = DEPLOY / "ray-cluster-aws.yaml"
KUBERAY = DEPLOY / "kuberay"
SCHEMAS = Path(__file__).parent / "kuberay_crds"


def load(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def start_of(commands: list[str]) -> tuple[dict[str, str], list[str]]:
    """Environment and arguments of the `ray start` in a list of commands."""
    [command] = [text for text in commands if "ray start" in text]
    words = shlex.split(command)
    settings = dict(
        word.rstrip(";").split("=", 1) for word in words if word[0].isupper() and "=" in word
    )
    return settings, words[words.index("start") + 1 :]


# Ray's cluster launcher -------------------------------------------------------------------------


def test_ray_takes_the_file_for_machines_of_ones_own() -> None:
    written = load(ON_PREMISE)
    prepared = prepare_config(written)
    validate_config(prepared)
    workers = len(written["provider"]["worker_ips"])
    assert prepared["max_workers"] == workers
    assert prepared["available_node_types"]["local.cluster.node"]["min_workers"] == workers


def test_ray_takes_the_file_for_aws_and_every_zone_has_its_machine() -> None:
    written = load(AWS)
    prepared = prepare_config(written)
    validate_config(prepared)
    types = {n: t for n, t in prepared["available_node_types"].items() if n != "head"}
    zones = written["provider"]["availability_zone"].split(",")
    placed = [t["node_config"]["Placement"]["AvailabilityZone"] for t in types.values()]
    assert sorted(placed) == sorted(zones)
    assert {t["node_config"]["InstanceType"] for t in types.values()} == {"m7i.2xlarge"}
    assert all((t["min_workers"], t["max_workers"]) == (1, 1) for t in types.values())
    assert prepared["max_workers"] == len(types)
    assert all(t["resources"][NODE_RESOURCE] == 1 for t in types.values())
    assert len({t["labels"][NAME_LABEL] for t in types.values()}) == len(types)
    assert NODE_RESOURCE not in prepared["available_node_types"]["head"]["resources"]
    assert prepared["provider"]["cache_stopped_nodes"] is False


def test_machines_are_marked_as_the_leader_looks_for_them() -> None:
    written = load(ON_PREMISE)
    _, worker = start_of(written["worker_start_ray_commands"])
    _, head = start_of(written["head_start_ray_commands"])
    assert f'--resources={{"{NODE_RESOURCE}": 1}}' in worker
    assert any(word.startswith(f"--labels={NAME_LABEL}=") for word in worker)
    assert not any(NODE_RESOURCE in word for word in head)


@pytest.mark.parametrize("path", [ON_PREMISE, AWS], ids=lambda path: path.stem)
def test_its_environment_is_that_of_a_local_cluster(path: Path) -> None:
    written = load(path)
    head, head_words = start_of(written["head_start_ray_commands"])
    worker, worker_words = start_of(written["worker_start_ray_commands"])
    for settings in (head, worker):
        assert settings["RAY_AUTH_MODE"] == "token"
        assert settings["RAY_AUTH_TOKEN_PATH"]
        reconnect = settings["RAY_gcs_rpc_server_reconnect_timeout_s"]
        assert int(reconnect) == ray_cluster.RECONNECT_S
    assert head["RAY_gcs_storage"] == "rocksdb"
    assert {name: worker[name] for name in ray_cluster.MALLOC} == ray_cluster.MALLOC
    assert "--head" in head_words
    assert "--num-cpus=0" in head_words
    assert "--num-cpus=0" in worker_words


# KubeRay ----------------------------------------------------------------------------------------


def schema(kind: str) -> dict[str, Any]:
    """The schema of a custom resource, in which a field that it does not know is an error."""
    with gzip.open(SCHEMAS / f"{kind}-1.7.0.json.gz") as file:
        found = json.load(file)
    close(found)
    return dict(found)


def close(node: object) -> None:
    """Kubernetes drops unknown fields silently; here they are refused."""
    if isinstance(node, dict):
        if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            node.setdefault("additionalProperties", False)
        for child in node.values():
            close(child)
    elif isinstance(node, list):
        for child in node:
            close(child)


def documents(name: str) -> dict[str, dict[str, Any]]:
    """The documents of a manifest by their kind."""
    found = [dict(d) for d in yaml.safe_load_all((KUBERAY / name).read_text())]
    return {document["kind"]: document for document in found}


@pytest.fixture
def cluster() -> dict[str, Any]:
    return documents("ray-cluster.yaml")["RayCluster"]


@pytest.fixture
def machines(cluster: dict[str, Any]) -> dict[str, Any]:
    """The group of the machines that serve."""
    [group] = cluster["spec"]["workerGroupSpecs"]
    return dict(group)


def container(group: dict[str, Any]) -> dict[str, Any]:
    [found] = group["template"]["spec"]["containers"]
    return dict(found)


def variables(group: dict[str, Any]) -> dict[str, str]:
    return {v["name"]: v.get("value", "") for v in container(group)["env"]}


def test_kuberay_takes_the_cluster_and_the_job(cluster: dict[str, Any]) -> None:
    jsonschema.validate(cluster, schema("rayclusters"))
    jsonschema.validate(documents("start-sofs.yaml")["RayJob"], schema("rayjobs"))
    assert cluster["spec"]["rayVersion"] == ray.__version__


def test_kuberays_schema_refuses_what_it_does_not_know(cluster: dict[str, Any]) -> None:
    cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["preStop"] = {}
    with pytest.raises(jsonschema.ValidationError, match="preStop"):
        jsonschema.validate(cluster, schema("rayclusters"))


def test_a_dead_head_stops_nothing_on_kubernetes_either(
    cluster: dict[str, Any], machines: dict[str, Any]
) -> None:
    head = cluster["spec"]["headGroupSpec"]
    assert cluster["spec"]["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
    assert NODE_RESOURCE not in head["resources"]
    for group in (head, machines):
        given = variables(group)["RAY_gcs_rpc_server_reconnect_timeout_s"]
        assert int(given) == ray_cluster.RECONNECT_S
    assert cluster["spec"]["enableInTreeAutoscaling"] is False


def test_ray_asks_for_a_token_on_kubernetes(cluster: dict[str, Any]) -> None:
    assert cluster["spec"]["authOptions"]["mode"] == "token"
    assert cluster["spec"]["authOptions"]["secretName"]


def test_pods_that_serve_are_spread_and_evicted_one_at_a_time(machines: dict[str, Any]) -> None:
    labels = machines["template"]["metadata"]["labels"]
    spreads = machines["template"]["spec"]["topologySpreadConstraints"]
    assert {s["topologyKey"]: s["whenUnsatisfiable"] for s in spreads} == {
        "topology.kubernetes.io/zone": "ScheduleAnyway",
        "kubernetes.io/hostname": "DoNotSchedule",
    }
    budget = documents("ray-cluster.yaml")["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == labels
    assert all(s["labelSelector"]["matchLabels"] == labels for s in spreads)
    assert machines["resources"][NODE_RESOURCE] == "1"
    assert machines["minReplicas"] == machines["replicas"] == machines["maxReplicas"]
    given = variables(machines)
    assert {name: given[name] for name in ray_cluster.MALLOC} == ray_cluster.MALLOC


def test_a_pod_that_ends_is_left_first_by_a_command_that_exists(machines: dict[str, Any]) -> None:
    command = container(machines)["lifecycle"]["preStop"]["exec"]["command"]
    words = shlex.split(command[-1])
    assert command[:2] == ["/bin/sh", "-c"]
    assert words[0].endswith("/bin/sofs")
    options = build_parser().parse_args(words[1:])
    assert options.name == "$POD_NAME"
    assert f"--labels={NAME_LABEL}=$POD_NAME" in container(machines)["args"][0]
    [name] = [v for v in container(machines)["env"] if v["name"] == "POD_NAME"]
    assert name["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    granted = machines["template"]["spec"]["terminationGracePeriodSeconds"]
    assert 0 < options.wait < granted


def test_zombies_are_reaped(cluster: dict[str, Any], machines: dict[str, Any]) -> None:
    # Without the annotation KubeRay runs its own command, and bash is process 1.
    assert cluster["metadata"]["annotations"]["ray.io/overwrite-container-cmd"] == "true"
    for group in (cluster["spec"]["headGroupSpec"], machines):
        assert container(group)["command"][:2] == ["/usr/bin/tini", "--"]
        assert "exec $KUBERAY_GEN_RAY_START_CMD" in container(group)["args"][0]


def test_the_job_runs_a_command_that_exists_where_the_credential_is(
    cluster: dict[str, Any], machines: dict[str, Any]
) -> None:
    job = documents("start-sofs.yaml")["RayJob"]["spec"]
    assert job["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert "backoffLimit" not in job  # KubeRay refuses it beside clusterSelector.
    words = shlex.split(job["entrypoint"])
    assert words[0].startswith("/")
    assert words[1:3] == ["-m", "sofs"]
    options = build_parser().parse_args(words[3:])
    assert options.address == "auto"
    assert options.nodes == machines["replicas"]
    assert NODE_RESOURCE in json.loads(job["entrypointResources"])
    path = Path(yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]["SOFS_CREDENTIAL"])
    mounts = {m["name"]: m["mountPath"] for m in container(machines)["volumeMounts"]}
    assert mounts["credential"] == str(path.parent)
    assert mounts["run"] == options.run_dir
