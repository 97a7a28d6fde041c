"""Schedules that the simulator found, each as the shortest script that shows the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node_world import world

from sofs.core import messages as m
from sofs.errors import SofsError, StaleGeneration, Unavailable
from sofs.services.channel import result_of

LIMIT_S = 5.0


async def test_a_whole_file_is_read_through_a_node_whose_token_never_arrived(
    tmp_path: Path,
) -> None:
    """The authority counts the node as the holder; the node knows nothing of it, and nobody writes,
    which would make it ask for the token again."""
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/file")
        await file.write(0, b"data")
        node = w.nodes["a"].node
        assert node is not None
        held = node.table.files[file.info.ino]
        await node.table.settle(held)
        node.table.drop_token(held)
        envelope = await asyncio.wait_for(client.send(m.ReadFile("/file", 0, 100)), LIMIT_S)
        assert bytes(result_of(envelope)[1]) == b"data"


async def test_a_size_asked_while_the_token_leaves_is_not_older_than_what_was_acknowledged(
    tmp_path: Path,
) -> None:
    """The authority answers that the node itself knows best, without its newest record; before the
    answer arrives another node gets the token, and this one knows nothing any more."""
    async with world(tmp_path, "a", "b") as w:
        client = await w.client()
        file = await client.open("/file")
        await file.write(0, b"data")
        node = w.nodes["a"].node
        assert node is not None
        ask = node.link.call
        other = await (await w.client("two", "b")).open("/file")
        asked: list[m.Message] = []

        async def call(build: Callable[[], m.Message], *more: object, **named: object) -> m.Message:
            reply = await ask(build, *more, **named)  # type: ignore[arg-type]
            if isinstance(reply, m.InfoReply):
                asked.append(reply)
                if len(asked) == 1:
                    assert reply.held_by_asker
                    reply.info.size = 0  # As it was in the tables before our commit.
                    await other.write(10, b"more")
            return reply

        node.link.call = call  # type: ignore[method-assign]
        envelope = await asyncio.wait_for(client.send(m.Stat(path="/file")), LIMIT_S)
        reply = result_of(envelope)[0]
        assert isinstance(reply, m.InfoReply)
        assert reply.info.size == 14
        assert len(asked) == 2


async def test_an_open_answered_late_for_an_ended_session_takes_no_handle_from_a_newer_one(
    tmp_path: Path,
) -> None:
    """A client resent its open over a new session; both copies were executed, and the answer to the
    newer one came first."""
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/file")
        node = w.nodes["a"].node
        assert node is not None
        ended = node.sessions[client.id]
        held = node.table.handles[file.handle]
        await client.connect()
        await client.call(m.Stat(path="/file"))  # The newer session is in use.
        session = node.sessions[client.id]
        assert not ended.alive
        bind = node.metadata._bind
        bind(session, held.number, held.generation + 2, file.info.ino, held.access)
        bind(ended, held.number, held.generation + 1, file.info.ino, held.access)
        handle = session.handles[held.number]
        assert handle.session is session
        assert handle.generation == file.generation + 2


async def test_a_handle_that_is_here_without_its_session_is_reclaimed_not_closed(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/file")
        node = w.nodes["a"].node
        assert node is not None
        del node.sessions[client.id].handles[file.handle]
        lock = m.Lock(client.caller(), file.handle, file.generation, [m.LockRange(0, 1, True)])
        envelope = await asyncio.wait_for(client.send(lock), LIMIT_S)
        with pytest.raises(StaleGeneration):
            result_of(envelope)


async def test_a_node_that_is_sealed_while_it_registers_is_not_registered(tmp_path: Path) -> None:
    """Its registration was in the tables and not yet durable when another's need had it sealed."""
    async with world(tmp_path, "a") as w:
        await (await w.client()).open("/file")  # It is registered.
        node = w.nodes["a"].node
        assert node is not None
        [active] = [part.active for part in w.authorities.values() if part.active is not None]
        run, register = active._run, active._register
        told: list[m.Message | SofsError] = []

        async def sealed_meanwhile(rules: Any, **more: Any) -> m.Message:
            reply = await run(rules, **more)
            if isinstance(reply, m.RegisterNodeReply):
                await active.nodes.seal(node.incarnation)
            return reply

        async def registered(channel: Any, body: m.RegisterNode) -> m.Message:
            try:
                told.append(await register(channel, body))
            except SofsError as error:
                told.append(error)
                raise
            return told[-1]

        active._run, active._register = sealed_meanwhile, registered  # type: ignore[method-assign]
        link = active.nodes.link(node.incarnation)
        assert link is not None
        link.channel.end(Unavailable("cut"))
        await w.until("the node registers again", lambda: told)
        assert isinstance(told[0], StaleGeneration)
        assert active.nodes.link(node.incarnation) is None
        await w.until("its life ends", node.ended.done)
