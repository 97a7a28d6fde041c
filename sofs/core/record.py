"""The record format of every log: layout, checksums, and how a reader tells a record from anything
else (R5).

Theory. A segment file starts with a segment header; records follow, each starting on a multiple of
RECORD_ALIGN_BYTES. All integers are little-endian. A record is::

    fixed header (88 bytes) | extension | block sums (8 bytes each) | payload | zeros up to the
    alignment

All checksums are xxh3_64 with ``seed = xxh3_64(nonce || segment u32 || sequence u64)``. The nonce
is a secret of the log's claim: neither an older record at the same place, nor a record of another
log, nor file contents chosen by a client, can carry a matching checksum. The header sum covers the
fixed header (with the sum itself as zero), the extension and the block sums. The payload is covered
either by ``payload_sum`` or, for data records, by one sum per 4 KiB block, so that one page can be
read and verified without the rest of a 1 MiB record. Blocks are file-aligned: the sum of a page
stands in the extent that names it.

Rules of this file: no I/O; a function that reads bytes it did not write never raises anything but
returns None for "not a whole record of this log here".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from xxhash import xxh3_64_intdigest

from sofs.constants import BLOCK_BYTES, FORMAT_VERSION, RECORD_ALIGN_BYTES
from sofs.errors import FormatRefused, invariant

Buffer = bytes | bytearray | memoryview

RECORD_MAGIC: Final = b"SOFR"
SEGMENT_MAGIC: Final = b"SOFSSEG1"
_FIXED: Final = struct.Struct("<4sHBBIIQQ16s16sHHIQQ")
_FIXED_BYTES: Final = _FIXED.size
_SUM_AT: Final = _FIXED_BYTES - 8
_SEGMENT: Final = struct.Struct("<8sHHI16s16sQQQ")
_DATA: Final = struct.Struct("<QQIIQQQQQqBB6x")
_PART: Final = struct.Struct("<QI")
_SEED: Final = struct.Struct("<IQ")
_NO_SUM: Final = bytes(8)
SEGMENT_HEADER_BYTES: Final = 128
KIND_AT: Final = 6  # Where a record's fixed header holds its kind ...
NONCE_AT: Final = 48  # ... and the nonce of its log (to search for either).
DATA_EXTENSION_BYTES: Final = _DATA.size
PAYLOAD_BYTES_MAX: Final = 64 * 1024 * 1024  # A changeset or data record; larger is never written.

assert _FIXED_BYTES == 88
assert _SEGMENT.size + 8 <= SEGMENT_HEADER_BYTES
assert SEGMENT_HEADER_BYTES % RECORD_ALIGN_BYTES == 0


class RecordKind(IntEnum):
    """What a record is. An unknown kind in an authority log refuses to serve."""

    DATA = 1  # A write or append of a file (data logs).
    # An authority entry: changeset, lineage, handover, boundary, checkpoint (protobuf envelope).
    ENTRY = 2
    ROLL = 3  # The last record of a segment: the log goes on in the next one.
    FENCE = 4  # A successor's seal in the first free slot (slot backends).
    IDLE = 5  # Carries only ``durable_to`` or renews a grant.


_KINDS: Final = {int(kind): kind for kind in RecordKind}


class DataOp(IntEnum):
    WRITE = 1
    APPEND = 2
    ABANDON = 3  # Length 0: the op sequence is settled as never to be executed.
    PARTS = 4  # A write of several ranges of whole blocks: the extension goes on with them.


FLAG_DETACHED: Final = 1
"""The record takes effect only through an authority transaction that names it (create+write+close,
the zeroed last page of a truncate); tail replay passes over it."""


@dataclass(frozen=True, slots=True)
class DataHeader:
    """Extension of a data record: everything that tail replay needs (R5).

    ``first_page``: file page of the payload's first block. ``offset``/``length``: the logical range
    that the client wrote. ``resulting_offset``: where an append landed (a write: its offset).

    A PARTS record has several ranges: ``parts`` are their (first page, pages) in ascending order,
    whose blocks follow each other in the payload; ``offset`` and ``first_page`` are the first
    one's, ``length`` is that of all.
    """

    file: int
    offset: int
    length: int
    generation: int
    handle: int
    op_sequence: int
    token_generation: int
    resulting_offset: int
    first_page: int
    mtime_ns: int
    op: DataOp
    flags: int = 0
    parts: tuple[tuple[int, int], ...] = ()

    @property
    def end(self) -> int:
        """The offset behind the last byte that it wrote."""
        if self.parts:
            page, pages = self.parts[-1]
            return (page + pages) * BLOCK_BYTES
        return self.resulting_offset + self.length

    def runs(self, blocks: int) -> Iterator[tuple[int, int, int]]:
        """Yield (first page, index of its block in the payload, pages) of each range of a record
        with so many blocks."""
        if not self.parts:
            yield self.first_page, 0, blocks
            return
        at = 0
        for page, pages in self.parts:
            yield page, at, pages
            at += pages
        invariant(at == blocks, "the ranges of a record are its blocks")

    def pack(self) -> bytes:
        fixed = self._pack_fixed()
        return fixed + b"".join([_PART.pack(*each) for each in self.parts]) if self.parts else fixed

    def _pack_fixed(self) -> bytes:
        return _DATA.pack(
            self.file,
            self.offset,
            self.length,
            self.generation,
            self.handle,
            self.op_sequence,
            self.token_generation,
            self.resulting_offset,
            self.first_page,
            self.mtime_ns,
            self.op,
            self.flags,
        )


def unpack_data_header(extension: Buffer) -> DataHeader:
    """Decode the extension of a verified DATA record; FormatRefused for a size or op not of this
    version."""
    if len(extension) < DATA_EXTENSION_BYTES:
        raise FormatRefused(f"data record with an extension of {len(extension)} bytes")
    fields = _DATA.unpack_from(extension)
    parts = _unpack_parts(extension) if fields[10] == DataOp.PARTS else ()
    if len(extension) != DATA_EXTENSION_BYTES + _PART.size * len(parts):
        raise FormatRefused(f"data record with an extension of {len(extension)} bytes")
    file, offset, length, generation, handle, op_sequence, token_generation = fields[:7]
    resulting_offset, first_page, mtime_ns = fields[7:10]
    try:
        return DataHeader(
            file,
            offset,
            length,
            generation,
            handle,
            op_sequence,
            token_generation,
            resulting_offset,
            first_page,
            mtime_ns,
            DataOp(fields[10]),
            fields[11],
            parts,
        )
    except ValueError:
        raise FormatRefused(f"data record with the unknown operation {fields[-2]}") from None


def _unpack_parts(extension: Buffer) -> tuple[tuple[int, int], ...]:
    rest = memoryview(extension)[DATA_EXTENSION_BYTES:]
    if not rest or len(rest) % _PART.size:
        raise FormatRefused(f"data record of several ranges with {len(rest)} bytes of them")
    return tuple(_PART.iter_unpack(rest))


@dataclass(slots=True)
class Record:
    """A verified record; never changed. ``payload_offset`` is its payload's place in the segment.
    (Not declared frozen, which would triple the time to make one: recovery makes 100,000.)"""

    kind: RecordKind
    segment: int
    sequence: int
    durable_to: int
    incarnation: bytes
    extension: bytes
    sums: Sequence[int]
    payload: memoryview
    payload_offset: int
    end_offset: int = 0
    """Offset in the segment at which the next record starts."""
    flags: int = field(default=0)


def record_seed(nonce: bytes, segment: int, sequence: int) -> int:
    """Return the checksum seed of one record."""
    return xxh3_64_intdigest(nonce + _SEED.pack(segment, sequence))


def block_sum(block: Buffer, seed: int) -> int:
    """Return the checksum of one data block of a record with ``seed``."""
    return xxh3_64_intdigest(block, seed)


def aligned(n_bytes: int) -> int:
    """Round up to the record alignment."""
    return -(-n_bytes // RECORD_ALIGN_BYTES) * RECORD_ALIGN_BYTES


def header_bytes(extension_bytes: int, blocks: int) -> int:
    """Length of a record's header: its payload starts this far behind the record's start."""
    return _FIXED_BYTES + extension_bytes + 8 * blocks


def record_bytes(payload_bytes: int, extension_bytes: int, blocks: int) -> int:
    """Length of a record in its segment, alignment included."""
    return aligned(header_bytes(extension_bytes, blocks) + payload_bytes)


def block_sums(payload: Sequence[Buffer], seed: int) -> list[int]:
    """Return one checksum per BLOCK_BYTES of the concatenated ``payload``.

    Every buffer but the last is a whole number of blocks, or the buffers together are one block.
    """
    sums: list[int] = []
    for buffer in payload:
        view = memoryview(buffer)
        invariant(len(view) % BLOCK_BYTES == 0, "data payloads are whole blocks")
        sums.extend(
            xxh3_64_intdigest(view[at : at + BLOCK_BYTES], seed)
            for at in range(0, len(view), BLOCK_BYTES)
        )
    return sums


def encode_record(
    kind: RecordKind,
    *,
    nonce: bytes,
    incarnation: bytes,
    segment: int,
    sequence: int,
    durable_to: int,
    payload: Sequence[Buffer],
    extension: bytes = b"",
    with_block_sums: bool = False,
    flags: int = 0,
) -> tuple[bytes, bytes, list[int]]:
    """Return (header, tail padding, block sums); the record is header + payload buffers +
    padding."""
    payload_bytes = sum(len(buffer) for buffer in payload)
    invariant(payload_bytes <= PAYLOAD_BYTES_MAX, "record payload over its limit")
    seed = record_seed(nonce, segment, sequence)
    sums: list[int] = []
    payload_sum = 0
    if with_block_sums:
        sums = block_sums(payload, seed)
    elif payload_bytes:
        joined = payload[0] if len(payload) == 1 else b"".join(payload)
        payload_sum = xxh3_64_intdigest(joined, seed)
    length = header_bytes(len(extension), len(sums))
    fields = (
        RECORD_MAGIC, length, kind, flags, payload_bytes, segment, sequence, durable_to,
        incarnation, nonce, len(extension), len(sums), 0, payload_sum,
    )  # fmt: skip
    rest = extension + struct.pack(f"<{len(sums)}Q", *sums)
    header_sum = xxh3_64_intdigest(_FIXED.pack(*fields, 0) + rest, seed)
    padding = bytes(aligned(length + payload_bytes) - length - payload_bytes)
    return _FIXED.pack(*fields, header_sum) + rest, padding, sums


def decode_record(
    buffer: Buffer,
    at: int,
    *,
    nonce: bytes,
    segment: int,
    base: int = 0,
    verify_payload: bool = True,
) -> Record | None:
    """Return the record that starts at ``buffer[at]`` if it is whole and of this log and segment,
    else None.

    ``base`` is the segment offset of ``buffer[0]``. With ``verify_payload`` every payload byte is
    checked; without it only the header is (to walk a log of large data records quickly; pages are
    verified when read).
    """
    view = buffer if type(buffer) is memoryview else memoryview(buffer)
    if at + _FIXED_BYTES > len(view):
        return None
    (
        magic, length, kind, flags, payload_bytes, record_segment, sequence, durable_to,
        incarnation, record_nonce, extension_bytes, blocks, _, payload_sum, header_sum,
    ) = _FIXED.unpack_from(view, at)  # fmt: skip
    if magic != RECORD_MAGIC or record_nonce != nonce or record_segment != segment:
        return None
    if length != header_bytes(extension_bytes, blocks) or payload_bytes > PAYLOAD_BYTES_MAX:
        return None
    end = at + length + payload_bytes
    if end > len(view) or (blocks and payload_bytes != blocks * BLOCK_BYTES):
        return None
    seed = record_seed(nonce, segment, sequence)
    head = bytes(view[at : at + length])
    if xxh3_64_intdigest(head[:_SUM_AT] + _NO_SUM + head[_FIXED_BYTES:], seed) != header_sum:
        return None
    extension = head[_FIXED_BYTES : _FIXED_BYTES + extension_bytes]
    sums: tuple[int, ...] = ()
    if blocks:
        sums = struct.unpack_from(f"<{blocks}Q", head, _FIXED_BYTES + extension_bytes)
    payload = view[at + length : end]
    if verify_payload and not _payload_holds(payload, sums, payload_sum, seed):
        return None
    known = _KINDS.get(kind)
    if known is None:
        raise FormatRefused(
            f"record {sequence} in segment {segment} has the unknown kind {kind}; "
            "use the version that wrote it"
        )
    return Record(
        known, segment, sequence, durable_to, incarnation, extension, sums, payload,
        base + at + length, base + at + aligned(length + payload_bytes), flags,
    )  # fmt: skip


def claimed_bytes(buffer: Buffer, at: int) -> int:
    """Return the length that the unverified header at ``buffer[at]`` claims, 0 when there is none.
    Only a hint of how much to read."""
    if at + _FIXED_BYTES > len(buffer):
        return 0
    magic, length, _, _, payload_bytes = _FIXED.unpack_from(buffer, at)[:5]
    if magic != RECORD_MAGIC or payload_bytes > PAYLOAD_BYTES_MAX:
        return 0
    return aligned(length + payload_bytes)


def record_start(record: Record) -> int:
    """Return the offset in its segment at which a record starts."""
    return record.payload_offset - header_bytes(len(record.extension), len(record.sums))


def record_segment(record: Buffer) -> int:
    """Return the segment number that an encoded record states (not verified; decode_record does
    that)."""
    return int(_FIXED.unpack_from(record)[5])


def _payload_holds(payload: memoryview, sums: Sequence[int], payload_sum: int, seed: int) -> bool:
    if not sums:
        return len(payload) == 0 or xxh3_64_intdigest(payload, seed) == payload_sum
    return all(
        xxh3_64_intdigest(payload[i * BLOCK_BYTES : (i + 1) * BLOCK_BYTES], seed) == value
        for i, value in enumerate(sums)
    )


def encode_segment_header(
    *, nonce: bytes, incarnation: bytes, epoch: int, segment: int, first_sequence: int
) -> bytes:
    """Return the SEGMENT_HEADER_BYTES that start a segment. ``first_sequence``: of its first
    record."""
    packed = _SEGMENT.pack(
        SEGMENT_MAGIC,
        FORMAT_VERSION,
        SEGMENT_HEADER_BYTES,
        segment,
        nonce,
        incarnation,
        epoch,
        first_sequence,
        0,
    )
    packed += xxh3_64_intdigest(packed, record_seed(nonce, segment, 0)).to_bytes(8, "little")
    return packed.ljust(SEGMENT_HEADER_BYTES, b"\0")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    segment: int
    incarnation: bytes
    epoch: int
    first_sequence: int


def decode_segment_header(buffer: Buffer, *, nonce: bytes, segment: int) -> SegmentHeader | None:
    """Return the header if it is whole and of this log and segment, else None; FormatRefused for a
    newer format."""
    raw = bytes(memoryview(buffer)[:SEGMENT_HEADER_BYTES])
    if len(raw) < SEGMENT_HEADER_BYTES or raw[:8] != SEGMENT_MAGIC:
        return None
    _, version, _, number, its_nonce, incarnation, epoch, first, _ = _SEGMENT.unpack_from(raw)
    size = _SEGMENT.size
    expected = xxh3_64_intdigest(raw[:size], record_seed(nonce, segment, 0))
    if its_nonce != nonce or number != segment:
        return None
    if int.from_bytes(raw[size : size + 8], "little") != expected:
        return None
    if version != FORMAT_VERSION:
        raise FormatRefused(
            f"segment {segment} has format {version}, this version reads {FORMAT_VERSION}"
        )
    return SegmentHeader(number, incarnation, epoch, first)
