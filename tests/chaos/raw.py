"""A client without the SDK's mending: it sends what the test says, once, and sees what the node
says."""

from __future__ import annotations

import asyncio
from typing import Any

from sofs.core import messages as m
from sofs.rpc.transport import GrpcTransport
from sofs.services.channel import Channel, open_channel, result_of
from sofs.storage import SystemClock, SystemEntropy


class RawClient:
    """One client id; a stream to one node at a time."""

    def __init__(self, credential: str) -> None:
        self.clock = SystemClock()
        self.transport = GrpcTransport(credential, self.clock)
        self.id = SystemEntropy().token(16)
        self.op_id = 0
        self.channel: Channel | None = None

    async def connect(self, address: str) -> None:
        self.channel = await open_channel(
            self.transport,
            self.clock,
            address,
            "file",
            m.Hello(client=self.id, share="share"),
            lambda channel, envelope: None,
            name="raw",
            on_crash=lambda error: None,
            timeout_ms=5_000,
        )

    def caller(self) -> m.Caller:
        self.op_id += 1
        return m.Caller(op_id=self.op_id, acked_below=self.op_id)

    def send(self, body: m.Message, data: bytes = b"") -> asyncio.Future[Any]:
        assert self.channel is not None
        return self.channel.begin(body, data)

    async def call(self, body: m.Message, data: bytes = b"") -> Any:
        return result_of(await asyncio.wait_for(self.send(body, data), 30))[0]

    async def open(self, path: str) -> tuple[m.OpenReply, bytes]:
        guid = SystemEntropy().token(16)
        reply = await self.call(
            m.Open(
                caller=self.caller(), path=path, access=63, share=7, disposition=3,
                create_guid=guid, timeout_ms=60_000,
            )
        )  # fmt: skip
        return reply, guid

    async def close(self) -> None:
        if self.channel is not None:
            await self.channel.close()
        await self.transport.close()
