"""A whole cluster of simulated processes: the product's own parts, composed as ``actors/compose``
does, and a supervisor that starts again what died, as Ray would.

Nothing of ``sofs.services``, ``sofs.client`` and ``sofs.storage`` above the system calls is
replaced or patched: they get simulated ports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from sofs.core.witness import configured_interfaces
from sofs.errors import SofsError
from sofs.rpc.convert import WireCodec
from sofs.services.authority.env import (
    COORDINATOR,
    RESUME_KEY,
    VOLUME_ROLE,
    AuthorityEnv,
    AuthoritySettings,
)
from sofs.services.authority.schema import SCHEMA
from sofs.services.authority.service import AuthorityPart
from sofs.services.node.life import NodeConfig
from sofs.services.node.part import NodePart
from sofs.services.witness.part import WitnessConfig, WitnessPart
from sofs.sim.disk import ROOT, SimDisk, SimOs
from sofs.sim.loop import SimLoop
from sofs.sim.network import SimNetwork, SimTransport
from sofs.sim.plan import Plan
from sofs.sim.watch import WatchedState
from sofs.sim.world import Machine, SimProcess, World
from sofs.storage import (
    LocalAppendStore,
    LogOptions,
    ProtobufEntries,
    StoreFences,
    StoreRecovery,
    open_fenced,
)

VOLUME: Final = b"v" * 16
SHARE: Final = "share"
NODE_PORT: Final = 7440
WITNESS_PORT: Final = 7441
AUTHORITY_PORT: Final = 7450


@dataclass(eq=False)
class Supervised:
    """A part that is started again whenever its process died."""

    name: str
    role: str
    machine: Machine
    host: str
    process: SimProcess | None = None
    part: Any = None
    lives: int = 0
    wanted: bool = True
    restarting: asyncio.Task[None] | None = field(default=None, repr=False)


class Cluster:
    """The parts, the disk and the network of one run."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.network = world.network = SimNetwork(world)
        self.network.delay_us = plan.delay_us
        self.disk = SimDisk(world.draw("disk"))
        self.parts: list[Supervised] = []
        self.twins: list[Supervised] = []
        self.clients: list[SimProcess] = []
        self.failovers = 0  # Claims that superseded a serving part.
        self._rates = world.draw("rates")
        nodes = [f"10.0.0.{n + 1}" for n in range(plan.nodes)]
        machines = [world.machine(f"m{n + 1}") for n in range(plan.machines)]

        def place(name: str, role: str, n: int) -> None:
            machine = machines[n % len(machines)]
            self.parts.append(Supervised(name, role, machine, nodes[n % len(nodes)]))

        place("coordinator", COORDINATOR, 0)
        place("resume-key", RESUME_KEY, 1)
        for n in range(plan.nodes):
            place(f"node-{n + 1}", "node", n)
        for n in range(plan.witnesses):
            place(f"witness-{n + 1}", "witness", n)
        self.machines = machines
        self.access_point = [f"{host}:{NODE_PORT}" for host in nodes]
        self.witnesses = [f"{host}:{WITNESS_PORT}" for host in nodes[: plan.witnesses]]
        self.client_machine = world.machine("clients")

    @property
    def loop(self) -> SimLoop:
        return self.world.loop

    @property
    def url(self) -> str:
        return f"sofs://{','.join(self.access_point)}/{SHARE}"

    def rate(self) -> float:
        """The rate of a clock."""
        spread = self.plan.clock_spread
        return 1.0 if not spread else self._rates.uniform(1 - spread, 1 + spread)

    # Parts ----------------------------------------------------------------------------------

    def start(self) -> None:
        for part in self.parts:
            self.start_part(part)

    def start_part(self, part: Supervised) -> None:
        """Begin a life of ``part``, if its machine has power."""
        if part.process is not None or not part.wanted or not part.machine.up:
            return
        part.lives += 1
        name = part.name if part.lives == 1 else f"{part.name}'{part.lives}"
        process = self.world.process(name, part.machine, part.host, self.rate())
        part.process = process
        process.on_crash.append(lambda: self._died(part))
        self.world.tell("starts", process)
        process.spawn(self._guarded(process, self._run(part, process)))

    def start_twin(self, part: Supervised) -> None:
        """Start a second process of ``part`` beside the first; it gets another port."""
        twin = Supervised(f"{part.name}-twin", part.role, part.machine, part.host)
        self.twins.append(twin)
        self.start_part(twin)

    async def _guarded(self, process: SimProcess, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SofsError as error:
            process.fatal(error)
        except Exception as error:
            process.fatal(error)
            raise

    def _died(self, part: Supervised) -> None:
        part.process, part.part = None, None
        draw = self.world.draw("restarts")
        delay_us = int(draw.uniform(self.plan.restart_ms[0], self.plan.restart_ms[1]) * 1000)
        self.loop.call_at(
            (self.loop.now_us + delay_us) / 1e6, self.start_part, part, context=self.world.context
        )

    async def _run(self, part: Supervised, process: SimProcess) -> None:
        start = {"node": self._node, "witness": self._witness}.get(part.role, self._authority)
        part.part = await start(part, process)

    def fenced(self, process: SimProcess) -> StoreFences:
        store = LocalAppendStore(ROOT, calls=SimOs(self.disk, process))
        options = LogOptions(
            first_bytes=self.plan.first_bytes, segment_bytes=self.plan.segment_bytes
        )
        return open_fenced(store, process.clock, process.entropy, process.blocking, options)

    async def _node(self, part: Supervised, process: SimProcess) -> NodePart:
        made = NodePart(
            clock=process.clock,
            entropy=process.entropy,
            transport=SimTransport(self.network, process),
            fenced=self.fenced(process),
            config=NodeConfig(
                part.name,
                share=SHARE,
                volume=VOLUME,
                addresses=lambda: self.access_point,
                interfaces=lambda: configured_interfaces(
                    self.access_point, self.witnesses, f"{part.host}:{NODE_PORT}"
                ),
            ),
            on_exit=process.fatal,
        )
        part.part = made
        await made.start(f"{part.host}:{NODE_PORT}")
        return made

    async def _witness(self, part: Supervised, process: SimProcess) -> WitnessPart:
        made = WitnessPart(
            clock=process.clock,
            entropy=process.entropy,
            transport=SimTransport(self.network, process),
            config=WitnessConfig(
                name=part.name,
                address=f"{part.host}:{WITNESS_PORT}",
                nodes=self.access_point,
                witnesses=self.witnesses,
                share=SHARE,
            ),
            on_exit=process.fatal,
        )
        await made.start(f"{part.host}:{WITNESS_PORT}")
        return made

    async def _authority(self, part: Supervised, process: SimProcess) -> AuthorityPart:
        fenced = self.fenced(process)
        entries = ProtobufEntries()
        plan = self.plan
        made = AuthorityPart(
            AuthorityEnv(
                settings=AuthoritySettings(
                    part=part.role,
                    volume=VOLUME,
                    gate_window_ms=plan.gate_window_ms,
                    gate_blackout=plan.gate_blackout,
                    hand_back_after_ms=plan.hand_back_after_ms,
                    checkpoint_every_bytes=plan.checkpoint_bytes,
                    checkpoint_every_entries=plan.checkpoint_entries,
                    checkpoint_alone_bytes=plan.checkpoint_bytes * 2,
                ),
                clock=process.clock,
                entropy=process.entropy,
                fenced=fenced,
                transport=SimTransport(self.network, process),
                recovery=StoreRecovery(fenced, entries, VOLUME_ROLE),
                entries=entries,
                messages=WireCodec(),
                new_database=self._database,
            ),
            process.fatal,
        )
        part.part = made
        await made.start(f"{part.host}:{AUTHORITY_PORT}")
        return made

    def _database(self) -> WatchedState:
        made = WatchedState.create(SCHEMA)
        made.told = self.world.fail
        return made

    # Machines -------------------------------------------------------------------------------

    def power_loss(self, machine: Machine, back_after_us: int) -> None:
        """All processes of ``machine`` die at once, and what was not synced is lost."""
        self.world.tell(f"{machine.name} loses power")
        machine.up = False
        dead = list(machine.processes)
        for process in dead:
            process.crash("power loss", reset=False)
        self.disk.power_loss(machine)

        def back() -> None:
            machine.up = True
            self.world.tell(f"{machine.name} is up again")
            self.network.machine_up(dead)
            for part in [*self.parts, *self.twins]:
                if part.machine is machine:
                    self.start_part(part)

        self.loop.call_at(
            (self.loop.now_us + back_after_us) / 1e6, back, context=self.world.context
        )

    # State ----------------------------------------------------------------------------------

    def acting(self) -> Any:
        """The active authority, if one runs."""
        for part in [*self.parts, *self.twins]:
            made, process = part.part, part.process
            if not isinstance(made, AuthorityPart) or process is None or process.frozen:
                continue
            if made.active is not None:
                return made.active
        return None

    def running(self, role: str = "") -> list[Supervised]:
        return [
            p for p in [*self.parts, *self.twins] if p.process is not None and role in ("", p.role)
        ]

    def client(self, name: str) -> SimProcess:
        """A process for a client on a machine of its own."""
        host = f"10.0.1.{len(self.clients) + 1}"
        process = self.world.process(name, self.client_machine, host, self.rate())
        self.clients.append(process)
        return process


Until = Callable[[], bool]
