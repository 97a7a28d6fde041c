"""Calls over a standing stream: many in flight both ways, one writer, all that is queued in one
frame.

Theory of operation. A ``Channel`` wraps a ``Stream``. ``call`` numbers a request and waits for the
reply with the same number; ``reply`` answers one. Whatever is queued while the writer is busy
leaves as one frame (that is where group commit's batches come from), and at once when it is idle;
there is no timer. Exactly one task writes the stream (two concurrent writes of one gRPC stream
raise where nobody looks).

Failing. When the stream ends, for whatever reason, every pending call raises ``Unavailable``: its
outcome is unknown to the caller, who sends the same operation again with the same op id. Nothing is
retried here. An exception in a handler is answered as a ``Failure`` when it is a ``SofsError``;
anything else ends the channel and goes to ``on_crash``: a bug must not become a hang.

Fencing. A reply that serves data read under a claim is queued with ``checked=True``. Before a frame
with such a reply leaves, ``check`` runs once: it began after every read that the frame covers (R3).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from sofs.constants import (
    FRAME_MESSAGES_MAX,
    HEARTBEAT_MS,
    PROTOCOL_VERSION,
)
from sofs.core.messages import Failure, Hello, HelloReply, Message, Ping, Pong
from sofs.errors import (
    InvalidParameter,
    LimitExceeded,
    MessageTooLarge,
    ProtocolError,
    ProtocolVersion,
    SofsError,
    Unavailable,
    WrongIncarnation,
    error_from_code,
)
from sofs.ports.runtime import Clock
from sofs.ports.store import Buffer
from sofs.ports.stream import Envelope, Stream, Transport
from sofs.services.tasks import Tasks

QUEUED_BYTES_MAX: Final = 64 * 1024 * 1024  # Waiting to be written; beyond it the channel ends.
CALLS_MAX: Final = 4096  # In flight one way; beyond it LimitExceeded.
# A frame takes no more messages once it holds this much: large ones travel one a frame, so that one
# is copied while the one before it is being written.
FRAME_BULK_BYTES: Final = 1024 * 1024
_HEADER_BYTES_GUESS: Final = 256

M = TypeVar("M", bound=Message)
T = TypeVar("T")
Handler = Callable[["Channel", Envelope], None]
"""Gets each request on the event loop, in order. It replies now or later, or spawns
``channel.serve``."""


class ReplySink(Protocol):
    """Takes the outcome of one call at once, inside the channel's reader: a future, or what spares
    one. Its methods must not raise."""

    def done(self) -> bool: ...

    def set_result(self, envelope: Envelope, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...


class Channel:
    """One side of a stream. Create it, then ``start``; it ends once, for one reason."""

    def __init__(
        self,
        stream: Stream,
        clock: Clock,
        handler: Handler,
        *,
        name: str,
        on_crash: Callable[[BaseException], None],
        check: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.peer = stream.peer
        self.remote: Hello | HelloReply | None = None
        self.ended: asyncio.Future[SofsError] = asyncio.get_running_loop().create_future()
        self._stream = stream
        self._clock = clock
        self._handler = handler
        self._check = check
        self._on_crash = on_crash
        self._tasks = Tasks(name, self._crash)
        self._calls: dict[int, ReplySink] = {}
        self._next_call = 1
        self._queue: deque[tuple[Envelope, bool]] = deque()
        self._queued_bytes = 0
        self._wake: asyncio.Future[None] | None = None
        self.last_heard_ms = clock.monotonic_ms()
        self.frames_sent = 0
        self.messages_sent = 0
        self.messages_received = 0

    def start(self) -> None:
        self._tasks.spawn(self._read(), "read")
        self._tasks.spawn(self._write(), "write")

    @property
    def alive(self) -> bool:
        return not self.ended.done()

    @property
    def queued_bytes(self) -> int:
        """About how many bytes wait to be written: a slow reader shows here."""
        return self._queued_bytes

    # Sending
    # ---------------------------------------------------------------------------------------

    def post(self, envelope: Envelope, *, checked: bool = False) -> None:
        """Queue an envelope; silently dropped when the channel has ended (the peer learns from the
        end)."""
        if self.ended.done():
            return
        self._queue.append((envelope, checked))
        self._queued_bytes += len(envelope.data) + _HEADER_BYTES_GUESS
        if self._queued_bytes > QUEUED_BYTES_MAX:
            self.end(
                LimitExceeded(f"{self.name}: the peer does not read; {QUEUED_BYTES_MAX} bytes wait")
            )
        elif self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def notify(self, body: Message, data: Buffer = b"") -> None:
        """Send a message that has no reply."""
        self.post(Envelope(0, False, body, data))

    def reply(
        self,
        call: int,
        body: Message,
        data: Buffer = b"",
        *,
        checked: bool = False,
        trace: bytes = b"",
    ) -> None:
        """Answer request ``call``; ``checked``: the claim is checked after this moment, before it
        leaves."""
        if call:
            self.post(Envelope(call, True, body, data, trace), checked=checked)

    def fail(self, call: int, error: SofsError) -> None:
        """Answer request ``call`` with an error."""
        # A refusal tells of state too ("exists", "locked", "closed"): it is checked like a read.
        self.reply(call, Failure(error.code, error.message, error.retry_after_ms), checked=True)

    def begin(
        self, body: Message, data: Buffer = b"", trace: bytes = b""
    ) -> asyncio.Future[Envelope]:
        """Send a request and return the future of its reply's envelope (may hold a ``Failure``).
        ``trace``: the context of the span that asks, if it is recorded.

        Raises Unavailable when the channel has ended and LimitExceeded with CALLS_MAX in flight.
        """
        future: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        self.begin_to(future, body, data, trace)
        return future

    def begin_to(
        self, sink: ReplySink, body: Message, data: Buffer = b"", trace: bytes = b""
    ) -> None:
        """Like ``begin``, with the outcome given to ``sink`` directly."""
        if self.ended.done():
            raise self._unavailable()
        if len(self._calls) >= CALLS_MAX:
            raise LimitExceeded(f"{self.name}: {CALLS_MAX} calls are in flight", retry_after_ms=10)
        call = self._next_call
        self._next_call += 1
        self._calls[call] = sink
        self.post(Envelope(call, False, body, data, trace))

    async def call(
        self, body: Message, data: Buffer = b"", trace: bytes = b""
    ) -> tuple[Message, Buffer]:
        """Send a request and return (reply, its data); raises the error that the peer answered, or
        Unavailable (outcome unknown) when the channel ends first. Waits without a limit: callers
        use ``within``."""
        envelope = await self.begin(body, data, trace)
        return result_of(envelope)

    def serve(self, call: int, work: Coroutine[Any, Any, Message], trace: bytes = b"") -> None:
        """Run ``work`` as a task of this channel and answer ``call`` with its result or
        SofsError. ``trace``: goes along with the result."""
        task = self._tasks.spawn(self._serve(call, work, trace), f"serve-{call}")
        # A channel that ends at once cancels the task before it ever looked at ``work``.
        task.add_done_callback(lambda _: work.close())

    async def _serve(self, call: int, work: Coroutine[Any, Any, Message], trace: bytes) -> None:
        try:
            self.reply(call, await work, checked=True, trace=trace)
        except SofsError as error:
            self.fail(call, error)

    # The two loops
    # ---------------------------------------------------------------------------------

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self._wake = loop.create_future()
                await self._wake
                self._wake = None
                await self._clock.sleep_ms(0)  # What others ask for in this turn goes along.
            batch, checked = self._take_frame()
            try:
                if checked and self._check is not None:
                    await self._check()
                await self._send(batch)
            except SofsError as error:
                self.end(error)
                return

    async def _send(self, batch: list[Envelope]) -> None:
        """Send a batch as one frame; when the guess of its size was too low, or one of its messages
        has a field that does not fit the wire, as several. Nothing was sent then, so the one
        message that cannot be sent fails alone."""
        try:
            await self._stream.send(batch)
        except (MessageTooLarge, InvalidParameter) as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._send(batch[:middle])
                await self._send(batch[middle:])
            elif batch[0].is_reply:
                refusal = Failure(error.code, error.message)
                await self._stream.send([Envelope(batch[0].call, True, refusal)])
            elif batch[0].call:
                future = self._calls.pop(batch[0].call, None)
                if future is not None and not future.done():
                    future.set_exception(error)
            else:
                # Nobody waits for its answer, so nobody would learn that the peer missed it.
                self.end(error)
            return
        self.frames_sent += 1
        self.messages_sent += len(batch)

    def _take_frame(self) -> tuple[list[Envelope], bool]:
        batch: list[Envelope] = []
        n_bytes, any_checked = 0, False
        while self._queue and len(batch) < FRAME_MESSAGES_MAX:
            envelope, checked = self._queue[0]
            size = len(envelope.data) + _HEADER_BYTES_GUESS
            if batch and n_bytes + size > FRAME_BULK_BYTES:
                break
            self._queue.popleft()
            n_bytes += size
            any_checked = any_checked or checked
            batch.append(envelope)
        self._queued_bytes -= n_bytes
        return batch, any_checked

    async def _read(self) -> None:
        while True:
            try:
                envelopes = await self._stream.receive()
            except SofsError as error:
                self.end(error)
                return
            self.last_heard_ms = self._clock.monotonic_ms()
            self.messages_received += len(envelopes)
            for envelope in envelopes:
                self._dispatch(envelope)

    def _dispatch(self, envelope: Envelope) -> None:
        if envelope.is_reply:
            future = self._calls.pop(envelope.call, None)
            if future is not None and not future.done():
                future.set_result(envelope)
            return
        if isinstance(envelope.body, Ping):
            self.reply(envelope.call, Pong(envelope.body.nonce))
            return
        try:
            self._handler(self, envelope)
        except SofsError as error:
            self.fail(envelope.call, error)
        except Exception as error:
            self._crash(error)

    # Ending
    # ----------------------------------------------------------------------------------------

    def _crash(self, error: BaseException) -> None:
        self.end(Unavailable(f"{self.name}: internal error: {error!r}"))
        self._on_crash(error)

    def end(self, reason: SofsError) -> None:
        """End the channel now: pending calls raise Unavailable, queued messages are dropped."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        self._stream.close()
        self._queue.clear()
        calls, self._calls = self._calls, {}
        for sink in calls.values():
            if not sink.done():
                sink.set_exception(self._unavailable())
            if isinstance(sink, asyncio.Future) and not sink.cancelled():
                sink.exception()  # A caller that gave up does not leave "never retrieved" behind.
        self._tasks.cancel()

    def _unavailable(self) -> Unavailable:
        reason = self.ended.result()
        error = Unavailable(f"{self.name} ended: {reason}")
        error.refused = getattr(reason, "refused", False)
        return error

    async def close(self) -> None:
        """End the channel and wait for its tasks."""
        self.end(Unavailable(f"{self.name} was closed"))
        await self._tasks.close()

    # Proof of life
    # ---------------------------------------------------------------------------------

    async def watch(self, silence_ms: Callable[[], int]) -> None:
        """Ping every HEARTBEAT_MS; return when the channel ended or nothing was heard for
        ``silence_ms()``.

        Our own stall is not the peer's silence: a gap in our own beat restarts the count.
        """
        last_beat = self._clock.monotonic_ms()
        self.last_heard_ms = last_beat
        while self.alive:
            self.begin_ping()
            await self._clock.sleep_ms(HEARTBEAT_MS)
            now = self._clock.monotonic_ms()
            if now - last_beat > 2 * HEARTBEAT_MS + 50:
                self.last_heard_ms = now
            last_beat = now
            if now - self.last_heard_ms > silence_ms():
                return

    def begin_ping(self) -> None:
        """Queue a heartbeat whose answer only moves ``last_heard_ms``."""
        self.post(Envelope(self._next_call, False, Ping()))
        self._next_call += 1


def result_of(envelope: Envelope) -> tuple[Message, Buffer]:
    """Return a reply's (body, data), or raise the error it carries."""
    body = envelope.body
    if isinstance(body, Failure):
        raise error_from_code(body.code, body.text, body.retry_after_ms)
    return body, envelope.data


def expect(reply: tuple[Message, Buffer], kind: type[M]) -> M:
    """Return the reply's body as ``kind``; another message is the peer's protocol error."""
    if not isinstance(reply[0], kind):
        raise ProtocolError(f"expected {kind.__name__}, got {type(reply[0]).__name__}")
    return reply[0]


async def within(clock: Clock, limit_ms: float, work: Awaitable[T], what: str) -> T:
    """Await ``work`` for at most ``limit_ms``; then cancel it and raise Unavailable (outcome
    unknown)."""
    task = asyncio.ensure_future(work)
    # It may fail in the very turn in which it is cancelled: then nobody waits for its error.
    task.add_done_callback(_retrieved)
    timer = asyncio.ensure_future(clock.sleep_ms(limit_ms))
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Unavailable(f"{what}: no answer within {limit_ms:.0f} ms")
    finally:
        timer.cancel()
        if not task.done():
            task.cancel()


def _retrieved(task: asyncio.Future[T]) -> None:
    if not task.cancelled():
        task.exception()


async def open_channel(
    transport: Transport,
    clock: Clock,
    address: str,
    service: str,
    hello: Hello,
    handler: Handler,
    *,
    name: str,
    on_crash: Callable[[BaseException], None],
    timeout_ms: int,
    check: Callable[[], Awaitable[None]] | None = None,
) -> Channel:
    """Connect, start a channel and exchange Hello. Raises Unavailable (``refused`` as evidence),
    WrongIncarnation when the peer is not ``hello.target``, ProtocolVersion, CredentialRefused."""
    stream = await transport.connect(address, service, timeout_ms=timeout_ms)
    channel = Channel(stream, clock, handler, name=name, on_crash=on_crash, check=check)
    channel.start()
    hello.protocol_version = PROTOCOL_VERSION
    try:
        reply = await within(clock, timeout_ms, channel.call(hello), f"hello to {address}")
        channel.remote = expect(reply, HelloReply)
    except BaseException:
        await channel.close()
        raise
    return channel


def check_hello(envelope: Envelope, incarnation: bytes) -> Hello:
    """Server side of Hello: return it, or raise why the stream is refused (R2)."""
    hello = envelope.body
    if not isinstance(hello, Hello):
        raise ProtocolError("the first message of a stream must be Hello")
    if hello.protocol_version != PROTOCOL_VERSION:
        raise ProtocolVersion(
            f"the client speaks protocol {hello.protocol_version}, this server {PROTOCOL_VERSION}; "
            "upgrade the older one"
        )
    if hello.target and hello.target != incarnation:
        raise WrongIncarnation("the incarnation you mean is gone; look the part up again")
    return hello
