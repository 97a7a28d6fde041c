"""What administrators ask of a volume's open handles: which there are, and to close one.

Listing is paged twice over: a request looks at no more than LIST_ROWS_MAX handles, whatever is
asked of them, and says where the next one goes on. So a table of a hundred thousand handles neither
makes a large message nor keeps the authority from its work, and a list that takes a while is true
of each handle at the moment at which it was looked at.

Closing follows the one rule of releasing: first drained, then released. While the handle is
connected, its node is asked to let go of it: the node admits nothing more, waits until all that it
admitted was answered, sends what the authority does not have yet, and answers; or it does not, and
its log is sealed and replayed. Only then the handle's locks, share mode and name go, in one
transaction. So a write that was under way is either acknowledged, and then durable and part of the
file, or refused for good (FILE_CLOSED_BY_ADMIN), and nothing lands in the file behind whoever opens
it next.

A close that is asked for again is answered: the number of a handle is never given out twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from sofs.core import messages as m
from sofs.errors import InvalidParameter, SofsError, Unavailable
from sofs.services.authority.tables import INT64_MAX
from sofs.services.tasks import Tasks

if TYPE_CHECKING:
    from sofs.services.authority.service_active import ActiveAuthority

LIST_ROWS_MAX: Final = 128  # Looked at by one request: some milliseconds.

Run = Callable[..., Awaitable[m.Message]]
Counted = Callable[[Callable[[], Coroutine[Any, Any, m.Message]]], Awaitable[m.Message]]


class HandleDesk:
    """One life's. ``run`` runs rules in a transaction of their own; ``counted`` runs work that a
    hand-back waits for."""

    def __init__(self, active: ActiveAuthority, run: Run, counted: Counted, tasks: Tasks) -> None:
        self._active = active
        self._run = run
        self._counted = counted
        # Errors of a close are answers.
        self._closes = Tasks("closes", lambda error: tasks.crash(error, unless=SofsError))

    def cancel(self) -> None:
        """The life is over."""
        self._closes.cancel()

    async def close(self) -> None:
        """End, and wait until nothing runs any more."""
        await self._closes.close()

    async def answer(self, body: m.Message) -> m.Message:
        """Answer an operator. A close is brought to its end, whoever waits for it: its client may
        have been told already."""
        if not isinstance(body, m.CloseHandle):
            assert isinstance(body, m.ListHandles)
            return await self.listed(body)
        ended = self._active.ended
        work: asyncio.Task[m.Message] = self._closes.spawn(self._close_counted(body), "close")
        await asyncio.wait((work, ended), return_when=asyncio.FIRST_COMPLETED)
        if not work.done() or work.cancelled():
            raise Unavailable("this authority's life ended; ask the next one")
        return work.result()

    async def _close_counted(self, body: m.CloseHandle) -> m.Message:
        return await self._counted(lambda: self.close_handle(body))

    async def listed(self, body: m.ListHandles) -> m.Message:
        """One page of the handles, in the order of their numbers."""
        if body.after > INT64_MAX:
            raise InvalidParameter(f"after {body.after} is no handle")
        rows = self._active.state.list_handles(body.after, LIST_ROWS_MAX)
        found = [
            row
            for row in rows
            if row.client.hex().startswith(body.client) and below(row.path, body.path)
        ]
        next_after = rows[-1].handle if len(rows) == LIST_ROWS_MAX else 0
        await self._active.group.settled()
        return m.HandleList(found, next_after)

    async def close_handle(self, body: m.CloseHandle) -> m.Message:
        """Close a handle, whoever holds it."""
        active = self._active
        was_open = False

        def rules() -> m.Message:
            nonlocal was_open
            was_open = active.state.handle_row(body.handle) is not None
            if was_open:
                tell = active.story.closing(body.handle)
                active.state.force_close(body.handle, active.env.clock.wall_ns())
                tell()
            return m.HandleReleased(was_open)

        reply = await self._run(rules, reserved=0)
        if was_open:
            active.resume.settled([body.handle])
            active.locks.given_back()
        return reply


def below(path: str, top: str) -> bool:
    """Is a path ``top``, or inside of it?"""
    top = top.rstrip("/")
    return not top or path == top or path.startswith(top + "/")
