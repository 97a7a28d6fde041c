"""A short-lived driver: what must be asked of Ray from outside is asked here, then it ends.

``python -m sofs.actors.launch '<JSON: address, config>'`` registers the leader's actor with the Ray
cluster at ``address`` (or finds it there) and exits with status 0. Everything else is the leader's
work. The `sofs` command never imports Ray itself: a dead Ray head must not be able to hang it.
"""

from __future__ import annotations

import json
import logging
import sys

import ray

from sofs.actors import procfile
from sofs.actors.actors import NAMESPACE, PartActor, actor_argument, actor_options
from sofs.actors.compose import PartConfig
from sofs.actors.platform import NODE_RESOURCE


def main() -> None:
    order = json.loads(sys.argv[1])
    config = PartConfig(**order["config"])
    procfile.write(config.run_dir, procfile.own_facts("launch", "launch", "", config.run_id))
    ray.init(
        address=order["address"],
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    # A thousandth of what marks a machine for parts: the leader may run on any of them, and Ray
    # moves it when its machine dies.
    options = actor_options(config.name, resources={NODE_RESOURCE: 0.001})
    PartActor.options(**options).remote(actor_argument(config))
    ray.shutdown()


if __name__ == "__main__":
    main()
