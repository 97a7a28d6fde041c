"""A whole cluster of simulated processes: the product's own parts, composed as ``actors/compose``
does, and a supervisor that starts again what died, as Ray would.

Nothing of ``sofs.services``, ``sofs.client`` and ``sofs.storage`` above the system calls is
replaced or patched: they get simulated ports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, cast

from sofs.core.witness import configured_interfaces
from sofs.errors import BackendRefused, SofsError, invariant
from sofs.ports.events import EventList
from sofs.ports.platform import Platform
from sofs.ports.store import AppendStore, Store
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
from sofs.services.leader.part import LeaderPart
from sofs.services.leader.reign import LeaderEnv, LeaderSettings
from sofs.services.leader.run import LEADER_ROLE
from sofs.services.leader.state import SCHEMA as LEADER_SCHEMA
from sofs.services.node.life import NodeConfig
from sofs.services.node.part import NodePart
from sofs.services.pair import PairProbe
from sofs.services.witness.part import WitnessConfig, WitnessPart
from sofs.sim.disk import CLUSTER_ROOT, ROOT, SimDisk, SimOs
from sofs.sim.loop import SimLoop
from sofs.sim.network import SimNetwork, SimTransport
from sofs.sim.objects import SimObjects, SimSlotStore
from sofs.sim.plan import Plan
from sofs.sim.platform import SimPlatform
from sofs.sim.watch import WatchedState
from sofs.sim.world import Machine, SimProcess, World
from sofs.storage import (
    ApswState,
    LocalAppendStore,
    LogOptions,
    ProtobufEntries,
    StoreFences,
    StoreRecovery,
    open_fenced,
)
from sofs.storage.probe import probe_append, run_probe
from sofs.storage.shared_root import LocalSharedRoot

VOLUME: Final = b"v" * 16
SHARE: Final = "share"
EVENTS_MAX: Final = 64  # Kept by each part; what counts is that each has its fields.
NODE_PORT: Final = 7440
WITNESS_PORT: Final = 7441
AUTHORITY_PORT: Final = 7450
LEADER_PORT: Final = 7460
LEADER_HOST: Final = "10.0.2.1"
ADMIN_HOST: Final = "10.0.2.2"
RUN: Final = b"r" * 16


class WatchedPair(PairProbe):
    """The probe of one process; tells of every refusal."""

    def __init__(self, *arguments: Any) -> None:
        *rest, self._tell = arguments
        super().__init__(*rest)

    def refuse(self, error: BackendRefused) -> None:
        super().refuse(error)
        self._tell(f"{self.part}: {error}")


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
        self.objects = SimObjects(world, plan.store_us, plan.list_lag_us)
        self.objects.traps = self.disk.traps
        if plan.interleave:
            world.interleave()
        world.brief = plan.brief
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

        self.platform = SimPlatform(self, nodes, machines) if plan.leader else None
        if self.platform is not None:
            self.disk.make_cluster_root()
            self.parts.append(Supervised("leader", LEADER_ROLE, machines[-1], LEADER_HOST))
        else:
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

    # What the platform does for the leader ----------------------------------------------------

    def make_part(self, name: str, role: str, machine: Machine, host: str) -> None:
        """Make a part that the leader ordered, and restart it from now on."""
        part = Supervised(name, role, machine, host)
        self.parts.append(part)
        self.start_part(part)

    def abandon_part(self, name: str) -> None:
        """The platform lost sight of a part: nobody restarts it, and what runs of it runs on."""
        part = self._taken(name)
        if part is not None:
            part.wanted = False
            self.twins.append(part)

    def end_part(self, name: str) -> None:
        """End a part for good."""
        part = self._taken(name)
        if part is not None:
            part.wanted = False
            if part.process is not None:
                part.process.crash("the leader removes it")

    def _taken(self, name: str) -> Supervised | None:
        found = next((part for part in self.parts if part.name == name), None)
        if found is not None:
            self.parts.remove(found)
        return found

    def led(self) -> bool:
        """Whether one leader leads and all that it wants runs; True without a leader."""
        if self.platform is None:
            return True
        reigns = [p.part.reign for p in self.running(LEADER_ROLE) if p.part is not None]
        reigns = [reign for reign in reigns if reign is not None]
        wanted = sorted(p.name for reign in reigns for p in reign.state.parts())
        running = sorted(p.name for p in self.parts if p.process is not None)
        return (
            len(reigns) == 1
            and reigns[0].rounds > 0
            and wanted == self.platform.names()
            and all(name in running for name in wanted)
        )

    # Lives ------------------------------------------------------------------------------------

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
        if self.plan.probe and part.role != "witness":
            await self._probe(process)
        start = {
            "node": self._node,
            "witness": self._witness,
            LEADER_ROLE: self._leader,
        }.get(part.role, self._authority)
        part.part = await start(part, process)

    def fenced(self, process: SimProcess, root: str = ROOT) -> StoreFences:
        options = LogOptions(
            first_bytes=self.plan.first_bytes, segment_bytes=self.plan.segment_bytes
        )
        store = self.store(process, root)
        return open_fenced(store, process.clock, process.entropy, process.blocking, options)

    def store(self, process: SimProcess, root: str) -> Store:
        """The driver of one process for a root."""
        if self.plan.backend == "slots":
            return SimSlotStore(self.objects, process, root)
        return LocalAppendStore(root, calls=SimOs(self.disk, process))

    async def _probe(self, process: SimProcess) -> None:
        """What ``attach`` does before a part serves a root: a good backend is never refused."""
        store = self.store(process, ROOT)
        chance, together = process.entropy.token, process.blocking.together

        def probe() -> None:
            run_probe(store, chance=chance, together=together)
            if store.kind == "append":
                probe_append(cast("AppendStore", store), chance=chance)

        try:
            await process.blocking.run("", probe)
        except BackendRefused as error:
            self.world.fail(f"{process.name}: {error}")

    def _pair(self, part: Supervised, process: SimProcess) -> PairProbe | None:
        """The two-party probe of one process, where the plan has it and the backend needs it."""
        store = self.store(process, ROOT)
        if not self.plan.pair or not isinstance(store, LocalAppendStore):
            return None
        root = LocalSharedRoot(store, process.blocking)
        return WatchedPair(process.clock, process.entropy, root, VOLUME, part.name, self.refused)

    def refused(self, what: str) -> None:
        """The two-party probe refused a part: on one disk that every part shares it never may."""
        self.world.fail(what)

    async def _leader(self, part: Supervised, process: SimProcess) -> LeaderPart:
        invariant(self.platform is not None, "a leader has a platform")
        fenced = self.fenced(process, CLUSTER_ROOT)
        entries = ProtobufEntries()
        made = LeaderPart(
            LeaderEnv(
                settings=LeaderSettings(
                    run_id=RUN,
                    wanted_nodes=self.plan.nodes,
                    node_port=NODE_PORT,
                    witness_port=WITNESS_PORT,
                    host_of=lambda slot: f"10.0.0.{slot}",
                ),
                clock=process.clock,
                entropy=process.entropy,
                fenced=fenced,
                recovery=StoreRecovery(fenced, entries, LEADER_ROLE),
                entries=entries,
                new_database=lambda: ApswState.create(LEADER_SCHEMA),
                platform=cast("Platform", self.platform),
            ),
            SimTransport(self.network, process),
            name=part.name,
            on_fatal=process.fatal,
            on_over=lambda reason: self.world.fail(f"the only run is over: {reason}"),
        )
        part.part = made
        await made.start(f"{part.host}:{LEADER_PORT}")
        return made

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
            pair=self._pair(part, process),
            events=EventList(EVENTS_MAX),
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
            events=EventList(EVENTS_MAX),
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
                pair=self._pair(part, process),
                peers=lambda: self.access_point,
                events=EventList(EVENTS_MAX),
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
        if self.platform is not None:
            self.platform.machine_lost(machine)

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

    def admin(self, name: str) -> SimProcess:
        """A process for an administrator, who is no client."""
        return self.world.process(name, self.client_machine, ADMIN_HOST, 1.0)

    def client(self, name: str) -> SimProcess:
        """A process for a client on a machine of its own."""
        host = f"10.0.1.{len(self.clients) + 1}"
        process = self.world.process(name, self.client_machine, host, self.rate())
        self.clients.append(process)
        return process


Until = Callable[[], bool]
