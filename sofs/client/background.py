"""The event loop behind the blocking API: one daemon thread per process.

Callers append work to a deque and wake the loop only if no wake-up is under way, so eight threads
that write at once cost one wake-up. An operation's answer releases the caller's lock from inside
the loop's reader; nothing else stands between.

The item is appended before ``_woken`` is read, and ``_drain`` clears it before it drains: whoever
sees it set knows that a drain is still to come.

At the end of the process the thread ends too (``atexit``). What the application left open is
closed first, as an operating system closes files: else the next to open them would wait until their
handles time out. Who gets no answer to that goodbye within GOODBYE_MS_MAX goes without it. Then
every other task ends, then the loop, so that nothing is destroyed half-way and said so on stderr.

The loop is uvloop's, as in every part: a call costs a tenth less of the client's processor time
(docs/PERFORMANCE.md).

After a fork the child has no such thread: shares that the parent connected raise ``FileClosed``
there, and new ones cannot be connected (``sofs.rpc``).
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import uvloop

from sofs.client.flight import Flight
from sofs.client.limits import GOODBYE_MS_MAX
from sofs.client.operation import Operation
from sofs.client.session import ClientCore
from sofs.errors import FileClosed, InvalidParameter, SofsError
from sofs.ports.stream import Envelope

STOP_ROUNDS_MAX: Final = 3
STOP_S_MAX: Final = 5.0  # A thread that does not end by then is left to the end of the process.

T = TypeVar("T")
_LOGGER = logging.getLogger(__name__)

_lock = threading.Lock()
_current: LoopThread | None = None


class ThreadWaiter:
    """One thread's wait for one answer."""

    __slots__ = ("_error", "_lock", "_result")

    def __init__(self) -> None:
        self._result: Any = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def done(self) -> bool:
        return not self._lock.locked()

    def set_result(self, result: Any, /) -> None:
        self._result = result
        self._lock.release()

    def set_exception(self, error: BaseException, /) -> None:
        self._error = error
        self._lock.release()

    def wait(self) -> Any:
        """Block until there is an answer; return it or raise it."""
        self._lock.acquire()
        self._lock.release()
        error = self._error
        if error is not None:
            try:
                raise error
            finally:
                self._error = error = None  # No cycle through the traceback.
        return self._result


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._inbox: deque[tuple[Flight, Operation] | Callable[[], None]] = deque()
        self._woken = False
        self._loop = uvloop.new_event_loop()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._clients: list[ClientCore] = []  # To be closed at the end; closed ones go in between.
        self._ending: asyncio.Task[None] | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="sofs-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    @property
    def inside(self) -> bool:
        """Whether the caller runs on this loop's thread, where it must not block."""
        return threading.current_thread() is self._thread

    def post(self, item: tuple[Flight, Operation] | Callable[[], None]) -> None:
        """Hand an operation (or a callable) to the loop. FileClosed after a fork."""
        if os.getpid() != self.pid:
            raise FileClosed(
                "this share was connected before a fork and belongs to the parent: start processes "
                "that use SOFS with subprocess or multiprocessing's 'spawn' or 'forkserver' method"
            )
        if self._ended:
            raise FileClosed("the client's thread has ended with the process")
        self._inbox.append(item)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._woken = False
        inbox = self._inbox
        while inbox:
            item = inbox.popleft()
            if isinstance(item, tuple):
                item[0].submit(item[1])
            else:
                item()

    def perform(self, flight: Flight, op: Operation, waiter: ThreadWaiter) -> Envelope:
        """Submit an operation from this thread and wait for its answer. An interrupt (Ctrl-C) drops
        or settles it."""
        self.post((flight, op))
        try:
            answer: Envelope = waiter.wait()
        except KeyboardInterrupt:
            self.post(lambda: flight.forget(op))
            raise
        return answer

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it."""
        if self.inside:
            work.close()
            raise InvalidParameter("a blocking call on the client's own thread would never end")
        waiter = ThreadWaiter()
        started: list[asyncio.Task[None]] = []

        async def job() -> None:
            try:
                result = await work
            except BaseException as error:
                waiter.set_exception(error)
                if not isinstance(error, Exception | asyncio.CancelledError):
                    raise
            else:
                waiter.set_result(result)

        def start() -> None:
            started.append(self._spawn(job()))

        try:
            self.post(start)
        except BaseException:
            work.close()
            raise
        try:
            result: T = waiter.wait()
        except KeyboardInterrupt:
            self.post(lambda: _cancel(started))
            raise
        return result

    def start_soon(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine on the loop without waiting (from finalizers)."""
        self.post(lambda: _ignore(self._spawn(make())))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    def adopt(self, client: ClientCore) -> None:
        """Close the client at the end of this thread, should it still be open."""
        self._clients = [*(each for each in self._clients if not each.closed), client]

    def stop(self) -> None:
        """End the thread; for tests and for the end of the process. FileClosed from then on."""
        if self._ended or os.getpid() != self.pid:
            return
        self._ended = True
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._begin_end)
            self._thread.join(STOP_S_MAX)

    def _begin_end(self) -> None:
        self._drain()  # What was posted before; whoever waits for it hears of the end.
        self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        try:
            await asyncio.gather(*(_take_leave(client) for client in self._clients))
            current = asyncio.current_task()
            # What a cancelled task starts while it ends is found by the next round.
            for _ in range(STOP_ROUNDS_MAX):
                others = [task for task in asyncio.all_tasks() if task is not current]
                for task in others:
                    task.cancel()
                if others:
                    await asyncio.wait(others, timeout=STOP_S_MAX / 4)
        finally:
            self._loop.stop()


async def _take_leave(client: ClientCore) -> None:
    try:
        await client.close(GOODBYE_MS_MAX)
    except SofsError as error:  # Its handles last until their timeouts.
        _LOGGER.debug("a client ended without a goodbye: %s", error)
    finally:
        await client.drop()


def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


def _ignore(task: asyncio.Task[None]) -> None:
    """The task is kept by its loop thread; nobody waits for it."""


def loop_thread() -> LoopThread:
    """The process's loop thread, started at first use."""
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():
            if _current is None:
                atexit.register(stop_loop_thread)
            _current = LoopThread()
        return _current


def stop_loop_thread() -> None:
    """End the process's loop thread; the next use starts another. Shares that are still connected
    become useless."""
    global _current
    with _lock:
        current, _current = _current, None
    if current is not None:
        current.stop()
