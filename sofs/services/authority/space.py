"""Deleting what nothing names any more: segments of data logs (R10).

A segment of a data log is dead when no extent lies in it or before it in its log, and none will.
Of a *sealed* log that is all: a sealed node's transactions are refused. Of a *live* log records
may be named later: its owner says with each commit below which segment it has none of those, and
its word counts once that commit is acknowledged (``settled``). It is kept in memory only; after a
take-over the next commit brings it again. The first segment of a live log stays, and so does the
one of the last applied record: a seal starts its walk there.

Pages stop being named when they are overwritten (by the sole holder of DIRECT_RW, whose own map is
the newer one), truncated or unlinked (all tokens were recalled): so no token holder still needs a
dead segment.

What is dead is read from acknowledged state, and deleted only when it was dead at the pass before,
too: a read that was under way then has ended, or fails with a missing object and is tried again by
its client. A crash in between leaves files that the next owner's pass deletes: the rule looks at
state, not at events.
"""

from __future__ import annotations

import logging
from typing import Final

from sofs.errors import DiskFull, Fenced, OutcomeUnknown, SofsError
from sofs.ports.log import FencedStore
from sofs.ports.runtime import Clock
from sofs.services.authority.env import node_role
from sofs.services.authority.group_log import GroupLog
from sofs.services.authority.state import AuthorityState

log = logging.getLogger("sofs.authority")

PASS_EVERY_MS: Final = 5_000
CUT_LOOK_EVERY_MS: Final = 200
LOGS_A_PASS_MAX: Final = 64
WHOLE_LOG: Final = 2**31


class SpaceReclaimer:
    """One life's deletions of data segments."""

    def __init__(
        self, clock: Clock, fenced: FencedStore, state: AuthorityState, group: GroupLog
    ) -> None:
        self._clock = clock
        self._fenced = fenced
        self._state = state
        self._group = group
        self._before: dict[int, int] = {}  # log id -> below which segment it was dead last time.
        self._done: dict[int, int] = {}
        self._settled: dict[int, int] = {}
        self.segments_deleted = 0

    def settled(self, log_id: int, below_segment: int) -> None:
        """The owner of a live log names no more records below a segment; its commit that says so
        was acknowledged."""
        self._settled[log_id] = max(below_segment, self._settled.get(log_id, 0))

    async def run(self) -> None:
        """Pass after pass, until the life ends."""
        while True:
            await self._clock.sleep_ms(PASS_EVERY_MS)
            try:
                await self.one_pass()
            except (Fenced, OutcomeUnknown):
                raise
            except SofsError as error:
                log.warning("dead segments stay for now: %s", error)

    async def drop_cut_runs(self) -> None:
        """Delete what large truncates and deletes left to do (``cuts.py``), a bounded transaction
        at a time, until the life ends. A full disk delays it: space is freed by other deletions."""
        while True:
            try:
                await self._group.room_in_reserve()
                with self._group.transaction():
                    more = self._state.drop_some()
                await self._group.settled()
            except DiskFull as error:
                log.warning("the runs of deleted files stay for now: %s", error)
                more = False
            if not more:
                await self._clock.sleep_ms(CUT_LOOK_EVERY_MS)

    async def one_pass(self) -> int:
        """Delete what was dead at the last pass and is dead now; returns how many segments."""
        dead = self._state.dead_below(WHOLE_LOG, self._settled)
        await self._group.settled()
        deleted = 0
        for log_id, (incarnation, below, sealed) in dead.items():
            limit = min(below, self._before.get(log_id, 0))
            if limit <= self._done.get(log_id, 0) or deleted >= LOGS_A_PASS_MAX:
                continue
            claim = await self._fenced.read_claim(node_role(incarnation), 1)
            if claim is not None:
                deleted += await self._fenced.delete_segments(
                    claim, below_segment=limit, keep_first=not sealed
                )
            self._done[log_id] = limit
        for log_id, (_, _, sealed) in dead.items():
            if sealed:
                self._settled.pop(log_id, None)
        self._before = {log_id: below for log_id, (_, below, _) in dead.items()}
        self.segments_deleted += deleted
        if deleted:
            log.info("deleted %d dead segments of data logs", deleted)
        return deleted
