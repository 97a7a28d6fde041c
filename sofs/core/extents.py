"""Extents as bytes: where runs of a file's pages lie.

One packed extent is ``<QIIQII`` (first page, log id, segment, sequence, offset in the segment of
the first page's bytes, number of pages) followed by one u64 checksum a page. Pages are BLOCK_BYTES
long and the pages of one extent lie one after another. The checksum is seeded by log nonce, segment
and sequence (``core/record.py``), so that a page that verifies is *that* record's page and no
other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sofs.errors import ProtocolError

_HEAD = struct.Struct("<QIIQII")
PAGES_MAX = 512  # In one extent: a record of WRITE_BYTES_MAX has at most 257.


class Extent(NamedTuple):
    """``pages`` pages from ``page`` on; ``sums``: 8 bytes a page, little-endian."""

    page: int
    log_id: int
    segment: int
    sequence: int
    offset: int
    pages: int
    sums: bytes


def pack_extent(
    page: int, log_id: int, segment: int, sequence: int, offset: int, sums: Sequence[int]
) -> bytes:
    """Pack one extent of ``len(sums)`` pages."""
    return _HEAD.pack(page, log_id, segment, sequence, offset, len(sums)) + struct.pack(
        f"<{len(sums)}Q", *sums
    )


def repack(extent: Extent) -> bytes:
    """Pack an unpacked extent again."""
    return _HEAD.pack(*extent[:6]) + extent.sums


def unpack_extents(packed: bytes | memoryview) -> Iterator[Extent]:
    """Yield the extents of a packed list, in order; ProtocolError when it is cut or impossible."""
    view = memoryview(packed)
    at = 0
    while at < len(view):
        if at + _HEAD.size > len(view):
            raise ProtocolError("a packed extent list ends inside an extent")
        page, log_id, segment, sequence, offset, pages = _HEAD.unpack_from(view, at)
        at += _HEAD.size
        end = at + 8 * pages
        if not 0 < pages <= PAGES_MAX or end > len(view):
            raise ProtocolError(f"an extent of {pages} pages does not fit its list")
        yield Extent(page, log_id, segment, sequence, offset, pages, bytes(view[at:end]))
        at = end


def cut(extent: Extent, first_page: int, end_page: int) -> Extent | None:
    """Return the part of ``extent`` inside pages ``[first_page, end_page)``, or None."""
    start = max(extent.page, first_page)
    end = min(extent.page + extent.pages, end_page)
    if start >= end:
        return None
    skip = start - extent.page
    return extent._replace(
        page=start,
        offset=extent.offset + skip * 4096,
        pages=end - start,
        sums=extent.sums[8 * skip : 8 * (end - extent.page)],
    )
