"""Before a node is ended on purpose its clients are moved to others.

The witnesses know who uses the node. Each is asked to move those, spread over the nodes that stay,
until none of them names any, but no longer than MOVE_AWAY_MS_MAX: what is left then, and whoever
has no witness, fails over as from a node that died. So a parting spares a pause and decides
nothing; it is a task of its own, and the leader's rounds go on meanwhile. A leader that dies in
between leaves it to its successor, which begins anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Final

from sofs.core.messages import ClientsMoved, MoveClients
from sofs.errors import SofsError
from sofs.ports.runtime import Clock
from sofs.ports.stream import Transport
from sofs.services.leader.ask import ask_part
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.leader")

MOVE_AWAY_MS_MAX: Final = 10_000
PASS_MS: Final = 200  # Between two looks: somebody may have connected meanwhile.


class Partings:
    """Who is being moved away from where."""

    def __init__(self, clock: Clock, transport: Transport, tasks: Tasks) -> None:
        self._clock = clock
        self._transport = transport
        self._tasks = tasks
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self.moved = 0

    def may_end(
        self, name: str, address: str, others: Sequence[str], witnesses: Sequence[str]
    ) -> bool:
        """May the node ``name`` at ``address`` be ended now? Its clients go to ``others``."""
        if not address or not others or not witnesses:
            return True
        task = self._under_way.get(name)
        if task is None:
            log.info("moving the clients of %s away", name)
            work = self._move_away(name, address, list(others), list(witnesses))
            self._under_way[name] = task = self._tasks.spawn(work, f"move-away-{name}")
        return task.done()

    def keep(self, names: Collection[str]) -> None:
        """Forget all but these: they are wanted again, or gone."""
        for name in [name for name in self._under_way if name not in names]:
            self._under_way.pop(name).cancel()

    async def _move_away(
        self, name: str, address: str, others: list[str], witnesses: list[str]
    ) -> None:
        until_ms = self._clock.monotonic_ms() + MOVE_AWAY_MS_MAX
        while (left_ms := until_ms - self._clock.monotonic_ms()) > 0:
            body = MoveClients(leaving=address, destinations=others)
            asked = (self._ask(witness, body, left_ms) for witness in witnesses)
            told = sum(await asyncio.gather(*asked))
            if not told:
                return
            await self._clock.sleep_ms(PASS_MS)
        log.warning("%s is ended with clients that did not move", name)

    async def _ask(self, witness: str, body: MoveClients, limit_ms: int) -> int:
        """How many clients of the witness were not elsewhere already."""
        try:
            reply = await ask_part(
                self._clock, self._transport, witness, body, ClientsMoved, limit_ms
            )
        except SofsError as error:
            log.info("the witness at %s moves nobody: %s", witness, error)
            return 0
        self.moved += reply.moved
        for reason in reply.reasons:
            log.warning("a client does not move: %s", reason)
        return reply.told
