"""Shares at the nodes, seen by the real SDK over an in-process network: names on one volume that
come, change and go while clients work and nodes are away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from node_world import World, world

from sofs.client.aio import AsyncShare, Connecting, connect
from sofs.client.session import ClientCore
from sofs.constants import SHARES_LOOK_MS
from sofs.core import messages as m
from sofs.core.share_table import ShareEntry, ShareTable
from sofs.errors import (
    AccessDenied,
    BadNetworkName,
    DeadlineExceeded,
    HandleLost,
    SofsError,
    StoreFailed,
    Unavailable,
)
from sofs.services.channel import Channel, expect, open_channel
from sofs.services.node.life import NodeConfig
from sofs.services.node.part import NodePart
from sofs.services.node.volumes import Volumes
from sofs.services.shares import ShareView, publish
from sofs.storage import StoreFences, SystemClock, attach, open_fenced

VOL = ShareEntry("vol", "vol")
LOGS = ShareEntry("Logs", "vol")


class Jumping(SystemClock):
    """The clock of a part that was stopped for ``jumped_ms``."""

    jumped_ms = 0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.jumped_ms


class Shares:
    """A volume with nodes whose views of the shares the tests hold."""

    def __init__(self, w: World, root: Path) -> None:
        self.w = w
        self.clocks: dict[str, Jumping] = {}
        self.root = open_fenced(attach(str(root)), w.clock, w.entropy, w.blocking)
        self.version = 0
        self.cores: list[ClientCore] = []

    async def node(self, name: str, fenced: StoreFences | None = None) -> NodePart:
        clock = self.clocks[name] = Jumping()
        self.w.views[name] = ShareView(clock, fenced or self.root, ShareTable(0, 0, (VOL,)))
        return await self.w.node(name)

    async def publish(self, *shares: ShareEntry, epoch: int = 1) -> None:
        self.version += 1
        await publish(self.root, ShareTable(epoch, self.version, shares))

    async def tell(self, name: str) -> m.SharesSeen:
        """What the leader does: have a node look."""

        def nothing(channel: Channel, envelope: object) -> None:
            raise AssertionError(envelope)

        channel = await open_channel(
            self.w.hub.transport(), self.w.clock, self.w.nodes[name].endpoint, "cluster",
            m.Hello(), nothing, name="tell", on_crash=self.w.crashes.append, timeout_ms=2_000,
        )  # fmt: skip
        try:
            return expect(await channel.call(m.LookAtShares()), m.SharesSeen)
        finally:
            await channel.close()

    def connect(self, share: str, *nodes: str, **options: object) -> Connecting:
        addresses = [self.w.nodes[name].endpoint for name in nodes or ("a",)]

        async def resolve() -> list[str]:
            return addresses

        return connect(
            f"sofs://anywhere/{share}",
            resolver=resolve,
            transport=self.w.hub.transport(),
            witness=False,
            **options,  # type: ignore[arg-type]
        )


@asynccontextmanager
async def shares(tmp_path: Path, *nodes: str) -> AsyncIterator[Shares]:
    (tmp_path / "volume").mkdir()
    async with world(tmp_path / "volume") as w:
        made = Shares(w, tmp_path / "cluster")
        for name in nodes:
            await made.node(name)
        yield made


async def write(share: AsyncShare, path: str, data: bytes) -> None:
    await share.write_file(path, data)


async def test_several_shares_are_names_on_one_volume(tmp_path: Path) -> None:
    async with shares(tmp_path, "a", "b") as s:
        await s.publish(VOL, LOGS)
        async with s.connect("vol", "a") as one, s.connect("LOGS", "b") as other:
            await write(one, "/file", b"same")
            assert await other.read_file("/file") == b"same"


async def test_a_share_is_there_on_every_node_as_soon_as_it_is_published(tmp_path: Path) -> None:
    async with shares(tmp_path, "a", "b") as s:
        async with s.connect("vol", "a"), s.connect("vol", "b"):
            pass  # Both have looked just now.
        await s.publish(VOL, LOGS)
        async with s.connect("logs", "a"), s.connect("logs", "b"):
            pass


async def test_an_unknown_share_is_refused_with_what_there_is_and_the_next_move(
    tmp_path: Path,
) -> None:
    async with shares(tmp_path, "a") as s:
        await s.publish(VOL, LOGS, ShareEntry("elsewhere", "other"))
        with pytest.raises(BadNetworkName, match=r"'nosuch'.*'vol', 'Logs'.*sofs share ls"):
            await s.connect("nosuch")
        with pytest.raises(BadNetworkName, match="volume 'other'"):
            await s.connect("elsewhere")


async def test_a_removed_share_ends_its_sessions_and_loses_their_handles(tmp_path: Path) -> None:
    async with shares(tmp_path, "a", "b") as s:
        await s.publish(VOL, LOGS)
        share = await s.connect("logs", "a", "b")
        other = await s.connect("vol", "a")
        kept = await other.open("/kept", "w+b")
        file = await share.open("/file", "w+b")
        await file.pwrite(b"acknowledged", 0)
        await s.publish(VOL)
        for name in ("a", "b"):
            assert (await s.tell(name)).version == 2
        with pytest.raises(BadNetworkName):
            await file.pwrite(b"x", 0)
        with pytest.raises(BadNetworkName):
            await share.stat("/file")
        await share.close()
        await kept.pwrite(b"others go on", 0)
        with pytest.raises(DeadlineExceeded, match="FILE_NOT_AVAILABLE"):  # Until its timeout.
            await other.read_file("/file", deadline_ms=300)
        assert other.facts().sessions == 1
        await kept.close()
        await other.close()


async def test_a_node_that_nobody_tells_finds_out_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sofs.services.shares.SHARES_LOOK_MS", 30)
    async with shares(tmp_path, "a") as s:
        await s.publish(VOL, LOGS)
        share = await s.connect("logs", "a")
        await s.publish(VOL)

        async def work() -> None:
            while True:
                await share.stat("/")
                await asyncio.sleep(0.005)

        with pytest.raises(BadNetworkName):
            await work()
        await share.close()


async def test_a_removed_share_does_not_come_back_with_a_node_that_was_stopped(
    tmp_path: Path,
) -> None:
    async with shares(tmp_path, "a", "b") as s:
        await s.publish(VOL, LOGS)
        async with s.connect("logs", "a"):
            pass
        s.w.hub.freeze(s.w.nodes["a"].endpoint)
        view = s.w.views["a"]
        looks = view.looks
        await s.publish(VOL)
        s.clocks["a"].jumped_ms += SHARES_LOOK_MS  # It was stopped, its loop too: no look since.
        assert view.table.find("logs") is not None
        assert view.looks == looks
        s.w.hub.thaw(s.w.nodes["a"].endpoint)
        with pytest.raises(BadNetworkName):
            await s.connect("logs", "a")


async def test_a_removed_share_does_not_come_back_with_a_node_that_starts_again(
    tmp_path: Path,
) -> None:
    async with shares(tmp_path, "a", "b") as s:
        await s.publish(VOL, LOGS)
        async with s.connect("logs", "a"):
            pass
        await s.w.kill_node("a")
        await s.publish(LOGS)
        await s.publish()
        await s.publish(VOL, LOGS, epoch=0)  # A leader of long ago, thawed.
        await s.node("a")
        for name in ("logs", "vol"):
            with pytest.raises(BadNetworkName):
                await s.connect(name, "a")


async def test_open_files_move_on_while_the_leader_is_away(tmp_path: Path) -> None:
    """Nodes need the store, not a leader."""
    async with shares(tmp_path, "a", "b") as s:
        await s.publish(VOL, LOGS)
        async with s.connect("logs", "a", "b") as share:
            file = await share.open("/file", "w+b")
            await file.pwrite(b"one", 0)
            await s.w.kill_node("a" if share.facts().node == "a" else "b")
            await file.pwrite(b"two", 3)
            assert await file.pread(6, 0) == b"onetwo"
            assert share.facts().sessions == 2
            await file.close()


async def test_while_the_root_cannot_be_read_a_node_greets_nobody_and_open_files_go_on(
    tmp_path: Path,
) -> None:
    async with shares(tmp_path, "a") as s:
        await s.publish(VOL)
        broken = open_fenced(
            attach(str(tmp_path / "cluster")), s.w.clock, s.w.entropy, s.w.blocking
        )
        await s.node("b", broken)
        share = await s.connect("vol", "b")
        file = await share.open("/file", "w+b")

        async def fail(prefix: str) -> list[str]:
            raise StoreFailed("no such device")

        broken.list_objects = fail  # type: ignore[method-assign]
        s.clocks["b"].jumped_ms += SHARES_LOOK_MS
        await file.pwrite(b"goes on", 0)
        with pytest.raises(SofsError, match="no such device") as caught:
            await s.connect("vol", "b", connect_timeout_ms=300)
        assert "UNAVAILABLE" in str(caught.value)
        await file.close()
        await share.close()


async def test_a_greeting_is_answered_once(tmp_path: Path) -> None:
    async with shares(tmp_path, "a") as s:
        s.clocks["a"].jumped_ms += SHARES_LOOK_MS
        stream = await s.w.hub.transport().connect(s.w.nodes["a"].endpoint, "file", timeout_ms=1000)
        channel = Channel(
            stream, s.w.clock, lambda c, e: None, name="raw", on_crash=s.w.crashes.append
        )
        channel.start()
        hello = m.Hello(1, client=b"c" * 16, share="vol")
        calls = [channel.begin(hello), channel.begin(hello), channel.begin(m.Mkdir(path="/a"))]
        bodies = [(await call).body for call in calls]
        assert isinstance(bodies[0], m.HelloReply)
        assert [b.code for b in bodies[1:] if isinstance(b, m.Failure)] == ["PROTOCOL_ERROR"] * 2
        await channel.close()


# Settings


async def test_through_a_read_only_share_nothing_is_changed(tmp_path: Path) -> None:
    async with shares(tmp_path, "a") as s:
        await s.publish(VOL, ShareEntry("ro", "vol", read_only=True))
        async with s.connect("vol") as share, s.connect("ro") as reader:
            await write(share, "/file", b"data")
            await share.mkdir("/dir")
            assert await reader.read_file("/file") == b"data"
            assert await reader.listdir("/") == ["dir", "file"]
            async with await reader.open("/file", "rb") as file:
                assert await file.pread(4, 0) == b"data"
            refused = [
                reader.open("/file", "r+b"),
                reader.open("/file", "ab"),
                reader.open("/new", "w+b"),
                reader.open("/file", "rb", delete_on_close=True),
                reader.write_file("/new", b"x"),
                reader.mkdir("/new"),
                reader.rmdir("/dir"),
                reader.unlink("/file"),
                reader.rename("/file", "/new"),
                reader.set_times("/file", modified_ns=1),
                reader.set_attributes("/file", 1),
            ]
            for call in refused:
                with pytest.raises(AccessDenied, match="read-only"):
                    await call
            assert await share.listdir("/") == ["dir", "file"]
            assert await share.read_file("/file") == b"data"


async def test_a_share_that_turns_read_only_keeps_what_is_open_for_writing(tmp_path: Path) -> None:
    async with shares(tmp_path, "a") as s:
        await s.publish(VOL)
        async with s.connect("vol") as share:
            file = await share.open("/file", "w+b")
            await s.publish(ShareEntry("vol", "vol", read_only=True))
            await s.tell("a")
            await file.pwrite(b"still", 0)
            await file.truncate(3)
            with pytest.raises(AccessDenied):
                await share.open("/other", "w+b")
            await s.publish(VOL)
            await s.tell("a")
            await write(share, "/other", b"again")
            await file.close()


@pytest.mark.parametrize("available", [True, False])
async def test_a_handle_outlives_its_session_on_a_continuously_available_share_only(
    tmp_path: Path, available: bool
) -> None:
    async with shares(tmp_path, "a", "b") as s:
        await s.publish(ShareEntry("vol", "vol", available=available))
        for name in ("a", "b"):
            await s.tell(name)
        async with s.connect("vol", "a", "b") as share:
            file = await share.open("/file", "w+b")
            await file.pwrite(b"one", 0)
            await s.w.kill_node("a" if share.facts().node == "a" else "b")
            if available:
                await file.pwrite(b"two", 3)
                assert await file.pread(6, 0) == b"onetwo"
                await file.close()
            else:
                with pytest.raises(HandleLost):
                    await file.pread(3, 0)
                assert await share.read_file("/file") == b"one"


async def test_a_node_without_a_view_of_shares_does_not_look(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        channel = await open_channel(
            w.hub.transport(), w.clock, w.nodes["a"].endpoint, "cluster", m.Hello(),
            lambda c, e: None, name="tell", on_crash=w.crashes.append, timeout_ms=2_000,
        )  # fmt: skip
        with pytest.raises(SofsError, match="LookAtShares"):
            await channel.call(m.LookAtShares())
        await channel.close()
    assert Unavailable.retry == "new-session"


async def test_one_listener_serves_shares_on_several_volumes(tmp_path: Path) -> None:
    other = ShareEntry("other", "vol2")
    (tmp_path / "two").mkdir()
    async with world(tmp_path / "two") as two, shares(tmp_path) as s:
        made: list[str] = []
        view = ShareView(s.w.clock, s.root, ShareTable(0, 0, (VOL,)))
        broken = True

        async def make(volume: str) -> NodePart:
            made.append(volume)
            if broken:
                raise StoreFailed("its root is away")
            part = NodePart(
                clock=two.clock,
                entropy=two.entropy,
                transport=two.hub.transport(),
                fenced=two.fenced,
                config=NodeConfig("a", share=volume, volume=b"2" * 16, shares=view),
                on_exit=two.exits.append,
            )
            await part.start("", listener=two.hub.listen("behind:1", part.accept))
            return part

        volumes = Volumes("vol", view, make)
        part = s.w.nodes["a"] = NodePart(
            clock=s.w.clock,
            entropy=s.w.entropy,
            transport=s.w.hub.transport(),
            fenced=s.w.fenced,
            config=NodeConfig("a", share="vol", volume=b"v" * 16, shares=view),
            on_exit=s.w.exits.append,
            volumes=volumes,
        )
        await part.start("a:1")
        await s.publish(VOL, other)
        with pytest.raises(DeadlineExceeded):
            await s.connect("other", connect_timeout_ms=200)
        assert volumes.names() == []
        broken = False
        async with s.connect("vol") as one, s.connect("other") as second:
            assert made[-1] == "vol2"
            tries = len(made)
            await write(one, "/file", b"of one")
            await write(second, "/file", b"of the other")
            assert await one.read_file("/file") == b"of one"
            assert await second.read_file("/file") == b"of the other"
            async with s.connect("other") as third:
                assert await third.read_file("/file") == b"of the other"
            assert len(made) == tries
        with pytest.raises(BadNetworkName):
            await s.connect("nosuch")
        await s.publish(VOL)
        await s.tell("a")
        with pytest.raises(BadNetworkName):
            await s.connect("other")
        # No share leads to that volume: it may have been removed, so its part ends.
        await s.w.until("its part is closed", lambda: volumes.names() == [])
