"""Checkpoints: naming them in the log, and deleting what they make needless (R10).

A checkpoint is an object that a follower wrote, or the owner itself when nobody follows. It counts
only once an entry of the log names it, and only the owner writes that entry. Recovery takes the
newest entry: so checkpoints are named one at a time, in the order of what they hold. Logs and
checkpoints below the newest are deleted after the boundary that says so was acknowledged. A crash
in between leaves objects that the next boundary covers, and logs that no later lineage names: each
life's first look deletes those right below its own lineage, behind a boundary of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from sofs.core.entries import Boundary, CheckpointEntry, CheckpointRef, Lineage
from sofs.errors import DiskFull, StoreFailed, StoreUnknown
from sofs.ids import Position
from sofs.ports.log import Claim
from sofs.ports.state import StateDatabase
from sofs.services.authority.env import AuthorityEnv
from sofs.services.authority.feed import FollowerFeed
from sofs.services.authority.follower import take_checkpoint
from sofs.services.authority.group_log import GroupLog

log = logging.getLogger("sofs.authority")

LOOK_EVERY_MS: Final = 1_000
WHOLE_LOG: Final = 2**31
LEFT_EMPTY_MAX: Final = 8  # So many empty logs in a row: nothing is left below.


class Checkpoints:
    """One life's checkpoints."""

    def __init__(
        self,
        env: AuthorityEnv,
        claim: Claim,
        lineage: Lineage,
        database: StateDatabase,
        group: GroupLog,
        feed: FollowerFeed,
    ) -> None:
        self._env = env
        self._claim = claim
        self._lineage = lineage
        self._database = database
        self._group = group
        self._feed = feed
        self.needless_below: Callable[[Position], Awaitable[None]] = _nothing
        self._wanted = False
        self._naming = asyncio.Lock()
        self._named = Position(0, 0)
        self._named_key = ""
        self._segments: list[tuple[int, int]] = []  # (first sequence, segment) of our own log.

    def logged(self, sequence: int, segment: int) -> None:
        """An entry of our own log became durable."""
        if not self._segments or self._segments[-1][1] != segment:
            self._segments.append((sequence, segment))

    async def name(self, reference: CheckpointRef) -> None:
        """Log a checkpoint; from then on recovery may start at it. An older state than the newest
        named one is never named: its object is needless. A reference that comes twice is the same
        one, and its object is needed."""
        async with self._naming:
            if reference.key == self._named_key:
                return
            if reference.position <= self._named:
                await self._env.fenced.delete_object(reference.key)
                return
            await self._group.write(CheckpointEntry(reference))
            # Not before: who comes again because this was cancelled must not be told that it is.
            self._named, self._named_key = reference.position, reference.key
            await self._delete_needless(reference.position, reference.key)
            await self.needless_below(reference.position)

    async def _delete_needless(self, position: Position, keep_key: str) -> None:
        fenced = self._env.fenced
        keys = await fenced.list_objects("checkpoints")
        older = [key for key in keys if key != keep_key and key < keep_key]
        await self._group.write(Boundary(position, older))
        for key in older:
            await fenced.delete_object(key)
        for sealed in self._lineage.history:
            if sealed.last_sequence <= position.sequence:
                claim = await fenced.read_claim(self._claim.role, sealed.epoch)
                if claim is not None:
                    await fenced.delete_segments(claim, below_segment=WHOLE_LOG)
        whole = [segment for first, segment in self._segments if first <= position.sequence]
        if whole and whole[-1] > 0:
            # Segment 0 holds the lineage, which a successor reads first: it stays.
            await fenced.delete_segments(self._claim, below_segment=whole[-1], keep_first=True)
            # On slots each batch is a segment: what is gone must not be kept in mind for ever.
            self._segments = [known for known in self._segments if known[1] >= whole[-1]]

    async def _delete_left(self) -> None:
        """Delete the logs below our lineage that an owner before us was about to delete when it
        died. Nobody reads below a lineage that was recorded, and ours was before we served."""
        if self._lineage.checkpoint is None:
            return
        await self._group.write(Boundary(self._lineage.checkpoint.position, ()))
        fenced, role = self._env.fenced, self._claim.role
        lowest = min((epoch.epoch for epoch in self._lineage.history), default=self._claim.epoch)
        n_empty = 0
        for epoch in range(lowest - 1, 0, -1):
            claim = await fenced.read_claim(role, epoch)
            deleted = 0
            if claim is not None:
                deleted = await fenced.delete_segments(claim, below_segment=WHOLE_LOG)
            n_empty = 0 if deleted else n_empty + 1
            if n_empty == LEFT_EMPTY_MAX:
                break

    def want(self) -> None:
        """What followers would start from is damaged: make a checkpoint at the next look."""
        self._wanted = True

    async def look_after(self) -> None:
        """Delete what an owner before us left. Without a follower nobody else bounds the log: make
        a checkpoint here, rarely."""
        done, swept = 0, False
        while True:
            await self._env.clock.sleep_ms(LOOK_EVERY_MS)
            if not swept:
                try:
                    await self._delete_left()
                    swept = True
                except (DiskFull, StoreFailed, StoreUnknown) as error:
                    log.warning("logs of earlier owners stay for now: %s", error)
            wanted = self._wanted
            much = self._feed.logged_bytes - done >= self._env.settings.checkpoint_alone_bytes
            if not (much or wanted):
                continue
            done = self._feed.logged_bytes
            if wanted or self._feed.lag() is None:
                self._wanted = False
                while not self._group.clean:
                    await self._group.settled()
                # No await from here to the serialization: the image is exactly the log so far.
                position = Position(self._claim.epoch, self._feed.last_sequence)
                try:
                    await self.name(await take_checkpoint(self._env, self._database, position))
                except (DiskFull, StoreFailed, StoreUnknown) as error:
                    log.warning("no checkpoint for now: %s", error)


async def _nothing(position: Position) -> None:
    """Nobody needs to know."""
