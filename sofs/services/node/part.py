"""The node part of a process: one listener, and one life at a time behind it.

When a life ends (its log was sealed, the disk failed, a bug showed), the part composes a new one in
place, with a fresh incarnation and nothing of the old one's memory (R2), without costing a process
start. Lives that end quickly one after another are started with growing pauses; after
QUICK_ENDS_MAX of them, or when a rule of the program itself broke, ``on_exit`` is called and the
process is to exit: then its supervisor starts it again.

Where it listens it says to the DNS parts of its access point, if there are any: from its first life
on, and again when that changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sofs.core import events as e
from sofs.core.events import Value
from sofs.core.messages import (
    DnsMember,
    HelloReply,
    LookAtShares,
    Meet,
    MeetEnd,
    Message,
    PartState,
    PartStateReply,
    RegisterMember,
)
from sofs.errors import (
    NotSupported,
    SofsError,
    Unavailable,
    WrongIncarnation,
)
from sofs.ports.events import NO_EVENTS, Events
from sofs.ports.log import FencedStore
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.stream import Envelope, Listener, Stream, Transport
from sofs.ports.trace import NO_RECORDER, Recorder
from sofs.services.channel import Channel, check_hello
from sofs.services.dns.registrar import Registrars
from sofs.services.node.life import Node, NodeConfig, describe_end, is_fatal, start_life
from sofs.services.node.volumes import Volumes
from sofs.services.pair import PairProbe
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.node")

FILE_SERVICE: Final = "file"
REGAIN_MS: Final = 500  # Between tries to listen at an address that another process has.
QUICK_MS: Final = 10_000  # A life shorter than this ended quickly.
QUICK_ENDS_MAX: Final = 8
PAUSE_MS: Final = 10  # Before the second quick start; doubles.
PAUSE_MS_MAX: Final = 1_000


class NodePart:
    """See the module. ``accept`` may be given to a listener that the process shares with other
    parts; ``start`` makes one of its own otherwise. ``volumes``: who serves other volumes."""

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        transport: Transport,
        fenced: FencedStore,
        config: NodeConfig,
        on_exit: Callable[[BaseException], None],
        volumes: Volumes | None = None,
        recorder: Recorder = NO_RECORDER,
        pair: PairProbe | None = None,
        events: Events = NO_EVENTS,
    ) -> None:
        self._pair = pair
        self._events = events
        self._clock = clock
        self._recorder = recorder
        self._entropy = entropy
        self._transport = transport
        self._fenced = fenced
        self._config = config
        self._on_exit = on_exit
        self._volumes = volumes
        self._watches_shares = False
        self._tasks = Tasks(f"node-part {config.name}", self._crash)
        self._listener: Listener | None = None
        self._regained: Listener | None = None  # At the address that another process had at first.
        self._registrars: Registrars | None = None
        self.endpoint = ""
        self.node: Node | None = None
        self.lives = 0
        self.last_end = ""

    @property
    def address(self) -> str:
        """Where this part listens."""
        return self.endpoint

    # Life
    # ------------------------------------------------------------------------------------------

    async def start(self, address: str, *, listener: Listener | None = None) -> None:
        """Listen at ``address`` (or use ``listener``, whose accept calls ours) and compose the
        first life. Raises what the store says when it cannot be."""
        own = listener is None
        if listener is None:
            self._listener = listener = await self._transport.listen(address, self.accept)
            self._events.emit(e.ENDPOINT_ADDED, address=listener.address)
        self.endpoint = listener.address
        if self._config.shares is not None:
            self._watches_shares = self._config.shares.start(self._tasks)
        try:
            self.node = await self._compose()
        except BaseException:
            await self.close()  # Nobody is to find a listener here that will never serve.
            raise
        self._tasks.spawn(self._succeed(), "lives")
        if own and not address.endswith(":0") and not _same_port(self.endpoint, address):
            self._tasks.spawn(self._regain(address), "regain")
        if self._config.dns:
            self._registrars = Registrars(
                self._clock,
                self._transport,
                self._config.dns,
                self._config.name,
                self._registration,
                self._crash,
            )
            self._registrars.start(self._tasks)

    def _registration(self) -> RegisterMember:
        """Where clients find this node: at the address that was asked for, once it has it."""
        listener = self._regained
        host, _, port = (self.endpoint if listener is None else listener.address).rpartition(":")
        hosts = [host.removeprefix("[").removesuffix("]")]
        member = DnsMember(self._config.name, self._config.machine, hosts, int(port))
        return RegisterMember(self._config.access_point, member)

    async def _regain(self, address: str) -> None:
        """Another process has our address: a second copy of this part, or a frozen one. Our claim
        names where we listen instead, but clients know only the address: once it is free we
        listen there too."""
        log.warning("node %s: %s is taken; using %s", self._config.name, address, self.endpoint)
        while self._regained is None:
            await self._clock.sleep_ms(REGAIN_MS)
            try:
                listener = await self._transport.listen(address, self.accept)
            except SofsError as error:
                log.warning("node %s: cannot listen at %s: %s", self._config.name, address, error)
                continue
            if _same_port(listener.address, address):
                self._regained = listener
                self._events.emit(e.ENDPOINT_ADDED, address=listener.address)
            else:
                await listener.close()

    async def _compose(self) -> Node:
        node = await start_life(
            clock=self._clock,
            entropy=self._entropy,
            transport=self._transport,
            fenced=self._fenced,
            config=self._config,
            endpoint=self.endpoint,
            recorder=self._recorder,
            pair=self._pair,
            events=self._events,
        )
        self.lives += 1
        self._events.emit(e.ENDPOINT_ONLINE, **self._life(node))
        return node

    def _life(self, node: Node) -> dict[str, Value]:
        return {
            "node": self._config.name,
            "volume": self._config.share,
            "address": self.endpoint,
            "incarnation": bytes(node.incarnation),
        }

    async def _succeed(self) -> None:
        """Compose the next life whenever one ended."""
        quick = 0
        while True:
            node = self.node
            born = self._clock.monotonic_ms()
            if node is not None:
                reason = await asyncio.shield(node.ended)
                self.node = None
                self.last_end = describe_end(reason)
                log.warning("node %s: a life ended: %s", self._config.name, self.last_end)
                self._events.emit(e.ENDPOINT_OFFLINE, reason=self.last_end, **self._life(node))
                if is_fatal(reason):
                    self._on_exit(reason)
                    return
                self._tasks.spawn(node.close(), "close-life")
            lived = self._clock.monotonic_ms() - born
            quick = quick + 1 if lived < QUICK_MS else 1
            if quick > QUICK_ENDS_MAX:
                self._on_exit(
                    Unavailable(f"{quick} lives of this node ended quickly: {self.last_end}")
                )
                return
            if quick > 1:
                await self._clock.sleep_ms(min(PAUSE_MS << (quick - 2), PAUSE_MS_MAX))
            try:
                self.node = await self._compose()
            except SofsError as error:
                self.last_end = f"a new life could not begin: {error}"

    def _crash(self, error: BaseException) -> None:
        self._on_exit(error)

    async def close(self) -> None:
        """End the current life, stop listening, and wait until nothing runs any more."""
        await self._tasks.close()
        node, self.node = self.node, None
        if node is not None:
            await node.close()
            reason = "the part was closed"
            self._events.emit(e.ENDPOINT_OFFLINE, reason=reason, **self._life(node))
        for listener in (self._listener, self._regained):
            if listener is not None:
                await listener.close()
                self._events.emit(e.ENDPOINT_REMOVED, address=listener.address)
        if self._volumes is not None:
            await self._volumes.close()
        if self._config.shares is not None and self._watches_shares:
            await self._config.shares.close()

    # Streams
    # ---------------------------------------------------------------------------------------

    async def accept(self, service: str, stream: Stream) -> None:
        """Serve one stream: clients of service ``file``; any other service only answers who we are
        and that we live."""
        if service == FILE_SERVICE:
            if self._volumes is not None:
                await self._volumes.accept(stream, self)
            else:
                await self.accept_session(stream)
            return
        channel = Channel(
            stream,
            self._clock,
            self._on_other_message,
            name=f"{service} {stream.peer}",
            on_crash=self._crash,
        )
        channel.start()
        try:
            await asyncio.shield(channel.ended)
        finally:
            await channel.close()

    async def accept_session(self, stream: Stream) -> None:
        """Serve one client's stream on this part's volume."""
        node = self.node
        if node is None:
            raise Unavailable("this node is starting; connect again, or to another address")
        await node.accept(stream)

    def _on_other_message(self, channel: Channel, envelope: Envelope) -> None:
        node = self.node
        if channel.remote is None:
            if node is None:
                raise WrongIncarnation("no incarnation lives here now; look the part up again")
            channel.remote = check_hello(envelope, node.incarnation)
            channel.reply(
                envelope.call,
                HelloReply(channel.remote.protocol_version, node.incarnation, self._config.name),
            )
        elif isinstance(envelope.body, PartState):
            channel.reply(envelope.call, self.describe())
        elif isinstance(envelope.body, Meet | MeetEnd) and self._pair is not None and node:
            channel.serve(envelope.call, self._answer_probe(self._pair, node, envelope.body))
        elif isinstance(envelope.body, LookAtShares) and self._config.shares is not None:
            channel.serve(envelope.call, self._config.shares.seen())
        else:
            raise NotSupported(f"this part has no {type(envelope.body).__name__}")

    async def _answer_probe(self, pair: PairProbe, node: Node, body: Meet | MeetEnd) -> Message:
        """Answer the two-party probe of a part that is about to claim the volume."""
        if isinstance(body, MeetEnd):
            return await pair.meet_end(body.token)
        claim = node.log.claim
        return await pair.meet(body, (claim.role, int(claim.epoch)), owner=False)

    def describe(self) -> PartStateReply:
        """The state of the part, for people and tests."""
        node = self.node
        if node is None:
            return PartStateReply("node", self._config.name, b"", "starting", [self.last_end])
        state = node.describe()
        state.facts.append(f"lives={self.lives}")
        if self._volumes is not None and self._volumes.names():
            state.facts.append(f"other_volumes={','.join(self._volumes.names())}")
        if self._registrars is not None:
            state.facts.append(f"dns={self._registrars.heard()}")
        return state


def _same_port(one: str, other: str) -> bool:
    """A listener has the port that it was asked for, or another; its host may be spelled
    otherwise (a name was asked for, an address is told)."""
    return one.rpartition(":")[2] == other.rpartition(":")[2]
