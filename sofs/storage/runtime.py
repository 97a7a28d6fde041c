"""Real time, chance and threads: the system's implementations of ``sofs.ports.runtime``.

Threads. A *lane* is one thread fed by a ``SimpleQueue``; a call's steps run back to back in one
hop, so a log's write, sync and check cost one hand-over to the thread and one back. Results come
back through a mailbox per event loop: threads append to a deque and wake the loop only if no
wake-up is under way, so a burst of completions costs one write to the loop's self-pipe. A lane's
thread ends after it has been idle for LANE_IDLE_S, because lanes are named after logs, and logs
come and go. The lane ``""`` is a pool.

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
        self._done: deque[tuple[_Call, list[object], BaseException | None]] = deque()
        self._woken = False

    def post(self, call: _Call, results: list[object], error: BaseException | None) -> None:
        """Called by threads. The item is queued before ``_woken`` is read, and ``_deliver`` clears
        it before it drains: whoever sees it set knows that a drain is still to come."""
        self._done.append((call, results, error))
        if not self._woken:
            self._woken = True
            # A closed loop has nobody left who waits for the result.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._done:
            call, results, error = self._done.popleft()
            future = call.future
            if not future.done():
                if error is None:
                    future.set_result(results)
                else:
                    future.set_exception(error)
            elif error is not None and not isinstance(error, SofsError):
                self._loop.call_exception_handler(
                    {"message": "a cancelled blocking call failed", "exception": error}
                )


class _Call:
    __slots__ = ("future", "mailbox", "steps")

    def __init__(
        self, steps: Steps, future: asyncio.Future[list[object]], mailbox: _Mailbox
    ) -> None:
        self.steps = steps
        self.future = future
        self.mailbox = mailbox

    def perform(self) -> None:
        results: list[object] = []
        try:
            for step in self.steps:
                results.append(step())
        except BaseException as error:
            self.mailbox.post(self, results, error)
        else:
            self.mailbox.post(self, results, None)


_Queue = SimpleQueue[_Call | None]


class ThreadBlocking:
    """Blocking work on threads: one per lane, POOL_THREADS for the lane ``""``."""

    def __init__(
        self, *, pool_threads: int = POOL_THREADS, lane_idle_s: float = LANE_IDLE_S
    ) -> None:
        self._pool_threads_max = pool_threads
        self._lane_idle_s = lane_idle_s
        self._lock = threading.Lock()
        self._lanes: dict[str, _Queue] = {}
        self._pool: _Queue = SimpleQueue()
        self._pool_idle = threading.Semaphore(0)
        self._pool_threads = 0
        self._threads: list[threading.Thread] = []
        self._mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = (
            WeakKeyDictionary()
        )
        self._closed = False

    async def run(self, lane: str, *steps: Callable[[], object]) -> list[object]:
        """Run ``steps`` in order on the lane's thread and return their results."""
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.get(loop)
        if mailbox is None:
            mailbox = self._mailboxes[loop] = _Mailbox(loop)
        call = _Call(steps, loop.create_future(), mailbox)
        if lane:
            self._to_lane(lane, call)
        else:
            self._to_pool(call)
        return await call.future

    def _to_lane(self, lane: str, call: _Call) -> None:
        with self._lock:
            self._refuse_if_closed()
            queue = self._lanes.get(lane)
            if queue is None:
                if len(self._lanes) >= LANES_MAX:
                    raise LimitExceeded(f"{LANES_MAX} lanes are busy; close logs, then try again")
                queue = self._lanes[lane] = SimpleQueue()
                self._start(self._serve_lane, lane, queue)
            queue.put(call)

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

    def _serve_lane(self, lane: str, queue: _Queue) -> None:
        while True:
            try:
                call = queue.get(timeout=self._lane_idle_s)
            except Empty:
                with self._lock:
                    if queue.empty():
                        self._lanes.pop(lane, None)
                        return
                continue
            if call is None:
                return
            call.perform()
            del call  # Else an idle thread keeps the last batch's buffers.

    def _serve_pool(self) -> None:
        while True:
            call = self._pool.get()
            if call is None:
                return
            call.perform()
            del call
            self._pool_idle.release()

    def close(self) -> None:
        """Let the threads finish what is queued, and end them. Later calls are refused."""
        with self._lock:
            self._closed = True
            for queue in self._lanes.values():
                queue.put(None)
            self._lanes.clear()
            for _ in range(self._pool_threads):
                self._pool.put(None)
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()
