"""A zone, what asks it, and sockets in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import dns.asyncquery
import dns.message
import dns.rdatatype

from sofs.core.members import Member
from sofs.core.zone import TTL_DEFAULT_S, Zone, ZoneSettings
from sofs.dns_wire.server import DnsServer, SocketWire

NAME = "files.example.org"
WAIT_S = 30.0
SMALL = [
    Member("node-1", "m1", ("192.0.2.1", "2001:db8::a"), 7440),
    Member("node-2", "m2", ("2001:db8::b", "192.0.2.2"), 7440),
    Member("node-3", "m3", ("192.0.2.3",), 7441),
]
LARGE = [
    Member(f"node-{i}", "", (f"192.0.2.{i}", f"2001:db8::{i:x}"), 7440 + i) for i in range(1, 65)
]


def zone_of(members: Sequence[Member] | None = SMALL, ttl_s: int = TTL_DEFAULT_S) -> Zone:
    zone = Zone(ZoneSettings(NAME, ("127.0.0.1",), ttl_s), now_s=1_000)
    zone.publish(None if members is None else list(members), 1_000)
    return zone


@asynccontextmanager
async def served(zone: Zone, address: str = "127.0.0.1:0") -> AsyncIterator[DnsServer]:
    """The zone behind real sockets; fails when the server met what only a bug can raise, or leaves
    a task behind."""
    before = asyncio.all_tasks()
    crashes: list[BaseException] = []
    server = await SocketWire().listen(address, zone, crashes.append)
    assert isinstance(server, DnsServer)
    try:
        yield server
    finally:
        await server.close()
    assert not crashes, crashes
    left = asyncio.all_tasks() - before
    if left:
        _, pending = await asyncio.wait(left, timeout=WAIT_S)
        assert not pending


def host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def query_of(kind: str, name: str = NAME, **options: object) -> dns.message.QueryMessage:
    return dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]


async def over_udp(server: DnsServer, query: dns.message.Message) -> dns.message.Message:
    host, port = host_port(server.address)
    return await dns.asyncquery.udp(query, host, timeout=WAIT_S, port=port)


async def over_tcp(server: DnsServer, query: dns.message.Message) -> dns.message.Message:
    host, port = host_port(server.address)
    return await dns.asyncquery.tcp(query, host, timeout=WAIT_S, port=port)


def texts(reply: dns.message.Message, kind: str = "") -> list[str]:
    """The data of the answers, of one type if it is named."""
    wanted = dns.rdatatype.from_text(kind) if kind else None
    return [
        record.to_text()
        for rrset in reply.answer
        if wanted in (None, rrset.rdtype)
        for record in rrset
    ]
