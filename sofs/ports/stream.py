"""Standing streams of frames between parts. gRPC, the simulator and a direct lane implement
this."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sofs.core.messages import Message
from sofs.ports.store import Buffer


@dataclass(slots=True)
class Envelope:
    """One message of a frame. ``call`` pairs a request with its reply within one stream and
    direction; 0 means no reply is wanted. ``data`` is bulk payload that belongs to the message."""

    call: int
    is_reply: bool
    body: Message
    data: Buffer = b""
    trace: bytes = b""


@dataclass(slots=True)
class Frame:
    """What one write of a stream carries: many messages, in order."""

    envelopes: list[Envelope] = field(default_factory=list)


class Stream(Protocol):
    """A connected two-way stream. Either side may end it; then both sides' calls raise
    Unavailable."""

    @property
    def peer(self) -> str:
        """The other side's address, for people."""
        ...

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        """Send one frame. Called by one coroutine at a time. Raises Unavailable when the stream
        ended and MessageTooLarge (definite) when the frame is over MESSAGE_BYTES_MAX."""
        ...

    async def receive(self) -> list[Envelope]:
        """Return the next frame's messages. Raises Unavailable when the stream ended, ProtocolError
        for bytes that are no frame (the stream is then ended)."""
        ...

    def close(self) -> None:
        """End the stream now; pending calls raise Unavailable. Never blocks; may be called
        twice."""
        ...


class Listener(Protocol):
    @property
    def address(self) -> str:
        """``host:port`` as bound (the port asked for, or another when it was taken: R14)."""
        ...

    async def close(self) -> None: ...


Accept = Callable[[str, Stream], Awaitable[None]]
"""Called with the service name for each new stream that carried the credential; the stream ends
when it returns or raises."""


class Transport(Protocol):
    async def connect(self, address: str, service: str, *, timeout_ms: int) -> Stream:
        """Open a stream to ``service`` ("file", "volume", "resume_key", "witness", "dns",
        "cluster") at ``address``.

        Returns when the peer accepted it. Raises Unavailable (with ``refused`` set on the error
        when the peer's host said that nobody listens: that is evidence in the sense of R14),
        CredentialRefused, or Unavailable after ``timeout_ms``.
        """
        ...

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Serve all services at ``address``; falls back to a free port when it is taken (R14)."""
        ...
