"""Shares at the leader: changed once, published before they are answered, and never by two."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from leader_world import (
    M1,
    M2,
    M3,
    RUN_B,
    FakePlatform,
    World,
    until,
    world,
)

from sofs.core.messages import ChangeShare, ListShares, Message, ShareInfo, ShareList
from sofs.core.share_table import ShareTable
from sofs.errors import (
    BadNetworkName,
    DiskFull,
    Fenced,
    InvalidName,
    InvalidParameter,
    LimitReached,
    ObjectNameCollision,
    ObjectNameNotFound,
    SofsError,
    StoreFailed,
    Unavailable,
    WrongIncarnation,
)
from sofs.ports.log import FencedStore
from sofs.services.leader import desk as desk_module
from sofs.services.leader import state as state_module
from sofs.services.leader.ask import ask_leader
from sofs.services.leader.desk import CHANGE, CREATE, REMOVE
from sofs.services.leader.part import LeaderPart
from sofs.services.leader.run import LEADER_ROLE
from sofs.services.shares import ShareView, read_newest
from sofs.services.witness.part import WitnessConfig, WitnessPart

LOGS = ShareInfo("Logs", "share", False, True)
DEFAULT = ShareTable()


class Fences:
    """A cluster root as one leader reaches it: ``hold`` stops it before it publishes."""

    def __init__(self, real: FencedStore) -> None:
        self._real = real
        self.publishing = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.broken: SofsError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def put_object(self, key: str, data: bytes) -> None:
        self.publishing.set()
        await self.go.wait()
        if self.broken is not None:
            raise self.broken
        await self._real.put_object(key, data)


def request(
    action: int, share: ShareInfo | str = LOGS, token: bytes = b"", volume: str = "share"
) -> ChangeShare:
    request.count += 1  # type: ignore[attr-defined]
    drawn = request.count.to_bytes(16, "big")  # type: ignore[attr-defined]
    found = ShareInfo(share, volume, False, True) if isinstance(share, str) else share
    return ChangeShare(token or drawn, action, found)


request.count = 0  # type: ignore[attr-defined]


async def ask(w: World, body: Message) -> ShareList:
    """Ask whoever has the highest claim."""
    claim = await w.fenced.highest_claim(LEADER_ROLE)
    assert claim is not None
    return await ask_leader(w.clock, w.hub.transport(), claim, body, ShareList, 10_000)


async def leading(w: World, *args: Any, **settings: Any) -> LeaderPart:
    leader = await w.leader(*args, **settings)
    await until(lambda: leader.state == "leading")
    return leader


def names(found: ShareList | ShareTable) -> list[str]:
    return [share.name for share in found.shares]


async def view(w: World) -> list[str]:
    """What a node that comes back now goes by."""
    return names(await ShareView(w.clock, w.fenced, DEFAULT).current())


async def test_a_volume_has_a_share_of_its_name_until_that_is_removed_for_good(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        first = await leading(w, FakePlatform(M1))
        assert await view(w) == ["share"]
        assert names(await ask(w, request(REMOVE, "SHARE"))) == []
        assert await view(w) == []
        await first.close()
        await leading(w, FakePlatform(M1))
        assert await view(w) == []
        assert names(await ask(w, ListShares())) == []


async def test_what_was_answered_is_published_and_the_next_leader_has_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await leading(w, FakePlatform(M1))
        created = await ask(w, request(CREATE))
        assert names(created) == ["Logs", "share"]
        found = await read_newest(w.fenced)
        assert found is not None
        assert (found.order, names(found)) == ((created.epoch, created.version), names(created))
        changed = await ask(w, request(CHANGE, ShareInfo("LOGS", "share", True, False)))
        assert changed.shares[0] == ShareInfo("LOGS", "share", True, False)
        await first.close()
        await leading(w, FakePlatform(M1))
        again = await ask(w, ListShares())
        assert again.shares == changed.shares
        assert (again.epoch, again.version) > (changed.epoch, changed.version)


async def test_a_request_that_is_sent_again_is_done_once_by_whichever_leader(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        first = await leading(w, FakePlatform(M1))
        create, remove = request(CREATE), request(REMOVE)
        assert await ask(w, create) == await ask(w, create)
        await ask(w, remove)
        assert names(await ask(w, create)) == ["share"]  # Done already: it does not come back.
        await first.close()
        await leading(w, FakePlatform(M1))
        assert names(await ask(w, create)) == ["share"]
        assert names(await ask(w, remove)) == ["share"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (request(CREATE, "share"), ObjectNameCollision),
        (request(CREATE, "SHARE"), ObjectNameCollision),
        (request(CREATE, "a/b"), InvalidName),
        (request(CREATE, "a", volume="nosuch"), ObjectNameNotFound),
        (request(CHANGE, "nosuch"), BadNetworkName),
        (request(CHANGE, "share", volume="nosuch"), ObjectNameNotFound),
        (request(REMOVE, "nosuch"), BadNetworkName),
        (request(4), InvalidParameter),
        (request(CREATE, token=b"short"), InvalidParameter),
    ],
)
async def test_what_is_refused_changes_nothing(
    tmp_path: Path, body: ChangeShare, error: type[SofsError]
) -> None:
    async with world(tmp_path) as w:
        await leading(w, FakePlatform(M1))
        before = await ask(w, ListShares())
        for _ in range(2):
            with pytest.raises(error):
                await ask(w, body)
        assert await ask(w, ListShares()) == before
        assert await view(w) == ["share"]


async def test_there_is_a_limit_of_shares_and_of_remembered_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "SHARES_MAX", 3)
    monkeypatch.setattr(state_module, "REQUESTS_MAX", 4)
    async with world(tmp_path) as w:
        leader = await leading(w, FakePlatform(M1))
        for number in range(2):
            await ask(w, request(CREATE, f"s{number}"))
        with pytest.raises(LimitReached):
            await ask(w, request(CREATE, "s3"))
        for _ in range(4):
            await ask(w, request(REMOVE, "s1"))
            await ask(w, request(CREATE, "s1"))
        assert leader.reign is not None
        kept = list(leader.reign._database.execute("SELECT count(*) FROM request"))
        assert kept == [(4,)]


async def test_a_change_waits_for_its_publication_and_a_failed_one_is_made_good(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        fences = Fences(w.fenced)
        leader = await leading(w, FakePlatform(M1), fenced=fences)
        fences.go.clear()
        fences.publishing.clear()
        create = request(CREATE)
        asked = asyncio.ensure_future(ask(w, create))
        await fences.publishing.wait()
        assert await view(w) == ["share"]
        assert not asked.done()
        fences.broken = StoreFailed("no such device")
        fences.go.set()
        with pytest.raises(StoreFailed):
            await asked
        fences.broken = None
        assert leader.reign is not None
        desk = leader.reign.desk
        await until(lambda: desk.published)  # By the next round, though nobody asks again.
        assert await view(w) == ["Logs", "share"]
        assert names(await ask(w, create)) == ["Logs", "share"]


async def test_an_older_leader_that_publishes_late_brings_nothing_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        fences = Fences(w.fenced)
        first = await leading(w, FakePlatform(M1), fenced=fences)
        await ask(w, request(CREATE, "other"))
        fences.go.clear()
        fences.publishing.clear()
        create = request(CREATE)
        asked = asyncio.ensure_future(ask(w, create))
        await fences.publishing.wait()  # Durable in the first leader's log, and not published.
        w.hub.freeze(first.address)
        second = await leading(w, FakePlatform(M1))
        assert names(await ask(w, ListShares())) == ["Logs", "other", "share"]
        await ask(w, request(REMOVE))
        await ask(w, request(REMOVE, "other"))
        fences.go.set()
        w.hub.thaw(first.address)
        with pytest.raises(Fenced):
            await asked
        await until(lambda: first.state == "standby")
        assert await view(w) == ["share"]
        assert names(await ask(w, create)) == ["share"]
        assert second.state == "leading"


async def test_an_older_leader_is_fenced_at_its_first_write(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await leading(w, FakePlatform(M1))
        claim = await w.fenced.highest_claim(LEADER_ROLE)
        assert claim is not None
        w.hub.freeze(first.address)
        reign = first.reign
        assert reign is not None
        second = await leading(w, FakePlatform(M1))
        with pytest.raises(SofsError):
            await reign.desk.change_share(request(CREATE))
        assert names(await ask(w, ListShares())) == ["share"]
        assert await view(w) == ["share"]
        w.hub.thaw(first.address)
        with pytest.raises((WrongIncarnation, SofsError)):
            await ask_leader(w.clock, w.hub.transport(), claim, ListShares(), ShareList, 2_000)
        assert second.state == "leading"


async def test_requests_that_wait_while_their_leader_is_superseded_are_told_so(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        fences = Fences(w.fenced)
        first = await leading(w, FakePlatform(M1), fenced=fences)
        reign = first.reign
        assert reign is not None
        fences.go.clear()
        fences.publishing.clear()
        waiting: list[asyncio.Future[Message]] = [
            asyncio.ensure_future(reign.desk.change_share(request(CREATE, f"s{i}")))
            for i in range(3)
        ]
        await fences.publishing.wait()
        reign.end(Unavailable("for the test"))
        await until(lambda: first.reign is not reign)
        fences.go.set()
        for asked in waiting:
            with pytest.raises(SofsError):
                await asked
        for ask_again in (reign.desk.machines, reign.desk.volumes, reign.desk.publish):
            with pytest.raises(Unavailable, match="for the test"):
                await ask_again()


async def test_two_leaders_that_are_asked_at_once_agree_on_one_list(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await leading(w, FakePlatform(M1))
        w.hub.freeze(first.address)
        older = first.reign
        assert older is not None
        await leading(w, FakePlatform(M1))

        async def try_to(number: int) -> str:
            body = request(CREATE, f"s{number}")
            try:
                if number % 2:
                    await older.desk.change_share(body)
                else:
                    await ask(w, body)
            except SofsError:
                return ""
            return f"s{number}"

        answered = [name for name in await asyncio.gather(*map(try_to, range(12))) if name]
        assert sorted([*answered, "share"]) == names(await ask(w, ListShares()))
        assert sorted([*answered, "share"]) == await view(w)
        assert len(answered) == 6


async def test_a_full_disk_refuses_a_change_and_the_leader_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        leader = await leading(w, FakePlatform(M1))
        assert leader.reign is not None

        async def full(n_bytes: int) -> None:
            raise DiskFull("no room")

        monkeypatch.setattr(leader.reign._writer, "room", full)
        with pytest.raises(SofsError, match="no room"):
            await ask(w, request(CREATE))
        monkeypatch.undo()
        assert names(await ask(w, request(CREATE))) == ["Logs", "share"]


async def test_a_run_that_takes_over_has_the_shares_of_the_one_before(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await leading(w, FakePlatform(M1, M2, M3))
        await ask(w, request(CREATE))
        await first.close()
        await leading(w, FakePlatform(M1, M2, M3), RUN_B, base_epoch=1)
        assert names(await ask(w, ListShares())) == ["Logs", "share"]


async def test_a_leader_that_is_not_heard_by_its_nodes_says_who_still_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "TELL_MS_MAX", 100)
    async with world(tmp_path) as w:
        platform = FakePlatform(M1)
        leader = await leading(w, platform, wanted_nodes=1)
        await until(lambda: "witness-1" in platform.running)
        platform.addresses["node-1"] = "127.0.0.11:1"  # Nobody listens there.
        reply = await ask(w, request(CREATE))
        assert (reply.reached, reply.waiting) == ([], ["node-1", "witness-1"])
        assert leader.state == "leading"


async def test_parts_that_run_have_a_change_when_it_is_answered(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        await leading(w, platform)
        views = {name: ShareView(w.clock, w.fenced, DEFAULT) for name in ("witness-1", "witness-2")}
        parts = []
        for name, seen in views.items():
            config = WitnessConfig(name, "127.0.0.1:0", share="share", shares=seen)
            part = WitnessPart(
                clock=w.clock,
                entropy=w.entropy,
                transport=w.hub.transport(),
                config=config,
                on_exit=w.fatal.append,
            )
            await part.start("127.0.0.1:0")
            platform.addresses[name] = part.address
            parts.append(part)
        await until(lambda: len(platform.running) == 8)
        for number in range(3):
            reply = await ask(w, request(CREATE, f"s{number}"))
            assert reply.reached == list(views)
            for seen in views.values():
                assert seen.table.order == (reply.epoch, reply.version)
        reply = await ask(w, request(REMOVE, "s1"))
        assert [names(seen.table) for seen in views.values()] == [["s0", "s2", "share"]] * 2
        for part in parts:
            await part.close()
