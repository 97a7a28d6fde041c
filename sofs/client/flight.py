"""Operations between their admission and their answer: sending, sending again, giving up, settling.

Theory of operation. ``pending`` holds every admitted operation without an answer, in order of
admission. While a session is up each of them is *flying* (sent on the session's channel) or
*backing off* (a task sends it again after a pause). Between sessions none flies; ``resume`` sends
all of them again in order, each with its own number, so that whichever copy arrived before decides
(G5).

What a refusal means is in the error tree: ``never`` is the answer; ``same-call`` is sent again
after a pause; ``new-session`` ends the session first. A refusal that also says ``retry_after_ms``
comes from a node that wants the same call again, so the session stays. A ``never`` for a mutation
of which an earlier copy may be on its way is settled by ``Abandon`` before anybody hears it: a
definite error is definite. A node that gets no token (a full disk, a damaged log) refuses a write
before it could know that it was executed; then it refuses the Abandon, too, and the outcome is
unknown.

Giving up. At its deadline an operation that may have been executed raises OutcomeUnknown and is
settled in the background by ``Abandon``: until then the bytes it may touch are closed to later
operations of the handle, and its number counts as unanswered. A cancelled operation is settled the
same way. A close is not abandoned but brought to its end.

Limits. Numbers in use per handle and per client, operations and bytes in flight; what is beyond
them waits in lanes, of which the length is limited too (LimitExceeded). A lane is in order, so an
operation never overtakes an earlier one of its handle.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from sofs.client import limits
from sofs.client.operation import (
    EVERYWHERE,
    FAR_AWAY_MS,
    NOWHERE,
    CloseWaiter,
    Kind,
    Lane,
    Numbers,
    Operation,
    RemoteHandle,
    Settled,
    SettleToken,
)
from sofs.client.spans import Spans
from sofs.core.messages import (
    Abandon,
    AbandonReply,
    Caller,
    ChangeLocks,
    Close,
    Done,
    Failure,
    InfoReply,
    Lock,
    Message,
    Open,
    OpenReply,
    Unlock,
)
from sofs.errors import (
    AccessDenied,
    DeadlineExceeded,
    Expired,
    HandleLost,
    LimitExceeded,
    OutcomeUnknown,
    ProtocolError,
    SofsError,
    Unavailable,
    error_from_code,
)
from sofs.ports.runtime import Clock
from sofs.ports.store import Buffer
from sofs.ports.stream import Envelope
from sofs.services.channel import Channel
from sofs.services.tasks import Tasks

EndSession = Callable[[int, SofsError], None]
"""Asks for a new session in place of the numbered one, because of an error."""


class Flight:
    """All operations of one client. One event loop; nothing here waits before it changes state."""

    def __init__(
        self,
        clock: Clock,
        jitter: random.Random,
        caller: Caller,
        tasks: Tasks,
        end_session: EndSession,
        spans: Spans | None = None,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._caller = caller
        self._tasks = tasks
        self._end_session = end_session
        self.spans = spans or Spans()
        self._numbers = Numbers()
        self._metadata = Lane()
        self._pending: dict[Operation, None] = {}
        self.handles: dict[int, RemoteHandle] = {}  # Open ones, to be reclaimed by a new session.
        self._lanes: dict[Lane, None] = {}  # Those in which something waits.
        self._queued_ops = 0
        self._queued_bytes = 0
        self._pending_bytes = 0
        self._flying = 0
        self._drained: asyncio.Future[None] | None = None
        self._channel: Channel | None = None
        self._session = 0
        self._next_deadline_ms = FAR_AWAY_MS
        self._barriers: list[tuple[RemoteHandle, asyncio.Future[None]]] = []
        self._closed: SofsError | None = None
        self._replays_left = 0
        self._on_replayed: Callable[[], None] | None = None
        self._wake_sweeper: Callable[[], None] | None = None
        self.busy_since_ms = 0
        self.answered = 0  # Operations answered in all.

    # Submitting
    # ------------------------------------------------------------------------------------

    def caller(self) -> Caller:
        """The caller of a metadata request; its numbers are filled in at sending."""
        return Caller(client=self._caller.client, principal=self._caller.principal)

    def take_op_id(self) -> int:
        """An op id for a request that is sent outside of the flight (Reclaim)."""
        return self._numbers.take()

    def drop_op_id(self, op_id: int) -> None:
        self._numbers.answered(op_id)

    @property
    def acked_below(self) -> int:
        return self._numbers.acked_below

    @property
    def idle(self) -> bool:
        """Nothing waits for an answer."""
        return not self._pending and not self._queued_ops

    def on_work(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` once, at the next submission."""
        self._wake_sweeper = callback

    def submit(self, op: Operation) -> None:
        """Admit the operation or let it wait; its waiter gets the answer or the error."""
        handle = op.handle
        self.spans.begun(op)
        if self._closed is not None:
            self._reject(op, error_from_code(self._closed.code, self._closed.message))
            return
        if handle is not None and handle.lost is not None:
            self._reject(op, handle.lost_error())
            return
        if op.deadline_ms < self._next_deadline_ms:
            self._next_deadline_ms = op.deadline_ms
        lane: Lane = self._metadata if handle is None else handle
        if not op.urgent and (lane.waiting or not self._admissible(op)):
            self._queue(lane, op)
        else:
            self._admit(op)
        wake = self._wake_sweeper
        if wake is not None:
            self._wake_sweeper = None
            wake()

    async def call(
        self,
        body: Any,
        expects: type[Message],
        kind: Kind,
        *,
        deadline_ms: int = FAR_AWAY_MS,
        data: Buffer = b"",
        handle: RemoteHandle | None = None,
        span: tuple[int, int] = NOWHERE,
        n_bytes: int = 0,
        urgent: bool = False,
        number: int = 0,
    ) -> Envelope:
        """Submit an operation and wait for its answer. When the waiting is cancelled, the operation
        is dropped, or settled in the background if it may have been executed."""
        future: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        op = Operation(self, body, data, expects, kind, handle, deadline_ms, future, span, n_bytes)
        op.urgent = urgent
        op.number = number
        self.submit(op)
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.done() and future.exception() is None:
                self._tasks.spawn(self._undo(op, future.result()), "undo")
            else:
                self.forget(op)
            raise

    def _queue(self, lane: Lane, op: Operation) -> None:
        if (
            self._queued_ops >= limits.QUEUED_OPS_MAX
            or self._queued_bytes + op.n_bytes > limits.QUEUED_BYTES_MAX
        ) and not op.urgent:
            self._reject(
                op,
                LimitExceeded(
                    f"{limits.QUEUED_OPS_MAX} operations or {limits.QUEUED_BYTES_MAX} bytes wait "
                    "already; wait for answers before asking more"
                ),
            )
            return
        lane.waiting.append(op)
        self._lanes[lane] = None
        self._queued_ops += 1
        self._queued_bytes += op.n_bytes

    def _admissible(self, op: Operation) -> bool:
        if self._pending and self._full(op.n_bytes) and not op.urgent:
            return False
        handle = op.handle
        if handle is None or op.kind is Kind.METADATA:
            if self._numbers.span >= limits.METADATA_OPS_MAX and op.kind is Kind.METADATA:
                return op.urgent
            if handle is None:
                return True
        elif op.kind is Kind.DATA and handle.numbers.span >= limits.DATA_OPS_MAX:
            return False
        if handle.unsettled and not op.urgent:
            start, end = op.span
            return not any(start < e and s < end for s, e in handle.unsettled.values())
        return True

    def _full(self, n_bytes: int) -> bool:
        return (
            len(self._pending) >= limits.FLIGHT_OPS_MAX
            or self._pending_bytes + n_bytes > limits.FLIGHT_BYTES_MAX
        )

    def _admit(self, op: Operation) -> None:
        self._pending[op] = None
        self._pending_bytes += op.n_bytes
        self._number(op)
        if self._channel is not None:
            self._send(op)

    def _number(self, op: Operation) -> None:
        if op.kind is Kind.DATA:
            handle = op.handle
            assert handle is not None
            op.number = op.body.op_sequence = handle.numbers.take()
        elif op.kind is Kind.METADATA:
            op.number = op.number or self._numbers.take()
            op.body.caller.op_id = op.number

    def _pump(self) -> None:
        """Admit what the limits allow now, lane by lane."""
        for lane in list(self._lanes):
            waiting = lane.waiting
            while waiting:
                op = waiting[0]
                if not op.finished and not self._admissible(op):
                    break
                waiting.popleft()
                self._queued_ops -= 1
                self._queued_bytes -= op.n_bytes
                if not op.finished:
                    self._admit(op)
            del self._lanes[lane]
            if waiting:
                self._lanes[lane] = None  # At the end: the others come first next time.
                if self._full(0):
                    return

    # Sending
    # ---------------------------------------------------------------------------------------

    def _send(self, op: Operation) -> None:
        channel = self._channel
        if channel is None:
            return
        body = op.body
        handle = op.handle
        if handle is not None:
            body.generation = handle.generation
            if op.kind is Kind.DATA:
                body.acked_below = handle.numbers.acked_below
        if op.kind is Kind.METADATA:
            body.caller.acked_below = self._numbers.acked_below
        if not self._flying:
            self.busy_since_ms = self._clock.monotonic_ms()
        self._flying += 1
        op.flying = True
        try:
            channel.begin_to(op, body, op.data, self.spans.sent(op))
        except Unavailable:
            self._landed(op)  # It stays pending; the next session sends it.
        except LimitExceeded as error:
            self._landed(op)
            self._again_later(op, error)

    def _landed(self, op: Operation) -> None:
        if op.flying:
            op.flying = False
            self._flying -= 1
            if self._drained is not None and not self._flying and not self._drained.done():
                self._drained.set_result(None)

    def on_reply(self, op: Operation, envelope: Envelope) -> None:
        """The channel's reader brings the reply."""
        self._landed(op)
        body = envelope.body
        if type(body) is op.expects:
            if op.kind is Kind.METADATA:
                self._note(op, body)
            self._remove(op)
            self.spans.answered(op)
            if not op.waiter.done():
                op.waiter.set_result(envelope)
            if self._lanes:
                self._pump()
        elif type(body) is Failure:
            self._refused(op, error_from_code(body.code, body.text, body.retry_after_ms))
        else:
            self._refused(
                op,
                ProtocolError(f"expected {op.expects.__name__}, got {type(body).__name__}"),
            )

    def _note(self, op: Operation, reply: Message) -> None:
        """Handles come and go with the replies, not with the callers' wake-ups: a failover in
        between would miss one."""
        if isinstance(reply, OpenReply):
            if reply.handle not in self.handles:
                self.handles[reply.handle] = RemoteHandle(
                    reply.handle, op.body.create_guid, reply.generation, op.path
                )
        elif isinstance(op.body, Close):
            self.handles.pop(op.body.handle, None)

    def on_lost(self, op: Operation, error: BaseException) -> None:
        """The channel ended, or refused to send it."""
        self._landed(op)
        self.spans.lost(op)
        if isinstance(error, Unavailable):
            op.last_error = error
            if op.kind is not Kind.QUERY:
                op.indefinite = True
        else:
            self._fail(op, error)

    def _refused(self, op: Operation, error: SofsError) -> None:
        op.last_error = error
        self.spans.refused(op, error)
        if not error.definite and op.kind is not Kind.QUERY:
            op.indefinite = True
        if error.retry == "never":
            handle = op.handle
            if op.needs_proof(error):
                op.proving = True
                self._tasks.spawn(self._prove(op, error), "prove")
                return
            if op.indefinite and handle is not None and handle.lost is not None:
                error = self._lost_in_flight(op, handle)  # Its answer is gone with the handle.
            self._fail(op, error)
        elif error.retry == "same-call" or error.retry_after_ms:
            self._again_later(op, error)
        else:
            op.session_errors += 1
            if op.session_errors == 1:
                self._end_session(self._session, error)
            else:
                self._tasks.spawn(self._session_again(op, self._session, error), "session-retry")

    async def _prove(self, op: Operation, refusal: SofsError) -> None:
        """A copy was refused, and an earlier one may still be stuck on its way. Settle the number
        first, so that the refusal stays true; if the earlier copy was executed, ask for its
        answer."""
        pauses = 0
        settled: Settled | None = None
        why = refusal
        while settled is None and not op.finished:
            try:
                settled = await self._abandon(op)
            except SofsError as error:
                op.last_error = why = error
                if op.kind is Kind.DATA:
                    break  # The node gets no token that would tell what was executed.
                if isinstance(error, Expired | AccessDenied):
                    settled = Settled(False)  # Every later copy is refused for the same reason.
                    break
                # Asked again until the operation's deadline gives it up.
                pause_ms = min(limits.RETRY_MS << min(pauses, 8), limits.RETRY_MS_MAX)
                pauses += 1
                await self._clock.sleep_ms(max(error.retry_after_ms, pause_ms))
        if op.finished:
            return
        op.proving = False
        handle = op.handle
        if settled is None:
            self._fail(op, self._not_answered(op, why, None))
        elif not settled.executed:
            op.indefinite = False
            lost = handle is not None and handle.lost is not None
            self._fail(op, handle.lost_error() if handle is not None and lost else refusal)
        elif not op.took_effect:
            op.took_effect = True
            self._send_again(op)
        else:
            self._fail(op, self._not_answered(op, refusal, settled))

    def _not_answered(self, op: Operation, why: SofsError, settled: Settled | None) -> SofsError:
        """It took effect for sure, or perhaps (None), but its answer is not to be had."""
        outcome: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(_retrieve)
        outcome.set_result(settled) if settled else outcome.set_exception(why)
        effect = "took" if settled else "may have taken"
        return OutcomeUnknown(
            f"{op.name} {op.path} {effect} effect, but its answer is refused: {why}",
            token=SettleToken(op.name, op.path, op.number, outcome),
        )

    async def _session_again(self, op: Operation, session: int, error: SofsError) -> None:
        """A second session refused too: slow down, so that it cannot spin."""
        doubled = limits.SESSION_RETRY_MS << min(op.session_errors - 2, 8)
        await self._clock.sleep_ms(min(doubled, limits.SESSION_RETRY_MS_MAX))
        if not op.finished and not op.flying and session == self._session:
            self._end_session(session, error)

    def _again_later(self, op: Operation, error: SofsError) -> None:
        if op.kind is Kind.METADATA and not op.indefinite and not op.urgent:
            # Refused for sure, and refusals leave no record: the next try is a new operation. Else
            # one that waits for long would hold the numbers of all that come after it.
            self._numbers.answered(op.number)
            op.number = 0
        pause = min(limits.RETRY_MS << min(op.refusals, 8), limits.RETRY_MS_MAX)
        pause_ms = max(error.retry_after_ms, pause) * (0.75 + self._jitter.random() / 2)
        op.refusals += 1
        self._tasks.spawn(self._send_after(op, pause_ms), "retry")

    async def _send_after(self, op: Operation, pause_ms: float) -> None:
        await self._clock.sleep_ms(pause_ms)
        if op.finished or op.flying or self._channel is None:
            return  # Answered, given up, or sent by a new session; or the next session will.
        self._send_again(op)

    def _send_again(self, op: Operation) -> None:
        if op.proving:
            return
        if op.number == 0:
            self._number(op)
        self._send(op)

    # Sessions
    # --------------------------------------------------------------------------------------

    def pause(self) -> asyncio.Future[None]:
        """Send nothing more on the session's channel, whose answers still count: the session is
        about to end. The future is done when nothing flies any more."""
        self._channel = None
        drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._flying:
            self._drained = drained
        else:
            drained.set_result(None)
        return drained

    def suspend(self) -> None:
        """The session is over; its channel has ended, so that nothing flies."""
        self._channel = None

    def resume(self, channel: Channel, session: int, on_replayed: Callable[[], None] | None) -> int:
        """A session is up and its handles are reclaimed: send everything pending, in order. Returns
        how many operations were sent before; ``on_replayed`` is called when these are answered."""
        self._channel = channel
        self._session = session
        replays = 0
        for op in list(self._pending):
            if op.finished or op.flying or op.proving:
                continue
            handle = op.handle
            if handle is not None and handle.lost is not None and self._fail_lost(op, handle):
                continue
            if op.last_error is not None:
                op.replayed = session
                replays += 1
            self._send_again(op)
        self._replays_left = replays
        self._on_replayed = on_replayed
        if not replays and on_replayed is not None:
            on_replayed()
        self._pump()
        return replays

    def oldest_trace(self) -> bytes:
        """The context of the operation that has waited longest, if it is recorded."""
        return next((op.trace for op in self._pending if op.trace), b"")

    def silent_ms(self, now_ms: int) -> int:
        """For how long an operation has been flying while the node said nothing at all."""
        if not self._flying or self._channel is None:
            return 0
        return now_ms - max(self._channel.last_heard_ms, self.busy_since_ms)

    def forgive_silence(self, now_ms: int) -> None:
        """This process itself stood still: that was not the node's silence."""
        self.busy_since_ms = now_ms

    def lose(self, handle: RemoteHandle, error: SofsError) -> None:
        """The handle is gone: fail its operations. Metadata that may have been executed is still
        sent, because its stored answer does not need the handle."""
        if handle.lost is not None:
            return
        handle.lost = error
        self.handles.pop(handle.handle, None)
        for op in [op for op in self._pending if op.handle is handle and not op.flying]:
            self._fail_lost(op, handle)
        for op in handle.waiting:
            if not op.finished:
                self._reject(op, handle.lost_error())
        self._pump()

    def refuse_unsent(self, error: SofsError) -> None:
        """Fail what was surely never executed and waits for a session."""
        for op in [op for op in self._pending if not op.flying and not op.indefinite]:
            self._fail(op, error_from_code(error.code, error.message))

    def _fail_lost(self, op: Operation, handle: RemoteHandle) -> bool:
        """Fail an operation that is not flying because its handle is gone; False if it goes on."""
        if not op.indefinite:
            self._fail(op, handle.lost_error())
        elif op.kind is Kind.DATA:
            self._fail(op, self._lost_in_flight(op, handle))
        else:
            return False
        return True

    def _lost_in_flight(self, op: Operation, handle: RemoteHandle) -> SofsError:
        """A write that may have run and whose handle, with its window, is gone: no Abandon can
        settle it, so the message has to say what ``definite`` of the class cannot."""
        lost = handle.lost_error()
        if isinstance(lost, AccessDenied):
            return lost
        return HandleLost(f"{lost.message or lost}; whether this {op.name} took effect is unknown")

    # Ending
    # ----------------------------------------------------------------------------------------

    def _remove(self, op: Operation) -> None:
        """The operation has its outcome."""
        op.finished = True
        self.answered += 1
        self._leave(op)
        if op.kind is Kind.DATA:
            handle = op.handle
            assert handle is not None
            handle.numbers.answered(op.number)
        elif op.number:
            self._numbers.answered(op.number)
        if op.replayed:
            self._count_replay(op)
        if self._barriers:
            self._check_barriers()

    def _leave(self, op: Operation) -> None:
        if op in self._pending:
            del self._pending[op]
            self._pending_bytes -= op.n_bytes

    def _count_replay(self, op: Operation) -> None:
        if op.replayed != self._session or not self._replays_left:
            return
        self._replays_left -= 1
        if not self._replays_left and self._on_replayed is not None:
            self._on_replayed()

    def _fail(self, op: Operation, error: BaseException) -> None:
        self._landed(op)
        self._remove(op)
        if isinstance(op.body, Close):
            self.handles.pop(op.body.handle, None)  # Whatever is wrong: it is not ours any more.
        self._reject(op, error)
        if self._lanes:
            self._pump()

    def _reject(self, op: Operation, error: BaseException) -> None:
        op.finished = True
        self.spans.failed(op, error)
        if not op.waiter.done():
            op.waiter.set_exception(error)

    def expire(self, now_ms: int) -> None:
        """Give up what is past its deadline."""
        if now_ms < self._next_deadline_ms:
            return
        nearest = FAR_AWAY_MS
        overdue: list[Operation] = []
        waiting = [op for lane in self._lanes for op in lane.waiting]
        for op in [*self._pending, *waiting]:
            if op.finished:
                continue
            if op.deadline_ms <= now_ms:
                overdue.append(op)
            elif op.deadline_ms < nearest:
                nearest = op.deadline_ms
        self._next_deadline_ms = nearest
        for op in overdue:
            self._give_up(op)

    def _give_up(self, op: Operation) -> None:
        if op.finished:
            return
        why = f"; the last answer was {op.last_error}" if op.last_error is not None else ""
        if not self._must_settle(op):
            error = DeadlineExceeded(f"{op.name} {op.path}: no answer before the deadline{why}")
            error.__cause__ = op.last_error
            self._drop(op, error)
            return
        waiter = op.waiter
        token = self._settle(op)
        unknown = OutcomeUnknown(
            f"{op.name} {op.path}: the deadline passed before its outcome was known{why}; "
            "ask share.settle(error.token)",
            token=token,
        )
        unknown.__cause__ = op.last_error
        if not waiter.done():
            waiter.set_exception(unknown)

    def forget(self, op: Operation) -> None:
        """The caller does not wait any more (cancelled): drop the operation, or settle it."""
        if op.finished:
            return
        if self._must_settle(op):
            self._settle(op, undo=True)
        else:
            self._drop(op, Unavailable("the call was cancelled"))

    @staticmethod
    def _must_settle(op: Operation) -> bool:
        """It may have been executed; a close is brought to its end even if it surely was not."""
        may_have_run = op.kind is not Kind.QUERY and (op.indefinite or op.flying)
        return may_have_run or isinstance(op.body, Close)

    def _drop(self, op: Operation, error: SofsError) -> None:
        if op in self._pending:
            self._fail(op, error)
        else:
            self._reject(op, error)  # In a lane, which skips it.

    def close(self, error: SofsError) -> None:
        """Fail everything; later submissions fail with the same error."""
        self._closed = error
        self._channel = None
        waiting = [op for lane in self._lanes for op in lane.waiting]
        for op in [*self._pending, *waiting]:
            self._landed(op)
            self._reject(op, error_from_code(error.code, error.message))
        self._pending.clear()
        self._pending_bytes = 0
        self._lanes.clear()
        for _, future in self._barriers:
            if not future.done():
                future.set_exception(error_from_code(error.code, error.message))
        self._barriers.clear()

    # Waiting for a handle's operations
    # -------------------------------------------------------------

    async def quiet(self, handle: RemoteHandle) -> None:
        """Wait until no write of the handle waits for its answer or its settlement."""
        if self.is_quiet(handle):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append((handle, future))
        await future

    @staticmethod
    def is_quiet(handle: RemoteHandle) -> bool:
        return not handle.numbers.span and not handle.waiting and not handle.unsettled

    def _check_barriers(self) -> None:
        keep = []
        for handle, future in self._barriers:
            if future.done():
                continue
            if self.is_quiet(handle):
                future.set_result(None)
            else:
                keep.append((handle, future))
        self._barriers = keep

    # Settling
    # --------------------------------------------------------------------------------------

    def _settle(self, op: Operation, *, undo: bool = False) -> SettleToken:
        """Find out in the background what became of ``op``. ``undo``: nobody can use it any
        more."""
        outcome: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(_retrieve)
        self.spans.failed(op, OutcomeUnknown())
        token = SettleToken(op.name, op.path, op.number, outcome)
        if isinstance(op.body, Close):
            op.deadline_ms = FAR_AWAY_MS
            op.waiter = CloseWaiter(outcome)
            return token
        self._landed(op)
        op.finished = True
        self._leave(op)
        if op.handle is not None:
            op.handle.unsettled[token] = op.span
        self._tasks.spawn(self._settle_now(op, token, undo), "settle")
        return token

    async def _settle_now(self, op: Operation, token: SettleToken, undo: bool) -> None:
        try:
            settled = await self._abandon(op)
            if settled.executed and (undo or isinstance(op.body, Open)):
                await self._undo_replayed(op)
            token.outcome.set_result(settled)
        except SofsError as error:
            token.outcome.set_exception(error)
        finally:
            if not token.outcome.done():
                token.outcome.set_exception(
                    Unavailable(f"{op.name} {op.path} was not settled: the client was closed")
                )
            if op.handle is not None:
                op.handle.unsettled.pop(token, None)
            self._remove(op)
            self._pump()

    async def _abandon(self, op: Operation) -> Settled:
        body = Abandon(caller=self.caller())
        handle = op.handle if op.kind is Kind.DATA else None
        if handle is not None:
            body.handle = handle.handle
            body.op_sequence = op.number
        else:
            body.target_op = op.number
        envelope = await self.call(body, AbandonReply, Kind.METADATA, handle=handle, urgent=True)
        reply = envelope.body
        assert isinstance(reply, AbandonReply)
        return Settled(reply.executed, reply.offset)

    async def _undo_replayed(self, op: Operation) -> None:
        """An open or lock that took effect for nobody: ask for its stored answer, then take it
        back. Without an answer it lasts until the client ends, which is no harm to what was
        promised."""
        if isinstance(op.body, Open | Lock | ChangeLocks):
            try:
                envelope = await self.call(
                    op.body,
                    op.expects,
                    Kind.METADATA,
                    handle=op.handle,
                    urgent=True,
                    number=op.number,
                )
                await self._undo(op, envelope)
            except SofsError as error:
                op.last_error = error

    async def _undo(self, op: Operation, envelope: Envelope) -> None:
        reply = envelope.body
        if isinstance(reply, OpenReply):
            await self.call(
                Close(caller=self.caller(), handle=reply.handle),
                InfoReply,
                Kind.METADATA,
                handle=self.handles.get(reply.handle),
                span=EVERYWHERE,
                urgent=True,
            )
        elif isinstance(op.body, Lock | ChangeLocks):
            body = op.body
            ranges = body.ranges if isinstance(body, Lock) else body.take
            await self.call(
                Unlock(caller=self.caller(), handle=body.handle, ranges=ranges),
                Done,
                Kind.METADATA,
                handle=op.handle,
                urgent=True,
            )


def _retrieve(outcome: asyncio.Future[Settled]) -> None:
    """Mark an error as seen: whether anybody asks for the outcome is the application's choice."""
    if not outcome.cancelled():
        outcome.exception()
