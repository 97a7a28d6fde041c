"""An administrator's close while the handle's client writes: drained first, then released."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
from node_world import Client, File, World, refused, world

from sofs.core import events as e
from sofs.core import messages as m
from sofs.errors import InvalidParameter, SofsError, Unavailable
from sofs.services.authority import handle_desk
from sofs.services.authority.cuts import LiveDelta
from sofs.services.authority.handles import Handles
from sofs.services.leader.ask import ask_leader
from sofs.storage import ThreadBlocking, open_fenced

ADMIN_CODE = "FILE_CLOSED_BY_ADMIN"


async def ask(w: World, body: m.Message, kind: type[Any], limit_ms: int = 10_000) -> Any:
    """Ask the volume's owner, as `sofs handles` does."""
    claim = await w.fenced.highest_claim("volume")
    assert claim is not None
    return await ask_leader(w.clock, w.hub.transport(), claim, body, kind, limit_ms)


async def close_handle(w: World, handle: int) -> bool:
    reply = await ask(w, m.CloseHandle(handle), m.HandleReleased)
    return bool(reply.was_open)


async def listed(w: World, **filters: Any) -> list[m.HandleInfo]:
    page = await ask(w, m.ListHandles(**filters), m.HandleList)
    return list(page.handles)


class Door(ThreadBlocking):
    """A store whose calls wait while the door is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def run(self, lane: str, *steps: Any, brief: bool = False) -> list[Any]:
        await self.is_open.wait()
        return await super().run(lane, *steps, brief=brief)


async def behind_a_door(w: World, door: Door) -> tuple[Client, File]:
    """A node whose store can be held up, with one client that has written."""
    await w.authority()
    await w.node("a", open_fenced(w.store, w.clock, w.entropy, door))
    await w.node("b")
    client = await w.client()
    file = await client.open("/f")
    await file.write(0, b"1" * 4096)
    return client, file


async def shut(w: World, door: Door, file: File) -> asyncio.Future[Any]:
    """Shut the door and get a write under way that waits for it."""
    door.is_open.clear()
    writing = file.begin_write(0, b"2" * 4096)
    node = w.nodes["a"].node
    assert node is not None
    await w.until("it is appended", lambda: node.table.handles[file.handle].in_flight)
    return writing


async def test_what_was_admitted_before_the_close_is_finished_before_the_release(
    tmp_path: Path,
) -> None:
    w, door = World(tmp_path), Door()
    w.settings["recall_ms"] = 8_000
    try:
        client, file = await behind_a_door(w, door)
        other = await w.client("other", "b")
        under_way = await shut(w, door, file)
        closing = asyncio.ensure_future(close_handle(w, file.handle))
        node = w.nodes["a"].node
        assert node is not None
        await w.until("the node was asked", lambda: node.table.handles[file.handle].leaving)
        assert await refused(file.write(0, b"3" * 4096)) == ADMIN_CODE
        assert not closing.done()
        assert [info.handle for info in await listed(w)] == [file.handle]
        assert not w.events["coordinator"].of(e.OPEN_CLOSED_BY_ADMINISTRATOR)
        door.is_open.set()
        assert await closing
        reply = (await under_way).body
        assert isinstance(reply, m.WriteReply), "admitted, so it is answered"
        assert client.pushed == [m.HandleClosed(file.handle, ADMIN_CODE)]
        assert await listed(w) == []
        again = await other.open("/f", share=m.Share.NONE)
        assert await again.read(0, 4096) == b"2" * 4096
        [told] = w.events["coordinator"].of(e.OPEN_CLOSED_BY_ADMINISTRATOR)
        assert (told["handle"], told["path"]) == (file.handle, "/f")
        assert not w.events["coordinator"].of(e.OPEN_DISCONNECTED)
        assert await close_handle(w, file.handle) is False
    finally:
        door.is_open.set()
        await w.close()


async def test_a_node_that_does_not_let_go_is_sealed_and_its_write_lands_nowhere(
    tmp_path: Path,
) -> None:
    w, door = World(tmp_path), Door()
    w.settings["recall_ms"] = 150
    try:
        _, file = await behind_a_door(w, door)
        other = await w.client("other", "b")
        under_way = await shut(w, door, file)
        assert await close_handle(w, file.handle)
        assert w.events["coordinator"].of(e.NODE_FENCED)
        again = await other.open("/f", share=m.Share.NONE)
        assert await again.read(0, 4096) == b"1" * 4096
        door.is_open.set()  # The write of long ago reaches the disk now.
        with pytest.raises(SofsError) as never:
            await under_way
        assert not never.value.definite, "its client is told nothing, and asks again elsewhere"
        assert await again.read(0, 4096) == b"1" * 4096
        back = await w.client(node="b", like=file.client)
        items = [m.ReclaimItem(file.handle, file.guid)]
        reply = await back.call(m.Reclaim(m.Caller(op_id=back.next_op), items))
        assert [result.code for result in reply.results] == ["OBJECT_NAME_NOT_FOUND"]
    finally:
        door.is_open.set()
        await w.close()


async def test_a_handle_whose_client_is_away_is_released_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        client = await w.client()
        file = await client.open("/f", share=m.Share.NONE)
        await client.close()
        await w.until("it is kept", lambda: w.events["coordinator"].of(e.OPEN_DISCONNECTED))
        [info] = await listed(w)
        assert (info.handle, info.node, info.path) == (file.handle, "", "/f")
        assert await close_handle(w, file.handle)
        other = await w.client("other", "b")
        await (await other.open("/f", share=m.Share.NONE)).close()


async def test_who_waits_for_a_lock_of_the_closed_handle_gets_it(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        holder = await (await w.client()).open("/f")
        waiter = await (await w.client("other", "b")).open("/f")
        await holder.lock(0, 10)
        [held, free] = await listed(w)
        assert (held.locks, free.locks) == (1, 0)
        waiting = asyncio.ensure_future(waiter.lock(0, 10, wait_ms=60_000))
        assert await close_handle(w, holder.handle)
        await asyncio.wait_for(waiting, 10)


async def test_a_part_that_does_not_own_the_volume_answers_no_operator(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        standby = w.make_authority("resume-key")
        await standby.start("resume-key:0")
        claim = await w.fenced.highest_claim("volume")
        assert claim is not None
        await w.until("it follows", lambda: standby.incarnation)
        with pytest.raises(Unavailable, match="does not own"):
            await _ask_part(w, standby.address, standby.incarnation)


async def _ask_part(w: World, address: str, incarnation: bytes) -> None:
    claim = await w.fenced.highest_claim("volume")
    assert claim is not None
    other = dataclasses.replace(claim, endpoint=address, incarnation=incarnation)
    await ask_leader(w.clock, w.hub.transport(), other, m.ListHandles(), m.HandleList, 5_000)


async def test_a_page_looks_at_a_bounded_number_of_handles_whatever_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle_desk, "LIST_ROWS_MAX", 4)
    async with world(tmp_path, "a") as w:
        client = await w.client()
        opened = [(await client.open(f"/{number}")).handle for number in range(10)]
        pages: list[list[int]] = []
        after = 0
        while True:
            page = await ask(w, m.ListHandles(after, "", "/9"), m.HandleList)
            pages.append([info.handle for info in page.handles])
            after = page.next_after
            if not after:
                break
        assert pages == [[], [], opened[9:]]
        first = await ask(w, m.ListHandles(), m.HandleList)
        assert [info.handle for info in first.handles] == opened[:4]
        assert first.next_after == opened[3]
        assert first.handles[0].client == client.id
        assert await listed(w, client="ff") == []
        with pytest.raises(InvalidParameter):
            await listed(w, after=2**63)


# Under load, and with the bug that all this is for ---------------------------------------------


async def close_while_writing(w: World, pause_ms: float) -> list[str]:
    """A client writes one number after the other; an administrator closes its handle in between;
    what is wrong afterwards."""
    writer, other = await w.client("writer"), await w.client("other", "b")
    file = await writer.open("/count", disposition=m.Disposition.OVERWRITE_IF)
    acknowledged = 0
    code = ""

    async def write() -> None:
        nonlocal acknowledged, code
        for number in range(1, 100_000):
            code = await refused(file.write(0, number.to_bytes(8, "big")))
            if code:
                return
            acknowledged = number

    writing = asyncio.ensure_future(write())
    await w.clock.sleep_ms(pause_ms)
    assert await close_handle(w, file.handle)
    again = await other.open("/count", share=m.Share.NONE)
    before = int.from_bytes(await again.read(0, 8), "big")
    acknowledged_then = acknowledged
    await w.clock.sleep_ms(30)
    after = int.from_bytes(await again.read(0, 8), "big")
    wrong = []
    if before < acknowledged_then:
        wrong.append(f"{acknowledged_then} was acknowledged, {before} is there")
    if after != before:
        wrong.append(f"{after} landed behind the release")
    if acknowledged > after:
        wrong.append(f"{acknowledged} was acknowledged behind the release, {after} is there")
    if code != ADMIN_CODE:
        wrong.append(f"the writer was told {code!r}")
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    for client in (writer, other):
        await client.close()
    w.clients.clear()
    return wrong


async def test_nothing_is_lost_and_nothing_lands_late_whenever_the_close_comes(
    tmp_path: Path,
) -> None:
    rng = random.Random(4)
    for number in range(8):
        root = tmp_path / str(number)
        root.mkdir()
        async with world(root, "a", "b") as w:
            assert await close_while_writing(w, rng.uniform(0, 25)) == []


async def test_a_release_before_the_drain_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(self: Handles, handle: int, now_ns: int) -> None:
        row, live = self._handle_row(handle), LiveDelta()
        assert row is not None
        self._drop_handle(row, self._inode_of(row), now_ns, live)
        self._flush_live(live)

    monkeypatch.setattr(Handles, "force_close", careless)
    async with world(tmp_path, "a", "b") as w:
        assert await close_while_writing(w, 10) != []
