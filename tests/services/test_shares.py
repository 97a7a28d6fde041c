"""What nodes know of the published table of shares."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sofs.constants import SHARES_LOOK_MS
from sofs.core.share_table import ShareEntry, ShareTable, encode_table, order_of, table_key
from sofs.errors import StoreFailed, Unavailable
from sofs.services.shares import ShareView, publish, read_newest
from sofs.services.tasks import Tasks
from sofs.storage import (
    StoreFences,
    SystemClock,
    SystemEntropy,
    ThreadBlocking,
    attach,
    open_fenced,
)


def table(epoch: int, version: int, *names: str) -> ShareTable:
    return ShareTable(epoch, version, tuple(ShareEntry(name, "v") for name in names))


DEFAULT = table(0, 0, "share")


class HeldClock(SystemClock):
    """A clock that jumps when it is told: a process that was stopped for as long."""

    jumped_ms = 0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.jumped_ms


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def fenced(tmp_path: Path, clock: HeldClock) -> StoreFences:
    return open_fenced(attach(str(tmp_path)), clock, SystemEntropy(), ThreadBlocking())


def names(found: ShareTable) -> list[str]:
    return [share.name for share in found.shares]


async def test_without_a_published_table_the_default_is_shared(
    clock: HeldClock, fenced: StoreFences
) -> None:
    assert await ShareView(clock, fenced, DEFAULT).current() == DEFAULT


async def test_the_newest_table_is_read_and_older_objects_go(
    clock: HeldClock, fenced: StoreFences
) -> None:
    view = ShareView(clock, fenced, DEFAULT)
    for version in (1, 2, 10):
        await publish(fenced, table(1, version, f"s{version}"))
    assert names(await view.look()) == ["s10"]
    assert [order_of(key) for key in await fenced.list_objects("shares")] == [(1, 10)]


async def test_a_table_that_an_older_leader_publishes_late_is_read_by_nobody(
    clock: HeldClock, fenced: StoreFences
) -> None:
    await publish(fenced, table(2, 1, "kept"))
    await publish(fenced, table(1, 99, "kept", "deleted"))
    assert names(await ShareView(clock, fenced, DEFAULT).current()) == ["kept"]
    await publish(fenced, table(2, 2, "kept"))
    assert [order_of(key) for key in await fenced.list_objects("shares")] == [(2, 2)]


async def test_a_view_never_goes_back_to_an_older_table(
    clock: HeldClock, fenced: StoreFences
) -> None:
    view = ShareView(clock, fenced, DEFAULT)
    await publish(fenced, table(2, 1, "kept"))
    await view.look()
    await fenced.delete_object(table_key(2, 1))  # As nobody does.
    await publish(fenced, table(1, 1, "deleted"))
    assert names(await view.look()) == ["kept"]


async def test_whoever_was_stopped_looks_before_it_tells(
    clock: HeldClock, fenced: StoreFences
) -> None:
    view = ShareView(clock, fenced, DEFAULT)
    await publish(fenced, table(1, 1, "deleted"))
    assert names(await view.current()) == ["deleted"]
    assert view.fresh
    await publish(fenced, table(1, 2))
    clock.jumped_ms += SHARES_LOOK_MS
    assert not view.fresh
    assert names(await view.current()) == []


async def test_a_look_that_began_before_it_was_asked_for_does_not_count(
    clock: HeldClock, fenced: StoreFences, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = ShareView(clock, fenced, DEFAULT)
    listed, go = asyncio.Event(), asyncio.Event()
    list_objects = fenced.list_objects

    async def slow(prefix: str) -> list[str]:
        found = await list_objects(prefix)
        listed.set()
        await go.wait()
        return found

    monkeypatch.setattr(fenced, "list_objects", slow)
    early = asyncio.ensure_future(view.look())
    await listed.wait()
    monkeypatch.setattr(fenced, "list_objects", list_objects)
    await publish(fenced, table(1, 1, "new"))
    late = [asyncio.ensure_future(view.look()) for _ in range(3)]
    await asyncio.sleep(0)
    go.set()
    assert names(await early) == ["share"]
    assert [names(await look) for look in late] == [["new"]] * 3
    assert view.looks == 2


async def test_while_the_store_fails_nothing_is_guessed_and_what_was_known_stays(
    clock: HeldClock, fenced: StoreFences, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = ShareView(clock, fenced, DEFAULT)
    await publish(fenced, table(1, 1, "known"))
    await view.look()

    async def broken(prefix: str) -> list[str]:
        raise StoreFailed("no such device")

    monkeypatch.setattr(fenced, "list_objects", broken)
    clock.jumped_ms += SHARES_LOOK_MS
    with pytest.raises(Unavailable, match="no such device"):
        await view.current()
    assert names(view.table) == ["known"]
    assert any("no such device" in fact for fact in view.facts())


async def test_a_damaged_table_is_told_and_the_next_one_mends_it(
    clock: HeldClock, fenced: StoreFences
) -> None:
    view = ShareView(clock, fenced, DEFAULT)
    damaged = encode_table(table(1, 1, "x")).replace(b'"x"', b'"y"')
    await fenced.put_object(table_key(1, 1), damaged)
    with pytest.raises(Unavailable, match="DATA_CORRUPT"):
        await view.current()
    await publish(fenced, table(1, 2, "z"))
    assert names(await view.current()) == ["z"]


async def test_who_watches_hears_of_a_change_without_being_told(
    clock: HeldClock, fenced: StoreFences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sofs.services.shares.SHARES_LOOK_MS", 20)
    crashes: list[BaseException] = []
    tasks = Tasks("test", crashes.append)
    view = ShareView(clock, fenced, DEFAULT)
    heard: asyncio.Queue[ShareTable] = asyncio.Queue()
    view.on_change("test", heard.put_nowait)
    view.start(tasks)
    await publish(fenced, table(1, 1, "a"))
    async with asyncio.timeout(20):
        assert names(await heard.get()) == ["a"]
    view.forget("test")
    await publish(fenced, table(1, 2, "b"))
    await view.look()
    assert heard.empty()
    await tasks.close()
    await view.close()
    assert not crashes


async def test_a_table_deleted_under_a_reader_leads_to_the_newer_one(
    clock: HeldClock, fenced: StoreFences, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(fenced, table(1, 1, "old"))
    get_object = fenced.get_object

    async def overtaken(key: str) -> bytes | None:
        monkeypatch.setattr(fenced, "get_object", get_object)
        await publish(fenced, table(1, 2, "new"))
        return await get_object(key)

    monkeypatch.setattr(fenced, "get_object", overtaken)
    found = await read_newest(fenced)
    assert found is not None
    assert names(found) == ["new"]
