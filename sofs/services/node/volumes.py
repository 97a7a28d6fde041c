"""The volumes of one node process: each has a node part of its own, all behind one listener.

A share is on one volume, so a client's first message says which part serves its stream. That
message is read here and given to the part with the rest of the stream. The part of the process's
first volume is always there; those of others are made when somebody asks for a share on them. A
part that cannot be made (its root is not reached) ends that stream; the next one tries again. One
to which no share leads any more is closed: its volume may have been removed, and its sessions have
ended with the shares.

Limits: SESSIONS_MAX streams that have not said anything yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from sofs.core.messages import Hello
from sofs.core.share_table import ShareTable
from sofs.errors import SofsError, Unavailable
from sofs.ports.stream import Envelope, Stream
from sofs.services.node.life import SESSIONS_MAX
from sofs.services.shares import ShareView

if TYPE_CHECKING:
    from sofs.services.node.part import NodePart


class _Begun(Stream):
    """A stream of which the first frame was read already."""

    def __init__(self, stream: Stream, first: list[Envelope]) -> None:
        self._stream = stream
        self._first = first
        self.send = stream.send  # type: ignore[method-assign]

    @property
    def peer(self) -> str:
        return self._stream.peer

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        await self._stream.send(envelopes)

    async def receive(self) -> list[Envelope]:
        self.receive = self._stream.receive  # type: ignore[method-assign]
        return self._first

    def close(self) -> None:
        self._stream.close()


class Volumes:
    """See the module. ``own``: name of the first volume. ``make``: compose and start the part of
    another one."""

    def __init__(
        self, own: str, shares: ShareView, make: Callable[[str], Awaitable[NodePart]]
    ) -> None:
        self._own = own
        self._shares = shares
        self._make = make
        self._parts: dict[str, asyncio.Future[NodePart]] = {}
        self._closing: dict[asyncio.Task[None], None] = {}
        self._silent = 0
        shares.on_change(self, self._shares_changed)

    def _shares_changed(self, table: ShareTable) -> None:
        used = {share.volume: None for share in table.shares}
        for volume in [name for name in self._parts if name not in used]:
            task = asyncio.ensure_future(self._close(self._parts.pop(volume)))
            self._closing[task] = None
            task.add_done_callback(lambda done: self._closing.pop(done, None))

    async def _close(self, made: asyncio.Future[NodePart]) -> None:
        try:
            part = await asyncio.shield(made)
        except SofsError:
            return  # It could not be made: who asked for it was told.
        await part.close()

    def names(self) -> list[str]:
        """The volumes that have a part, besides the first one."""
        return sorted(name for name, made in self._parts.items() if made.done())

    async def accept(self, stream: Stream, own: NodePart) -> None:
        """Serve one client's stream by the part of its share's volume."""
        if self._silent >= SESSIONS_MAX:
            raise Unavailable(f"{SESSIONS_MAX} streams wait for their first message here")
        self._silent += 1
        try:
            first = await stream.receive()
        finally:
            self._silent -= 1
        volume = await self._volume_of(first)
        part = own if volume == self._own else await self._part(volume)
        await part.accept_session(_Begun(stream, first))

    async def _volume_of(self, first: list[Envelope]) -> str:
        """The volume of the share that a greeting names; the first one for whatever else."""
        hello = first[0].body if first else None
        if not isinstance(hello, Hello) or not hello.share:
            return self._own
        share = self._shares.table.find(hello.share) if self._shares.fresh else None
        if share is None:
            share = (await self._shares.look()).find(hello.share)
        return self._own if share is None else share.volume

    async def _part(self, volume: str) -> NodePart:
        made = self._parts.get(volume)
        if made is None:
            made = self._parts[volume] = asyncio.ensure_future(self._make(volume))
            made.add_done_callback(lambda done: self._made(volume, done))
        return await asyncio.shield(made)

    def _made(self, volume: str, made: asyncio.Future[NodePart]) -> None:
        failed = made.cancelled() or made.exception() is not None
        if failed and self._parts.get(volume) is made:
            del self._parts[volume]

    async def close(self) -> None:
        """End all parts but the first volume's."""
        self._shares.forget(self)
        if self._closing:
            await asyncio.wait(list(self._closing))
        for made in list(self._parts.values()):
            if not made.done():
                made.cancel()
                await asyncio.wait((made,))
            elif made.exception() is None:
                await made.result().close()
