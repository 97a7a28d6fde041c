"""An event loop whose time is virtual and whose order is drawn from a seed.

Nothing is slept, no thread and no socket is used: when nothing is ready, time jumps to the next
timer. Which ready callback runs next is drawn, so that an order which asyncio happens to keep is
not relied upon. A run that waits for nothing raises ``Deadlock``, which names the waiting tasks.
``call_soon_threadsafe``, executors and descriptors are for real processes and are refused.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from asyncio import events
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Nothing is ready and nothing is scheduled: the tasks named here wait for ever."""


class SimLoop(asyncio.BaseEventLoop):
    """See the module. ``trace`` holds (virtual microseconds, draw) of every callback run."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._order = random.Random(f"{seed}/order")
        self._now_us = 0
        self.trace: list[tuple[int, int]] = []

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_us / 1e6

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        timers: Any = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not timers:
                raise Deadlock(f"nothing can happen any more; waiting: {self._waiting()}")
            self._now_us = max(self._now_us, round(timers[0].when() * 1e6))
        while timers and round(timers[0].when() * 1e6) <= self._now_us:
            handle = heapq.heappop(timers)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
        if not ready:
            return
        drawn = self._order.randrange(len(ready))
        handle = ready[drawn]
        del ready[drawn]
        self.trace.append((self._now_us, drawn))
        if not handle._cancelled:
            handle._run()

    def _waiting(self) -> list[str]:
        return sorted(task.get_name() for task in asyncio.all_tasks(self))

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is dropped when it comes to the front."""

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("a thread reached the simulator: go through Blocking")

    def run_in_executor(self, *args: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("an executor in the simulator: go through Blocking")


def simulate(seed: int, main: Coroutine[Any, Any, T]) -> tuple[T, SimLoop]:
    """Run ``main`` to its end in virtual time; returns its result and the ended loop. What it left
    running is dropped, as a death drops it."""
    loop = SimLoop(seed)
    before = events._get_running_loop()
    if before is not None:
        main.close()
        raise RuntimeError("simulate runs a loop of its own: call it outside of any other")
    try:
        return loop.run_until_complete(main), loop
    finally:
        loop.close()
