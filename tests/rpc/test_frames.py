"""Frames: the same bytes as any protobuf library's, and nothing but ProtocolError for others."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sofs.constants import FRAME_MESSAGES_MAX, MESSAGE_BYTES_MAX, MIB, PROTOCOL_VERSION
from sofs.core.messages import (
    Done,
    Failure,
    HelloReply,
    Message,
    Read,
    ReadReply,
    Write,
    WriteReply,
)
from sofs.errors import InvalidParameter, MessageTooLarge, ProtocolError, ProtocolVersion
from sofs.ports.stream import Envelope
from sofs.rpc._gen import session_pb2
from sofs.rpc.frames import decode, encode

numbers = st.integers(0, 2**64 - 1)
bodies: st.SearchStrategy[Message] = st.one_of(
    st.builds(Write, numbers, numbers, numbers, numbers, numbers, st.booleans()),
    st.builds(WriteReply, numbers),
    st.builds(Read, numbers, numbers, numbers, numbers),
    st.builds(ReadReply, numbers),
    st.builds(Failure, st.text("AB_", max_size=5), st.text("ä ", max_size=5), numbers),
    st.builds(HelloReply, addresses=st.lists(st.text("a:1", max_size=5), max_size=3)),
    st.just(Done()),
)
envelopes = st.builds(
    Envelope,
    numbers,
    st.booleans(),
    bodies,
    st.binary(max_size=300),
    st.binary(max_size=30),
)
frames = st.lists(envelopes, max_size=6)


def plain(found: list[Envelope]) -> list[Envelope]:
    return [Envelope(e.call, e.is_reply, e.body, bytes(e.data), e.trace) for e in found]


def write_frame(data: bytes = b"payload") -> bytes:
    return encode([Envelope(7, False, Write(1, 2, 3, 4, 5), data, b"trace")])


@given(frames)
@settings(max_examples=60, deadline=None)
def test_a_frame_is_decoded_as_it_was_encoded(sent: list[Envelope]) -> None:
    assert plain(decode(encode(sent))) == sent


@given(frames)
@settings(max_examples=60, deadline=None)
def test_protobuf_reads_and_writes_the_same_bytes(sent: list[Envelope]) -> None:
    data = encode(sent)
    frame = session_pb2.Frame.FromString(data)
    assert frame.SerializeToString() == data
    assert frame.protocol_version == PROTOCOL_VERSION
    assert frame.payload == b"".join(bytes(e.data) for e in sent)
    assert [e.data_bytes for e in frame.envelopes] == [len(e.data) for e in sent]


def test_data_is_a_slice_of_the_received_bytes_and_no_copy() -> None:
    data = encode([Envelope(1, True, ReadReply(), b"one"), Envelope(2, True, ReadReply(), b"two")])
    views = [e.data for e in decode(data)]
    assert all(isinstance(view, memoryview) and view.obj is data for view in views)
    assert [bytes(view) for view in views] == [b"one", b"two"]


@pytest.mark.parametrize("data", [b"abcd", bytearray(b"abcd"), memoryview(b"abcd")])
def test_any_buffer_may_be_sent(data: bytes | bytearray | memoryview) -> None:
    assert plain(decode(encode([Envelope(1, False, Write(), data)])))[0].data == b"abcd"


def test_a_view_is_counted_in_bytes_and_not_in_elements() -> None:
    wide = memoryview(bytearray(8)).cast("Q")
    assert len(decode(encode([Envelope(1, False, Write(), wide)]))[0].data) == 8


def test_a_frame_with_the_payload_in_front_and_unknown_fields_is_read_all_the_same() -> None:
    frame = session_pb2.Frame.FromString(write_frame())
    payload, frame.payload = frame.payload, b""
    front = session_pb2.Frame(payload=payload).SerializeToString()
    earlier = session_pb2.Frame(payload=b"of no effect: the last one counts").SerializeToString()
    unknown = b"".join(
        (
            b"\xa0\x06\xff\x01",  # 100: varint
            b"\xa1\x06" + bytes(8),  # 100: 64 bits
            b"\xa2\x06\x03abc",  # 100: bytes
            b"\xa5\x06" + bytes(4),  # 100: 32 bits
        )
    )
    rest = frame.SerializeToString()
    for data in (front + unknown + rest, earlier + front + rest + unknown, unknown + rest + front):
        assert session_pb2.Frame.FromString(data).payload == b"payload"
        assert plain(decode(data)) == plain(decode(write_frame()))


def test_a_frame_over_the_byte_limit_is_refused_before_it_is_built() -> None:
    room = MESSAGE_BYTES_MAX - len(encode([Envelope(1, True, ReadReply(), bytes(4 * MIB))]))
    fits = encode([Envelope(1, True, ReadReply(), bytes(4 * MIB + room))])
    assert len(fits) == MESSAGE_BYTES_MAX
    assert len(decode(fits)[0].data) == 4 * MIB + room
    with pytest.raises(MessageTooLarge, match=str(MESSAGE_BYTES_MAX)):
        encode([Envelope(1, True, ReadReply(), bytes(4 * MIB + room + 1))])
    with pytest.raises(MessageTooLarge):
        encode([Envelope(1, True, Failure(text="x" * MESSAGE_BYTES_MAX))])
    with pytest.raises(ProtocolError):
        decode(fits + b"\x08")


def test_a_frame_over_the_message_limit_is_refused_on_both_sides() -> None:
    full = encode([Envelope(0, False, Done())] * FRAME_MESSAGES_MAX)
    assert len(decode(full)) == FRAME_MESSAGES_MAX
    with pytest.raises(MessageTooLarge, match=str(FRAME_MESSAGES_MAX)):
        encode([Envelope(0, False, Done())] * (FRAME_MESSAGES_MAX + 1))
    one = full[2:][: (len(full) - 2) // FRAME_MESSAGES_MAX]
    with pytest.raises(ProtocolError, match=str(FRAME_MESSAGES_MAX)):
        decode(full + one)


@pytest.mark.parametrize("version", [2, 127, 128, 2**32 - 1])
def test_another_version_is_named(version: int) -> None:
    data = session_pb2.Frame(protocol_version=version).SerializeToString()
    with pytest.raises(ProtocolVersion, match=str(version)):
        decode(data)


def test_the_version_is_checked_before_anything_else_is_understood() -> None:
    data = session_pb2.Frame(protocol_version=2).SerializeToString() + b"\x12\x02\xff\xff"
    with pytest.raises(ProtocolVersion):
        decode(data)


def test_a_frame_without_a_version_is_no_frame() -> None:
    with pytest.raises(ProtocolError, match="version"):
        decode(b"")


@pytest.mark.parametrize("claimed", [0, 6, 8, 2**63])
def test_data_that_the_envelopes_do_not_account_for_is_refused(claimed: int) -> None:
    frame = session_pb2.Frame.FromString(write_frame(b"7 bytes"))
    frame.envelopes[0].data_bytes = claimed
    with pytest.raises(ProtocolError, match="data"):
        decode(frame.SerializeToString())


def test_an_envelope_without_a_known_message_is_refused() -> None:
    frame = session_pb2.Frame(protocol_version=1, envelopes=[session_pb2.Envelope(call=1)])
    with pytest.raises(ProtocolError, match="no message"):
        decode(frame.SerializeToString())


@pytest.mark.parametrize("call", [-1, 2**64, "1"])
def test_a_call_number_that_does_not_fit_is_an_invalid_parameter(call: int) -> None:
    with pytest.raises(InvalidParameter):
        encode([Envelope(call, False, Done())])


def test_every_truncation_is_a_protocol_error() -> None:
    data = write_frame()
    for length in range(len(data)):
        if length == 2:  # The version alone: a frame of no messages.
            assert decode(data[:length]) == []
            continue
        with pytest.raises(ProtocolError):
            decode(data[:length])


def check_like_protobuf(data: bytes) -> None:
    """Decode, and compare what is accepted with protobuf's reading of it."""
    try:
        found = decode(data)
    except (ProtocolError, ProtocolVersion):
        return
    frame = session_pb2.Frame.FromString(data)  # What we take, protobuf takes.
    assert b"".join(bytes(e.data) for e in found) == frame.payload
    assert [e.call for e in found] == [e.call for e in frame.envelopes]
    assert [e.trace for e in found] == [e.trace for e in frame.envelopes]


@given(st.binary(max_size=80))
@example(b"\x08\x01\x7b\x7c")  # A group.
@example(b"\x08\x01\xfa\x80\x80\x80\x80\x00\x01x")  # A tag that is longer than it need be.
@example(b"\x08\x01\x7a\x81\x80\x80\x80\x80\x00x")  # A length that is longer than it need be.
@example(b"\x08\x81\x80\x80\x80\x80\x80\x80\x80\x80\x7f")  # A number of more than 64 bits.
@example(b"\x08\x01\x00\x00")  # Field number 0.
@example(b"\x08\x01\x78\x01")  # The payload's number with another wire type.
@example(b"\x0a\x01\x01\x08\x01")  # The version's number with another wire type.
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_never_raise_anything_else(data: bytes) -> None:
    check_like_protobuf(data)
    check_like_protobuf(b"\x08\x01" + data)


@given(frames, st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_frames_never_raise_anything_else(
    sent: list[Envelope], data: st.DataObject
) -> None:
    frame = bytearray(encode(sent))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    check_like_protobuf(bytes(frame))
