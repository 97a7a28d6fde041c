"""Streams of frames over gRPC: ``ports.stream`` for real processes.

A stream is one bidirectional gRPC call on a channel (a TCP connection) of its own, so that no
stream waits for another's, and a new connect never waits for the back-off of a dead channel. gRPC
sees raw bytes only; ``frames`` makes and reads them, ``stream`` is one side of a call, ``listener``
serves.

What may fail: a killed peer resets the connection and ends its streams at once. A frozen peer
(SIGSTOP) stays silent: its kernel keeps the connections, sends wait when the window is full, and
the stream ends only when data, or a keepalive ping that is sent each KEEPALIVE_MS, stays
unacknowledged for KEEPALIVE_TIMEOUT_MS; whoever needs to know sooner watches for silence (R14).
"Connection refused" of a connect is told apart from all other failures, because it alone proves
that nobody listens.

There is no TLS: the credential and all data travel in the clear, so both ``listen`` and ``connect``
refuse addresses outside the loopback.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

import grpc
import grpc.aio

from sofs.errors import InvalidParameter, NotSupported, SofsError, Unavailable
from sofs.ports.runtime import Clock
from sofs.ports.stream import Accept, Listener, Stream
from sofs.rpc import PID
from sofs.rpc.address import join_address, require_loopback
from sofs.rpc.listener import GrpcListener
from sofs.rpc.options import ACCEPTED_KEY, CREDENTIAL_KEY, METHODS, channel_options
from sofs.rpc.status import error_of_connect
from sofs.rpc.stream import GrpcStream
from sofs.rpc.timing import within

LAST_WORDS_TASK: Final = "_AioCall._handle_status_once_received"  # Of grpc.aio, without a name.
LAST_WORDS_MS_MAX: Final = 1_000


class GrpcTransport:
    """``ports.stream.Transport`` over grpc.aio. Use it inside one event loop."""

    def __init__(self, credential: str, clock: Clock) -> None:
        """``credential``: the cluster's, offered by connects and demanded by listeners;
        InvalidParameter for an empty one or one that metadata cannot carry. NotSupported in the
        child of a fork: gRPC's threads stayed with its parent."""
        if os.getpid() != PID:
            raise NotSupported(
                "a process that used SOFS was forked, and SOFS cannot be used in its child: start "
                "processes with subprocess or multiprocessing's 'spawn' or 'forkserver' method"
            )
        if not credential or not credential.isascii() or not credential.isprintable():
            raise InvalidParameter("the credential must be printable ASCII; see rpc/credential.py")
        self._credential = credential
        self._clock = clock
        self._streams: dict[asyncio.Task[None], GrpcStream] = {}  # By their pumps.
        self._last_words: dict[asyncio.Task[Any], None] = {}
        self._listeners: list[GrpcListener] = []  # Those whose connections may still linger.

    async def connect(self, address: str, service: str, *, timeout_ms: int) -> Stream:
        """Open a stream; see ``ports.stream.Transport``. Raises InvalidParameter too, for an
        address outside the loopback or an unknown service."""
        method = METHODS.get(service)
        if method is None:
            raise InvalidParameter(f"service {service!r}; use one of {', '.join(METHODS)}")
        target = join_address(*require_loopback(address))
        others = _status_tasks()
        channel = grpc.aio.insecure_channel(target, options=channel_options(timeout_ms))
        call: Any = channel.stream_stream(method)(metadata=((CREDENTIAL_KEY, self._credential),))
        accepted = False
        try:
            refusal: list[SofsError] = []
            if not await within(self._clock, timeout_ms, _accepted(call, target, refusal)):
                raise Unavailable(f"{target} did not accept a stream within {timeout_ms} ms")
            if refusal:
                raise refusal[0]
            accepted = True
        finally:
            if not accepted:
                call.cancel()
                await channel.close()
            self._watch_last_words(others)
        stream = GrpcStream(target, call.read, call.write, call.cancel)
        pump = asyncio.create_task(_pump(stream, call, channel), name=f"pump-{service}-{target}")
        self._streams[pump] = stream
        pump.add_done_callback(self._pumped)
        return stream

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Serve all services; see ``ports.stream.Transport``. Raises InvalidParameter for an
        address outside the loopback, or none of this machine."""
        host, port = require_loopback(address)
        listener = GrpcListener(self._clock, self._credential.encode(), accept)
        await listener.start(host, port)
        self._listeners = [
            old for old in self._listeners if old.stopped is None or not old.stopped.done()
        ]
        self._listeners.append(listener)
        return listener

    async def close(self) -> None:
        """End all streams that connects made, and wait until gRPC is done with them and with
        connects that came to nothing. Needed before an event loop is closed while others of the
        process go on: gRPC tells a loop of its events from the threads of all of them, and drops
        the events of others when one loop is closed already ("Event loop is closed")."""
        pumps = list(self._streams)
        for stream in list(self._streams.values()):
            stream.close()
        if pumps:
            await asyncio.wait(pumps)
        await within(self._clock, LAST_WORDS_MS_MAX, self._heard())

    def _watch_last_words(self, others: list[asyncio.Task[Any]]) -> None:
        """Find the tasks in which grpc.aio waits for the last event of calls: they end when there
        is nothing more to come. A call that was cancelled says that it is over long before."""
        for task in _status_tasks():
            if task not in others and task not in self._last_words:
                self._last_words[task] = None
                task.add_done_callback(lambda done: self._last_words.pop(done, None))

    async def _heard(self) -> None:
        while self._last_words:
            await asyncio.wait(list(self._last_words))

    def _pumped(self, pump: asyncio.Task[None]) -> None:
        del self._streams[pump]
        error = None if pump.cancelled() else pump.exception()
        if error is not None:
            pump.get_loop().call_exception_handler(
                {"message": "the pump of a stream failed", "exception": error, "task": pump}
            )


async def _accepted(call: Any, target: str, refusal: list[SofsError]) -> None:
    """Wait for the server's mark; without it the call is over and ``refusal`` says why."""
    metadata = await call.initial_metadata()
    if not any(key == ACCEPTED_KEY for key, _ in metadata):
        refusal.append(error_of_connect(await call.code(), await call.details() or "", target))


def _status_tasks() -> list[asyncio.Task[Any]]:
    names = ((task, getattr(task.get_coro(), "__qualname__", "")) for task in asyncio.all_tasks())
    return [task for task, name in names if name == LAST_WORDS_TASK]


async def _pump(stream: GrpcStream, call: Any, channel: grpc.aio.Channel) -> None:
    try:
        try:
            await stream.pump()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # The loop is ending; otherwise the call was cancelled: the stream ended.
        await call.code()  # The last that gRPC has to say on this call.
    finally:
        await channel.close()
