"""A volume that is removed is served no more, whoever comes back; its folder stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from leader_world import M1, M2, M3, FakePlatform, World, until, world

from sofs.core.messages import (
    AddVolume,
    ChangeShare,
    HelloReply,
    ListVolumes,
    Message,
    PartState,
    PartStateReply,
    RemoveVolume,
    ShareInfo,
    ShareList,
    VolumeList,
)
from sofs.core.share_table import ShareTable, volume_key
from sofs.errors import InvalidParameter, ObjectInUse, ObjectNameNotFound, StoreFailed
from sofs.ids import Incarnation
from sofs.ports.log import FencedStore
from sofs.ports.stream import Stream
from sofs.services.channel import Channel, check_hello
from sofs.services.leader.ask import ask_leader
from sofs.services.leader.desk import REMOVE
from sofs.services.leader.part import LeaderPart
from sofs.services.leader.run import LEADER_ROLE
from sofs.services.shares import ShareView
from sofs.storage import roots

TOKENS = iter(number.to_bytes(16, "big") for number in range(1, 1000))


async def ask(w: World, body: Message) -> VolumeList:
    claim = await w.fenced.highest_claim(LEADER_ROLE)
    assert claim is not None
    return await ask_leader(w.clock, w.hub.transport(), claim, body, VolumeList, 10_000)


async def lead(w: World, platform: FakePlatform, **more: Any) -> LeaderPart:
    """A leader as a process starts it: it knows the volumes of the root's table."""
    names = [entry.name for entry in roots.list_volumes(w.fenced.store)]
    leader = await w.leader(
        platform, volumes=tuple(sorted(names, key=lambda name: name != "share")), **more
    )
    await until(lambda: leader.state == "leading")
    return leader


def enter(w: World, *names: str) -> None:
    for name in names:
        entry = roots.VolumeEntry(name, name.encode().ljust(16, b"-"), f"file:///{name}")
        roots.add_volume(w.fenced.store, entry)


def remove(name: str, *, force: bool = False, token: bytes = b"") -> RemoveVolume:
    return RemoveVolume(token or next(TOKENS), name, force)


async def owner(w: World, platform: FakePlatform, volume: str, open_handles: int) -> None:
    """The coordinator of a volume answers how many files are open."""

    def answer(channel: Channel, envelope: Any) -> None:
        if channel.remote is None:
            channel.remote = check_hello(envelope, Incarnation(b"o" * 16))
            channel.reply(envelope.call, HelloReply(channel.remote.protocol_version, b"o" * 16))
        elif isinstance(envelope.body, PartState):
            facts = [f"open_handles={open_handles}"]
            channel.reply(envelope.call, PartStateReply("coordinator", "", b"", "active", facts))

    async def accept(service: str, stream: Stream) -> None:
        channel = Channel(stream, w.clock, answer, name="owner", on_crash=w.fatal.append)
        channel.start()
        await channel.ended
        await channel.close()

    address = f"{volume}:1"
    await w.hub.transport().listen(address, accept)
    platform.addresses[f"coordinator-{volume}"] = address


async def shared(w: World) -> list[str]:
    found = await ShareView(w.clock, w.fenced, ShareTable()).current()
    return [share.name for share in found.shares]


def runs(platform: FakePlatform, volume: str) -> list[str]:
    return [name for name in platform.running if name.endswith(f"-{volume}")]


async def test_a_volume_without_shares_and_open_files_is_removed_with_its_parts(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        enter(w, "share", "archive")
        await lead(w, platform)
        await until(lambda: len(runs(platform, "archive")) == 2)
        await owner(w, platform, "archive", 0)
        with pytest.raises(ObjectInUse, match="the shares archive lead to it"):
            await ask(w, remove("archive"))
        assert len(runs(platform, "archive")) == 2
        claim = await w.fenced.highest_claim(LEADER_ROLE)
        assert claim is not None
        share = ChangeShare(next(TOKENS), REMOVE, ShareInfo("archive"))
        await ask_leader(w.clock, w.hub.transport(), claim, share, ShareList, 10_000)
        left = await ask(w, remove("archive"))
        assert [volume.name for volume in left.volumes] == ["share"]
        await until(lambda: not runs(platform, "archive"))
        assert [entry.name for entry in roots.list_volumes(w.fenced.store)] == ["share"]


async def test_open_files_are_named_and_with_force_the_shares_go_too(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        enter(w, "share", "archive")
        await lead(w, platform)
        await until(lambda: len(runs(platform, "archive")) == 2)
        with pytest.raises(ObjectInUse, match="does not say whether files are open"):
            await ask(w, remove("archive"))
        await owner(w, platform, "archive", 3)
        with pytest.raises(ObjectInUse, match=r"3 files on it are open.*--force"):
            await ask(w, remove("archive"))
        assert await shared(w) == ["archive", "share"]
        left = await ask(w, remove("archive", force=True))
        assert [volume.name for volume in left.volumes] == ["share"]
        assert await shared(w) == ["share"]


async def test_a_removed_volume_comes_back_with_no_leader_whatever_that_read_before(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        enter(w, "share", "archive", "more")
        first = await lead(w, platform)
        await ask(w, remove("archive", force=True))
        life = first.reign
        assert life is not None
        life.end(StoreFailed("this life is to end"))
        # The next life of the same process was told of the volume when the process began.
        await until(lambda: first.state == "leading" and first.reign not in (None, life))
        assert [v.name for v in (await ask(w, ListVolumes())).volumes] == ["share", "more"]
        await first.close()
        second = await w.leader(platform, volumes=("share", "archive", "more"))
        await until(lambda: second.state == "leading")
        assert [v.name for v in (await ask(w, ListVolumes())).volumes] == ["share", "more"]
        assert await shared(w) == ["more", "share"]


async def test_a_removed_volume_that_is_created_again_is_served_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        enter(w, "share", "archive", "more")
        await lead(w, platform)
        await ask(w, remove("archive", force=True))
        enter(w, "archive")
        names = [v.name for v in (await ask(w, AddVolume(next(TOKENS), "archive"))).volumes]
        assert names == ["share", "more", "archive"]
        assert await shared(w) == ["archive", "more", "share"]
        await until(lambda: len(runs(platform, "archive")) == 2)


async def test_a_removal_that_was_cut_short_is_done_when_it_is_asked_for_again(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        enter(w, "share", "archive")
        store = FailsOnce(w.fenced)
        leader = await lead(w, platform, fenced=store)
        assert leader.reign is not None
        body = remove("archive", force=True)
        with pytest.raises(StoreFailed):
            await ask(w, body)
        assert [v.name for v in (await ask(w, body)).volumes] == ["share"]
        assert [v.name for v in (await ask(w, body)).volumes] == ["share"]


class FailsOnce:
    """Deleting the table's entry fails the first time."""

    def __init__(self, real: FencedStore) -> None:
        self._real = real
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def delete_object(self, key: str) -> None:
        if key == volume_key("archive") and not self.failed:
            self.failed = True
            raise StoreFailed("the disk says no")
        await self._real.delete_object(key)


async def test_the_first_volume_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        enter(w, "share", "archive")
        await lead(w, FakePlatform(M1))
        with pytest.raises(InvalidParameter, match="first volume"):
            await ask(w, remove("share", force=True))
        with pytest.raises(ObjectNameNotFound, match="there is share, archive"):
            await ask(w, remove("nosuch", force=True))
        assert [entry.name for entry in roots.list_volumes(w.fenced.store)] == ["archive", "share"]
