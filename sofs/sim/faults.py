"""Injects the faults of a plan, and takes them all back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sofs.services.authority.env import COORDINATOR, RESUME_KEY
from sofs.services.leader.run import LEADER_ROLE
from sofs.services.node.life import node_role
from sofs.sim.cluster import Cluster
from sofs.sim.damage import RECORD_WORKLOADS, Damager
from sofs.sim.disk import DiskFaults
from sofs.sim.moves import CROSSING, DEADLY, PLAIN, Moves
from sofs.sim.objects import StoreFaults
from sofs.sim.traps import Trap, drawn
from sofs.sim.world import Machine, SimProcess

TWINS_MAX = 3
LOGS = "/logs/"
# So busy a run has seen what its plan brings about: other seeds show more for the same time.
CALLBACKS_MAX = 80_000
DYING_EVERY_MS, DYING_TRIES = 2.0, 500
CALLS_MAX = 60  # A process that is to die at a system call does so within so many.


class Faults:
    """One source of trouble for one run."""

    def __init__(self, cluster: Cluster, clients: Callable[[], list[SimProcess]]) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.plan = cluster.plan
        self._clients = clients
        self._draw = cluster.world.draw("faults")
        self._steps = cluster.world.draw("faults/steps")
        self._frozen: list[SimProcess] = []
        self._calm = False
        self.injected: dict[str, int] = {}
        slots = self.plan.backend == "slots"
        self.moves = Moves(cluster, self._freeze)
        self._damager = Damager(self.world, cluster.objects if slots else cluster.disk)

    async def run(self) -> None:
        """Inject until the plan's time is over, or the run has had its share; then ``calm``."""
        end_us = self.world.loop.now_us + int(self.plan.fault_ms * 1000)
        self.world.slow_steps = self.plan.slow_steps
        while True:
            await _sleep_ms(self._draw.expovariate(1 / self.plan.fault_every_ms))
            loop = self.world.loop
            if loop.now_us >= end_us or loop.callbacks >= CALLBACKS_MAX:
                break
            kind = self._draw.choice(self.plan.faults)
            self.injected[kind] = self.injected.get(kind, 0) + 1
            _INJECT[kind](self)
        self.calm()

    def calm(self) -> None:
        """Everything is well from now on; what is down comes back."""
        self.world.tell("-- no more faults --")
        self._calm = True
        self.world.slow_steps = 0.0
        self.cluster.disk.faults = DiskFaults()
        self.cluster.objects.faults = StoreFaults()
        self.cluster.objects.stalled_until_us = 0
        self.cluster.disk.traps.clear()
        self.cluster.network.spikes = 0.0
        self.cluster.network.slow.clear()
        self.cluster.network.heal()
        self.cluster.network.lag.clear()
        self._damager.restore()
        if self.cluster.platform is not None:
            self.cluster.platform.show()
        for machine in self.world.machines:
            machine.stalled_until_us, machine.slowness = 0, 1.0
        for process in self._frozen:
            process.thaw()
        self._frozen.clear()
        for part in self.cluster.twins:
            part.wanted = False
            if part.process is not None:
                part.process.crash("the supervisor ends the second copy")

    def _later(self, mean_ms: float, what: Callable[[], None]) -> None:
        """Take a fault back after a while."""
        delay_ms = min(self._draw.expovariate(1 / mean_ms), 6 * mean_ms)
        self._after(delay_ms, what)

    def _pick(self, *roles: str) -> SimProcess | None:
        running = [p for role in roles for p in self.cluster.running(role)]
        return self._draw.choice(running).process if running else None

    # Processes ------------------------------------------------------------------------------

    def kill(self, *roles: str) -> None:
        process = self._pick(*roles)
        if process is not None:
            process.crash("killed")

    def kill_client(self) -> None:
        clients = [c for c in self._clients() if not c.dead]
        if clients:
            self._draw.choice(clients).crash("killed")

    def at_call(self, *, kill: bool) -> None:
        """Something happens to a process at one of its next system calls."""
        process = self._pick("node", COORDINATOR, RESUME_KEY)
        if process is not None and not process.fuse:
            process.fuse = self._draw.randrange(1, 2 * CALLS_MAX)
            found = process

            def action() -> None:
                if kill:
                    found.crash("killed at a system call")
                else:
                    self._freeze(found)

            process.fuse_action = action

    def twin(self) -> None:
        """A second process of a part is started while the first one lives, as a supervisor may do
        that lost sight of it."""
        running = [p for p in self.cluster.parts if p.process is not None]
        if running and len(self.cluster.twins) < TWINS_MAX:
            self.cluster.start_twin(self._draw.choice(running))

    def freeze(self, *roles: str) -> None:
        process = self._pick(*roles)
        if process is not None:
            self._freeze(process)

    def freeze_client(self) -> None:
        clients = [c for c in self._clients() if not c.dead]
        if clients:
            self._freeze(self._draw.choice(clients))

    def _freeze(self, process: SimProcess) -> None:
        if process.frozen or process.dead:
            return
        process.freeze()
        self._frozen.append(process)
        self._later(self._draw.choice((50, 500, 2_000, 8_000)), process.thaw)

    def stutter(self) -> None:
        """A process gets little of its processor: it stops and goes on, many times."""
        process = self._pick("node", COORDINATOR, RESUME_KEY)
        if process is not None:
            self._stutter(process, self._draw.randrange(5, 40))

    def _stutter(self, process: SimProcess, times: int) -> None:
        if process.dead or times == 0 or self._calm:
            process.thaw()
            return
        (process.thaw if process.frozen else process.freeze)()
        self._later(self._draw.choice((1, 10, 60)), lambda: self._stutter(process, times - 1))

    # Leader and platform --------------------------------------------------------------------

    def platform_away(self) -> None:
        platform = self.cluster.platform
        if platform is not None:
            platform.away = True

            def back() -> None:
                platform.away = False

            self._later(self._draw.choice((300, 3_000)), back)

    def machine_hidden(self) -> None:
        platform = self.cluster.platform
        if platform is not None:
            host = platform.hide()
            self.world.tell(f"the platform calls {host or 'nothing'} dead")
            self._later(self._draw.choice((500, 3_000)), platform.show)

    # At a step of a protocol ----------------------------------------------------------------

    def at_step(self, action: Callable[[SimProcess], None], *roles: str) -> None:
        """Something happens to a process at one of its next system calls of a kind."""
        process = self._pick(*roles)
        if process is not None:
            steps = self.plan.steps
            slots = self.plan.backend == "slots"
            trap = drawn(self._steps, process, lambda found, path: action(found), steps, slots)
            traps = self.cluster.disk.traps
            if trap.call == "stat_at" and self._steps.random() < 0.7:
                # The look for a successor that belongs to a write.
                trap.left, then = 1, trap
                trap = Trap(process, "pwritev", LOGS, True, 1, lambda *_: traps.lay(then))
            traps.lay(trap)

    def pause(self, processes: Sequence[SimProcess | None], late_ms: int = 0) -> None:
        """Processes stop for a while, with some of the clients, as those do whose machine is
        moved: nobody among them knows that time has passed."""
        ms = self._steps.choice((700, 2_000))
        late_ms = late_ms or self._steps.choice((1, 20))
        clients = [c for c in self._clients() if self._steps.random() < 0.5]
        loop = self.world.loop
        for process in [*processes, *clients]:
            if process is None or process.dead or process.frozen:
                continue
            process.freeze()
            self._frozen.append(process)
            at = loop.time() + (ms + self._steps.random() * late_ms) / 1000
            loop.call_at(at, process.thaw, context=self.world.context)

    def pause_host(self) -> None:
        """All that runs on a host is paused."""
        chosen = self._pick("node", COORDINATOR, RESUME_KEY)
        if chosen is not None:
            on_it = [p.process for p in self.cluster.running() if p.host == chosen.host]
            self.pause(on_it, 20)

    def seal_race(self) -> None:
        """A process freezes between two of its writes, goes on when another one has synced what it
        found of that log, and freezes again; soon after its machine loses power."""
        victim = self._pick("node", COORDINATOR, RESUME_KEY)
        if victim is None:
            return
        traps, found = self.cluster.disk.traps, victim

        def stop(process: SimProcess, path: str) -> None:
            self._freeze(found)
            role = path.partition("/claims/")[2].partition("/")[0]
            traps.lay(Trap(found, "fsync", f"{LOGS}{role}/", True, 1, go, other=True))

        def go(process: SimProcess, path: str) -> None:
            self.world.tell(f"{process.name} synced {path}, of {found.name}")
            traps.lay(Trap(found, "pwritev", LOGS, True, 1, stop_again))
            found.thaw()

        def stop_again(process: SimProcess, path: str) -> None:
            self._freeze(found)
            self._later(self._steps.choice((20, 100, 400)), lambda: self._dark(found.machine))

        def synced(process: SimProcess, path: str) -> None:
            traps.lay(Trap(found, "stat_at", "/claims/", True, 1, stop))

        count = self._steps.choice((1, 3, 10))
        traps.lay(Trap(found, "fsync", LOGS, True, count, synced))

    def isolate_until_claimed(self, *roles: str) -> None:
        """A server's host is cut off from the others until somebody has claimed what it owns, and
        somewhat longer. Its clients and the store stay with it: it is a zombie as soon as others
        write, and goes on answering until it looks at the store."""
        active = self.cluster.acting()
        running = [part for role in roles for part in self.cluster.running(role)]
        if COORDINATOR in roles:
            running = [p for p in running if active is not None and p.part.active is active]
        running = [p for p in running if p.part is not None]
        if not running or self.cluster.network.cuts:
            return
        part = self._steps.choice(running)
        role = "volume"
        if part.role == "node":
            if part.part.node is None:
                return
            role = node_role(part.part.node.incarnation)
        self._isolate(part.host)
        # Its clients are paused meanwhile: else they soon wait for what only the others can give.
        guests = self._guests(part.host)
        for client in guests:
            client.freeze()
        self._frozen += guests
        heal = self._heal_once()

        def claimed(process: SimProcess, path: str) -> None:
            self.world.tell(f"{process.name} claimed {path}")
            ms = 80 + (self.plan.store_us / 10 if self.plan.backend == "slots" else 0)
            while guests:  # About when others may have written.
                self._after(3 + ms * self._steps.random(), guests.pop().thaw)
            self._after(1_200, heal)

        if part.process is not None:
            call = "create" if self.plan.backend == "slots" else "link"
            trap = Trap(part.process, call, f"/claims/{role}/", True, 1, claimed, other=True)
            self.cluster.disk.traps.lay(trap)

        def over() -> None:
            for client in guests:
                client.thaw()
            heal()

        self._after(4_000, over)

    def _guests(self, host: str) -> list[SimProcess]:
        """Clients that use a node of this host."""
        nodes = [p.part.node for p in self.cluster.running("node") if p.host == host and p.part]
        peers = [s.channel.peer for n in nodes if n is not None for s in n.sessions.values()]
        return [c for c in self._clients() if not c.dead and f"from {c.name}" in peers]

    def _after(self, ms: float, what: Callable[[], None]) -> None:
        loop = self.world.loop
        loop.call_at(loop.time() + ms / 1000, what, context=self.world.context)

    def lost_tail(self) -> None:
        """The disk of the authority stalls, and it dies before that is over: what it heard and did
        meanwhile is nowhere. Those who could ask again at once are paused, some of them."""
        active = self.cluster.acting()
        acting = [p for p in self.cluster.parts if active is not None and p.part is not None]
        acting = [p for p in acting if getattr(p.part, "active", None) is active]
        if not acting or acting[0].process is None:
            return
        victim, ms = acting[0].process, self._steps.choice((40, 150, 400))
        until_us = self.world.loop.now_us + ms * 1000
        self.world.tell(f"the disk stalls for {ms} ms, and {victim.name} does not outlive that")
        victim.machine.stalled_until_us = self.cluster.objects.stalled_until_us = until_us

        def end() -> None:
            if not victim.dead and not self._calm:
                nodes = self.cluster.running("node")
                some = [p.process for p in nodes if self._steps.random() < 0.5]
                self.pause(some[: len(nodes) - 1])
                victim.crash("killed with a stalled disk")

        self._after(ms - 0.001, end)

    def zombie(self) -> None:
        """The authority freezes between two of its writes and goes on as soon as a successor has
        written: what it had to say lands in a log that was sealed."""
        victim = self._pick(COORDINATOR, RESUME_KEY)
        if victim is None:
            return
        traps, found = self.cluster.disk.traps, victim

        def synced(process: SimProcess, path: str) -> None:
            traps.lay(Trap(found, "stat_at", "/claims/", True, 1, stop))

        def stop(process: SimProcess, path: str) -> None:
            found.freeze()
            self._frozen.append(found)
            count = self._steps.choice((1, 2, 5))
            traps.lay(Trap(found, "pwritev", "/logs/volume/", True, count, go, other=True))
            self._later(2_000, found.thaw)

        def go(process: SimProcess, path: str) -> None:
            found.thaw()

        count = self._steps.choice((1, 3, 10))
        traps.lay(Trap(found, "fsync", LOGS, True, count, synced))

    def _dark(self, machine: Machine) -> None:
        if machine.up:
            self.cluster.power_loss(machine, self._steps.randrange(200_000, 2_000_000))

    # Machines and clocks --------------------------------------------------------------------

    def power_loss(self) -> None:
        machine = self._draw.choice(self.cluster.machines)
        if machine.up:
            self.cluster.power_loss(machine, self._draw.randrange(200_000, 3_000_000))

    def power_loss_all(self) -> None:
        for machine in self.cluster.machines:
            if machine.up:
                self.cluster.power_loss(machine, self._draw.randrange(200_000, 3_000_000))

    def wall_jump(self) -> None:
        process = self._pick("node", COORDINATOR, RESUME_KEY)
        if process is not None:
            process.clock.jump(self._draw.randrange(-(10**13), 10**13))

    def drift(self) -> None:
        """The clock of a process goes at another rate from now on."""
        processes = [p.process for p in self.cluster.running() if p.process is not None]
        if processes:
            self._draw.choice(processes).clock.set_rate(self.cluster.rate())

    # Network --------------------------------------------------------------------------------

    def lag_streams(self) -> None:
        """Some streams are slow, others between the same processes are not: what was sent first on
        one arrives last."""
        network, draw = self.cluster.network, self._draw
        lag_us = draw.choice((20_000, 200_000, 1_500_000))
        chosen = [stream for stream in network.streams if draw.random() < 0.3]
        for stream in chosen:
            network.lag[stream] = lag_us
        self._later(draw.choice((200, 1_500)), network.lag.clear)

    def cut(self, *, one_way: bool = False) -> None:
        hosts = sorted(self.world.hosts)
        if len(hosts) < 2:
            return
        network, draw = self.cluster.network, self._draw
        one = draw.choice(hosts)
        others = [h for h in hosts if h != one]
        if draw.random() < 0.5:
            others = [draw.choice(others)]
        self.world.tell(f"cut {'from' if one_way else 'between'} {one} and {' '.join(others)}")
        for other in others:
            network.cut(one, other)
            if not one_way:
                network.cut(other, one)
        self._later(draw.choice((100, 1_000, 3_000)), self._heal)

    def isolate(self) -> None:
        """A server's host is cut from all other servers, and its clients stay with it: it goes on
        as a zombie as long as it does not look at the store."""
        self._isolate(self._draw.choice(sorted({part.host for part in self.cluster.parts})))
        self._later(self._draw.choice((1_000, 3_000)), self._heal)

    def _isolate(self, one: str) -> None:
        self.world.tell(f"{one} is cut off from the other servers")
        for other in sorted({part.host for part in self.cluster.parts}):
            if other != one:
                self.cluster.network.cut(one, other)
                self.cluster.network.cut(other, one)

    def _heal_once(self) -> Callable[[], None]:
        """Heals the cuts that are there now, and no later ones."""
        cuts = self.cluster.network.cuts

        def heal() -> None:
            if self.cluster.network.cuts is cuts:
                self._heal()

        return heal

    def _heal(self) -> None:
        if self.cluster.network.cuts:
            self.world.tell("the network heals")
            self.cluster.network.heal()

    def spikes(self) -> None:
        network = self.cluster.network
        network.spikes = self._draw.choice((0.01, 0.1))

        def over() -> None:
            network.spikes = 0.0

        self._later(1_000, over)

    def slow_host(self) -> None:
        host = self._draw.choice(sorted(self.world.hosts))
        slow = self.cluster.network.slow
        slow[host] = self._draw.choice((5.0, 50.0, 500.0))

        def over() -> None:
            slow.pop(host, None)

        self._later(1_500, over)

    # Disk -----------------------------------------------------------------------------------

    def stall_disk(self) -> None:
        machine = self._draw.choice(self.cluster.machines)
        ms = self._draw.choice((50, 300, 1_500)) * self._draw.random()
        self.world.tell(f"the disk of {machine.name} stalls for {ms:.0f} ms")
        machine.stalled_until_us = self.world.loop.now_us + int(ms * 1000)
        self.cluster.objects.stalled_until_us = machine.stalled_until_us

    def disk_errors(self, kind: str) -> None:
        if self.plan.backend == "slots":
            self.store_errors(kind)
            return
        faults, draw = self.cluster.disk.faults, self._draw
        self.world.tell(f"disk trouble: {kind}")
        if kind == "sync":
            faults.sync_fails = draw.choice((0.02, 0.2))
        elif kind == "full":
            faults.full = True
        else:
            faults.fail_before = draw.choice((0.0, 0.003, 0.03))
            faults.fail_after = draw.choice((0.0, 0.003, 0.03))
            faults.short_write = draw.choice((0.0, 0.01))

        def over() -> None:
            self.cluster.disk.faults = DiskFaults()

        self._later(draw.choice((50, 500)), over)

    def damage(self, kind: str) -> None:
        """Synced bytes change; see ``damage``."""
        if kind == "page":
            active = self.cluster.acting()
            if active is not None:
                self._damager.page(active.state)
        elif kind == "store":
            self._damager.own_object()
        elif kind == "entry":
            self._damager.entry()
        elif all(name in RECORD_WORKLOADS for name in self.plan.workloads):
            self._damager.record()

    def damage_dying(self, tries: int = DYING_TRIES) -> None:
        """Of what nobody else has yet of a node's log one record is damaged, and the node dies of
        the same trouble. There is seldom such a record: the moment is waited for."""
        active = self.cluster.acting()
        role = self._damager.tail(active.state) if active is not None else ""
        for part in self.cluster.running("node") if role else ():
            node = part.part.node if part.part is not None else None
            if node is not None and part.process and node_role(node.incarnation) == role:
                part.process.crash("killed as its log is damaged")
        if not role and tries and not self._calm:
            self._after(DYING_EVERY_MS, lambda: self.damage_dying(tries - 1))

    def store_errors(self, kind: str) -> None:
        """Trouble of the object store, for a while."""
        faults, draw = self.cluster.objects.faults, self._draw
        self.world.tell(f"store trouble: {kind}")
        some = draw.choice((0.02, 0.1, 0.4))
        if kind == "storm":
            faults.refused = draw.choice((0.2, 0.9, 1.0))
        elif kind == "full":
            faults.full = True
        elif kind in ("replies-lost", "sync"):
            faults.reply_lost = some
        elif kind == "late":
            faults.late = some
        elif kind == "slow":
            faults.slow = some
        elif kind == "loses":
            faults.lost = some
        else:
            faults.refused, faults.failed_after = draw.choice((0.0, 0.03)), some

        def over() -> None:
            self.cluster.objects.faults = StoreFaults()

        self._later(draw.choice((100, 1_000, 3_000)), over)


def _kill(process: SimProcess) -> None:
    process.crash("killed at a step")


async def _sleep_ms(ms: float) -> None:
    await asyncio.sleep(ms / 1000)  # noqa: TID251


_INJECT: dict[str, Callable[[Faults], None]] = {
    "kill-node": lambda f: f.kill("node"),
    "kill-authority": lambda f: f.kill(COORDINATOR, RESUME_KEY),
    "kill-witness": lambda f: f.kill("witness"),
    "kill-client": Faults.kill_client,
    "kill-at-call": lambda f: f.at_call(kill=True),
    "freeze-at-call": lambda f: f.at_call(kill=False),
    "twin": Faults.twin,
    "freeze-node": lambda f: f.freeze("node"),
    "freeze-authority": lambda f: f.freeze(COORDINATOR, RESUME_KEY),
    "freeze-client": Faults.freeze_client,
    "cut": Faults.cut,
    "cut-one-way": lambda f: f.cut(one_way=True),
    "isolate": Faults.isolate,
    "power-loss": Faults.power_loss,
    "power-loss-all": Faults.power_loss_all,
    "stall-disk": Faults.stall_disk,
    "spikes": Faults.spikes,
    "slow-host": Faults.slow_host,
    "sync-fails": lambda f: f.disk_errors("sync"),
    "io-fails": lambda f: f.disk_errors("io"),
    "disk-full": lambda f: f.disk_errors("full"),
    "wall-jump": Faults.wall_jump,
    "stutter": Faults.stutter,
    "lag-streams": Faults.lag_streams,
    "drift": Faults.drift,
    "kill-leader": lambda f: f.kill(LEADER_ROLE),
    "freeze-leader": lambda f: f.freeze(LEADER_ROLE),
    "platform-away": Faults.platform_away,
    "machine-hidden": Faults.machine_hidden,
    "damage-page": lambda f: f.damage("page"),
    "damage-record": lambda f: f.damage("record"),
    "damage-dying": Faults.damage_dying,
    "damage-entry": lambda f: f.damage("entry"),
    "damage-store": lambda f: f.damage("store"),
    "store-storm": lambda f: f.store_errors("storm"),
    "store-replies-lost": lambda f: f.store_errors("replies-lost"),
    "store-late": lambda f: f.store_errors("late"),
    "store-slow": lambda f: f.store_errors("slow"),
    "store-loses": lambda f: f.store_errors("loses"),
    "kill-node-at-step": lambda f: f.at_step(_kill, "node"),
    "kill-authority-at-step": lambda f: f.at_step(_kill, COORDINATOR, RESUME_KEY),
    "freeze-node-at-step": lambda f: f.at_step(f._freeze, "node"),
    "freeze-authority-at-step": lambda f: f.at_step(f._freeze, COORDINATOR, RESUME_KEY),
    "power-loss-at-step": lambda f: f.at_step(
        lambda p: f._dark(p.machine), "node", COORDINATOR, RESUME_KEY
    ),
    "pause-host": Faults.pause_host,
    "pause-at-step": lambda f: f.at_step(lambda p: f.pause([p]), "node"),
    "zombie": Faults.zombie,
    "seal-race": Faults.seal_race,
    PLAIN: lambda f: f.moves.begin(PLAIN),
    CROSSING: lambda f: f.moves.begin(CROSSING),
    DEADLY: lambda f: f.moves.begin(DEADLY),
    "isolate-node": lambda f: f.isolate_until_claimed("node"),
    "isolate-authority": lambda f: f.isolate_until_claimed(COORDINATOR, RESUME_KEY),
    "lost-tail": Faults.lost_tail,
}
