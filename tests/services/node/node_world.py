"""A volume with a real authority, real nodes and scripted clients, over a real store and an
in-process network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sofs.core import messages as m
from sofs.errors import SofsError
from sofs.ids import Epoch, Incarnation
from sofs.ports.events import EventList
from sofs.ports.log import Claim, FencedStore
from sofs.ports.stream import Envelope
from sofs.rpc.convert import WireCodec
from sofs.services.authority.env import AuthorityEnv, AuthoritySettings
from sofs.services.authority.schema import SCHEMA
from sofs.services.authority.service import AuthorityPart
from sofs.services.channel import Channel, open_channel, result_of
from sofs.services.node.life import Node, NodeConfig
from sofs.services.node.part import NodePart
from sofs.services.shares import ShareView
from sofs.sim.local_transport import LocalHub
from sofs.storage import (
    ApswState,
    LocalAppendStore,
    LogOptions,
    SystemClock,
    SystemEntropy,
    ThreadBlocking,
    open_fenced,
)
from sofs.storage.entries import ProtobufEntries
from sofs.storage.recovery import StoreRecovery

RW = m.Access.READ | m.Access.WRITE | m.Access.APPEND
KIB = 1024


class World:
    """One volume root, one network, and the parts on it."""

    def __init__(self, root: Path, options: LogOptions | None = None) -> None:
        self.root = root
        self.hub = LocalHub()
        self.clock = SystemClock()
        self.entropy = SystemEntropy()
        self.blocking = ThreadBlocking()
        self.store = LocalAppendStore(str(root))
        self.fenced: FencedStore = open_fenced(
            self.store, self.clock, self.entropy, self.blocking, options
        )
        self.authorities: dict[str, AuthorityPart] = {}
        self.nodes: dict[str, NodePart] = {}
        self.clients: list[Client] = []
        self.crashes: list[BaseException] = []
        self.exits: list[BaseException] = []
        self.views: dict[str, ShareView] = {}  # Of nodes that know more than one share.
        self.settings: dict[str, Any] = {"hand_back_after_ms": 60_000}
        self.events: dict[str, EventList] = {}  # What each part told, over all its lives.

    def make_authority(self, part: str) -> AuthorityPart:
        entries = ProtobufEntries()
        env = AuthorityEnv(
            settings=AuthoritySettings(part=part, volume=b"v" * 16, **self.settings),
            clock=self.clock,
            entropy=self.entropy,
            fenced=self.fenced,
            transport=self.hub.transport(),
            recovery=StoreRecovery(self.fenced, entries, "volume"),
            entries=entries,
            messages=WireCodec(),
            new_database=lambda: ApswState.create(SCHEMA),
            events=self.events.setdefault(part, EventList()),
        )
        made = self.authorities[part] = AuthorityPart(env, self.crashes.append)
        return made

    async def authority(self, part: str = "coordinator") -> AuthorityPart:
        made = self.make_authority(part)
        await made.start(f"{part}:0")
        await self.until(f"{part} active", lambda: made.active is not None)
        return made

    async def kill_authority(self, part: str = "coordinator") -> None:
        made = self.authorities.pop(part)
        self.hub.cut(made.address)
        await made.close()

    async def node(
        self,
        name: str = "a",
        fenced: FencedStore | None = None,
        *,
        address: str = "",
        dns: Sequence[str] = (),
        interfaces: Sequence[m.Interface] = (),
    ) -> NodePart:
        made = NodePart(
            clock=self.clock,
            entropy=self.entropy,
            transport=self.hub.transport(),
            fenced=fenced or self.fenced,
            config=NodeConfig(
                name,
                share="vol",
                volume=b"v" * 16,
                interfaces=lambda: list(interfaces),
                access_point="a.b",
                dns=dns,
                machine="m",
                shares=self.views.get(name),
            ),
            on_exit=self.exits.append,
            events=self.events.setdefault(name, EventList()),
        )
        self.nodes[name] = made
        await made.start(address or f"{name}:1")
        return made

    async def kill_node(self, name: str) -> None:
        """The death of a process: no more messages, and its tasks end without a word."""
        made = self.nodes.pop(name)
        self.hub.cut(made.endpoint)
        await made.close()

    async def client(
        self, name: str = "one", node: str = "a", *, like: Client | None = None
    ) -> Client:
        made = Client(self, name, self.nodes[node])
        if like is not None:
            made.next_op = like.next_op
        self.clients.append(made)
        await made.connect()
        return made

    async def until(self, what: str, condition: Callable[[], object]) -> None:
        for _ in range(5_000):
            if condition():
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"never: {what}")

    async def seal(self, node: Node) -> None:
        """Claim epoch 2 of the node's data log, as a successor does first."""
        role = node.log.claim.role
        claim = Claim(role, Epoch(2), Incarnation(b"s" * 16), self.entropy.token(16), "nowhere:1")
        assert await self.fenced.try_claim(claim) is None

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for name in list(self.nodes):
            await self.kill_node(name)
        for part in list(self.authorities):
            await self.kill_authority(part)
        self.fenced.blocks.close()  # type: ignore[attr-defined]
        self.blocking.close()
        assert not self.crashes, self.crashes
        assert not self.hub.crashes, self.hub.crashes


@asynccontextmanager
async def world(root: Path, *nodes: str, options: LogOptions | None = None) -> AsyncIterator[World]:
    """An authority and the named nodes."""
    made = World(root, options)
    try:
        await made.authority()
        for name in nodes:
            await made.node(name)
        yield made
    finally:
        await made.close()


class Client:
    """A scripted client: its stream, its op ids, and nothing that it does by itself."""

    def __init__(self, w: World, name: str, node: NodePart) -> None:
        self.world = w
        self.id = name.encode().ljust(16, b".")
        self.part = node
        self.channel: Channel | None = None
        self.next_op = 1
        self.pushed: list[m.Message] = []
        self.hello = m.HelloReply()

    async def connect(self) -> None:
        w = self.world
        self.channel = await open_channel(
            w.hub.transport(), w.clock, self.part.endpoint, "file",
            m.Hello(client=self.id, principal="me", share="vol"),
            lambda _, envelope: self.pushed.append(envelope.body),
            name="client", on_crash=w.crashes.append, timeout_ms=2_000,
        )  # fmt: skip
        assert isinstance(self.channel.remote, m.HelloReply)
        self.hello = self.channel.remote

    async def close(self) -> None:
        if self.channel is not None:
            await self.channel.close()

    def caller(self) -> m.Caller:
        op, self.next_op = self.next_op, self.next_op + 1
        return m.Caller(op_id=op)

    def send(self, body: m.Message, data: bytes = b"") -> asyncio.Future[Envelope]:
        assert self.channel is not None
        return self.channel.begin(body, data)

    async def call(self, body: m.Message, data: bytes = b"") -> Any:
        return result_of(await self.send(body, data))[0]

    async def open(
        self,
        path: str = "/file",
        access: int = RW,
        *,
        share: int = m.Share.ALL,
        disposition: int = m.Disposition.OPEN_IF,
        **more: Any,
    ) -> File:
        body = m.Open(
            self.caller(), path, int(access), int(share), int(disposition),
            create_guid=self.world.entropy.token(16), **more,
        )  # fmt: skip
        reply = await self.call(body)
        assert isinstance(reply, m.OpenReply)
        assert reply.grant is None, "grants are for the node alone"
        return File(self, reply, body)


class File:
    """An open handle of a scripted client."""

    def __init__(self, client: Client, reply: m.OpenReply, body: m.Open) -> None:
        self.client = client
        self.handle = reply.handle
        self.generation = reply.generation
        self.info = reply.info
        self.guid = body.create_guid
        self.next_op = 1
        self.acked = 1

    def write_message(self, offset: int, *, append: bool = False, op: int | None = None) -> m.Write:
        if op is None:
            op, self.next_op = self.next_op, self.next_op + 1
        return m.Write(self.handle, self.generation, op, self.acked, offset, append)

    def begin_write(self, offset: int, data: bytes) -> asyncio.Future[Envelope]:
        return self.client.send(self.write_message(offset), data)

    async def write(self, offset: int, data: bytes, *, op: int | None = None) -> int:
        reply = await self.client.call(self.write_message(offset, op=op), data)
        assert isinstance(reply, m.WriteReply)
        return reply.offset

    async def append(self, data: bytes, *, op: int | None = None) -> int:
        reply = await self.client.call(self.write_message(0, append=True, op=op), data)
        assert isinstance(reply, m.WriteReply)
        return reply.offset

    async def read(self, offset: int, length: int) -> bytes:
        envelope = await self.client.send(m.Read(self.handle, self.generation, offset, length))
        body, data = result_of(envelope)
        assert isinstance(body, m.ReadReply)
        self.size = body.size
        return bytes(data)

    async def truncate(self, size: int) -> m.InfoReply:
        body = m.Truncate(self.client.caller(), self.handle, self.generation, size)
        reply = await self.client.call(body)
        assert isinstance(reply, m.InfoReply)
        return reply

    async def lock(
        self, offset: int, length: int, *, exclusive: bool = True, wait_ms: int = 0
    ) -> None:
        ranges = [m.LockRange(offset, length, exclusive)]
        await self.client.call(
            m.Lock(self.client.caller(), self.handle, self.generation, ranges, wait_ms)
        )

    async def unlock(self, offset: int, length: int) -> None:
        ranges = [m.LockRange(offset, length)]
        await self.client.call(m.Unlock(self.client.caller(), self.handle, self.generation, ranges))

    async def stat(self) -> m.FileInfo:
        reply = await self.client.call(m.Stat(handle=self.handle, generation=self.generation))
        info = reply.info
        assert isinstance(info, m.FileInfo)
        return info

    async def close(self) -> m.FileInfo:
        reply = await self.client.call(m.Close(self.client.caller(), self.handle, self.generation))
        info = reply.info
        assert isinstance(info, m.FileInfo)
        return info

    async def reclaim(self, client: Client) -> File:
        """The handle through another session of the same client."""
        items = [m.ReclaimItem(self.handle, self.guid)]
        reply = await client.call(m.Reclaim(m.Caller(op_id=client.next_op), items))
        assert isinstance(reply, m.ReclaimReply)
        assert not reply.grants, "grants are for the node alone"
        [result] = reply.results
        assert result.code == "", result
        file = File.__new__(File)
        file.__dict__.update(self.__dict__)
        file.client, file.generation = client, result.generation
        return file


async def refused(awaitable: Any) -> str:
    """The error code that a call is refused with; "" when it succeeds."""
    try:
        await awaitable
    except SofsError as error:
        return error.code
    return ""
