"""Simulated machines and processes: what may stop, for a while or for ever, and what it loses.

A ``SimProcess`` is a part of the product or a client, with a clock, chance, blocking calls, system
calls and a transport of its own. Everything that it schedules carries its name (``loop.OWNER``), so
it can be

- *crashed*: none of its callbacks ever runs again, its streams are reset, its memory is gone. What
  it had written stays in the page cache of its machine.
- *frozen* and *thawed*: its callbacks wait. A blocking call that was handed to the system before
  may have its effect while the process is frozen, or long after it thawed.

A ``Machine`` has one page cache and one or more processes; when it loses power, they all crash
without a reset, and what was not synced is lost, or some of it is (``disk``).

Clocks. Each process has its own: an origin, a rate and a wall time that may jump. The products'
guarantees trust none of them, so rates may be far apart.

Blocking calls run as events of their own, with a delay drawn for each step, so that anything may
happen between a write, its sync and its check. A step in flight belongs to the process (it waits
while frozen) or to the system (it lands all the same), as drawn. A process may also have a *fuse*:
it dies or freezes at its n-th system call from now, which may be in the middle of a step. In runs
with ``interleave``, each system call of a step is an event of its own (``baton``); one that the
system has taken over lands though its process died or froze, and none behind it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

from sofs.errors import LimitExceeded, invariant
from sofs.sim.baton import Worker, Workers
from sofs.sim.loop import OWNER, Owner, SimLoop

WALL_START_NS: Final = 1_800_000_000 * 10**9
PENDING_CALLS_MAX: Final = 4096  # As in the product's pool.
STORY_LINES_MAX: Final = 200_000
TOGETHER_LOOK_US: Final = 200
CALLS_TOGETHER: Final = 0.4  # Chance that a system call follows the one before it at once.


class Killed(BaseException):
    """The process is gone: nothing that it still computes has an effect."""


class SimClock:
    """A clock of one process. ``rate``: its seconds in a true second."""

    def __init__(self, loop: SimLoop, rate: float, origin_ms: int) -> None:
        self._loop = loop
        self._rate = rate
        self._origin_ms = origin_ms
        self._jump_ns = 0

    def monotonic_ms(self) -> int:
        return self._origin_ms + int(self._loop.now_us * self._rate / 1000)

    def wall_ns(self) -> int:
        return WALL_START_NS + self._jump_ns + int(self._loop.now_us * self._rate) * 1000

    def set_rate(self, rate: float) -> None:
        """It goes faster or slower from now on; it never jumps by that."""
        now_us = self._loop.now_us
        self._origin_ms += int(now_us * self._rate / 1000) - int(now_us * rate / 1000)
        self._jump_ns += (int(now_us * self._rate) - int(now_us * rate)) * 1000
        self._rate = rate

    def jump(self, by_ns: int) -> None:
        """Somebody sets the wall clock."""
        self._jump_ns += by_ns

    async def sleep_ms(self, duration_ms: float) -> None:
        if duration_ms <= 0:
            await _TURN
        else:
            await asyncio.sleep(duration_ms / 1000 / self._rate)  # noqa: TID251


class _Turn:
    """What ``asyncio.sleep(0)`` awaits: every frame that is sent waits for one."""

    def __await__(self) -> Generator[None, None, None]:
        yield


_TURN: Final = _Turn()


class SimEntropy:
    """Chance of one process, from the seed."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._tokens = random.Random(f"{seed}/tokens")
        self._streams: dict[str, random.Random] = {}

    def token(self, n_bytes: int) -> bytes:
        return self._tokens.randbytes(n_bytes)

    def stream(self, name: str) -> random.Random:
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = random.Random(f"{self._seed}/{name}")
        return found


@dataclass(eq=False, slots=True)
class Machine:
    """One page cache, one kernel. ``number`` orders them; ``up`` is false without power."""

    name: str
    number: int
    up: bool = True
    processes: list[SimProcess] = field(default_factory=list)
    stalled_until_us: int = 0  # The device answers nothing before.
    slowness: float = 1.0


class SimProcess(Owner):
    """See the module. ``address_host``: the address that it has on the network."""

    def __init__(
        self, world: World, name: str, machine: Machine, host: str, number: int, rate: float
    ) -> None:
        super().__init__(number)
        self.world = world
        self.name = name
        self.machine = machine
        self.host = host
        self.clock = SimClock(world.loop, rate, world.draw("clock").randrange(1_000_000))
        self.entropy = SimEntropy(f"{world.seed}/{name}/{number}")
        self.blocking = SimBlocking(self)
        self.exit: BaseException | None = None
        self.ended: asyncio.Future[None] = world.loop.create_future()
        self.on_crash: list[Callable[[], None]] = []
        self.fuse = 0  # Begins and ends of system calls until ``fuse_action``; 0: none.
        self.fuse_action: Callable[[], None] | None = None
        self.ghost = False  # A step that the system took over before the process died runs now.
        self.unplugged = False  # It died with its system: nothing of it is under way.
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "main") -> asyncio.Task[Any]:
        """Run ``work`` in this process."""
        return self.world.loop.create_task(work, name=f"{self.name}/{name}", context=self.context)

    def system_call(self, *, after: bool = False) -> None:
        """Called before and after the effect of every system call. Raises Killed once dead."""
        worker = self.world.working
        if worker is not None and worker.unwinding:
            raise Killed
        if self.dead and (not self.ghost or (after and self.world.workers is not None)):
            raise Killed
        if self.fuse and not self.ghost:
            self.fuse -= 1
            if self.fuse == 0:
                action, self.fuse_action = self.fuse_action, None
                if action is not None:
                    action()
                if self.dead:
                    raise Killed
        if worker is not None:
            self._pause(worker, after)

    def _pause(self, worker: Worker, after: bool) -> None:
        """A worker of ours is at a system call: others go on meanwhile."""
        if not after:
            if worker.fresh:
                worker.fresh = False
                return
            if self.world.draw("calls").random() < CALLS_TOGETHER:
                return
            self.wait(self.world.call_delay_us(self), systems=self.world.call_is_systems())
        elif self.frozen:
            self.wait(0)

    def wait(self, wait_us: int, *, systems: bool = False) -> None:
        """Called on a worker: go on after a while. ``systems``: even if we die or freeze."""
        worker = self.world.working
        if worker is None:
            return
        worker.pause(wait_us, systems)
        if worker.unwinding or (self.dead and not systems):
            raise Killed

    def crash(self, why: str, *, reset: bool = True) -> None:
        """End the process. ``reset``: its kernel lives and tells its peers."""
        if self.dead:
            return
        self.world.tell(f"dies: {why}", self)
        self.dead, self.unplugged = True, not reset
        self.parked.clear()
        self.machine.processes.remove(self)
        self.world.network.process_died(self, reset=reset)
        for callback in self.on_crash:
            callback()
        if not self.ended.done():
            self.ended.set_result(None)

    def freeze(self) -> None:
        if not self.dead and not self.frozen:
            self.world.tell("freezes", self)
            self.frozen = True

    def thaw(self) -> None:
        if not self.dead and self.frozen:
            self.world.tell("thaws", self)
            self.world.loop.thaw(self)

    def fatal(self, error: BaseException) -> None:
        """The product says that only a restart of the process helps (``on_exit``)."""
        if self.dead or self.world.loop.over:
            return
        self.exit = error
        self.world.process_failed(self, error)
        self.crash(f"exits by itself: {error!r}")


@dataclass(eq=False, slots=True)
class _Job:
    steps: tuple[Callable[[], object], ...]
    future: asyncio.Future[list[object]]
    lane: str
    results: list[object] = field(default_factory=list)


def _and_then(work: Callable[[], None], left: list[Callable[[], None]]) -> None:
    try:
        work()
    finally:
        left.pop()


class SimBlocking:
    """The ``Blocking`` port: every step is an event of its own."""

    def __init__(self, process: SimProcess) -> None:
        self._process = process
        self._lanes: dict[str, deque[_Job]] = {}
        self._pending = 0

    async def run(
        self, lane: str, *steps: Callable[[], object], brief: bool = False
    ) -> list[object]:
        """Run ``steps`` in order and return their results; see the port."""
        if self._pending >= PENDING_CALLS_MAX:
            raise LimitExceeded(f"{PENDING_CALLS_MAX} blocking calls wait; try again")
        world = self._process.world
        at_once = brief and world.brief and lane not in self._lanes
        if at_once and world.draw("brief").random() < world.brief:
            return [step() for step in steps]
        loop = world.loop
        job = _Job(steps, loop.create_future(), lane)
        self._pending += 1
        if lane:
            queue = self._lanes.get(lane)
            if queue is not None:
                queue.append(job)
                return await job.future
            self._lanes[lane] = deque()
        self._schedule(job)
        return await job.future

    def _schedule(self, job: _Job) -> None:
        """Hand the next step over to the system."""
        process = self._process
        world = process.world
        delay_us = world.step_delay_us(process)
        systems = world.draw("blocking").random() < 0.4
        context = world.context if systems else process.context
        world.loop.call_at(
            (world.loop.now_us + delay_us) / 1e6, self._step, job, systems, context=context
        )

    def _step(self, job: _Job, systems: bool) -> None:
        process = self._process
        world = process.world
        error: BaseException | None = None
        if process.unplugged or (process.dead and not systems):
            return
        if world.workers is not None:
            worker = world.workers.take()
            worker.begin(job.steps[len(job.results)])
            self._work(job, worker, systems)
            return
        process.ghost = process.dead
        try:
            job.results.append(job.steps[len(job.results)]())
        except Killed:
            return
        except BaseException as caught:
            error = caught
        finally:
            process.ghost = False
        self._stepped(job, error)

    def _work(self, job: _Job, worker: Worker, systems: bool) -> None:
        """Let a step go on up to its next system call."""
        process = self._process
        world = process.world
        workers = world.workers
        if workers is None or process.unplugged or (process.dead and not systems):
            return
        process.ghost = process.dead
        world.loop.current = process
        try:
            workers.run(worker)
        finally:
            process.ghost = False
        if not worker.over:
            world.loop.call_at(
                (world.loop.now_us + worker.wait_us) / 1e6,
                self._work, job, worker, worker.systems,
                context=world.context if worker.systems else process.context,
            )  # fmt: skip
            return
        error, result = worker.error, worker.result
        workers.give(worker)
        if isinstance(error, Killed):
            return
        if error is None:
            job.results.append(result)
        self._stepped(job, error)

    def _stepped(self, job: _Job, error: BaseException | None) -> None:
        """A step is over: the next one, or the end of the call."""
        process = self._process
        world = process.world
        if error is None and len(job.results) < len(job.steps):
            # The thread goes on only while its process runs.
            world.loop.call_soon(self._schedule, job, context=process.context)
        else:
            world.loop.call_soon(self._finish, job, error, context=process.context)

    def together(self, works: Sequence[Callable[[], None]]) -> None:
        """Called on a worker: run ``works`` at the same time, each on a worker of its own, and
        return when all are over."""
        world = self._process.world
        workers = world.workers
        invariant(workers is not None, "system calls interleave")
        left = list(works)
        for work in works:
            worker = cast("Workers", workers).take()
            worker.begin(partial(_and_then, work, left))
            self._beside(worker, False)
        while left:
            self._process.wait(TOGETHER_LOOK_US)

    def _beside(self, worker: Worker, now: bool) -> None:
        """Let a worker that no job waits for go on, after a while at first."""
        process = self._process
        world = process.world
        workers = world.workers
        if now and workers is not None:
            if process.unplugged or (process.dead and not worker.systems):
                return
            process.ghost = process.dead
            try:
                workers.run(worker)
            finally:
                process.ghost = False
            if worker.over:
                workers.give(worker)
                return
        wait_us = worker.wait_us if now else world.call_delay_us(process)
        world.loop.call_at(
            (world.loop.now_us + wait_us) / 1e6,
            self._beside, worker, True,
            context=world.context if now and worker.systems else process.context,
        )  # fmt: skip

    def _finish(self, job: _Job, error: BaseException | None) -> None:
        self._pending -= 1
        if job.lane:
            queue = self._lanes[job.lane]
            if queue:
                self._schedule(queue.popleft())
            else:
                del self._lanes[job.lane]
        if job.future.done():
            return
        if error is None:
            job.future.set_result(job.results)
        else:
            job.future.set_exception(error)


class Damaged:
    """Which files may answer DATA_CORRUPT, since their bytes were damaged (``damage``)."""

    def __init__(self) -> None:
        self.paths: dict[str, None] = {}
        self.all = False
        self.happened = False  # Anything at all was damaged.

    def allows(self, key: str) -> bool:
        """``key``: as the history has it, a path and perhaps a part of the file."""
        return self.all or key.partition("#")[0] in self.paths


class World:
    """Everything that one run shares. Chance is drawn from streams with names, so that a new use of
    one does not shift the draws of the others."""

    network: Any  # Set by the cluster: ``network.SimNetwork``.

    def __init__(self, loop: SimLoop, seed: int) -> None:
        self.loop = loop
        self.seed = seed
        self.context = contextvars.copy_context()
        self.machines: list[Machine] = []
        self.hosts: dict[str, Machine] = {}  # By network address.
        self.failures: list[str] = []
        self.told: list[tuple[int, str, str]] = []
        self.tracing = False
        self.damaged = Damaged()
        self.slow_steps = 0.0  # Chance that a step takes long; set by the fault plan.
        self.workers: Workers | None = None  # Set by ``interleave``.
        self.brief = 0.0  # Chance that a brief call runs on its caller's thread.
        self._draws: dict[str, random.Random] = {}
        self._processes = 0
        loop.set_exception_handler(self._unhandled)

    def interleave(self) -> None:
        """From now on each system call of a blocking step is an event of its own."""
        if self.workers is None:
            self.workers = Workers()
            self.loop.at_end.append(self.workers.close)

    @property
    def working(self) -> Worker | None:
        """The worker that runs now, if the loop waits for one."""
        return None if self.workers is None else self.workers.running

    def draw(self, name: str) -> random.Random:
        """The stream of chance ``name``."""
        found = self._draws.get(name)
        if found is None:
            found = self._draws[name] = random.Random(f"{self.seed}/world/{name}")
        return found

    def machine(self, name: str) -> Machine:
        made = Machine(name, len(self.machines))
        self.machines.append(made)
        return made

    def process(self, name: str, machine: Machine, host: str, rate: float = 1.0) -> SimProcess:
        """A new process, without any work yet."""
        self._processes += 1
        made = SimProcess(self, name, machine, host, self._processes, rate)
        machine.processes.append(made)
        self.hosts[host] = machine
        return made

    def step_delay_us(self, process: SimProcess) -> int:
        """How long the system takes for one step of a blocking call."""
        draw = self.draw("blocking")
        delay = 20 + draw.expovariate(1 / 150) * process.machine.slowness
        if self.slow_steps and draw.random() < self.slow_steps:
            delay += draw.choice((2_000, 20_000, 200_000, 1_500_000)) * draw.random()
        stalled = process.machine.stalled_until_us - self.loop.now_us
        return int(max(delay, stalled + delay))

    def call_delay_us(self, process: SimProcess) -> int:
        """How long one system call in the middle of a step takes."""
        draw = self.draw("calls")
        delay = 2 + draw.expovariate(1 / 30) * process.machine.slowness
        if self.slow_steps and draw.random() < self.slow_steps:
            delay += draw.choice((2_000, 20_000, 200_000)) * draw.random()
        stalled = process.machine.stalled_until_us - self.loop.now_us
        return int(max(delay, stalled + delay))

    def call_is_systems(self) -> bool:
        """Whether the system has taken a call over before its process dies or freezes."""
        return self.draw("calls").random() < 0.4

    def tell(self, text: str, process: SimProcess | None = None) -> None:
        """A line of the story, and of the digest."""
        name = "" if process is None else process.name
        self.loop.note(sum(text.encode()) + len(text) * 65_536)
        if self.tracing and len(self.told) < STORY_LINES_MAX:
            self.told.append((self.loop.now_us, name, text))

    def fail(self, text: str) -> None:
        """A promise was broken: the run fails, and this says why."""
        if self.loop.over:
            return  # What is thrown away after the run says nothing about it.
        self.tell(f"BROKEN: {text}")
        self.failures.append(text)

    def process_failed(self, process: SimProcess, error: BaseException) -> None:
        """A part exits by itself. Typed errors are its right; anything else is a bug."""
        from sofs.errors import SofsError

        if not isinstance(error, SofsError):
            self.fail(f"{process.name} failed: {error!r}")

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        owner = self.loop.current
        if self.loop.over or isinstance(context.get("exception"), Killed):
            return
        if isinstance(owner, SimProcess) and owner.dead:
            return
        error = context.get("exception")
        name = owner.name if isinstance(owner, SimProcess) else "the simulator"
        self.fail(f"{name}: {context.get('message')}: {error!r}{where(error)}")


def where(error: BaseException | None) -> str:
    """The innermost lines of a traceback, for people."""
    import traceback

    if error is None or error.__traceback__ is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " at " + " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in frames[::-1])


class StoryHandler(logging.Handler):
    """What the product logs becomes part of the story."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        owner = self._world.loop.current
        if isinstance(owner, SimProcess) and not owner.dead:
            self._world.told.append((self._world.loop.now_us, owner.name, record.getMessage()))
