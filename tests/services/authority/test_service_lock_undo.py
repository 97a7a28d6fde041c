"""A change of locks that is refused for certain did not happen, though it was durable before the
others were told of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from authority_cluster import PeerNode, World, world

from sofs.core import messages as m
from sofs.errors import Corrupt, DiskFull, OutcomeUnknown, Unavailable
from sofs.services.authority.service_active import ActiveAuthority

CLIENT = b"c" * 16
A, B = m.LockRange(0, 10, True), m.LockRange(100, 10, True)


def caller(op_id: int) -> m.Caller:
    return m.Caller(client=CLIENT, principal="p", op_id=op_id)


class Scene:
    """A client with a file open through n1, and the lock A."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.told: list[list[m.HeldLock]] = []
        self.fails: list[Exception] = []

    async def set(self) -> Scene:
        await self.w.start("coordinator")
        active = (await self.w.until_active("coordinator")).active
        assert active is not None
        self.active: ActiveAuthority = active
        self.node = await PeerNode(self.w, "n1").join()
        opened = await self.node.call(
            m.Open(
                caller=caller(1), path="/f", access=3, share=7, disposition=3,
                create_guid=bytes(16),
            )
        )  # fmt: skip
        assert isinstance(opened, m.OpenReply)
        self.opened = opened
        await self.call(m.Lock(caller(2), opened.handle, opened.generation, [A]))

        async def update_locks(ino: int, holders: Any, table: list[m.HeldLock]) -> None:
            self.told.append(list(table))
            if self.fails:
                raise self.fails.pop(0)

        active.nodes.update_locks = update_locks  # type: ignore[method-assign, assignment]
        return self

    async def call(self, body: m.Message) -> m.Message:
        """Send once, as a node passes a request on; no retry hides an answer."""
        assert self.node.channel is not None
        return (await self.node.channel.call(body))[0]

    def change(self, op_id: int) -> m.ChangeLocks:
        return m.ChangeLocks(
            caller(op_id), self.opened.handle, self.opened.generation, drop=[A], take=[B]
        )

    def locks(self) -> list[int]:
        return [lock.offset for lock in self.active.state.locks_of_handle(self.opened.handle)]


async def test_a_change_of_locks_that_is_refused_for_certain_is_undone(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        scene = await Scene(w).set()
        scene.fails = [Corrupt("the log of a holder is damaged")]
        with pytest.raises(Corrupt):
            await scene.call(scene.change(3))
        assert scene.locks() == [0], "what it gave back is there, what it took is not"
        assert isinstance(await scene.call(scene.change(3)), m.LocksChanged)
        assert scene.locks() == [100], "it never happened, so it may happen now"
        await scene.node.die()


async def test_nobody_is_told_of_what_a_change_gave_back_that_may_be_undone(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        scene = await Scene(w).set()
        await scene.call(scene.change(3))
        assert sorted(lock.offset for lock in scene.told[-1]) == [0, 100]
        await scene.node.die()


async def test_a_copy_of_a_stored_change_is_not_undone_and_not_refused_for_certain(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        scene = await Scene(w).set()
        scene.fails = [Unavailable("no answer"), Corrupt("the log of a holder is damaged")]
        with pytest.raises(Unavailable):
            await scene.call(scene.change(3))
        with pytest.raises(OutcomeUnknown):
            await scene.call(scene.change(3))
        assert scene.locks() == [100]
        assert isinstance(await scene.call(scene.change(3)), m.LocksChanged)
        await scene.node.die()


async def test_a_change_that_cannot_be_undone_is_not_refused_for_certain(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        scene = await Scene(w).set()
        scene.fails = [Corrupt("the log of a holder is damaged")]
        real = scene.active.locks._run

        async def run(*args: Any, **rest: Any) -> m.Message:
            raise DiskFull("no space left")

        scene.active.locks._run = run
        with pytest.raises(OutcomeUnknown):
            await scene.call(scene.change(3))
        scene.active.locks._run = real
        assert scene.locks() == [100]
        await scene.node.die()


async def test_an_abandon_waits_for_a_change_that_may_be_undone(tmp_path: Path) -> None:
    """Else it would tell the client of a lock that is undone behind its back."""
    async with world(tmp_path) as w:
        scene = await Scene(w).set()
        door, telling = asyncio.Event(), asyncio.Event()

        async def update_locks(ino: int, holders: Any, table: Any) -> None:
            telling.set()
            await door.wait()
            raise Corrupt("the log of a holder is damaged")

        scene.active.nodes.update_locks = update_locks  # type: ignore[method-assign]
        changing = asyncio.ensure_future(scene.call(scene.change(3)))
        await telling.wait()
        settling = asyncio.ensure_future(scene.call(m.Abandon(caller(4), 3)))
        await scene.call(m.Mkdir(caller(5), "/behind it"))
        assert not settling.done()
        door.set()
        with pytest.raises(Corrupt):
            await changing
        reply = await settling
        assert isinstance(reply, m.AbandonReply)
        assert not reply.executed
        assert scene.locks() == [0]
        await scene.node.die()
