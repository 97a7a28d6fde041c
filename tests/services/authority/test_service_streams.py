"""A node whose stream is replaced: nothing stays behind that nobody knows of."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from authority_cluster import PeerNode, World, world

from sofs.core import messages as m
from sofs.ports.stream import Envelope
from sofs.services.authority.service_active import ActiveAuthority
from sofs.services.channel import Channel

T = TypeVar("T")
CLIENT, OTHER = b"c" * 16, b"d" * 16
OVERWRITE = 4
HANG_S = 10


def caller(op_id: int, client: bytes = CLIENT) -> m.Caller:
    return m.Caller(client=client, principal="p", op_id=op_id)


def open_request(op_id: int, path: str, client: bytes = CLIENT) -> m.Open:
    return m.Open(
        caller=caller(op_id, client), path=path, access=3, share=7, disposition=3,
        create_guid=client[:8] + op_id.to_bytes(8, "big"),
    )  # fmt: skip


async def ends(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, HANG_S)


async def alone(w: World) -> tuple[ActiveAuthority, PeerNode]:
    w.settings["recall_ms"] = 20_000  # Who is slow here is not to be suspected.
    await w.start("coordinator")
    active = (await w.until_active("coordinator")).active
    assert active is not None
    return active, await PeerNode(w, "n1").join()


async def opened(node: PeerNode, request: m.Open) -> m.OpenReply:
    reply = await ends(node.call(request))
    assert isinstance(reply, m.OpenReply)
    return reply


class Keeping(PeerNode):
    """Answers nothing that it is asked, and keeps it."""

    def __init__(self, w: World, name: str) -> None:
        super().__init__(w, name)
        self.kept: list[tuple[Channel, Envelope]] = []

    def _on_message(self, channel: Channel, envelope: Envelope) -> None:
        self.kept.append((channel, envelope))


async def test_an_open_on_a_replaced_stream_leaves_no_handle_bound_to_the_node(
    tmp_path: Path,
) -> None:
    """It waits for a recall while the node registers anew, and its client never comes back."""
    async with world(tmp_path) as w:
        active, node = await alone(w)
        holder = Keeping(w, "n2")
        await holder.join()
        held = await opened(holder, open_request(1, "/f", OTHER))
        assert held.grant is not None
        old = node.channel
        assert old is not None
        waiting = old.begin(dataclasses.replace(open_request(1, "/f"), disposition=OVERWRITE))
        await w.until("the recall", lambda: holder.kept)
        door, entered, real = asyncio.Event(), asyncio.Event(), active.group.settled

        async def settled() -> None:
            await real()
            if not entered.is_set():
                entered.set()
                await door.wait()  # The registration is in the tables, and not yet answered.

        active.group.settled = settled  # type: ignore[method-assign]
        registering = asyncio.ensure_future(node.connect())
        await ends(entered.wait())

        def holders() -> list[bytes]:
            return [token.incarnation for token in active.state.tokens_of(held.info.ino)]

        channel, envelope = holder.kept[0]
        channel.reply(envelope.call, m.CommitReply())
        await w.until("the token is free", lambda: holder.incarnation not in holders())
        for _ in range(50):
            await asyncio.sleep(0.002)
        door.set()
        await ends(registering)
        await w.until("the old stream ended", lambda: waiting.done())
        assert active.state.handles_of_node(node.incarnation) == []
        await node.die()
        await holder.die()
