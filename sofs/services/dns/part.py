"""The DNS part of a process: a listener for registrations, and one for questions.

Theory of operation. Nothing is stored. The leader says who belongs, the nodes say where they
listen (``core/members.py``); both keep a stream to this part and say it again whenever it was
started anew, so that a new life knows everything within a second. Until the leader has spoken it
answers SERVFAIL, because "I do not know" must not be heard as "there is no such name".

A roster is the word of a leader's claim. One of another epoch than the last is taken only after a
look at the claims on the cluster's root: a leader that was superseded while it was frozen must not
bring back, to a part that has just started, whom its successor has evicted.

Where there are machines for it there are two such parts, which know nothing of each other: each is
told everything, and each alone is enough. Both name both as servers of the zone.

What may fail. This part dies: clients that are connected notice nothing, since they know the
addresses; new ones ask the other. It is frozen: the same. It does not hear the leader: it goes on
with the last roster, because the leader's death stops nothing; nobody is evicted meanwhile. A
question can be anything and is answered or dropped (``dns_wire/codec.py``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sofs.core.members import Member, Membership
from sofs.core.messages import (
    DnsMember,
    Done,
    HelloReply,
    ListMembers,
    MemberList,
    Message,
    PartState,
    PartStateReply,
    RegisterMember,
    RegisterMemberReply,
    SetMembers,
)
from sofs.core.trace import SpanKind, SpanStatus
from sofs.core.witness import host_of
from sofs.core.zone import TTL_DEFAULT_S, Code, Question, Reply, Zone, ZoneSettings, kind_text
from sofs.errors import Fenced, InvalidParameter, NotSupported, Unavailable
from sofs.ids import ID_BYTES, Incarnation
from sofs.ports.dns import DnsListener, DnsWire
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.stream import Envelope, Listener, Stream, Transport
from sofs.ports.trace import NO_RECORDER, Recorder, span
from sofs.services.channel import Channel, check_hello
from sofs.services.dns.registrar import DNS_SERVICE

log = logging.getLogger("sofs.dns")

NS_PER_S: Final = 1_000_000_000
STRANGERS_TOLD_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """What the DNS part is told. ``access_point``: its name. ``address``: where it answers
    questions, ``host:port``; ``servers``: where all DNS parts of the access point do, this one
    among them, in the order of their NS records. ``members``: where there is no leader, who
    belongs."""

    name: str
    access_point: str
    address: str
    servers: Sequence[str] = ()
    ttl_s: int = TTL_DEFAULT_S
    members: Sequence[Member] | None = None


class DnsPart:
    """See the module. ``leader_epoch`` returns the epoch of the highest leader claim on the
    cluster's root, 0 if there is none."""

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        transport: Transport,
        wire: DnsWire,
        config: DnsConfig,
        leader_epoch: Callable[[], Awaitable[int]],
        on_exit: Callable[[BaseException], None],
        recorder: Recorder = NO_RECORDER,
    ) -> None:
        """InvalidParameter for a name, time to live or member that cannot stand in a zone."""
        self._clock = clock
        self._transport = transport
        self._wire = wire
        self._config = config
        self._leader_epoch = leader_epoch
        self._on_exit = on_exit
        self._recorder = recorder
        self._channels: dict[Channel, None] = {}
        self._listener: Listener | None = None
        self._questions: DnsListener | None = None
        self.incarnation = Incarnation(entropy.token(ID_BYTES))
        self.membership = Membership()
        servers = tuple(host_of(server) for server in config.servers or (config.address,))
        self.zone = Zone(ZoneSettings(config.access_point, servers, config.ttl_s), self._now_s())
        if config.members is not None:
            self.membership.set_members(0, 0, config.members)
            self._publish()

    def _now_s(self) -> int:
        return self._clock.wall_ns() // NS_PER_S

    @property
    def address(self) -> str:
        """Where registrations are taken."""
        return self._listener.address if self._listener is not None else ""

    @property
    def questions_address(self) -> str:
        """Where questions are answered, UDP and TCP."""
        return self._questions.address if self._questions is not None else ""

    # Life
    # ------------------------------------------------------------------------------------------

    async def start(self, address: str) -> None:
        """Take registrations at ``address`` and answer questions. Raises Unavailable when either
        port is taken: who looks for this part looks there."""
        self._questions = await self._wire.listen(self._config.address, self, self._on_exit)
        try:
            listener = await self._transport.listen(address, self.accept)
            wanted = address.rpartition(":")[2]
            if wanted != "0" and listener.address.rpartition(":")[2] != wanted:
                await listener.close()
                raise Unavailable(f"{address} is taken; the DNS part would not be found elsewhere")
        except BaseException:
            await self._questions.close()
            raise
        self._listener = listener
        log.info("%s is answered at %s", self._config.access_point, self._questions.address)

    async def close(self) -> None:
        """End all streams, stop listening and answering, and wait until nothing runs any more."""
        if self._questions is not None:
            await self._questions.close()
        for channel in list(self._channels):
            await channel.close()
        if self._listener is not None:
            await self._listener.close()

    # Questions
    # ----------------------------------------------------------------------------------------

    def answer(self, question: Question) -> Reply:
        recorder = self._recorder
        trace = recorder.begin(SpanKind.DNS, operation="Question")
        reply = self.zone.answer(question)
        if trace:
            name = b".".join(question.name).decode("ascii", "replace")
            recorder.note(trace, f"{kind_text(question.kind)} {name}")
        if reply.code in (Code.NOERROR, Code.NXDOMAIN):
            recorder.end(trace)
        else:
            recorder.note(trace, reply.code.name)
            recorder.end(trace, SpanStatus.ERROR)
        return reply

    def answered(self, reply: Reply) -> None:
        self.zone.answered(reply)

    # Registrations
    # -------------------------------------------------------------------------------------

    async def accept(self, service: str, stream: Stream) -> None:
        """Serve one stream: registrations of service ``dns``; any other service only answers who we
        are, and what we know."""
        handler = self._on_request if service == DNS_SERVICE else self._on_other
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
            await channel.close()

    def _on_other(self, channel: Channel, envelope: Envelope) -> None:
        body, call = envelope.body, envelope.call
        if channel.remote is None:
            channel.remote = check_hello(envelope, self.incarnation)
            version = channel.remote.protocol_version
            channel.reply(call, HelloReply(version, self.incarnation, self._config.name))
        elif isinstance(body, PartState):
            channel.reply(call, self.describe())
        elif isinstance(body, ListMembers):
            channel.reply(call, self.list_members())
        else:
            raise NotSupported(f"the DNS part has no {type(body).__name__} here")

    def _on_request(self, channel: Channel, envelope: Envelope) -> None:
        body, call = envelope.body, envelope.call
        if channel.remote is None:
            self._on_other(channel, envelope)
        elif isinstance(body, RegisterMember):
            with span(
                self._recorder,
                SpanKind.DNS,
                "RegisterMember",
                parent=envelope.trace,
                note=body.member.node,
            ):
                self._check_name(body.access_point)
                listed = self.membership.register(_member(body.member))
                self._publish()
            channel.reply(call, RegisterMemberReply(listed))
        elif isinstance(body, SetMembers):
            self._check_name(body.access_point)
            channel.serve(call, self._set_members(body, envelope.trace))
        else:
            self._on_other(channel, envelope)

    def _check_name(self, access_point: str) -> None:
        own = self._config.access_point
        if access_point.lower().removesuffix(".") != own.lower().removesuffix("."):
            raise InvalidParameter(f"the access point here is {own!r}, not {access_point!r}")

    async def _set_members(self, body: SetMembers, parent: bytes) -> Message:
        about = f"epoch {body.epoch}, {len(body.members)} members"
        with span(self._recorder, SpanKind.DNS, "SetMembers", parent=parent, note=about):
            return await self._take_roster(body)

    async def _take_roster(self, body: SetMembers) -> Message:
        """Take a roster, if its leader is not superseded. What the claims say now may be old when
        the roster is taken; then a newer one is on its way, and this one was true when it was
        sent."""
        if not self.membership.learned or body.epoch != self.membership.epoch:
            highest = await self._leader_epoch()
            if body.epoch != highest:
                raise Fenced(f"leader epoch {body.epoch} speaks, and {highest} is claimed")
        members = [_member(member) for member in body.members]
        self.membership.set_members(body.epoch, body.version, members)
        self._publish()
        return Done()

    def _publish(self) -> None:
        if self.zone.publish(self.membership.listed(), self._now_s()):
            names = [member.node for member in self.zone.listed or []]
            log.info("serial %d lists %s", self.zone.serial, ", ".join(names) or "nobody")

    # For people
    # ------------------------------------------------------------------------------------------

    def list_members(self) -> MemberList:
        """What the zone is made of."""
        known, strangers = self.membership, self.membership.strangers()[:STRANGERS_TOLD_MAX]
        return MemberList(
            access_point=self._config.access_point,
            address=self.questions_address,
            learned=known.learned,
            epoch=known.epoch,
            version=known.version,
            serial=self.zone.serial,
            ttl_s=self.zone.ttl_s,
            members=[
                *(_told(member, *rest) for member, *rest in known.members()),
                *(_told(member, True, False) for member in strangers),
            ],
        )

    def describe(self) -> PartStateReply:
        """The state of the part, for people and tests."""
        counters = self._questions.counters() if self._questions is not None else {}
        listed = self.zone.listed
        facts = [
            f"access_point={self._config.access_point}",
            f"answers_at={self.questions_address}",
            f"serial={self.zone.serial}",
            f"leader_epoch={self.membership.epoch}",
            f"version={self.membership.version}",
            f"listed={','.join(member.node for member in listed or [])}",
            f"registered={sum(said for _, said, _ in self.membership.members())}",
            *(f"{name}={value}" for name, value in counters.items()),
        ]
        state = "serving" if listed else "learning"
        return PartStateReply("dns", self._config.name, self.incarnation, state, facts)


def _member(told: DnsMember) -> Member:
    return Member(told.node, told.machine, tuple(told.hosts), told.port)


def _told(member: Member, registered: bool, listed: bool) -> DnsMember:
    return DnsMember(
        member.node, member.machine, list(member.hosts), member.port, registered, listed
    )
