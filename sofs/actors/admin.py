"""Asking the leader for what an operator wants, from any machine that reaches the cluster root.

The leader is found by its claim, as every part finds another. While it is away (Ray restarts it
within a second), or another one takes over, the same request with the same token is sent again,
ASK_S_MAX long: it is done once. Ray is not asked.
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

from sofs.actors.compose import create_roots
from sofs.core.messages import AddVolume, ListVolumes, Message, RemoveVolume, VolumeList
from sofs.core.share_table import check_volume_name
from sofs.errors import FormatRefused, SofsError, Unavailable
from sofs.ports.runtime import Clock
from sofs.ports.stream import Transport
from sofs.rpc.transport import GrpcTransport
from sofs.services.leader.ask import ask_leader
from sofs.services.leader.run import LEADER_ROLE
from sofs.storage import SystemClock, SystemEntropy, ThreadBlocking, attach, open_fenced, roots
from sofs.storage.fenced import StoreFences
from sofs.storage.names import below

ASK_S_MAX: Final = 20.0
ANSWER_MS_MAX: Final = 5_000
PAUSE_MS: Final = 200

R = TypeVar("R", bound=Message)


def token() -> bytes:
    """Draw the token of a request."""
    return SystemEntropy().token(16)


def ask(root: str, credential: str, body: Message, kind: type[R]) -> R:
    """Return the leader's answer. Raises what it refuses, CredentialRefused, FormatRefused (no
    cluster root), or Unavailable when no leader answers within ASK_S_MAX."""
    return asyncio.run(_ask(root, credential, body, kind))


def create_volume(root: str, credential: str, name: str) -> VolumeList:
    """Make a volume below the cluster's root, unless it is there, and have it served. Raises what
    ``ask`` and the backend do; to be repeated when it was interrupted."""
    check_volume_name(name)
    ask(root, credential, ListVolumes(), VolumeList)  # Nothing is made without a leader.
    create_roots(root, credential, name)
    return ask(root, credential, AddVolume(token(), name), VolumeList)


def remove_volume(
    root: str, credential: str, name: str, *, force: bool = False
) -> tuple[VolumeList, str]:
    """Have a volume served no more; returns what is left, and the URL of its folder, which stays.
    Raises what ``ask`` does, ObjectNameNotFound, ObjectInUse."""
    entries = roots.list_volumes(attach(root, probe=False, make=False))
    where = next((entry.url for entry in entries if entry.name == name), "")
    reply = ask(root, credential, RemoveVolume(token(), name, force), VolumeList)
    return reply, where or below(root, f"volume-{name}")


async def _ask(root: str, credential: str, body: Message, kind: type[R]) -> R:
    clock, blocking = SystemClock(), ThreadBlocking()
    transport = GrpcTransport(credential, clock)
    try:
        store = attach(root, probe=False, make=False)
        cluster = roots.open_cluster(store)
        if cluster is None:
            raise FormatRefused(f"{root} is no cluster root; `sofs up` makes one")
        roots.check_credential(cluster, credential.encode())
        fenced = open_fenced(store, clock, SystemEntropy(), blocking)
        return await ask_until(clock, transport, fenced, body, kind, ASK_S_MAX)
    finally:
        await transport.close()
        blocking.close()


async def ask_until(
    clock: Clock,
    transport: Transport,
    fenced: StoreFences,
    body: Message,
    kind: type[R],
    limit_s: float,
) -> R:
    """Ask whoever has the highest claim, again and again for ``limit_s``."""
    deadline = clock.monotonic_ms() + limit_s * 1000
    while True:
        try:
            claim = await fenced.highest_claim(LEADER_ROLE)
            if claim is None:
                raise Unavailable("the cluster never had a leader")
            return await ask_leader(clock, transport, claim, body, kind, ANSWER_MS_MAX)
        except SofsError as error:
            if error.retry == "never":
                raise
            if clock.monotonic_ms() > deadline:
                raise Unavailable(
                    f"no leader answers ({error}); files are served without one, but nobody takes "
                    "this request. It may have been taken: look with `ls`. `sofs status` tells more"
                ) from error
        await clock.sleep_ms(PAUSE_MS)
