"""An event loop whose time is virtual and whose order is drawn from a seed.

Nothing is slept, no thread and no socket is used: when nothing is ready, time jumps to the next
timer. Which ready callback runs next is drawn, so that an order which asyncio happens to keep is
not relied upon. A run that waits for nothing raises ``Deadlock``, which names the waiting tasks.
``call_soon_threadsafe``, executors and descriptors are for real processes and are refused.

Owners. The context variable ``OWNER`` names the simulated process (``process.SimProcess``) on whose
behalf a callback was scheduled; asyncio copies contexts, so a process's tasks, timers and wake-ups
are all its own. A callback of an owner that is dead is dropped and one of an owner that is frozen
is parked until it thaws: between any two callbacks a process can stop, for a while or for ever.
Callbacks of one owner keep their order, as asyncio promises it to real processes; those without an
owner do not.

Tasks are kept alive by the loop until they end. asyncio alone holds them weakly: a task of a dead
process would be collected at a moment that no seed decides, and its ``finally`` clauses would run.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import events, format_helpers
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any, Final, TypeVar

T = TypeVar("T")

SAME_TIME_CALLBACKS_MAX: Final = 500_000  # Without time passing: more of them are a busy loop.
_DIGEST_MASK: Final = (1 << 61) - 1


class Deadlock(RuntimeError):
    """Nothing is ready and nothing is scheduled: the tasks named here wait for ever."""


class BusyLoop(RuntimeError):
    """Callbacks schedule callbacks without end and no time passes."""


class Owner:
    """What the loop knows of a simulated process."""

    __slots__ = ("dead", "frozen", "number", "parked")

    def __init__(self, number: int) -> None:
        self.number = number
        self.dead = False
        self.frozen = False
        self.parked: list[Any] = []  # Ready callbacks that wait for the thaw, in order.


OWNER: ContextVar[Owner | None] = ContextVar("sofs.sim.owner", default=None)


class _Handle(asyncio.TimerHandle):
    """A scheduled callback, and whose it is. Every event of a run is one, so it has what the loop
    needs and nothing for asyncio's own loops: their two constructors took a tenth of a run."""

    __slots__ = ("owner",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        context: Context | None,
    ) -> None:
        if context is None:
            context = copy_context()
        self._when = when
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False
        self.owner: Owner | None = context.get(OWNER)

    def __repr__(self) -> str:
        return f"<{self._callback!r} of {self.owner!r}>"

    def __lt__(self, other: object) -> bool:
        return False  # Of two timers that are due at one time, the heap decides.

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None  # type: ignore[assignment]


def _runs(owner: Owner, handle: _Handle) -> bool:
    """Whether a callback of ``owner`` may run now; one of a frozen owner waits."""
    if owner.dead:
        return False
    if owner.frozen:
        owner.parked.append(handle)
        return False
    return True


class SimLoop(asyncio.BaseEventLoop):
    """See the module. ``trace`` holds (virtual microseconds, draw) of every callback run, when it
    is kept; ``digest`` says the same in one number."""

    _stopping: bool  # Of the base class.

    def __init__(self, seed: int, *, keep_trace: bool = True) -> None:
        super().__init__()
        self._order = random.Random(f"{seed}/order")
        self._now_us = 0
        self._soon: list[_Handle] = []  # Ready callbacks.
        self._timers: list[tuple[int, float, _Handle]] = []  # A heap: due microseconds, seconds.
        self._alive: list[asyncio.Task[Any]] = []
        self._alive_max = 1_000
        self._keep_trace = keep_trace
        self._callbacks_before = 0  # Those that ran before time came to where it is.
        self.over = False  # Set at the end: nothing has an effect any more.
        self.trace: list[tuple[int, int]] = []
        self.digest = 0
        self.callbacks = 0
        self.current: Owner | None = None  # Whose callback runs now.
        self.at_end: list[Callable[[], None]] = []  # Called when nothing has an effect any more.

    @property
    def now_us(self) -> int:
        """Virtual microseconds since the loop was made."""
        return self._now_us

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_us / 1e6

    def note(self, value: int) -> None:
        """Mix a number into the digest."""
        self.digest = hash((self.digest, value)) & _DIGEST_MASK

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=name, context=context)
        self._alive.append(task)
        if len(self._alive) > self._alive_max:
            self._alive = [task for task in self._alive if not task.done()]
            self._alive_max = 2 * len(self._alive) + 1_000
        return task

    def _run_once(self) -> None:
        """Run callbacks until the loop is to stop."""
        ready, timers, draw = self._soon, self._timers, self._order.random
        try:
            while True:
                # Due timers come in; time jumps to the next one when nothing is ready.
                while timers:
                    timer = timers[0][2]
                    if not timer._cancelled and (timer.owner is None or not timer.owner.dead):
                        break
                    heappop(timers)
                if not ready and not self._stopping:
                    self._jump()
                now_us = self._now_us
                while timers and timers[0][0] <= now_us:
                    timer = heappop(timers)[2]
                    if not timer._cancelled:
                        ready.append(timer)
                if not ready:
                    return
                drawn = int(draw() * len(ready))
                handle = ready[drawn]
                owner = handle.owner
                if owner is not None and drawn:
                    for at in range(drawn):  # The oldest of this owner.
                        if ready[at].owner is owner:
                            drawn, handle = at, ready[at]
                            break
                del ready[drawn]
                if not handle._cancelled and (owner is None or _runs(owner, handle)):
                    self._run(handle, owner, drawn)
                if self._stopping:
                    return
        finally:
            self.current = None

    def _jump(self) -> None:
        """Go to the time of the next timer."""
        if not self._timers:
            raise Deadlock(f"nothing can happen any more; waiting: {self._waiting()}")
        due_us = self._timers[0][0]
        if due_us > self._now_us:
            self._now_us, self._callbacks_before = due_us, self.callbacks

    def _run(self, handle: _Handle, owner: Owner | None, drawn: int) -> None:
        callbacks = self.callbacks = self.callbacks + 1
        if callbacks - self._callbacks_before > SAME_TIME_CALLBACKS_MAX:
            raise BusyLoop(f"{SAME_TIME_CALLBACKS_MAX} callbacks at {self.time():.6f} s: {handle}")
        number = -1 if owner is None else owner.number
        self.digest = hash((self.digest, self._now_us, drawn, number)) & _DIGEST_MASK
        if self._keep_trace:
            self.trace.append((self._now_us, drawn))
        self.current = owner
        try:
            handle._context.run(handle._callback, *handle._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            source = format_helpers._format_callback_source(handle._callback, handle._args)
            self.call_exception_handler(
                {"message": f"Exception in callback {source}", "exception": error}
            )

    # The base class does the same with more checks of what cannot be here.

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(0.0, callback, args, context)
        self._soon.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = _Handle(when, callback, args, context)
        heappush(self._timers, (round(when * 1e6), when, handle))
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_us / 1e6 + delay, callback, *args, context=context)

    def close(self) -> None:
        super().close()
        self._soon.clear()
        self._timers.clear()

    def thaw(self, owner: Owner) -> None:
        """Let a frozen owner go on: what was parked is ready now."""
        owner.frozen = False
        parked, owner.parked = owner.parked, []
        self._soon.extend(parked)

    def _waiting(self) -> list[str]:
        return sorted(task.get_name() for task in self._alive if not task.done())

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """A generator that was left half-way is dropped as it stands."""

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("a thread reached the simulator: go through Blocking")

    def run_in_executor(self, *args: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("an executor in the simulator: go through Blocking")


def simulate(
    seed: int,
    main: Coroutine[Any, Any, T],
    *,
    keep_trace: bool = True,
    prepare: Callable[[SimLoop], None] | None = None,
) -> tuple[T, SimLoop]:
    """Run ``main`` to its end in virtual time; returns its result and the ended loop. What it left
    running is dropped, as a death drops it. ``prepare`` gets the loop before anything runs."""
    loop = SimLoop(seed, keep_trace=keep_trace)
    before = events._get_running_loop()
    if before is not None:
        main.close()
        raise RuntimeError("simulate runs a loop of its own: call it outside of any other")
    if prepare is not None:
        prepare(loop)
    try:
        return loop.run_until_complete(main), loop
    finally:
        loop.over = True
        for ending in loop.at_end:
            ending()
        loop.close()
