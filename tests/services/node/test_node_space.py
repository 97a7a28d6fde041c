"""Segments of a living node's data log are given back, and none that anything may still need."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from node_world import File, NodePart, World, world

from sofs.core import messages as m
from sofs.errors import OutcomeUnknown
from sofs.services.authority.service_active import ActiveAuthority
from sofs.services.node.life import Node
from sofs.storage.logbase import LogOptions

SMALL = LogOptions(first_bytes=64 * 1024, segment_bytes=64 * 1024)
PAGE = 4096


def life(part: NodePart) -> Node:
    assert part.node is not None
    return part.node


def segments(root: Path, node: Node) -> list[int]:
    folder = root / "logs" / node.log.claim.role
    return sorted(int(path.name) for path in folder.rglob("*") if path.is_file())


def acting(w: World) -> ActiveAuthority:
    [active] = [p.active for p in w.authorities.values() if p.active is not None]
    return active


async def overwrite(file: File, times: int) -> bytes:
    """Write the same page again and again, until the log has rolled often."""
    data = b""
    for n in range(times):
        data = n.to_bytes(4, "big") * (PAGE // 4)
        await file.write(0, data)
    return data


async def settle(node: Node) -> None:
    await node.commits.settle(node.commits.published_sequence)


async def test_a_living_node_gives_back_what_was_overwritten_and_its_log_can_still_be_sealed(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a", "b", options=SMALL) as w:
        client = await w.client()
        kept, file = await client.open("/kept"), await client.open("/file")
        await overwrite(file, 40)
        await kept.write(0, b"k" * PAGE)
        data = await overwrite(file, 100)
        node = life(w.nodes["a"])
        await settle(node)
        await overwrite(file, 1)  # A commit says below what nothing is left of those before it.
        await settle(node)
        before = segments(tmp_path, node)
        assert len(before) > 8
        space = acting(w).space
        assert await space.one_pass() == 0, "a reader may be under way"
        assert await space.one_pass() >= 1
        after = segments(tmp_path, node)
        assert after[0] == 0, "the first segment says where the log begins"
        assert len(after) < len(before)
        assert await kept.read(0, PAGE) == b"k" * PAGE
        await kept.write(0, b"K" * PAGE)
        await settle(node)
        await overwrite(file, 1)
        await settle(node)
        await space.one_pass()
        assert await space.one_pass() > 3, "now nothing holds the older ones"
        assert len(segments(tmp_path, node)) <= 4
        data = await overwrite(file, 100)  # A tail that only the log knows, as far as it goes.
        await w.kill_node("a")
        await acting(w).nodes.seal(node.log.claim.incarnation)
        again = await w.client(node="b", like=client)
        again.id = client.id
        there = await file.reclaim(again)
        assert await there.read(0, PAGE) == data
        assert await (await kept.reclaim(again)).read(0, PAGE) == b"K" * PAGE


@pytest.mark.parametrize("how", ["write_file", "truncate"])
async def test_a_record_whose_transaction_is_still_on_its_way_keeps_its_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with world(tmp_path, "a", "b", options=SMALL) as w:
        elsewhere = await (await w.client("two", "b")).open("/cut")
        await elsewhere.write(0, b"c" * 2 * PAGE)  # So that no live page of a's log is near.
        await elsewhere.close()
        client = await w.client()
        file, cut = await client.open("/file"), await client.open("/cut")
        await overwrite(file, 40)  # Into a later segment: the first one stays anyway.
        node = life(w.nodes["a"])
        on_its_way, let_go = asyncio.Event(), asyncio.Event()
        call = node.link.call

        async def held(request: Any, *more: Any, **options: Any) -> m.Message:
            if isinstance(request(), m.WriteFile | m.Truncate):
                on_its_way.set()
                await let_go.wait()
            return await call(request, *more, **options)

        monkeypatch.setattr(node.link, "call", held)
        body: m.Message
        if how == "write_file":
            body = m.WriteFile(client.caller(), "/new", int(m.Disposition.CREATE))
            sent = client.send(body, b"n" * PAGE)
        else:
            body = m.Truncate(client.caller(), cut.handle, cut.generation, PAGE + 100)
            sent = client.send(body)
        await on_its_way.wait()
        await overwrite(file, 100)
        await settle(node)
        space = acting(w).space
        await space.one_pass()
        await space.one_pass()
        assert len(segments(tmp_path, node)) > 5, "everything from that record on stays"
        assert max(space._settled.values()) > 0
        let_go.set()
        await sent
        if how == "write_file":
            assert await (await client.open("/new")).read(0, PAGE) == b"n" * PAGE
        else:
            assert await cut.read(PAGE, PAGE) == b"c" * 100
        assert not node.commits._detached, "it is named now"


async def test_a_record_of_which_nobody_knows_whether_it_was_named_keeps_its_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, "a", options=SMALL) as w:
        client = await w.client()
        file = await client.open("/file")
        node = life(w.nodes["a"])
        call = node.link.call

        async def lost(request: Any, *more: Any, **options: Any) -> m.Message:
            reply = await call(request, *more, **options)
            if isinstance(request(), m.WriteFile):
                raise OutcomeUnknown("the answer was lost")
            return reply

        await overwrite(file, 40)
        monkeypatch.setattr(node.link, "call", lost)
        body = m.WriteFile(client.caller(), "/new", int(m.Disposition.CREATE))
        with pytest.raises(OutcomeUnknown):
            await client.call(body, b"n" * PAGE)
        await overwrite(file, 100)
        await settle(node)
        assert len(node.commits._detached) == 1
        for _ in range(2):
            await acting(w).space.one_pass()
        assert await (await client.open("/new")).read(0, PAGE) == b"n" * PAGE
