"""A node whose address another process has at first."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from node_world import world

from sofs.constants import PROTOCOL_VERSION
from sofs.core.messages import Hello, HelloReply, RegisterMember, RegisterMemberReply
from sofs.errors import Unavailable
from sofs.ports.stream import Envelope, Stream
from sofs.rpc.transport import GrpcTransport
from sofs.services.channel import Channel, open_channel
from sofs.services.node.life import NodeConfig
from sofs.services.node.part import NodePart


async def test_a_node_takes_its_address_once_the_other_copy_is_gone(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await w.node("first", address="a:1")
        second = await w.node("second", address="a:1")
        assert first.address == "a:1"
        assert second.address != "a:1", "it must not share the address of one that lives"
        elsewhere = second.address
        await w.kill_node("first")
        with pytest.raises(Unavailable):
            await w.hub.connect("a:1", "file")
        await w.until("the address is served again", lambda: "a:1" in w.hub._listeners)
        assert second.address == elsewhere, "what its claim names stays"
        for address in ("a:1", elsewhere):
            stream = await w.hub.connect(address, "file")
            stream.close()
        await second.close()
        assert "a:1" not in w.hub._listeners
        w.nodes.pop("second")


async def test_a_host_that_is_spelled_otherwise_is_no_other_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        listen = w.hub.listen
        monkeypatch.setattr(
            w.hub, "listen", lambda address, accept: listen(address.replace("host", "a"), accept)
        )
        made = await w.node("one", address="host:1")
        assert made.address == "a:1"
        assert not [task for task in asyncio.all_tasks() if "regain" in task.get_name()]


async def test_a_node_says_where_it_listens_and_says_it_again_when_that_changes(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        said: list[tuple[str, list[str], int]] = []

        def on_message(channel: Channel, envelope: Envelope) -> None:
            body = envelope.body
            if isinstance(body, RegisterMember):
                assert (body.access_point, body.member.machine) == ("a.b", "m")
                said.append((body.member.node, body.member.hosts, body.member.port))
                channel.reply(envelope.call, RegisterMemberReply(True))
            else:
                channel.reply(envelope.call, HelloReply(PROTOCOL_VERSION, b"d" * 16, "dns"))

        async def accept(service: str, stream: Stream) -> None:
            channel = Channel(stream, w.clock, on_message, name=service, on_crash=w.exits.append)
            channel.start()
            try:
                await channel.ended
            finally:
                await channel.close()

        await w.node("first", address="a:1")
        second = await w.node("second", address="a:1", dns=["d:0", "d:1"])
        # After the node: it keeps trying; and the other DNS part is never there.
        w.hub.listen("d:1", accept)
        elsewhere = int(second.address.rpartition(":")[2])
        await w.until("it was said", lambda: said == [("second", ["a"], elsewhere)])
        await w.kill_node("first")
        await w.until("it was said again", lambda: said[-1] == ("second", ["a"], 1))
        w.hub.cut("d:1")
        w.hub.listen("d:1", accept)
        await w.until("the next one was told too", lambda: len(said) == 3)
        assert said[2] == said[1]
        w.hub.cut("d:1")


async def test_over_real_sockets_too_a_node_takes_its_address_once_it_is_free(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        transport = GrpcTransport("c" * 43, w.clock)
        errors: list[BaseException] = []
        part = NodePart(
            clock=w.clock,
            entropy=w.entropy,
            transport=transport,
            fenced=w.fenced,
            config=NodeConfig("one"),
            on_exit=errors.append,
        )
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = f"127.0.0.1:{other.getsockname()[1]}"
            await part.start(address)
            elsewhere = part.address
            assert elsewhere != address, "a port is not shared"
        await w.until("the address is served again", lambda: part._regained is not None)
        assert part._regained is not None
        assert part._regained.address == address
        assert part.node is not None
        for where in (address, elsewhere):
            channel = await open_channel(
                transport, w.clock, where, "cluster", Hello(target=part.node.incarnation),
                lambda channel, envelope: None, name="ask", on_crash=errors.append,
                timeout_ms=5_000,
            )  # fmt: skip
            await channel.close()
        await part.close()
        with pytest.raises(Unavailable) as gone:
            await transport.connect(address, "cluster", timeout_ms=5_000)
        assert gone.value.refused
        await transport.close()
        assert not errors
