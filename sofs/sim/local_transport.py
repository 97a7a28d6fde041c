"""An in-process Transport: streams are pairs of queues on one event loop.

Contract of ``sofs/ports/stream.py``, without sockets: for tests of services. Faults:
``cut(address)`` ends every stream of a listener (a killed process), ``freeze(address)`` holds what
is sent to and from it until ``thaw`` (a stopped process), ``refuse(address)`` is a host where
nobody listens.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Sequence

from sofs.errors import InvalidParameter, SofsError, Unavailable
from sofs.ports.stream import Accept, Envelope, Listener, Stream, Transport

SERVICES = ("file", "volume", "resume_key", "witness", "dns", "cluster")


class LocalStream(Stream):
    """One end of a pair."""

    def __init__(self, hub: LocalHub, peer: str, server: str) -> None:
        self._hub = hub
        self._peer = peer
        self.server = server
        self.other: LocalStream | None = None
        self._inbox: deque[list[Envelope]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._ended = False

    @property
    def peer(self) -> str:
        return self._peer

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        if self._ended or self.other is None:
            raise Unavailable(f"the stream to {self._peer} ended")
        copies = [
            Envelope(e.call, e.is_reply, copy.deepcopy(e.body), bytes(e.data), e.trace)
            for e in envelopes
        ]
        self.other._inbox.append(copies)
        self.other.wake()

    async def receive(self) -> list[Envelope]:
        while True:
            if not self._hub.is_frozen(self.server):
                if self._inbox:
                    return self._inbox.popleft()
                if self._ended:
                    raise Unavailable(f"the stream to {self._peer} ended")
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake

    def wake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def close(self) -> None:
        for end in (self, self.other):
            if end is not None:
                end._ended = True
                end.wake()


class _LocalListener(Listener):
    def __init__(self, hub: LocalHub, address: str) -> None:
        self._hub = hub
        self._address = address

    @property
    def address(self) -> str:
        return self._address

    async def close(self) -> None:
        self._hub.cut(self._address)


class LocalHub:
    """The network that local transports share."""

    def __init__(self) -> None:
        self._listeners: dict[str, Accept] = {}
        self._streams: dict[str, list[LocalStream]] = {}
        self._frozen: dict[str, None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._next_port = 20_000
        self.crashes: list[BaseException] = []

    def transport(self) -> LocalTransport:
        return LocalTransport(self)

    def is_frozen(self, address: str) -> bool:
        return address in self._frozen

    def freeze(self, address: str) -> None:
        """Hold all traffic of the listener at ``address`` until ``thaw``."""
        self._frozen[address] = None

    def thaw(self, address: str) -> None:
        self._frozen.pop(address, None)
        for stream in self._streams.get(address, []):
            stream.wake()

    def cut(self, address: str) -> None:
        """Stop listening at ``address`` and reset its streams, as the death of its process does."""
        self._listeners.pop(address, None)
        self._frozen.pop(address, None)
        for stream in self._streams.pop(address, []):
            stream.close()

    async def connect(self, address: str, service: str) -> LocalStream:
        if service not in SERVICES:
            raise InvalidParameter(f"there is no service {service!r}")
        accept = self._listeners.get(address)
        if accept is None:
            error = Unavailable(f"nobody listens at {address}")
            error.refused = True
            raise error
        ours = LocalStream(self, address, address)
        theirs = LocalStream(self, "local", address)
        ours.other, theirs.other = theirs, ours
        self._streams.setdefault(address, []).extend((ours, theirs))
        task = asyncio.get_running_loop().create_task(self._accept(accept, service, theirs))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return ours

    async def _accept(self, accept: Accept, service: str, stream: LocalStream) -> None:
        try:
            await accept(service, stream)
        except SofsError:
            pass  # The contract: the stream ends when accept raises.
        except Exception as error:
            self.crashes.append(error)
        finally:
            stream.close()

    def listen(self, address: str, accept: Accept) -> Listener:
        host, _, port = address.rpartition(":")
        if port == "0" or address in self._listeners:
            self._next_port += 1
            address = f"{host}:{self._next_port}"
        self._listeners[address] = accept
        return _LocalListener(self, address)


class LocalTransport(Transport):
    """A Transport on a ``LocalHub``."""

    def __init__(self, hub: LocalHub) -> None:
        self._hub = hub

    async def connect(self, address: str, service: str, *, timeout_ms: int) -> Stream:
        return await self._hub.connect(address, service)

    async def listen(self, address: str, accept: Accept) -> Listener:
        return self._hub.listen(address, accept)
