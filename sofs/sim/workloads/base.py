"""What clients do, and how it is recorded.

A workload has files of its own and a ``step``: one operation, drawn. Every client runs every
workload of the plan until it is told to stop. Each operation stands in the history with its
outcome: ``ok``, ``refused`` (a definite error: surely no effect) or ``unknown``.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from sofs.client.aio import AsyncShare
from sofs.client.file import AsyncFile
from sofs.errors import (
    Corrupt,
    DeadlineExceeded,
    DiskFull,
    FileClosed,
    FileForcedClosed,
    FileNotAvailable,
    HandleLost,
    OutcomeUnknown,
    SofsError,
)
from sofs.sim.checkers.liveness import Absence
from sofs.sim.history import History, Operation
from sofs.sim.plan import Plan
from sofs.sim.world import SimProcess, World

T = TypeVar("T")
_FIRST = asyncio.FIRST_COMPLETED
HANDLE_MS: Final = 60_000  # How long the server keeps a handle of an absent client by itself.
LOST = (HandleLost, FileForcedClosed, FileClosed)


@dataclass(eq=False)
class Actor:
    """One client: its process, its share and what it has open."""

    name: str
    process: SimProcess
    share: AsyncShare
    draw: random.Random
    files: dict[str, AsyncFile] = field(default_factory=dict)
    healed_steps: int = 0  # Those that began after the last fault.

    async def sleep_ms(self, ms: float) -> None:
        await self.process.clock.sleep_ms(ms)


class Workload(ABC):
    """One kind of work on its own files."""

    name: ClassVar[str]
    concurrent: ClassVar[bool] = False  # Whether one client may do several steps at a time.
    tagged: ClassVar[str | None] = None  # Operations whose data is found in no other's.

    def __init__(self, world: World, plan: Plan, history: History) -> None:
        self.world = world
        self.plan = plan
        self.history = history
        self.draw = world.draw(f"workload/{self.name}")
        self.counter = 0
        self.finals: dict[str, bytes] = {}  # What files hold in the end, by the history's keys.
        self.totals: dict[str, int] = {}
        self.absences: list[Absence] = []
        self._opened_us: dict[AsyncFile, int] = {}

    async def setup(self, actor: Actor) -> None:
        """Make the files, before any fault."""
        return

    @abstractmethod
    async def step(self, actor: Actor) -> None:
        """One operation."""

    async def finish(self, actor: Actor) -> None:
        """After the last step of a client: close what it holds."""
        return

    async def verify(self, actor: Actor) -> None:
        """Look at the files when all is quiet, through a client that did nothing else."""
        return

    def judge(self) -> list[str]:
        """What the history says was broken; no lines: nothing."""
        return []

    def unique(self) -> int:
        """A number that no other operation of this workload has."""
        self.counter += 1
        return self.counter

    async def open(self, actor: Actor, path: str, mode: str = "r+b", **more: Any) -> AsyncFile:
        """The actor's open file, opened at its first use and after its loss."""
        file = actor.files.get(path)
        if file is None or file.closed:
            file = await actor.share.open(
                path, mode, timeout_ms=self.plan.handle_timeout_ms, **more
            )
            actor.files[path] = file
            self._opened_us[file] = self.world.loop.now_us
        return file

    async def close(self, actor: Actor, path: str) -> None:
        """Close a file of the actor's, if it is open. A failed close leaves the handle to its
        timeout, or to the end of the client."""
        file = actor.files.pop(path, None)
        if file is not None:
            try:
                await file.close()
            except SofsError as error:
                self.world.tell(f"close of {path}: {error}", actor.process)

    def limit_ms(self, actor: Actor) -> int | None:
        """A deadline for one operation: sometimes too short."""
        if self.plan.short_deadlines and actor.draw.random() < self.plan.short_deadlines:
            return actor.draw.choice((5, 30, 150, 600))
        return None

    async def record(
        self,
        operation: Operation,
        work: Callable[[], Awaitable[T]],
        result: Callable[[T], Any] = lambda value: None,
        settle: Actor | None = None,
    ) -> T | None:
        """Do ``work`` and record its outcome; None when it was not done for sure. An unknown
        outcome is settled through the share of ``settle``."""
        try:
            value = await self._maybe_cancelled(work, settle)
        except asyncio.CancelledError:
            self.history.unknown(operation, "cancelled")
        except OutcomeUnknown as error:
            await self._settle(operation, error, settle)
        except LOST as error:
            # The class is about the handle; what was in flight may have taken effect.
            self.history.unknown(operation, error.code)
            raise
        except SofsError as error:
            if error.definite:
                self.history.refused(operation, error.code)
                self.unexpected(operation, error)
            else:
                self.history.unknown(operation, error.code)
        else:
            self.history.ok(operation, result(value))
            return value
        return None

    async def _maybe_cancelled(self, work: Callable[[], Awaitable[T]], actor: Actor | None) -> T:
        """Await ``work``; sometimes give it up half-way."""
        if actor is None or actor.draw.random() >= self.plan.cancels:
            return await work()
        task = asyncio.ensure_future(work())
        await asyncio.wait([task, asyncio.ensure_future(pause(actor, 5.0))], return_when=_FIRST)
        task.cancel()
        return await task

    async def _settle(
        self, operation: Operation, error: OutcomeUnknown, actor: Actor | None
    ) -> None:
        """Ask what became of it: afterwards it happened or never will."""
        if actor is None or error.token is None:
            self.history.unknown(operation, error.code)
            return
        try:
            settled = await actor.share.settle(error.token)
        except SofsError as second:
            self.history.unknown(operation, second.code)
            return
        if settled.executed:
            self.history.ok(operation, settled.offset if operation.kind == "append" else None)
        else:
            self.history.refused(operation, "ABANDONED")

    def unexpected(self, operation: Operation, error: SofsError) -> None:
        """A refusal that the workload did not ask for. Some plans make them likely."""
        if isinstance(error, DeadlineExceeded | FileNotAvailable):
            return
        if isinstance(error, Corrupt) and self.world.damaged.allows(operation.key):
            return
        if isinstance(error, DiskFull) and "disk-full" in self.plan.faults:
            return
        self.world.fail(f"{operation.client}: {operation}: refused: {error}")

    def lost(self, actor: Actor, path: str, error: SofsError) -> None:
        """A handle is gone: open it anew at the next step."""
        file = actor.files.pop(path, None)
        if file is not None:
            file.closed = True
            self._absent(actor, path, file, error)
        if not self.plan.handles_may_be_lost:
            self.world.fail(f"{actor.name} lost {path} within its timeout: {error}")

    def _absent(self, actor: Actor, path: str, file: AsyncFile, error: SofsError) -> None:
        """A handle was lost: its client was away since its last answer, or for longer."""
        left_us = self._opened_us.pop(file, None)
        if left_us is None or not isinstance(error, HandleLost):
            return
        for operation in reversed(self.history.operations):
            ours = operation.client == actor.name and operation.key.partition("#")[0] == path
            if ours and operation.outcome == "ok" and operation.returned_us is not None:
                left_us = max(left_us, operation.returned_us)
                break
        plan = self.plan
        kept_ms = min(plan.handle_timeout_ms or HANDLE_MS, plan.gate_window_ms)
        kept_us = int(kept_ms * 1000 / (1 + plan.clock_spread))
        now_us = self.world.loop.now_us
        self.absences.append(Absence(actor.name, path, left_us, now_us, kept_us, kept=False))


async def pause(actor: Actor, mean_ms: float) -> None:
    await actor.sleep_ms(actor.draw.expovariate(1 / mean_ms))


__all__ = ["LOST", "Actor", "Workload", "asyncio", "pause"]
