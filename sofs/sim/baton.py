"""Blocking steps that stop at every system call: strict hand-over between real threads.

A step of a blocking call is plain code, and cannot be left half-way by a coroutine. Here it runs
on a thread of its own, but only while the event loop's thread waits for it, and the other way
round: exactly one of all threads runs at any time, and each hand-over is by name. So a run stays a
function of its seed, and each system call is an event of the loop: anything may happen between two
of them, in other processes, in other calls of this one, and to it.

A worker that will never go on (its process died) is left where it stands until the run ends;
``close`` then has ``Killed`` raised in it, and every thread ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

WORKERS_MAX: Final = 5_000  # Of one run; each is a thread that waits.
UNWINDINGS_MAX: Final = 100  # System calls that a worker may try while it unwinds.
STACK_BYTES: Final = 512 * 1024


class Worker:
    """One thread. ``wait_us``, ``systems``: how long its system call takes, and whether the system
    has it already, so that it takes effect whatever becomes of the process."""

    def __init__(self) -> None:
        self._go = threading.Lock()
        self._back = threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._work: Callable[[], object] | None = None
        self.over = True
        self.result: object = None
        self.error: BaseException | None = None
        self.fresh = False  # Its first system call is that for which the step was begun.
        self.unwinding = False
        self.wait_us = 0
        self.systems = False
        self._thread = threading.Thread(target=self._serve, name="sofs-sim-worker", daemon=True)
        self._thread.start()

    def begin(self, work: Callable[[], object]) -> None:
        """Give it ``work``, to be done by ``resume``."""
        self._work = work
        self.over, self.result, self.error, self.fresh = False, None, None, True

    def resume(self) -> None:
        """Called by the loop: let it run until it pauses or is over."""
        self._go.release()
        self._back.acquire()

    def pause(self, wait_us: int, systems: bool) -> None:
        """Called by the worker itself: let the loop go on."""
        self.wait_us, self.systems = wait_us, systems
        self._back.release()
        self._go.acquire()

    def _serve(self) -> None:
        while True:
            self._go.acquire()
            work = self._work
            if work is None:
                return
            try:
                self.result = work()
            except BaseException as error:
                self.error = error
            self._work, self.over = None, True
            self._back.release()

    def end(self) -> None:
        """Unwind what it stands in, and end its thread."""
        self.unwinding = True
        for _ in range(UNWINDINGS_MAX):
            if self.over:
                break
            self.resume()
        if self.over:
            self._go.release()
            self._thread.join()


class Workers:
    """The workers of one run."""

    def __init__(self) -> None:
        self._all: list[Worker] = []
        self._idle: list[Worker] = []
        self.running: Worker | None = None  # The loop waits for it.

    def take(self) -> Worker:
        if self._idle:
            return self._idle.pop()
        if len(self._all) >= WORKERS_MAX:
            raise RuntimeError(f"{WORKERS_MAX} system calls of dead processes are under way")
        before = threading.stack_size(STACK_BYTES)
        try:
            made = Worker()
        finally:
            threading.stack_size(before)
        self._all.append(made)
        return made

    def give(self, worker: Worker) -> None:
        """It is over, and free for other work."""
        worker.result = worker.error = None
        self._idle.append(worker)

    def run(self, worker: Worker) -> None:
        """Let it go on, and wait until it pauses or is over."""
        self.running = worker
        try:
            worker.resume()
        finally:
            self.running = None

    def close(self) -> None:
        """End all threads; nothing that they still do has an effect."""
        for worker in self._all:
            self.running = worker
            worker.end()
        self.running = None
        self._all.clear()
        self._idle.clear()
