"""Every message between parts, as plain dataclasses: one vocabulary for services, client and
simulator.

The wire form is ``protos/sofs/v1``; a test holds the two together field by field: the n-th field of
a message here is field number n there, and ``@message(tag)`` is its field number in
``Envelope.body``. Field types: ``int`` (uint64), ``Signed`` (sint64), ``bool``, ``str``, ``bytes``,
another dataclass (optional if ``| None``), or ``list`` of these. Every field has a default.

Bulk bytes (file data, log entries) never stand in a message: they travel as ``Envelope.data``.

A request is answered by the reply named in its docstring, or by ``Failure``. Requests that change
something carry a ``Caller``: the pair (client, op id) is what exactly-once stands on (G5). A node
overwrites ``client`` and ``principal`` from the session, so nobody speaks for another.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# fmt: off
from sofs.core.control_messages import (  # isort: skip
    AddVolume as AddVolume, AsyncNotify as AsyncNotify, ChangeMachine as ChangeMachine, ChangeShare
    as ChangeShare, CheckpointTaken as CheckpointTaken, ClusterStatus as ClusterStatus,
    ClusterStatusReply as ClusterStatusReply, CorruptList as CorruptList, Entries as Entries, Follow
    as Follow, FollowReply as FollowReply, Followed as Followed, GetInterfaceList as
    GetInterfaceList, HandBack as HandBack, HandBackReply as HandBackReply, InterfaceList as
    InterfaceList, ListCorrupt as ListCorrupt, ListMachines as ListMachines, ListMembers as
    ListMembers, ListShares as ListShares, ListVolumes as ListVolumes, LookAtShares as LookAtShares,
    MachineList as MachineList, MemberList as MemberList, Notification as Notification, PartState as
    PartState, PartStateReply as PartStateReply, RegisterMember as RegisterMember,
    RegisterMemberReply as RegisterMemberReply, RemoveVolume as RemoveVolume,
    RegisterWitness as RegisterWitness,
    RegisterWitnessReply as RegisterWitnessReply, SetMembers as SetMembers, ShareList as ShareList,
    SharesSeen as SharesSeen, UnregisterWitness as UnregisterWitness, VolumeList as VolumeList,
    RegisterWitnessV1 as RegisterWitnessV1, MoveOutcome as MoveOutcome, ListWitnessed as
    ListWitnessed, WitnessedList as WitnessedList, MoveClients as MoveClients, ClientsMoved as
    ClientsMoved,
)
from sofs.core.control_messages import (  # isort: skip
    CloseHandle as CloseHandle, HandleList as HandleList, HandleReleased as HandleReleased,
    ListHandles as ListHandles,
)
from sofs.core.message_base import (  # isort: skip
    MESSAGES as MESSAGES, Message as Message, message as message,
)
from sofs.core.message_parts import (  # isort: skip
    Access as Access, AppendResult as AppendResult, BoundHandle as BoundHandle, Caller as Caller,
    CheckpointInfo as CheckpointInfo, Commit as Commit, CorruptKind as CorruptKind, CorruptPlace as
    CorruptPlace, CreateAction as CreateAction, DataRange as DataRange, DirectoryEntry as
    DirectoryEntry, Disposition as Disposition, DnsMember as DnsMember, FileCommit as FileCommit,
    FileInfo as FileInfo, Grant as Grant, HeldLock as HeldLock, Interface as Interface, LockRange as
    LockRange, LogEntry as LogEntry, LogInfo as LogInfo, MachineInfo as MachineInfo, OpenOptions as
    OpenOptions, PartStatus as PartStatus, ReclaimItem as ReclaimItem, ReclaimResult as
    ReclaimResult, Share as Share, ShareInfo as ShareInfo, Signed as Signed, TokenMode as TokenMode,
    VolumeInfo as VolumeInfo, Window as Window, WitnessedClient as WitnessedClient, HandleInfo as
    HandleInfo,
)
# fmt: on


# Any service
# ---------------------------------------------------------------------------------------


@message(16)
@dataclass(slots=True)
class Failure(Message):
    """The reply of every request that failed: an error of ``sofs/errors.py`` by its code."""

    code: str = ""
    text: str = ""
    retry_after_ms: int = 0


@message(17)
@dataclass(slots=True)
class Done(Message):
    """The reply of requests that return nothing."""


@message(18)
@dataclass(slots=True)
class Ping(Message):
    """-> Pong, at once, by the event loop itself: proof of life of the process."""

    nonce: int = 0


@message(19)
@dataclass(slots=True)
class Pong(Message):
    nonce: int = 0
    incarnation: bytes = b""


@message(20)
@dataclass(slots=True)
class Hello(Message):
    """-> HelloReply. First message of a stream. Between parts ``sender`` is the incarnation that
    speaks and ``target`` the one it means to speak to ("" = whoever is there): another answers
    WRONG_INCARNATION."""

    protocol_version: int = 0
    sender: bytes = b""
    target: bytes = b""
    client: bytes = b""
    principal: str = ""
    share: str = ""


@message(21)
@dataclass(slots=True)
class HelloReply(Message):
    protocol_version: int = 0
    incarnation: bytes = b""
    node: str = ""
    volume: bytes = b""
    write_bytes_max: int = 0
    read_bytes_max: int = 0
    addresses: list[str] = field(default_factory=list)
    """Addresses of all nodes of the access point, as last known; a hint."""


@message(24)
@dataclass(slots=True)
class Meet(Message):
    """-> Met. Joining part -> any part of the volume: the two-party probe of R11. Where the sender
    sees the root; ``token`` is fresh, and the probe's names are made of it."""

    volume: bytes = b""
    token: bytes = b""
    root: str = ""
    host: str = ""
    device: int = 0
    inode: int = 0


@message(25)
@dataclass(slots=True)
class Met(Message):
    """The same of the part that answers. ``absent``: it looked for the sender's name, which was not
    there, and then made its own."""

    volume: bytes = b""
    absent: bool = False
    root: str = ""
    host: str = ""
    device: int = 0
    inode: int = 0


@message(26)
@dataclass(slots=True)
class MeetEnd(Message):
    """-> Done: the sender has seen the name of ``token`` that Met tells of and made its own, and
    the receiver sees that one; else BACKEND_REFUSED."""

    token: bytes = b""


# File service: client -> node; what is no data goes on to the authority unchanged
# ----------------------


@message(32)
@dataclass(slots=True)
class Open(Message):
    """-> OpenReply. Create or open with a persistent handle. The same ``create_guid`` with the same
    op id is a replay. ``app_instance``: a newer client of the same instance closes the older one's
    open first."""

    caller: Caller = field(default_factory=Caller)
    path: str = ""
    access: int = 0
    share: int = 0
    disposition: int = 0
    options: int = 0
    create_guid: bytes = b""
    app_instance: bytes = b""
    timeout_ms: int = 0
    attributes: int = 0


@message(33)
@dataclass(slots=True)
class OpenReply(Message):
    """``grant`` is for the node alone and is taken out before the client sees the reply."""

    handle: int = 0
    generation: int = 0
    action: int = 0
    info: FileInfo = field(default_factory=FileInfo)
    timeout_ms: int = 0
    grant: Grant | None = None


@message(34)
@dataclass(slots=True)
class Close(Message):
    """-> InfoReply. The node waits for the handle's earlier writes and fills ``commit`` and
    ``release_token`` (true when no other handle of the file is open through it)."""

    caller: Caller = field(default_factory=Caller)
    handle: int = 0
    generation: int = 0
    commit: Commit = field(default_factory=Commit)
    release_token: int = 0


@message(35)
@dataclass(slots=True)
class InfoReply(Message):
    """``held_by_asker``: the asking node holds DIRECT_RW, so its own size and time are newer."""

    info: FileInfo = field(default_factory=FileInfo)
    held_by_asker: bool = False


@message(36)
@dataclass(slots=True)
class Reclaim(Message):
    """-> ReclaimReply. All handles of a client at once, after it moved to this node."""

    caller: Caller = field(default_factory=Caller)
    handles: list[ReclaimItem] = field(default_factory=list)


@message(37)
@dataclass(slots=True)
class ReclaimReply(Message):
    """``grants``: for the node alone."""

    results: list[ReclaimResult] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)


@message(38)
@dataclass(slots=True)
class Read(Message):
    """-> ReadReply with data. Short only at the end of the file."""

    handle: int = 0
    generation: int = 0
    offset: int = 0
    length: int = 0


@message(39)
@dataclass(slots=True)
class ReadReply(Message):
    size: int = 0
    """The file's size at that moment."""


@message(40)
@dataclass(slots=True)
class Write(Message):
    """-> WriteReply. Data is the envelope's. ``op_sequence`` counts the handle's writes from 1 and
    survives generations; ``acked_below``: the client has all answers below. ``append``: ``offset``
    is ignored."""

    handle: int = 0
    generation: int = 0
    op_sequence: int = 0
    acked_below: int = 0
    offset: int = 0
    append: bool = False


@message(41)
@dataclass(slots=True)
class WriteReply(Message):
    offset: int = 0
    """Where the bytes landed."""


@message(42)
@dataclass(slots=True)
class Flush(Message):
    """-> Done. Every write of the handle admitted before is durable (they are when answered)."""

    handle: int = 0
    generation: int = 0


@message(43)
@dataclass(slots=True)
class Truncate(Message):
    """-> InfoReply. Sets the size, up or down. The node fills ``commit`` (all its unsent records)
    and ``tail`` (packed extent of the zeroed last page, from a detached record)."""

    caller: Caller = field(default_factory=Caller)
    handle: int = 0
    generation: int = 0
    size: int = 0
    commit: Commit = field(default_factory=Commit)
    tail: bytes = b""
    modified_ns: Signed = 0


@message(44)
@dataclass(slots=True)
class Lock(Message):
    """-> Done. All ranges or none. ``wait_ms`` 0: fail at once with LOCK_NOT_GRANTED."""

    caller: Caller = field(default_factory=Caller)
    handle: int = 0
    generation: int = 0
    ranges: list[LockRange] = field(default_factory=list)
    wait_ms: int = 0


@message(45)
@dataclass(slots=True)
class Unlock(Message):
    """-> Done. Each range must be exactly one that is held. Waits for the handle's earlier
    writes."""

    caller: Caller = field(default_factory=Caller)
    handle: int = 0
    generation: int = 0
    ranges: list[LockRange] = field(default_factory=list)


@message(46)
@dataclass(slots=True)
class Stat(Message):
    """-> InfoReply. By ``handle`` if it is not 0, else by ``path``. ``caller``: filled by the
    node."""

    path: str = ""
    handle: int = 0
    generation: int = 0
    caller: Caller = field(default_factory=Caller)


@message(47)
@dataclass(slots=True)
class SetInfo(Message):
    """-> InfoReply. Sets what is not "leave it": ``attributes`` by ``set_attributes``; times that
    are not 0. ``delete_on_close``: 0 leave, 1 set, 2 clear (needs a handle with DELETE access)."""

    caller: Caller = field(default_factory=Caller)
    path: str = ""
    handle: int = 0
    generation: int = 0
    set_attributes: bool = False
    attributes: int = 0
    created_ns: Signed = 0
    modified_ns: Signed = 0
    accessed_ns: Signed = 0
    delete_on_close: int = 0


@message(48)
@dataclass(slots=True)
class Mkdir(Message):
    """-> InfoReply."""

    caller: Caller = field(default_factory=Caller)
    path: str = ""


@message(49)
@dataclass(slots=True)
class Rmdir(Message):
    """-> Done. The directory must be empty."""

    caller: Caller = field(default_factory=Caller)
    path: str = ""


@message(50)
@dataclass(slots=True)
class Unlink(Message):
    """-> Done. An open file goes at its last close; its name is DELETE_PENDING until then."""

    caller: Caller = field(default_factory=Caller)
    path: str = ""


@message(51)
@dataclass(slots=True)
class Rename(Message):
    """-> Done. Atomic. ``replace``: an existing file (or empty directory, for a directory) is
    replaced."""

    caller: Caller = field(default_factory=Caller)
    source: str = ""
    target: str = ""
    replace: bool = False


@message(52)
@dataclass(slots=True)
class ReadDir(Message):
    """-> ReadDirReply. Entries in byte order of their names after ``after``; "." and ".." are left
    out."""

    path: str = ""
    after: str = ""
    entries_max: int = 0
    caller: Caller = field(default_factory=Caller)


@message(53)
@dataclass(slots=True)
class ReadDirReply(Message):
    entries: list[DirectoryEntry] = field(default_factory=list)
    more: bool = False


@message(54)
@dataclass(slots=True)
class WriteFile(Message):
    """-> InfoReply. create + write + close as one: the data record first (node), then one
    transaction. Data is the envelope's (client to node); the node fills ``extents``, ``log_id`` and
    ``commit``."""

    caller: Caller = field(default_factory=Caller)
    path: str = ""
    disposition: int = 0
    attributes: int = 0
    size: int = 0
    extents: bytes = b""
    log_id: int = 0
    modified_ns: Signed = 0
    commit: Commit = field(default_factory=Commit)


@message(55)
@dataclass(slots=True)
class ReadFile(Message):
    """-> ReadFileReply with data. open + read + close as one, from ``offset``; writes no open
    record. The share check is that of an open for READ that shares everything. ``not_held``: said
    by the node, which has no token of the file; one that never reached it is taken back first."""

    path: str = ""
    offset: int = 0
    length: int = 0
    caller: Caller = field(default_factory=Caller)
    not_held: bool = False


@message(56)
@dataclass(slots=True)
class ReadFileReply(Message):
    """From the authority to the node ``grant`` holds a momentary view and no data comes along."""

    info: FileInfo = field(default_factory=FileInfo)
    grant: Grant | None = None


@message(57)
@dataclass(slots=True)
class Abandon(Message):
    """-> AbandonReply. Settles an operation whose outcome the client does not know: by
    ``target_op``, or for writes by ``handle`` and ``op_sequence``. Afterwards the operation has
    either happened or never will."""

    caller: Caller = field(default_factory=Caller)
    target_op: int = 0
    handle: int = 0
    generation: int = 0
    op_sequence: int = 0


@message(58)
@dataclass(slots=True)
class AbandonReply(Message):
    executed: bool = False
    offset: int = 0


@message(59)
@dataclass(slots=True)
class EndClient(Message):
    """-> Done. A clean goodbye: closes all handles of the client and forgets it."""

    caller: Caller = field(default_factory=Caller)


@message(60)
@dataclass(slots=True)
class HandleClosed(Message):
    """Node -> client, unasked: the server closed the handle (``code``: FILE_FORCED_CLOSED, ...)."""

    handle: int = 0
    code: str = ""


@message(61)
@dataclass(slots=True)
class ChangeLocks(Message):
    """-> LocksChanged, with data. In one transaction, all or nothing: ``drop`` is unlocked,
    ``test`` is found free for this handle (and not kept), ``take`` is locked. Waits for the
    handle's earlier writes. ``wait_ms`` as in Lock. The reply brings up to ``read_length`` bytes at
    ``read_offset``, and says whether the file ``beside`` is empty, if that needs no asking."""

    caller: Caller = field(default_factory=Caller)
    handle: int = 0
    generation: int = 0
    drop: list[LockRange] = field(default_factory=list)
    test: list[LockRange] = field(default_factory=list)
    take: list[LockRange] = field(default_factory=list)
    wait_ms: int = 0
    read_offset: int = 0
    read_length: int = 0
    beside: str = ""


@message(62)
@dataclass(slots=True)
class LocksChanged(Message):
    """``known``: ``size`` and the data are the file's of a moment at which the locks were held.
    ``nothing_beside``: at such a moment the file ``beside`` did not exist, or was empty."""

    known: bool = False
    size: int = 0
    nothing_beside: bool = False


@message(63)
@dataclass(slots=True)
class WriteParts(Message):
    """-> WriteReply. As Write, for several ranges at once, atomically; data is theirs, one after
    the other. Whole blocks, in ascending order, none twice."""

    handle: int = 0
    generation: int = 0
    op_sequence: int = 0
    acked_below: int = 0
    parts: list[DataRange] = field(default_factory=list)


# Volume service: node <-> authority
# --------------------------------------------------------------------


@message(80)
@dataclass(slots=True)
class RegisterNode(Message):
    """-> RegisterNodeReply. A node before its first token, and again at every new authority, with
    the handles that are connected through it; those it omits are disconnected from that moment.
    ``met``: token of a two-party probe that ends with this message, as ``MeetEnd`` does."""

    node: str = ""
    incarnation: bytes = b""
    endpoint: str = ""
    nonce: bytes = b""
    handles: list[BoundHandle] = field(default_factory=list)
    met: bytes = b""


@message(81)
@dataclass(slots=True)
class RegisterNodeReply(Message):
    """``applied_sequence``: the commits of the node's log that the authority has. ``lost_handles``:
    reported but no longer bound to the node."""

    log_id: int = 0
    epoch: int = 0
    incarnation: bytes = b""
    applied_sequence: int = 0
    lost_handles: list[int] = field(default_factory=list)
    tokens: list[Grant] = field(default_factory=list)
    """Tokens the node holds (ino, generation, mode, locks only): it drops any other."""


@message(82)
@dataclass(slots=True)
class AcquireToken(Message):
    """-> TokenReply. ``mode`` 2 to write. Waits until every other holder was recalled."""

    ino: int = 0
    mode: int = 0


@message(83)
@dataclass(slots=True)
class TokenReply(Message):
    grant: Grant = field(default_factory=Grant)


@message(84)
@dataclass(slots=True)
class FetchExtents(Message):
    """-> ExtentsReply. Pages ``[first_page, first_page + pages)`` under a token of
    ``generation``."""

    ino: int = 0
    generation: int = 0
    first_page: int = 0
    pages: int = 0


@message(85)
@dataclass(slots=True)
class ExtentsReply(Message):
    extents: bytes = b""
    logs: list[LogInfo] = field(default_factory=list)


@message(86)
@dataclass(slots=True)
class CommitRecords(Message):
    """-> Done, when the authority's transaction is durable."""

    commit: Commit = field(default_factory=Commit)


@message(87)
@dataclass(slots=True)
class Disconnected(Message):
    """-> Done. The sessions of these handles ended; their timers start (logged)."""

    handles: list[BoundHandle] = field(default_factory=list)


@message(88)
@dataclass(slots=True)
class Recall(Message):
    """Authority -> node, -> CommitReply. Give the token back: stop admitting, drain, send
    everything."""

    ino: int = 0
    generation: int = 0


@message(89)
@dataclass(slots=True)
class Detach(Message):
    """Authority -> node, -> CommitReply. These handles are leaving (reclaimed elsewhere, or closed
    by force with ``code``): stop admitting, drain, drop them."""

    handles: list[BoundHandle] = field(default_factory=list)
    code: str = ""


@message(90)
@dataclass(slots=True)
class CommitReply(Message):
    commit: Commit = field(default_factory=Commit)


@message(91)
@dataclass(slots=True)
class LockUpdate(Message):
    """Authority -> node, -> Done. The file's new lock table, in force when answered."""

    ino: int = 0
    generation: int = 0
    locks: list[HeldLock] = field(default_factory=list)


@message(92)
@dataclass(slots=True)
class QuerySize(Message):
    """Authority -> holder of DIRECT_RW, -> SizeReply."""

    ino: int = 0
    generation: int = 0


@message(93)
@dataclass(slots=True)
class SizeReply(Message):
    size: int = 0
    modified_ns: Signed = 0


@message(94)
@dataclass(slots=True)
class ReportCorrupt(Message):
    """Node or follower -> authority, -> Done when it is logged. Again is harmless."""

    places: list[CorruptPlace] = field(default_factory=list)
