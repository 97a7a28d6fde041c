"""What tests of the transport share: a transport on the loopback, pings and their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TypeVar

from sofs.constants import MIB
from sofs.core.messages import Ping, Pong
from sofs.ports.stream import Accept, Envelope, Listener, Stream
from sofs.rpc.transport import GrpcTransport

T = TypeVar("T")
CREDENTIAL = "c" * 43
WAIT_S = 30  # Longer than anything here takes; reaching it is a failure.


class LoopClock:
    """Real time."""

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ns(self) -> int:
        return time.time_ns()

    async def sleep_ms(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1000)


class Loopback:
    """What a test needs to talk to itself."""

    def __init__(self) -> None:
        self.transport = GrpcTransport(CREDENTIAL, LoopClock())
        self.listeners: list[Listener] = []
        self.streams: list[Stream] = []

    async def listen(self, accept: Accept, address: str = "127.0.0.1:0") -> Listener:
        listener = await self.transport.listen(address, accept)
        self.listeners.append(listener)
        return listener

    async def connect(self, address: str, service: str = "file") -> Stream:
        stream = await self.transport.connect(address, service, timeout_ms=WAIT_S * 1000)
        self.streams.append(stream)
        return stream

    async def close(self) -> None:
        for stream in self.streams:
            stream.close()
        await self.transport.close()
        for listener in self.listeners:
            await listener.close()

    async def echo(self, service: str, stream: Stream) -> None:
        """An accept that answers each Ping with its data."""
        while True:
            await stream.send([answer(envelope) for envelope in await stream.receive()])


def answer(envelope: Envelope) -> Envelope:
    assert isinstance(envelope.body, Ping)
    return Envelope(envelope.call, True, Pong(nonce=envelope.body.nonce), envelope.data)


def ping(nonce: int, data: bytes = b"") -> list[Envelope]:
    return [Envelope(nonce, False, Ping(nonce=nonce), data)]


def nonces(envelopes: Sequence[Envelope]) -> list[int]:
    return [e.body.nonce for e in envelopes if isinstance(e.body, Ping | Pong)]


async def wait(work: asyncio.Future[T]) -> T:
    """Wait for a task that must end."""
    return await asyncio.wait_for(work, WAIT_S)


async def blocked(stream: Stream) -> asyncio.Task[None]:
    """Return a sender that waits, because the peer reads nothing."""
    sent = 0

    async def sender() -> None:
        nonlocal sent
        while True:
            await stream.send(ping(0, bytes(MIB)))
            sent += 1

    task = asyncio.create_task(sender())
    seen = -1
    while seen != sent or sent == 0:
        seen = sent
        await asyncio.sleep(0.2)
    assert not task.done()
    return task
