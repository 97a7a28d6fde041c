"""What the tests of bad input share: raw clients, proof that every server went on, and what every
refusal must be."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from sofs.core import messages as m
from sofs.errors import NotSupported, SofsError
from sofs.ids import ID_BYTES
from sofs.ports.stream import Envelope
from sofs.rpc.transport import GrpcTransport
from sofs.services.channel import Channel, expect, open_channel
from sofs.storage import SystemClock, SystemEntropy
from sofs.testing import LocalCluster

READ_WRITE = int(m.Access.READ | m.Access.WRITE | m.Access.APPEND)
ANSWER_MS_MAX = 20_000


@contextlib.contextmanager
def refused(*kinds: type[SofsError], definite: bool = True) -> Iterator[None]:
    """The block raises one of ``kinds``, and the error is fit for a user: it says whether it may
    have happened, what was wrong, and (in its documentation) what to do next."""
    with pytest.raises(kinds) as caught:
        yield
    error = caught.value
    assert error.definite is definite
    assert len(error.message) > 10, repr(error)
    assert type(error).__doc__


class RawClient:
    """A client that sends what it likes over one stream."""

    def __init__(self, transport: GrpcTransport) -> None:
        self.clock = SystemClock()
        self.transport = transport
        self.client = SystemEntropy().token(ID_BYTES)
        self.next_op = 1
        self.crashes: list[BaseException] = []
        self.pushed: list[m.Message] = []
        self.channel: Channel | None = None

    def hello(self, **fields: Any) -> m.Hello:
        made = m.Hello(client=self.client, share="share", principal="raw")
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    async def connect(self, address: str, service: str = "file", **fields: Any) -> RawClient:
        def on_message(channel: Channel, envelope: Envelope) -> None:
            self.pushed.append(envelope.body)
            if isinstance(envelope.body, m.Recall | m.Detach):
                channel.reply(envelope.call, m.CommitReply())
            elif envelope.call:
                raise NotSupported("a client answers nothing")

        self.channel = await open_channel(
            self.transport,
            self.clock,
            address,
            service,
            self.hello(**fields),
            on_message,
            name="raw",
            on_crash=self.crashes.append,
            timeout_ms=ANSWER_MS_MAX,
        )
        return self

    def caller(self) -> m.Caller:
        made = m.Caller(op_id=self.next_op)
        self.next_op += 1
        return made

    async def call(self, body: m.Message, data: bytes = b"") -> m.Message:
        assert self.channel is not None
        return (await self.channel.call(body, data))[0]

    async def read(self, handle: m.OpenReply, offset: int, length: int) -> bytes:
        assert self.channel is not None
        body = m.Read(handle.handle, handle.generation, offset, length)
        return bytes((await self.channel.call(body))[1])

    async def open(self, path: str, **fields: Any) -> m.OpenReply:
        made = m.Open(
            self.caller(),
            path,
            READ_WRITE,
            int(m.Share.ALL),
            int(m.Disposition.OPEN_IF),
            create_guid=SystemEntropy().token(ID_BYTES),
        )
        for name, value in fields.items():
            setattr(made, name, value)
        return expect((await self.call(made), b""), m.OpenReply)

    async def close(self) -> None:
        if self.channel is not None:
            await self.channel.close()


@contextlib.asynccontextmanager
async def raw_clients(cluster: LocalCluster, count: int = 1) -> AsyncIterator[list[RawClient]]:
    """Clients on one transport, connected to node-1; closed in the end without a crash."""
    transport = GrpcTransport(cluster.credential, SystemClock())
    clients = [RawClient(transport) for _ in range(count)]
    try:
        for client in clients:
            await client.connect(cluster.addresses[0])
        yield clients
    finally:
        for client in clients:
            await client.close()
            assert not client.crashes, client.crashes
        await transport.close()


async def lives(cluster: LocalCluster) -> dict[str, bytes]:
    """The incarnation of every node."""
    transport = GrpcTransport(cluster.credential, SystemClock())
    found = {}
    for address in cluster.addresses:
        watcher = await RawClient(transport).connect(address, "cluster")
        assert watcher.channel is not None
        assert isinstance(watcher.channel.remote, m.HelloReply)
        found[address] = watcher.channel.remote.incarnation
        await watcher.close()
    await transport.close()
    return found


def starts(cluster: LocalCluster) -> dict[str, int]:
    """How often each process was started."""
    return {name: part.starts for name, part in cluster.parts.items()}
