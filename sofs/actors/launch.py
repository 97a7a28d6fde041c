"""A short-lived driver: what must be asked of Ray from outside is asked here, then it ends.

``python -m sofs.actors.launch '<JSON: action, address, ...>'`` does one of three things with the
Ray cluster at ``address``, and exits with status 0:

- ``start``: registers the leader's actor (``config``), or finds it there. Everything else is the
  leader's work.
- ``look``: says where the cluster is and which machines it has for SOFS.
- ``leave``: tells Ray that a machine (``name``) is about to leave, so that nothing is started on it
  any more; the leader sees that and moves what is there.

What it has to say is the last line that it prints: ``sofs: <JSON>``, or ``refused: <code>:
<message>`` with status 3. The `sofs` command never imports Ray itself: a dead Ray head must not be
able to hang it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final

import ray

from sofs.actors import procfile
from sofs.actors.actors import PartActor, actor_argument, actor_options
from sofs.actors.compose import PartConfig
from sofs.actors.platform import NODE_RESOURCE, machines_of
from sofs.errors import InvalidParameter, NotSupported, SofsError, Unavailable
from sofs.ports.platform import Machine

SAYS: Final = "sofs: "
REFUSED: Final = "refused: "
EXIT_REFUSED: Final = 3
LEAVES: Final = "sofs node leave"


def main() -> None:
    order = json.loads(sys.argv[1])
    if order["run_dir"]:
        facts = procfile.own_facts("launch", "launch", "", order["run"])
        procfile.write(order["run_dir"], facts)
    try:
        _connect(order["address"], order["namespace"])
        print(SAYS + json.dumps(_ACTIONS[order["action"]](order)))
    except SofsError as error:
        print(REFUSED + str(error))
        sys.exit(EXIT_REFUSED)
    ray.shutdown()


def _connect(address: str, namespace: str) -> None:
    try:
        ray.init(
            address=address,
            namespace=namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        words = " ".join(str(error).split())
        raise Unavailable(
            f"the Ray cluster at {address!r} cannot be used ({type(error).__name__}: {words}); "
            "does it run, and are RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH set as for its nodes?"
        ) from error


def _start(order: dict[str, Any]) -> dict[str, Any]:
    config = PartConfig(**order["config"])
    # A thousandth of what marks a machine for parts: the leader may run on any of them, and Ray
    # moves it when its machine dies.
    placement: dict[str, Any] = {"resources": {NODE_RESOURCE: 0.001}}
    if order["variables"]:
        placement["runtime_env"] = {"env_vars": order["variables"]}  # The parts inherit it.
    options = actor_options(config, config.name, **placement)
    PartActor.options(**options).remote(actor_argument(config))
    return {}


def _machines() -> list[Machine]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return machines_of(nodes, [], "")


def _look(order: dict[str, Any]) -> dict[str, Any]:
    machines = _machines()
    away = [f"{m.name or m.id[:8]} at {m.elsewhere}" for m in machines if m.elsewhere]
    if away:
        raise NotSupported(
            f"Ray nodes with {NODE_RESOURCE!r} are on other machines ({', '.join(away)}): parts "
            "listen on the loopback only until they have TLS, so all of them must be on this "
            f"machine; start those Ray nodes without the resource {NODE_RESOURCE!r}"
        )
    if not machines:
        raise InvalidParameter(
            f"no Ray node is meant for SOFS: give those that shall serve the resource, with "
            f"`ray start --resources='{{\"{NODE_RESOURCE}\": 1}}'`"
        )
    return {
        "address": ray.get_runtime_context().gcs_address,
        "machines": [machine.name or machine.id for machine in machines],
    }


def _leave(order: dict[str, Any]) -> dict[str, Any]:
    from ray.core.generated import autoscaler_pb2

    reasons: Any = autoscaler_pb2
    name = order["name"]
    found = [m for m in _machines() if m.name == name or (name and m.id.startswith(name))]
    if len(found) != 1:
        raise InvalidParameter(f"{name!r} names {len(found)} machines; see `sofs node ls`")
    deadline_ms = time.time_ns() // 1_000_000 + int(order["within_s"]) * 1000
    raylet: Any = ray._raylet
    client = raylet.GcsClient(address=ray.get_runtime_context().gcs_address)
    reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(found[0].id, reason, LEAVES, deadline_ms)
    if not accepted:
        raise Unavailable(f"Ray does not let {name} leave: {why}")
    return {"id": found[0].id}


_ACTIONS: Final = {"start": _start, "look": _look, "leave": _leave}


if __name__ == "__main__":
    main()
