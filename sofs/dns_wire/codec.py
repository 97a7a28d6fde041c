"""Bytes of a query to bytes of its answer.

Whatever comes in, one of three things happens, none of which is an exception: it is *dropped* (too
short to be answered, or itself an answer: answering answers is how two servers talk for ever); it
is *refused* with a bare header, which costs next to nothing (it cannot be parsed, is no query, or
holds more than a query does); or the zone is asked. The counts of the header are looked at before
anything is parsed, so that a large packet full of records costs no more than a small one.

An answer that is too large for what the asker takes goes without its additional part; if that does
not help, empty and marked as truncated: the asker comes again over TCP.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from sofs.core.zone import Code, Name, Question, Record, Reply
from sofs.ports.dns import Answerer

HEADER: Final = struct.Struct("!6H")
QUERY_BYTES_MAX: Final = 4_096  # A query is a name and an option; more is no query.
PLAIN_BYTES_MAX: Final = 512  # What an asker takes over UDP that says nothing else.
UDP_BYTES_MAX: Final = 1_232  # Larger datagrams are cut into fragments, which get lost.
TCP_BYTES_MAX: Final = 65_535
ADDITIONAL_MAX: Final = 2  # Records of a query behind its question: OPT and a signature.
_IS_REPLY: Final = 0x8000
_OPCODE: Final = 0x7800
_RECURSION_DESIRED: Final = 0x0100
_PARSED_KEPT: Final = 4_096


@dataclass(slots=True)
class Counters:
    """``queries``: all that came in. Of them ``dropped``: not answered; ``malformed``: no query, or
    none that can be parsed; ``refused``: outside the zone, or not served; ``unknown``: asked before
    the members were known; ``denied``: no such name or type; ``truncated``: sent empty."""

    queries: int = 0
    dropped: int = 0
    malformed: int = 0
    refused: int = 0
    unknown: int = 0
    denied: int = 0
    truncated: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def respond(data: bytes, answerer: Answerer, counters: Counters, *, tcp: bool) -> bytes | None:
    """Return the answer to a packet, or None when there shall be none."""
    counters.queries += 1
    if len(data) < HEADER.size:
        counters.dropped += 1
        return None
    number, flags, questions, answers, authority, additional = HEADER.unpack_from(data)
    if flags & _IS_REPLY:
        counters.dropped += 1
        return None
    if flags & _OPCODE:
        counters.refused += 1
        return _bare(number, flags, Code.NOTIMP)
    fits = (questions, answers, authority) == (1, 0, 0) and additional <= ADDITIONAL_MAX
    query = _parsed(data) if fits and len(data) <= QUERY_BYTES_MAX else None
    if query is None:
        counters.malformed += 1
        return _bare(number, flags, Code.FORMERR)
    response = dns.message.make_response(query, our_payload=UDP_BYTES_MAX)
    if query.edns > 0:
        counters.refused += 1
        response.use_edns(0, payload=UDP_BYTES_MAX)
        response.set_rcode(dns.rcode.BADVERS)
        return response.to_wire()
    reply = answerer.answer(_question(query))
    _count(reply, counters)
    if tcp:
        size_max = TCP_BYTES_MAX
    elif query.edns < 0:
        size_max = PLAIN_BYTES_MAX
    else:
        size_max = min(max(PLAIN_BYTES_MAX, query.payload), UDP_BYTES_MAX)
    _fill(response, reply)
    wire = _to_wire(response, size_max)
    if response.flags & dns.flags.TC:
        counters.truncated += 1
    else:
        answerer.answered(reply)
    return wire


def _parsed(data: bytes) -> dns.message.QueryMessage | None:
    """The query in ``data``; None when it is none. What dnspython makes of bytes that nobody
    meant is not only its own errors, so all of them count; nothing of ours runs inside."""
    try:
        message = dns.message.from_wire(data)
    except Exception:
        return None
    if not isinstance(message, dns.message.QueryMessage) or len(message.question) != 1:
        return None
    return message


def _bare(number: int, flags: int, code: Code) -> bytes:
    kept = flags & (_OPCODE | _RECURSION_DESIRED)
    return HEADER.pack(number, _IS_REPLY | kept | code, 0, 0, 0, 0)


def _question(query: dns.message.QueryMessage) -> Question:
    [asked] = query.question
    labels = asked.name.canonicalize().labels
    return Question(labels[:-1], int(asked.rdtype), asked.rdclass == dns.rdataclass.IN)


def _count(reply: Reply, counters: Counters) -> None:
    if reply.code == Code.REFUSED:
        counters.refused += 1
    elif reply.code == Code.SERVFAIL:
        counters.unknown += 1
    elif not reply.answers:
        counters.denied += 1


def _fill(response: dns.message.Message, reply: Reply) -> None:
    response.set_rcode(dns.rcode.Rcode(reply.code))
    if reply.authoritative:
        response.flags |= dns.flags.AA
    response.answer = _rrsets(reply.answers)
    response.authority = _rrsets(reply.authority)
    response.additional = _rrsets(reply.additional)


def _rrsets(records: Sequence[Record]) -> list[dns.rrset.RRset]:
    """Records as dnspython groups them; the order within a group, and of groups, stays."""
    found: dict[tuple[Name, int], dns.rrset.RRset] = {}
    for record in records:
        key = (record.name, int(record.kind))
        if key not in found:
            owner = dns.name.Name((*record.name, b""))
            kind = dns.rdatatype.RdataType.make(record.kind)
            found[key] = dns.rrset.RRset(owner, dns.rdataclass.IN, kind)
        found[key].add(_rdata(int(record.kind), record.data), record.ttl_s)
    return list(found.values())


@lru_cache(_PARSED_KEPT)
def _rdata(kind: int, data: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.RdataType.make(kind), data)


def _to_wire(response: dns.message.Message, size_max: int) -> bytes:
    # dnspython shuffles the records of a set unless told otherwise: the order is our answer.
    try:
        return response.to_wire(max_size=size_max, want_shuffle=False)
    except dns.exception.TooBig:
        response.additional = []
    try:
        return response.to_wire(max_size=size_max, want_shuffle=False)
    except dns.exception.TooBig:
        response.flags |= dns.flags.TC
        response.answer, response.authority = [], []
    return response.to_wire(max_size=size_max, want_shuffle=False)
