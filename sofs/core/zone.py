"""The zone of an access point, and the answers from it, as data: no packet, no socket.

The access point's name is the top of a zone of its own, so that it can be delegated as it is, or
asked directly. In it stand::

    <name>              SOA NS     this zone
    <name>              A AAAA     every address of every listed node
    _sofs._tcp.<name>   SRV        every listed node with its port
    <node>.<name>       A AAAA     the addresses of one node
    ns1.<name> ...      A AAAA     each server of the zone

All servers of a zone answer alike, each from what it was told itself; there is no transfer between
them, and their serials are not one sequence.

Rotation. Each answer begins with another address than the one before it, within its family; in an
answer with both, IPv6 comes first. The counters belong to a name and a type, since resolvers ask
for A and AAAA in turns: with one counter for both and an even number of nodes, half of the nodes
would never come first. An answer moves its counters only once it has been sent whole: a truncated
one is asked again over TCP.

What is not known is not denied. Until it is known who belongs, and while nobody is listed, every
answer but those about the zone itself is SERVFAIL, which resolvers do not keep; a name that does
not exist, or has no record of the type, is denied with the SOA, for NEGATIVE_TTL_S.

A question outside the zone is REFUSED, and so are transfers and other types that are no data.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from sofs.core.members import SERVER_LABELS, Member
from sofs.errors import InvalidParameter

TTL_DEFAULT_S: Final = 1_200  # HostRecordTTL.
TTL_S_MAX: Final = 7 * 24 * 3600
NEGATIVE_TTL_S: Final = 30  # So long a resolver may deny a node that joined meanwhile.
REFRESH_S: Final = 3_600  # Of the SOA; there are no secondaries.
RETRY_S: Final = 600
EXPIRE_S: Final = 86_400
NAME_CHARS_MAX: Final = 180  # Names of 64 characters are put before it; DNS takes 253.
CLASS_IN: Final = 1
SRV_LABELS: Final = (b"_sofs", b"_tcp")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SERIAL_MASK: Final = 2**32 - 1

Name = tuple[bytes, ...]
"""Labels in lower case, from the left, without the root's empty one."""


class Kind(IntEnum):
    """Types of records."""

    A = 1
    NS = 2
    SOA = 6
    AAAA = 28
    SRV = 33
    ANY = 255


def kind_text(kind: int) -> str:
    """A type as people write it; one that is not known here as RFC 3597 does."""
    return Kind(kind).name if kind in Kind.__members__.values() else f"TYPE{kind}"


class Code(IntEnum):
    """Response codes."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Question:
    """What a query asks for."""

    name: Name
    kind: int
    class_in: bool = True


@dataclass(frozen=True, slots=True)
class Record:
    """One record. ``data`` as in a zone file, names in it with the final dot."""

    name: Name
    kind: Kind
    ttl_s: int
    data: str


Turn = tuple[Name, Kind]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. ``turns``: the counters that it moves once it was sent whole."""

    code: Code
    authoritative: bool = False
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    turns: tuple[Turn, ...] = ()


def parse_name(text: str) -> Name:
    """The labels of a host name. Raises InvalidParameter for what is none."""
    labels = text.lower().removesuffix(".").split(".")
    if len(text) > NAME_CHARS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidParameter(
            f"{text!r} is no name of an access point: labels of letters, digits and '-', joined "
            f"by dots, {NAME_CHARS_MAX} characters at most"
        )
    return tuple(label.encode() for label in labels)


def text_of(name: Name) -> str:
    """A name of ours as a zone file has it, with the final dot."""
    return b".".join(name).decode("ascii") + "."


def rotated(records: Sequence[Record], turn: int) -> tuple[Record, ...]:
    """The same records, beginning with another one each turn."""
    start = turn % len(records) if records else 0
    return (*records[start:], *records[:start])


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """``name``: of the access point. ``servers``: the address of each server of the zone, for its
    NS record; the first is ``ns1``."""

    name: str
    servers: tuple[str, ...] = ()
    ttl_s: int = TTL_DEFAULT_S


@dataclass(slots=True)
class _Names:
    """Everything that exists: records by name and type."""

    of: dict[Name, dict[Kind, list[Record]]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        self.of.setdefault(record.name, {}).setdefault(record.kind, []).append(record)


class Zone:
    """See the module. ``publish`` says who is listed; ``answer`` changes nothing."""

    def __init__(self, settings: ZoneSettings, now_s: int) -> None:
        """``now_s``: seconds since 1970, where the serial begins. InvalidParameter for a bad name,
        time to live or address."""
        if not 0 <= settings.ttl_s <= TTL_S_MAX:
            raise InvalidParameter(f"a TTL of {settings.ttl_s} s: it is 0 to {TTL_S_MAX}")
        self.name = parse_name(settings.name)
        self.ttl_s = settings.ttl_s
        self.serial = now_s & _SERIAL_MASK
        if len(settings.servers) > len(SERVER_LABELS):
            raise InvalidParameter(f"a zone has {len(SERVER_LABELS)} servers at most")
        self._servers: dict[Name, str | None] = {self._server(0): None}
        self._servers |= {self._server(i): host for i, host in enumerate(settings.servers)}
        self._listed: list[Member] | None = None
        self._turns: dict[Turn, int] = {}
        self._names = self._build([])

    # What is in it
    # ------------------------------------------------------------------------------------

    @property
    def listed(self) -> list[Member] | None:
        """Who is listed; None while it is not known."""
        return self._listed

    def publish(self, listed: list[Member] | None, now_s: int) -> bool:
        """List exactly these from now on (None: it is not known). Returns whether anything changed;
        then the serial rose."""
        if listed == self._listed:
            return False
        self._listed = listed
        self.serial = max((self.serial + 1) & _SERIAL_MASK, now_s & _SERIAL_MASK)
        self._names = self._build(listed or [])
        self._turns = {turn: n for turn, n in self._turns.items() if turn[0] in self._names.of}
        return True

    def _build(self, listed: Sequence[Member]) -> _Names:
        names = _Names()
        names.add(self._soa())
        for server, its_host in self._servers.items():
            names.add(Record(self.name, Kind.NS, self.ttl_s, text_of(server)))
            names.of[server] = {}
            if its_host is not None:
                names.add(self._address(server, its_host))
        if not listed:
            return names
        service = (*SRV_LABELS, *self.name)
        names.of[service[1:]] = {}  # It exists, since something below it does.
        for member in listed:
            node = (member.node.encode(), *self.name)
            data = f"0 1 {member.port} {text_of(node)}"
            names.add(Record(service, Kind.SRV, self.ttl_s, data))
            for host in member.hosts:
                names.add(self._address(node, host))
                names.add(self._address(self.name, host))
        for kinds in names.of.values():  # Two nodes may share a host, with two ports.
            for kind, records in kinds.items():
                kinds[kind] = list(dict.fromkeys(records))
        return names

    def _server(self, index: int) -> Name:
        return (SERVER_LABELS[index].encode(), *self.name)

    def _address(self, name: Name, host: str) -> Record:
        kind = Kind.AAAA if ipaddress.ip_address(host).version == 6 else Kind.A
        return Record(name, kind, self.ttl_s, host)

    def _soa(self) -> Record:
        server, person = text_of(self._server(0)), text_of((b"hostmaster", *self.name))
        times = f"{REFRESH_S} {RETRY_S} {EXPIRE_S} {NEGATIVE_TTL_S}"
        data = f"{server} {person} {self.serial} {times}"
        return Record(self.name, Kind.SOA, self.ttl_s, data)

    # Answers
    # ------------------------------------------------------------------------------------------

    def answer(self, question: Question) -> Reply:
        """The answer to a question; any question has one."""
        name, kind = question.name, question.kind
        if not question.class_in or name[-len(self.name) :] != self.name:
            return Reply(Code.REFUSED)
        if kind != Kind.ANY and (kind == 0 or 128 <= kind <= 255 or kind == 41):
            return Reply(Code.REFUSED)  # Transfers, and types that only a protocol uses.
        about_us = name == self.name and kind in (Kind.SOA, Kind.NS)
        if not self._listed and not about_us and name not in self._servers:
            return Reply(Code.SERVFAIL)
        kinds = self._names.of.get(name)
        if kinds is None:
            return self._denial(Code.NXDOMAIN)
        order = (Kind.AAAA, Kind.A, Kind.SRV, Kind.NS, Kind.SOA)
        wanted = [k for k in order if k in kinds and kind in (k, Kind.ANY)]
        if not wanted:
            return self._denial(Code.NOERROR)
        answers: list[Record] = []
        for found in wanted:
            answers += rotated(kinds[found], self._turns.get((name, found), 0))
        return Reply(
            Code.NOERROR,
            authoritative=True,
            answers=tuple(answers),
            additional=self._additional(answers),
            turns=tuple((name, k) for k in wanted if len(kinds[k]) > 1),
        )

    def answered(self, reply: Reply) -> None:
        """``reply`` was sent whole: the next one begins with the next address."""
        for turn in reply.turns:
            self._turns[turn] = self._turns.get(turn, 0) + 1

    def _denial(self, code: Code) -> Reply:
        soa = self._soa()
        ttl_s = min(NEGATIVE_TTL_S, self.ttl_s)  # RFC 2308.
        denied = Record(soa.name, soa.kind, ttl_s, soa.data)
        return Reply(code, authoritative=True, authority=(denied,))

    def _additional(self, answers: Sequence[Record]) -> tuple[Record, ...]:
        """The addresses of whom SRV and NS records name, IPv6 first, in the answers' order."""
        found: list[Record] = []
        for record in answers:
            if record.kind in (Kind.SRV, Kind.NS):
                target = record.data.rpartition(" ")[2].removesuffix(".").encode()
                kinds = self._names.of.get(tuple(target.split(b".")), {})
                found += [*kinds.get(Kind.AAAA, ()), *kinds.get(Kind.A, ())]
        return tuple(dict.fromkeys(found))
