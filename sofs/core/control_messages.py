"""Messages of the services that keep a cluster together: resume-key, witness, DNS, cluster.

Part of the vocabulary of ``sofs.core.messages``, which exports them all; the rules stand there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sofs.core.message_base import Message, message
from sofs.core.message_parts import (
    CheckpointInfo,
    CorruptPlace,
    DnsMember,
    HandleInfo,
    Interface,
    LogEntry,
    MachineInfo,
    PartStatus,
    ShareInfo,
    VolumeInfo,
    WitnessedClient,
)

# Resume-key service: follower <-> active authority
# --------------------------------------------------------


@message(112)
@dataclass(slots=True)
class Follow(Message):
    """-> FollowReply, then ``Entries`` pushes on the same stream. From after (``epoch``,
    ``sequence``)."""

    incarnation: bytes = b""
    part: str = ""
    endpoint: str = ""
    epoch: int = 0
    sequence: int = 0


@message(113)
@dataclass(slots=True)
class FollowReply(Message):
    """``from_store``: too far behind to push; read checkpoint and log from the store up to the
    position, then follow again."""

    epoch: int = 0
    sequence: int = 0
    from_store: bool = False


@message(114)
@dataclass(slots=True)
class Entries(Message):
    """Active -> follower, no reply: entries that are durable and checked, in order, of
    ``epoch``."""

    epoch: int = 0
    entries: list[LogEntry] = field(default_factory=list)


@message(115)
@dataclass(slots=True)
class Followed(Message):
    """Follower -> active, no reply: applied through ``sequence``. Nobody waits for it."""

    epoch: int = 0
    sequence: int = 0


@message(116)
@dataclass(slots=True)
class CheckpointTaken(Message):
    """Follower -> active, -> Done: only the active logs it (R10)."""

    checkpoint: CheckpointInfo = field(default_factory=CheckpointInfo)


@message(117)
@dataclass(slots=True)
class HandBack(Message):
    """Coordinator (following at lag 0) -> acting resume-key, -> HandBackReply: please hand the
    volume back."""

    incarnation: bytes = b""


@message(118)
@dataclass(slots=True)
class HandBackReply(Message):
    """``accepted``: the acting one logged the handover and stopped; claim the next epoch now."""

    accepted: bool = False
    epoch: int = 0
    last_sequence: int = 0


# Witness service (MS-SWN)
# ---------------------------------------------------------------------------------


@message(144)
@dataclass(slots=True)
class GetInterfaceList(Message):
    """-> InterfaceList."""


@message(145)
@dataclass(slots=True)
class InterfaceList(Message):
    """``net_name``: of the cluster, "" if it has none; who registers gives it."""

    interfaces: list[Interface] = field(default_factory=list)
    net_name: str = ""


@message(146)
@dataclass(slots=True)
class RegisterWitness(Message):
    """-> RegisterWitnessReply. MS-SWN's RegisterEx: ``version`` 0x00020000. ``address``: of the
    node that the client uses."""

    version: int = 0
    net_name: str = ""
    share_name: str = ""
    address: str = ""
    client_name: str = ""
    flags: int = 0
    keep_alive_s: int = 0


@message(147)
@dataclass(slots=True)
class RegisterWitnessReply(Message):
    context: bytes = b""


@message(148)
@dataclass(slots=True)
class AsyncNotify(Message):
    """-> Notification, when there is one."""

    context: bytes = b""


@message(149)
@dataclass(slots=True)
class Notification(Message):
    """``kind`` 1 resource change, 2 client move, 3 share move, 4 IP change; ``state`` 1 available,
    255 unavailable; ``address`` of the resource, or where to move."""

    kind: int = 0
    state: int = 0
    node: str = ""
    address: str = ""


@message(150)
@dataclass(slots=True)
class UnregisterWitness(Message):
    """-> Done."""

    context: bytes = b""


@message(151)
@dataclass(slots=True)
class RegisterWitnessV1(Message):
    """-> RegisterWitnessReply. MS-SWN's first method: ``version`` 0x00010001; the whole cluster, no
    keep-alive."""

    version: int = 0
    net_name: str = ""
    address: str = ""
    client_name: str = ""


@message(152)
@dataclass(slots=True)
class MoveOutcome(Message):
    """-> Done. What became of a move that a notification asked for: ``address`` is of the node that
    the client uses now; ``text`` is empty, or says why it is not the one it was to move to."""

    context: bytes = b""
    address: str = ""
    text: str = ""


@message(153)
@dataclass(slots=True)
class ListWitnessed(Message):
    """-> WitnessedList: the registrations that were made after the one with the number ``after``;
    0: all."""

    after: int = 0


@message(154)
@dataclass(slots=True)
class WitnessedList(Message):
    """Some registrations, of ``total``. ``address``: of the node beside the witness. ``next``: ask
    for those after this number, too; 0: these were the last."""

    witness: str = ""
    address: str = ""
    net_name: str = ""
    clients: list[WitnessedClient] = field(default_factory=list)
    total: int = 0
    next: int = 0


@message(155)
@dataclass(slots=True)
class MoveClients(Message):
    """-> ClientsMoved, when all who were told said what became of it. One of: the client of that
    name, those who registered for that share, those who use the node at ``leaving``.
    ``destinations``: addresses of nodes, taken in turns."""

    client_name: str = ""
    share_name: str = ""
    leaving: str = ""
    destinations: list[str] = field(default_factory=list)


@message(156)
@dataclass(slots=True)
class ClientsMoved(Message):
    """``told``: how many were not there already; ``moved``: how many of these are at their
    destination now; ``ended``: of how many nobody knows, since their registration ended first;
    ``reasons``: why others are not there, the first ones."""

    told: int = 0
    moved: int = 0
    reasons: list[str] = field(default_factory=list)
    ended: int = 0


# DNS service
# ----------------------------------------------------------------------------------------


@message(160)
@dataclass(slots=True)
class RegisterMember(Message):
    """Node -> DNS, -> RegisterMemberReply: where it listens. At its start, when that changes, and
    from time to time."""

    access_point: str = ""
    member: DnsMember = field(default_factory=DnsMember)


@message(161)
@dataclass(slots=True)
class RegisterMemberReply(Message):
    """``listed``: the leader's roster names it, with this machine."""

    listed: bool = False


@message(162)
@dataclass(slots=True)
class SetMembers(Message):
    """Leader -> DNS, -> Done: everybody who belongs to the access point, as of the leader's claim
    ``epoch``; nobody else is listed from now on."""

    access_point: str = ""
    epoch: int = 0
    version: int = 0
    members: list[DnsMember] = field(default_factory=list)


@message(163)
@dataclass(slots=True)
class ListMembers(Message):
    """-> MemberList; for people and tests."""


@message(164)
@dataclass(slots=True)
class MemberList(Message):
    """What the zone is made of. ``learned``: the DNS part knows who belongs. ``address``: where it
    answers, UDP and TCP."""

    access_point: str = ""
    address: str = ""
    learned: bool = False
    epoch: int = 0
    version: int = 0
    serial: int = 0
    ttl_s: int = 0
    members: list[DnsMember] = field(default_factory=list)


# Cluster service (leader)
# ---------------------------------------------------------------------------------


@message(176)
@dataclass(slots=True)
class ClusterStatus(Message):
    """-> ClusterStatusReply."""


@message(177)
@dataclass(slots=True)
class ClusterStatusReply(Message):
    run_id: bytes = b""
    parts: list[PartStatus] = field(default_factory=list)


@message(180)
@dataclass(slots=True)
class ListCorrupt(Message):
    """-> CorruptList, from the authority that owns the volume; for people and tests."""


@message(181)
@dataclass(slots=True)
class CorruptList(Message):
    """``places``: the first ones; ``total``: of all."""

    places: list[CorruptPlace] = field(default_factory=list)
    total: int = 0


@message(178)
@dataclass(slots=True)
class PartState(Message):
    """-> PartStateReply. Any part answers for itself; for people and tests."""


@message(179)
@dataclass(slots=True)
class PartStateReply(Message):
    part: str = ""
    name: str = ""
    incarnation: bytes = b""
    state: str = ""
    facts: list[str] = field(default_factory=list)
    """``name=value`` lines: role, epoch, lag, gate phase, counters."""


# What an operator wants, to the leader: a ``token`` makes a request that is sent again the same one


@message(182)
@dataclass(slots=True)
class ListShares(Message):
    """-> ShareList."""


@message(183)
@dataclass(slots=True)
class ShareList(Message):
    """All shares, as published under (``epoch``, ``version``). After a change: ``reached``, the
    parts that have it, and ``waiting``, those that did not say so yet; they look by themselves."""

    epoch: int = 0
    version: int = 0
    shares: list[ShareInfo] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


@message(184)
@dataclass(slots=True)
class ChangeShare(Message):
    """-> ShareList. ``action`` 1 create, 2 change (all settings), 3 remove (by name)."""

    token: bytes = b""
    action: int = 0
    share: ShareInfo = field(default_factory=ShareInfo)


@message(185)
@dataclass(slots=True)
class LookAtShares(Message):
    """Leader -> node or witness, -> SharesSeen: there is a newer table on the cluster root."""


@message(186)
@dataclass(slots=True)
class SharesSeen(Message):
    """The version of the table that this part goes by now."""

    epoch: int = 0
    version: int = 0


@message(187)
@dataclass(slots=True)
class ListMachines(Message):
    """-> MachineList."""


@message(188)
@dataclass(slots=True)
class MachineList(Message):
    machines: list[MachineInfo] = field(default_factory=list)
    avoided: list[str] = field(default_factory=list)
    """All names that are drained, those that are not there too."""


@message(189)
@dataclass(slots=True)
class ChangeMachine(Message):
    """-> MachineList. Drain the machine of that name, or let it serve again."""

    token: bytes = b""
    machine: str = ""
    avoided: bool = False


@message(192)
@dataclass(slots=True)
class AddVolume(Message):
    """-> VolumeList. Serve the volume of that name, which the root's table has, and share it under
    its name. One that is served already is no error."""

    token: bytes = b""
    name: str = ""


@message(200)
@dataclass(slots=True)
class RemoveVolume(Message):
    """-> VolumeList. Serve that volume no more; its folder stays as it is. Refused while shares
    lead to it, or files on it are open, unless ``force``: then the shares go and the files are
    lost to those who have them open."""

    token: bytes = b""
    name: str = ""
    force: bool = False


@message(190)
@dataclass(slots=True)
class ListVolumes(Message):
    """-> VolumeList."""


@message(191)
@dataclass(slots=True)
class VolumeList(Message):
    volumes: list[VolumeInfo] = field(default_factory=list)


# What an operator wants of a volume's handles, to the authority that owns it


@message(208)
@dataclass(slots=True)
class ListHandles(Message):
    """-> HandleList: the handles above ``after``, in the order of their numbers. ``client``: only
    of clients whose id begins with these hexadecimal digits; ``path``: only of that file, or below
    that directory."""

    after: int = 0
    client: str = ""
    path: str = ""


@message(209)
@dataclass(slots=True)
class HandleList(Message):
    """``next_after``: where the next page begins, 0 behind the last one. A page may have no
    handle."""

    handles: list[HandleInfo] = field(default_factory=list)
    next_after: int = 0


@message(210)
@dataclass(slots=True)
class CloseHandle(Message):
    """-> HandleReleased, when nothing of the handle's client can land any more."""

    handle: int = 0


@message(211)
@dataclass(slots=True)
class HandleReleased(Message):
    """``was_open`` false: no such handle is open; asked again, it was closed before."""

    was_open: bool = False
