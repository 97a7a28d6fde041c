"""What the SDK runs on in a real process: clocks, chance, gRPC, name resolution, the credential.

The only place of the client that reads the environment or imports the transport, and both only when
a connection is made: ``import sofs`` stays cheap.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sofs.client.dialing import Resolver
from sofs.client.url import PORT_DEFAULT, ShareUrl, is_literal, join_host
from sofs.ports.events import NO_EVENTS, Events
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.stream import Transport
from sofs.ports.trace import NO_RECORDER, Recorder

Release = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Runtime:
    """``transport`` is made inside the event loop that uses it. With it comes how to end it, if it
    is the client's own."""

    transport: Callable[[], tuple[Transport, Release | None]]
    clock: Clock
    entropy: Entropy
    addresses: Sequence[str] | Resolver
    recorder: Recorder = NO_RECORDER
    events: Events = NO_EVENTS


def system_runtime(
    credential: str | None,
    url: ShareUrl,
    transport: Transport | None,
    clock: Clock | None,
    entropy: Entropy | None,
) -> Runtime:
    """Fill in what the caller did not replace. Raises CredentialRefused without a credential."""
    from sofs.storage.runtime import SystemClock, SystemEntropy

    clock = clock or SystemClock()
    return Runtime(
        transport=_given(transport) if transport is not None else _grpc(credential, clock),
        clock=clock,
        entropy=entropy or SystemEntropy(),
        addresses=_addresses(url),
        recorder=_process_recorder() if transport is None else NO_RECORDER,
        events=_process_events() if transport is None else NO_EVENTS,
    )


_recorder: tuple[int, Recorder] = (0, NO_RECORDER)  # Of which process, and it.


def _process_recorder() -> Recorder:
    """The one trace ring of this process, made with its first connection."""
    from sofs.telemetry.ring import open_ring, ring_mib, sdk_folder

    global _recorder
    if _recorder[0] != os.getpid():
        environment = os.environ  # noqa: TID251
        mib = ring_mib(environment)
        recorder = open_ring(sdk_folder(environment), "client", "client", mib)
        _recorder = (os.getpid(), recorder)
        atexit.register(recorder.close)
    return _recorder[1]


_events: tuple[int, Events] = (0, NO_EVENTS)  # Of which process, and they.


def _process_events() -> Events:
    """The one event ring of this process, made with its first connection."""
    from sofs.telemetry.event_ring import open_process_events

    global _events
    if _events[0] != os.getpid():
        _events = (os.getpid(), open_process_events(os.environ))  # noqa: TID251
        atexit.register(_events[1].close)
    return _events[1]


def _given(transport: Transport) -> Callable[[], tuple[Transport, Release | None]]:
    return lambda: (transport, None)


def _grpc(credential: str | None, clock: Clock) -> Callable[[], tuple[Transport, Release | None]]:
    from sofs.rpc.credential import find_credential
    from sofs.rpc.transport import GrpcTransport

    # The environment is part of the SDK's interface: there is no settings file in a user's process.
    found = find_credential(credential, os.environ, None)  # noqa: TID251

    def make() -> tuple[Transport, Release | None]:
        transport = GrpcTransport(found, clock)
        return transport, transport.close

    return make


def _addresses(url: ShareUrl) -> Sequence[str] | Resolver:
    """The URL's addresses; a resolver when some of them are names, or DNS servers are named."""
    if url.dns:
        from sofs.dns_wire.resolver import Resolver as DnsResolver

        [(name, port)] = url.hosts
        return DnsResolver(name, url.dns, port, PORT_DEFAULT)
    if all(is_literal(host) for host, _ in url.hosts):
        return url.addresses

    async def resolve() -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found: dict[str, None] = {}
        for host, port in url.hosts:
            if is_literal(host):
                found[join_host(host, port)] = None
                continue
            for *_, where in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found[join_host(str(where[0]), port)] = None
        return list(found)

    return resolve
