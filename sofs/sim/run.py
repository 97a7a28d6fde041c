"""One run from one seed: a cluster, its clients, its faults; then calm, and judgement.

Two phases. While faults are on, only safety is judged: every operation stands in a history. Then
faults stop, what is down comes back, and everything must converge within stated times: every client
makes progress, the gate opens, a fresh client reads what the history allows.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sofs.client.aio import AsyncShare, connect
from sofs.errors import DiskFull, SofsError
from sofs.ports.events import EventList
from sofs.sim.checkers.violation import Violation
from sofs.sim.cluster import EVENTS_MAX, Cluster
from sofs.sim.faults import Faults
from sofs.sim.history import History
from sofs.sim.judgement import judge_history, judge_state, judge_times
from sofs.sim.loop import BusyLoop, Deadlock, SimLoop, simulate
from sofs.sim.network import SimTransport
from sofs.sim.plan import Plan, draw_plan
from sofs.sim.watch import DamageHandler, Watch
from sofs.sim.workloads import WORKLOADS
from sofs.sim.workloads.base import Actor, Workload, pause
from sofs.sim.world import SimProcess, StoryHandler, World, where

START_MS: Final = 30_000
PROGRESS_MS: Final = 90_000  # After the last fault: every client has done PROGRESS_STEPS by then.
PROGRESS_STEPS: Final = 3
QUIET_MS: Final = 90_000  # Then everybody closes and leaves.
ONLINE_MS: Final = 150_000
LED_MS: Final = 90_000
NEWCOMER_MS: Final = 100
STATE_MS: Final = 150_000  # Then nothing is pending in the tables, and no waste in the store.
PASSES_MS: Final = 11_000  # Two passes of the owner's over dead segments.
DARK_US: Final = 300_000
LOOK_EVERY_S: Final = 0.02
LOOPS_A_PACE: Final = 6  # More client loops than this share what so many would do.
PACED_THINK: Final = 8  # So much longer a client thinks once the run has had its operations.
GARBAGE_ROUNDS_MAX: Final = 100


Gone = weakref.ref[SimLoop]


@dataclass
class Outcome:
    """What became of a run."""

    seed: int
    plan: Plan
    failures: list[str]
    digest: int
    virtual_ms: int
    callbacks: int
    undecided: int
    operations: int
    failovers: int
    faults: dict[str, int] = field(default_factory=dict)
    story: list[tuple[int, str, str]] = field(default_factory=list)
    history: History | None = None

    @property
    def ok(self) -> bool:
        return not self.failures


class Run:
    """The driver of one run. It is no process: nothing stops it."""

    def __init__(self, loop: SimLoop, seed: int, plan: Plan, tracing: bool) -> None:
        self.loop = loop
        self.plan = plan
        self.world = World(loop, seed)
        self.world.tracing = tracing
        self.cluster = Cluster(self.world, plan)
        self.history = History(lambda: loop.now_us)
        self.workloads: list[Workload] = [
            WORKLOADS[name](self.world, plan, self.history) for name in plan.workloads
        ]
        self.faults = Faults(self.cluster, lambda: [a.process for a in self.actors])
        self.watch = Watch(self.cluster)
        self.healed_us = 0
        self.healed: list[str] = []  # Clients that were there when the faults ended.
        self.actors: list[Actor] = []
        loops = sum(plan.lanes if w.concurrent else 1 for w in self.workloads) * plan.clients
        self.think_ms = plan.think_ms * max(1.0, loops / LOOPS_A_PACE)
        self.stopping = False
        self.undecided = 0

    async def main(self) -> None:
        """The whole run. Broken promises are in ``world.failures``."""
        watching = self.loop.create_task(self._watching())
        try:
            await self._main()
        except Broken as error:
            self.world.fail(str(error))
        watching.cancel()
        for workload in self.workloads:
            for text in workload.judge():
                self.world.fail(text)
        self._judge(judge_history(self.history, self.workloads))
        if self.healed_us:
            self._judge(
                judge_times(
                    self.history, self.watch, self.plan,
                    self.healed, self.healed_us, self.loop.now_us,
                )
            )  # fmt: skip

    def _judge(self, violations: Iterable[Violation]) -> None:
        for violation in violations:
            if violation.decided:
                self.world.fail(violation.story(self.history))
            else:
                self.undecided += 1

    async def _watching(self) -> None:
        while True:
            self.watch.look()
            await asyncio.sleep(LOOK_EVERY_S)  # noqa: TID251

    async def _main(self) -> None:
        self.world.tell(f"plan: {self.plan}")
        self.cluster.start()
        await self._as_client("setup", self._setup, START_MS)
        clients = [self._start_client(f"c{n + 1}") for n in range(self.plan.clients)]
        await self.faults.run()
        if self.world.failures:
            return
        self.healed_us = self.loop.now_us
        self.healed = [actor.name for actor in self.actors if not actor.process.dead]
        await self._until(
            "every client makes progress once there are no more faults",
            lambda: (
                all(
                    actor.process.dead or actor.healed_steps >= PROGRESS_STEPS
                    for actor in self.actors
                )
                and len(self.actors) >= self.plan.clients
            ),
            PROGRESS_MS,
        )
        self.stopping = True
        await self._until(
            "every client ends once it may",
            lambda: (
                all(process.dead for process in clients)
                and all(actor.process.dead for actor in self.actors)
            ),
            QUIET_MS,
        )
        await self._as_client("verify", self._verify, QUIET_MS)
        await self._until("the volume is online", self._online, ONLINE_MS)
        await self._until("one leader has all parts running", self.cluster.led, LED_MS)
        if self.plan.dark_end:
            for machine in self.cluster.machines:
                self.cluster.power_loss(machine, DARK_US)
            await self._as_client("verify-again", self._verify, QUIET_MS)
        await self._judge_state()

    async def _judge_state(self) -> None:
        """Judge tables and store, once nobody is expected any more and what is dead is deleted."""
        end_us = self.loop.now_us + STATE_MS * 1000
        while True:
            await self._until("the volume is online and at rest", self._at_rest, ONLINE_MS)
            found = list(judge_state(self.cluster, self.cluster.acting(), self.watch))
            if not found or self.loop.now_us > end_us:
                break
            await asyncio.sleep(PASSES_MS / 1000)  # noqa: TID251
        self._judge(found)

    def _at_rest(self) -> bool:
        active = self.cluster.acting()
        return active is not None and active.resume.online and active.group.clean

    def _online(self) -> bool:
        active = self.cluster.acting()
        return active is not None and active.resume.online

    # Clients --------------------------------------------------------------------------------

    def _start_client(self, name: str, life: int = 1) -> SimProcess:
        full = name if life == 1 else f"{name}'{life}"
        process = self.cluster.client(full)
        process.spawn(self._guarded(process, self._client(process, full)))
        if "kill-client" in self.plan.faults:
            process.on_crash.append(lambda: self._client_died(name, life))
        return process

    def _client_died(self, name: str, life: int) -> None:
        def again() -> None:
            if not self.stopping:
                self._start_client(name, life + 1)

        delay_s = self.world.draw("restarts").uniform(0.05, 1.0)
        self.loop.call_at(self.loop.time() + delay_s, again, context=self.world.context)

    async def _guarded(self, process: SimProcess, work: Any) -> None:
        try:
            await work
        except Exception as error:
            self.world.fail(f"{process.name}: {error!r}{where(error)}")
        process.crash("done", reset=True)

    async def _connect(self, process: SimProcess) -> AsyncShare:
        share = await connect(
            self.cluster.url,
            credential="simulated",
            transport=SimTransport(self.cluster.network, process),
            clock=process.clock,
            entropy=process.entropy,
            witness=self.plan.witnesses > 0,
            connect_timeout_ms=60_000,
        )
        share.core.story.events = EventList(EVENTS_MAX)
        return share

    async def _newcomer(self, process: SimProcess) -> AsyncShare:
        """Connect; a full disk may refuse who comes: its reserve is for those who are there."""
        while True:
            try:
                return await self._connect(process)
            except DiskFull as error:
                if "disk-full" not in self.plan.faults:
                    raise
                self.world.tell(f"cannot come: {error}", process)
            await process.clock.sleep_ms(NEWCOMER_MS)

    async def _client(self, process: SimProcess, name: str) -> None:
        share = await self._newcomer(process)
        actor = Actor(name, process, share, self.world.draw(f"client/{name}"))
        self.actors.append(actor)
        lanes = [
            self._work(actor, workload)
            for workload in self.workloads
            for _ in range(self.plan.lanes if workload.concurrent else 1)
        ]
        await asyncio.gather(*lanes)
        for workload in self.workloads:
            await workload.finish(actor)
        await share.close(timeout_ms=30_000)

    async def _work(self, actor: Actor, workload: Workload) -> None:
        while not self.stopping:
            try:
                if actor.draw.random() < self.plan.moves:
                    actor.share.leave()
                healed = self.healed_us > 0
                await workload.step(actor)
                actor.healed_steps += healed
            except SofsError as error:
                self.world.tell(f"{workload.name}: {error}", actor.process)
            paced = 0 < self.plan.paced_after <= len(self.history.operations)
            await pause(actor, self.think_ms * (PACED_THINK if paced else 1))

    async def _as_client(self, name: str, work: Callable[[Actor], Any], limit_ms: int) -> None:
        process = self.cluster.client(name)
        finished: list[bool] = []

        async def main() -> None:
            share = await self._connect(process)
            await work(Actor(name, process, share, self.world.draw(f"client/{name}")))
            await share.close(timeout_ms=30_000)
            finished.append(True)

        process.spawn(self._guarded(process, main()))
        await self._until(f"{name} ends", lambda: process.dead, limit_ms)
        if not finished:
            raise Broken(f"{name} failed")

    async def _setup(self, actor: Actor) -> None:
        for workload in self.workloads:
            await workload.setup(actor)

    async def _verify(self, actor: Actor) -> None:
        for workload in self.workloads:
            await workload.verify(actor)

    async def _until(self, what: str, condition: Callable[[], bool], limit_ms: int) -> None:
        end_us = self.loop.now_us + limit_ms * 1000
        while not condition():
            if self.world.failures:
                raise Broken(f"while waiting until {what}")
            if self.loop.now_us >= end_us:
                raise Broken(f"not within {limit_ms} ms: {what}")
            await asyncio.sleep(0.02)  # noqa: TID251


class Broken(Exception):
    """A promise does not hold; the run ends here."""


def run_seed(seed: int, *, plan: Plan | None = None, tracing: bool = False) -> Outcome:
    """Run one seed to its end and judge it."""
    plan = plan or draw_plan(seed)
    made: list[Run] = []
    loops: list[SimLoop] = []
    gone: list[Gone] = []

    async def main() -> None:
        run = Run(loops[0], seed, plan, tracing)
        made.append(run)
        await run.main()

    with warnings.catch_warnings(), quiet(made, gone, tracing):
        try:
            simulate(seed, main(), keep_trace=False, prepare=loops.append)
        except (Deadlock, BusyLoop) as error:
            made[0].world.fail(f"{type(error).__name__}: {error}")
        warnings.simplefilter("ignore", RuntimeWarning)  # Coroutines that nobody runs any more.
        gone.append(weakref.ref(loops[0]))
        outcome = _outcome(made.pop(), loops.pop())
    return outcome


def _outcome(run: Run, loop: SimLoop) -> Outcome:
    run.history.now_us = lambda: 0  # What is kept must not keep the loop.
    return Outcome(
        run.world.seed,
        run.plan,
        list(run.world.failures),
        loop.digest,
        loop.now_us // 1000,
        loop.callbacks,
        run.undecided,
        len(run.history.operations),
        sum(part.lives - 1 for part in run.cluster.parts),
        run.faults.injected | {f"move {word}": n for word, n in run.faults.moves.outcomes.items()},
        run.world.told,
        run.history,
    )


@contextmanager
def quiet(made: list[Run], gone: list[Gone], tracing: bool = False) -> Iterator[None]:
    """The product's log goes to the story; what dead processes leave behind is silent; garbage is
    collected between runs only, since collecting runs code."""
    log = logging.getLogger("sofs")
    before = log.level, log.propagate, list(log.handlers)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    collected = gc.isenabled()  # Else the process ends before its garbage counts (``pool``).
    gc.disable()
    gc.freeze()  # What was there before this run is not looked through behind it.
    log.handlers = [DamageHandler(lambda: _undamaged(made))]
    log.setLevel(logging.ERROR)
    if tracing:
        log.handlers.append(_Lazy(made))
        log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.setLevel(before[0])
        log.propagate, log.handlers = before[1], before[2]
        if collected:
            gc.enable()
            for _ in range(GARBAGE_ROUNDS_MAX):  # What is finalized leaves garbage in its turn.
                if not gc.collect() or (gone and all(loop() is None for loop in gone)):
                    break
        gc.unfreeze()
        sys.unraisablehook = hook


def _undamaged(made: list[Run]) -> World | None:
    """The world of a run in which no synced byte ever changes."""
    if not made or any(fault.startswith("damage") for fault in made[0].plan.faults):
        return None
    return made[0].world


class _Lazy(logging.Handler):
    """Writes to the story of the run that is made later."""

    def __init__(self, made: list[Run]) -> None:
        super().__init__(logging.INFO)
        self._made = made
        self._inner: StoryHandler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._inner is None and self._made:
            self._inner = StoryHandler(self._made[0].world)
        if self._inner is not None:
            self._inner.emit(record)
