"""Real UDP and TCP sockets: every query is answered over both, and no peer costs another its
answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Callable

import dns.flags
import dns.rcode
import pytest
from zone_rig import (
    LARGE,
    NAME,
    SMALL,
    WAIT_S,
    host_port,
    over_tcp,
    over_udp,
    query_of,
    served,
    texts,
    zone_of,
)

from sofs.core.zone import Question, Reply
from sofs.dns_wire import server as module
from sofs.dns_wire.server import DnsServer, SocketWire
from sofs.errors import InvalidParameter, Unavailable


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  # What it looks at has no events.
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def connection(
    server: DnsServer,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*host_port(server.address))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the connection ends."""
    async with asyncio.timeout(WAIT_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def test_every_kind_of_question_has_the_same_answer_over_udp_and_tcp() -> None:
    async with served(zone_of()) as server:
        for kind, name, count in [
            ("A", NAME, 3),
            ("AAAA", NAME, 2),
            ("ANY", NAME, 7),
            ("SRV", f"_sofs._tcp.{NAME}", 3),
            ("SOA", NAME, 1),
            ("NS", NAME, 1),
            ("A", f"node-2.{NAME}", 1),
            ("TXT", NAME, 0),
            ("A", f"node-9.{NAME}", 0),
            ("A", "example.com", 0),
        ]:
            udp = await over_udp(server, query_of(kind, name, use_edns=0))
            tcp = await over_tcp(server, query_of(kind, name, use_edns=0))
            assert sorted(texts(udp)) == sorted(texts(tcp))
            assert len(texts(udp)) == count, (kind, name)
            assert udp.rcode() == tcp.rcode()
            assert udp.flags == tcp.flags


@pytest.mark.parametrize("over", [over_udp, over_tcp])
async def test_the_vector_of_rotation_holds_on_the_wire(over: Callable) -> None:  # type: ignore[type-arg]
    async with served(zone_of()) as server:
        seen = []
        for _ in range(4):
            reply = await over(server, query_of("ANY"))
            seen.append([t[-1] for t in texts(reply, "AAAA")] + [t[-1] for t in texts(reply, "A")])
        assert seen == [
            ["a", "b", "1", "2", "3"],
            ["b", "a", "2", "3", "1"],
            ["a", "b", "3", "1", "2"],
            ["b", "a", "1", "2", "3"],
        ]


async def test_a_denial_carries_the_soa() -> None:
    async with served(zone_of()) as server:
        reply = await over_udp(server, query_of("A", f"nobody.{NAME}"))
        assert reply.rcode() == dns.rcode.NXDOMAIN
        [soa] = reply.authority
        assert (soa.rdtype, soa.name.to_text(), soa.ttl) == (6, f"{NAME}.", 30)


async def test_a_truncated_answer_is_whole_over_tcp_and_turns_once_for_both() -> None:
    async with served(zone_of(LARGE)) as server:
        for turn in range(3):
            short = await over_udp(server, query_of("A"))
            assert short.flags & dns.flags.TC
            assert not short.answer
            whole = await over_tcp(server, query_of("A"))
            assert len(texts(whole)) == len(LARGE)
            assert texts(whole)[0] == LARGE[turn].hosts[0]
        assert server.counters()["truncated"] == 3


async def test_the_ttl_that_was_set_is_the_one_that_is_sent() -> None:
    async with served(zone_of(ttl_s=7)) as server:
        reply = await over_udp(server, query_of("A"))
        assert reply.answer[0].ttl == 7


async def test_what_is_not_known_yet_is_a_failure_that_nobody_keeps() -> None:
    zone = zone_of(None)
    async with served(zone) as server:
        reply = await over_udp(server, query_of("A"))
        assert (reply.rcode(), reply.authority) == (dns.rcode.SERVFAIL, [])
        zone.publish(list(SMALL), 1_000)
        assert len(texts(await over_udp(server, query_of("A")))) == 3
        assert server.counters()["unknown"] == 1


async def test_questions_over_ipv6_are_answered() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with served(zone_of(), "[::1]:0") as server:
        assert server.address.startswith("[::1]:")
        assert texts(await over_udp(server, query_of("AAAA")))
        assert texts(await over_tcp(server, query_of("AAAA")))


# Garbage -----------------------------------------------------------------------------------------


async def test_after_thousands_of_datagrams_of_garbage_the_next_question_is_answered() -> None:
    chance = random.Random(7)
    async with served(zone_of()) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect(host_port(server.address))
            for _ in range(2_000):
                size = chance.choice([0, 1, 11, 12, 13, 40, 512, 9_000])
                with contextlib.suppress(ConnectionError):
                    stranger.send(chance.randbytes(size))
                # The server's turn: what the kernel has no room for, it drops.
                await asyncio.sleep(0)
        assert len(texts(await over_udp(server, query_of("A")))) == 3
        counters = server.counters()
        assert counters["dropped"] + counters["malformed"] + counters["refused"] > 100


@pytest.mark.parametrize(
    "garbage",
    [b"\0\0", b"\0\x01a", b"\xff\xff" + bytes(100), b"GET / HTTP/1.1\r\n\r\n" * 300, b"\0\x0c"],
)
async def test_garbage_over_tcp_ends_its_connection_and_no_other(
    garbage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(zone_of()) as server:
        monkeypatch.setattr(server, "_idle_s", 0.2)  # For the one that is only begun.
        async with connection(server) as (reader, writer):
            writer.write(garbage)
            await ended(reader)
        assert len(texts(await over_tcp(server, query_of("A")))) == 3


async def test_random_bytes_over_tcp_are_never_fatal() -> None:
    chance = random.Random(11)
    async with served(zone_of()) as server:
        for _ in range(60):
            async with connection(server) as (_, writer):
                body = chance.randbytes(chance.randrange(200))
                writer.write(len(body).to_bytes(2) + body + os.urandom(chance.randrange(50)))
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
        await until(lambda: server.counters()["tcp_open"] == 0)
        assert len(texts(await over_tcp(server, query_of("A")))) == 3


async def test_a_query_over_tcp_in_single_bytes_and_several_in_one_piece_are_answered() -> None:
    wire = query_of("A").to_wire(prepend_length=True)
    async with served(zone_of()) as server:
        async with connection(server) as (reader, writer):
            for byte in wire:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(wire * 20)
            for _ in range(21):
                size = int.from_bytes(await reader.readexactly(2))
                assert len(await reader.readexactly(size)) == size
        assert server.counters()["queries"] == 21


# Limits ------------------------------------------------------------------------------------------


async def test_who_is_silent_or_reads_nothing_is_left_after_the_idle_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served(zone_of(LARGE)) as server:
        monkeypatch.setattr(server, "_idle_s", 0.2)
        async with connection(server) as (silent, _), connection(server) as (_, greedy):
            greedy.write(query_of("ANY").to_wire(prepend_length=True) * 20_000)
            assert await ended(silent) == b""
            await until(lambda: server.counters()["tcp_open"] == 0)
        assert server.counters()["queries"] < 20_000
        monkeypatch.setattr(server, "_idle_s", 30)
        assert texts(await over_tcp(server, query_of("A")))


async def test_a_connection_beyond_the_limit_is_closed_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 2)
    wire = query_of("A").to_wire(prepend_length=True)
    async with served(zone_of()) as server:
        async with connection(server) as (first, writer), connection(server):
            await until(lambda: server.counters()["tcp_open"] == 2)
            async with connection(server) as (third, _):
                assert await ended(third) == b""
            writer.write(wire)
            assert int.from_bytes(await first.readexactly(2)) > 0
            assert server.counters()["tcp_refused"] == 1
        await until(lambda: server.counters()["tcp_open"] == 0)
        assert texts(await over_tcp(server, query_of("A")))


class Broken:
    """A zone with a bug."""

    def answer(self, question: Question) -> Reply:
        raise ZeroDivisionError("a bug")

    def answered(self, reply: Reply) -> None:
        raise AssertionError


async def test_a_bug_in_the_zone_is_told_and_not_swallowed() -> None:
    crashes: list[BaseException] = []
    server = await SocketWire().listen("127.0.0.1:0", Broken(), crashes.append)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.sendto(query_of("A").to_wire(), host_port(server.address))
            await until(lambda: crashes)
        assert isinstance(crashes[0], ZeroDivisionError)
    finally:
        await server.close()


# Ports -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_port_that_is_taken_for_either_is_refused_and_leaves_nothing_bound(
    kind: socket.SocketKind,
) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            taken.listen()
        with pytest.raises(Unavailable, match="taken"):
            await SocketWire().listen(f"127.0.0.1:{port}", zone_of(), lambda error: None)
    async with served(zone_of(), f"127.0.0.1:{port}") as server:
        assert server.address == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", "127.0.0.1:x", "no.such.host.:5", "1.2.3.4:0"]
)
async def test_an_address_that_is_none_of_ours_is_refused(address: str) -> None:
    with pytest.raises(InvalidParameter):
        await SocketWire().listen(address, zone_of(), lambda error: None)


async def test_a_closed_server_frees_its_port_for_the_next_at_once() -> None:
    async with served(zone_of()) as server:
        address = server.address
        await over_tcp(server, query_of("A"))
    async with served(zone_of(), address) as server:
        assert server.address == address
