"""Administrators who move clients between nodes, as `sofs witness move` does, in bad moments.

Each is a process of its own that asks all witnesses who is registered, picks a client and a node,
and asks for the move; nothing is done to the client directly. Of some moves another one crosses the
way; in others the node that is left, the destination, the client's witness or nobody dies or
freezes a few milliseconds later. What an administrator is told may be a refusal; it must come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sofs.errors import SofsError
from sofs.services.witness.ask import move_client, survey
from sofs.sim.network import SimTransport
from sofs.sim.world import SimProcess

if TYPE_CHECKING:
    from sofs.sim.cluster import Cluster

PLAIN: Final = "move-client"
CROSSING: Final = "move-crossing"
DEADLY: Final = "move-deadly"
KINDS: Final = (PLAIN, CROSSING, DEADLY)


class Moves:
    """See the module. ``freeze``: what freezes a process for a while. ``outcomes``: how many moves
    were "moved", "there" already, or "refused"."""

    def __init__(self, cluster: Cluster, freeze: Callable[[SimProcess], None]) -> None:
        self._cluster = cluster
        self._freeze = freeze
        self._draw = cluster.world.draw("faults/moves")
        self.outcomes: Counter[str] = Counter()
        self.asked = 0

    def begin(self, kind: str) -> None:
        """Have an administrator move some client to some node."""
        if not self._cluster.witnesses:
            return
        self.asked += 1
        process = self._cluster.admin(f"admin-{self.asked}")
        process.spawn(self._guarded(process, kind))

    async def _guarded(self, process: SimProcess, kind: str) -> None:
        try:
            await self._work(process, kind)
        except Exception as error:
            self._cluster.world.fail(f"{process.name}: {error!r}")
        process.crash("done", reset=True)

    async def _work(self, process: SimProcess, kind: str) -> None:
        cluster, draw = self._cluster, self._draw
        transport = SimTransport(cluster.network, process)
        witnesses = {f"witness-{i}": at for i, at in enumerate(cluster.witnesses, 1)}
        seen = await survey(process.clock, transport, witnesses)
        clients = sorted((c.client_name, c.address) for w in seen.lists for c in w.clients)
        if not clients:
            return
        client, at = draw.choice(clients)
        others = [address for address in cluster.access_point if address != at]
        if not others:
            return
        destinations = [draw.choice(others)]
        if kind == CROSSING:
            destinations.append(draw.choice([at, *others]))
        elif kind == DEADLY:
            self._strike_soon(draw.choice((at, destinations[0], destinations[0])))
        for destination in destinations:
            process.spawn(self._move(process, transport, witnesses, client, destination))
            await process.clock.sleep_ms(draw.choice((0, 1, 5, 20)))
        await process.clock.sleep_ms(20_000)  # Longer than a move may take to be answered.

    async def _move(
        self,
        process: SimProcess,
        transport: SimTransport,
        witnesses: dict[str, str],
        client: str,
        destination: str,
    ) -> None:
        world = self._cluster.world
        try:
            moved = await move_client(process.clock, transport, witnesses, client, destination)
        except SofsError as error:
            self.outcomes["refused"] += 1
            world.tell(f"{client[:8]} does not move to {destination}: {error}", process)
        except Exception as error:
            world.fail(f"{process.name}: {error!r}")
        else:
            self.outcomes["moved" if moved else "there"] += 1
            world.tell(f"{client[:8]} moved to {destination}", process)

    def _strike_soon(self, address: str) -> None:
        """Kill or freeze the node at ``address``, or the witness beside it, in a moment."""
        draw, loop = self._draw, self._cluster.loop
        host = address.rpartition(":")[0]
        role = draw.choice(("node", "node", "node", "witness"))
        kill = draw.random() < 0.7

        def strike() -> None:
            for part in self._cluster.running(role):
                if part.host == host and part.process is not None:
                    if kill:
                        part.process.crash("killed during a move")
                    else:
                        self._freeze(part.process)

        delay_ms = draw.expovariate(1 / draw.choice((2, 10, 50)))
        loop.call_at(loop.time() + delay_ms / 1000, strike, context=self._cluster.world.context)
