"""Planned moves: a client goes to another node although its own is well.

How nothing is lost. A move prepares everything while the old node goes on serving, and only then
becomes an ordinary failover with a short way:

1. A stream to the destination is opened (or the warm one taken), and the authority is asked
   something through it. Whatever fails until here leaves the client as it was.
2. That stream becomes the warm one, so that a failure of the old node from now on leads there, too.
3. Nothing more is sent to the old node; its answers still count. After MOVE_DRAIN_MS_MAX what it
   still owes counts as unanswered.
4. The keeper ends the session, reclaims all handles through the warm stream (the authority has the
   old node let go of them first, which drains them once more), and sends what is unanswered again,
   with the same numbers. That is the path of every failover: a copy that the old node did execute
   is found in the handle's window, one that it holds is fenced by the handle's new generation.

The destination may die at any moment: before 3 the client stays; later the keeper goes back to the
old node, or on to any other, as after a failed reclaim. Moves are made one after the other; each
begins where the one before it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from sofs.client import limits
from sofs.client.dialing import node_of
from sofs.client.using import Session, SessionEnd
from sofs.errors import LimitExceeded, SofsError, Unavailable
from sofs.services.channel import Channel, within

if TYPE_CHECKING:
    from sofs.client.session import ClientCore

log = logging.getLogger("sofs.client")


class Mover:
    """Moves one client; see the module. ``requested``, ``done``, ``failed``: how many so far."""

    def __init__(self, core: ClientCore) -> None:
        self._core = core
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._arrival: asyncio.Future[str] | None = None
        self.requested = 0
        self.done = 0
        self.failed = 0

    async def move(self, address: str, reason: str, trace: bytes = b"") -> None:
        """Go to the node at ``address``; returns when the client is there (at once if it was).

        Raises why it is not there: Unavailable, or LimitExceeded when MOVES_WAITING_MAX wait.
        ``trace``: of the notice that asks for it."""
        origin = self._note_requested(address, reason)
        began_ms = self._core.clock.monotonic_ms()
        try:
            if self._waiting >= limits.MOVES_WAITING_MAX:
                raise LimitExceeded(f"{self._waiting} moves of this client wait already")
            self._waiting += 1
            try:
                async with self._turn:
                    await self._move(address, reason, trace)
            finally:
                self._waiting -= 1
        except SofsError as error:
            self._note_failed(address, error)
            raise
        self._note_done(origin, address, self._core.clock.monotonic_ms() - began_ms)

    def arrived(self, address: str) -> None:
        """The keeper has a session at ``address``."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(address)

    def ended(self, error: SofsError) -> None:
        """There will be no other session."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_exception(error)
            self._arrival.exception()

    # The one place each where a move begins and ends ----------------------------------------------

    def _note_requested(self, address: str, reason: str) -> str:
        """Returns where the client is now."""
        self.requested += 1
        log.info("asked to move to %s: %s", address, reason)
        origin = self._address()
        self._core.story.move_requested(origin, address, reason)
        return origin

    def _note_done(self, origin: str, address: str, took_ms: int) -> None:
        self.done += 1
        log.info("moved to %s", address)
        handles = len(self._core.flight.handles)
        self._core.story.move_done(origin, address, handles, took_ms)

    def _note_failed(self, address: str, error: SofsError) -> None:
        self.failed += 1
        log.warning("not moved to %s: %s", address, error)
        self._core.story.move_failed(address, self._address(), error)

    def _address(self) -> str:
        session = self._core.session
        return "" if session is None else session.address

    # Moving ---------------------------------------------------------------------------------------

    async def _move(self, address: str, reason: str, trace: bytes) -> None:
        session = self._core.session
        if session is None:
            raise Unavailable("the client is between two nodes; ask again")
        if address == session.address:
            return
        channel = await self._prepare(session, address)
        if node_of(channel) == session.node:
            return  # Another address of the node in use.
        where = await self._leave(session, address, reason, trace)
        if where != address:
            raise Unavailable(f"{address} did not take the client over; it is at {where}")

    async def _prepare(self, session: Session, address: str) -> Channel:
        """A stream to the destination through which the authority answers. It is the warm one when
        this returns, and the session is still the one in use."""
        core = self._core
        channel = await core.standby(address)
        try:
            if node_of(channel) != session.node:
                proof = core.prove(channel)
                await within(core.clock, limits.MOVE_PROOF_MS_MAX, proof, f"through {address}")
            if core.session is not session:
                raise Unavailable("the client left its node meanwhile; ask again")
            if not channel.alive:
                raise Unavailable(f"the stream to {address} ended")
        except BaseException:
            await channel.close()  # A warm stream that cannot do this is none.
            raise
        if node_of(channel) == session.node:
            await channel.close()
        else:
            core.keep_standby(channel)
        return channel

    async def _leave(self, session: Session, address: str, reason: str, trace: bytes) -> str:
        """Stop, drain, and let the keeper do the rest; returns where the client is then."""
        core = self._core
        began_ms = core.clock.monotonic_ms()
        arrival = self._arrival = asyncio.get_running_loop().create_future()
        drained = core.flight.pause()
        try:
            with contextlib.suppress(Unavailable):
                await within(core.clock, limits.MOVE_DRAIN_MS_MAX, drained, "the last answers")
        finally:  # Also when nobody waits for this move any more: nothing is sent until then.
            drain_ms = core.clock.monotonic_ms() - began_ms
            why = Unavailable(f"the client is moving: {reason}")
            session.end(SessionEnd(reason, why, 0, address, trace, planned=True, drain_ms=drain_ms))
        try:
            return await within(
                core.clock, limits.MOVE_MS_MAX, asyncio.shield(arrival), "the next session"
            )
        finally:
            self._arrival = None
