"""Real time, chance and threads: the system's implementations of ``sofs.ports.runtime``.

Threads. A *lane* is one thread fed by a ``SimpleQueue``; a call's steps run back to back in one
hop, so a log's write, sync and check cost one hand-over to the thread and one back. Results come
back through a mailbox per event loop: threads append to a deque and wake the loop only if no
wake-up is under way, so a burst of completions costs one write to the loop's self-pipe. A lane's
thread ends after it has been idle for LANE_IDLE_S, because lanes are named after logs, and logs
come and go. The lane ``""`` is a pool.

Brief calls. Two hand-overs cost as much as writing and syncing 4 KiB on a quick device. So a call
that is *brief* runs on the event loop while such calls take below BRIEF_US_MAX on average, measured
wherever they run; a slow one sends the next few to the thread, and a slow device all of them. While
one runs, nothing else of its process does: a device that hangs makes the process look frozen, which
it is for everybody who waits for that device. All calls of a lane come from one event loop, so that
a call on the loop cannot meet another of its lane: it is only to go behind those on the thread.

May fail: more than PENDING_CALLS_MAX calls waiting for the pool is ``LimitExceeded``; a call after
``close`` is ``Unavailable``. If the caller is cancelled, its steps run to their end all the same
(a write cannot be called back); an unexpected error of such a call goes to the loop's exception
handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final
from weakref import WeakKeyDictionary

from sofs.errors import LimitExceeded, SofsError, Unavailable

POOL_THREADS: Final = 8
PENDING_CALLS_MAX: Final = 4096  # Calls that wait for a thread of the pool.
LANES_MAX: Final = 1024
LANE_IDLE_S: Final = 20.0
BRIEF_US_MAX: Final = 300.0  # On average; beyond it brief calls go to a thread, too.
_BRIEF_US_COUNTED: Final = 4_000.0  # One that took longer counts as this much,
_BRIEF_WEIGHT: Final = 1 / 16  # and so keeps the next ten or so away from the loop.

Steps = tuple[Callable[[], object], ...]


class SystemClock:
    """The machine's clocks."""

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ns(self) -> int:
        return time.time_ns()

    async def sleep_ms(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1000)


class SystemEntropy:
    """The system's randomness. Streams of the same name are one stream."""

    def __init__(self) -> None:
        self._streams: dict[str, random.Random] = {}

    def token(self, n_bytes: int) -> bytes:
        return os.urandom(n_bytes)

    def stream(self, name: str) -> random.Random:
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = random.Random(os.urandom(32))
        return found


class _Mailbox:
    """Brings results of threads to one event loop."""

    __slots__ = ("__weakref__", "_done", "_loop", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[_Call] = deque()
        self._woken = False

    def post(self, call: _Call) -> None:
        """Called by threads. The item is queued before ``_woken`` is read, and ``_deliver`` clears
        it before it drains: whoever sees it set knows that a drain is still to come."""
        self._done.append(call)
        if not self._woken:
            self._woken = True
            # A closed loop has nobody left who waits for the result.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._done:
            call = self._done.popleft()
            future, error = call.future, call.error
            if not future.done():
                if error is None:
                    future.set_result(call.results)
                else:
                    future.set_exception(error)
            elif error is not None and not isinstance(error, SofsError):
                self._loop.call_exception_handler(
                    {"message": "a cancelled blocking call failed", "exception": error}
                )


class _Call:
    __slots__ = ("error", "future", "mailbox", "results", "steps", "took")

    def __init__(
        self,
        steps: Steps,
        future: asyncio.Future[list[object]],
        mailbox: _Mailbox,
        took: Callable[[int], None] | None,
    ) -> None:
        self.steps = steps
        self.future = future
        self.mailbox = mailbox
        self.took = took  # Told how many nanoseconds the steps took.
        self.results: list[object] = []
        self.error: BaseException | None = None

    def perform(self) -> None:
        begun_ns = time.monotonic_ns()
        try:
            for step in self.steps:
                self.results.append(step())
        except BaseException as error:
            self.error = error
        else:
            if self.took is not None:
                self.took(time.monotonic_ns() - begun_ns)


_Queue = SimpleQueue[_Call | None]


class _Lane:
    """The queue of one thread. ``busy`` calls are queued or running; guarded by the lock."""

    __slots__ = ("busy", "queue")

    def __init__(self) -> None:
        self.queue: _Queue = SimpleQueue()
        self.busy = 0


class ThreadBlocking:
    """Blocking work on threads: one per lane, POOL_THREADS for the lane ``""``."""

    def __init__(
        self, *, pool_threads: int = POOL_THREADS, lane_idle_s: float = LANE_IDLE_S
    ) -> None:
        self._pool_threads_max = pool_threads
        self._lane_idle_s = lane_idle_s
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        self._brief_us = 0.0  # What brief calls take; threads may lose each other's updates.
        self._pool: _Queue = SimpleQueue()
        self._pool_idle = threading.Semaphore(0)
        self._pool_threads = 0
        self._threads: list[threading.Thread] = []
        self._mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = (
            WeakKeyDictionary()
        )
        self._closed = False

    async def run(
        self, lane: str, *steps: Callable[[], object], brief: bool = False
    ) -> list[object]:
        """Run ``steps`` in order on the lane's thread and return their results; see the port."""
        if brief and self._brief_us < BRIEF_US_MAX and self._idle(lane):
            begun_ns = time.monotonic_ns()
            results = [step() for step in steps]
            self._brief_took(time.monotonic_ns() - begun_ns)
            return results
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.get(loop)
        if mailbox is None:
            mailbox = self._mailboxes[loop] = _Mailbox(loop)
        took = self._brief_took if brief else None
        call = _Call(steps, loop.create_future(), mailbox, took)
        if lane:
            self._to_lane(lane, call)
        else:
            self._to_pool(call)
        return await call.future

    def _brief_took(self, duration_ns: int) -> None:
        took_us = min(duration_ns / 1000, _BRIEF_US_COUNTED)
        self._brief_us += (took_us - self._brief_us) * _BRIEF_WEIGHT

    def _idle(self, lane: str) -> bool:
        """Is no call of the lane queued or running? Refuses after ``close``."""
        with self._lock:
            self._refuse_if_closed()
            found = self._lanes.get(lane)
            return found is None or found.busy == 0

    def _to_lane(self, lane: str, call: _Call) -> None:
        with self._lock:
            self._refuse_if_closed()
            found = self._lanes.get(lane)
            if found is None:
                if len(self._lanes) >= LANES_MAX:
                    raise LimitExceeded(f"{LANES_MAX} lanes are busy; close logs, then try again")
                found = self._lanes[lane] = _Lane()
                self._start(self._serve_lane, lane, found)
            found.busy += 1
            found.queue.put(call)

    def _to_pool(self, call: _Call) -> None:
        with self._lock:
            self._refuse_if_closed()
            if self._pool.qsize() >= PENDING_CALLS_MAX:
                raise LimitExceeded(f"{PENDING_CALLS_MAX} blocking calls wait; try again")
            idle = self._pool_idle.acquire(blocking=False)
            if not idle and self._pool_threads < self._pool_threads_max:
                self._pool_threads += 1
                self._start(self._serve_pool)
            self._pool.put(call)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unavailable("this process is stopping; connect to another address")

    def _start(self, serve: Callable[..., None], *arguments: object) -> None:
        """Start a thread. It is a daemon: a device that hangs must not keep the process from
        ending."""
        thread = threading.Thread(target=serve, args=arguments, name="sofs-blocking", daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()]
        thread.start()
        self._threads.append(thread)

    def _serve_lane(self, name: str, lane: _Lane) -> None:
        while True:
            try:
                call = lane.queue.get(timeout=self._lane_idle_s)
            except Empty:
                with self._lock:
                    if lane.queue.empty():
                        self._lanes.pop(name, None)
                        return
                continue
            if call is None:
                return
            call.perform()
            with self._lock:
                lane.busy -= 1  # Before the caller hears of it, who may look at once.
            call.mailbox.post(call)
            del call  # Else an idle thread keeps the last batch's buffers.

    def _serve_pool(self) -> None:
        while True:
            call = self._pool.get()
            if call is None:
                return
            call.perform()
            call.mailbox.post(call)
            del call
            self._pool_idle.release()

    def close(self) -> None:
        """Let the threads finish what is queued, and end them. Later calls are refused."""
        with self._lock:
            self._closed = True
            for lane in self._lanes.values():
                lane.queue.put(None)
            self._lanes.clear()
            for _ in range(self._pool_threads):
                self._pool.put(None)
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()
