"""The SDK's resolver against real servers, ours and strange ones."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.message
import dns.rcode
import pytest
from zone_rig import LARGE, NAME, SMALL, host_port, served, zone_of

from sofs.core.members import Member
from sofs.dns_wire import resolver as module
from sofs.dns_wire.resolver import Resolver
from sofs.errors import InvalidParameter, Unavailable

Script = Callable[[bytes], list[bytes]]


@asynccontextmanager
async def strange(script: Script) -> AsyncIterator[tuple[str, int]]:
    """A server over UDP that sends for each query what ``script`` says."""

    class Protocol(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
            self.transport = transport

        def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
            for answer in script(data):
                self.transport.sendto(answer, peer)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Protocol, local_addr=("127.0.0.1", 0)
    )
    yield transport.get_extra_info("sockname")
    transport.close()


def failing(code: str) -> Script:
    def script(data: bytes) -> list[bytes]:
        reply = dns.message.make_response(dns.message.from_wire(data))
        reply.set_rcode(dns.rcode.from_text(code))
        return [reply.to_wire()]

    return script


async def test_srv_tells_every_node_with_its_port_in_the_servers_order() -> None:
    async with served(zone_of()) as server:
        ask = Resolver(NAME, [host_port(server.address)], 0, 7440)
        first = ["[2001:db8::a]:7440", "192.0.2.1:7440"]
        second = ["[2001:db8::b]:7440", "192.0.2.2:7440"]
        third = ["192.0.2.3:7441"]
        assert await ask() == [*first, *second, *third]
        assert await ask() == [*second, *third, *first]


async def test_a_port_in_the_url_asks_for_addresses_only_ipv6_first() -> None:
    async with served(zone_of()) as server:
        ask = Resolver(NAME, [host_port(server.address)], 99, 7440)
        found = ["[2001:db8::a]", "[2001:db8::b]", "192.0.2.1", "192.0.2.2", "192.0.2.3"]
        assert await ask() == [f"{host}:99" for host in found]
        assert (await ask())[:3] == ["[2001:db8::b]:99", "[2001:db8::a]:99", "192.0.2.2:99"]


async def test_sixty_four_nodes_are_found_over_tcp() -> None:
    async with served(zone_of(LARGE)) as server:
        found = await Resolver(NAME, [host_port(server.address)], 0, 7440)()
        assert len(found) == 2 * len(LARGE)
        assert found[0] == "[2001:db8::1]:7441"
        assert server.counters()["tcp_connections"] == 1


async def test_without_srv_the_addresses_have_the_default_port() -> None:
    async with served(zone_of()) as server:
        # A name of the zone that has addresses and nothing below it.
        found = await Resolver(f"node-1.{NAME}", [host_port(server.address)], 0, 7440)()
        assert found == ["[2001:db8::a]:7440", "192.0.2.1:7440"]


async def test_the_next_server_is_asked_when_one_does_not_know_or_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "UDP_TRY_S", 0.05)
    async with served(zone_of(None)) as starting, served(zone_of([SMALL[2]])) as server:
        async with strange(lambda data: []) as deaf, strange(failing("REFUSED")) as other:
            nobody = ("127.0.0.1", 1)
            servers = [deaf, other, nobody, host_port(starting.address), host_port(server.address)]
            assert await Resolver(NAME, servers, 0, 7440)() == ["192.0.2.3:7441"]
            with pytest.raises(Unavailable) as raised:
                await Resolver(NAME, servers[:-1], 0, 7440)()
    for reason in ("no answer", "REFUSED", "cannot be asked", "SERVFAIL"):
        assert reason in str(raised.value)


async def test_a_dead_server_costs_one_try_and_a_lost_packet_no_more() -> None:
    asked: list[str] = []
    zone = zone_of([SMALL[2]])

    def loses_one(data: bytes) -> list[bytes]:
        asked.append("second")
        return [_answer(zone, data)] if asked.count("second") > 1 else []

    def deaf(data: bytes) -> list[bytes]:
        asked.append("first")
        return []

    async with strange(deaf) as first, strange(loses_one) as second:
        assert await Resolver(NAME, [first, second], 0, 7440)() == ["192.0.2.3:7441"]
    assert asked == ["first", "second"] * 2


async def test_a_name_that_is_not_there_says_so() -> None:
    async with served(zone_of()) as server:
        with pytest.raises(Unavailable, match="NXDOMAIN"):
            await Resolver(f"wrong.{NAME}", [host_port(server.address)], 0, 7440)()


async def test_what_does_not_answer_the_question_is_not_listened_to() -> None:
    zone = zone_of([Member("right", "", ("192.0.2.7",), 7)])

    def script(data: bytes) -> list[bytes]:
        query = dns.message.from_wire(data)
        right = dns.message.make_response(query)
        other = dns.message.make_response(dns.message.make_query("other.org", "SRV"))
        other.id = query.id
        right_wire = right.to_wire()
        wrong_number = struct.pack("!H", query.id ^ 1) + right_wire[2:]
        return [b"", b"garbage", data, wrong_number, other.to_wire(), _answer(zone, data)]

    async with strange(script) as server:
        assert await Resolver(NAME, [server], 0, 7440)() == ["192.0.2.7:7"]


def _answer(zone: object, data: bytes) -> bytes:
    from sofs.dns_wire.codec import Counters, respond

    wire = respond(data, zone, Counters(), tcp=False)  # type: ignore[arg-type]
    assert wire is not None
    return wire


@pytest.mark.parametrize("name", ["a..b", "x" * 64, "a." * 130])
def test_a_name_that_dns_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameter):
        Resolver(name, [], 0, 7440)
