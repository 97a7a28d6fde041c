"""One file as a node serves it: its token, its map, and the order of operations on it.

Admission. An operation is *attempted*: it either takes effect at once (a write is appended, a read
is answered or started), or says what it needs first. While nothing waits, attempts are made
directly in the channel's reader, without a task. The first operation that needs something, and all
that come after it, wait in one FIFO; one pump task fetches what the head needs and attempts it
again. Nothing that an attempt checks can change between the check and the append, because an
attempt never suspends.

Giving the token back (recall). The queue of that moment may still run, as far as it needs nothing
from the authority: that is the minimum hold of one queue drain, so that a token that bounces
between nodes always does work. Whatever comes later stays in the queue, the file is drained (no
record that is not durable, no read that is not answered), and only then the token goes; afterwards
the pump acquires it again.

An operation that must be alone (a truncate) holds the file: the pump stops until it is released.

May fail: more than FILE_WAITING_MAX operations that wait are LimitExceeded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from sofs.core.extent_map import ExtentMap
from sofs.core.messages import HeldLock, TokenMode
from sofs.core.window import OpWindow
from sofs.errors import LimitExceeded, SofsError, StaleGeneration, error_from_code
from sofs.ports.trace import CURRENT
from sofs.services.tasks import Tasks

if TYPE_CHECKING:
    from sofs.services.node.session import Session

FILE_WAITING_MAX: Final = 16_384  # Operations that wait for one file.
RW: Final = int(TokenMode.DIRECT_RW)


@dataclass(slots=True)
class Need:
    """What an operation must wait for before it is attempted again: call ``wait`` and await it.
    ``remote``: the authority provides it, so it cannot be had while a recall is answered."""

    wait: Callable[[], Awaitable[None]]
    remote: bool


class Operation(Protocol):
    """An operation of the data path."""

    @property
    def handle(self) -> Handle: ...

    @property
    def alive(self) -> bool:
        """False when its session is gone: then it is dropped, its client sends it again."""
        ...

    @property
    def trace(self) -> bytes:
        """The span of its request: what is asked of the authority is asked for that one."""
        ...

    def attempt(self) -> Need | None:
        """Take effect, or say what is needed first; raises why it is refused. Never suspends."""
        ...

    def fail(self, error: SofsError) -> None: ...

    def drop(self) -> None:
        """Forget the operation without an answer."""
        ...


class Pending(Protocol):
    """A record that is appended and not yet durable."""

    sequence: int

    def publish(self) -> None:
        """The record is durable and checked."""
        ...

    def page(self, page: int) -> memoryview | None:
        """The new contents of a page, if the record has it."""
        ...


class Handle:
    """A persistent handle that is connected through this node."""

    __slots__ = (
        "access",
        "acked",
        "ahead_page",
        "busy",
        "closing",
        "epoch",
        "file",
        "generation",
        "idle",
        "in_flight",
        "leaving",
        "next_offset",
        "number",
        "older",
        "reclaiming",
        "session",
        "window",
    )

    def __init__(
        self, number: int, generation: int, file: OpenFile, access: int, session: Session | None
    ) -> None:
        self.number = number
        self.generation = generation
        self.file = file
        self.access = access
        self.session = session
        self.window: OpWindow | None = None  # Given with the current token; None without one.
        self.acked = 0
        self.in_flight: dict[int, Flight] = {}  # Appended, not durable, by op sequence.
        self.epoch = 0  # Raised by ``quiet``: tells earlier operations from later ones.
        self.busy = 0  # Operations of this epoch that are queued or in flight.
        self.older: dict[int, int] = {}  # The same of earlier epochs, without zeros.
        self.idle: list[asyncio.Future[None]] = []
        self.leaving = ""  # Error code of operations that arrive once the handle is leaving.
        self.closing = ""  # Error code of all operations that are not admitted yet.
        self.reclaiming = 0  # Reclaims that are under way at the authority.
        self.next_offset = -1  # Where a sequential reader reads next.
        self.ahead_page = 0

    def finished(self, epoch: int) -> None:
        """An operation that arrived in ``epoch`` was answered, failed or dropped."""
        if epoch == self.epoch:
            self.busy -= 1
            return
        left = self.older[epoch] - 1
        if left:
            self.older[epoch] = left
            return
        del self.older[epoch]
        waiting, self.idle = self.idle, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    @property
    def is_quiet(self) -> bool:
        return not self.busy and not self.older

    async def quiet(self) -> None:
        """Return when no operation that arrived before this call is queued or in flight."""
        epoch = self.epoch
        if self.busy:
            self.older[epoch] = self.busy
            self.epoch, self.busy = epoch + 1, 0
        while self.older and min(self.older) <= epoch:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.idle.append(future)
            await future


def leaving(handle: Handle) -> SofsError:
    """Why a handle takes no new operations."""
    return error_from_code(handle.leaving, f"handle {handle.number} is being closed")


def check_handle(handle: Handle, generation: int) -> None:
    """Raise why an operation of ``generation`` on the handle is refused, if it is."""
    if handle.closing:
        raise error_from_code(handle.closing, f"handle {handle.number} has left this node")
    if handle.generation != generation:
        raise StaleGeneration(
            f"handle {handle.number} has generation {handle.generation}, not {generation}"
        )


class Flight(Protocol):
    """A write or abandonment in flight, as copies of the same operation see it."""

    def attach(self, session: Session, call: int, is_abandon: bool) -> None: ...


async def _turn() -> None:
    """Let everything else that is ready run first."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.call_soon(_resolve, future)
    await future


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Recall:
    __slots__ = ("allowance",)

    def __init__(self, allowance: int) -> None:
        self.allowance = allowance


class OpenFile:
    """State of one file; see the module."""

    __slots__ = (
        "_gate",
        "_held",
        "_idle",
        "_pumping",
        "_recall",
        "_remote",
        "_tasks",
        "_waiting",
        "acquiring",
        "generation",
        "handles",
        "ino",
        "last_sequence",
        "locks",
        "map",
        "mode",
        "modified_ns",
        "pending",
        "readers",
        "size",
        "size_pending",
    )

    def __init__(self, ino: int, tasks: Tasks) -> None:
        self.ino = ino
        self.mode = 0  # TokenMode of the token held; 0: none.
        self.generation = 0  # Of that token.
        self.size = 0  # With all durable records.
        self.size_pending = 0  # With the appended ones too.
        self.modified_ns = 0
        self.locks: list[HeldLock] = []
        self.map = ExtentMap()
        self.handles: dict[int, Handle] = {}
        self.pending: deque[Pending] = deque()
        self.readers = 0  # Reads that were admitted and are not answered.
        self.last_sequence = 0  # Of the newest durable record.
        self.acquiring: asyncio.Future[None] | None = None
        self._tasks = tasks
        self._waiting: deque[Operation] = deque()
        self._pumping = False
        self._remote = False  # The pump waits for the authority.
        self._recall: _Recall | None = None
        self._held = False
        self._idle: list[asyncio.Future[None]] = []
        self._gate: list[asyncio.Future[None]] = []

    # Admission
    # -------------------------------------------------------------------------------------

    def submit(self, operation: Operation, *, passes: bool = False) -> None:
        """Attempt the operation now if nothing waits, else queue it. ``passes``: it need not stay
        behind what waits while the token is here (a read: writes that wait for the authority to
        catch up do not stop reading)."""
        settled = not self._held and self._recall is None and self.acquiring is None
        if not (settled and (passes or not self._waiting)):
            if len(self._waiting) >= FILE_WAITING_MAX:
                operation.fail(
                    LimitExceeded(
                        f"{FILE_WAITING_MAX} operations wait for file {self.ino}",
                        retry_after_ms=20,
                    )
                )
                return
            self._waiting.append(operation)
            if not self._pumping:
                self._start(None)
            return
        try:
            need = operation.attempt()
        except SofsError as error:
            operation.fail(error)
            return
        if need is None:
            return
        self._waiting.append(operation)
        if not self._pumping:  # Else it passed in vain; the pump comes to it.
            self._start(need)

    def _start(self, need: Need | None) -> None:
        self._pumping = True
        self._tasks.spawn(self._pump(need), f"file-{self.ino}")

    async def _pump(self, need: Need | None) -> None:
        try:
            while True:
                if need is not None:
                    await self._provide(need)
                    need = None
                    await _turn()  # What is there at once, and still not enough, stops no others.
                if not self._waiting:
                    return
                if self._held or (self._recall is not None and self._recall.allowance <= 0):
                    await self._gate_open()
                    continue
                head = self._waiting[0]
                if not head.alive:
                    self._pop()
                    head.drop()
                    continue
                try:
                    need = head.attempt()
                except SofsError as error:
                    self._pop()
                    head.fail(error)
                    continue
                if need is None:
                    self._pop()
        finally:
            self._pumping = False
            self._wake_idle()

    async def _provide(self, need: Need) -> None:
        """Wait for what the head of the queue needs; its error is the head's."""
        if need.remote and self._recall is not None:
            # The authority waits for our answer to its recall first: the rest comes after it.
            self._recall.allowance = 0
            self._wake_idle()
            return
        head = self._waiting[0]
        CURRENT.set(head.trace)
        self._remote = need.remote
        try:
            await need.wait()
        except SofsError as error:
            if self._waiting and self._waiting[0] is head:  # Else it was swept meanwhile.
                self._pop()
                head.fail(error)
        finally:
            self._remote = False

    def _pop(self) -> None:
        self._waiting.popleft()
        if self._recall is not None:
            self._recall.allowance -= 1
            self._wake_idle()

    def sweep(self) -> None:
        """Drop what waits and whose session is gone; refuse what waits on a handle that left."""
        if not any(not op.alive or op.handle.closing for op in self._waiting):
            return
        recall = self._recall
        kept: deque[Operation] = deque()
        removed: list[Operation] = []
        allowance = recall.allowance if recall is not None else 0
        for index, operation in enumerate(self._waiting):
            if operation.alive and not operation.handle.closing:
                kept.append(operation)
                continue
            removed.append(operation)
            if recall is not None and index < allowance:
                recall.allowance -= 1
        self._waiting = kept
        for operation in removed:
            if operation.alive:
                operation.fail(leaving(operation.handle))
            else:
                operation.drop()
        self._wake_idle()

    async def _gate_open(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gate.append(future)
        await future

    def _open_gate(self) -> None:
        waiting, self._gate = self._gate, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # Draining
    # --------------------------------------------------------------------------------------

    def _wake_idle(self) -> None:
        if self._idle:
            waiting, self._idle = self._idle, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def read_done(self) -> None:
        self.readers -= 1
        if self._idle:
            self._wake_idle()

    def published(self) -> None:
        """Its oldest pending record became durable."""
        self.pending.popleft()
        if self._idle and not self.pending:
            self._wake_idle()

    async def _changed(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        await future

    async def landed(self) -> None:
        """Return when every appended record is durable. Only for one who keeps new ones from being
        admitted: the head of the queue."""
        while self.pending:
            await self._changed()

    async def drained(self) -> None:
        """Return when every admitted operation is durable or answered. Only for one who keeps new
        ones from being admitted: an acquirer, a recall."""
        while self.pending or self.readers:
            await self._changed()

    @property
    def quiescent(self) -> bool:
        """Is nothing queued, admitted, recalled or held?"""
        return not (
            self.pending
            or self.readers
            or self._waiting
            or self._held
            or self._recall is not None
            or self.acquiring is not None
        )

    async def give_back(self) -> object:
        """Stop admitting, finish the queue there is, and return when the file is drained. New
        operations wait until ``reopen`` is called with what this returns."""
        if self._recall is None:
            self._recall = _Recall(0 if self._remote else len(self._waiting))
        recall = self._recall
        while (
            self._held or self.pending or self.readers or (recall.allowance > 0 and self._waiting)
        ):
            await self._changed()
        recall.allowance = 0
        return recall

    def reopen(self, recall: object) -> None:
        """The recall was answered: what waits goes on, unless another recall came meanwhile."""
        if self._recall is recall:
            self._recall = None
            self._open_gate()

    def hold(self) -> None:
        """Called by the operation at the head of the queue, when the file is drained: admit nothing
        until ``release``."""
        self._held = True

    def release(self) -> None:
        self._held = False
        self._wake_idle()
        self._open_gate()
