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

from collections.abc import Awaitable, Callable
from typing import Final

from sofs.core import messages as m
from sofs.errors import InvalidParameter
from sofs.ports.runtime import Clock
from sofs.services.authority.group_log import GroupLog
from sofs.services.authority.state import AuthorityState
from sofs.services.authority.story import HandleStory
from sofs.services.authority.tables import INT64_MAX

LIST_ROWS_MAX: Final = 256  # Looked at by one request.

Run = Callable[..., Awaitable[m.Message]]


class HandleDesk:
    """One life's. ``run`` runs rules in a transaction of their own; ``released`` hears of handles
    that are gone."""

    def __init__(
        self,
        clock: Clock,
        state: AuthorityState,
        group: GroupLog,
        story: HandleStory,
        run: Run,
        released: Callable[[int], None],
    ) -> None:
        self._clock = clock
        self._state = state
        self._group = group
        self._story = story
        self._run = run
        self._released = released

    async def listed(self, body: m.ListHandles) -> m.Message:
        """One page of the handles, in the order of their numbers."""
        if body.after > INT64_MAX:
            raise InvalidParameter(f"after {body.after} is no handle")
        rows = self._state.list_handles(body.after, LIST_ROWS_MAX)
        found = [
            row
            for row in rows
            if row.client.hex().startswith(body.client) and below(row.path, body.path)
        ]
        next_after = rows[-1].handle if len(rows) == LIST_ROWS_MAX else 0
        await self._group.settled()
        return m.HandleList(found, next_after)

    async def close(self, body: m.CloseHandle) -> m.Message:
        """Close a handle, whoever holds it."""
        was_open = False

        def rules() -> m.Message:
            nonlocal was_open
            was_open = self._state.handle_row(body.handle) is not None
            if was_open:
                tell = self._story.closing(body.handle)
                self._state.force_close(body.handle, self._clock.wall_ns())
                tell()
            return m.HandleReleased(was_open)

        reply = await self._run(rules, reserved=0)
        if was_open:
            self._released(body.handle)
        return reply


def below(path: str, top: str) -> bool:
    """Is a path ``top``, or inside of it?"""
    top = top.rstrip("/")
    return not top or path == top or path.startswith(top + "/")
