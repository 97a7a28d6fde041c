"""Where the pages of one file lie, in memory: the node's copy of a part of the authority's extents.

Theory. The map is cut into chunks of CHUNK_PAGES pages; a chunk is four arrays with one item a page
(28 bytes a page, 7 MiB a GiB). Arrays take an extent by slice assignment and a look-up is an index,
0.1 to 0.5 microseconds a page, where sorted lists need 50 for an insert. A page without a place is
a hole.

A chunk is *known* when every page of it has its place or is surely a hole; the others are fetched
on first touch. Pages that were written here stay as they are when their chunk is filled from the
authority, because whoever fills it asks under the token that makes this map the newer one. An
answer that was asked for before the map was reset or cut must not fill it: ``version`` tells.

Rules of this file: no I/O. Page numbers count BLOCK_BYTES; log ids and segments fit 32 bits.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

from sofs.constants import BLOCK_BYTES
from sofs.core.extents import Extent, unpack_extents
from sofs.errors import ProtocolError

CHUNK_PAGES: Final = 1024
_SHIFT: Final = 10
_MASK: Final = CHUNK_PAGES - 1
_ZERO_Q: Final = array("Q", bytes(8 * CHUNK_PAGES))
_ZERO_I: Final = array("I", bytes(4 * CHUNK_PAGES))
_SEGMENT_MASK: Final = 2**32 - 1

assert 1 << _SHIFT == CHUNK_PAGES
assert _ZERO_I.itemsize == 4


class Run(NamedTuple):
    """Pages ``[page, page + pages)`` that lie one after another in one record; ``log_id`` 0: a
    hole."""

    page: int
    pages: int
    log_id: int = 0
    segment: int = 0
    sequence: int = 0
    offset: int = 0
    sums: Sequence[int] = ()


class PagePlace(NamedTuple):
    """Where one page lies, and its checksum."""

    log_id: int
    segment: int
    sequence: int
    offset: int
    sum: int


class _Chunk:
    __slots__ = ("known", "offsets", "sequences", "sums", "touched", "where")

    def __init__(self, known: bool) -> None:
        self.where = array(
            "Q", _ZERO_Q
        )  # log id << 32 | segment; 0 is a hole (log ids start at 1).
        self.sequences = array("Q", _ZERO_Q)
        self.sums = array("Q", _ZERO_Q)
        self.offsets = array("I", _ZERO_I)
        self.known = known
        self.touched = False  # Written here before it was known.


class ExtentMap:
    """The pages of one file. Made empty and wholly unknown; ``reset`` says what is known."""

    __slots__ = ("_chunks", "_end", "_through", "version")

    def __init__(self) -> None:
        self._chunks: dict[int, _Chunk] = {}
        self._through = 0  # Chunks wholly below this page are known.
        self._end: int | None = None  # Pages from here on were holes at the last reset or cut.
        self.version = 0

    def reset(self, through_page: int, end_page: int) -> None:
        """Forget everything; afterwards pages below ``through_page`` are known (insert them next),
        and so are all from ``end_page`` on, as holes."""
        self._chunks = {}
        self._through = through_page
        self._end = end_page
        self.version += 1

    def forget(self) -> None:
        """Forget everything; afterwards nothing is known."""
        self._chunks = {}
        self._through = 0
        self._end = None
        self.version += 1

    # What is known
    # ---------------------------------------------------------------------------------

    def _is_known(self, index: int) -> bool:
        chunk = self._chunks.get(index)
        return chunk.known if chunk is not None else self._implied(index)

    def _implied(self, index: int) -> bool:
        """Is a chunk that has no arrays yet known?"""
        start = index << _SHIFT
        if self._end is not None and (start >= self._end or self._end <= self._through):
            return True
        return start + CHUNK_PAGES <= self._through

    def missing(self, first_page: int, end_page: int) -> int | None:
        """Return the first page of the first chunk that must be fetched for ``[first_page,
        end_page)``, or None."""
        for index in range(first_page >> _SHIFT, (end_page - 1 >> _SHIFT) + 1):
            if not self._is_known(index):
                return index << _SHIFT
        return None

    def unknown_run(self, first_page: int, chunks_max: int) -> int:
        """Return how many pages from the unknown chunk at ``first_page`` on are unknown, in whole
        chunks, at most ``chunks_max`` of them."""
        index = first_page >> _SHIFT
        count = 1
        while count < chunks_max and not self._is_known(index + count):
            count += 1
        return count * CHUNK_PAGES

    # Changing
    # --------------------------------------------------------------------------------------

    def insert(
        self,
        page: int,
        log_id: int,
        segment: int,
        sequence: int,
        offset: int,
        sums: Sequence[int],
    ) -> None:
        """Place ``len(sums)`` pages from ``page`` on; newer than whatever was there."""
        pages = len(sums)
        where = log_id << 32 | segment
        if pages == 1:
            chunk = self._chunks.get(page >> _SHIFT) or self._make(page >> _SHIFT)
            at = page & _MASK
            chunk.where[at] = where
            chunk.sequences[at] = sequence
            chunk.offsets[at] = offset
            chunk.sums[at] = sums[0]
            return
        done = 0
        while done < pages:
            chunk = self._chunks.get(page >> _SHIFT) or self._make(page >> _SHIFT)
            at = page & _MASK
            count = min(pages - done, CHUNK_PAGES - at)
            end = at + count
            chunk.where[at:end] = array("Q", (where,)) * count
            chunk.sequences[at:end] = array("Q", (sequence,)) * count
            start = offset + done * BLOCK_BYTES
            chunk.offsets[at:end] = array(
                "I", range(start, start + count * BLOCK_BYTES, BLOCK_BYTES)
            )
            chunk.sums[at:end] = array("Q", sums[done : done + count])
            done += count
            page += count

    def _make(self, index: int) -> _Chunk:
        chunk = self._chunks[index] = _Chunk(self._implied(index))
        chunk.touched = not chunk.known
        return chunk

    def insert_packed(self, packed: bytes | memoryview) -> None:
        """Place every extent of a packed list, in order; ProtocolError when it is damaged."""
        for extent in unpack_extents(packed):
            self.insert(*extent[:5], _sums(extent))

    def fill(self, packed: bytes | memoryview, first_page: int, pages: int) -> None:
        """Take the authority's answer for the whole chunks in ``[first_page, first_page + pages)``:
        they are known afterwards. What was known or written here before stays."""
        first = first_page >> _SHIFT
        last = first_page + pages - 1 >> _SHIFT
        older: dict[int, _Chunk] = {}
        for index in range(first, last + 1):
            chunk = self._chunks.get(index)
            if chunk is not None and (chunk.known or chunk.touched):
                older[index] = chunk
            self._chunks[index] = _Chunk(known=True)
        for extent in unpack_extents(packed):
            if extent.page < first_page or extent.page + extent.pages > first_page + pages:
                raise ProtocolError("fetched extents lie outside the pages that were asked for")
            self.insert(*extent[:5], _sums(extent))
        for index, chunk in older.items():
            if chunk.known:
                self._chunks[index] = chunk
            else:
                _overlay(self._chunks[index], chunk)

    def truncate(self, end_page: int) -> None:
        """Make holes of all pages from ``end_page`` on."""
        index = end_page >> _SHIFT
        for number in [n for n in self._chunks if n > index]:
            del self._chunks[number]
        chunk = self._chunks.get(index)
        at = end_page & _MASK
        if chunk is not None:
            if at == 0:
                del self._chunks[index]
            else:
                chunk.where[at:] = _ZERO_Q[at:]
        if self._end is None or end_page < self._end:
            self._end = end_page
        self._through = min(self._through, end_page)
        self.version += 1

    # Looking up
    # ------------------------------------------------------------------------------------

    def page(self, page: int) -> PagePlace | None:
        """Return the place of one page, or None for a hole. The page must be known."""
        chunk = self._chunks.get(page >> _SHIFT)
        if chunk is None:
            return None
        at = page & _MASK
        where = chunk.where[at]
        if not where:
            return None
        return PagePlace(
            where >> 32,
            where & _SEGMENT_MASK,
            chunk.sequences[at],
            chunk.offsets[at],
            chunk.sums[at],
        )

    def runs(self, first_page: int, end_page: int) -> list[Run]:
        """Return ``[first_page, end_page)`` as runs, in order, without gaps."""
        runs: list[Run] = []
        page = first_page
        while page < end_page:
            chunk = self._chunks.get(page >> _SHIFT)
            at = page & _MASK
            stop = min(CHUNK_PAGES, at + end_page - page)
            if chunk is None:
                _append(runs, Run(page, stop - at))
            else:
                _chunk_runs(runs, chunk, page - at, at, stop)
            page += stop - at
        return runs


def _overlay(chunk: _Chunk, newer: _Chunk) -> None:
    """Put the pages that ``newer`` holds over those of ``chunk``."""
    for at, where in enumerate(newer.where):
        if where:
            chunk.where[at] = where
            chunk.sequences[at] = newer.sequences[at]
            chunk.offsets[at] = newer.offsets[at]
            chunk.sums[at] = newer.sums[at]


def _chunk_runs(runs: list[Run], chunk: _Chunk, base: int, at: int, stop: int) -> None:
    where, sequences, offsets = chunk.where, chunk.sequences, chunk.offsets
    while at < stop:
        place, sequence, offset = where[at], sequences[at], offsets[at]
        end = at + 1
        if not place:
            while end < stop and not where[end]:
                end += 1
            _append(runs, Run(base + at, end - at))
        else:
            if stop - at > 8 and _whole(chunk, at, stop):
                end = stop
            else:
                expected = offset + BLOCK_BYTES
                while (
                    end < stop
                    and offsets[end] == expected
                    and sequences[end] == sequence
                    and where[end] == place
                ):
                    expected += BLOCK_BYTES
                    end += 1
            sums = chunk.sums[at:end]
            _append(
                runs,
                Run(
                    base + at, end - at, place >> 32, place & _SEGMENT_MASK, sequence, offset, sums
                ),
            )
        at = end


def _whole(chunk: _Chunk, at: int, stop: int) -> bool:
    """Do pages ``[at, stop)`` of the chunk lie one after another in one record? (Large writes:
    compared as arrays, not page by page.)"""
    last = stop - 1
    count = stop - at
    start = chunk.offsets[at]
    return (
        chunk.where[last] == chunk.where[at]
        and chunk.sequences[last] == chunk.sequences[at]
        and chunk.offsets[last] == start + (count - 1) * BLOCK_BYTES
        and chunk.sequences[at:stop] == array("Q", (chunk.sequences[at],)) * count
        and chunk.where[at:stop] == array("Q", (chunk.where[at],)) * count
        and chunk.offsets[at:stop]
        == array("I", range(start, start + count * BLOCK_BYTES, BLOCK_BYTES))
    )


def _append(runs: list[Run], run: Run) -> None:
    """Append a run, joined with the one before when they touch (at a chunk's border)."""
    if runs:
        last = runs[-1]
        if not run.log_id and not last.log_id:
            runs[-1] = Run(last.page, last.pages + run.pages)
            return
        if (
            run.log_id
            and run.log_id == last.log_id
            and run.segment == last.segment
            and run.sequence == last.sequence
            and run.offset == last.offset + last.pages * BLOCK_BYTES
        ):
            runs[-1] = last._replace(pages=last.pages + run.pages, sums=[*last.sums, *run.sums])
            return
    runs.append(run)


def _sums(extent: Extent) -> array[int]:
    sums = array("Q", extent.sums)
    if sys.byteorder == "big":
        sums.byteswap()
    return sums
