"""A stored page that is not what was written: the reader is refused at once, and the authority's
log has the place, once, until the page is written anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from node_world import Client, File, World, refused, world

from sofs.core import messages as m
from sofs.core.messages import CorruptKind, CorruptPlace
from sofs.services.authority.damage import Reported
from sofs.services.node import commits, reporter

T = TypeVar("T")
PAGE = 4096
LIMIT_S = 10.0


async def limited(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, LIMIT_S)


def damage(root: Path, page: bytes) -> None:
    """Change one byte of the only stored copy of a page."""
    [segment] = [path for path in root.rglob("*") if path.is_file() and page in path.read_bytes()]
    at = segment.read_bytes().index(page) + 100
    with segment.open("r+b") as stored:
        stored.seek(at)
        stored.write(b"?")


async def damaged_file(w: World, client: Client, path: str = "/file") -> File:
    """A file of three pages, the second and third of which are damaged on the store."""
    file = await client.open(path)
    for page, letter in enumerate((b"A", b"B", b"C")):
        await file.write(page * PAGE, letter * PAGE)
    damage(w.root, b"B" * PAGE)
    damage(w.root, b"C" * PAGE)
    return file


def places(w: World) -> list[CorruptPlace]:
    [part] = w.authorities.values()
    assert part.active is not None
    return part.active.state.list_corrupt().places


async def told(w: World, count: int) -> list[CorruptPlace]:
    await w.until(f"{count} places", lambda: len(places(w)) == count)
    return places(w)


def reports(w: World) -> list[Sequence[CorruptPlace]]:
    """The reports that come from now on."""
    active = w.authorities["coordinator"].active
    assert active is not None
    real, seen = active.state.report_corrupt, []

    def report(body: Sequence[CorruptPlace], found_by: str, now_ns: int) -> Reported:
        seen.append(body)
        return real(body, found_by, now_ns)

    active.state.report_corrupt = report  # type: ignore[method-assign]
    return seen


async def test_a_damaged_page_is_told_once_however_often_it_is_read(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        seen = reports(w)
        file = await damaged_file(w, client)
        for _ in range(3):
            assert await refused(file.read(0, 3 * PAGE)) == "DATA_CORRUPT"
            assert await refused(file.read(PAGE + 5, 10)) == "DATA_CORRUPT"
        [place] = await told(w, 1)
        assert (place.kind, place.ino, place.page) == (CorruptKind.PAGE, file.info.ino, 1)
        assert (place.path, place.found_by, place.sequence) == ("/file", "a", 2)
        assert await refused(file.read(2 * PAGE, 5)) == "DATA_CORRUPT"
        await told(w, 2)
        node = w.nodes["a"].node
        assert node is not None
        await w.until("answered", lambda: not node.reporter.waiting)
        assert [[place.page for place in body] for body in seen] == [[1], [2]]


async def test_nobody_waits_for_a_report_and_it_is_sent_until_an_authority_has_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await damaged_file(w, client)
        node = w.nodes["a"].node
        assert node is not None
        await node.commits.settle(node.commits.published_sequence)
        await w.kill_authority()
        assert await limited(refused(file.read(PAGE, PAGE))) == "DATA_CORRUPT"
        assert await limited(refused(file.read(2 * PAGE, PAGE))) == "DATA_CORRUPT"
        assert node.reporter.waiting == 2
        await w.authority("resume-key")
        assert [place.page for place in await told(w, 2)] == [1, 2]


async def test_a_place_survives_its_authority_and_goes_with_the_overwrite(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await damaged_file(w, client)
        assert await refused(file.read(PAGE, PAGE)) == "DATA_CORRUPT"
        assert await refused(file.read(2 * PAGE, PAGE)) == "DATA_CORRUPT"
        await told(w, 2)
        await w.kill_authority()
        await w.authority("resume-key")
        assert [place.page for place in places(w)] == [1, 2]
        await file.write(PAGE, b"D" * PAGE)
        assert [place.page for place in await told(w, 1)] == [2]
        await limited(file.truncate(2 * PAGE))
        assert places(w) == [], "in the transaction of the truncate"
        assert await file.read(0, 3 * PAGE) == b"A" * PAGE + b"D" * PAGE


async def test_the_report_of_a_page_that_is_overwritten_meanwhile_leaves_nothing(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        seen = reports(w)
        file = await damaged_file(w, client)
        read = asyncio.ensure_future(refused(file.read(PAGE, PAGE)))
        write = asyncio.ensure_future(file.write(PAGE, b"D" * PAGE))
        assert await read == "DATA_CORRUPT"
        await write
        await w.until("told", lambda: seen)
        node = w.nodes["a"].node
        assert node is not None
        await w.until("answered", lambda: not node.reporter.waiting)
        await node.commits.settle(node.commits.published_sequence)
        assert places(w) == []
        assert await file.read(PAGE, PAGE) == b"D" * PAGE


async def test_beyond_the_queue_a_place_is_dropped_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "CORRUPT_QUEUED_PLACES_MAX", 1)
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await damaged_file(w, client)
        node = w.nodes["a"].node
        assert node is not None
        await node.commits.settle(node.commits.published_sequence)
        await w.kill_authority()
        assert await refused(file.read(PAGE, PAGE)) == "DATA_CORRUPT"
        assert await refused(file.read(2 * PAGE, PAGE)) == "DATA_CORRUPT"
        assert (node.reporter.waiting, node.reporter.dropped) == (1, 1)
        await w.authority("resume-key")
        await told(w, 1)
        await w.until("answered", lambda: not node.reporter.waiting)
        assert await refused(file.read(2 * PAGE, PAGE)) == "DATA_CORRUPT"
        await told(w, 2)


async def test_a_file_with_lost_writes_can_be_emptied_through_its_handle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No node gets a token of it, and none is needed."""
    monkeypatch.setattr(commits, "COMMIT_AGE_MS", 60_000)  # The records are in the log only.
    async with world(tmp_path, "a", "b") as w:
        client = await w.client()
        file = await client.open()
        for letter in (b"A", b"B", b"C", b"D"):
            await file.write(0, letter * PAGE)
        lost = w.nodes["a"].node
        assert lost is not None
        [segment] = list((w.root / "logs" / lost.log.claim.role).rglob("0*0"))
        at = segment.read_bytes().index(b"C" * PAGE)
        with segment.open("r+b") as stored:
            stored.seek(at - 60)
            stored.write(b"\xff" * 8)
        await w.kill_node("a")
        other = await w.client("one", "b", like=client)
        back = await limited(file.reclaim(other))
        [place] = await told(w, 1)
        assert (place.kind, place.ino) == (CorruptKind.LOST, file.info.ino)
        assert await limited(refused(back.read(0, 10))) == "DATA_CORRUPT"
        assert await limited(refused(back.write(0, b"x"))) == "DATA_CORRUPT"
        assert await limited(refused(back.truncate(10))) == "DATA_CORRUPT"
        assert (await limited(back.truncate(0))).info.size == 0
        assert places(w) == []
        await limited(back.write(0, b"anew"))
        assert await limited(back.read(0, 10)) == b"anew"
        assert isinstance(await other.call(m.ReadFile("/file", 0, 4)), m.ReadFileReply)
