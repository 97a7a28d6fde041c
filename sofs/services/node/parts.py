"""A write of several ranges: one record, so that all of them are there after any crash, or none.

Everything else is as with a write of one range (``write_path``): order, exactly once, locks,
limits. Only whole blocks are taken, so no page has to be completed, and the blocks of the ranges
stand in the record one after another. When it is durable its ranges enter the map and the commit
batch in one step; the batch has all of a record or nothing of it, since batches are prefixes of the
log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sofs.constants import BLOCK_BYTES, FILE_BYTES_MAX, WRITE_BYTES_MAX, WRITE_PARTS_MAX
from sofs.core.messages import Access, Write, WriteParts
from sofs.core.record import DataHeader, DataOp
from sofs.errors import AccessDenied, InvalidParameter, MessageTooLarge
from sofs.ports.store import Buffer
from sofs.services.node.open_file import Handle, Need
from sofs.services.node.session import Session
from sofs.services.node.write_path import WriteOp

if TYPE_CHECKING:
    from sofs.services.node.write_path import WritePath


class PartsOp(WriteOp):
    """One write of several ranges, from its arrival to its answer."""

    __slots__ = ("_parts",)

    def __init__(
        self,
        paths: WritePath,
        session: Session,
        call: int,
        handle: Handle,
        body: WriteParts,
        data: Buffer,
    ) -> None:
        offset = body.parts[0].offset if body.parts else 0
        one = Write(body.handle, body.generation, body.op_sequence, body.acked_below, offset)
        super().__init__(paths, session, call, handle, one, data)
        self._parts = body.parts

    def _runs(self) -> Iterator[tuple[int, int, int]]:
        """Yield (first page, index of its block, pages) of each range."""
        at = 0
        for part in self._parts:
            pages = part.length // BLOCK_BYTES
            yield part.offset // BLOCK_BYTES, at, pages
            at += pages

    @property
    def _end(self) -> int:
        return self._parts[-1].offset + self._parts[-1].length

    def _check(self, offset: int, length: int) -> None:
        """Refuse what is no valid write through this handle."""
        if not self.handle.access & Access.WRITE:
            raise AccessDenied("the handle was not opened for this; open it with write access")
        if length > WRITE_BYTES_MAX:
            raise MessageTooLarge(f"a write takes at most {WRITE_BYTES_MAX} bytes; split it")
        parts = self._parts
        if not 0 < len(parts) <= WRITE_PARTS_MAX:
            raise InvalidParameter(f"{len(parts)} ranges; write 1 to {WRITE_PARTS_MAX} at once")
        end = total = 0
        for part in parts:
            whole = not part.offset % BLOCK_BYTES and not part.length % BLOCK_BYTES
            if not whole or not part.length or part.offset < end:
                raise InvalidParameter(
                    f"range at {part.offset} of {part.length} bytes: ranges of one write are whole "
                    f"blocks of {BLOCK_BYTES} bytes, in ascending order"
                )
            end = part.offset + part.length
            total += part.length
        if total != length:
            raise InvalidParameter(f"ranges of {total} bytes with {length} bytes of data")
        if end > FILE_BYTES_MAX:
            raise InvalidParameter(f"a file ends at {FILE_BYTES_MAX} bytes")

    def _lock_conflict(self, offset: int, length: int) -> Need | None:
        for part in self._parts:
            conflict = super()._lock_conflict(part.offset, part.length)
            if conflict is not None:
                return conflict
        return None

    def _compose(self, offset: int, length: int) -> list[Buffer] | Need:
        return [self._data]

    def _header(self, offset: int, length: int, modified_ns: int) -> DataHeader:
        body, handle, file = self._body, self.handle, self._file
        return DataHeader(
            file.ino,
            offset,
            length,
            handle.generation,
            handle.number,
            body.op_sequence,
            file.generation,
            offset,
            offset // BLOCK_BYTES,
            modified_ns,
            DataOp.PARTS,
            parts=tuple((page, pages) for page, _, pages in self._runs()),
        )

    def _end_at(self, offset: int, length: int) -> int:
        return self._end

    def page(self, page: int) -> memoryview | None:
        """See ``open_file.Pending``."""
        for first, at, pages in self._runs():
            if first <= page < first + pages:
                start = (at + page - first) * BLOCK_BYTES
                return memoryview(self._data)[start : start + BLOCK_BYTES]
        return None

    def _enter(self) -> None:
        file, paths, placement = self._file, self._paths, self._placement
        for page, at, pages in self._runs():
            sums = placement.sums[at : at + pages]
            place = (
                paths.log_id,
                placement.segment,
                placement.sequence,
                placement.payload_offset + at * BLOCK_BYTES,
            )
            file.map.insert(page, *place, sums)
            paths.commits.add(file, self.handle, page, place, sums)
