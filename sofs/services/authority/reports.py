"""Reports of damage: from nodes and followers into the log, and out of it to people.

The rules are in ``damage.py``. A report is answered when it is durable; whoever found the damage
sends it until then, and told its own client long before.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from sofs.constants import CORRUPT_PLACES_MAX
from sofs.core.messages import Done, Message, ReportCorrupt
from sofs.ids import Position
from sofs.ports.runtime import Clock
from sofs.services.authority.damage import Reported
from sofs.services.authority.group_log import GroupLog
from sofs.services.authority.state import AuthorityState

log = logging.getLogger("sofs.authority")

FOLLOWER: Final = "follower"
Run = Callable[[Callable[[], Message]], Awaitable[Message]]


class Reports:
    """One life's reports. ``run`` runs rules in a transaction of their own; ``want_checkpoint``:
    what followers would start from is damaged."""

    def __init__(
        self,
        clock: Clock,
        state: AuthorityState,
        group: GroupLog,
        run: Run,
        want_checkpoint: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._state = state
        self._group = group
        self._run = run
        self._want_checkpoint = want_checkpoint
        self.beyond = 0  # Places that this life was told of and has no row for.

    async def take(self, found_by: str, body: ReportCorrupt) -> Message:
        """Log what ``found_by`` found damaged."""
        reported = Reported(0, 0)

        def rules() -> Message:
            nonlocal reported
            reported = self._state.report_corrupt(body.places, found_by, self._clock.wall_ns())
            return Done()

        reply = await self._run(rules)
        if reported.beyond:
            self.beyond += reported.beyond
            log.error("$corrupt: %d places beyond %d", reported.beyond, CORRUPT_PLACES_MAX)
        if reported.kept and self._state.has_damaged_store():
            self._want_checkpoint()  # The state is whole in memory.
        return reply

    async def listed(self) -> Message:
        """What is damaged, as the log has it."""
        found = self._state.list_corrupt()
        await self._group.settled()
        return found

    async def needless_below(self, position: Position) -> None:
        """A named checkpoint made the authority's own objects below ``position`` needless."""
        if self._state.has_damaged_store():
            await self._group.room_in_reserve()
            with self._group.transaction():
                self._state.heal_store(position.sequence)

    def facts(self) -> list[str]:
        return [
            f"corrupt_places={self._state.corrupt_total()}",
            f"corrupt_beyond_limit={self.beyond}",
        ]
