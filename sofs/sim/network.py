"""A simulated network: the ``Transport`` port between simulated processes.

Fault model. A stream is a TCP connection: what it carries arrives in order or not at all, and a
part may arrive before it breaks. Across streams nothing is ordered: each has its own delay. Frames
go through the wire codec, so no two processes share an object.

- A *cut* from one address to another holds what is sent that way, as retransmission does; the
  other way may still work. When it heals, the streams go on, or are reset, as drawn. Streams that
  were cut for longer than the keepalive end.
- A process that dies resets its streams; what it had sent may still arrive, or be lost with the
  reset. When its machine loses power nobody says anything, until the machine is up again.
- A frozen process's system accepts connections; it answers nothing until it thaws. Whoever gave up
  in between left a stream that is dead on arrival.
- A connect is refused if nobody listens and the machine is up; else it takes its whole time limit.
- A receiver that does not read stops the sender (WINDOW_BYTES).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from sofs.errors import InvalidParameter, SofsError, Unavailable, invariant
from sofs.ports.stream import Accept, Envelope, Listener, Stream
from sofs.rpc.frames import decode, encode
from sofs.sim.world import Killed, SimProcess, World

SERVICES: Final = ("file", "volume", "resume_key", "witness", "cluster")
WINDOW_BYTES: Final = 256 * 1024
INBOX_FRAMES_MAX: Final = 8
KEEPALIVE_MS: Final = 30_000
SYN_AGAIN_US: Final = 300_000


class SimStream(Stream):
    """One end of a connection."""

    def __init__(self, network: SimNetwork, process: SimProcess, peer: str) -> None:
        self.network = network
        self.process = process
        self._peer = peer
        self.other: SimStream  # Set when the pair is made.
        self.ended = ""  # Why; "" while it stands.
        self._inbox: deque[bytes] = deque()
        self._receiver: asyncio.Future[None] | None = None
        self._sender: asyncio.Future[None] | None = None
        # The way from here to the other end:
        self.in_flight = 0
        self.arrives_us = 0  # Of the last thing sent: nothing overtakes it.
        self.held: deque[tuple[bytes | None, str, int]] = deque()  # Behind a cut.
        self.lost = 0  # Everything sent before this number of things is lost.
        self.sent = 0

    @property
    def peer(self) -> str:
        return self._peer

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        data = encode(envelopes)
        self._alive()
        invariant(self._sender is None, f"two coroutines send on the stream to {self._peer}")
        self.network.post(self, data, "")
        while self.in_flight > WINDOW_BYTES or len(self.other._inbox) > INBOX_FRAMES_MAX:
            self._sender = asyncio.get_running_loop().create_future()
            try:
                await self._sender
            finally:
                self._sender = None
            self._alive()

    def _alive(self) -> None:
        if self.process.dead:
            raise Killed
        if self.ended:
            raise Unavailable(self.ended)

    async def receive(self) -> list[Envelope]:
        while not self._inbox:
            self._alive()
            invariant(self._receiver is None, f"two coroutines receive from {self._peer}")
            self._receiver = asyncio.get_running_loop().create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        if self.process.dead:
            raise Killed
        data = self._inbox.popleft()
        self.other.in_flight -= len(data)
        _wake(self.other._sender)
        return decode(data)

    def close(self) -> None:
        """End the stream; the other side learns of it in its turn."""
        if self.process.dead or self.network.world.loop.over:
            return
        self._inbox.clear()
        if not self.ended:
            self.end(f"the stream to {self._peer} was closed on this side")
            if self.network.draw.random() < 0.5:
                self.lost = self.sent  # A reset overtakes what is on its way.
            self.network.post(self, None, f"{self.process.name} ended the stream")

    def end(self, why: str) -> None:
        """This end is over."""
        if not self.ended:
            self.ended = why
            self.network.streams.pop(self, None)
            _wake(self._receiver)
            _wake(self._sender)

    def arrive(self, data: bytes | None, why: str) -> None:
        """Something came from the other end: a frame, or the end."""
        if self.process.dead or self.ended:
            return
        if data is None:
            self.end(why)
        else:
            self._inbox.append(data)
            _wake(self._receiver)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class SimListener(Listener):
    def __init__(
        self, network: SimNetwork, process: SimProcess, address: str, accept: Accept
    ) -> None:
        self._network = network
        self.process = process
        self._address = address
        self.accept = accept

    @property
    def address(self) -> str:
        return self._address

    async def close(self) -> None:
        if self._network.listeners.get(self._address) is self and not self.process.dead:
            del self._network.listeners[self._address]
            for stream in list(self._network.streams):
                if stream.process is self.process and stream.peer.startswith("from "):
                    stream.close()


class SimNetwork:
    """What connects the processes of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.draw = world.draw("network")
        self.listeners: dict[str, SimListener] = {}
        self.streams: dict[SimStream, None] = {}
        self.cuts: dict[tuple[str, str], int] = {}  # (from, to): since when, microseconds.
        self.delay_us = 200.0
        self.spikes = 0.0  # Chance of a frame that takes long.
        self.slow: dict[str, float] = {}  # Factor by address host.
        self.lag: dict[SimStream, int] = {}  # Microseconds more for what is sent on a stream.
        self._ports = 30_000
        self._tasks: dict[asyncio.Task[None], None] = {}

    # Faults ---------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Nothing goes from ``source`` to ``target`` any more, until ``heal``."""
        self.cuts.setdefault((source, target), self.world.loop.now_us)

    def heal(self) -> None:
        """All cuts are over. A stream goes on or is reset."""
        cuts, self.cuts = self.cuts, {}
        for stream in list(self.streams):
            pair = (stream.process.host, stream.other.process.host)
            back = (pair[1], pair[0])
            since = min(cuts.get(pair, 1 << 60), cuts.get(back, 1 << 60))
            if stream.ended or since == 1 << 60:
                continue
            long = self.world.loop.now_us - since > KEEPALIVE_MS * 1000
            if long or self.draw.random() < 0.2:
                self._break(stream, "was cut off")
        for stream in list(self.streams):
            self._release(stream)
            if stream.other.process.dead:  # What it said last, its reset above all.
                self._release(stream.other)

    def _release(self, stream: SimStream) -> None:
        held, stream.held = stream.held, deque()
        for data, why, number in held:
            self._fly(stream, data, why, number)

    def _break(self, stream: SimStream, why: str) -> None:
        stream.held.clear()
        stream.other.held.clear()
        for end in (stream, stream.other):
            if not end.process.dead:
                end.end(f"the stream to {end.peer} {why}")

    def process_died(self, process: SimProcess, *, reset: bool) -> None:
        """Its listeners are gone, its streams are reset, unless the whole machine is dark."""
        for address in [a for a, found in self.listeners.items() if found.process is process]:
            del self.listeners[address]
        for stream in [s for s in self.streams if s.process is process]:
            self.streams.pop(stream, None)
            stream.ended = "dead"
            if self.draw.random() < 0.5:
                stream.lost = stream.sent
            if reset:
                self.post(stream, None, f"{process.name} is gone")

    def machine_up(self, processes: Sequence[SimProcess]) -> None:
        """The machine runs again: it resets what it knows nothing of."""
        for process in processes:
            for stream in list(self.streams):
                if stream.other.process is process:
                    self.post(stream.other, None, f"{process.name} is gone")

    # Frames ---------------------------------------------------------------------------------

    def latency_us(self, source: SimProcess, target: SimProcess) -> int:
        mean = self.delay_us
        if source.host == target.host:
            mean /= 4
        if self.slow:
            mean *= max(self.slow.get(source.host, 1.0), self.slow.get(target.host, 1.0))
        delay = 10 + self.draw.expovariate(1 / mean)
        if self.spikes and self.draw.random() < self.spikes:
            delay += self.draw.random() * self.draw.choice((5_000, 50_000, 400_000))
        return int(delay)

    def post(self, stream: SimStream, data: bytes | None, why: str) -> None:
        """Send a frame, or the end (``data`` None), to the other end."""
        stream.sent += 1
        if data is not None:
            stream.in_flight += len(data)
        self._fly(stream, data, why, stream.sent)

    def _fly(self, stream: SimStream, data: bytes | None, why: str, number: int) -> None:
        loop = self.world.loop
        delay = self.latency_us(stream.process, stream.other.process)
        if self.lag:
            delay += self.lag.get(stream, 0)
        stream.arrives_us = max(stream.arrives_us + 1, loop.now_us + delay)
        loop.call_at(
            stream.arrives_us / 1e6,
            self._land, stream, data, why, number,
            context=self.world.context,
        )  # fmt: skip

    def _land(self, stream: SimStream, data: bytes | None, why: str, number: int) -> None:
        if data is not None and number <= stream.lost:
            return
        target = stream.other
        if stream.held or (stream.process.host, target.process.host) in self.cuts:
            stream.held.append((data, why, number))
            return
        if target.process.machine.up:
            target.arrive(data, why)

    # Connections ----------------------------------------------------------------------------

    async def connect(
        self, process: SimProcess, address: str, service: str, timeout_ms: int
    ) -> Stream:
        if service not in SERVICES:
            raise InvalidParameter(f"there is no service {service!r}")
        loop = self.world.loop
        outcome: asyncio.Future[SimStream] = loop.create_future()
        delay = self.draw.expovariate(1 / (2 * self.delay_us))
        syn = loop.call_at(
            loop.now_us / 1e6 + delay / 1e6,
            self._syn, process, address, service, outcome,
            context=self.world.context,
        )  # fmt: skip
        timer = loop.call_at(
            loop.time() + timeout_ms / 1000, _give_up, outcome, address, timeout_ms
        )
        try:
            return await outcome
        finally:
            timer.cancel()
            if outcome.cancelled():
                syn.cancel()

    def _syn(
        self,
        process: SimProcess,
        address: str,
        service: str,
        outcome: asyncio.Future[SimStream],
    ) -> None:
        """A connection request arrives, or is lost on its way and sent again."""
        if process.dead or outcome.done():
            return
        loop = self.world.loop
        host = address.rpartition(":")[0]
        listener = self.listeners.get(address)
        machine = self.world.hosts.get(host)
        dark = machine is None or not machine.up
        if self._apart(process.host, host) or (listener is None and dark):
            loop.call_at(
                (loop.now_us + SYN_AGAIN_US) / 1e6,
                self._syn, process, address, service, outcome,
                context=self.world.context,
            )  # fmt: skip
        elif listener is None:
            error = Unavailable(f"nobody listens at {address}")
            error.refused = True
            outcome.set_exception(error)
        else:
            # In the listener's process: a frozen one does this when it thaws.
            loop.call_soon(
                self._accepted, listener, process, service, outcome,
                context=listener.process.context,
            )  # fmt: skip

    def _apart(self, one: str, other: str) -> bool:
        return (one, other) in self.cuts or (other, one) in self.cuts

    def _accepted(
        self,
        listener: SimListener,
        process: SimProcess,
        service: str,
        outcome: asyncio.Future[SimStream],
    ) -> None:
        if self.listeners.get(listener.address) is not listener:
            if not outcome.done():
                outcome.set_exception(Unavailable(f"{listener.address} closed at this moment"))
            return
        ours = SimStream(self, process, listener.address)
        theirs = SimStream(self, listener.process, f"from {process.name}")
        ours.other, theirs.other = theirs, ours
        self.streams[theirs] = None
        loop = self.world.loop
        loop.call_at(
            (loop.now_us + self.latency_us(listener.process, process)) / 1e6,
            self._established, ours, outcome,
            context=self.world.context,
        )  # fmt: skip
        listener.process.spawn(self._serve(listener, service, theirs), f"accept-{service}")

    def _established(self, ours: SimStream, outcome: asyncio.Future[SimStream]) -> None:
        """Word of the acceptance is back; if nobody waits for it, the stream is dead on arrival."""
        if self._apart(ours.process.host, ours.other.process.host):
            loop = self.world.loop
            loop.call_at(
                (loop.now_us + SYN_AGAIN_US) / 1e6,
                self._established, ours, outcome,
                context=self.world.context,
            )  # fmt: skip
        elif ours.process.dead or outcome.done():
            ours.ended = "given up"
            self.post(ours, None, f"{ours.process.name} gave up")
        elif ours.other.process.dead:
            outcome.set_exception(Unavailable(f"{ours.peer} died at this moment"))
        else:
            self.streams[ours] = None
            outcome.set_result(ours)

    async def _serve(self, listener: SimListener, service: str, stream: SimStream) -> None:
        try:
            await listener.accept(service, stream)
        except SofsError:
            pass  # The contract: the stream ends when accept raises.
        except Killed:
            return
        except Exception as error:
            self.world.fail(f"{listener.process.name}: accept of {service} raised {error!r}")
        stream.close()

    def listen(self, process: SimProcess, address: str, accept: Accept) -> SimListener:
        host, _, port = address.rpartition(":")
        if port == "0" or address in self.listeners:
            self._ports += 1
            address = f"{host}:{self._ports}"
        made = self.listeners[address] = SimListener(self, process, address, accept)
        return made


def _give_up(outcome: asyncio.Future[SimStream], address: str, timeout_ms: int) -> None:
    if not outcome.done():
        outcome.set_exception(
            Unavailable(f"{address} did not accept a stream within {timeout_ms} ms")
        )


class SimTransport:
    """The ``Transport`` port of one process."""

    def __init__(self, network: SimNetwork, process: SimProcess) -> None:
        self._network = network
        self._process = process

    async def connect(self, address: str, service: str, *, timeout_ms: int) -> Stream:
        """Open a stream; see the port."""
        return await self._network.connect(self._process, address, service, timeout_ms)

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Serve at ``address``, or at another port when it is taken; see the port."""
        return self._network.listen(self._process, address, accept)
