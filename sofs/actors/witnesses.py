"""Asking the witnesses of a cluster for an administrator, from any machine that reaches its root.

The leader says where witnesses and nodes listen; the rest is between the caller and the witnesses
(``services/witness/ask.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sofs.actors import admin
from sofs.core.messages import ClusterStatus, ClusterStatusReply, MoveClients
from sofs.errors import InvalidParameter, Unavailable
from sofs.ports.runtime import Clock
from sofs.ports.stream import Transport
from sofs.rpc.transport import GrpcTransport
from sofs.services.leader.plan import NODE, WITNESS
from sofs.services.witness.ask import Survey, move, move_client, survey
from sofs.storage import SystemClock

T = TypeVar("T")


def listen_at(root: str, credential: str, role: str) -> dict[str, str]:
    """Where the parts of a role listen, by name; "" for one whose address nobody knows."""
    status = admin.ask(root, credential, ClusterStatus(), ClusterStatusReply)
    return {part.name: part.address for part in status.parts if part.part == role}


def list_clients(root: str, credential: str) -> Survey:
    """Every client that a witness knows, and which witnesses do not answer."""
    witnesses = listen_at(root, credential, WITNESS)
    return _run(credential, lambda clock, wire: survey(clock, wire, witnesses))


def move_one(root: str, credential: str, client: str, node: str) -> bool:
    """Move a client to a node, by name or address; False if it was there. Raises NotFound,
    InvalidParameter, or Unavailable: why the client stayed."""
    witnesses, destination = _both(root, credential, node)
    return _run(
        credential, lambda clock, wire: move_client(clock, wire, witnesses, client, destination)
    )


def move_share(root: str, credential: str, share: str, node: str) -> int:
    """Move all clients of a share to a node; returns how many moved. Raises Unavailable when some
    stayed: why."""
    witnesses, destination = _both(root, credential, node)
    body = MoveClients(share_name=share, destinations=[destination])

    async def all_of_them(clock: Clock, wire: Transport) -> int:
        replies = await asyncio.gather(
            *(move(clock, wire, address, body) for address in witnesses.values() if address)
        )
        stayed = sum(reply.told - reply.moved for reply in replies)
        if stayed:
            reasons = [reason for reply in replies for reason in reply.reasons]
            raise Unavailable(f"{stayed} clients of {share!r} stay: {'; '.join(reasons[:4])}")
        return sum(reply.moved for reply in replies)

    return _run(credential, all_of_them)


def _both(root: str, credential: str, node: str) -> tuple[dict[str, str], str]:
    status = admin.ask(root, credential, ClusterStatus(), ClusterStatusReply)
    nodes = {part.name: part.address for part in status.parts if part.part == NODE}
    destination = node if node in nodes.values() else nodes.get(node, "")
    if not destination:
        raise InvalidParameter(f"there is no node {node!r}; choose one of {', '.join(nodes)}")
    return {p.name: p.address for p in status.parts if p.part == WITNESS}, destination


def _run(credential: str, work: Callable[[Clock, Transport], Awaitable[T]]) -> T:
    async def main() -> T:
        clock = SystemClock()
        transport = GrpcTransport(credential, clock)
        try:
            return await work(clock, transport)
        finally:
            await transport.close()

    return asyncio.run(main())
