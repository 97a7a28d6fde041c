"""Truncate: alone on its file, with everything before it at the authority.

Why it is safe. The operation waits at the head of the file's queue for the token, until the file is
drained and until the authority has every record of it; then it holds the file. So the authority's
transaction orders against each write: what came before is in its tables, nothing else is under
way, and tail replay has nothing of this file to apply behind it. Bytes behind the new end of the
last page are zeroed by a detached record, which counts only through that transaction. On a full
disk there may be no room for it: then the truncate is refused, with the advice to cut at a page.

A truncate to nothing needs no token where there is none: no page of it is needed.

The answer may be a stored one, of a truncate that took effect long ago: what the file is now is
never computed here. The token is dropped, and the next operation asks for a new one.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from sofs.constants import BLOCK_BYTES
from sofs.core.extents import pack_extent
from sofs.core.messages import InfoReply, Truncate
from sofs.errors import DiskFull, SofsError, StaleGeneration
from sofs.ports.log import Placement
from sofs.ports.trace import CURRENT
from sofs.services.channel import expect
from sofs.services.node.open_file import RW, Handle, Need
from sofs.services.node.session import Session

if TYPE_CHECKING:
    from sofs.services.node.life import Node


class TruncateOp:
    """One truncate, from its arrival to its answer; an ``open_file.Operation``."""

    __slots__ = ("_body", "_call", "_epoch", "_node", "_session", "handle")

    def __init__(
        self, node: Node, session: Session, call: int, handle: Handle, body: Truncate
    ) -> None:
        self._node = node
        self._session = session
        self._call = call
        self.handle = handle
        self._epoch = handle.epoch
        self._body = body

    @property
    def alive(self) -> bool:
        return self._session.alive

    @property
    def trace(self) -> bytes:
        """See ``open_file.Operation``."""
        return self._session.trace(self._call)

    def attempt(self) -> Need | None:
        """See ``open_file.Operation``."""
        handle, node = self.handle, self._node
        file = handle.file
        # A close that waits for this operation has marked the handle as leaving: that is in order.
        if handle.generation != self._body.generation:
            raise StaleGeneration(f"handle {handle.number} was reclaimed")
        if not file.mode and not self._body.size:
            # Nothing of the file is under way here, and the authority recalls all others. So even
            # a file whose damage lets nobody have a token can be emptied.
            file.hold()
            node.tasks.spawn(self._run(), "truncate")
            return None
        if file.mode != RW:
            return Need(lambda: node.table.acquire(file, RW), remote=True)
        if file.pending:
            return Need(file.landed, remote=False)
        if file.last_sequence > node.commits.applied_sequence:
            return Need(lambda: node.table.settle(file), remote=True)
        page = self._body.size // BLOCK_BYTES
        missing = file.map.missing(page, page + 1) if self._shrinks_into_page() else None
        if missing is not None:
            return Need(lambda: node.table.fetch(file, missing), remote=True)
        file.hold()
        node.tasks.spawn(self._run(), "truncate")
        return None

    def _shrinks_into_page(self) -> bool:
        size = self._body.size
        return bool(size % BLOCK_BYTES) and size < self.handle.file.size

    async def _run(self) -> None:
        file, node, body = self.handle.file, self._node, self._body
        CURRENT.set(self.trace)
        try:
            tail = await self._tail() if self._shrinks_into_page() else None
            body.modified_ns = node.clock.wall_ns()
            with nullcontext() if tail is None else node.commits.naming(tail):
                if tail is not None:
                    await node.log.durable(tail.sequence)
                    node.recorder.link(self.trace, node.log.batch_trace)
                # Until there is an answer nobody knows the file's size: no deadline.
                message = await node.link.call(lambda: body, deadline_ms=None)
            reply = expect((message, b""), InfoReply)
            node.table.drop_token(file)
        except SofsError as error:
            self._session.refuse(self._call, error, checked=True)
        else:
            reply.held_by_asker = False
            self._session.answer(self._call, reply, checked=True)
        finally:
            file.release()
            self._finished()

    async def _tail(self) -> Placement | None:
        """Append the last page, zeroed behind the new end, as a detached record, and name it in the
        request. A hole needs none."""
        file, node, size = self.handle.file, self._node, self._body.size
        page, keep = divmod(size, BLOCK_BYTES)
        place = file.map.page(page)
        if place is None:
            return None
        old = node.reads.cached_page(place) or await node.reads.read_page(file.ino, page, place)
        block = old[:keep].ljust(BLOCK_BYTES, b"\0")
        try:
            await node.log.room(BLOCK_BYTES)
        except DiskFull as error:
            raise DiskFull(
                f"{error.message}; a truncate to a multiple of {BLOCK_BYTES} bytes needs no space"
            ) from error
        placement = node.writes.append_detached(file.ino, [block], keep)
        self._body.tail = pack_extent(
            page,
            node.link.log_id,
            placement.segment,
            placement.sequence,
            placement.payload_offset,
            placement.sums,
        )
        return placement

    def fail(self, error: SofsError) -> None:
        """See ``open_file.Operation``."""
        self._session.refuse(self._call, error, checked=True)
        self._finished()

    def drop(self) -> None:
        """See ``open_file.Operation``."""
        self._finished()

    def _finished(self) -> None:
        self._session.finished(0)
        self.handle.finished(self._epoch)
