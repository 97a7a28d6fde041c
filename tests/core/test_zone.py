"""The zone of an access point: answers as data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofs.core.members import Member
from sofs.core.zone import (
    NEGATIVE_TTL_S,
    TTL_DEFAULT_S,
    Code,
    Kind,
    Question,
    Reply,
    Zone,
    ZoneSettings,
    parse_name,
)
from sofs.errors import InvalidParameter

NAME = parse_name("files.example.org")
V6 = ["2001:db8::a", "2001:db8::b"]
V4 = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
VECTOR = [
    ["a", "b", "1", "2", "3"],
    ["b", "a", "2", "3", "1"],
    ["a", "b", "3", "1", "2"],
    ["b", "a", "1", "2", "3"],
]
MEMBERS = [
    Member("node-1", "m1", (V4[0], V6[0]), 7440),
    Member("node-2", "m2", (V6[1], V4[1]), 7440),
    Member("node-3", "m3", (V4[2],), 7441),
]


def zone_of(members: list[Member] | None, ttl_s: int = TTL_DEFAULT_S) -> Zone:
    zone = Zone(ZoneSettings("files.example.org", ("192.0.2.53",), ttl_s), now_s=1_000)
    zone.publish(members, now_s=1_000)
    return zone


def ask(zone: Zone, kind: int, *labels: str) -> Reply:
    """One question and its answer, sent whole."""
    reply = zone.answer(Question((*(label.encode() for label in labels), *NAME), kind))
    zone.answered(reply)
    return reply


def ends(reply: Reply, *kinds: Kind) -> list[str]:
    """The last characters of the addresses: what the vector is written in."""
    return [r.data[-1] for r in reply.answers if r.kind in (kinds or (Kind.AAAA, Kind.A))]


def test_addresses_rotate_within_each_family_ipv6_first() -> None:
    zone = zone_of(MEMBERS)
    assert [ends(ask(zone, Kind.ANY)) for _ in VECTOR] == VECTOR


def test_each_family_rotates_by_itself_however_questions_are_mixed() -> None:
    zone = zone_of(MEMBERS)
    for v4_then_v6 in VECTOR:  # As a resolver asks: both types in turns.
        assert ends(ask(zone, Kind.AAAA)) == v4_then_v6[:2]
        assert ends(ask(zone, Kind.A)) == v4_then_v6[2:]
        ask(zone, Kind.SRV, "_sofs", "_tcp")


def test_an_answer_that_was_not_sent_whole_moves_no_turn() -> None:
    zone = zone_of(MEMBERS)
    question = Question(NAME, Kind.A)
    assert zone.answer(question) == zone.answer(question)
    zone.answered(zone.answer(question))
    assert ends(zone.answer(question)) == ["2", "3", "1"]


@given(
    st.integers(1, 12),
    st.lists(st.sampled_from(["A", "AAAA", "SRV"]), min_size=60, max_size=60),
)
def test_every_address_comes_first_equally_often(count: int, kinds: list[str]) -> None:
    members = [
        Member(f"n{i}", "", (f"192.0.2.{i}", f"2001:db8::{i}"), 7440) for i in range(1, count + 1)
    ]
    zone = zone_of(members)
    firsts: dict[str, list[str]] = {"A": [], "AAAA": [], "SRV": []}
    for kind in kinds:
        labels = ("_sofs", "_tcp") if kind == "SRV" else ()
        firsts[kind].append(ask(zone, Kind[kind], *labels).answers[0].data)
    for kind, seen in firsts.items():
        often = [seen.count(data) for data in dict.fromkeys(seen)]
        assert max(often, default=0) - min(often, default=0) <= 1, kind
        assert len(often) == min(count, len(seen))


def test_srv_names_each_node_with_its_port_and_brings_the_addresses_ipv6_first() -> None:
    reply = ask(zone_of(MEMBERS), Kind.SRV, "_sofs", "_tcp")
    assert [record.data for record in reply.answers] == [
        "0 1 7440 node-1.files.example.org.",
        "0 1 7440 node-2.files.example.org.",
        "0 1 7441 node-3.files.example.org.",
    ]
    assert [record.data for record in reply.additional] == [V6[0], V4[0], V6[1], V4[1], V4[2]]
    assert reply.authoritative


def test_a_node_has_its_own_addresses() -> None:
    zone = zone_of(MEMBERS)
    assert [r.data for r in ask(zone, Kind.A, "node-2").answers] == [V4[1]]
    assert [r.data for r in ask(zone, Kind.AAAA, "node-2").answers] == [V6[1]]


def test_two_nodes_on_one_host_are_one_address_and_two_services() -> None:
    zone = zone_of([Member("n1", "", ("127.0.0.1",), 1), Member("n2", "", ("127.0.0.1",), 2)])
    assert len(ask(zone, Kind.A).answers) == 1
    assert len(ask(zone, Kind.SRV, "_sofs", "_tcp").answers) == 2


def test_a_name_that_is_not_there_is_denied_with_the_soa_for_a_short_time() -> None:
    reply = ask(zone_of(MEMBERS), Kind.A, "node-9")
    assert (reply.code, reply.authoritative, reply.answers) == (Code.NXDOMAIN, True, ())
    [soa] = reply.authority
    assert (soa.kind, soa.name, soa.ttl_s) == (Kind.SOA, NAME, NEGATIVE_TTL_S)
    assert soa.data.startswith("ns1.files.example.org. hostmaster.files.example.org. ")
    assert soa.data.endswith(f" {NEGATIVE_TTL_S}")


@pytest.mark.parametrize(
    ("kind", "labels"),
    [(16, ()), (Kind.AAAA, ("node-3",)), (Kind.A, ("_tcp",)), (Kind.A, ("_sofs", "_tcp"))],
)
def test_a_name_without_that_type_exists_and_is_denied_the_type(
    kind: int, labels: tuple[str, ...]
) -> None:
    reply = ask(zone_of(MEMBERS), kind, *labels)
    assert (reply.code, reply.authoritative, reply.answers) == (Code.NOERROR, True, ())
    assert [record.kind for record in reply.authority] == [Kind.SOA]


def test_a_denial_lasts_no_longer_than_an_answer() -> None:
    [soa] = ask(zone_of(MEMBERS, ttl_s=5), Kind.A, "node-9").authority
    assert soa.ttl_s == 5


@pytest.mark.parametrize("members", [None, []])
def test_what_is_not_known_is_not_denied(members: list[Member] | None) -> None:
    zone = zone_of(members)
    for labels in [(), ("node-1",), ("_sofs", "_tcp"), ("never",)]:
        for kind in (Kind.A, Kind.AAAA, Kind.SRV, Kind.ANY, 16):
            reply = ask(zone, kind, *labels)
            assert reply == Reply(Code.SERVFAIL), (labels, kind)
    assert ask(zone, Kind.SOA).answers
    assert ask(zone, Kind.NS).additional[0].data == "192.0.2.53"
    assert ask(zone, Kind.A, "ns1").answers[0].data == "192.0.2.53"
    zone.publish(MEMBERS, 1_000)
    assert ask(zone, Kind.A).answers


def test_every_server_of_the_zone_is_named_with_its_address_while_nobody_is_listed_too() -> None:
    zone = Zone(ZoneSettings("files.example.org", ("192.0.2.53", "2001:db8::53")), now_s=1_000)
    names = {"ns1": "192.0.2.53", "ns2": "2001:db8::53"}
    for members in (None, MEMBERS):
        zone.publish(members, 1_000)
        reply = ask(zone, Kind.NS)
        told = [r.data.split(".")[0] for r in reply.answers]
        assert sorted(told) == ["ns1", "ns2"]
        assert [r.data for r in reply.additional] == [names[name] for name in told]
        assert ask(zone, Kind.AAAA, "ns2").answers[0].data == "2001:db8::53"
        assert ask(zone, Kind.A, "ns2").authority, "it exists, and has no such record"
    assert ask(zone, Kind.SOA).answers[0].data.startswith("ns1.files.example.org. ")
    with pytest.raises(InvalidParameter):
        Zone(ZoneSettings("a.b", ("192.0.2.1", "192.0.2.2", "192.0.2.3")), 0)


@pytest.mark.parametrize("kind", [0, 41, 128, 249, 250, 251, 252, 253, 254])
def test_transfers_and_types_of_the_protocol_are_refused(kind: int) -> None:
    assert ask(zone_of(MEMBERS), kind) == Reply(Code.REFUSED)


@pytest.mark.parametrize("name", [(), (b"org",), NAME[1:], (b"myfiles", *NAME[1:])])
def test_what_is_outside_the_zone_is_refused(name: tuple[bytes, ...]) -> None:
    zone = zone_of(MEMBERS)
    assert zone.answer(Question(name, Kind.A)) == Reply(Code.REFUSED)
    assert zone.answer(Question(NAME, Kind.A, class_in=False)) == Reply(Code.REFUSED)


def test_the_serial_rises_with_every_change_and_with_the_clock() -> None:
    zone = zone_of(MEMBERS)
    first = zone.serial
    assert not zone.publish(list(MEMBERS), 1_000)
    assert zone.serial == first
    assert zone.publish(MEMBERS[:2], 900)  # A clock that was set back.
    assert zone.serial == first + 1
    zone.publish(MEMBERS, 5_000)
    assert zone.serial == 5_000
    assert f" {zone.serial} " in ask(zone, Kind.SOA).answers[0].data


def test_all_records_have_the_ttl_that_was_set() -> None:
    zone = zone_of(MEMBERS, ttl_s=77)
    for kind, labels in [(Kind.ANY, ()), (Kind.SRV, ("_sofs", "_tcp")), (Kind.NS, ())]:
        reply = ask(zone, kind, *labels)
        assert {r.ttl_s for r in (*reply.answers, *reply.additional)} == {77}


@pytest.mark.parametrize("name", ["", ".", "a..b", "-a.b", "a_b.c", "ä.b", "a." + "b" * 64, "1/2"])
def test_a_name_that_no_resolver_can_ask_for_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameter):
        Zone(ZoneSettings(name), 0)


@pytest.mark.parametrize("ttl_s", [-1, 7 * 24 * 3600 + 1])
def test_a_time_to_live_out_of_range_is_refused(ttl_s: int) -> None:
    with pytest.raises(InvalidParameter):
        Zone(ZoneSettings("a.b", ttl_s=ttl_s), 0)


def test_the_longest_name_and_node_still_answer() -> None:
    name = ".".join(["n" * 59] * 3)
    node = "o" * 63
    zone = Zone(ZoneSettings(name), 0)
    zone.publish([Member(node, "", ("127.0.0.1",), 1)], 0)
    apex = parse_name(name)
    reply = zone.answer(Question((b"_sofs", b"_tcp", *apex), Kind.SRV))
    assert [r.data for r in reply.additional] == ["127.0.0.1"]
