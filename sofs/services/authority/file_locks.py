"""Byte-range locks at the active authority: one change of a file at a time, and who waits.

Order. A file's lock changes have turns, so that its tables go to the token holders in order. A
change is answered when every other holder of a token knows the new table (R9); what is only given
back is told to nobody (ADR 0008), not even along with what is taken.

Undoing. The change is durable before the others are told. If one of them can neither be told nor
sealed for certain (its log is damaged), the client is refused, and a refusal says that nothing
happened: so the change is undone first, with its stored answer, in the same turn. The others may
know of a lock that is gone again; who would refuse for a lock asks first. None of them forgot one
that is back, as they were not told of what was given back. A copy of a change that was stored by
an earlier attempt undoes nothing, since that one may have been answered: its outcome is unknown.

Fairness. Requests that wait stand in one queue a file, in the order of arrival. Nobody overtakes an
earlier one that wants what excludes his own wish, whether he would wait or not; except who holds a
lock of the file already: the earlier one may be waiting for *him*. When locks are given back, or a
request leaves the queue, the queue is gone through once from its head, inside the file's turn, so
that nobody comes in between.

A request that left (its time is over, its node is gone) holds nobody up from that moment. One whose
time is over keeps its place for KEEP_PLACE_MS: a client that waits for long asks in slices, and the
next one takes the place of the last. A copy of a
request that waits (its client failed over) waits as another one: whichever is granted first, the
others get its stored answer.

May fail: LOCK_WAITERS_MAX requests wait for one file; more are LimitExceeded, "ask again".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Protocol

from sofs.constants import LOCK_WAIT_MS_MAX, LOCK_WAITERS_MAX
from sofs.core.locks import exclude_each_other
from sofs.core.messages import (
    Caller,
    ChangeLocks,
    Done,
    HeldLock,
    Lock,
    LockRange,
    LocksChanged,
    Message,
    Unlock,
)
from sofs.errors import (
    DiskFull,
    FileClosed,
    InvalidParameter,
    LimitExceeded,
    LockNotGranted,
    OutcomeUnknown,
    SofsError,
)
from sofs.ports.runtime import Clock
from sofs.services.authority.service_nodes import NodeLink, Nodes
from sofs.services.authority.state import AuthorityState
from sofs.services.authority.turns import Turns
from sofs.services.tasks import Tasks

KEEP_PLACE_MS: Final = 1_000
CHANGE_LOG_BYTES: Final = 512  # About what a change that also gives back takes in the log.


class Once(Protocol):
    """Runs a mutation exactly once; ``ActiveAuthority`` does it."""

    async def __call__(
        self, caller: Caller, rules: Callable[[], Message], reserved: int | None = None
    ) -> Message: ...


class Run(Protocol):
    """Runs rules in a transaction; ``ActiveAuthority`` does it."""

    async def __call__(
        self, rules: Callable[[], Message], *, reserved: int | None = None
    ) -> Message: ...


class _Wish:
    """A request for locks: what it wants of which handle, and how it is tried."""

    __slots__ = ("absent", "attempt", "drop", "future", "handle", "key", "wanted")

    def __init__(
        self, caller: Caller, handle: int, drop: Sequence[LockRange], wanted: Sequence[LockRange]
    ) -> None:
        self.key = (caller.client, caller.op_id)
        self.handle = handle
        self.drop = drop
        self.wanted = wanted
        self.absent = False  # It left, and what stands in the queue is its place.
        self.future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.future.add_done_callback(_retrieved)
        self.attempt: Callable[[], Awaitable[Message]]

    def excludes(self, other: _Wish) -> bool:
        return any(exclude_each_other(a, b) for a in self.wanted for b in other.wanted)


class FileLocks:
    """See the module."""

    def __init__(
        self,
        clock: Clock,
        tasks: Tasks,
        state: AuthorityState,
        nodes: Nodes,
        once: Once,
        run: Run,
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._state = state
        self._nodes = nodes
        self._once = once
        self._run = run
        # Changes that are stored, perhaps, and may still be undone.
        self._open: dict[tuple[bytes, int], asyncio.Future[None]] = {}
        self._turns = Turns()
        self._waiting: dict[int, list[_Wish]] = {}
        self._serving: dict[int, None] = {}  # A pass over the queue is about to begin.

    def waiting(self) -> int:
        """How many requests wait."""
        return sum(not wish.absent for queue in self._waiting.values() for wish in queue)

    # Requests
    # ------------------------------------------------------------------------------------

    async def lock(self, link: NodeLink, body: Lock) -> Message:
        """Take all ranges, or LockNotGranted when ``wait_ms`` passed."""
        wish = _Wish(body.caller, body.handle, (), body.ranges)
        return await self._take(
            link, wish, body, lambda: self._state.lock(body, link.incarnation), None
        )

    async def unlock(self, link: NodeLink, body: Unlock) -> Message:
        """Give ranges back. Other holders learn of it when they ask: a node that would refuse for a
        lock asks first."""
        ino = self._ino_of(body.handle)
        async with self._turns.held(ino):
            reply = await self._once(
                body.caller, lambda: self._state.unlock(body, link.incarnation), 0
            )
        self.given_back(ino)
        return reply

    async def change(self, link: NodeLink, body: ChangeLocks) -> Message:
        """Give back, test and take in one transaction, or LockNotGranted with nothing changed."""
        wish = _Wish(body.caller, body.handle, body.drop, [*body.test, *body.take])
        reserved = CHANGE_LOG_BYTES if body.drop else None

        def rules() -> LocksChanged:
            return self._state.change_locks(body, link.incarnation)

        reply = await self._take(link, wish, body, rules, reserved)
        if body.drop:
            self.given_back(self._ino_of(body.handle))
        return reply

    def _ino_of(self, handle: int) -> int:
        """The handle's file; 0 when it is gone: a copy of an answered operation still gets its
        answer, and any other is refused by the rules."""
        try:
            return self._state.handle_ino(handle)
        except FileClosed:
            return 0

    # Taking and waiting
    # --------------------------------------------------------------------------

    async def _take(
        self,
        link: NodeLink,
        wish: _Wish,
        body: Lock | ChangeLocks,
        rules: Callable[[], Done | LocksChanged],
        reserved: int | None,
    ) -> Message:
        if body.wait_ms > LOCK_WAIT_MS_MAX:
            raise InvalidParameter(
                f"a lock waits at most {LOCK_WAIT_MS_MAX} ms, not {body.wait_ms}; ask again after"
            )
        ino = self._ino_of(body.handle)
        deadline = self._clock.monotonic_ms() + body.wait_ms
        tells = bool(wish.wanted)

        before: list[list[HeldLock]] = []  # Of the attempt that executes it, if one does.
        given = dict.fromkeys((range_.offset, range_.length) for range_ in wish.drop)

        def in_order() -> Message:
            self._refuse_overtaking(ino, wish)
            before[:] = [self._state.locks_of_handle(body.handle)]
            return rules()

        async def attempt() -> Message:
            """Only in the file's turn."""
            before.clear()  # Stays so when there is a stored answer.
            with self._undoable(wish.key):
                reply = await self._once(body.caller, in_order, reserved)
                if ino and tells:
                    holders, table = self._state.lock_table(ino, link.incarnation)
                    for locks in before:
                        table += [lock for lock in locks if (lock.offset, lock.length) in given]
                    try:
                        await self._nodes.update_locks(ino, holders, table)
                    except SofsError as error:
                        await self._undo(body, before, error)
                        raise
            return reply

        wish.attempt = attempt
        async with self._turns.held(ino):
            try:
                return await attempt()
            except LockNotGranted:
                if not body.wait_ms:
                    raise
            self._join(ino, wish)
        try:
            await self._until_granted(wish, deadline - self._clock.monotonic_ms())
            async with self._turns.held(ino):
                # The last try is made from its place in the queue.
                return wish.future.result() if wish.future.done() else await attempt()
        except LockNotGranted:
            self._keep_place(ino, wish)
            raise
        finally:
            self._leave(ino, wish)

    @contextlib.contextmanager
    def _undoable(self, key: tuple[bytes, int]) -> Iterator[None]:
        done = self._open[key] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            if self._open.get(key) is done:
                del self._open[key]
            done.set_result(None)

    async def decided(self, client: bytes, op_id: int) -> None:
        """Return when no change of that number may be undone any more: only then does its stored
        answer say what happened."""
        while (change := self._open.get((client, op_id))) is not None:
            await asyncio.shield(change)

    async def _undo(
        self, body: Lock | ChangeLocks, before: Sequence[Sequence[HeldLock]], error: SofsError
    ) -> None:
        """Make a definite refusal true, or raise OutcomeUnknown."""
        if not error.definite:
            return  # The client asks again, and whoever is left is told then.
        if not before:
            raise OutcomeUnknown(f"the locks are stored, but not everybody knows: {error}")

        def rules() -> Message:
            self._state.put_back_locks(body.caller, body.handle, before[0])
            return Done()

        try:
            await self._run(rules, reserved=CHANGE_LOG_BYTES)
        except DiskFull as full:
            raise OutcomeUnknown(f"the locks cannot be undone: {full}, after {error}") from full

    def _refuse_overtaking(self, ino: int, wish: _Wish) -> None:
        if self._held_up(ino, wish):
            raise LockNotGranted("another request waits for a range that this one would take")

    def _held_up(self, ino: int, wish: _Wish) -> bool:
        """Does an earlier request that waits exclude this one, without waiting for it?"""
        for earlier in self._waiting.get(ino, ()):
            if earlier is wish:
                return False
            if earlier.absent or earlier.handle == wish.handle:
                continue
            if earlier.excludes(wish):
                return not self._state.holds_locks(wish.handle)
        return False

    def _join(self, ino: int, wish: _Wish) -> None:
        queue = self._waiting.setdefault(ino, [])
        for index, place in enumerate(queue):
            if place.absent and (place.handle, place.wanted) == (wish.handle, wish.wanted):
                queue[index] = wish
                return
        if len(queue) >= LOCK_WAITERS_MAX:
            raise LimitExceeded(
                f"{LOCK_WAITERS_MAX} requests wait for locks of file {ino}", retry_after_ms=50
            )
        queue.append(wish)

    def _keep_place(self, ino: int, wish: _Wish) -> None:
        """Its time is over: those behind it may go on, and it may come back."""
        if wish in self._waiting.get(ino, ()):
            wish.absent = True
            self._tasks.spawn(self._forget_place(ino, wish), f"place in locks of {ino}")
            self.given_back(ino)

    async def _forget_place(self, ino: int, wish: _Wish) -> None:
        await self._clock.sleep_ms(KEEP_PLACE_MS)
        wish.absent = False
        self._leave(ino, wish)

    def _leave(self, ino: int, wish: _Wish) -> None:
        """Out of the queue, unless it is not there or keeps its place; those behind it may go
        on."""
        queue = self._waiting.get(ino)
        if queue is None or wish.absent or wish not in queue:
            return
        queue.remove(wish)
        if queue:
            self.given_back(ino)
        else:
            del self._waiting[ino]

    async def _until_granted(self, wish: _Wish, limit_ms: int) -> None:
        timer = asyncio.ensure_future(self._clock.sleep_ms(max(0, limit_ms)))
        try:
            await asyncio.wait((wish.future, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    # Serving the queue
    # ---------------------------------------------------------------------------

    def given_back(self, ino: int | None = None) -> None:
        """Locks of the file (None: of any) were given back: go through its queue."""
        for file in list(self._waiting) if ino is None else [ino]:
            if file in self._waiting and file not in self._serving:
                self._serving[file] = None
                self._tasks.spawn(self._serve(file), f"locks of {file}")

    async def _serve(self, ino: int) -> None:
        granted: dict[tuple[bytes, int], None] = {}
        async with self._turns.held(ino):
            self._serving.pop(ino, None)
            for wish in list(self._waiting.get(ino, ())):
                if wish.absent or wish not in self._waiting.get(ino, ()):
                    continue  # It left, perhaps while an earlier one was tried.
                if wish.key not in granted:
                    if self._held_up(ino, wish):
                        continue
                    if not self._state.locks_free(ino, wish.handle, wish.drop, wish.wanted):
                        continue
                try:
                    reply = await wish.attempt()
                except LockNotGranted:
                    continue
                except SofsError as error:
                    self._settle(ino, wish)
                    if not wish.future.done():
                        wish.future.set_exception(error)
                else:
                    granted[wish.key] = None
                    self._settle(ino, wish)
                    if not wish.future.done():
                        wish.future.set_result(reply)

    def _settle(self, ino: int, wish: _Wish) -> None:
        """Out of the queue, without another pass: this one comes to those behind it."""
        queue = self._waiting.get(ino, [])
        if wish in queue:
            queue.remove(wish)
        if not queue:
            self._waiting.pop(ino, None)


def _retrieved(future: asyncio.Future[Message]) -> None:
    if not future.cancelled():
        future.exception()
