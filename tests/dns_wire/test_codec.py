"""Bytes in, bytes out: whatever comes, nothing is raised, and answers are never answered."""

from __future__ import annotations

import random

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.tsigkeyring
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from zone_rig import LARGE, NAME, query_of, texts, zone_of

from sofs.core.zone import Question, Reply, Zone
from sofs.dns_wire.codec import (
    HEADER,
    QUERY_BYTES_MAX,
    UDP_BYTES_MAX,
    Counters,
    respond,
)


def asked(
    data: bytes, zone: Zone | None = None, *, tcp: bool = False
) -> tuple[dns.message.Message | None, Counters]:
    counters = Counters()
    wire = respond(data, zone or zone_of(), counters, tcp=tcp)
    return (None if wire is None else dns.message.from_wire(wire)), counters


def test_an_answer_keeps_the_order_that_the_zone_gave_it() -> None:
    zone = zone_of(LARGE)
    query = query_of("A", use_edns=0, payload=4096)
    for turn in range(3):
        reply, _ = asked(query.to_wire(), zone, tcp=True)
        assert reply is not None
        listed = [member.hosts[0] for member in LARGE]
        assert texts(reply) == listed[turn:] + listed[:turn]


def test_an_answer_repeats_number_question_and_case_and_is_authoritative() -> None:
    query = query_of("A", "FiLeS.eXaMpLe.OrG")
    reply, _ = asked(query.to_wire())
    assert reply is not None
    assert query.is_response(reply)
    assert reply.question[0].name.to_text() == "FiLeS.eXaMpLe.OrG."
    assert reply.answer[0].name.to_text() == "FiLeS.eXaMpLe.OrG."
    assert reply.flags & (dns.flags.AA | dns.flags.RD) == dns.flags.AA | dns.flags.RD
    assert not reply.flags & dns.flags.RA


@pytest.mark.parametrize("payload", [512, 800, 1232, 4096, 65535])
def test_what_the_asker_cannot_take_is_truncated_and_moves_no_turn(payload: int) -> None:
    zone = zone_of(LARGE)
    query = query_of("AAAA", use_edns=0, payload=payload)
    for _ in range(2):
        wire = respond(query.to_wire(), zone, Counters(), tcp=False)
        assert wire is not None
        assert len(wire) <= min(payload, UDP_BYTES_MAX)
        reply = dns.message.from_wire(wire)
        assert reply.flags & dns.flags.TC
        assert (reply.answer, reply.authority, reply.additional) == ([], [], [])
    whole, counters = asked(query.to_wire(), zone, tcp=True)
    assert whole is not None
    assert not whole.flags & dns.flags.TC
    assert texts(whole)[0] == "2001:db8::1"
    assert counters.truncated == 0
    assert len(texts(whole)) == len(LARGE)


def test_the_additional_part_is_left_out_before_anything_is_truncated() -> None:
    zone = zone_of(LARGE[:11])
    query = query_of("SRV", f"_sofs._tcp.{NAME}", use_edns=0, payload=700)
    reply, counters = asked(query.to_wire(), zone)
    assert reply is not None
    assert (len(texts(reply)), reply.additional, counters.truncated) == (11, [], 0)
    whole, _ = asked(query.to_wire(), zone, tcp=True)
    assert whole is not None
    assert len(whole.additional) == 22


def test_without_edns_an_answer_over_udp_has_512_bytes() -> None:
    wire = respond(query_of("A").to_wire(), zone_of(LARGE), Counters(), tcp=False)
    assert wire is not None
    assert len(wire) <= 512
    assert dns.message.from_wire(wire).flags & dns.flags.TC


def test_a_later_version_of_edns_is_told_which_one_is_spoken() -> None:
    query = query_of("A", use_edns=0)
    query.use_edns(1)
    reply, counters = asked(query.to_wire())
    assert reply is not None
    assert (reply.rcode(), reply.edns, reply.answer) == (dns.rcode.BADVERS, 0, [])
    assert counters.refused == 1


@pytest.mark.parametrize("opcode", ["NOTIFY", "UPDATE", "STATUS", "IQUERY"])
def test_what_is_no_query_is_not_implemented(opcode: str) -> None:
    query = query_of("SOA")
    query.set_opcode(dns.opcode.from_text(opcode))
    data = bytearray(query.to_wire())
    reply, counters = asked(bytes(data))
    assert reply is not None
    assert reply.rcode() == dns.rcode.NOTIMP
    assert (reply.id, counters.refused) == (query.id, 1)


@pytest.mark.parametrize("length", range(HEADER.size))
def test_less_than_a_header_is_dropped(length: int) -> None:
    reply, counters = asked(query_of("A").to_wire()[:length])
    assert (reply, counters.dropped) == (None, 1)


def test_an_answer_is_never_answered() -> None:
    wire = respond(query_of("A").to_wire(), zone_of(), Counters(), tcp=False)
    assert wire is not None
    reply, counters = asked(wire)
    assert (reply, counters.dropped) == (None, 1)


def garbled() -> dict[str, bytes]:
    plain = query_of("A").to_wire()
    header, rest = bytearray(plain[: HEADER.size]), plain[HEADER.size :]

    def counts(*four: int) -> bytes:
        return bytes(header[:4]) + b"".join(n.to_bytes(2) for n in four)

    signed = query_of("A")
    signed.use_tsig(dns.tsigkeyring.from_text({"key.": "c2VjcmV0"}))
    return {
        "no question": counts(0, 0, 0, 0),
        "two questions": counts(2, 0, 0, 0) + rest + rest,
        "an answer in it": counts(1, 1, 0, 0) + rest,
        "an authority in it": counts(1, 0, 1, 0) + rest,
        "more additional than a query has": counts(1, 0, 0, 3) + rest,
        "cut": plain[:-1],
        "something behind it": plain + b"x",
        "a name that points to itself": counts(1, 0, 0, 0) + b"\xc0\x0c\0\x01\0\x01",
        "a name that points forward": counts(1, 0, 0, 0) + b"\xc0\xff\0\x01\0\x01",
        "a label of a kind that is not": counts(1, 0, 0, 0) + b"\x80a\0\0\x01\0\x01",
        "a name that is too long": counts(1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 5 + b"\0\0\x01\0\1",
        "larger than a query": plain + b"\0" * QUERY_BYTES_MAX,
        "signed by nobody we know": signed.to_wire(),
        "two options": counts(1, 0, 0, 2) + rest + 2 * b"\0\0\x29\x04\xd0\0\0\0\0\0\0",
    }


@pytest.mark.parametrize("what", garbled())
def test_garbage_with_a_header_gets_a_bare_header_back(what: str) -> None:
    data = garbled()[what]
    wire = respond(data, zone_of(), counters := Counters(), tcp=False)
    assert wire is not None
    assert len(wire) == HEADER.size
    reply = dns.message.from_wire(wire)
    assert (reply.rcode(), reply.id) == (dns.rcode.FORMERR, int.from_bytes(data[:2]))
    assert counters.malformed == 1


class Silent:
    """A zone that must not be asked."""

    def answer(self, question: Question) -> Reply:
        raise AssertionError("asked")

    def answered(self, reply: Reply) -> None:
        raise AssertionError("answered")


def test_nothing_is_parsed_that_the_header_says_is_no_query() -> None:
    for data in [
        HEADER.pack(1, 0, 1, 0, 0, 60_000) + bytes(100),
        HEADER.pack(1, 0, 65_535, 0, 0, 0),
    ]:
        assert respond(data, Silent(), Counters(), tcp=True) is not None


def check_anything(data: bytes, tcp: bool) -> None:
    counters = Counters()
    wire = respond(data, zone_of(LARGE), counters, tcp=tcp)
    assert counters.queries == 1
    if wire is None:
        assert counters.dropped == 1
        return
    assert len(wire) <= (65_535 if tcp else UDP_BYTES_MAX)
    assert wire[:2] == data[:2]
    assert wire[2] & 0x80, "an answer says that it is one"
    again = Counters()
    assert respond(wire, zone_of(), again, tcp=tcp) is None, "or two servers would talk for ever"
    dns.message.from_wire(wire, ignore_trailing=False)


@settings(max_examples=400)
@given(st.binary(max_size=600), st.booleans())
@example(b"", False)
@example(bytes(12), False)
def test_arbitrary_bytes_are_answered_or_dropped(data: bytes, tcp: bool) -> None:
    check_anything(data, tcp)


@settings(max_examples=400)
@given(
    st.integers(0, 0x7FFF),
    st.integers(0, 2),
    st.integers(0, 2),
    st.binary(max_size=300),
    st.booleans(),
)
def test_arbitrary_bodies_behind_a_fit_header_are_answered(
    flags: int, questions: int, additional: int, body: bytes, tcp: bool
) -> None:
    check_anything(HEADER.pack(7, flags & 0x87FF, questions, 0, 0, additional) + body, tcp)


KINDS = ["A", "AAAA", "ANY", "SRV", "SOA", "NS", "TXT", "AXFR", "IXFR", "OPT", "TYPE65280"]
NAMES = [NAME, f"_sofs._tcp.{NAME}", f"node-1.{NAME}", ".", "example.org", f"\\000\\255.{NAME}"]


@settings(max_examples=400)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(NAMES),
    st.booleans(),
    st.integers(0, 2**32),
    st.integers(0, 6),
    st.booleans(),
)
def test_damaged_queries_are_answered_or_dropped(
    kind: str, name: str, edns: bool, seed: int, damages: int, tcp: bool
) -> None:
    data = bytearray(query_of(kind, name, use_edns=0 if edns else None).to_wire())
    chance = random.Random(seed)
    for _ in range(damages):
        place = chance.randrange(len(data))
        how = chance.randrange(3)
        if how == 0:
            data[place] = chance.randrange(256)
        elif how == 1:
            del data[place:]
            data += bytes(chance.randrange(256) for _ in range(chance.randrange(20)))
        else:
            data[place:place] = bytes(chance.randrange(256) for _ in range(chance.randrange(9)))
        data = data or bytearray(1)
    check_anything(bytes(data), tcp)
