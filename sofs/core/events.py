"""Events: what a cluster tells its administrators, in the five channels of a file server of the
field, and the record in which they outlive the process that told them.

An event is no trace. A trace says where the time of one operation went and is gone with the next
thousands of operations. An event says that something changed that people ask about days later: a
handle that was kept, given back or released; a session that was lost; a witness that spoke. So
nothing that happens once a read or write is an event, and what happens once an open has a part of
the ring for itself (``frequent``), so that it cannot push out what is rare.

Numbers. SMBServer, SMBClient and SMBWitnessClient use the numbers of the field for the same facts.
ResumeKeyFilter and SMBWitnessService have none in public: theirs are our own. A number that was
used once never means something else. docs/EVENTS.md shows this table; a test compares them.

Records. A ring is a file of one process, with a header as trace rings have it, and two parts of as
many slots each: rare events, then frequent ones. Each record is EVENT_BYTES long, ends nowhere
else, and begins with a checksum of the rest, so that one which its process was killed in is told
from a whole one. Number n of a part lies in slot n modulo the slots. A text that is too long for
its record is cut at its front, where paths are least telling.

Rules of this file: pure, and reading never fails: bytes are an event, or they are not.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from xxhash import xxh32_digest

from sofs.core.trace import CONTEXT_BYTES, HEADER_BYTES, TRACE_BYTES, RingOwner, decode_header

EVENTS_MAGIC: Final = b"SOFSEVTS"
EVENT_BYTES: Final = 512
TEXT_CHARS_MAX: Final = 200  # Of one field; the record may force it to be cut shorter.

# Sum, number, wall and monotonic clock in ns, channel, bytes of the body, id, trace and span.
_HEAD: Final = struct.Struct("<4sQqqBHH24s")
BODY_BYTES_MAX: Final = EVENT_BYTES - _HEAD.size
_CUTS: Final = (TEXT_CHARS_MAX, 100, 50, 25, 10)
_NO_CONTEXT: Final = bytes(CONTEXT_BYTES)

Value = int | str | bytes
"""Of a field, as it is told; ids are bytes, and hexadecimal digits once they were read."""


class Channel(Enum):
    """Where an event belongs. The places in this list are in records: names are only added."""

    SMB_CLIENT = "SMBClient"
    SMB_SERVER = "SMBServer"
    RESUME_KEY_FILTER = "ResumeKeyFilter"
    WITNESS_CLIENT = "SMBWitnessClient"
    WITNESS_SERVICE = "SMBWitnessService"


CHANNELS: Final = tuple(Channel)
_CHANNEL_NUMBERS: Final = {channel: number for number, channel in enumerate(CHANNELS)}


class Level(Enum):
    ERROR = "error"
    WARNING = "warning"
    INFORMATION = "information"


@dataclass(frozen=True, slots=True, eq=False)
class EventKind:
    """One kind of event. ``fields``: their names and types (int, str, or bytes for an id).
    ``template``: one sentence about it. ``frequent``: it comes with ordinary operations."""

    channel: Channel
    id: int
    name: str
    level: Level
    template: str
    fields: Mapping[str, type]
    frequent: bool = False

    def problem(self, values: Mapping[str, Value]) -> str:
        """What is wrong with an event's fields, "" if nothing is."""
        if values.keys() != self.fields.keys():
            return f"{self.name} has the fields {sorted(self.fields)}, not {sorted(values)}"
        for name, kind in self.fields.items():
            if not isinstance(values[name], kind):
                return f"{self.name}: {name} is no {kind.__name__}"
        return ""


_KINDS: Final[dict[tuple[Channel, int], EventKind]] = {}


def _kind(
    channel: Channel,
    number: int,
    name: str,
    template: str,
    level: Level = Level.INFORMATION,
    *,
    frequent: bool = False,
    **fields: type,
) -> EventKind:
    if (channel, number) in _KINDS:
        raise TypeError(f"{channel.value} {number} is taken")
    made = EventKind(channel, number, name, level, template, fields, frequent)
    _KINDS[channel, number] = made
    return made


def all_kinds() -> list[EventKind]:
    """Every kind, by channel and number."""
    return sorted(_KINDS.values(), key=lambda kind: (_CHANNEL_NUMBERS[kind.channel], kind.id))


# The table --------------------------------------------------------------------------------------
#
# ``others``: how many more handles the same thing happened to at the same moment; only the last one
# that is told by itself has it.

_SERVER: Final = Channel.SMB_SERVER
CONNECTION_ACCEPTED: Final = _kind(
    _SERVER, 500, "ConnectionAccepted",
    "client {client:.8} connected from {address} for the share {share}",
    frequent=True, client=bytes, address=str, share=str,
)  # fmt: skip
CONNECTION_ENDED: Final = _kind(
    _SERVER, 501, "ConnectionEnded", "the connection of client {client:.8} ended: {reason}",
    frequent=True, client=bytes, address=str, reason=str,
)  # fmt: skip
CONNECTION_TERMINATED: Final = _kind(
    _SERVER, 502, "ConnectionTerminated",
    "this node ended the connection of client {client:.8}: {reason}",
    Level.WARNING, client=bytes, address=str, reason=str,
)  # fmt: skip
SESSION_ESTABLISHED: Final = _kind(
    _SERVER, 550, "SessionEstablished",
    "client {client:.8} uses this node for the share {share}",
    client=bytes, principal=str, share=str, address=str,
)  # fmt: skip
SESSION_ENDED: Final = _kind(
    _SERVER, 552, "SessionEnded",
    "client {client:.8} uses this node no more; {handles} handles wait for it",
    client=bytes, share=str, handles=int,
)  # fmt: skip
TREE_REFUSED: Final = _kind(
    _SERVER, 601, "TreeConnectRefused", "client {client:.8} asked for the share {share}: {reason}",
    Level.WARNING, client=bytes, share=str, reason=str,
)  # fmt: skip
OPEN_ESTABLISHED: Final = _kind(
    _SERVER, 650, "OpenEstablished",
    "handle {handle} of client {client:.8} on {path}, through {node}",
    frequent=True, handle=int, client=bytes, path=str, node=str, timeout_ms=int,
)  # fmt: skip
OPEN_DISCONNECTED: Final = _kind(
    _SERVER, 651, "OpenDisconnectedPreserved",
    "handle {handle} of client {client:.8} on {path} is kept for {timeout_ms} ms: {reason}",
    handle=int, client=bytes, path=str, node=str, timeout_ms=int, reason=str, others=int,
)  # fmt: skip
OPEN_RECONNECTED: Final = _kind(
    _SERVER, 652, "OpenReconnected",
    "handle {handle} of client {client:.8} on {path} goes on through {node}",
    handle=int, client=bytes, path=str, node=str, generation=int, others=int,
)  # fmt: skip
OPEN_SUSPENDED: Final = _kind(
    _SERVER, 653, "OpenSuspendedPreserved",
    "handle {handle} of client {client:.8} on {path} was taken over by the volume's new owner and "
    "waits for its client",
    handle=int, client=bytes, path=str, epoch=int, others=int,
)  # fmt: skip
OPEN_CLOSED: Final = _kind(
    _SERVER, 654, "OpenClosed", "client {client:.8} closed handle {handle} (file {file})",
    frequent=True, handle=int, client=bytes, file=int,
)  # fmt: skip
OPEN_TIMED_OUT: Final = _kind(
    _SERVER, 655, "OpenTimedOut",
    "handle {handle} of client {client:.8} on {path} was released: nobody reclaimed it",
    Level.WARNING, handle=int, client=bytes, path=str, timeout_ms=int, others=int,
)  # fmt: skip
OPEN_TERMINATED: Final = _kind(
    _SERVER, 656, "OpenTerminated", "handle {handle} ended with its client {client:.8}",
    handle=int, client=bytes, others=int,
)  # fmt: skip
OPEN_REPLACED: Final = _kind(
    _SERVER, 657, "OpenClosedByClientFailover",
    "handle {handle} of client {client:.8} on {path} was closed for a newer instance of its "
    "application, client {successor:.8}",
    Level.WARNING, handle=int, client=bytes, path=str, successor=bytes,
)  # fmt: skip
OPEN_CLOSED_BY_ADMINISTRATOR: Final = _kind(
    _SERVER, 658, "OpenInvalidatedByAdministrator",
    "handle {handle} of client {client:.8} on {path} was closed by an administrator",
    Level.WARNING, handle=int, client=bytes, path=str,
)  # fmt: skip
SHARE_ADDED: Final = _kind(
    _SERVER, 700, "ShareAdded", "the share {share} on the volume {volume} is served here now",
    share=str, volume=str,
)  # fmt: skip
SHARE_CHANGED: Final = _kind(
    _SERVER, 701, "ShareChanged", "the share {share} on the volume {volume} was changed",
    share=str, volume=str,
)  # fmt: skip
SHARE_REMOVED: Final = _kind(
    _SERVER, 702, "ShareRemoved", "the share {share} on the volume {volume} was removed",
    share=str, volume=str,
)  # fmt: skip
RESUME_KEY_FAILED: Final = _kind(
    _SERVER, 1002, "ResumeKeyFailed",
    "{part} could not take over the open handles of the volume at epoch {epoch}: {reason}",
    Level.ERROR, part=str, epoch=int, reason=str,
)  # fmt: skip
ENDPOINT_ADDED: Final = _kind(
    _SERVER, 1010, "EndpointAdded", "this node listens at {address}", address=str,
)  # fmt: skip
ENDPOINT_REMOVED: Final = _kind(
    _SERVER, 1011, "EndpointRemoved", "this node listens no more at {address}", address=str,
)  # fmt: skip
ENDPOINT_ONLINE: Final = _kind(
    _SERVER, 1013, "EndpointComingOnline",
    "a life of {node} serves the volume {volume} at {address}",
    node=str, volume=str, address=str, incarnation=bytes,
)  # fmt: skip
ENDPOINT_OFFLINE: Final = _kind(
    _SERVER, 1014, "EndpointGoingOffline",
    "a life of {node} for the volume {volume} at {address} ended: {reason}",
    Level.WARNING, node=str, volume=str, address=str, incarnation=bytes, reason=str,
)  # fmt: skip

_FILTER: Final = Channel.RESUME_KEY_FILTER
GATE_LOADING: Final = _kind(
    _FILTER, 1, "VolumeLoading", "{part} claimed epoch {epoch} and loads the handle database",
    part=str, epoch=int,
)  # fmt: skip
GATE_RESUME_LOCAL: Final = _kind(
    _FILTER, 2, "ResumeLocal",
    "epoch {epoch}: {nodes} nodes of before are asked for the handles that they still hold",
    epoch=int, nodes=int,
)  # fmt: skip
GATE_RESUME_REMOTE: Final = _kind(
    _FILTER, 3, "ResumeRemote",
    "epoch {epoch}: {handles} handles wait for their clients; what collides with them is held",
    epoch=int, handles=int,
)  # fmt: skip
GATE_RELEASE: Final = _kind(
    _FILTER, 4, "Release",
    "epoch {epoch}: the window is over; {handles} handles that nobody claimed are released",
    Level.WARNING, epoch=int, handles=int,
)  # fmt: skip
GATE_ONLINE: Final = _kind(
    _FILTER, 5, "Online", "epoch {epoch}: nothing is held any more, {took_ms} ms after loading",
    epoch=int, took_ms=int,
)  # fmt: skip
NODE_FENCED: Final = _kind(
    _FILTER, 6, "NodeFenced",
    "the data log of {node} at {address} was sealed; {handles} of its handles are kept",
    Level.WARNING, node=str, address=str, handles=int, records=int,
)  # fmt: skip

_CLIENT: Final = Channel.SMB_CLIENT
RECLAIM_FAILED: Final = _kind(
    _CLIENT, 30611, "ReconnectPersistentHandleFailed",
    "handle {handle} on {path} could not be reconnected: {reason}",
    Level.ERROR, handle=int, path=str, reason=str, others=int,
)  # fmt: skip
SESSION_LOST: Final = _kind(
    _CLIENT, 30805, "SessionLost", "the session with {node} at {address} was lost: {reason}",
    Level.WARNING, address=str, node=str, share=str, reason=str,
)  # fmt: skip
SESSION_RESTORED: Final = _kind(
    _CLIENT, 30806, "SessionReestablished",
    "the session goes on with {node} at {address} after {took_ms} ms, with {handles} handles",
    address=str, node=str, share=str, handles=int, handles_lost=int, took_ms=int,
)  # fmt: skip
SHARE_LOST: Final = _kind(
    _CLIENT, 30807, "ShareLost", "the share {share} was lost: {reason}",
    Level.WARNING, share=str, reason=str,
)  # fmt: skip
SHARE_RESTORED: Final = _kind(
    _CLIENT, 30808, "ShareReestablished", "the share {share} is there again, at {address}",
    share=str, address=str,
)  # fmt: skip
MOVE_REQUESTED: Final = _kind(
    _CLIENT, 30819, "MoveRequested",
    "this client is to leave {address} for {destination}: {reason}",
    address=str, destination=str, reason=str,
)  # fmt: skip
MOVE_DONE: Final = _kind(
    _CLIENT, 30820, "MoveDone", "this client moved from {origin} to {address} in {took_ms} ms",
    origin=str, address=str, handles=int, took_ms=int,
)  # fmt: skip
MOVE_FAILED: Final = _kind(
    _CLIENT, 30821, "MoveFailed",
    "this client could not move to {destination}; it is at {address}: {reason}",
    Level.WARNING, destination=str, address=str, reason=str,
)  # fmt: skip
OPEN_NOT_PERSISTENT: Final = _kind(
    _CLIENT, 30900, "HandleCreatedWithoutPersistence",
    "handle {handle} on {path} will not outlive its session: the share {share} is not continuously "
    "available",
    Level.WARNING, frequent=True, handle=int, path=str, share=str,
)  # fmt: skip

_WITNESSED: Final = Channel.WITNESS_CLIENT
WITNESS_REQUESTED: Final = _kind(
    _WITNESSED, 2, "RegistrationRequested",
    "the witness at {witness} is asked to watch {address}", witness=str, address=str,
)  # fmt: skip
INTERFACES_FAILED: Final = _kind(
    _WITNESSED, 3, "InterfaceListFailed", "{address} gave no list of witnesses: {reason}",
    Level.WARNING, address=str, reason=str,
)  # fmt: skip
INTERFACES_AWAITED: Final = _kind(
    _WITNESSED, 4, "InterfaceListAwaited",
    "{address} knows no other node yet; its list of witnesses is awaited", address=str,
)  # fmt: skip
WITNESS_SELECTED: Final = _kind(
    _WITNESSED, 5, "WitnessSelected", "the witness on {node} at {witness} was selected",
    witness=str, node=str,
)  # fmt: skip
WITNESS_NONE: Final = _kind(
    _WITNESSED, 6, "NoWitnessFound",
    "no witness could be had for {address}; the next try is in {retry_s} s",
    Level.WARNING, address=str, retry_s=int,
)  # fmt: skip
WITNESS_REGISTERED: Final = _kind(
    _WITNESSED, 7, "Registered", "the witness at {witness} watches {address}",
    witness=str, address=str,
)  # fmt: skip
WITNESS_REFUSED: Final = _kind(
    _WITNESSED, 8, "RegistrationFailed",
    "the witness at {witness} does not watch {address}: {reason}",
    Level.WARNING, witness=str, address=str, reason=str,
)  # fmt: skip
WITNESS_FAILED: Final = _kind(
    _WITNESSED, 9, "WitnessFailed", "the witness at {witness} was lost: {reason}",
    Level.WARNING, witness=str, reason=str,
)  # fmt: skip
WITNESS_NOTIFIED: Final = _kind(
    _WITNESSED, 10, "ResourceNotification", "the witness at {witness} says: {address} is {state}",
    witness=str, address=str, state=str,
)  # fmt: skip
WITNESS_MOVE: Final = _kind(
    _WITNESSED, 12, "MoveRequest", "the witness at {witness} asks this client to use {destination}",
    witness=str, destination=str,
)  # fmt: skip
WITNESS_LEFT: Final = _kind(
    _WITNESSED, 14, "Unregistered", "this client is registered no more at {witness}", witness=str,
)  # fmt: skip
INTERFACES_OBTAINED: Final = _kind(
    _WITNESSED, 41, "InterfaceListObtained", "{address} listed {interfaces} interfaces",
    address=str, interfaces=int,
)  # fmt: skip

_SERVICE: Final = Channel.WITNESS_SERVICE
SERVICE_REGISTERED: Final = _kind(
    _SERVICE, 1, "ClientRegistered", "client {client} is told about {address}",
    client=str, address=str, share=str,
)  # fmt: skip
SERVICE_REFUSED: Final = _kind(
    _SERVICE, 2, "RegistrationRefused", "client {client} is not told about {address}: {reason}",
    Level.WARNING, client=str, address=str, reason=str,
)  # fmt: skip
SERVICE_NODE_GONE: Final = _kind(
    _SERVICE, 4, "NodeUnavailable", "{node} at {address} is gone; clients are told",
    Level.WARNING, node=str, address=str,
)  # fmt: skip
SERVICE_NODE_HERE: Final = _kind(
    _SERVICE, 5, "NodeAvailable", "{node} at {address} is here", node=str, address=str,
)  # fmt: skip
SERVICE_CLIENT_MOVED: Final = _kind(
    _SERVICE, 6, "ClientMoveAsked",
    "move of client {client} to {destination}: {told} registrations were told",
    client=str, destination=str, told=int,
)  # fmt: skip
SERVICE_SHARE_MOVED: Final = _kind(
    _SERVICE, 7, "ShareMoveAsked",
    "move of the clients of the share {share} to {destination}: {told} registrations were told",
    share=str, destination=str, told=int,
)  # fmt: skip


# Records ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it was read. ``fields``: ids as hexadecimal digits. ``trace``, ``span``: of the
    operation that was under way, empty without one. ``monotonic_ns``: comparable between the
    processes of one boot."""

    number: int
    wall_ns: int
    monotonic_ns: int
    channel: Channel
    id: int
    fields: Mapping[str, int | str]
    trace: bytes = b""
    span: bytes = b""
    owner: RingOwner = field(default=RingOwner("", "", 0, 0, "", 0, 0))

    @property
    def kind(self) -> EventKind | None:
        """None for one of a newer version."""
        return _KINDS.get((self.channel, self.id))

    @property
    def name(self) -> str:
        kind = self.kind
        return "?" if kind is None else kind.name

    @property
    def level(self) -> Level:
        kind = self.kind
        return Level.INFORMATION if kind is None else kind.level

    @property
    def message(self) -> str:
        """One sentence for people."""
        kind = self.kind
        known = dict.fromkeys(kind.fields, "?") if kind is not None else {}
        if kind is None:
            return ", ".join(f"{name}={value}" for name, value in self.fields.items())
        try:
            text = kind.template.format_map({**known, **self.fields})
        except ValueError:  # A field of another type than this version has.
            text = f"{kind.name} {dict(self.fields)}"
        others = self.fields.get("others", 0)
        return f"{text} (and {others} others)" if others else text


def encode_event(
    number: int,
    kind: EventKind,
    wall_ns: int,
    monotonic_ns: int,
    context: bytes,
    values: Mapping[str, Value],
) -> bytes:
    """Return the record of an event, EVENT_BYTES long."""
    fields = {
        name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()
    }
    body = _json(fields)
    if len(body) > BODY_BYTES_MAX:
        for chars in _CUTS:
            body = _json({name: _cut(value, chars) for name, value in fields.items()})
            if len(body) <= BODY_BYTES_MAX:
                break
        else:
            body = b"{}"
    rest = _HEAD.pack(
        b"",
        number,
        wall_ns,
        monotonic_ns,
        _CHANNEL_NUMBERS[kind.channel],
        len(body),
        kind.id,
        context if len(context) == CONTEXT_BYTES else _NO_CONTEXT,
    )[4:]
    rest += body.ljust(BODY_BYTES_MAX, b"\0")
    return xxh32_digest(rest) + rest


def _json(fields: Mapping[str, int | str]) -> bytes:
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="replace")


def _cut(value: int | str, chars: int) -> int | str:
    if isinstance(value, str) and len(value) > chars:
        return "…" + value[-chars:]
    return value


def decode_event(raw: bytes, owner: RingOwner) -> Event | None:
    """Return the event of a whole record, or None for anything else."""
    if len(raw) != EVENT_BYTES or xxh32_digest(raw[4:]) != raw[:4]:
        return None
    _, number, wall_ns, monotonic_ns, channel, length, kind, context = _HEAD.unpack_from(raw)
    if channel >= len(CHANNELS):
        return None
    try:
        fields = json.loads(raw[_HEAD.size : _HEAD.size + length])
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    traced = context != _NO_CONTEXT
    return Event(
        number,
        wall_ns,
        monotonic_ns,
        CHANNELS[channel],
        kind,
        fields,
        context[:TRACE_BYTES] if traced else b"",
        context[TRACE_BYTES:] if traced else b"",
        owner,
    )


@dataclass(frozen=True, slots=True)
class EventRing:
    """A ring as it was read. ``lost``: events that newer ones replaced."""

    owner: RingOwner
    events: list[Event] = field(default_factory=list)
    lost: int = 0


def slots_of(data_bytes: int, slots: int) -> int:
    """How many slots each part of a ring really has."""
    return max(0, min(slots, (data_bytes - HEADER_BYTES) // (2 * EVENT_BYTES)))


def slot_at(part: int, slots: int, number: int) -> int:
    """Where the record of event ``number`` of a part begins."""
    return HEADER_BYTES + (part * slots + number % slots) * EVENT_BYTES


def decode_events(data: bytes) -> EventRing | None:
    """Read a ring, of which another process may write while it is read; None for what is none."""
    header = decode_header(data[:HEADER_BYTES], EVENTS_MAGIC)
    if header is None:
        return None
    owner, slots, _, _ = header
    slots = slots_of(len(data), slots)
    events: list[Event] = []
    lost = 0
    for part in (0, 1):
        newest = -1
        for slot in range(slots):
            at = slot_at(part, slots, slot)
            event = decode_event(data[at : at + EVENT_BYTES], owner)
            if event is not None and event.number % slots == slot:
                events.append(event)
                newest = max(newest, event.number)
        lost += max(0, newest + 1 - slots)
    return EventRing(owner, events, lost)


def in_order(events: Iterable[Event]) -> list[Event]:
    """Sort the events of all processes as they happened: by the clock that does not jump, for one
    boot of the machine; boots by the time of day at which their first event happened."""
    found = list(events)
    boots: dict[str, int] = {}
    for event in found:
        first = boots.get(event.owner.boot_id, event.wall_ns)
        boots[event.owner.boot_id] = min(first, event.wall_ns)
    return sorted(
        found,
        key=lambda e: (
            boots[e.owner.boot_id],
            e.owner.boot_id,
            e.monotonic_ns,
            e.owner.pid,
            e.number,
        ),
    )
