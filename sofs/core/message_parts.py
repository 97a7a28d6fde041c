"""Parts of messages: plain dataclasses and enums that several messages share.

The same rules hold as in ``core/messages.py``, where the messages themselves are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Annotated

Signed = Annotated[int, "sint64"]


class Access(IntFlag):
    """What an open wants (MS-SMB2 2.2.13.1.1, the bits that matter here)."""

    READ = 1
    WRITE = 2
    APPEND = 4
    DELETE = 8
    READ_ATTRIBUTES = 16
    WRITE_ATTRIBUTES = 32


class Share(IntFlag):
    """What an open lets others do."""

    NONE = 0
    READ = 1
    WRITE = 2
    DELETE = 4
    ALL = 7


class Disposition(IntEnum):
    """What an open does when the name exists, or does not (MS-SMB2 2.2.13)."""

    OPEN = 1  # Must exist.
    CREATE = 2  # Must not exist.
    OPEN_IF = 3  # Open or create.
    OVERWRITE = 4  # Must exist; truncated.
    OVERWRITE_IF = 5  # Truncated or created.


class CreateAction(IntEnum):
    OPENED = 1
    CREATED = 2
    OVERWRITTEN = 3


class OpenOptions(IntFlag):
    NONE = 0
    DELETE_ON_CLOSE = 1
    DIRECTORY = 2  # The name must be a directory (OPEN only).
    WRITE_THROUGH = 4  # Always true here; accepted for clarity.


class TokenMode(IntEnum):
    NONE = 0
    DIRECT_R = 1
    DIRECT_RW = 2


@dataclass(slots=True)
class Caller:
    """Who asks, and which of its operations this is. ``acked_below``: the client has all its
    answers below this op id, so older stored results may go."""

    client: bytes = b""
    principal: str = ""
    op_id: int = 0
    acked_below: int = 0


@dataclass(slots=True)
class FileInfo:
    """What stat shows. Times are nanoseconds since the Unix epoch. ``attributes``: 1 read-only, 2
    hidden, 4 system, 32 archive."""

    ino: int = 0
    is_directory: bool = False
    size: int = 0
    attributes: int = 0
    created_ns: Signed = 0
    modified_ns: Signed = 0
    accessed_ns: Signed = 0
    changed_ns: Signed = 0
    links: int = 0


@dataclass(slots=True)
class HeldLock:
    """A byte-range lock: who holds it, ``[offset, offset + length)``, exclusive or shared."""

    handle: int = 0
    offset: int = 0
    length: int = 0
    exclusive: bool = False


@dataclass(slots=True)
class LockRange:
    offset: int = 0
    length: int = 0
    exclusive: bool = False


@dataclass(slots=True)
class DataRange:
    offset: int = 0
    length: int = 0


@dataclass(slots=True)
class AppendResult:
    """Where the append with ``op_sequence`` landed."""

    op_sequence: int = 0
    offset: int = 0


@dataclass(slots=True)
class Window:
    """Completed data operations of a handle: all below ``watermark``; above it bit i of ``bitmap``
    (little-endian) stands for ``watermark + i``. ``results``: appends whose answer the client may
    still need; ``abandoned``: op sequences settled as never to be executed."""

    handle: int = 0
    generation: int = 0
    watermark: int = 1
    bitmap: bytes = b""
    results: list[AppendResult] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)


@dataclass(slots=True)
class LogInfo:
    """A data log that extents name: what a reader needs to find and verify its records."""

    log_id: int = 0
    incarnation: bytes = b""
    nonce: bytes = b""


@dataclass(slots=True)
class FileCommit:
    """What a node did to one file since its last commit. ``extents``: packed (``core/extents.py``),
    in order of writing; ``size`` and ``modified_ns`` as of the last record; ``windows``: whole, as
    of then."""

    ino: int = 0
    token_generation: int = 0
    size: int = 0
    modified_ns: Signed = 0
    extents: bytes = b""
    windows: list[Window] = field(default_factory=list)


@dataclass(slots=True)
class Commit:
    """A prefix of a data log: all its records above ``after_sequence`` up to ``through_sequence``.
    The authority applies it when its applied sequence is ``after_sequence``, ignores it when that
    is at or beyond ``through_sequence``, and trims nothing else: batches are whole and in order.
    The default (0, 0) carries nothing. ``settled_below_segment``: once it is applied, nothing will
    name a record of a lower segment for the first time."""

    log_id: int = 0
    after_sequence: int = 0
    through_sequence: int = 0
    files: list[FileCommit] = field(default_factory=list)
    settled_below_segment: int = 0


@dataclass(slots=True)
class Grant:
    """A file token with all that the node needs to serve the file under it. ``extents`` covers
    pages below ``extents_through_page``; the rest is fetched by ``FetchExtents`` on first touch.
    ``windows``: of every handle on this file that is bound to the node."""

    ino: int = 0
    generation: int = 0
    mode: int = 0
    info: FileInfo = field(default_factory=FileInfo)
    locks: list[HeldLock] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    extents: bytes = b""
    extents_through_page: int = 0
    logs: list[LogInfo] = field(default_factory=list)


class CorruptKind(IntEnum):
    """What is damaged; see ``services/authority/damage.py``."""

    PAGE = 1  # A stored page of a file fails its checksum.
    LOST = 2  # Acknowledged records of the file's writer cannot be read: the file is refused.
    STORE = 3  # A checkpoint or a record of the authority's own log.


@dataclass(slots=True)
class CorruptPlace:
    """Damage that was found. ``pages`` from ``page`` on of file ``ino`` (0: none), as the record
    ``sequence`` in ``segment`` of a data log holds them; ``object``: what is damaged if it is no
    file. ``found_by``, ``found_ns`` and ``path`` are the authority's to fill."""

    kind: int = 0
    ino: int = 0
    page: int = 0
    pages: int = 0
    log_id: int = 0
    segment: int = 0
    sequence: int = 0
    object: str = ""
    found_by: str = ""
    found_ns: Signed = 0
    path: str = ""


@dataclass(slots=True)
class DirectoryEntry:
    """``size`` is a hint: a file that is being written shows it late; ask stat."""

    name: str = ""
    ino: int = 0
    is_directory: bool = False
    size: int = 0
    modified_ns: Signed = 0


@dataclass(slots=True)
class ReclaimItem:
    handle: int = 0
    create_guid: bytes = b""


@dataclass(slots=True)
class ReclaimResult:
    """``code`` is "" when reclaimed, else an error code: OBJECT_NAME_NOT_FOUND (gone or not yours
    to know), ACCESS_DENIED (another principal). ``access``: as the handle was opened; the node
    checks it."""

    handle: int = 0
    code: str = ""
    generation: int = 0
    info: FileInfo = field(default_factory=FileInfo)
    watermark: int = 0
    access: int = 0


@dataclass(slots=True)
class BoundHandle:
    """A handle that a live node says is connected through it (RESUME_LOCAL)."""

    handle: int = 0
    generation: int = 0


@dataclass(slots=True)
class Interface:
    """Witness interface list entry (MS-SWN 2.2.1.10): ``state`` 0 unknown, 1 available, 255
    unavailable; ``flags`` 1 IPv4 valid, 2 IPv6 valid, 4 usable as witness."""

    node: str = ""
    version: int = 0
    state: int = 0
    ipv4: str = ""
    ipv6: str = ""
    flags: int = 0
    port: int = 0


@dataclass(slots=True)
class WitnessedClient:
    """A registration as an administrator sees it. ``address``, ``node``: what the client uses.
    ``state``: "registered", or "requested-notification" while an AsyncNotify waits."""

    client_name: str = ""
    share_name: str = ""
    address: str = ""
    node: str = ""
    state: str = ""
    flags: int = 0
    version: int = 0
    sent: int = 0
    queued: int = 0


@dataclass(slots=True)
class DnsMember:
    """A node of the access point. ``hosts``: its addresses, IPv6 without brackets. ``machine``:
    whom the leader gave its place to. ``registered``, ``listed``: only in a MemberList."""

    node: str = ""
    machine: str = ""
    hosts: list[str] = field(default_factory=list)
    port: int = 0
    registered: bool = False
    listed: bool = False


@dataclass(slots=True)
class PartStatus:
    """One part as the leader sees it; for people."""

    part: str = ""
    name: str = ""
    address: str = ""
    incarnation: bytes = b""
    pid: int = 0
    state: str = ""
    detail: str = ""


@dataclass(slots=True)
class ShareInfo:
    """A share: a name on a volume, and how it is served. ``available``: continuously."""

    name: str = ""
    volume: str = ""
    read_only: bool = False
    available: bool = False


@dataclass(slots=True)
class MachineInfo:
    """A machine as the leader sees it. ``slot`` 0: it does not serve. ``draining``: the platform
    says that it will leave; ``avoided``: an operator drains it."""

    name: str = ""
    id: str = ""
    slot: int = 0
    draining: bool = False
    avoided: bool = False
    parts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class VolumeInfo:
    """A volume, the machines of its coordinator and its resume-key, and its shares."""

    name: str = ""
    coordinator: str = ""
    resume_key: str = ""
    shares: list[str] = field(default_factory=list)


@dataclass(slots=True)
class HandleInfo:
    """An open handle, for people. ``node``: through which it is connected, "" while its client is
    away. ``locks``: byte ranges that it holds."""

    handle: int = 0
    client: bytes = b""
    principal: str = ""
    path: str = ""
    ino: int = 0
    access: int = 0
    share: int = 0
    node: str = ""
    generation: int = 0
    timeout_ms: int = 0
    locks: int = 0
    delete_on_close: bool = False


@dataclass(slots=True)
class LogEntry:
    sequence: int = 0
    payload: bytes = b""


@dataclass(slots=True)
class CheckpointInfo:
    key: str = ""
    epoch: int = 0
    sequence: int = 0
    digest: int = 0
    n_bytes: int = 0
    schema_version: int = 0
