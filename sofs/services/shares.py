"""The table of shares on the cluster root: who publishes it, and who reads it.

``publish`` is for the leader: one object a version, then the older ones go. ``ShareView`` is what a
node or a witness knows: the newest table that it saw. It looks once in SHARES_LOOK_MS, when it is
told to, and when somebody needs to know now and the last look is older than that. It never goes
back to an older table.

Why a deleted share stays deleted: a look that begins after a deletion was acknowledged finds the
table without it or a newer one, since the object was there before the acknowledgement and is only
deleted behind a newer one. ``current`` tells from a look that began less than SHARES_LOOK_MS before
it answers, whatever happened to this process meanwhile. What may fail: the store; then ``current``
raises, and nothing is guessed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sofs.constants import SHARES_LOOK_MS
from sofs.core import events as e
from sofs.core.messages import Message, SharesSeen
from sofs.core.share_table import (
    SHARES_FOLDER,
    ShareTable,
    decode_table,
    encode_table,
    order_of,
    table_key,
)
from sofs.errors import SofsError, Unavailable
from sofs.ports.events import NO_EVENTS, Events
from sofs.ports.log import FencedStore
from sofs.ports.runtime import Clock
from sofs.services.channel import within
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.shares")

LOOK_MS_MAX: Final = 5_000
GONE_TRIES_MAX: Final = 8  # A table that was listed and is deleted has a newer one.


async def publish(fenced: FencedStore, table: ShareTable) -> None:
    """Make ``table`` the newest, then delete those below it. Only the leader whose epoch it has may
    call this, once a version, after the change is durable and checked."""
    await fenced.put_object(table_key(table.epoch, table.version), encode_table(table))
    for key in await fenced.list_objects(SHARES_FOLDER):
        order = order_of(key)
        if order is not None and order < table.order:
            await fenced.delete_object(key)


async def read_newest(fenced: FencedStore, above: tuple[int, int] = (-1, 0)) -> ShareTable | None:
    """Return the newest published table if it is above ``above``, else None. Raises what the store
    says, and Corrupt."""
    for _ in range(GONE_TRIES_MAX):
        found = [(o, k) for k in await fenced.list_objects(SHARES_FOLDER) if (o := order_of(k))]
        if not found or max(found)[0] <= above:
            return None
        key = max(found)[1]
        data = await fenced.get_object(key)
        if data is not None:
            return decode_table(data, key)
    raise Unavailable(f"{SHARES_FOLDER} changes faster than it can be read; ask again")


class ShareView:
    """See the module. ``default``: what is shared while nobody published anything."""

    def __init__(
        self,
        clock: Clock,
        fenced: FencedStore,
        default: ShareTable,
        events: Events = NO_EVENTS,
    ) -> None:
        """``events``: of who serves the shares."""
        self._events = events
        self._clock = clock
        self._fenced = fenced
        self._looked_ms: int | None = None  # When the last look that succeeded began.
        self._look: asyncio.Task[None] | None = None
        self._listeners: dict[object, Callable[[ShareTable], None]] = {}
        self._watched = False
        self.table = default
        self.problem = ""
        self.looks = 0

    @property
    def fresh(self) -> bool:
        """Is what we know from a look that began less than SHARES_LOOK_MS ago?"""
        now = self._clock.monotonic_ms()
        return self._looked_ms is not None and now - self._looked_ms < SHARES_LOOK_MS

    async def current(self) -> ShareTable:
        """Return the table, looking first if need be. Raises Unavailable when that cannot be."""
        if not self.fresh:
            await self.look()
        return self.table

    async def look(self) -> ShareTable:
        """Look at the store now: a look that began before this call does not count."""
        running = self._look
        if running is not None and not running.done():
            await asyncio.wait((running,))
        if self._look is None or self._look is running:
            self._look = asyncio.ensure_future(self._read())
            self._look.add_done_callback(_retrieved)
        look = self._look
        try:
            await asyncio.shield(look)
        except SofsError as error:
            raise Unavailable(
                f"the table of shares cannot be read: {error}; connect to another address"
            ) from error
        return self.table

    async def _read(self) -> None:
        began = self._clock.monotonic_ms()
        try:
            table = await within(
                self._clock, LOOK_MS_MAX, read_newest(self._fenced, self.table.order), "shares"
            )
        except SofsError as error:
            self.problem = str(error)
            raise
        self._looked_ms, self.problem = began, ""
        self.looks += 1
        if table is not None and table.order > self.table.order:
            first = self.looks == 1
            if not first:  # Else this process comes to know what was there before it.
                self._tell_changes(self.table, table)
            self.table = table
            for tell in list(self._listeners.values()):
                tell(table)

    def _tell_changes(self, older: ShareTable, newer: ShareTable) -> None:
        before = {share.name: share for share in older.shares}
        for share in newer.shares:
            known = before.pop(share.name, None)
            if known is None or known.volume != share.volume:
                self._events.emit(e.SHARE_ADDED, share=share.name, volume=share.volume)
            elif known != share:
                self._events.emit(e.SHARE_CHANGED, share=share.name, volume=share.volume)
        for share in before.values():
            self._events.emit(e.SHARE_REMOVED, share=share.name, volume=share.volume)

    async def seen(self) -> Message:
        """Look, and answer ``LookAtShares``."""
        table = await self.look()
        return SharesSeen(table.epoch, table.version)

    def on_change(self, who: object, tell: Callable[[ShareTable], None]) -> None:
        """Call ``tell`` with each newer table, until ``forget(who)``."""
        self._listeners[who] = tell

    def forget(self, who: object) -> None:
        self._listeners.pop(who, None)

    def start(self, tasks: Tasks) -> bool:
        """Look again and again, as a task of ``tasks``; False when another part does so already."""
        if self._watched:
            return False
        self._watched = True
        tasks.spawn(self._watch(), "shares")
        return True

    async def _watch(self) -> None:
        said = ""
        while True:
            try:
                await self.current()
            except SofsError as error:
                if self.problem != said:
                    log.warning("cannot read the shares: %s", error)
            said = self.problem
            await self._clock.sleep_ms(SHARES_LOOK_MS / 2 if self.problem else SHARES_LOOK_MS)

    async def close(self) -> None:
        """End a look that is under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait((self._look,))

    def facts(self) -> list[str]:
        """For people and tests."""
        known = [f"shares={len(self.table.shares)}"]
        known.append(f"shares_version={self.table.epoch}.{self.table.version}")
        return [*known, f"shares_problem={self.problem}"] if self.problem else known


def _retrieved(look: asyncio.Task[None]) -> None:
    """A look that nobody waits for any more may fail: the next one says so again."""
    if not look.cancelled():
        look.exception()
