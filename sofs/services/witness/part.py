"""The witness part of a process: standing streams to the other nodes, and clients who wait to hear
of them.

Theory of operation. One task a node keeps a stream to it and redials when it ended; one *beat* for
all, each HEARTBEAT_MS, pings every stream and lets ``core/witness.py`` judge what was heard. A
reset stream wakes the task of its node at once, so that a killed process is known as gone within a
round trip: its stream was reset, and the redial is refused. A frozen one keeps its stream; it is
known by its silence, and when it speaks again nothing has to be redialled.

What may fail. This process dies: its clients' streams end and they register elsewhere. It stalls: a
gap in its own beat gives every node its limit anew. It is cut off: it refuses registrations for
nodes that it does not reach. In no case does its word free, seal or claim anything.

A move that an administrator asks for is told to its clients, and answered when each of them said
what became of it (``MoveOutcome``), its registration ended, or MOVE_ANSWER_MS_MAX passed.

A registration belongs to the stream that made it and ends with it. Tables have limits
(``core/witness.py``); what waits for an answer besides is bounded by LIST_WAITERS_MAX.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sofs.constants import HEARTBEAT_MS, PROTOCOL_VERSION, RECONNECT_BACKOFF_MS
from sofs.core import events as e
from sofs.core.messages import (
    AsyncNotify,
    ClientsMoved,
    Done,
    GetInterfaceList,
    Hello,
    HelloReply,
    InterfaceList,
    ListWitnessed,
    LookAtShares,
    Message,
    MoveClients,
    MoveOutcome,
    PartState,
    PartStateReply,
    RegisterWitness,
    RegisterWitnessReply,
    RegisterWitnessV1,
    UnregisterWitness,
    WitnessedList,
)
from sofs.core.share_table import share_key
from sofs.core.trace import NO_CONTEXT, SpanKind
from sofs.core.witness import (
    OWN_STALL_MS,
    UNAVAILABLE,
    VERSION,
    VERSION_1,
    Answer,
    NodeView,
    WitnessRegistry,
    pair,
)
from sofs.errors import LimitExceeded, NotFound, NotSupported, SofsError, Unavailable
from sofs.ids import ID_BYTES, Incarnation, short
from sofs.ports.events import NO_EVENTS, Events
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.stream import Envelope, Listener, Stream, Transport
from sofs.ports.trace import NO_RECORDER, Recorder
from sofs.services.channel import Channel, check_hello, open_channel
from sofs.services.shares import ShareView
from sofs.services.tasks import Tasks

log = logging.getLogger("sofs.witness")

WITNESS_SERVICE: Final = "witness"
WATCH_SERVICE: Final = "cluster"  # Whatever is not "file": a node greets and answers pings.
DIAL_MS: Final = 1_000  # One try to reach a node.
REDIAL_MS_MAX: Final = 500  # Between tries, doubling up to this.
REGISTER_WAIT_MS: Final = 1_000  # For a node that may be about to be seen again.
EXPIRE_EACH_MS: Final = 1_000
LIST_WAITERS_MAX: Final = 4_096
MOVE_ANSWER_MS_MAX: Final = 10_000  # For a client to say what became of a move.
REGISTRATION_ENDED: Final = "its registration ended; look with `sofs witness ls`"
MOVE_REASONS_MAX: Final = 16

Asker = tuple[Channel, int]


@dataclass(frozen=True, slots=True)
class WitnessConfig:
    """What a witness is told. ``address``: its own, as ``witnesses`` lists it. ``nodes``,
    ``witnesses``: all of the access point, ``host:port`` each; those on one host belong together.
    ``share``: what the nodes serve, while ``shares`` does not know better. ``net_name``: of the
    cluster, "" if it has none."""

    name: str
    address: str
    nodes: list[str] = field(default_factory=list)
    witnesses: list[str] = field(default_factory=list)
    share: str = ""
    net_name: str = ""
    shares: ShareView | None = None

    def has_share(self, name: str) -> bool:
        """Is there a share of that name, as far as is known here?"""
        if self.shares is not None:
            return self.shares.table.find(name) is not None
        return share_key(name) == share_key(self.share)


@dataclass(slots=True)
class Watched:
    """One node that is watched."""

    view: NodeView
    channel: Channel | None = None
    name: str = ""


class WitnessPart:
    """See the module. ``accept`` may be given to a listener that the process shares with other
    parts; ``start`` makes one of its own otherwise."""

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        transport: Transport,
        config: WitnessConfig,
        on_exit: Callable[[BaseException], None],
        recorder: Recorder = NO_RECORDER,
        events: Events = NO_EVENTS,
    ) -> None:
        self._emit = events.emit
        self._clock = clock
        self._recorder = recorder
        self._entropy = entropy
        self._transport = transport
        self._config = config
        self._on_exit = on_exit
        self._tasks = Tasks(f"witness {config.name}", on_exit)
        self._listener: Listener | None = None
        self._channels: dict[Channel, None] = {}
        self._list_waiters: list[Asker] = []
        # Of each registration the moves that it was told, in order: why not, or "".
        self._moves: dict[bytes, deque[asyncio.Future[str]]] = {}
        self._change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.incarnation = Incarnation(entropy.token(ID_BYTES))
        self.endpoint = ""
        self.stalls = 0
        places = pair(config.nodes, config.witnesses)
        own = next((p.node for p in places if p.witness == config.address), "")
        self.registry: WitnessRegistry[Asker] = WitnessRegistry(
            places, own_node=own, has_share=config.has_share, net_name=config.net_name
        )
        now = clock.monotonic_ms()
        self.watched = {node: Watched(NodeView(now)) for node in self.registry.watched()}

    @property
    def address(self) -> str:
        """Where this part listens."""
        return self.endpoint

    # Life
    # ------------------------------------------------------------------------------------------

    async def start(self, address: str, *, listener: Listener | None = None) -> None:
        """Listen at ``address`` (or use ``listener``, whose accept calls ours) and watch."""
        if listener is None:
            self._listener = listener = await self._transport.listen(address, self.accept)
        self.endpoint = listener.address
        if address != self.endpoint:
            log.warning("the witness was to listen at %s: clients will not find it", address)
        if self._config.shares is not None:
            self._config.shares.start(self._tasks)
        for node in self.watched:
            self._tasks.spawn(self._keep_stream(node), f"watch-{node}")
        self._tasks.spawn(self._beat(), "beat")

    async def close(self) -> None:
        """End all streams, stop listening, and wait until nothing runs any more."""
        await self._tasks.close()
        for channel in list(self._channels):
            await channel.close()
        if self._listener is not None:
            await self._listener.close()
        if self._config.shares is not None:
            await self._config.shares.close()

    # Watching
    # --------------------------------------------------------------------------------------

    async def _keep_stream(self, node: str) -> None:
        """Hold a stream to ``node`` for ever, and say so when it is reset and refused."""
        watched = self.watched[node]
        pause_ms = RECONNECT_BACKOFF_MS
        while True:
            try:
                channel = await self._dial(node)
            except SofsError as error:
                if getattr(error, "refused", False):
                    self._announce(node, watched.view.refused())
                await self._clock.sleep_ms(pause_ms)
                pause_ms = min(2 * pause_ms, REDIAL_MS_MAX)
                continue
            pause_ms = RECONNECT_BACKOFF_MS
            try:
                greeting = channel.remote
                assert isinstance(greeting, HelloReply)
                watched.channel, watched.name = channel, greeting.node
                now = self._clock.monotonic_ms()
                self._announce(node, watched.view.connected(now, greeting.incarnation))
                await asyncio.shield(channel.ended)
            finally:
                watched.channel = None
                await channel.close()

    async def _dial(self, node: str) -> Channel:
        return await open_channel(
            self._transport,
            self._clock,
            node,
            WATCH_SERVICE,
            Hello(sender=self.incarnation),
            _refuse_requests,
            name=f"witness-watch {node}",
            on_crash=self._on_exit,
            timeout_ms=DIAL_MS,
        )

    async def _beat(self) -> None:
        last = expired = self._clock.monotonic_ms()
        while True:
            for watched in self.watched.values():
                if watched.channel is not None:
                    watched.channel.begin_ping()
            await self._clock.sleep_ms(HEARTBEAT_MS)
            now = self._clock.monotonic_ms()
            if now - last > OWN_STALL_MS:
                self.stalls += 1
                for watched in self.watched.values():
                    watched.view.stalled(now)
            last = now
            for node, watched in self.watched.items():
                heard = watched.channel.last_heard_ms if watched.channel is not None else 0
                self._announce(node, watched.view.beat(now, heard))
            if now - expired >= EXPIRE_EACH_MS:
                expired = now
                self._send(self.registry.expire(now))
                self._drop_moves()

    def _announce(self, node: str, states: list[int]) -> None:
        """Tell whom it concerns what ``node`` turned into."""
        name = self.watched[node].name
        for state in states:
            log.info("node %s at %s: %s", name, node, "gone" if state == UNAVAILABLE else "here")
            trace = NO_CONTEXT
            kind = e.SERVICE_NODE_GONE if state == UNAVAILABLE else e.SERVICE_NODE_HERE
            self._emit(kind, node=name or "a node", address=node)
            if state == UNAVAILABLE:
                trace = self._recorder.begin(SpanKind.NOTICE)
                self._recorder.note(trace, node)
            self._send(self.registry.turned(self._clock.monotonic_ms(), node, state, name), trace)
            self._recorder.end(trace)
        if not states:
            return
        self._change.set_result(None)
        self._change = asyncio.get_running_loop().create_future()
        if self._list_waiters and self.registry.has_candidate():
            waiters, self._list_waiters = self._list_waiters, []
            for channel, call in waiters:
                channel.reply(call, self._interfaces())

    def _send(self, answers: list[Answer[Asker]], trace: bytes = NO_CONTEXT) -> None:
        for (channel, call), answer in answers:
            if isinstance(answer, SofsError):
                channel.fail(call, answer)
            else:
                channel.reply(call, answer, trace=trace)

    # Clients
    # ---------------------------------------------------------------------------------------

    async def accept(self, service: str, stream: Stream) -> None:
        """Serve one stream: clients of service ``witness``; any other service only answers who we
        are and that we live."""
        handler = self._on_request if service == WITNESS_SERVICE else self._on_other
        channel = Channel(
            stream,
            self._clock,
            handler,
            name=f"{service} {stream.peer}",
            on_crash=self._on_exit,
        )
        self._channels[channel] = None
        channel.start()
        try:
            await asyncio.shield(channel.ended)
        finally:
            self._channels.pop(channel, None)
            self.registry.owner_gone(channel)
            self._drop_moves()
            self._list_waiters = [w for w in self._list_waiters if w[0] is not channel]
            await channel.close()

    def _on_other(self, channel: Channel, envelope: Envelope) -> None:
        if channel.remote is None:
            channel.remote = check_hello(envelope, self.incarnation)
            channel.reply(
                envelope.call,
                HelloReply(PROTOCOL_VERSION, self.incarnation, self._config.name),
            )
        elif isinstance(envelope.body, PartState):
            channel.reply(envelope.call, self.describe())
        elif isinstance(envelope.body, ListWitnessed):
            channel.reply(envelope.call, self.listed(envelope.body.after))
        elif isinstance(envelope.body, MoveClients):
            channel.serve(envelope.call, self.move(envelope.body))
        elif isinstance(envelope.body, LookAtShares) and self._config.shares is not None:
            channel.serve(envelope.call, self._config.shares.seen())
        else:
            raise NotSupported(f"a witness has no {type(envelope.body).__name__} here")

    def _on_request(self, channel: Channel, envelope: Envelope) -> None:
        body, call = envelope.body, envelope.call
        now = self._clock.monotonic_ms()
        if channel.remote is None:
            self._on_other(channel, envelope)
        elif isinstance(body, AsyncNotify):
            self._send(self.registry.ask(now, channel, body.context, (channel, call)))
        elif isinstance(body, RegisterWitness):
            self._check(body, VERSION)
            channel.serve(call, self._register(channel, body))
        elif isinstance(body, RegisterWitnessV1):
            given = (body.version, body.net_name, "", body.address, body.client_name)
            request = RegisterWitness(*given)
            self._check(request, VERSION_1)
            channel.serve(call, self._register(channel, request, VERSION_1))
        elif isinstance(body, MoveOutcome):
            self._note_outcome(channel, body)
            channel.reply(call, Done())
        elif isinstance(body, UnregisterWitness):
            self._send(self.registry.unregister(channel, body.context))
            self._drop_moves()
            channel.reply(call, Done())
        elif isinstance(body, GetInterfaceList):
            self._list(channel, call)
        else:
            self._on_other(channel, envelope)

    def _interfaces(self) -> InterfaceList:
        return InterfaceList(self.registry.interfaces(), self.registry.net_name)

    def _list(self, channel: Channel, call: int) -> None:
        if self.registry.has_candidate():
            channel.reply(call, self._interfaces())
        elif len(self._list_waiters) >= LIST_WAITERS_MAX:
            raise LimitExceeded(
                f"{LIST_WAITERS_MAX} clients wait for an interface list", retry_after_ms=1000
            )
        else:
            self._list_waiters.append((channel, call))

    async def _register(
        self, channel: Channel, body: RegisterWitness, version: int = VERSION
    ) -> Message:
        """Register, after a short wait for a node that is not seen now: it may have just come back,
        and the client found it first."""
        timer = asyncio.ensure_future(self._clock.sleep_ms(REGISTER_WAIT_MS))
        try:
            while self.registry.state(body.address) == UNAVAILABLE and not timer.done():
                await asyncio.wait((timer, self._change), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        if not channel.alive:
            raise Unavailable("the stream ended")
        context = self._entropy.token(ID_BYTES)
        try:
            self.registry.register(self._clock.monotonic_ms(), channel, context, body, version)
        except SofsError as error:
            self._tell_refused(body, error)
            raise
        self._emit(
            e.SERVICE_REGISTERED,
            client=body.client_name,
            address=body.address,
            share=body.share_name,
        )
        return RegisterWitnessReply(context)

    def _check(self, body: RegisterWitness, version: int) -> None:
        try:
            self.registry.check(body, version)
        except SofsError as error:
            self._tell_refused(body, error)
            raise

    def _tell_refused(self, body: RegisterWitness, error: SofsError) -> None:
        self._emit(
            e.SERVICE_REFUSED, client=body.client_name, address=body.address, reason=str(error)
        )

    # Administrators
    # ---------------------------------------------------------------------------------

    def listed(self, after: int = 0) -> WitnessedList:
        """Registrations for administrators, from the one after the number ``after``."""
        registry = self.registry
        clients, following = registry.clients(after)
        return WitnessedList(
            self._config.name,
            registry.own_node,
            registry.net_name,
            clients,
            len(registry),
            following,
        )

    async def move(self, body: MoveClients) -> ClientsMoved:
        """Ask clients to move and wait for what becomes of it. Raises NotFound,
        InvalidParameter."""
        told, answers = self.registry.move(self._clock.monotonic_ms(), body)
        self._tell_move(body, len(told))
        moves: list[asyncio.Future[str]] = []
        for context in told:
            move: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._moves.setdefault(context, deque()).append(move)
            moves.append(move)
        self._send(answers)
        timer = asyncio.ensure_future(self._clock.sleep_ms(MOVE_ANSWER_MS_MAX))
        try:
            while not timer.done() and not all(move.done() for move in moves):
                waiting: list[asyncio.Future[None] | asyncio.Future[str]] = [timer]
                waiting += [move for move in moves if not move.done()]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            for move in moves:  # It keeps its place: its outcome may still come.
                _settle(move, f"no word within {MOVE_ANSWER_MS_MAX} ms")
        reasons = [move.result() for move in moves if move.result()]
        ended = sum(reason is REGISTRATION_ENDED for reason in reasons)
        moved = len(told) - len(reasons)
        return ClientsMoved(len(told), moved, reasons[:MOVE_REASONS_MAX], ended)

    def _tell_move(self, body: MoveClients, told: int) -> None:
        where = ", ".join(body.destinations)
        if body.share_name:
            self._emit(e.SERVICE_SHARE_MOVED, share=body.share_name, destination=where, told=told)
        else:
            client = body.client_name or f"whoever uses {body.leaving}"
            self._emit(e.SERVICE_CLIENT_MOVED, client=client, destination=where, told=told)

    def _note_outcome(self, channel: Channel, body: MoveOutcome) -> None:
        if not self.registry.has(body.context, channel):
            raise NotFound("there is no such registration (any more)")
        self._decide(body.context, body.text)

    def _decide(self, context: bytes, reason: str) -> None:
        """The client said what became of the oldest move that it was told."""
        moves = self._moves.get(context)
        if moves is not None:
            _settle(moves.popleft(), reason)
            if not moves:
                del self._moves[context]

    def _drop_moves(self) -> None:
        """Registrations ended: their clients say nothing more."""
        for context in list(self._moves):
            if not self.registry.has(context):
                for move in self._moves.pop(context):
                    _settle(move, REGISTRATION_ENDED)

    def describe(self) -> PartStateReply:
        """The state of the part, for people and tests."""
        words = {0: "unknown", 1: "available", UNAVAILABLE: "unavailable"}
        facts = [
            f"registrations={len(self.registry)}",
            f"own_stalls={self.stalls}",
            *(
                f"node {node}={words[w.view.state]} name={w.name or '?'} "
                f"incarnation={short(w.view.incarnation) or '?'} silence_ms={w.view.limit_ms} "
                f"mistakes={w.view.mistakes}"
                for node, w in self.watched.items()
            ),
            *(
                f"client {r.client_name}=watches {r.address} share={r.share_name or '*'} "
                f"{'listening' if r.asker is not None else 'away'} sent={r.sent} "
                f"queued={len(r.queue)}"
                for r in self.registry.registrations()[:256]
            ),
        ]
        return PartStateReply("witness", self._config.name, self.incarnation, "serving", facts)


def _settle(move: asyncio.Future[str], reason: str) -> None:
    if not move.done():
        move.set_result(reason)


def _refuse_requests(channel: Channel, envelope: Envelope) -> None:
    raise NotSupported(f"a watching witness takes no {type(envelope.body).__name__}")
