"""What the authority asks of a node: recall, detach, lock tables, sizes.

Each answer is a promise (R2): after ``CommitReply`` to a recall this incarnation uses the token
never again and has nothing of the file that the authority does not know. Records go ahead of the
answer in commits of their own, each acknowledged, so that the answer itself carries none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from sofs.core.messages import (
    CommitReply,
    Detach,
    Done,
    HandleClosed,
    LockUpdate,
    Message,
    QuerySize,
    Recall,
    SizeReply,
)
from sofs.errors import NotSupported, SofsError, StaleGeneration
from sofs.ports.stream import Envelope
from sofs.services.channel import Channel
from sofs.services.node.open_file import RW, Handle

if TYPE_CHECKING:
    from sofs.services.node.life import Node
    from sofs.services.node.session import Session

GRANT_UNDER_WAY_MS: Final = 50  # A recall may overtake the grant it means by a moment.


Work = Callable[[], Awaitable[Message]]


class Inbound:
    """Answers the authority; see the module."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._table = node.table

    def on_message(self, channel: Channel, envelope: Envelope) -> None:
        """See ``channel.Handler``."""
        body, call = envelope.body, envelope.call
        if isinstance(body, Recall):
            self._serve(channel, call, lambda: self._recall(body))
        elif isinstance(body, Detach):
            self._serve(channel, call, lambda: self._detach(body))
        elif isinstance(body, LockUpdate):
            self._lock_update(channel, call, body)
        elif isinstance(body, QuerySize):
            channel.reply(call, self._size(body), checked=True)
        else:
            raise NotSupported(f"a node has no {type(body).__name__}")

    def _serve(self, channel: Channel, call: int, work: Work) -> None:
        """Run as a task of the life, not of the stream: a recall that began is finished."""
        self._node.tasks.spawn(self._answer(channel, call, work), "inbound")

    async def _answer(self, channel: Channel, call: int, work: Work) -> None:
        try:
            reply = await work()
        except SofsError as error:
            channel.fail(call, error)
        else:
            channel.reply(call, reply)

    async def _recall(self, body: Recall) -> Message:
        table = self._table
        file = table.files.get(body.ino)
        if file is not None and file.acquiring is not None and body.generation > file.generation:
            # The recalled grant is on its way here: let its queue be served once before it goes.
            timer = asyncio.ensure_future(self._node.clock.sleep_ms(GRANT_UNDER_WAY_MS))
            try:
                await asyncio.wait((file.acquiring, timer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
        table.refuse_grants(body.ino, body.generation)
        if file is None or not file.mode or file.generation > body.generation:
            if file is not None:
                await table.settle(file)
            return CommitReply()
        # What is held under an older generation goes too: the authority replaced it by the recalled
        # one, whose grant never came, and will not ask for it again.
        recall = await file.give_back()
        await table.settle(file)
        if file.generation <= body.generation and file.mode:
            table.drop_token(file)
        file.reopen(recall)
        table.forget_idle(file)
        return CommitReply()

    async def _detach(self, body: Detach) -> Message:
        table = self._table
        leaving: list[tuple[Handle, int]] = []
        left: list[Session] = []
        for bound in body.handles:
            handle = table.handles.get(bound.handle)
            if handle is None or handle.generation > bound.generation:
                continue  # Gone, or its client came back through this node meanwhile.
            handle.leaving = handle.closing = body.code or StaleGeneration.code
            leaving.append((handle, bound.generation))
            handle.file.sweep()
        for handle, generation in leaving:
            await handle.quiet()
            await table.settle(handle.file)
            if handle.generation > generation:
                continue  # Its client came back through this node while it was drained.
            session = handle.session
            table.remove_handle(handle, handle.closing or StaleGeneration.code)
            if session is None or not session.alive or session.leaving:
                continue
            if body.code:
                assert session.channel is not None
                session.channel.notify(HandleClosed(handle.number, body.code))
            else:
                left.append(session)
        for session in left:
            # Its client may not know: what was taken in its name can be a copy of long ago. It
            # comes back and says where its handles are to be.
            self._node.end_session(session, "a handle was reclaimed elsewhere")
        return CommitReply()

    def _lock_update(self, channel: Channel, call: int, body: LockUpdate) -> None:
        """Install the table at once; it is in force when the writes admitted before are durable."""
        file = self._table.files.get(body.ino)
        if file is None or file.generation < body.generation:
            # The grant that is on its way has the table as it was before: it is asked for anew.
            self._table.refuse_grants(body.ino, body.generation)
        if file is None or not file.mode or file.generation > body.generation:
            channel.reply(call, Done())
            return
        file.locks = body.locks
        if not file.pending:
            channel.reply(call, Done())
            return
        last = file.pending[-1].sequence

        async def in_force() -> Message:
            await self._node.log.durable(last)
            return Done()

        self._serve(channel, call, in_force)

    def _size(self, body: QuerySize) -> SizeReply:
        file = self._table.files.get(body.ino)
        if file is None or file.mode != RW or file.generation != body.generation:
            raise StaleGeneration(f"this node does not hold token {body.generation}")
        return SizeReply(file.size, file.modified_ns)
