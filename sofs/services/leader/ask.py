"""Asking parts over the cluster service how they are: for the leader and for people.

Every part answers ``PartState`` for itself; the leader answers ``ClusterStatus`` for all.
"""

from __future__ import annotations

from typing import Final, TypeVar

from sofs.core.messages import (
    ClusterStatus,
    ClusterStatusReply,
    CorruptList,
    Hello,
    ListCorrupt,
    ListMembers,
    LookAtShares,
    MemberList,
    Message,
    PartState,
    PartStateReply,
    SharesSeen,
)
from sofs.errors import NotSupported, SofsError
from sofs.ports.log import Claim
from sofs.ports.runtime import Clock
from sofs.ports.stream import Envelope, Transport
from sofs.services.channel import Channel, expect, open_channel, within
from sofs.services.leader.run import ANSWER_MS_MAX

CLUSTER_SERVICE: Final = "cluster"
PART_STATE_MS_MAX: Final = 1_000
CLUSTER_STATUS_MS_MAX: Final = 3_000  # The leader asks all parts meanwhile.

R = TypeVar("R", bound=Message)


async def answers(clock: Clock, transport: Transport, claim: Claim) -> bool:
    """Does the incarnation that holds ``claim`` answer at its endpoint? Another incarnation there,
    a refusal, and silence for ANSWER_MS_MAX all mean no."""
    try:
        channel = await _open(clock, transport, claim.endpoint, claim.incarnation, ANSWER_MS_MAX)
    except SofsError:
        return False
    await channel.close()
    return True


async def part_state(clock: Clock, transport: Transport, address: str) -> PartStateReply:
    """Return what the part at ``address`` says of itself; Unavailable after PART_STATE_MS_MAX."""
    return await ask_part(clock, transport, address, PartState(), PartStateReply, PART_STATE_MS_MAX)


async def corrupt_list(clock: Clock, transport: Transport, address: str) -> CorruptList:
    """Return what is damaged, from the authority at ``address``; FileNotAvailable when it does not
    own the volume, Unavailable after PART_STATE_MS_MAX."""
    return await ask_part(clock, transport, address, ListCorrupt(), CorruptList, PART_STATE_MS_MAX)


async def member_list(clock: Clock, transport: Transport, address: str) -> MemberList:
    """Return what the zone is made of, from the DNS part at ``address``; Unavailable after
    PART_STATE_MS_MAX."""
    return await ask_part(clock, transport, address, ListMembers(), MemberList, PART_STATE_MS_MAX)


async def cluster_status(clock: Clock, transport: Transport, address: str) -> ClusterStatusReply:
    """Return what the leader at ``address`` knows of all parts; Unavailable after
    CLUSTER_STATUS_MS_MAX."""
    return await ask_part(
        clock, transport, address, ClusterStatus(), ClusterStatusReply, CLUSTER_STATUS_MS_MAX
    )


async def look_at_shares(
    clock: Clock, transport: Transport, address: str, limit_ms: int
) -> SharesSeen:
    """Have the node or witness at ``address`` look at the table of shares now; Unavailable after
    ``limit_ms``."""
    return await ask_part(clock, transport, address, LookAtShares(), SharesSeen, limit_ms)


async def ask_leader(
    clock: Clock, transport: Transport, claim: Claim, body: Message, kind: type[R], limit_ms: int
) -> R:
    """Ask the leader (or a volume's authority) that holds ``claim``, and no other, something;
    Unavailable after ``limit_ms``."""
    return await ask_part(clock, transport, claim.endpoint, body, kind, limit_ms, claim.incarnation)


async def ask_part(
    clock: Clock,
    transport: Transport,
    address: str,
    body: Message,
    kind: type[R],
    limit_ms: int,
    target: bytes = b"",
) -> R:
    """Ask the part at ``address`` one thing over the cluster service, of ``target`` if it matters;
    Unavailable after ``limit_ms``."""
    channel = await _open(clock, transport, address, target, limit_ms)
    try:
        return expect(
            await within(
                clock, limit_ms, channel.call(body), f"{type(body).__name__} at {address}"
            ),
            kind,
        )
    finally:
        await channel.close()


async def _open(
    clock: Clock, transport: Transport, address: str, target: bytes, limit_ms: int
) -> Channel:
    crashes: list[BaseException] = []  # The handler raises nothing unexpected.
    return await open_channel(
        transport,
        clock,
        address,
        CLUSTER_SERVICE,
        Hello(target=target),
        _refuse,
        name=f"cluster {address}",
        on_crash=crashes.append,
        timeout_ms=limit_ms,
    )


def _refuse(channel: Channel, envelope: Envelope) -> None:
    if envelope.call:
        raise NotSupported("this stream only asks")
