"""Coordinator and resume-key on one event loop, over a real store and an in-process network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sofs.core import messages as m
from sofs.errors import SofsError
from sofs.ids import Epoch, Incarnation
from sofs.ports.events import EventList
from sofs.ports.log import Claim, FencedStore
from sofs.ports.stream import Envelope
from sofs.rpc.convert import WireCodec
from sofs.services.authority.env import AuthorityEnv, AuthoritySettings, node_role
from sofs.services.authority.schema import SCHEMA
from sofs.services.authority.service import AuthorityPart
from sofs.services.channel import Channel, open_channel
from sofs.sim.local_transport import LocalHub
from sofs.storage import (
    ApswState,
    LocalAppendStore,
    SystemClock,
    SystemEntropy,
    ThreadBlocking,
    open_fenced,
)
from sofs.storage.entries import ProtobufEntries
from sofs.storage.recovery import StoreRecovery


class World:
    """One volume root, one network, and the parts on it."""

    def __init__(self, root: Path) -> None:
        self.hub = LocalHub()
        self.clock = SystemClock()
        self.entropy = SystemEntropy()
        self.blocking = ThreadBlocking()
        self.store = LocalAppendStore(str(root))
        self.fenced: FencedStore = open_fenced(self.store, self.clock, self.entropy, self.blocking)
        self.parts: dict[str, AuthorityPart] = {}
        self.crashes: list[BaseException] = []
        self.events = EventList()
        self.settings: dict[str, object] = {"hand_back_after_ms": 60_000, "silence_ms": 150}

    def env(self, part: str) -> AuthorityEnv:
        entries = ProtobufEntries()
        return AuthorityEnv(
            settings=AuthoritySettings(part=part, volume=b"v" * 16, **self.settings),  # type: ignore[arg-type]
            clock=self.clock,
            entropy=self.entropy,
            fenced=self.fenced,
            transport=self.hub.transport(),
            recovery=StoreRecovery(self.fenced, entries, "volume"),
            entries=entries,
            messages=WireCodec(),
            new_database=lambda: ApswState.create(SCHEMA),
            events=self.events,
        )

    async def start(self, part: str) -> AuthorityPart:
        self.parts[part] = made = AuthorityPart(self.env(part), self.crashes.append)
        await made.start(f"{part}:1" if part not in self.hub._listeners else f"{part}:0")
        return made

    async def kill(self, part: str) -> None:
        """The death of a process: no more messages, and its tasks end without a word."""
        made = self.parts.pop(part)
        self.hub.cut(made.address)
        await made.close()

    async def until(self, what: str, condition) -> None:  # type: ignore[no-untyped-def]
        for _ in range(5_000):
            if condition():
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"never: {what}")

    async def until_active(self, part: str) -> AuthorityPart:
        made = self.parts[part]
        await self.until(f"{part} active", lambda: made.active is not None)
        return made

    async def until_in_step(self, part: str) -> None:
        made = self.parts[part]
        await self.until(
            f"{part} in step", lambda: made._follower is not None and made._follower.in_step
        )

    async def close(self) -> None:
        for part in list(self.parts):
            await self.kill(part)
        self.blocking.close()
        assert not self.crashes, self.crashes
        assert not self.hub.crashes, self.hub.crashes


@asynccontextmanager
async def world(root: Path) -> AsyncIterator[World]:
    made = World(root)
    try:
        yield made
    finally:
        await made.close()


class PeerNode:
    """A scripted node: a real claim and data log, and whatever answers the test gives."""

    def __init__(self, w: World, name: str) -> None:
        self.world = w
        self.name = name
        self.incarnation = Incarnation(w.entropy.token(16))
        self.nonce = w.entropy.token(16)
        self.endpoint = f"{name}:1"
        self.channel: Channel | None = None
        self.registration = m.RegisterNodeReply()
        self.asked: list[m.Message] = []
        self.answer = True

    async def join(self) -> PeerNode:
        w = self.world
        claim = Claim(
            node_role(self.incarnation), Epoch(1), self.incarnation, self.nonce, self.endpoint
        )
        assert await w.fenced.try_claim(claim) is None
        self.log = await w.fenced.open_log(claim, first_sequence=1)
        await w.hub.transport().listen(self.endpoint, self._accept)
        await self.connect()
        return self

    async def _accept(self, service, stream) -> None:  # type: ignore[no-untyped-def]
        from sofs.services.channel import check_hello

        def handle(channel: Channel, envelope: Envelope) -> None:
            check_hello(envelope, self.incarnation)
            channel.reply(envelope.call, m.HelloReply(1, self.incarnation))

        channel = Channel(
            stream, self.world.clock, handle, name="ping", on_crash=self.world.crashes.append
        )
        channel.start()
        await channel.ended

    async def connect(self) -> None:
        w = self.world
        for _ in range(500):
            owner = await w.fenced.highest_claim("volume")
            try:
                assert owner is not None
                self.channel = await open_channel(
                    w.hub.transport(), w.clock, owner.endpoint, "volume",
                    m.Hello(sender=self.incarnation, target=owner.incarnation),
                    self._on_message, name=self.name, on_crash=w.crashes.append, timeout_ms=500,
                )  # fmt: skip
                request = m.RegisterNode(self.name, self.incarnation, self.endpoint, self.nonce)
                reply, _ = await self.channel.call(request)
                assert isinstance(reply, m.RegisterNodeReply)
                self.registration = reply
                return
            except SofsError:
                await asyncio.sleep(0.01)
        raise AssertionError("no authority")

    def _on_message(self, channel: Channel, envelope: Envelope) -> None:
        self.asked.append(envelope.body)
        if not self.answer:
            return
        if isinstance(envelope.body, m.Recall | m.Detach):
            channel.reply(envelope.call, m.CommitReply())
        elif isinstance(envelope.body, m.QuerySize):
            channel.reply(envelope.call, m.SizeReply(77, 1))
        else:
            channel.reply(envelope.call, m.Done())

    async def call(self, request: m.Message) -> m.Message:
        """Send a request as a node does: again and again until an authority answers."""
        for _ in range(500):
            try:
                assert self.channel is not None
                reply, _ = await self.channel.call(request)
                return reply
            except SofsError as error:
                if error.retry == "never":
                    raise
                await asyncio.sleep(0.01)
                if self.channel is None or not self.channel.alive:
                    await self.connect()
        raise AssertionError(f"no answer to {request}")

    async def die(self) -> None:
        self.world.hub.cut(self.endpoint)
        if self.channel is not None:
            await self.channel.close()
        await self.log.close()
