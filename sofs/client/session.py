"""The client core: one session to one node, a warm stream to another, and failover between them.

Theory of operation. The *keeper* is one task that owns the session. It waits for the session's end,
takes the warm stream (or walks the addresses), reclaims all handles in batches, and only then
lets ``Flight`` send what is unanswered again, in order, with the old numbers. Whatever fails in
between starts it over; callers notice nothing but the pause. Nothing else changes the session, so
two failovers cannot run at once.

A session ends when its stream ends; when an operation waits and the node has said nothing for
CLIENT_HEDGE_MS (the *sweeper* pings while something waits, so a slow recall is not silence, and
this process's own stall is not the node's); when handles are open, nothing waits and the *pulse*
stays unheard; when an operation's answer asks for a new session; or
when a witness says that the node is gone. The old stream is ended first: no answer of the old node
reaches anybody afterwards, and its own late work is fenced by the handles' new generation.

After the session is up the *tender* restores the warm stream, on another node, and then the witness
registration, on a node that is not in use. A warm stream is one with Hello answered that is pinged
each WARM_CHECK_MS; nodes bind handles at open and reclaim only, so it costs them nothing else.

No time, chance, thread or network of its own: Clock, Entropy and Transport come in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Final

from sofs.client import limits
from sofs.client.dialing import AddressBook, Dialer, Resolver, node_of
from sofs.client.facts import ClusterFacts, FailoverRecord
from sofs.client.flight import Flight
from sofs.client.moving import Mover
from sofs.client.operation import Kind, RemoteHandle, Settled, SettleToken
from sofs.client.spans import Spans
from sofs.client.story import ClientStory
from sofs.client.using import Session, SessionEnd, Signal
from sofs.client.witness import WitnessClient
from sofs.constants import (
    CLIENT_HEDGE_MS,
    DEADLINE_DEFAULT_MS,
    HEARTBEAT_MS,
    RECONNECT_BACKOFF_MS,
    RECONNECT_BACKOFF_MS_MAX,
)
from sofs.core.messages import (
    Caller,
    Done,
    EndClient,
    HandleClosed,
    Hello,
    HelloReply,
    Ping,
    Reclaim,
    ReclaimItem,
    ReclaimReply,
)
from sofs.core.trace import SpanKind
from sofs.errors import (
    AccessDenied,
    BadNetworkName,
    ClosedByAdministrator,
    DeadlineExceeded,
    DiskFull,
    Expired,
    FileNotAvailable,
    HandleLost,
    LimitExceeded,
    MessageTooLarge,
    NotSupported,
    ObjectNameNotFound,
    OutcomeUnknown,
    SofsError,
    Unavailable,
    error_from_code,
)
from sofs.ids import ID_BYTES
from sofs.ports.events import NO_EVENTS, Events
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.stream import Envelope, Transport
from sofs.ports.trace import CURRENT, NO_RECORDER, Recorder, span
from sofs.services.channel import Channel, expect, result_of, within
from sofs.services.tasks import Tasks

STALL_MS: Final = 2 * limits.SWEEP_MS + 50  # A gap between sweeps that is this process's own.


class ClientCore:
    """One client identity on one share. Create it inside a running event loop, ``start`` it, use
    ``flight`` for operations, ``close`` it."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        entropy: Entropy,
        addresses: Sequence[str] | Resolver,
        *,
        share: str,
        principal: str = "",
        start: str = "",
        client_id: bytes = b"",
        deadline_ms: int = DEADLINE_DEFAULT_MS,
        warm: bool = True,
        witness: bool = True,
        release: Callable[[], Awaitable[None]] | None = None,
        recorder: Recorder = NO_RECORDER,
        events: Events = NO_EVENTS,
    ) -> None:
        """``addresses``: ``host:port`` each, or an async callable that returns them. ``start``: the
        one to begin at. ``release``: called at the end, when nothing uses the transport any more.
        ``deadline_ms``: how long an operation may take unless its call says otherwise."""
        self.client_id = client_id or entropy.token(ID_BYTES)
        self.share = share
        self.principal = principal
        self.deadline_ms = deadline_ms
        self.clock = clock
        self.entropy = entropy
        self._book = AddressBook(addresses, entropy.stream("client.addresses"), start)
        self._tasks = Tasks(f"client-{self.client_id.hex()[:8]}", self._crash)
        self._recorder = recorder
        self.story = ClientStory(events, share)
        self._dialer = Dialer(transport, clock, self._hello, self._on_message, self._crash)
        self.flight = Flight(
            clock,
            entropy.stream("client.retry"),
            Caller(client=self.client_id, principal=principal),
            self._tasks,
            self._operation_ends_session,
            Spans(recorder),
        )
        self.mover = Mover(self)
        self._registration = self.flight.take_op_id()  # The first of all: 1.
        self._registered = False
        self._witness: WitnessClient | None = None
        self._want_warm, self._want_witness = warm, witness
        self._release = release
        self._session: Session | None = None
        self._sessions = 0
        self._warm: Channel | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last_error: SofsError | None = None  # Of the last try to set a session up.
        self._history: deque[FailoverRecord] = deque(maxlen=limits.HISTORY_MAX)
        self._closed = False  # No new operations.
        self._stopped = False  # Nothing runs any more.

    # Life
    # ------------------------------------------------------------------------------------------

    async def start(self, timeout_ms: int | None = None) -> None:
        """Set the first session up. Raises DeadlineExceeded when no node answered in time, or at
        once what no waiting mends: CredentialRefused, ProtocolVersion, BadNetworkName."""
        self._tasks.spawn(self._keep(), "keeper")
        self._tasks.spawn(self._sweep(), "sweeper")
        limit_ms = self.deadline_ms if timeout_ms is None else timeout_ms
        try:
            await within(self.clock, limit_ms, asyncio.shield(self._ready), "connect")
        except BaseException as error:
            await self._stop(Unavailable("the client could not connect"))
            if isinstance(error, Unavailable):
                known = self._book.known()
                whose = f"no node of {', '.join(known)}" if known else "no node"
                hint = "is the cluster up?" if known else "its name is not resolved yet: is DNS up?"
                raise DeadlineExceeded(
                    f"{whose} set up a session within {limit_ms} ms; {hint} "
                    f"({self._last_error or error.message})"
                ) from error
            raise

    async def close(self, timeout_ms: int | None = None) -> None:
        """Say goodbye (closes all handles at the servers) and end. Raises DeadlineExceeded or
        OutcomeUnknown when no node took the goodbye in time: then persistent handles last until
        their timeouts, as when the share was removed. This object is closed in any case; again is
        harmless."""
        if self._stopped:
            return
        if self._closed:
            await self._stop(Unavailable("this client is closed; connect again"))
            return
        self._closed = True
        limit_ms = self.deadline_ms if timeout_ms is None else timeout_ms
        try:
            await self.flight.call(
                EndClient(caller=self.flight.caller()),
                Done,
                Kind.METADATA,
                deadline_ms=self.clock.monotonic_ms() + limit_ms,
                urgent=True,
            )
        except BadNetworkName:
            return  # The share was removed: nobody takes a goodbye, and handles end by themselves.
        except Expired:
            return  # An earlier copy of the goodbye arrived: the servers know this client no more.
        except OutcomeUnknown as error:
            raise OutcomeUnknown(
                "the client is closed, but its goodbye was not answered: its handles may last "
                "until their timeouts"
            ) from error
        finally:
            await self._stop(Unavailable("this client is closed; connect again"))

    async def _stop(self, error: SofsError) -> None:
        self._closed = self._stopped = True
        self.mover.ended(error)
        session, self._session = self._session, None
        warm, self._warm = self._warm, None
        self.flight.close(error)
        await self._tasks.close()
        for channel in (session.channel if session else None, warm):
            if channel is not None:
                await channel.close()
        if not self._ready.done():
            self._ready.cancel()
        release, self._release = self._release, None
        if release is not None:
            with contextlib.suppress(Unavailable):  # It ends by itself then, only later.
                await within(self.clock, limits.GOODBYE_MS_MAX, release(), "end of the streams")

    async def drop(self) -> None:
        """End without a goodbye: the process ends. Open handles last until their timeouts."""
        if not self._stopped:
            await self._stop(Unavailable("this client's process ends"))

    @property
    def closed(self) -> bool:
        """No operation is accepted any more."""
        return self._closed

    def _crash(self, error: BaseException) -> None:
        """A bug in the client: whoever waits hears of it, and nothing goes on."""
        failure = Unavailable(f"internal error of the client: {error!r}; connect again")
        failure.__cause__ = error
        self._closed = True
        self.mover.ended(failure)
        self.flight.close(failure)
        if not self._ready.done():
            self._ready.set_exception(failure)
            self._ready.exception()
        if self._session is not None:
            self._session.channel.end(failure)
        self._tasks.cancel()
        asyncio.get_running_loop().call_exception_handler(
            {"message": "the SOFS client stopped", "exception": error}
        )

    # Operations
    # ------------------------------------------------------------------------------------

    def deadline(self, limit_ms: int | None = None) -> int:
        """The moment ``limit_ms`` (or the client's default) from now."""
        return self.clock.monotonic_ms() + (self.deadline_ms if limit_ms is None else limit_ms)

    async def settle(self, token: SettleToken, timeout_ms: int | None = None) -> Settled:
        """Say what became of an operation whose outcome was unknown. Raises DeadlineExceeded (ask
        again), or why it cannot be known any more (HandleLost, Expired)."""
        limit_ms = self.deadline_ms if timeout_ms is None else timeout_ms
        try:
            return await within(self.clock, limit_ms, asyncio.shield(token.outcome), "settle")
        except Unavailable as error:
            if token.outcome.done():
                raise
            raise DeadlineExceeded(
                f"{token.operation} {token.path} is not settled yet; ask again"
            ) from error

    def facts(self) -> ClusterFacts:
        session = self._session
        remote = session.channel.remote if session else None
        warm = self._warm
        return ClusterFacts(
            address=session.address if session else "",
            node=session.node if session else "",
            incarnation=remote.incarnation if isinstance(remote, HelloReply) else b"",
            warm_address=warm.peer if warm is not None and warm.alive else "",
            witness_address=self._witness.address if self._witness is not None else "",
            addresses=tuple(self._book.known()),
            sessions=self._sessions,
            handles=len(self.flight.handles),
            failovers=tuple(self._history),
        )

    async def move(self, address: str, reason: str = "moved") -> None:
        """Use the node at ``address`` from now on; raises why the client stays where it is."""
        await self.mover.move(address, reason)

    def leave(self, reason: str = "left") -> None:
        """Leave the node in use at once, for any other."""
        if self._session is not None:
            self._session.end(SessionEnd(reason, Unavailable(f"the client is moving: {reason}")))

    @property
    def session(self) -> Session | None:
        """The one in use; None between two."""
        session = self._session
        return None if session is None or session.over.done() else session

    async def standby(self, address: str) -> Channel:
        """The warm stream, if it leads to ``address``; else a fresh one to there."""
        warm = self._warm
        if warm is not None and warm.alive and warm.peer == address:
            return warm
        return await self._dialer.open(address)

    def keep_standby(self, channel: Channel) -> None:
        """Let ``channel`` be the warm stream."""
        warm, self._warm = self._warm, channel
        if warm is not None and warm is not channel:
            self._tasks.spawn(warm.close(), "close-warm")

    async def prove(self, channel: Channel) -> None:
        """Return when the authority answered through ``channel``: it takes a reclaim of nothing."""
        op_id = self.flight.take_op_id()
        try:
            await self._ask_reclaim(channel, op_id, ())
        finally:
            self.flight.drop_op_id(op_id)

    # Messages
    # --------------------------------------------------------------------------------------

    def _hello(self) -> Hello:
        return Hello(client=self.client_id, principal=self.principal, share=self.share)

    def _on_message(self, channel: Channel, envelope: Envelope) -> None:
        body = envelope.body
        if not isinstance(body, HandleClosed):
            raise NotSupported(f"a client does not serve {type(body).__name__}")
        handle = self.flight.handles.get(body.handle)
        if handle is not None and self._session and channel is self._session.channel:
            by_admin = body.code == ClosedByAdministrator.code
            who = "an administrator" if by_admin else "the server"
            text = f"{handle.path}: {who} closed the handle; open it again"
            self.flight.lose(handle, error_from_code(body.code, text))

    def _operation_ends_session(self, number: int, error: SofsError) -> None:
        session = self._session
        if session is not None and session.number == number:
            session.end(SessionEnd(f"refused: {error.code}", error))

    # The keeper
    # ------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        end: SessionEnd | None = None
        pause_ms = 0
        while True:
            answered = self.flight.answered
            session, record = await self._fail_over(end)
            self._session = session
            started = self.clock.monotonic_ms()
            note = None if record is None else self._note_replayed(record, started)
            replayed = self.flight.resume(session.channel, session.number, note)
            if record is not None:
                record.replayed = replayed
                self._history.append(record)
            if not self._ready.done():
                self._ready.set_result(None)
            self.mover.arrived(session.address)
            tender = self._tasks.spawn(self._tend_session(session), "tender")
            end = await session.over
            tender.cancel()
            self._session = None
            self.story.session_ended(session.address, session.node, end)
            self.flight.suspend()
            session.channel.end(end.error)
            self._tasks.spawn(session.channel.close(), "close-stream")
            # Sessions that answer nothing must not follow one another at full speed; but a client
            # that had nothing to ask for a while is no such case, nor is a move.
            lasted_ms = self.clock.monotonic_ms() - started
            brief = lasted_ms < limits.SESSION_RETRY_MS_MAX and not end.planned
            vain = brief and self.flight.answered == answered
            pause_ms = self._next_pause(pause_ms) if vain else 0
            if pause_ms > RECONNECT_BACKOFF_MS:
                await self.clock.sleep_ms(pause_ms)

    @staticmethod
    def _next_pause(pause_ms: int) -> int:
        return min(max(RECONNECT_BACKOFF_MS, 2 * pause_ms), limits.SESSION_RETRY_MS_MAX)

    def _note_replayed(self, record: FailoverRecord, started: int) -> Callable[[], None]:
        def note() -> None:
            record.replay_ms = self.clock.monotonic_ms() - started

        return note

    async def _fail_over(self, end: SessionEnd | None) -> tuple[Session, FailoverRecord | None]:
        """Establish a session; recorded, when another one ended, within the trace of the operation
        that waits longest."""
        if end is None:
            return await self._establish(end)
        recorder, oldest = self._recorder, self.flight.oldest_trace()
        with span(recorder, SpanKind.FAILOVER, parent=oldest, note=self._left) as trace:
            recorder.note(trace, end.reason)
            recorder.link(trace, end.trace)
            session, record = await self._establish(end)
            recorder.note(trace, f"to {session.address}")
            if record is not None:
                took_ms = record.connect_ms + record.reclaim_ms
                self.story.session_begun(session.address, session.node, record, took_ms)
            self.flight.spans.failover = trace
        return session, record

    async def _establish(self, end: SessionEnd | None) -> tuple[Session, FailoverRecord | None]:
        """Connect to some node and reclaim all handles there; goes on until it succeeds."""
        record = None
        left = ""
        if end is not None:
            left = self._left
            record = FailoverRecord(
                end.reason, left, "", self.clock.wall_ns(), detect_ms=end.detect_ms
            )
            record.planned, record.drain_ms = end.planned, end.drain_ms
        started = self.clock.monotonic_ms()
        avoid = {left: None} if left and not (end and end.planned) else {}
        backoff_ms = RECONNECT_BACKOFF_MS
        attempts = 0
        while True:
            attempts += 1
            try:
                with self._step(SpanKind.RECONNECT):
                    prefer = end.prefer if end and attempts == 1 else ""
                    if end and end.planned and attempts == 2:
                        prefer = left  # Back to where it was well.
                    channel, warm = await self._dial(avoid, prefer)
                connected = self.clock.monotonic_ms()
                try:
                    with self._step(SpanKind.RECLAIM):
                        lost = await self._reclaim(channel)
                except BaseException:
                    avoid[channel.peer] = None
                    self._tasks.spawn(channel.close(), "close-stream")
                    raise
            except SofsError as error:
                self._last_error = error
                if error.retry == "never" and not self._ready.done():
                    self._ready.set_exception(error)
                if isinstance(error, BadNetworkName):
                    self._share_gone(error)
                    backoff_ms = limits.SHARE_GONE_RETRY_MS
                await self.clock.sleep_ms(backoff_ms)
                backoff_ms = min(2 * backoff_ms, RECONNECT_BACKOFF_MS_MAX)
                if attempts % 2 == 0:
                    avoid = {}
                    await self._refresh()
                continue
            self._sessions += 1
            session = Session(channel, self._sessions)
            self._left = session.address
            if record is not None:
                record.to_address, record.warm, record.attempts = session.address, warm, attempts
                record.connect_ms = connected - started
                record.reclaim_ms = self.clock.monotonic_ms() - connected
                record.handles, record.handles_lost = len(self.flight.handles), lost
            return session, record

    def _share_gone(self, error: BadNetworkName) -> None:
        """A node knows for sure that the share was removed: its handles are lost, and what was
        never sent fails. What may have been executed waits for its deadline: the share may come
        back."""
        self.story.share_lost(error)
        for handle in list(self.flight.handles.values()):
            self.flight.lose(handle, error)
        self.flight.refuse_unsent(error)

    def _step(self, kind: SpanKind) -> AbstractContextManager[object]:
        """A step of a failover; the very first session is not recorded."""
        if not CURRENT.get():
            return contextlib.nullcontext()
        return span(self._recorder, kind)

    _left = ""  # The address in use, or used last.

    async def _refresh(self) -> None:
        try:
            await self._book.refresh()
        except (OSError, SofsError) as error:
            # Names cannot be resolved just now: the addresses known before must do.
            self._last_error = Unavailable(f"the addresses cannot be resolved: {error}")

    async def _dial(self, avoid: dict[str, None], prefer: str) -> tuple[Channel, bool]:
        warm, self._warm = self._warm, None
        if warm is not None:
            if warm.alive and warm.peer not in avoid and prefer in ("", warm.peer):
                return warm, True
            self._tasks.spawn(warm.close(), "close-warm")
        if not self._book.known():
            await self._refresh()
        addresses = self._book.order(avoid)
        if not addresses:
            raise self._last_error or Unavailable("the resolver returned no address")
        if prefer:
            addresses = [prefer, *(a for a in addresses if a != prefer)]
        channel = await self._dialer.first(addresses)
        self._take_hint(channel)
        return channel, False

    def _take_hint(self, channel: Channel) -> None:
        remote = channel.remote
        if isinstance(remote, HelloReply):
            self._book.hint(remote.addresses)

    async def _register(self, channel: Channel) -> None:
        """A client's very first operation: a reclaim of nothing, alone, with op id 1. The authority
        takes op id 1 and no other for a new client's, so nothing flies before its answer, and it is
        sent with the same number until then, whatever became of earlier copies."""
        pauses = 0
        while not self._registered:
            try:
                await self._ask_reclaim(channel, self._registration, ())
            except SofsError as error:
                if error.retry != "same-call":
                    raise
                pauses = await self._reclaim_pause(pauses, error.retry_after_ms)
            else:
                self._registered = True
                self.flight.drop_op_id(self._registration)

    async def _reclaim(self, channel: Channel) -> int:
        """Reclaim all handles through ``channel``, batch by batch; return how many are lost.

        A handle is lost only when its own result says so, or when the servers know this client no
        more. What else is refused is asked again here, or (by raising) through another node."""
        await self._register(channel)
        pauses, lost = 0, 0
        left = dict(self.flight.handles)
        batch_max = limits.RECLAIM_HANDLES_MAX
        while left:
            batch = list(islice(left.values(), batch_max))
            # A number of its own each time: the stored answer of an earlier one would speak of
            # another node.
            op_id = self.flight.take_op_id()
            retry_after_ms, decided = 0, 0
            try:
                reply = await self._ask_reclaim(channel, op_id, batch)
                before = len(left)
                lost += self._apply(reply, batch, left)
                decided = before - len(left)
            except (Expired, AccessDenied) as error:
                self.story.not_reclaimed(list(left.values()), error)
                for handle in left.values():
                    self.flight.lose(handle, error)
                return lost + len(left)
            except MessageTooLarge:
                batch_max = max(1, batch_max // 2)
            except (DiskFull, LimitExceeded, OutcomeUnknown, FileNotAvailable) as error:
                retry_after_ms = error.retry_after_ms
            finally:
                self.flight.drop_op_id(op_id)
            pauses = 0 if decided else await self._reclaim_pause(pauses, retry_after_ms)
        return lost

    async def _reclaim_pause(self, pauses: int, retry_after_ms: int) -> int:
        pause_ms = min(limits.RETRY_MS << min(pauses, 8), limits.RETRY_MS_MAX)
        await self.clock.sleep_ms(max(retry_after_ms, pause_ms))
        return pauses + 1

    async def _ask_reclaim(
        self, channel: Channel, op_id: int, handles: Sequence[RemoteHandle]
    ) -> ReclaimReply:
        caller = self.flight.caller()
        caller.op_id, caller.acked_below = op_id, self.flight.acked_below
        items = [ReclaimItem(handle.handle, handle.create_guid) for handle in handles]
        envelope = await self._attended(channel, Reclaim(caller=caller, handles=items))
        return expect(result_of(envelope), ReclaimReply)

    def _apply(
        self, reply: ReclaimReply, batch: Sequence[RemoteHandle], left: dict[int, RemoteHandle]
    ) -> int:
        """Take the results of a batch and remove from ``left`` what is decided; return how many
        handles are lost. What may be asked again (or was not answered for) goes to the end."""
        lost = 0
        results = {result.handle: result for result in reply.results}
        for handle in batch:
            result = results.get(handle.handle)
            del left[handle.handle]
            if result is not None and not result.code:
                handle.generation = result.generation
            elif result is not None and result.code in _LOSING:
                lost += 1
                error = _reclaim_error(result.code, handle.path)
                self.story.not_reclaimed([handle], error)
                self.flight.lose(handle, error)
            else:
                left[handle.handle] = handle
        return lost

    async def _attended(self, channel: Channel, body: Reclaim) -> Envelope:
        """Send and wait while the node shows signs of life, RECLAIM_MS_MAX at most."""
        answer = channel.begin(body, trace=CURRENT.get())
        watch = asyncio.ensure_future(channel.watch(lambda: CLIENT_HEDGE_MS))
        timer = asyncio.ensure_future(self.clock.sleep_ms(limits.RECLAIM_MS_MAX))
        try:
            await asyncio.wait((answer, watch, timer), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise Unavailable(f"{channel.peer} does not answer a reclaim")
        finally:
            watch.cancel()
            timer.cancel()
            if not answer.done():
                answer.cancel()

    # The sweeper
    # -----------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        last = self.clock.monotonic_ms()
        pinged = last
        work = Signal()
        while True:
            if self.flight.idle:
                self.flight.on_work(work.set)
                await work.wait(self.clock)
                last = self.clock.monotonic_ms()
            await self.clock.sleep_ms(limits.SWEEP_MS)
            now = self.clock.monotonic_ms()
            if now - last > STALL_MS:
                self.flight.forgive_silence(now)
            last = now
            self.flight.expire(now)
            session = self._session
            if session is None:
                continue
            silent_ms = self.flight.silent_ms(now)
            if silent_ms > CLIENT_HEDGE_MS:
                session.end(
                    SessionEnd(
                        "silence",
                        Unavailable(f"{session.address} was silent for {silent_ms} ms"),
                        detect_ms=silent_ms,
                    )
                )
            elif silent_ms > 0 and now - pinged >= HEARTBEAT_MS:
                pinged = now
                session.channel.begin_ping()

    # The tender
    # ------------------------------------------------------------------------------------

    async def _tend_session(self, session: Session) -> None:
        """Restore the warm stream, then the witness, and look after both while the session
        lasts."""
        pulse = self._tasks.spawn(self._pulse(session), "pulse")
        witness: asyncio.Task[None] | None = None
        try:
            if self._want_warm:
                await self._seek_warm(session)
            if self._want_witness:
                witness = self._tasks.spawn(self._heed_witness(session), "witness")
            if self._want_warm:
                await self._keep_warm(session)
            await asyncio.wait((pulse,))
        finally:
            pulse.cancel()
            if witness is not None:
                witness.cancel()

    async def _pulse(self, session: Session) -> None:
        """Look after the handles of a client that asks for nothing: an isolated node would let them
        expire unnoticed. Two pings must stay unheard, as one may be this process's own stall."""
        channel = session.channel
        silent = 0
        began = 0
        while silent < 2:
            if not silent:
                await self.clock.sleep_ms(limits.WARM_CHECK_MS)
                if not self.flight.handles:
                    continue
                began = self.clock.monotonic_ms()
            asked = self.clock.monotonic_ms()
            channel.begin_ping()
            await self.clock.sleep_ms(CLIENT_HEDGE_MS)
            silent = silent + 1 if channel.last_heard_ms < asked else 0
        silent_ms = self.clock.monotonic_ms() - began
        session.end(
            SessionEnd(
                "silence",
                Unavailable(f"{session.address} was silent for {silent_ms} ms"),
                detect_ms=silent_ms,
            )
        )

    async def _keep_warm(self, session: Session) -> None:
        retry_ms = limits.WARM_RETRY_MS
        while True:
            if await self._check_warm():
                retry_ms = limits.WARM_RETRY_MS
                await self._warm_pause(limits.WARM_CHECK_MS)
            elif await self._seek_warm(session):
                retry_ms = limits.WARM_RETRY_MS
            else:
                await self.clock.sleep_ms(retry_ms)
                retry_ms = min(2 * retry_ms, limits.WARM_RETRY_MS_MAX)

    async def _warm_pause(self, pause_ms: int) -> None:
        """Wait ``pause_ms``, or less when the warm stream ends."""
        warm = self._warm
        if warm is None:
            return
        timer = asyncio.ensure_future(self.clock.sleep_ms(pause_ms))
        try:
            await asyncio.wait((warm.ended, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    async def _check_warm(self) -> bool:
        """Ping the warm stream; one that does not answer is dropped."""
        warm = self._warm
        if warm is None:
            return False
        try:
            if warm.alive:
                await within(self.clock, CLIENT_HEDGE_MS, warm.call(Ping()), f"ping {warm.peer}")
                return True
        except SofsError:
            pass  # Whatever it was: this stream is no standby.
        if self._warm is warm:
            self._warm = None
        await warm.close()
        return False

    async def _seek_warm(self, session: Session) -> bool:
        if self._warm is not None and self._warm.alive:
            if node_of(self._warm) != session.node:
                return True
            await self._warm.close()
        self._warm = None
        others = [a for a in self._book.order() if a != session.address]
        if not others:
            return False
        try:
            channel = await self._dialer.first(others, lambda c: node_of(c) != session.node)
        except SofsError:
            return False  # Tried again by the tender; a failover walks the addresses meanwhile.
        if self._warm is not None and self._warm.alive:
            await channel.close()  # A move brought its own meanwhile.
            return True
        self._warm = channel
        self._take_hint(channel)
        return True

    async def _heed_witness(self, session: Session) -> None:
        """Register with a witness; leave the node, or move, when it says so."""
        witness = WitnessClient(
            self._dialer,
            self.clock,
            self.client_id,
            self.share,
            self.mover.move,
            self._tasks,
            self.story.events,
        )
        self._witness = witness
        notice = await witness.heed(session.channel, session.address, session.node)
        if notice is not None:
            why = Unavailable(f"witness: {notice.reason}")
            session.end(SessionEnd(notice.reason, why, trace=notice.trace))


_LOSING: Final = (ObjectNameNotFound.code, AccessDenied.code)


def _reclaim_error(code: str, path: str) -> SofsError:
    if code == ObjectNameNotFound.code:
        return HandleLost(
            f"{path}: the handle's timeout passed while this client was away, or an administrator "
            "closed it"
        )
    return AccessDenied(f"{path}: the handle belongs to another principal")
