"""The sockets of the DNS part: one UDP and one TCP socket at the same port.

A datagram is answered in the turn in which it arrives; while the kernel takes no more answers they
are dropped, as the network would. Over TCP queries come one after another, each with its length
before it, and are answered in that order. A connection ends when its peer is silent, or does not
read, for IDLE_S, sends something that is no query, or asks for more than a query may hold; beyond
CONNECTIONS_MAX a new one is closed at once. So no peer holds anything for longer than that, and
none costs another its answer.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from sofs.dns_wire.codec import HEADER, QUERY_BYTES_MAX, Counters, respond
from sofs.errors import InvalidParameter, Unavailable
from sofs.ports.dns import Answerer, DnsListener

CONNECTIONS_MAX: Final = 256
IDLE_S: Final = 10.0
LENGTH_BYTES: Final = 2
PORT_TRIES_MAX: Final = 16  # For a port that is free for both, when any will do.

log = logging.getLogger("sofs.dns")

OnCrash = Callable[[BaseException], None]


class DnsServer:
    """``ports.dns.DnsListener``; made by ``SocketWire.listen``."""

    def __init__(self, answerer: Answerer, on_crash: OnCrash, idle_s: float = IDLE_S) -> None:
        self._answerer = answerer
        self._on_crash = on_crash
        self._idle_s = idle_s
        self._udp = _Udp(self)
        self._tcp: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[Any], None] = {}
        self._address = ""
        self.counts = Counters()
        self.udp_unsent = 0
        self.tcp_connections = 0
        self.tcp_refused = 0

    @property
    def address(self) -> str:
        return self._address

    def counters(self) -> dict[str, int]:
        return {
            **self.counts.as_dict(),
            "udp_unsent": self.udp_unsent,
            "tcp_open": len(self._connections),
            "tcp_connections": self.tcp_connections,
            "tcp_refused": self.tcp_refused,
        }

    def respond(self, data: bytes, *, tcp: bool) -> bytes | None:
        """The answer to a packet. An error of our own is told and leaves the packet unanswered."""
        try:
            return respond(data, self._answerer, self.counts, tcp=tcp)
        except Exception as error:
            self._on_crash(error)
            return None

    # Life
    # ------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> None:
        """Bind both sockets; OSError when one cannot be."""
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._serve, host, port)
        try:
            bound = int(self._tcp.sockets[0].getsockname()[1])
            await loop.create_datagram_endpoint(lambda: self._udp, local_addr=(host, bound))
        except BaseException:
            self._tcp.close()
            raise
        self._address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"

    async def close(self) -> None:
        if self._tcp is not None:
            self._tcp.close()
        self._udp.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)

    # TCP
    # -------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        if len(self._connections) >= CONNECTIONS_MAX:
            self.tcp_refused += 1
            transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None
        self.tcp_connections += 1
        transport.set_write_buffer_limits(high=0)  # Drained means that the kernel has it all.
        try:
            while await self._serve_one(reader, writer):
                pass
        except (TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            log.debug("a connection ended: %r", error)
        finally:
            del self._connections[task]
            transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one query; returns whether another may follow."""
        async with asyncio.timeout(self._idle_s):
            size = int.from_bytes(await reader.readexactly(LENGTH_BYTES))
            if not HEADER.size <= size <= QUERY_BYTES_MAX:
                self.counts.malformed += 1
                return False
            data = await reader.readexactly(size)
        reply = self.respond(data, tcp=True)
        if reply is None:
            return False
        writer.write(len(reply).to_bytes(LENGTH_BYTES) + reply)
        async with asyncio.timeout(self._idle_s):
            await writer.drain()
        return True


class _Udp(asyncio.DatagramProtocol):
    """The UDP side of a server."""

    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if error is not None:
            self._server._on_crash(error)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def error_received(self, error: Exception) -> None:
        # The peer of an earlier answer has gone; nobody waits for it.
        log.debug("an answer came back: %r", error)

    def datagram_received(self, data: bytes, peer: Any) -> None:
        reply = self._server.respond(data, tcp=False)
        if reply is None or self._transport is None:
            return
        if self._full:
            self._server.udp_unsent += 1
            return
        try:
            self._transport.sendto(reply, peer)
        except OSError as error:  # An address that nothing can be sent to: it was forged.
            self._server.udp_unsent += 1
            log.debug("no answer to %s: %r", peer, error)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class SocketWire:
    """``ports.dns.DnsWire`` on real sockets."""

    async def listen(self, address: str, answerer: Answerer, on_crash: OnCrash) -> DnsListener:
        host, _, port_text = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port_text.isascii() or not port_text.isdigit():
            raise InvalidParameter(f"{address!r} is no host:port to answer DNS at")
        port = int(port_text)
        for left in reversed(range(1 if port else PORT_TRIES_MAX)):
            server = DnsServer(answerer, on_crash)
            try:
                await server.start(host, port)
                return server
            except (OSError, OverflowError) as error:
                await server.close()
                if isinstance(error, socket.gaierror | OverflowError):
                    raise InvalidParameter(f"cannot answer DNS at {address}: {error}") from error
                taken = error.errno == errno.EADDRINUSE
                if not taken and error.errno != errno.EACCES:
                    raise InvalidParameter(f"cannot answer DNS at {address}: {error}") from error
                if not left or not taken:
                    why = "the port is taken" if taken else "ports below 1024 need more rights"
                    raise Unavailable(f"cannot answer DNS at {address}: {why}") from error
        raise AssertionError("unreachable")
