"""The stream that a client uses, why it ends, and a flag to wait for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sofs.client.dialing import node_of
from sofs.errors import SofsError
from sofs.ports.runtime import Clock
from sofs.services.channel import Channel


@dataclass(slots=True)
class SessionEnd:
    """Why a session is to end. ``prefer``: an address to try first."""

    reason: str
    error: SofsError
    detect_ms: int = 0
    prefer: str = ""
    trace: bytes = b""  # Of the notice that says so.
    planned: bool = False  # A move: the old node is well, and a way back.
    drain_ms: int = 0


class Session:
    """A stream in use, with its handles reclaimed."""

    __slots__ = ("address", "channel", "node", "number", "over")

    def __init__(self, channel: Channel, number: int) -> None:
        self.channel = channel
        self.address = channel.peer
        self.node = node_of(channel)
        self.number = number
        self.over: asyncio.Future[SessionEnd] = asyncio.get_running_loop().create_future()
        channel.ended.add_done_callback(self._stream_ended)

    def end(self, end: SessionEnd) -> None:
        """Ask the keeper for another session; only the first reason counts."""
        if not self.over.done():
            self.over.set_result(end)

    def _stream_ended(self, ended: asyncio.Future[SofsError]) -> None:
        self.end(SessionEnd("stream ended", ended.result()))


class Signal:
    """A flag that a task waits for, with a limit."""

    def __init__(self) -> None:
        self._raised = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._raised = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, clock: Clock, limit_ms: float | None = None) -> None:
        """Return when it was set, or after ``limit_ms``; then it is clear."""
        if not self._raised:
            self._waiter = asyncio.get_running_loop().create_future()
            if limit_ms is None:
                await self._waiter
            else:
                timer = asyncio.ensure_future(clock.sleep_ms(limit_ms))
                try:
                    await asyncio.wait((self._waiter, timer), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    timer.cancel()
        self._raised = False
        self._waiter = None
