"""The record format of trace rings: fixed 64-byte records that survive the process that wrote them.

Theory. A ring is one memory-mapped file of one process: a header of HEADER_BYTES, then slots of
RECORD_BYTES. Record number n lies in slot n modulo the number of slots, so the newest records
replace the oldest, and what was replaced is counted. A span is two records: its start, written when
the work begins, and its end. A start without an end is work that never ended: in the ring of a
dead process that is work which was *killed*. Notes and links add a text or a second span. Work that
began and ended without anything else in between, so that nothing can wait within it, is one record,
written at its end.

Torn records. A process may be killed within the 64 bytes. Every record ends in the checksum of its
other 60 bytes, which hold the low half of its number: a slot counts only if the checksum holds and
the number is one that this slot can have, of the present lap or of the one before it. The header
names the number at which the present lap began and is written before that lap's first record.

A *context* names a span for others: 16 bytes of trace id, 8 of span id. It is what travels with a
message; no bytes at all mean "not traced". The low byte of the span id of a client's operation is
zero, and its n-th attempt has the same id with n in that byte: so the first attempt costs no record
of its own unless it dies (``sofs/client/spans.py``). The topmost bit of an id is zero, but for a
span of one record, which has its parent's id with that bit set: it has no room for one of its own,
and what is asked for once is answered once.

Rings are read by the version that wrote them or a later one; they are never a part of the data.
Rules of this file: no I/O, no clock; whatever the bytes are, reading them returns records or says
that they are no ring.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

from xxhash import xxh32_digest

RECORD_BYTES: Final = 64
HEADER_BYTES: Final = 4096
RING_MAGIC: Final = b"SOFSRING"
RING_VERSION: Final = 1
CONTEXT_BYTES: Final = 24
TRACE_BYTES: Final = 16
TEXT_BYTES_MAX: Final = 44  # Of one note; a longer text is cut.
ATTEMPTS_MAX: Final = 255  # Of one operation that are told apart; later ones share the last id.
NO_CONTEXT: Final = b""
NO_LINK: Final = bytes(CONTEXT_BYTES)
NO_SPAN: Final = bytes(8)
_WHOLE_BIT: Final = 0x80  # Of the first byte of a span's id; turned, whatever a peer sent.
DURATION_NS_MAX: Final = 0xFFFFFFFF  # Of a span of one record: 4.3 s; a longer one is two.
SERIAL_MASK: Final = 0xFFFFFFFF  # A record holds the low half of its number.

# Type of record, kind, operation, number; context, parent, time, handle, offset.
_START: Final = struct.Struct("<BBHI24s8sQIQ")
# Type, 0, status, number; span, time, the operation's number, length, link.
_END: Final = struct.Struct("<BBHI8sQQI24s")
# Type, kind, operation, number; the parent's context, time of the start, duration, length, handle,
# offset.
_WHOLE: Final = struct.Struct("<BBHI24sQIIIQ")
_NOTE: Final = struct.Struct("<BBHI8s44s")
_LINK: Final = struct.Struct("<BBHI8s24s20x")
_HEADER: Final = struct.Struct("<8sIIQQQQQB")
_LAP_AT: Final = 16  # Of ``lap_start`` in the header.
_CLOSED_AT: Final = 56
_JSON_AT: Final = 64

for _layout in (_START, _END, _WHOLE, _NOTE, _LINK):
    assert _layout.size == RECORD_BYTES - 4


# Types of records; plain numbers, as an enumeration doubles what packing one costs.
IS_START: Final = 1
IS_END: Final = 2
_IS_NOTE: Final = 3
_IS_LINK: Final = 4
IS_WHOLE: Final = 5


class SpanKind(IntEnum):
    """What a span is about. Numbers are never used again."""

    CLIENT = 1  # An operation, from the application's call to its answer.
    ATTEMPT = 2  # One sending of an operation that was sent more than once.
    FAILOVER = 3  # A client's change of node.
    RECONNECT = 4  # Its search for a node that answers.
    RECLAIM = 5  # Its handles, bound to the new node.
    NODE = 6  # A request at a node.
    WAIT = 7  # A request that waits until the volume has an authority.
    BATCH = 8  # One write, sync and look at the claim of a log.
    AUTHORITY = 9  # A request at the volume's authority.
    SEAL = 10  # Of a node's data log, with its tail.
    TAKEOVER = 11  # Of the volume, from the lost owner to serving.
    CLAIM = 12  # One try to win an epoch.
    LINEAGE = 13  # Sealing the log below and reading what it says.
    REPLAY = 14  # Applying the tail.
    NOTICE = 15  # A witness tells its clients that a node is gone.
    RECALL = 16  # A node gives a token or handles back.
    OTHER = 17
    LEADER = 18  # What an operator asks of the leader, and what it has the platform do.
    DNS = 19  # A question, or who belongs to the access point.


class SpanStatus(IntEnum):
    OK = 0
    ERROR = 1  # Its note names the error.
    LOST = 2  # The stream ended before the answer.
    # Of readers only:
    OPEN = 100  # It has not ended, and its process lives.
    KILLED = 101  # It never ended: its process was killed.


# What a span works on, by name of the message; the place in the table is in the record, so names
# are only ever added at the end.
OPERATIONS: Final = (
    "",
    "Open",
    "Close",
    "Reclaim",
    "Read",
    "Write",
    "Flush",
    "Truncate",
    "Lock",
    "Unlock",
    "Stat",
    "SetInfo",
    "Mkdir",
    "Rmdir",
    "Unlink",
    "Rename",
    "ReadDir",
    "WriteFile",
    "ReadFile",
    "Abandon",
    "EndClient",
    "ChangeLocks",
    "WriteParts",
    "RegisterNode",
    "AcquireToken",
    "FetchExtents",
    "CommitRecords",
    "Disconnected",
    "Recall",
    "Detach",
    "LockUpdate",
    "QuerySize",
    "ReportCorrupt",
    "GetInterfaceList",
    "Hello",
    "PartState",
    "ChangeShare",
    "ChangeMachine",
    "AddVolume",
    "RemoveVolume",
    "CreatePart",
    "RemovePart",
    "Decide",
    "RegisterMember",
    "SetMembers",
    "Question",
)
OPERATION_NUMBERS: Final = {name: number for number, name in enumerate(OPERATIONS)}


def attempt_context(operation: bytes, attempt: int) -> bytes:
    """The context of an operation's n-th attempt, from 1."""
    return operation[:-1] + bytes((min(attempt, ATTEMPTS_MAX),))


def is_context(context: bytes) -> bool:
    """May these bytes, which a peer sent, be used as a context?"""
    return len(context) == CONTEXT_BYTES


# Writing ----------------------------------------------------------------------------------------


# On hot paths a recorder packs the fields itself, in the order that stands at each layout: a call
# in between costs as much as the packing does. Times are of the machine's monotonic clock, in
# nanoseconds; 32 bits of a handle and of a length are kept.
pack_start: Final = _START.pack
pack_end: Final = _END.pack
pack_whole: Final = _WHOLE.pack
sum_of: Final = xxh32_digest  # What follows the packed fields: the last four bytes of a record.


def pack_note(serial: int, span: bytes, text: str) -> bytes:
    """A text about a span, cut to TEXT_BYTES_MAX."""
    data = text.encode()[:TEXT_BYTES_MAX]
    return _NOTE.pack(_IS_NOTE, 0, len(data), serial & SERIAL_MASK, span, data)


def pack_link(serial: int, span: bytes, link: bytes) -> bytes:
    """A second span that this one has to do with."""
    return _LINK.pack(_IS_LINK, 0, 0, serial & SERIAL_MASK, span, link)


@dataclass(frozen=True, slots=True)
class RingOwner:
    """Whose ring it is. ``wall_ns`` and ``monotonic_ns`` are one moment on both clocks; monotonic
    times of one boot are comparable between processes. ``start_ticks``: see ``procfile``."""

    name: str
    role: str
    pid: int
    start_ticks: int
    boot_id: str
    wall_ns: int
    monotonic_ns: int
    run: str = ""


def encode_header(owner: RingOwner, slots: int, magic: bytes = RING_MAGIC) -> bytes:
    """The header of a fresh ring."""
    fixed = _HEADER.pack(
        magic,
        RING_VERSION,
        slots,
        0,
        owner.monotonic_ns,
        owner.wall_ns,
        owner.pid,
        owner.start_ticks,
        0,
    )
    text = json.dumps(
        {"name": owner.name, "role": owner.role, "boot_id": owner.boot_id, "run": owner.run}
    ).encode()
    if len(text) > HEADER_BYTES - _JSON_AT - 4:
        raise ValueError(f"a ring's owner is described by {len(text)} bytes")
    head = fixed.ljust(_JSON_AT, b"\0") + len(text).to_bytes(4, "little") + text
    return head.ljust(HEADER_BYTES, b"\0")


def lap_field(lap_start: int) -> tuple[int, bytes]:
    """Where the header names the first number of the present lap, and the bytes for there."""
    return _LAP_AT, lap_start.to_bytes(8, "little")


def closed_field() -> tuple[int, bytes]:
    """Where the header says that the process ended in order, and the byte for there."""
    return _CLOSED_AT, b"\1"


# Reading ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    kind: SpanKind
    operation: str
    context: bytes
    parent: bytes  # A span id, or nothing.
    time_ns: int
    handle: int
    offset: int


@dataclass(frozen=True, slots=True)
class End:
    span: bytes
    status: SpanStatus
    time_ns: int
    number: int
    length: int
    link: bytes


@dataclass(frozen=True, slots=True)
class Note:
    span: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    span: bytes
    link: bytes


@dataclass(frozen=True, slots=True)
class Whole:
    """A span of one record."""

    start: Start
    end: End


RingRecord = Start | End | Note | Link | Whole


class Slices(Protocol):
    """Bytes, or a mapping of a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class RingContents:
    """A ring as it was read. ``records``: (number, record), oldest first. ``lost``: records that
    newer ones replaced. ``torn``: slots that hold no whole record of their lap."""

    owner: RingOwner
    closed: bool
    records: list[tuple[int, RingRecord]] = field(default_factory=list)
    lost: int = 0
    torn: int = 0


def decode_ring(data: bytes | memoryview) -> RingContents | None:
    """Read a ring, of which another process may write while it is read; None for what is none."""
    header = decode_header(bytes(data[:HEADER_BYTES]))
    if header is None:
        return None
    owner, slots, lap_start, closed = header
    slots = min(slots, (len(data) - HEADER_BYTES) // RECORD_BYTES)
    older: list[tuple[int, RingRecord]] = []
    newer: list[tuple[int, RingRecord]] = []
    torn = 0
    for slot in range(slots):
        at = HEADER_BYTES + slot * RECORD_BYTES
        raw = bytes(data[at : at + RECORD_BYTES])
        if not any(raw):
            continue
        number = lap_start + slot
        serial = int.from_bytes(raw[4:8], "little")
        record = _decode_record(raw)
        if record is not None and serial == number & SERIAL_MASK:
            newer.append((number, record))
        elif record is not None and number >= slots and serial == number - slots & SERIAL_MASK:
            older.append((number - slots, record))
        else:
            torn += 1
    last = newer[-1][0] if newer else lap_start - 1
    return RingContents(owner, closed, older + newer, max(0, last + 1 - slots), torn)


def read_after(data: Slices, number: int) -> tuple[list[RingRecord], int, int]:
    """What a living ring has from record ``number`` on: (records, the next number, how many were
    replaced before they were read). Cheap when little is new."""
    slots = int.from_bytes(data[12:16], "little")
    if not 0 < slots <= (len(data) - HEADER_BYTES) // RECORD_BYTES:
        return [], number, 0
    found: list[RingRecord] = []
    lost = 0
    while len(found) < slots:
        at = HEADER_BYTES + number % slots * RECORD_BYTES
        raw = bytes(data[at : at + RECORD_BYTES])
        ahead = int.from_bytes(raw[4:8], "little") - number & SERIAL_MASK
        record = _decode_record(raw)
        if record is None:
            break  # Not written yet, or being written.
        if not ahead:
            found.append(record)
            number += 1
        elif ahead < SERIAL_MASK // 2 and not ahead % slots:
            lost += ahead - slots + 1  # A later lap is here: what it left begins there.
            number += ahead - slots + 1
        else:
            break  # Of the lap before.
    return found, number, lost


def decode_header(
    head: bytes, magic: bytes = RING_MAGIC
) -> tuple[RingOwner, int, int, bool] | None:
    """Return (owner, slots, number at which the present lap began, closed), or None."""
    if len(head) < HEADER_BYTES or not head.startswith(magic):
        return None
    _, version, slots, lap, monotonic_ns, wall_ns, pid, ticks, closed = _HEADER.unpack_from(head)
    if version != RING_VERSION:
        return None
    length = int.from_bytes(head[_JSON_AT : _JSON_AT + 4], "little")
    try:
        text = json.loads(head[_JSON_AT + 4 : _JSON_AT + 4 + length])
        owner = RingOwner(
            name=str(text["name"]),
            role=str(text["role"]),
            pid=pid,
            start_ticks=ticks,
            boot_id=str(text["boot_id"]),
            wall_ns=wall_ns,
            monotonic_ns=monotonic_ns,
            run=str(text["run"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
    return owner, slots, lap, bool(closed)


def _decode_record(raw: bytes) -> RingRecord | None:
    """Return a whole record, or None for anything else."""
    body = raw[:-4]
    if xxh32_digest(body) != raw[-4:]:
        return None
    match raw[0]:
        case _ if raw[0] == IS_START:
            _, kind, operation, _, context, parent, time_ns, handle, offset = _START.unpack(body)
            above = b"" if parent == NO_SPAN else parent
            return Start(_kind(kind), _name(operation), context, above, time_ns, handle, offset)
        case _ if raw[0] == IS_END:
            _, _, status, _, span, time_ns, number, length, link = _END.unpack(body)
            found = SpanStatus(status) if status <= SpanStatus.LOST else SpanStatus.ERROR
            other = b"" if link == NO_LINK else link
            return End(span, found, time_ns, number, length, other)
        case _ if raw[0] == IS_WHOLE:
            return _whole(body)
        case _ if raw[0] == _IS_NOTE:
            _, _, length, _, span, text = _NOTE.unpack(body)
            return Note(span, text[:length].decode(errors="replace"))
        case _ if raw[0] == _IS_LINK:
            *_, span, link = _LINK.unpack(body)
            return Link(span, link)
    return None


def _whole(body: bytes) -> Whole:
    _, kind, operation, _, above, began_ns, took_ns, length, handle, offset = _WHOLE.unpack(body)
    trace, parent = above[:TRACE_BYTES], above[TRACE_BYTES:]
    span = bytes((parent[0] ^ _WHOLE_BIT,)) + parent[1:]
    return Whole(
        Start(_kind(kind), _name(operation), trace + span, parent, began_ns, handle, offset),
        End(span, SpanStatus.OK, began_ns + took_ns, 0, length, NO_CONTEXT),
    )


def _name(operation: int) -> str:
    return OPERATIONS[operation] if operation < len(OPERATIONS) else "?"


def _kind(number: int) -> SpanKind:
    try:
        return SpanKind(number)
    except ValueError:
        return SpanKind.OTHER


def starts(contents: RingContents) -> Iterator[Start]:
    """The starts of a ring, oldest first."""
    return (record for _, record in contents.records if isinstance(record, Start))
