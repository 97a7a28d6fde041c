"""A small resolver: the nodes of an access point, asked from the servers that a URL names.

It asks for SRV, which tells each node's port, unless the URL gave one; a server that has no SRV
gets asked for AAAA and A. It takes what the first server says that answers; the order of the answer
is the order in which nodes are tried, since the server rotates it. Nothing is kept: the client asks
when it connects and when every address it knew has failed.

Over UDP a question has UDP_TRY_S to be answered; what does not answer it is not looked at (another
number or question, or no DNS at all). Who does not answer is passed over for the next server, and
asked again in the next of UDP_TRIES rounds: so a dead server costs UDP_TRY_S, and a lost packet no
more. A truncated answer, or one without the addresses that it names, is asked for again over TCP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from sofs.errors import InvalidParameter, SofsError, Unavailable

UDP_TRY_S: Final = 0.5
UDP_TRIES: Final = 2
TCP_S_MAX: Final = 2.0
REPLY_BYTES: Final = 1_232
SERVICE: Final = "_sofs._tcp"
NODES_MAX: Final = 256

Server = tuple[str, int]


class Resolver:
    """Callable as ``sofs.client.dialing.Resolver``. ``port``: of the nodes, 0: as SRV says.
    ``port_default``: when there is no SRV either."""

    ordered = True  # The answer's order is the one to try.

    def __init__(self, name: str, servers: Sequence[Server], port: int, port_default: int) -> None:
        """InvalidParameter for a name that DNS cannot have."""
        try:
            self._name = dns.name.from_text(name)
            self._service = dns.name.from_text(SERVICE, self._name)
        except (dns.exception.DNSException, UnicodeError) as error:
            raise InvalidParameter(f"{name!r} is no name of DNS: {error}") from None
        self._servers = list(servers)
        self._port = port
        self._port_default = port_default

    async def __call__(self) -> list[str]:
        """Return the addresses of all nodes, ``host:port``, in the order to try them. Raises
        Unavailable with every server's reason."""
        reasons: dict[Server, str] = {}
        for _ in range(UDP_TRIES):
            for server in self._servers:
                try:
                    return await self._resolve(server)
                except SofsError as error:
                    reasons[server] = f"{server[0]}:{server[1]}: {error.message}"
        why = "; ".join(reasons.values())
        raise Unavailable(f"no DNS server names the nodes of {self._name}: {why}")

    async def _resolve(self, server: Server) -> list[str]:
        if not self._port:
            found = await self._nodes(server)
            if found:
                return found
        port = self._port or self._port_default
        addresses: list[str] = []
        codes: list[str] = []
        for kind in (dns.rdatatype.AAAA, dns.rdatatype.A):
            reply = await self._ask(server, self._name, kind)
            codes.append(dns.rcode.to_text(reply.rcode()))
            addresses += [join(host, port) for host in _hosts(reply.answer, None)]
        if not addresses:
            raise Unavailable(f"it has no address of {self._name} ({', '.join(codes)})")
        return addresses[:NODES_MAX]

    async def _nodes(self, server: Server) -> list[str]:
        """The nodes as SRV and its additional part tell them; none if there is no SRV."""
        reply = await self._ask(server, self._service, dns.rdatatype.SRV)
        found = _targets(reply)
        if found and not all(hosts for hosts, _ in found):
            reply = await self._ask(server, self._service, dns.rdatatype.SRV, tcp=True)
            found = _targets(reply)
        # A server of another make may leave the addresses out: then A and AAAA must do.
        return [join(host, port) for hosts, port in found for host in hosts][:NODES_MAX]

    # One question
    # ------------------------------------------------------------------------------------

    async def _ask(
        self, server: Server, name: dns.name.Name, kind: int, *, tcp: bool = False
    ) -> dns.message.Message:
        """Return the answer, NOERROR or NXDOMAIN. Raises Unavailable."""
        query = dns.message.make_query(
            name, dns.rdatatype.RdataType.make(kind), use_edns=0, payload=REPLY_BYTES
        )
        try:
            reply = None if tcp else await _ask_udp(server, query)
            if reply is None or reply.flags & dns.flags.TC:
                reply = await _ask_tcp(server, query)
        except TimeoutError:
            raise Unavailable("no answer") from None
        except (OSError, EOFError) as error:
            raise Unavailable(f"cannot be asked: {error}") from None
        if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise Unavailable(f"it answered {dns.rcode.to_text(reply.rcode())}")
        return reply


def _targets(reply: dns.message.Message) -> list[tuple[list[str], int]]:
    """(addresses, port) of each node of an SRV answer: lowest priority number first, else in the
    answer's order."""
    records: list[Any] = [
        record for rrset in reply.answer if rrset.rdtype == dns.rdatatype.SRV for record in rrset
    ]
    records.sort(key=lambda record: int(record.priority))
    return [(_hosts(reply.additional, record.target), int(record.port)) for record in records]


def _hosts(rrsets: Sequence[dns.rrset.RRset], owner: dns.name.Name | None) -> list[str]:
    """The addresses in an answer, IPv6 first; of ``owner`` only, if it is given."""
    kinds = (dns.rdatatype.AAAA, dns.rdatatype.A)
    return [
        str(cast(Any, record).address)
        for kind in kinds
        for rrset in rrsets
        if rrset.rdtype == kind and (owner is None or rrset.name == owner)
        for record in rrset
    ]


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _answer_to(query: dns.message.Message, data: bytes) -> dns.message.Message | None:
    """The answer to ``query`` that ``data`` holds; None when it holds none."""
    try:
        reply = dns.message.from_wire(data)
        return reply if query.is_response(reply) else None
    except Exception:  # Anybody can send anything to this port.
        return None


class _Answers(asyncio.DatagramProtocol):
    """Waits for the one answer to a question."""

    def __init__(self, query: dns.message.Message) -> None:
        self._query = query
        self.reply: asyncio.Future[dns.message.Message] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, peer: Any) -> None:
        reply = _answer_to(self._query, data)
        if reply is not None and not self.reply.done():
            self.reply.set_result(reply)

    def error_received(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


async def _ask_udp(server: Server, query: dns.message.Message) -> dns.message.Message:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Answers(query), remote_addr=server
    )
    try:
        transport.sendto(query.to_wire())
        async with asyncio.timeout(UDP_TRY_S):
            return await protocol.reply
    finally:
        protocol.reply.cancel()
        transport.close()


async def _ask_tcp(server: Server, query: dns.message.Message) -> dns.message.Message:
    async with asyncio.timeout(TCP_S_MAX):
        reader, writer = await asyncio.open_connection(*server)
        try:
            writer.write(query.to_wire(prepend_length=True))
            await writer.drain()
            data = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        finally:
            writer.transport.abort()
    reply = _answer_to(query, data)
    if reply is None:
        raise EOFError("what it sent over TCP is no answer")
    return reply
