"""Reading a log: where it ends, and whether that end is a torn tail or corruption (R5).

Theory. Records follow each other with ascending sequences; the first place that holds no whole
record of the expected sequence ends the log. Two very different things look like that: the tail
that a crash tore, which was never acknowledged and is cut, and damage to a record that was. They
are told apart by evidence: each record states the highest sequence of its log that was durable
when it was written. So after a bad place every 64-byte offset up to the segment's end, and then
every later segment, is searched for headers of this log. If one of them (or the caller) names the
missing sequence or a later one as durable, it is corruption.

Why safe. A header counts only if its checksum holds, which is seeded with the log's secret nonce:
neither old bytes nor contents written by clients can be evidence or pass for a record. A record
that cannot be told from a torn one was named durable by nobody: at most it is of the last batch.

Data records (with block sums) at or below the evidence are checked by their headers only: their
pages are verified whenever they are read, and one bad page must not stop the recovery of other
files. All others are checked whole.

A caller that can go on without the damaged records (``damaged_ok``) is told of them as gaps: the
walk goes on at the next whole record of this log behind the bad place, and a gap names every
sequence up to it, or up to what the evidence says was durable. Nothing is left out in silence.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from sofs.constants import KIB, MIB, RECORD_ALIGN_BYTES
from sofs.core.record import (
    KIND_AT,
    NONCE_AT,
    SEGMENT_HEADER_BYTES,
    Record,
    RecordKind,
    SegmentHeader,
    claimed_bytes,
    decode_record,
    decode_segment_header,
    record_start,
)
from sofs.errors import Corrupt
from sofs.ids import ID_BYTES
from sofs.ports.log import Gap

WINDOW_BYTES: Final = MIB
SEARCH_BYTES: Final = 64 * KIB  # Read at once while searching: stays in the processor's cache.
_ZEROS: Final = bytes(SEARCH_BYTES + ID_BYTES)
SEEK_WINDOW_BYTES: Final = MIB + 256 * KIB  # How far a seek looks: one write and its header.
SEEK_ENOUGH_BYTES: Final = 64 * KIB  # Walking this much costs less than another step of a seek.


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller wants of a log and knows about it: records above ``after``; sequences up to
    ``known`` were acknowledged; whether segments behind the first may be missing, and whether
    damaged records are told as gaps instead of an error."""

    after: int
    known: int
    deleted_ok: bool
    damaged_ok: bool = False


class Pieces(Protocol):
    """A log's segments as bytes."""

    def numbers(self) -> list[int]:
        """Numbers of the pieces that exist, ascending."""
        ...

    def size(self, number: int) -> int:
        """Length of the piece in bytes."""
        ...

    def next_data(self, number: int, offset: int) -> int:
        """Offset before which, from ``offset`` on, nothing was ever written."""
        ...

    def load(self, number: int, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes of the piece; shorter only at its end."""
        ...

    def name(self, number: int) -> str: ...


def walked(view: memoryview, at: int, nonce: bytes, segment: int, base: int) -> Record | None:
    """Return the record at ``view[at]``, verified but for the payload of a record with block
    sums."""
    whole = view[at + KIND_AT] != RecordKind.DATA
    record = decode_record(view, at, nonce=nonce, segment=segment, base=base, verify_payload=whole)
    if record is not None and not whole and not record.sums:
        return decode_record(view, at, nonce=nonce, segment=segment, base=base)
    return record


class _Reader:
    """Reads one piece in windows. Fresh memory costs more than the copy into it, so a window that
    no record is kept of should be small enough to be used again by the allocator."""

    def __init__(self, pieces: Pieces, number: int, nonce: bytes) -> None:
        self._pieces = pieces
        self._number = number
        self._nonce = nonce
        self.size = pieces.size(number)
        self._base = 0
        self._view = memoryview(b"")

    def _load(self, at: int, n_bytes: int) -> None:
        self._base = at
        self._view = memoryview(self._pieces.load(self._number, at, max(n_bytes, WINDOW_BYTES)))

    def _holds(self, at: int, n_bytes: int) -> bool:
        return self._base <= at and (
            at + n_bytes <= self._base + len(self._view)
            or self._base + len(self._view) >= self.size
        )

    def header(self) -> SegmentHeader | None:
        self._load(0, WINDOW_BYTES)
        return decode_segment_header(self._view, nonce=self._nonce, segment=self._number)

    def record(self, at: int) -> Record | None:
        """The record at ``at``, verified but for the payloads of records with block sums."""
        view = self._view
        start = at - self._base
        if 0 <= start < len(view) - KIND_AT:
            record = walked(view, start, self._nonce, self._number, self._base)
            if record is not None:
                return record
        if not self._reach(at):
            return None
        return walked(self._view, at - self._base, self._nonce, self._number, self._base)

    def header_at(self, at: int) -> Record | None:
        """The record at ``at`` with only its header verified."""
        if not self._reach(at):
            return None
        return decode_record(
            self._view,
            at - self._base,
            nonce=self._nonce,
            segment=self._number,
            base=self._base,
            verify_payload=False,
        )

    def _header_in(self, chunk: bytes, base: int, at: int) -> Record | None:
        """``header_at``, from ``chunk`` (which lies at ``base``) when it holds the whole record."""
        if at >= base and at + max(1, claimed_bytes(chunk, at - base)) <= base + len(chunk):
            return decode_record(
                chunk,
                at - base,
                nonce=self._nonce,
                segment=self._number,
                base=base,
                verify_payload=False,
            )
        return self.header_at(at)

    def _reach(self, at: int) -> bool:
        """Load what a record at ``at`` claims to need; False when the piece ends before that."""
        if not self._holds(at, RECORD_ALIGN_BYTES * 2):
            self._load(at, WINDOW_BYTES)
        need = claimed_bytes(self._view, at - self._base)
        if not self._holds(at, need):
            if at + need > self.size:
                return False
            self._load(at, need)
        return True

    def seek(self, sequence: int) -> Record | None:
        """Return a record at or below ``sequence``, near it, by halving the piece; None: start at
        its beginning. A record is found by its log's nonce and verified by its header, so a wrong
        guess costs time only."""
        low, high = SEGMENT_HEADER_BYTES, self.size
        best: Record | None = None
        while high - low > SEEK_ENOUGH_BYTES:
            middle = (low + high) // 2 // RECORD_ALIGN_BYTES * RECORD_ALIGN_BYTES
            found = self._next_header(middle, min(high, middle + SEEK_WINDOW_BYTES))
            if found is None or found.kind is RecordKind.ROLL or found.sequence > sequence:
                high = middle
            else:
                low, best = found.end_offset, found
        return best

    def next_header(self, at: int) -> Record | None:
        """The first record of this log that starts at ``at`` or behind it; only its header is
        verified."""
        return self._next_header(at, self.size)

    def _next_header(self, at: int, end: int) -> Record | None:
        """The first record of this log that starts in ``at..end``."""
        for start in range(at, end, SEARCH_BYTES):
            chunk = self._pieces.load(self._number, start, len(_ZEROS))
            found = -1 if chunk == _ZEROS else chunk.find(self._nonce)
            while found >= 0:
                candidate = start + found - NONCE_AT
                if candidate >= at and candidate % RECORD_ALIGN_BYTES == 0:
                    record = self._header_in(chunk, start, candidate)
                    if record is not None:
                        return record
                found = chunk.find(self._nonce, found + 1)
        return None

    def search(self, at: int) -> int:
        """Look at every aligned offset from ``at`` on for a header of this log; return the highest
        sequence that one of them names as durable. Looking for the nonce makes it a memory
        search."""
        best = 0
        start = self._pieces.next_data(self._number, at)
        while start < self.size:
            chunk = self._pieces.load(self._number, start, len(_ZEROS))
            # Most of what lies behind a log's end is zeros; comparing is ten times a search.
            found = -1 if chunk == _ZEROS else chunk.find(self._nonce)
            while found >= 0:
                candidate = start + found - NONCE_AT
                if candidate >= at and candidate % RECORD_ALIGN_BYTES == 0:
                    record = self._header_in(chunk, start, candidate)
                    if record is not None:
                        best = max(best, record.durable_to)
                found = chunk.find(self._nonce, found + 1)
            start = self._pieces.next_data(self._number, start + SEARCH_BYTES)
        return best


class _Span:
    """The whole records of one piece: where each starts and where the last (a ROLL too) ends."""

    __slots__ = ("begin", "end", "first", "starts")

    def __init__(self, first: int, begin: int) -> None:
        self.first = first
        self.starts: array[int] = array("Q")
        self.begin = begin
        self.end = begin

    @property
    def last(self) -> int:
        """Sequence of the last record; a ROLL counts as one more, since it must be there too."""
        return self.first + len(self.starts) - 1


class Walk:
    """One pass over a log's segments. After ``run``: ``records`` above ``after``,
    ``first_sequence``, ``next_sequence``, ``durable`` (the evidence), ``gaps`` (what damage took),
    and ``read`` (the pieces looked at)."""

    def __init__(self, pieces: Pieces, nonce: bytes, asked: Asked) -> None:
        self._pieces = pieces
        self._nonce = nonce
        self._after = after = asked.after
        self._deleted_ok = asked.deleted_ok
        self._damaged_ok = asked.damaged_ok
        self._bad = (0, 0)  # Index of a piece, and where in it: of the damage that is told of.
        self.durable = asked.known
        self.resumed_at = 0
        self.gaps: list[Gap] = []
        self.records: list[Record] = []
        self.first_sequence = self.next_sequence = after + 1
        self.read: dict[int, None] = {}
        self._spans: list[tuple[int, _Span]] = []  # By piece; behind a gap begins another one.

    def run(self) -> None:
        """Read the log to its end. Raises Corrupt, naming the object, the offset and the
        sequence."""
        numbers = self._pieces.numbers()
        place: tuple[int, int] | None = None
        while True:
            try:
                if place is None:
                    place = self._start(numbers)
                if place is not None:
                    self._walk(numbers, *place)
                return
            except Corrupt as error:
                if not self._damaged_ok:
                    raise
                place = self._behind(numbers, error)
                if place is None:
                    return

    def _walk(self, numbers: list[int], index: int, at: int) -> None:
        """Walk from offset ``at`` of a piece (0: its beginning) to the end of the log."""
        while self._piece(numbers, index, at):
            index, at = index + 1, 0
            # The next segment exists durably before the ROLL that leads to it is written.
            if index == len(numbers):
                self._bad = (index, 0)
                raise self._missing(numbers[index - 1] + 1)
            if numbers[index] != numbers[index - 1] + 1:
                header = self._header(numbers[index])
                if index != 1 or header is None or not self._deleted_ok:
                    self._bad = (index, 0)
                    raise self._missing(numbers[index - 1] + 1)
                self.next_sequence = self.resumed_at = header.first_sequence

    def _behind(self, numbers: list[int], error: Corrupt) -> tuple[int, int] | None:
        """Where the log goes on behind the damage that was found; None when nothing whole is
        there. What lies between is a gap."""
        bad_index, bad_at = self._bad
        for index in range(bad_index, len(numbers)):
            reader = self._reader(numbers[index])
            at = bad_at + RECORD_ALIGN_BYTES if index == bad_index and bad_at else 0
            found = reader.next_header(max(at, SEGMENT_HEADER_BYTES))
            while found is not None:
                whole = reader.record(record_start(found))
                if whole is not None and whole.sequence >= self.next_sequence:
                    self._lose(whole.sequence, error)
                    return index, record_start(whole)
                found = reader.next_header(record_start(found) + RECORD_ALIGN_BYTES)
        self._lose(max(self.durable + 1, self.next_sequence), error)
        return None

    def _lose(self, end: int, error: Corrupt) -> None:
        """The records from ``next_sequence`` up to ``end`` cannot be read."""
        if end > self.next_sequence:
            self.gaps.append(Gap(self.next_sequence, end - 1, error.message))
            self.next_sequence = end

    def _missing(self, number: int) -> Corrupt:
        return Corrupt(f"{self._pieces.name(number)} is missing; restore it from a copy")

    def _header(self, number: int) -> SegmentHeader | None:
        return _header_of(self._pieces, number, self._nonce)

    def _start(self, numbers: list[int]) -> tuple[int, int] | None:
        """Index of the piece to begin with, and 0: the last that starts at or below the first
        record asked for. None when the log is empty. Pieces before it may be deleted; piece 0,
        which states where the log begins, goes last."""
        origin = self._header(0) if numbers and numbers[0] == 0 else None
        if origin is not None:
            self.first_sequence = origin.first_sequence
        if self._after > 0:
            for index in range(len(numbers) - 1, -1, -1):
                header = self._header(numbers[index])
                if header is not None and header.first_sequence <= self._after + 1:
                    self.next_sequence = header.first_sequence
                    return index, 0
        if origin is not None:
            self.next_sequence = origin.first_sequence
            return 0, 0
        # No first segment, or a torn one: nothing was ever durable here, or the log is damaged.
        for number in numbers:
            self._search(self._reader(number), 0)
        if self.durable > 0 or (numbers and numbers[0] != 0):
            raise Corrupt(
                f"{self._pieces.name(0)} is missing or damaged at offset 0, and sequence "
                f"{self.durable} was durable; restore it from a copy"
            )
        return None

    def _reader(self, number: int) -> _Reader:
        self.read[number] = None
        return _Reader(self._pieces, number, self._nonce)

    def _piece(self, numbers: list[int], index: int, at: int) -> bool:
        """Walk one piece from ``at`` on; True when it ends with a ROLL."""
        number = numbers[index]
        reader = self._reader(number)
        if not at:
            header = reader.header()
            if header is None or header.first_sequence != self.next_sequence:
                self._end(numbers, index, 0, reader)
                return False
            at = SEGMENT_HEADER_BYTES
            if self._after > self.next_sequence and not self._spans:
                near = reader.seek(self._after)
                if near is not None:
                    self.next_sequence, at = near.sequence, record_start(near)
        span = _Span(self.next_sequence, at)
        self._spans.append((number, span))
        while True:
            record = reader.record(at)
            if record is None or record.sequence != self.next_sequence:
                self._end(numbers, index, at, reader)
                return False
            if record.durable_to > self.durable:
                self.durable = record.durable_to
            span.starts.append(at)
            at = span.end = record.end_offset
            if record.kind is RecordKind.ROLL:
                return True
            self.next_sequence = record.sequence + 1
            if record.sequence > self._after:
                self.records.append(record)

    def _end(self, numbers: list[int], index: int, at: int, reader: _Reader) -> None:
        """The log ends at ``at`` of a piece, unless there is evidence that it went on."""
        self._search(reader, at)
        for other in numbers[index + 1 :]:
            self._search(self._reader(other), 0)
        if self.durable >= self.next_sequence:
            self._bad = (index, at)
            raise Corrupt(
                f"{self._pieces.name(numbers[index])} is damaged at offset {at}: sequence "
                f"{self.next_sequence} is no whole record, and {self.durable} was durable; "
                "restore it from a copy"
            )

    def _search(self, reader: _Reader, at: int) -> None:
        self.durable = max(self.durable, reader.search(at))

    def verify_tail(self, load: Callable[[int, int, int], bytes]) -> None:
        """Walk the part above the evidence once more in freshly loaded bytes, payloads included,
        and cut the log at the first place that is not whole there. The fresh records replace the
        others."""
        first_bad = self.next_sequence
        fresh: dict[int, Record] = {}
        for number, span in self._spans:
            if span.last <= self.durable:
                continue
            first = max(self.durable + 1, span.first)
            base = span.starts[first - span.first] if first > span.first else span.begin
            if base == SEGMENT_HEADER_BYTES:
                base = 0  # The segment's header counts, too.
            view = memoryview(load(number, base, span.end - base))
            bad = self._verify_span(number, view, base, first, span, fresh)
            if bad is not None:
                first_bad = bad
                break
        while self.records and self.records[-1].sequence >= first_bad:
            self.records.pop()
        self.next_sequence = first_bad
        for index in range(len(self.records) - 1, -1, -1):
            found = fresh.get(self.records[index].sequence)
            if found is None:
                break
            self.records[index] = found

    def _verify_span(
        self,
        number: int,
        view: memoryview,
        base: int,
        sequence: int,
        span: _Span,
        fresh: dict[int, Record],
    ) -> int | None:
        """Verify one piece's records from ``sequence`` on; return the first that is not whole."""
        nonce = self._nonce
        at = base
        if base == 0:
            if decode_segment_header(view, nonce=nonce, segment=number) is None:
                return sequence
            at = SEGMENT_HEADER_BYTES
        while at < span.end:
            record = decode_record(view, at - base, nonce=nonce, segment=number, base=base)
            if record is None or record.sequence != sequence:
                return sequence
            if record.kind is not RecordKind.ROLL:
                fresh[sequence] = record
                sequence += 1
            at = record.end_offset
        return None


def _header_of(pieces: Pieces, number: int, nonce: bytes) -> SegmentHeader | None:
    head = pieces.load(number, 0, SEGMENT_HEADER_BYTES)
    return decode_segment_header(head, nonce=nonce, segment=number)


def peek(pieces: Pieces, nonce: bytes, *, records_max: int, after: int) -> list[Record]:
    """Return up to ``records_max`` whole records above ``after`` from the start of the log on,
    without judging where they end."""
    numbers = pieces.numbers()
    index = 0
    if after > 0:
        for candidate in range(len(numbers) - 1, 0, -1):
            header = _header_of(pieces, numbers[candidate], nonce)
            if header is not None and header.first_sequence <= after + 1:
                index = candidate
                break
    records: list[Record] = []
    expected = 0
    for at_index in range(index, len(numbers)):
        number = numbers[at_index]
        reader = _Reader(pieces, number, nonce)
        header = reader.header()
        if header is None:
            break
        deleted_before = at_index == 1 and number > 1
        if expected and header.first_sequence != expected and not deleted_before:
            break
        expected = header.first_sequence
        record = reader.record(SEGMENT_HEADER_BYTES)
        while record is not None and record.sequence == expected:
            if record.kind is RecordKind.ROLL:
                break
            expected += 1
            if record.sequence > after:
                records.append(record)
                if len(records) >= records_max:
                    return records
            record = reader.record(record.end_offset)
        else:
            break
    return records
