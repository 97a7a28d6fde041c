"""A cluster root with leaders on it, and a platform and a network that the tests hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from sofs.errors import SofsError, Unavailable
from sofs.ports.log import FencedStore
from sofs.ports.platform import Machine, PartFacts, PartOrder
from sofs.ports.trace import NO_RECORDER, Recorder
from sofs.services.leader.part import LeaderPart
from sofs.services.leader.reign import LeaderEnv, LeaderSettings
from sofs.services.leader.run import LEADER_ROLE
from sofs.services.leader.state import SCHEMA
from sofs.sim.local_transport import LocalHub
from sofs.storage import (
    ApswState,
    LogOptions,
    ProtobufEntries,
    StoreRecovery,
    SystemClock,
    SystemEntropy,
    ThreadBlocking,
    attach,
    open_fenced,
)

RUN_A, RUN_B = b"a" * 16, b"b" * 16
M1, M2, M3, M4 = (Machine(f"ray-{i}", f"machine-{i}") for i in range(1, 5))
SMALL = LogOptions(first_bytes=64 * 1024, segment_bytes=64 * 1024)
ALL = {f"{role}-{slot}" for role in ("node", "witness") for slot in (1, 2, 3)} | {
    "coordinator",
    "resume-key",
}


class FakePlatform:
    """Machines and parts as sets; ``broken`` is what asking raises."""

    def __init__(self, *machines: Machine) -> None:
        self.alive = list(machines)
        self.running: dict[str, PartOrder] = {}
        self.created: list[str] = []
        self.removed: list[str] = []
        self.broken: SofsError | None = None
        self.deaf = False
        self.addresses: dict[str, str] = {}
        self.before_create: Callable[[PartOrder], Awaitable[None]] | None = None

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def machines(self) -> list[Machine]:
        self._check()
        return sorted(self.alive, key=lambda machine: machine.name)

    async def parts(self) -> list[str]:
        self._check()
        return sorted(self.running)

    async def create(self, order: PartOrder) -> None:
        self._check()
        if self.before_create is not None:
            await self.before_create(order)
        self.created.append(order.name)
        if not self.deaf:
            self.running.setdefault(order.name, order)

    async def remove(self, name: str) -> None:
        self._check()
        self.removed.append(name)
        self.running.pop(name, None)

    async def describe(self, name: str) -> PartFacts:
        if name not in self.running:
            raise Unavailable("no such part")
        self._check()
        address = self.addresses.get(name, "")
        return PartFacts(4711, address, "serving", [], self.running[name].machine)

    def drain(self, machine: Machine) -> None:
        self.alive = [replace(m, draining=m.id == machine.id or m.draining) for m in self.alive]

    def homes(self) -> dict[str, str]:
        """Part -> machine."""
        return {name: order.machine for name, order in self.running.items()}

    def lose(self, machine: Machine) -> None:
        self.alive = [m for m in self.alive if m.id != machine.id]
        for name, order in list(self.running.items()):
            if order.machine == machine.id:
                del self.running[name]


class World:
    """A root, a network, and the leaders that live on them."""

    def __init__(self, root: Path) -> None:
        self.hub = LocalHub()
        self.blocking = ThreadBlocking()
        self.clock = SystemClock()
        self.entropy = SystemEntropy()
        self.store = attach(str(root))
        self.fenced = self.fenced_with(NO_RECORDER)
        self.leaders: list[LeaderPart] = []
        self.fatal: list[BaseException] = []
        self.over: list[str] = []

    def fenced_with(self, recorder: Recorder) -> FencedStore:
        options = replace(SMALL, recorder=recorder)
        return open_fenced(self.store, self.clock, self.entropy, self.blocking, options)

    async def leader(
        self,
        platform: FakePlatform,
        run: bytes = RUN_A,
        *,
        fenced: FencedStore | None = None,
        recorder: Recorder = NO_RECORDER,
        **settings: object,
    ) -> LeaderPart:
        entries = ProtobufEntries()
        if fenced is None:
            fenced = self.fenced_with(recorder)
        part = LeaderPart(
            LeaderEnv(
                settings=LeaderSettings(run_id=run, **settings),  # type: ignore[arg-type]
                clock=self.clock,
                entropy=self.entropy,
                fenced=fenced,
                recovery=StoreRecovery(fenced, entries, LEADER_ROLE),
                entries=entries,
                new_database=lambda: ApswState.create(SCHEMA),
                platform=platform,
                recorder=recorder,
            ),
            self.hub.transport(),
            name="leader",
            on_fatal=self.fatal.append,
            on_over=self.over.append,
        )
        self.leaders.append(part)
        await part.start("127.0.0.1:0")
        return part


@asynccontextmanager
async def world(root: Path) -> AsyncIterator[World]:
    made = World(root)
    try:
        yield made
        assert not made.fatal
        assert not made.hub.crashes
    finally:
        for leader in made.leaders:
            await leader.close()
        made.blocking.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (there is nothing else to wait on)
            await asyncio.sleep(0.005)
