"""The node's standing stream to the authority of its volume.

Theory. The owner of the highest claim on ``volume`` is the authority, wherever it runs; the claim
says where to find it. The link connects, registers the incarnation with its connected handles (R9),
and watches. When the stream ends or falls silent it looks for a newer claim and connects again,
for ever, as long as this life lasts; direct I/O goes on meanwhile under the tokens that are held.

``call`` survives such changes: a request whose answer did not arrive is sent again to whoever owns
the volume then. That is safe because a client's operations carry op ids, commits say where they
start, and the rest may be repeated. ``build`` makes the message at each sending. An answer is
handed to ``on_reply`` inside the channel's reader, in the order of the stream: a grant is installed
before the recall that comes behind it is looked at.

Fencing. An authority that says that we are fenced or unknown is not believed on its word: our own
claim check decides (R3). If our data log is sealed, ``on_sealed`` ends this life.

Probe. Before its first registration a process proves, together with the owner, that each of them
sees what the other makes on the root (``sofs.services.pair``): one round trip. Who is refused
registers nowhere, says so (``refused``), and tries again every REFUSED_BACKOFF_MS.

Loading. An owner that has claimed and does not serve yet refuses the stream with
FILE_NOT_AVAILABLE: it seals, and loads the database. That is to take less than LOADING_MS_MAX,
counted from the first such refusal since the last registration, over any number of owners. A
client's call pends so long; after that it is refused with FileNotAvailable, which is definite and
says when to ask again. Only a call of which no copy is unanswered can be: else its outcome is
unknown, and it keeps waiting.

May fail: CALLS_WAITING_MAX calls that wait for a link are LimitExceeded; without a link for the
deadline a call is Unavailable (its outcome unknown).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from sofs.constants import (
    DEADLINE_DEFAULT_MS,
    LOADING_MS_MAX,
    RECONNECT_BACKOFF_MS_MAX,
    SILENCE_MS,
)
from sofs.core.messages import (
    BoundHandle,
    Failure,
    Hello,
    Message,
    RegisterNode,
    RegisterNodeReply,
)
from sofs.core.trace import NO_CONTEXT, SpanKind
from sofs.errors import (
    DiskFull,
    Fenced,
    FileNotAvailable,
    LimitExceeded,
    OutcomeUnknown,
    SofsError,
    StaleGeneration,
    Unavailable,
    WrongIncarnation,
)
from sofs.ports.log import Claim, FencedStore
from sofs.ports.runtime import Clock
from sofs.ports.stream import Envelope, Transport
from sofs.ports.trace import CURRENT, NO_RECORDER, Recorder, span
from sofs.services.channel import Channel, expect, open_channel, result_of, within
from sofs.services.pair import PairProbe
from sofs.services.tasks import Tasks

VOLUME_ROLE: Final = "volume"
CALLS_WAITING_MAX: Final = 8192
BACKOFF_MS: Final = 10
CONNECT_MS: Final = 1000
REFUSED_BACKOFF_MS: Final = 2_000  # Somebody has to mend a mount, or to end a cluster.
LOADING_RETRY_MS: Final = 1000  # When a call that was refused for loading may come again.

Inbound = Callable[[Channel, Envelope], None]


class _Sink:
    """Takes the answer of one call inside the channel's reader."""

    __slots__ = ("_crash", "_future", "_on_reply")

    def __init__(
        self,
        future: asyncio.Future[Envelope],
        on_reply: Callable[[Message], None] | None,
        crash: Callable[[BaseException], None],
    ) -> None:
        self._future = future
        self._on_reply = on_reply
        self._crash = crash

    def done(self) -> bool:
        return self._future.done()

    def set_result(self, envelope: Envelope, /) -> None:
        if self._on_reply is not None and not isinstance(envelope.body, Failure):
            try:
                self._on_reply(envelope.body)
            except Exception as error:
                self._crash(error)
        if not self._future.done():
            self._future.set_result(envelope)

    def set_exception(self, error: BaseException, /) -> None:
        if not self._future.done():
            self._future.set_exception(error)
            self._future.exception()  # A caller that gave up leaves nothing "never retrieved".


class AuthorityLink:
    """Finds, joins and follows the authority; see the module."""

    def __init__(
        self,
        *,
        clock: Clock,
        transport: Transport,
        fenced: FencedStore,
        claim: Claim,
        node: str,
        tasks: Tasks,
        crash: Callable[[BaseException], None],
        own_check: Callable[[], Awaitable[None]],
        silence_ms: int = SILENCE_MS,
        recorder: Recorder = NO_RECORDER,
        pair: PairProbe | None = None,
    ) -> None:
        self._clock = clock
        self._pair = pair
        self._transport = transport
        self._fenced = fenced
        self._claim = claim
        self._node = node
        self._tasks = tasks
        self._crash = crash
        self._own_check = own_check
        self._silence_ms = silence_ms
        self._recorder = recorder
        self._owner_trace = b""  # Of the take-over that made the present owner one.
        self._channel: Channel | None = None
        self._live = False
        self._waiting: list[asyncio.Future[None]] = []
        self._n_calls = 0
        self._why_down = "the volume has no authority yet"
        self._loading_since_ms: int | None = None  # The first refusal since the registration.
        self.log_id = 0
        self.epoch = 0
        self.registrations = 0
        self.calls = 0  # Requests sent, for tests and status.
        self.inbound: Inbound = _refuse
        self.bound_handles: Callable[[], list[BoundHandle]] = list
        self.on_registered: Callable[[RegisterNodeReply], None] = _ignore

    def start(self) -> None:
        self._tasks.spawn(self._run(), "link")

    def end(self) -> None:
        """End the stream now; nothing more is sent or answered."""
        self._live = False
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.end(Unavailable("this node's life ended"))

    @property
    def connected(self) -> bool:
        return self._live

    # Calls
    # ---------------------------------------------------------------------------------------

    async def call(
        self,
        build: Callable[[], Message],
        on_reply: Callable[[Message], None] | None = None,
        *,
        deadline_ms: int | None = DEADLINE_DEFAULT_MS,
        own: bool = False,
    ) -> Message:
        """Send ``build()`` to the authority and return its answer, over as many links as it takes.

        Raises what the authority answered; Unavailable after ``deadline_ms`` (None: never) without
        an answer, with the outcome unknown; FileNotAvailable when the owner loads for longer than
        LOADING_MS_MAX and the call was not sent, or every copy was refused. ``own``: the node's own
        duty, in nobody's name; it has no deadline and no limit, and what may be sent again later
        is.

        A refusal of a copy says nothing about an earlier one that was sent and not answered: one
        that only asks to come later is not passed on then, but followed.
        """
        if own:
            deadline_ms = None
            CURRENT.set(NO_CONTEXT)  # Whoever's task it was spawned in.
        elif self._n_calls >= CALLS_WAITING_MAX:
            raise LimitExceeded(
                f"{CALLS_WAITING_MAX} calls wait for the authority", retry_after_ms=50
            )
        start = self._clock.monotonic_ms()
        self._n_calls += not own
        unanswered = False
        pause = BACKOFF_MS
        try:
            while True:
                await self._until_live(start, deadline_ms, refusable=not (own or unanswered))
                channel = self._channel
                if channel is None or not self._live:
                    continue
                try:
                    return await self._once(channel, build, on_reply)
                except (Unavailable, OutcomeUnknown) as error:
                    self._why_down = str(error)
                    unanswered = True
                except (Fenced, WrongIncarnation) as error:
                    unanswered = unanswered or not error.definite
                    await self._own_check()
                    # Our log lives: that authority is not one any more, or does not know us yet.
                    channel.end(Unavailable(f"the authority refused us: {error}"))
                except SofsError as error:
                    if not (own or unanswered) or not _comes_again(error):
                        raise
                    self._why_down = str(error)
                    pause = min(2 * pause, RECONNECT_BACKOFF_MS_MAX)
                if channel.alive:
                    self._check_deadline(start, deadline_ms)
                    await self._clock.sleep_ms(pause)
        finally:
            self._n_calls -= not own

    def _check_deadline(self, start_ms: int, deadline_ms: int | None) -> float | None:
        """Return the milliseconds that are left (None: no deadline), or raise Unavailable."""
        if deadline_ms is None:
            return None
        left = start_ms + deadline_ms - self._clock.monotonic_ms()
        if left <= 0:
            raise Unavailable(f"no authority answered within {deadline_ms} ms ({self._why_down})")
        return left

    async def _once(
        self,
        channel: Channel,
        build: Callable[[], Message],
        on_reply: Callable[[Message], None] | None,
    ) -> Message:
        future: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        channel.begin_to(_Sink(future, on_reply, self._crash), build(), trace=CURRENT.get())
        self.calls += 1
        return result_of(await future)[0]

    async def live(self, deadline_ms: int | None = None) -> None:
        """Return once an authority is registered with; Unavailable after ``deadline_ms``."""
        await self._until_live(self._clock.monotonic_ms(), deadline_ms)

    async def _until_live(
        self, start_ms: int, deadline_ms: int | None, *, refusable: bool = False
    ) -> None:
        if self._live and self._channel is not None and self._channel.alive:
            return
        if not CURRENT.get():  # A duty of the node itself, which may wait for ever.
            await self._wait_live(start_ms, deadline_ms, refusable)
            return
        with span(self._recorder, SpanKind.WAIT) as trace:
            await self._wait_live(start_ms, deadline_ms, refusable)
            self._recorder.link(trace, self._owner_trace)

    async def _wait_live(self, start_ms: int, deadline_ms: int | None, refusable: bool) -> None:
        while not (self._live and self._channel is not None and self._channel.alive):
            self._live = False
            if refusable and self._loads_too_long():
                raise FileNotAvailable(
                    f"the volume has been loading for more than {LOADING_MS_MAX} ms; ask again",
                    retry_after_ms=LOADING_RETRY_MS,
                )
            left = self._check_deadline(start_ms, deadline_ms)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            if left is None:
                await future
            else:
                try:
                    await within(self._clock, left, future, "the volume's authority")
                except Unavailable:
                    continue

    def _loads_too_long(self) -> bool:
        since = self._loading_since_ms
        return since is not None and self._clock.monotonic_ms() - since >= LOADING_MS_MAX

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # The stream
    # ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = BACKOFF_MS
        while True:
            before = self.registrations
            try:
                await self._connect_once()
            except SofsError as error:
                self._why_down = str(error)
                if isinstance(error, FileNotAvailable) and self._loading_since_ms is None:
                    self._loading_since_ms = self._clock.monotonic_ms()
            if self._loads_too_long():
                self._wake()  # Calls that may be refused leave; the others wait again.
            if self.registrations > before:
                backoff = BACKOFF_MS
            elif self.refused:
                backoff = REFUSED_BACKOFF_MS
            await self._clock.sleep_ms(backoff)
            backoff = min(2 * backoff, RECONNECT_BACKOFF_MS_MAX)

    async def _connect_once(self) -> None:
        """One connection's life, from the claim to the stream's end."""
        owner = await self._fenced.highest_claim(VOLUME_ROLE, hint=self.epoch)
        if owner is None or owner.epoch < self.epoch:
            raise Unavailable("the volume has no authority yet")
        hello = Hello(sender=self._claim.incarnation, target=owner.incarnation)
        channel = await open_channel(
            self._transport,
            self._clock,
            owner.endpoint,
            "volume",
            hello,
            self._on_message,
            name=f"{self._node} to {owner.part or 'authority'} {owner.epoch}",
            on_crash=self._crash,
            timeout_ms=CONNECT_MS,
            check=self._own_check,
        )
        self._channel = channel
        register = self._tasks.spawn(self._register(channel, owner), "register")
        try:
            await channel.watch(lambda: self._silence_ms)
        finally:
            if self._channel is channel:
                self._live = False
                self._channel = None
            register.cancel()
            await channel.close()

    async def _register(self, channel: Channel, owner: Claim) -> None:
        claim = self._claim
        token = await self._probe(channel, owner)
        if token is None:
            return
        request = RegisterNode(
            self._node, claim.incarnation, claim.endpoint, claim.nonce, self.bound_handles(), token
        )
        problem: SofsError | None = None

        def registered(body: Message) -> None:
            reply = expect((body, b""), RegisterNodeReply)
            self.epoch = owner.epoch
            self.log_id = reply.log_id
            self.registrations += 1
            self.on_registered(reply)

        future: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        try:
            channel.begin_to(_Sink(future, registered, self._crash), request)
            envelope = await future
            result_of(envelope)
        except (Fenced, WrongIncarnation, StaleGeneration) as error:
            problem = error
            await self._own_check()
            channel.end(Unavailable(f"registration was refused: {error}"))
        except SofsError as error:
            problem = error
            channel.end(Unavailable(f"registration failed: {error}"))
        else:
            self._live = True
            self._owner_trace = envelope.trace
            self._loading_since_ms = None
            if token and self._pair is not None:
                self._pair.passes()
            self._wake()
        if token and self._pair is not None:
            await self._pair.end(token, problem)

    async def _probe(self, channel: Channel, owner: Claim) -> bytes | None:
        """Begin the two-party probe unless this process has passed it (R11); the registration ends
        it. Returns its token, b"" for none, or None when we are not to register: then the stream
        is ended."""
        pair, claim = self._pair, self._claim
        if pair is None or pair.passed:
            return b""
        try:
            who = f"{owner.part or 'the authority'} at {owner.endpoint}"
            return await pair.begin(channel, who, (claim.role, int(claim.epoch)))
        except SofsError as error:
            channel.end(Unavailable(f"the two-party probe did not pass: {error}"))
            return None

    @property
    def refused(self) -> str:
        """Why this process may not serve the volume (R11); "" while it may."""
        return "" if self._pair is None else self._pair.refusal

    def _on_message(self, channel: Channel, envelope: Envelope) -> None:
        if channel is not self._channel:
            channel.end(Unavailable("the node follows a newer authority"))
            return
        self.inbound(channel, envelope)


def _comes_again(error: SofsError) -> bool:
    """Does the refusal only say "not now"?"""
    return error.retry == "same-call" or isinstance(error, DiskFull)


def _refuse(channel: Channel, envelope: Envelope) -> None:
    channel.fail(envelope.call, Unavailable("this node's life has not begun"))


def _ignore(reply: RegisterNodeReply) -> None:
    return None
