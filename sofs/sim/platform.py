"""A simulated platform for the leader: what Ray does for it, and does badly.

It knows machines by ids that are never used again, makes parts on them and restarts what dies while
its machine is alive. Fault model, as ``ports.platform`` says it: it cannot be asked for a while
(what was asked meanwhile may have happened), it answers late, and it calls a machine dead that is
alive: the parts there go on as zombies, and others of the same names are made elsewhere, or there,
once the machine is back under another id.

Each address of a node is one machine here, though several may share one kernel and its page cache.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sofs.errors import Unavailable, invariant
from sofs.ports.platform import Machine, PartFacts, PartOrder

if TYPE_CHECKING:
    from sofs.sim.cluster import Cluster
    from sofs.sim.world import Machine as Kernel

ANSWER_MS: Final = 3.0  # Mean.


@dataclass(eq=False, slots=True)
class _Place:
    """One machine of the platform's: an address on a kernel. ``life`` counts its ids."""

    number: int
    host: str
    kernel: Kernel
    life: int = 1
    seen: bool = True
    parts: dict[str, None] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"ray-{self.number}-{self.life}"


class SimPlatform:
    """See the module. Shared by all leaders of a run."""

    def __init__(self, cluster: Cluster, hosts: list[str], kernels: list[Kernel]) -> None:
        self._cluster = cluster
        self._draw = cluster.world.draw("platform")
        self._places = [
            _Place(n + 1, host, kernels[n % len(kernels)]) for n, host in enumerate(hosts)
        ]
        self.away = False  # It cannot be asked.

    # The port ---------------------------------------------------------------------------------

    async def machines(self) -> list[Machine]:
        """See the port."""
        await self._asked()
        found = [Machine(p.id, f"host-{p.number}") for p in self._places if p.seen and p.kernel.up]
        return sorted(found, key=lambda m: (m.name, m.id))

    async def parts(self) -> list[str]:
        """See the port."""
        await self._asked()
        return sorted(name for place in self._places for name in place.parts)

    async def create(self, order: PartOrder) -> None:
        """See the port; the answer may be lost, and the part is made all the same."""
        lost = await self._asked(changes=True)
        known = any(order.name in place.parts for place in self._places)
        place = next((p for p in self._places if p.id == order.machine), None)
        if not known and place is not None and place.seen and place.kernel.up:
            place.parts[order.name] = None
            host = order.address.rpartition(":")[0]
            host = place.host if host.startswith("127.") else host
            self._cluster.make_part(order.name, order.role, place.kernel, host)
        if lost:
            raise Unavailable("the platform did not answer")

    async def remove(self, name: str) -> None:
        """See the port; the answer may be lost."""
        lost = await self._asked(changes=True)
        for place in self._places:
            if name in place.parts:
                del place.parts[name]
                self._cluster.end_part(name)
        if lost:
            raise Unavailable("the platform did not answer")

    async def describe(self, name: str) -> PartFacts:
        """See the port."""
        await self._asked()
        part = next((p for p in self._cluster.parts if p.name == name), None)
        if part is None or part.process is None or part.process.frozen:
            raise Unavailable(f"{name} does not answer")
        return PartFacts(part.process.number, getattr(part.part, "address", ""), "running")

    async def _asked(self, *, changes: bool = False) -> bool:
        """A round trip; whether the answer is lost behind the effect."""
        await asyncio.sleep(self._draw.expovariate(1 / ANSWER_MS) / 1000)  # noqa: TID251
        if self.away and not (changes and self._draw.random() < 0.3):
            raise Unavailable("the platform cannot be asked now")
        return self.away

    # What happens to it -----------------------------------------------------------------------

    def machine_lost(self, kernel: Kernel) -> None:
        """Its power is gone: its parts are, and it comes back as another."""
        for place in self._places:
            if place.kernel is kernel:
                self._forget(place)

    def hide(self) -> str:
        """Call a machine dead that is alive; returns its host, or "" if none can be."""
        seen = [place for place in self._places if place.seen and place.kernel.up]
        if not seen:
            return ""
        place = self._draw.choice(seen)
        self._forget(place)
        place.seen = False
        return place.host

    def show(self) -> None:
        """All machines that are alive are known, and it answers."""
        self.away = False
        for place in self._places:
            place.seen = True

    def _forget(self, place: _Place) -> None:
        for name in place.parts:
            self._cluster.abandon_part(name)
        place.parts.clear()
        place.life += 1
        invariant(place.life < 1_000, "a machine comes and goes without end")

    def names(self) -> list[str]:
        """Parts that exist, sorted."""
        return sorted(name for place in self._places for name in place.parts)
