"""Records of the trace ring: what is read is what was written, and nothing torn is believed."""

from __future__ import annotations

import random

import pytest

from sofs.core.trace import (
    CONTEXT_BYTES,
    HEADER_BYTES,
    IS_END,
    IS_START,
    IS_WHOLE,
    NO_LINK,
    RECORD_BYTES,
    SERIAL_MASK,
    TEXT_BYTES_MAX,
    End,
    Link,
    Note,
    RingOwner,
    SpanKind,
    SpanStatus,
    Start,
    Whole,
    attempt_context,
    closed_field,
    decode_ring,
    encode_header,
    lap_field,
    pack_end,
    pack_link,
    pack_note,
    pack_start,
    pack_whole,
    read_after,
    sum_of,
)

SLOTS = 8
OWNER = RingOwner("node-1", "node", 4711, 99, "boot", 1_700_000_000_000_000_000, 5_000, "run")
CONTEXT = bytes(range(CONTEXT_BYTES))
PARENT = b"\7" * 8


def sealed(body: bytes) -> bytes:
    return body + sum_of(body)


def start(
    serial: int,
    kind: int,
    operation: int,
    context: bytes,
    parent: bytes,
    time_ns: int,
    handle: int,
    offset: int,
) -> bytes:
    low = serial & SERIAL_MASK
    fields = (kind, operation, low, context, parent, time_ns, handle, offset)
    return sealed(pack_start(IS_START, *fields))


def end(
    serial: int,
    span: bytes,
    status: int,
    time_ns: int,
    number: int,
    length: int,
    other: bytes,
) -> bytes:
    low = serial & SERIAL_MASK
    return sealed(pack_end(IS_END, 0, status, low, span, time_ns, number, length, other or NO_LINK))


def note(serial: int, span: bytes, text: str) -> bytes:
    return sealed(pack_note(serial, span, text))


def link(serial: int, span: bytes, other: bytes) -> bytes:
    return sealed(pack_link(serial, span, other))


class Ring:
    """A ring in memory, written as the recorder writes one."""

    def __init__(self) -> None:
        self.data = bytearray(encode_header(OWNER, SLOTS) + bytes(SLOTS * RECORD_BYTES))
        self.serial = 0

    def put(self, record: bytes) -> None:
        if self.serial % SLOTS == 0:
            at, lap = lap_field(self.serial)
            self.data[at : at + 8] = lap
        at = HEADER_BYTES + self.serial % SLOTS * RECORD_BYTES
        self.data[at : at + RECORD_BYTES] = record
        self.serial += 1

    def ends(self, count: int) -> None:
        for _ in range(count):
            self.put(end(self.serial, PARENT, 0, self.serial, self.serial, 0, b""))


def test_every_record_is_64_bytes_and_comes_back_as_it_was_written() -> None:
    ring = Ring()
    records = [
        start(0, SpanKind.NODE, 5, CONTEXT, PARENT, 2**63, 77, 2**62),
        end(1, CONTEXT[16:], SpanStatus.ERROR, 9, 2**60, 4096, CONTEXT),
        note(2, CONTEXT[16:], "to 127.0.0.1"),
        link(3, CONTEXT[16:], CONTEXT),
        sealed(pack_whole(IS_WHOLE, SpanKind.NODE, 4, 4, CONTEXT, 2**62, 10, 4096, 77, 2**61)),
    ]
    for record in records:
        assert len(record) == RECORD_BYTES
        ring.put(record)
    contents = decode_ring(bytes(ring.data))
    assert contents is not None
    assert contents.owner == OWNER
    whole_context = CONTEXT[:16] + bytes((CONTEXT[16] | 0x80,)) + CONTEXT[17:]
    assert [record for _, record in contents.records] == [
        Start(SpanKind.NODE, "Write", CONTEXT, PARENT, 2**63, 77, 2**62),
        End(CONTEXT[16:], SpanStatus.ERROR, 9, 2**60, 4096, CONTEXT),
        Note(CONTEXT[16:], "to 127.0.0.1"),
        Link(CONTEXT[16:], CONTEXT),
        Whole(
            Start(SpanKind.NODE, "Read", whole_context, CONTEXT[16:], 2**62, 77, 2**61),
            End(whole_context[16:], SpanStatus.OK, 2**62 + 10, 0, 4096, b""),
        ),
    ]
    assert (contents.lost, contents.torn, contents.closed) == (0, 0, False)


@pytest.mark.parametrize("written", [1, SLOTS - 1, SLOTS, SLOTS + 1, 3 * SLOTS, 3 * SLOTS + 5])
def test_a_ring_holds_its_newest_records_in_order_and_counts_those_it_lost(written: int) -> None:
    ring = Ring()
    ring.ends(written)
    contents = decode_ring(bytes(ring.data))
    assert contents is not None
    kept = min(written, SLOTS)
    assert [number for number, _ in contents.records] == list(range(written - kept, written))
    assert contents.lost == written - kept
    assert contents.torn == 0


def test_a_span_of_one_record_is_never_its_own_parent_whatever_a_peer_sent() -> None:
    for first in (0, 0x7F, 0x80, 0xFF):
        ring = Ring()
        above = bytes(16) + bytes((first,)) * 8
        ring.put(sealed(pack_whole(IS_WHOLE, SpanKind.NODE, 4, 0, above, 1, 1, 0, 0, 0)))
        contents = decode_ring(bytes(ring.data))
        assert contents is not None
        [(_, found)] = contents.records
        assert isinstance(found, Whole)
        assert found.start.context[16:] == found.end.span != found.start.parent


def test_a_record_with_any_byte_of_an_older_one_is_torn() -> None:
    ring = Ring()
    ring.ends(SLOTS)
    old = bytes(ring.data[HEADER_BYTES : HEADER_BYTES + RECORD_BYTES])
    new = start(SLOTS, SpanKind.CLIENT, 4, CONTEXT, PARENT, 1, 2, 3)
    at, lap = lap_field(SLOTS)
    ring.data[at : at + 8] = lap
    for cut in range(1, RECORD_BYTES):
        ring.data[HEADER_BYTES : HEADER_BYTES + RECORD_BYTES] = new[:cut] + old[cut:]
        contents = decode_ring(bytes(ring.data))
        assert contents is not None
        assert contents.torn == 1, cut
        assert [n for n, _ in contents.records] == list(range(1, SLOTS))


def test_a_whole_record_of_an_impossible_lap_is_not_believed() -> None:
    ring = Ring()
    ring.ends(SLOTS)
    stale = end(3 * SLOTS + 1, PARENT, 0, 0, 0, 0, b"")
    ring.data[HEADER_BYTES + RECORD_BYTES : HEADER_BYTES + 2 * RECORD_BYTES] = stale
    contents = decode_ring(bytes(ring.data))
    assert contents is not None
    assert contents.torn == 1
    assert 1 not in [number for number, _ in contents.records]


def test_numbers_beyond_32_bits_are_told_by_the_lap() -> None:
    ring = Ring()
    ring.serial = 2**33
    ring.ends(SLOTS + 3)
    contents = decode_ring(bytes(ring.data))
    assert contents is not None
    assert [n for n, _ in contents.records] == list(range(2**33 + 3, 2**33 + SLOTS + 3))


def test_whatever_the_bytes_are_reading_raises_nothing() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    ring = Ring()
    ring.ends(SLOTS + 2)
    for _ in range(500):
        data = bytearray(ring.data)
        for _ in range(chance.randrange(1, 20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        decode_ring(bytes(data[: chance.randrange(len(data) + 1)]))


def test_what_is_no_ring_is_none() -> None:
    assert decode_ring(b"") is None
    assert decode_ring(b"x" * 10_000) is None


def test_a_ring_whose_process_ended_in_order_says_so() -> None:
    ring = Ring()
    at, byte = closed_field()
    ring.data[at : at + 1] = byte
    contents = decode_ring(bytes(ring.data))
    assert contents is not None
    assert contents.closed


def test_a_note_is_cut_within_its_limit_even_inside_a_letter() -> None:
    ring = Ring()
    ring.put(note(0, PARENT, "x" * (TEXT_BYTES_MAX - 1) + "ü"))
    contents = decode_ring(bytes(ring.data))
    assert contents is not None
    [(_, found)] = contents.records
    assert isinstance(found, Note)
    assert found.text.startswith("x" * (TEXT_BYTES_MAX - 1))


def test_attempts_of_an_operation_have_ids_of_their_own() -> None:
    operation = b"t" * 16 + b"sssssss\0"
    contexts = {attempt_context(operation, n) for n in range(1, 256)}
    assert len(contexts) == 255
    assert operation not in contexts
    assert attempt_context(operation, 1000) == attempt_context(operation, 255)


def test_a_reader_that_keeps_up_gets_every_record_once() -> None:
    ring = Ring()
    number, got = 0, []
    for written in (1, 3, 0, SLOTS - 2, SLOTS, 5):
        ring.ends(written)
        records, number, lost = read_after(bytes(ring.data), number)
        assert lost == 0
        got += [record.number for record in records if isinstance(record, End)]
    assert got == list(range(ring.serial))


@pytest.mark.parametrize("behind", [1, 2, SLOTS, 5 * SLOTS + 3])
def test_a_reader_that_is_too_slow_goes_on_at_the_oldest_record_and_counts_the_rest(
    behind: int,
) -> None:
    ring = Ring()
    ring.ends(3)
    _, number, _ = read_after(bytes(ring.data), 0)
    ring.ends(SLOTS + behind)
    records, after, lost = read_after(bytes(ring.data), number)
    assert lost == behind
    numbers = [record.number for record in records if isinstance(record, End)]
    assert numbers == list(range(3 + behind, ring.serial))
    assert after == ring.serial


def test_a_reader_stops_at_a_torn_record() -> None:
    ring = Ring()
    ring.ends(4)
    ring.data[HEADER_BYTES + 2 * RECORD_BYTES + 9] ^= 1
    records, number, lost = read_after(bytes(ring.data), 0)
    assert (len(records), number, lost) == (2, 2, 0)
