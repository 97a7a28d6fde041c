"""The process of one Ray node on this machine: ``ray start --block``, recorded before it starts.

``python -m sofs.actors.ray_node '<RayNodeOrder as JSON>'`` writes its proc file, then becomes
``ray start`` in place. So there is no moment at which a Ray process exists that `sofs down` does
not know. Ray's own processes are children in the same session and end with it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

from sofs.actors import procfile


@dataclass(frozen=True, slots=True)
class RayNodeOrder:
    """What to start: ``arguments`` of ``ray``, and who it is."""

    name: str
    role: str
    run_dir: str
    run: str
    arguments: list[str]
    die_with_parent: bool = False


def quiet(ray_params: Any, head: bool) -> None:
    """RAY_START_HOOK: no Ray client server (50 MiB and port 10001 on the head; SOFS speaks to Ray
    as a driver only)."""
    ray_params.ray_client_server_port = None


def main() -> None:
    order = RayNodeOrder(**json.loads(sys.argv[1]))
    if order.die_with_parent:
        parent = os.getppid()
        procfile.die_with_parent()
        if os.getppid() != parent:
            sys.exit("the process that started this Ray node is gone")
    procfile.write(order.run_dir, procfile.own_facts(order.name, order.role, "", order.run))
    import ray.scripts.scripts

    sys.argv = ["ray", *order.arguments]
    command: Any = ray.scripts.scripts.main
    command()


if __name__ == "__main__":
    main()
