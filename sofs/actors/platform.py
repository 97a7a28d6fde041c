"""The leader's platform on Ray: Ray nodes as machines, detached named actors as parts.

Ray's calls block, and for as long as the Ray head is dead some of them never return. They run in
one thread of their own; a call that takes longer than CALL_S_MAX is given up (``Unavailable``), and
until it has returned nothing else is asked of Ray. Whatever Ray raises becomes ``Unavailable``: the
leader looks again later.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, TypeVar

import ray
import ray.util
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sofs.actors.actors import PartActor, actor_argument, actor_options
from sofs.actors.compose import PartConfig
from sofs.errors import Unavailable
from sofs.ports.platform import Machine, PartFacts, PartOrder

CALL_S_MAX: Final = 10.0
DESCRIBE_S_MAX: Final = 1.0
NODE_RESOURCE: Final = "sofs_node"  # A Ray node that has it is meant for parts.
NAME_LABEL: Final = "sofs/name"

T = TypeVar("T")


class RayPlatform:
    """``ports.platform.Platform``. ``leader``: the leader's own configuration, from which those of
    the parts are made."""

    def __init__(self, leader: PartConfig) -> None:
        self._leader = leader
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ray-calls")
        self._last: asyncio.Future[Any] | None = None
        self._handles: dict[str, Any] = {}

    async def _call(self, what: str, function: Callable[[], T]) -> T:
        if self._last is not None and not self._last.done():
            try:
                await asyncio.wait_for(asyncio.shield(self._last), CALL_S_MAX)
            except Exception as error:
                if not self._last.done():
                    raise Unavailable(f"{what}: Ray does not answer; is its head alive?") from error
        future = self._last = asyncio.get_running_loop().run_in_executor(self._thread, function)
        try:
            return await asyncio.wait_for(asyncio.shield(future), CALL_S_MAX)
        except TimeoutError as error:
            raise Unavailable(f"{what}: Ray does not answer; is its head alive?") from error
        except Exception as error:
            raise Unavailable(f"{what}: {type(error).__name__}: {error}") from error

    async def machines(self) -> list[Machine]:
        return await self._call("list Ray nodes", lambda: machines_of(*_nodes_and_draining()))

    async def parts(self) -> list[str]:
        listed = await self._call("list actors", lambda: ray.util.list_named_actors(True))
        space = self._leader.namespace
        return sorted(str(a["name"]) for a in listed if a["namespace"] == space)

    async def create(self, order: PartOrder) -> None:
        config = replace(
            self._leader,
            role=order.role,
            name=order.name,
            address=order.address,
            volume=order.volume or self._leader.volume,
            access_point=list(order.access_point),
            witnesses=list(order.witnesses),
            machine=order.machine,
        )
        options = actor_options(
            config,
            order.name,
            scheduling_strategy=NodeAffinitySchedulingStrategy(order.machine, soft=False),
        )
        self._handles[order.name] = await self._call(
            f"create {order.name}",
            lambda: PartActor.options(**options).remote(actor_argument(config)),
        )

    async def remove(self, name: str) -> None:
        self._handles.pop(name, None)

        def kill() -> None:
            try:
                handle = ray.get_actor(name, namespace=self._leader.namespace)
            except ValueError:
                return  # There is none.
            ray.kill(handle, no_restart=True)

        await self._call(f"remove {name}", kill)

    async def describe(self, name: str) -> PartFacts:
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = await self._call(
                f"find {name}", lambda: ray.get_actor(name, namespace=self._leader.namespace)
            )
        try:
            facts = await asyncio.wait_for(handle.describe.remote(), DESCRIBE_S_MAX)
        except Exception as error:
            self._handles.pop(name, None)
            raise Unavailable(f"{name} does not answer: {type(error).__name__}") from error
        return PartFacts(
            facts["pid"], facts["address"], facts["state"], facts["detail"], facts["machine"]
        )


def machines_of(
    nodes: Sequence[Mapping[str, Any]], draining: Collection[str], own: str
) -> list[Machine]:
    """The machines among Ray's nodes: those that are alive and marked for parts. ``own``: the id
    of the caller's."""
    found = [
        Machine(
            str(node["NodeID"]),
            str(node.get("Labels", {}).get(NAME_LABEL, "")),
            draining=str(node["NodeID"]) in draining,
            own=node["NodeID"] == own,
            elsewhere="" if is_here(node["NodeManagerAddress"]) else node["NodeManagerAddress"],
        )
        for node in nodes
        if node["Alive"] and node["Resources"].get(NODE_RESOURCE)
    ]
    return sorted(found, key=lambda machine: (machine.name, machine.id))


def is_here(host: str) -> bool:
    """Is ``host`` an address of this machine? Then its loopback is ours, too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _nodes_and_draining() -> tuple[list[dict[str, Any]], list[str], str]:
    """All Ray nodes, and the ids of those that `ray drain-node`, an autoscaler or a preemption
    notice wants to be left, and the id of our own. A node that is drained serves on until its
    deadline."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    draining = [str(node) for node in ray._private.state.state.get_draining_nodes()]
    return nodes, draining, str(ray.get_runtime_context().get_node_id())
