"""Clients that have nothing here any more: their rows are dropped, after a long time.

A client's row is what makes a late copy of its operation EXPIRED instead of new. So it is kept for
CLIENT_KEEP_MS after its last handle and its last operation, and for ENDED_CLIENT_KEEP_MS after its
goodbye. Time starts anew at a take-over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from sofs.constants import CLIENT_KEEP_MS
from sofs.core import messages as m
from sofs.ports.runtime import Clock
from sofs.services.authority.state import AuthorityState

FORGET_EVERY_MS: Final = 60_000
ENDED_CLIENT_KEEP_MS: Final = 600_000  # Far beyond any retry of a node's link.


class IdleClients:
    """One life's memory of who was here when. ``run`` runs rules in a transaction of their own."""

    def __init__(
        self,
        clock: Clock,
        state: AuthorityState,
        run: Callable[[Callable[[], m.Message]], Awaitable[m.Message]],
    ) -> None:
        self._clock = clock
        self._state = state
        self._run = run
        self.last_seen: dict[bytes, int] = {}  # Client -> monotonic ms of its last operation.

    def seen(self, client: bytes) -> None:
        """A client asks for something."""
        self.last_seen[client] = self._clock.monotonic_ms()

    async def forget(self) -> None:
        """Drop the rows of clients that had no handle and no operation for so long."""
        idle_since: dict[bytes, int] = {}
        while True:
            await self._clock.sleep_ms(FORGET_EVERY_MS)
            now = self._clock.monotonic_ms()
            idle = self._state.clients_without_handles()
            idle_since = {client: idle_since.get(client, now) for client in idle}
            self.last_seen = {c: at for c, at in self.last_seen.items() if c in idle_since}
            ended = dict.fromkeys(self._state.ended_clients())
            due = [
                client
                for client, since in idle_since.items()
                if now - max(since, self.last_seen.get(client, 0))
                >= (ENDED_CLIENT_KEEP_MS if client in ended else CLIENT_KEEP_MS)
            ]
            for client in due:
                self.last_seen.pop(client, None)
                await self._run(lambda client=client: self._forget(client))  # type: ignore[misc]

    def _forget(self, client: bytes) -> m.Message:
        self._state.forget_client(client)
        return m.Done()
