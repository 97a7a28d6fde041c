"""Frames as bytes: what one gRPC message of a stream carries.

A frame is the protobuf message `Frame` with its bulk data in the last field. The part before that
field is small and goes through protobuf; the bulk data of all envelopes is joined into the bytes
once when written, and read as slices of the bytes that gRPC delivered, so that a megabyte is never
copied by a protobuf parser. Any protobuf library reads and writes the same bytes.

The reader walks the top level of the message by itself, only to find the bulk data; it takes what
protobuf takes (fields in any order, unknown fields, the last one of several) and refuses at least
what protobuf refuses (groups and needlessly long numbers too). Whatever the bytes are, the outcome
is envelopes, ProtocolVersion or ProtocolError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from sofs.constants import FRAME_MESSAGES_MAX, MESSAGE_BYTES_MAX, PROTOCOL_VERSION
from sofs.errors import InvalidParameter, MessageTooLarge, ProtocolError, ProtocolVersion
from sofs.ports.store import Buffer
from sofs.ports.stream import Envelope
from sofs.rpc._gen import session_pb2
from sofs.rpc.convert import fill_body, read_body

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VERSION_TAG: Final = 1 << 3 | _VARINT
_ENVELOPE_TAG: Final = 2 << 3 | _BYTES
_PAYLOAD_TAG: Final = 15 << 3 | _BYTES
_PAYLOAD_TAG_BYTE: Final = bytes((_PAYLOAD_TAG,))
_FIELD_NUMBER_MAX: Final = (1 << 29) - 1
_NUMBER_BYTES_MAX: Final = 10
_LENGTH_BYTES_MAX: Final = 5  # Of tags and lengths.

assert PROTOCOL_VERSION > 0, "0 means that the frame names no version"


def encode(envelopes: Sequence[Envelope]) -> bytes:
    """Return the bytes of the frame that holds ``envelopes``.

    Raises MessageTooLarge for more than FRAME_MESSAGES_MAX envelopes or MESSAGE_BYTES_MAX bytes and
    InvalidParameter for a field that does not fit the wire; nothing was sent then.
    """
    if len(envelopes) > FRAME_MESSAGES_MAX:
        raise MessageTooLarge(
            f"a frame of {len(envelopes)} messages; send at most {FRAME_MESSAGES_MAX} at once"
        )
    frame = session_pb2.Frame(protocol_version=PROTOCOL_VERSION)
    add = frame.envelopes.add
    payload_bytes = 0
    parts: list[Buffer] = [b"", b""]
    for envelope in envelopes:
        target = add()
        fill_body(target, envelope.body)
        data = envelope.data
        n_bytes = data.nbytes if isinstance(data, memoryview) else len(data)
        if n_bytes:
            target.data_bytes = n_bytes
            payload_bytes += n_bytes
            parts.append(data)
        try:
            target.call = envelope.call
            if envelope.is_reply:
                target.is_reply = True
            if envelope.trace:
                target.trace = envelope.trace
        except (TypeError, ValueError) as error:
            raise InvalidParameter(f"envelope of call {envelope.call}: {error}") from error
    header = frame.SerializeToString()
    frame_bytes = len(header) + payload_bytes
    if payload_bytes:
        length = _varint(payload_bytes)
        frame_bytes += 1 + len(length)
    if frame_bytes > MESSAGE_BYTES_MAX:
        raise MessageTooLarge(
            f"a frame of {frame_bytes} bytes; the limit is {MESSAGE_BYTES_MAX}: split the call"
        )
    if not payload_bytes:
        return header
    parts[0] = header
    parts[1] = _PAYLOAD_TAG_BYTE + length
    return b"".join(parts)


def decode(data: bytes) -> list[Envelope]:
    """Return the envelopes of a frame; their ``data`` are slices that keep all of ``data`` alive.

    Raises ProtocolVersion for a frame of another version and ProtocolError for bytes that are no
    frame or over the limits.
    """
    if len(data) > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"a frame of {len(data)} bytes; the limit is {MESSAGE_BYTES_MAX}")
    header, payload = _split(data)
    try:
        frame = session_pb2.Frame.FromString(header)
    except DecodeError as error:
        raise ProtocolError(f"{len(data)} bytes are no frame: {error}") from None
    envelopes: list[Envelope] = []
    at = 0
    for item in frame.envelopes:
        n_bytes = item.data_bytes
        if n_bytes:
            part: Buffer = payload[at : at + n_bytes]
            at += n_bytes
        else:
            part = b""
        envelopes.append(Envelope(item.call, item.is_reply, read_body(item), part, item.trace))
    if at != len(payload):
        raise ProtocolError(f"the messages claim {at} of the frame's {len(payload)} bytes of data")
    return envelopes


def _split(data: bytes) -> tuple[bytes, memoryview]:
    """Return the frame without its bulk data, and the bulk data; checks version and count."""
    at, end = 0, len(data)
    version = messages = 0
    payload = memoryview(b"")
    header: list[bytes] = []
    header_from = 0
    while at < end:
        field_at = at
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _read_varint(data, field_at, _LENGTH_BYTES_MAX)
        if tag in (_ENVELOPE_TAG, _PAYLOAD_TAG):
            if at < end and data[at] < 0x80:
                length, at = data[at], at + 1
            else:
                length, at = _read_varint(data, at, _LENGTH_BYTES_MAX)
            at += length
            if at > end:
                raise ProtocolError("the frame is cut off within a field")
            if tag == _ENVELOPE_TAG:
                messages += 1
            else:
                payload = memoryview(data)[at - length : at]
                header.append(data[header_from:field_at])
                header_from = at
        elif tag == _VERSION_TAG:
            version, at = _read_varint(data, at, _NUMBER_BYTES_MAX)
        else:
            at = _skip(data, tag, at)
    if version & 0xFFFFFFFF != PROTOCOL_VERSION:
        if not version & 0xFFFFFFFF:
            raise ProtocolError("the frame names no protocol version; speak to SOFS only")
        raise ProtocolVersion(
            f"the peer speaks version {version}, this side {PROTOCOL_VERSION}: upgrade the older"
        )
    if messages > FRAME_MESSAGES_MAX:
        raise ProtocolError(f"a frame of {messages} messages; the limit is {FRAME_MESSAGES_MAX}")
    if header_from < end:
        header.append(data[header_from:])
    return header[0] if len(header) == 1 else b"".join(header), payload


def _skip(data: bytes, tag: int, at: int) -> int:
    """Return where the field of ``tag`` whose value starts at ``at`` ends."""
    if not 0 < tag >> 3 <= _FIELD_NUMBER_MAX:
        raise ProtocolError("the frame holds a field with an impossible number")
    match tag & 7:
        case wire if wire == _VARINT:
            _, at = _read_varint(data, at, _NUMBER_BYTES_MAX)
        case wire if wire == _FIXED64:
            at += 8
        case wire if wire == _FIXED32:
            at += 4
        case wire if wire == _BYTES:
            length, at = _read_varint(data, at, _LENGTH_BYTES_MAX)
            at += length
        case _:
            raise ProtocolError("the frame holds a field of a wire type that SOFS does not use")
    if at > len(data):
        raise ProtocolError("the frame is cut off within a field")
    return at


def _read_varint(data: bytes, at: int, n_bytes_max: int) -> tuple[int, int]:
    """Return the number at ``at`` and where it ends."""
    value = shift = 0
    for byte in data[at : at + n_bytes_max]:
        at += 1
        if byte < 0x80:
            return value | byte << shift, at
        value |= (byte & 0x7F) << shift
        shift += 7
    raise ProtocolError("the frame holds a number without an end")


def _varint(value: int) -> bytes:
    """Return ``value`` as protobuf writes a number."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
