"""URLs, addresses, and the bookkeeping of operation numbers."""

from __future__ import annotations

import asyncio
import random

import pytest
from client_rig import rig_of, until
from hypothesis import given
from hypothesis import strategies as st
from mini_cluster import DROP

from sofs.client import limits
from sofs.client.aio import connect
from sofs.client.dialing import AddressBook
from sofs.client.operation import Numbers
from sofs.client.url import PORT_DEFAULT, parse_url
from sofs.client.witness import judge, witness_address
from sofs.core import messages as m
from sofs.errors import CredentialRefused, InvalidParameter, LimitExceeded


def test_url_gives_hosts_and_share() -> None:
    url = parse_url("sofs://127.0.0.11:7000,[::1]:7001,node3,[fe80::2]/my%20share/")
    assert url.addresses == [
        "127.0.0.11:7000",
        "[::1]:7001",
        f"node3:{PORT_DEFAULT}",
        f"[fe80::2]:{PORT_DEFAULT}",
    ]
    assert url.share == "my share"


@pytest.mark.parametrize("text", ["cap.name", "cap.name:7001"])
def test_url_with_dns_servers_has_one_name_and_a_port_only_if_it_says_one(text: str) -> None:
    url = parse_url(f"sofs://{text}/my%20share?dns=127.0.0.10:5300,[::1],ns.example.org")
    name, _, port = text.partition(":")
    assert url.hosts == ((name, int(port or 0)),)
    assert url.dns == (("127.0.0.10", 5300), ("::1", 53), ("ns.example.org", 53))
    assert url.share == "my share"
    assert str(url) == f"sofs://{text}/my share?dns=127.0.0.10:5300,[::1]:53,ns.example.org:53"


def test_share_whose_name_holds_a_question_mark_is_written_with_an_escape() -> None:
    assert parse_url("sofs://h/a%3Fdns=b").share == "a?dns=b"


@pytest.mark.parametrize(
    "url",
    [
        "http://h/s",
        "sofs://h",
        "sofs://h/",
        "sofs:///s",
        "sofs://h:/s",
        "sofs://h:0/s",
        "sofs://h:65536/s",
        "sofs://h:x/s",
        "sofs://h,/s",
        "sofs://::1/s",
        "sofs://[::1/s",
        "sofs://[::1]x/s",
        "sofs://secret@h/s",
        "sofs://h/s/deeper",
        "sofs://name/s?",
        "sofs://name/s?dns=",
        "sofs://name/s?dns=127.0.0.1:0",
        "sofs://name/s?dns=127.0.0.1:53,",
        "sofs://name/s?dns=127.0.0.1&more=1",
        "sofs://name/s?other=1",
        "sofs://127.0.0.1/s?start=",
        "sofs://127.0.0.1/s?start=127.0.0.2",
        "sofs://127.0.0.1/s?start=127.0.0.1:7000",
        "sofs://127.0.0.1,127.0.0.2/s?start=127.0.0.1,127.0.0.2",
        "sofs://127.0.0.1/s?start=127.0.0.1&dns=127.0.0.1",
        "sofs://name/s?start=name",
        "sofs://127.0.0.1/s?dns=127.0.0.1:53",
        "sofs://[::1]/s?dns=127.0.0.1:53",
        "sofs://one,two/s?dns=127.0.0.1:53",
        "sofs://name/?dns=127.0.0.1:53",
        "sofs://name/s?dns=" + ",".join(["127.0.0.1"] * 9),
    ],
)
def test_url_that_is_none_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_url(url)


def test_connect_without_a_credential_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOFS_CREDENTIAL", raising=False)
    with pytest.raises(CredentialRefused, match="SOFS_CREDENTIAL"):
        connect("sofs://127.0.0.1/s")


def test_addresses_come_ipv6_first_rotated_and_the_failed_one_last() -> None:
    given_order = ["1.1.1.1:1", "[::1]:1", "2.2.2.2:1", "[::2]:1", "3.3.3.3:1"]
    firsts = set()
    for seed in range(20):
        book = AddressBook(given_order, random.Random(seed))
        order = book.order(avoid=["[::1]:1"])
        assert order[0] == "[::2]:1"
        assert order[-1] == "[::1]:1"
        assert sorted(order) == sorted(given_order)
        firsts.add(order[1])
    assert len(firsts) == 3


def test_url_may_say_where_to_start() -> None:
    text = "sofs://127.0.0.1:7000,[::1]:7440/s?start=[::1]:7440"
    url = parse_url(text.replace(":7440", ""))
    assert url.start == ("::1", PORT_DEFAULT)
    assert str(url) == text


def test_an_address_to_start_at_comes_first_unless_it_just_failed() -> None:
    given_order = ["1.1.1.1:1", "[::1]:1", "2.2.2.2:1", "3.3.3.3:1"]
    followers = set()
    for seed in range(20):
        book = AddressBook(given_order, random.Random(seed), "2.2.2.2:1")
        assert book.order()[0] == "2.2.2.2:1"
        assert book.order(avoid=["2.2.2.2:1"])[-1] == "2.2.2.2:1"
        assert sorted(book.order()) == sorted(given_order)
        followers.add(book.order()[2])
    assert followers == {"1.1.1.1:1", "3.3.3.3:1"}, "the others are spread as ever"


async def test_addresses_of_a_resolver_that_spreads_clients_itself_keep_their_order() -> None:
    class Spreading:
        ordered = True

        async def __call__(self) -> list[str]:
            return ["2.2.2.2:1", "[::2]:1", "1.1.1.1:1", "[::1]:1"]

    for seed in range(5):
        book = AddressBook(Spreading(), random.Random(seed))
        await book.refresh()
        assert book.order() == ["[::2]:1", "[::1]:1", "2.2.2.2:1", "1.1.1.1:1"]


@given(st.permutations(list(range(1, 30))))
def test_acked_below_is_the_lowest_number_without_an_answer(order: list[int]) -> None:
    numbers = Numbers()
    for _ in order:
        numbers.take()
    open_numbers = set(order)
    for number in order:
        numbers.answered(number)
        numbers.answered(number)
        open_numbers.discard(number)
        assert numbers.acked_below == min(open_numbers, default=30)
    assert numbers.span == 0


def test_witness_is_an_available_interface_that_may_witness() -> None:
    four = m.Interface("n", 0, 1, "1.2.3.4", "", 1 | 4, 7)
    assert witness_address(four) == "1.2.3.4:7"
    assert witness_address(m.Interface("n", 0, 1, "1.2.3.4", "::1", 7, 7)) == "[::1]:7"
    assert witness_address(m.Interface("n", 0, 255, "1.2.3.4", "", 5, 7)) == ""
    assert witness_address(m.Interface("n", 0, 1, "1.2.3.4", "", 1, 7)) == ""


def test_only_notices_about_the_node_in_use_or_moves_count() -> None:
    assert judge(m.Notification(1, 255, "b", "b:1"), "a:1", "a") is None
    assert judge(m.Notification(1, 1, "a", "a:1"), "a:1", "a") is None
    assert judge(m.Notification(1, 255, "", "a:1"), "a:1", "a") is not None
    moved = judge(m.Notification(2, 1, "b", "b:1"), "a:1", "a")
    assert moved is not None
    assert moved.destination == "b:1"


async def test_operations_beyond_the_window_wait_in_order() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        held = [1]
        node.script = lambda body: (
            DROP if isinstance(body, m.Write) and body.op_sequence in held else None
        )
        writes = [
            asyncio.create_task(file.pwrite(b"x", i)) for i in range(limits.DATA_OPS_MAX + 10)
        ]
        await until(lambda: len(rig.volume.executed) == limits.DATA_OPS_MAX - 1)
        assert len(file.remote.waiting) == 10
        held.clear()
        node.kill()
        await asyncio.gather(*writes)
        sequences = [sequence for _, sequence in rig.volume.executed]
        assert sorted(sequences) == list(range(1, limits.DATA_OPS_MAX + 11))


async def test_queue_that_is_full_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FLIGHT_OPS_MAX", 1)
    monkeypatch.setattr(limits, "QUEUED_OPS_MAX", 2)
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        rig.node_of(share).gate = gate = asyncio.Event()
        writes = [asyncio.create_task(file.pwrite(b"x", i)) for i in range(3)]
        await until(lambda: len(file.remote.waiting) == 2)
        with pytest.raises(LimitExceeded, match="wait"):
            await file.pwrite(b"x", 9)
        rig.node_of(share).gate = None
        gate.set()
        assert await asyncio.gather(*writes) == [1, 1, 1]


async def test_waiting_open_does_not_hold_the_numbers_of_others() -> None:
    from sofs.errors import FileNotAvailable

    async with rig_of() as rig, rig.connect() as share:
        node = rig.node_of(share)
        node.script = lambda body: (
            FileNotAvailable("gate") if isinstance(body, m.Open) and body.path == "/held" else None
        )
        held = asyncio.create_task(share.open("/held", "wb"))
        await until(lambda: any(isinstance(b, m.Open) for b in node.seen))
        for i in range(20):
            await share.mkdir(f"/d{i}")
        assert share.core.flight._numbers.span <= 2
        node.script = lambda body: None
        await (await held).close()
        assert share.core.flight._numbers.span <= 1
