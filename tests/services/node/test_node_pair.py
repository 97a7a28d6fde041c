"""The two-party probe: parts that share a folder join, and parts that only seem to are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from node_world import World
from unsafe_views import CachedAbsence, OtherHost, copy_of, fill, overlay, tmpfs

from sofs.core import messages as m
from sofs.errors import BackendRefused
from sofs.ids import Epoch, Incarnation
from sofs.ports.log import Claim, FencedStore
from sofs.services.authority.service import AuthorityPart
from sofs.services.node.life import NodeConfig
from sofs.services.node.part import NodePart
from sofs.services.pair import PairProbe
from sofs.storage import LocalAppendStore, open_fenced
from sofs.storage.oscalls import OsCalls
from sofs.storage.shared_root import LocalSharedRoot

VOLUME = b"v" * 16


class View:
    """A root as one process sees it."""

    def __init__(self, world: World, root: Path, part: str, calls: OsCalls | None) -> None:
        self.store = LocalAppendStore(str(root), calls=calls)
        self.fenced: FencedStore = open_fenced(
            self.store, world.clock, world.entropy, world.blocking
        )
        self.pair = PairProbe(
            world.clock,
            world.entropy,
            LocalSharedRoot(self.store, world.blocking),
            VOLUME,
            part,
        )


class PairWorld(World):
    """Parts on views of their own, each with the probe."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[type[m.Message]] = []
        self.opened: list[View] = []
        self.peers: list[str] = []

    def view(self, part: str, root: Path | None = None, calls: OsCalls | None = None) -> View:
        made = View(self, root or self.root, part, calls)
        self.opened.append(made)
        meet, end = made.pair.meet, made.pair.meet_end

        async def counted_meet(body: m.Meet, claim: tuple[str, int], *, owner: bool) -> m.Message:
            self.asked.append(m.Meet)
            return await meet(body, claim, owner=owner)

        async def counted_end(token: bytes) -> m.Message:
            self.asked.append(m.MeetEnd)
            return await end(token)

        made.pair.meet, made.pair.meet_end = counted_meet, counted_end  # type: ignore[method-assign]
        return made

    async def authority_on(
        self, view: View, part: str = "coordinator", *, wait: bool = True
    ) -> AuthorityPart:
        self.fenced = view.fenced
        made = self.make_authority(part)
        made._env.pair = view.pair
        made._env.peers = lambda: self.peers
        await made.start(f"{part}:0")
        if wait:
            await self.until(f"{part} active", lambda: made.active is not None)
        return made

    async def close(self) -> None:
        last = self.fenced
        await super().close()
        for view in self.opened:
            if view.fenced is not last:
                view.fenced.blocks.close()  # type: ignore[attr-defined]

    async def node_on(self, view: View, name: str = "a") -> NodePart:
        made = NodePart(
            clock=self.clock,
            entropy=self.entropy,
            transport=self.hub.transport(),
            fenced=view.fenced,
            config=NodeConfig(name, share="vol", volume=VOLUME),
            on_exit=self.exits.append,
            pair=view.pair,
        )
        self.nodes[name] = made
        await made.start(f"{name}:1")
        return made


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[PairWorld]:
    (tmp_path / "root").mkdir()
    made = PairWorld(tmp_path / "root")
    yield made
    await made.close()
    assert not made.crashes
    assert not made.exits


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk", "size=24m") as folder:
        yield folder


def facts(part: NodePart | AuthorityPart) -> dict[str, str]:
    return dict(fact.split("=", 1) for fact in part.describe().facts)


def connected(node: NodePart) -> bool:
    return node.node is not None and node.node.link.connected


# One folder -------------------------------------------------------------------------------------


async def test_parts_on_one_folder_join_and_leave_no_name(world: PairWorld) -> None:
    await world.authority_on(world.view("coordinator"))
    follower = await world.authority_on(world.view("resume-key"), "resume-key", wait=False)
    node = await world.node_on(world.view("a"))
    await world.until("registered", lambda: connected(node))
    await world.until("in step", lambda: follower.follower_in_step)
    folder = world.root / "probes" / "pair"
    await world.until("no name is left", lambda: not list(folder.iterdir()))
    assert "root_refused" not in facts(node)


async def test_a_node_asks_once_more_than_before_and_only_at_its_process_first_registration(
    world: PairWorld,
) -> None:
    await world.authority_on(world.view("coordinator"))
    follower = await world.authority_on(world.view("resume-key"), "resume-key", wait=False)
    await world.until("in step", lambda: follower.follower_in_step)
    world.asked.clear()
    node = await world.node_on(world.view("a"))
    await world.until("registered", lambda: connected(node))
    # The end of the probe travels with the registration: one round trip more, not two.
    assert world.asked == [m.Meet, m.MeetEnd]
    world.asked.clear()
    await world.kill_authority()
    await world.until("taken over", lambda: follower.active is not None)
    await world.until("registered again", lambda: connected(node))
    first = node.node
    assert first is not None
    first.end(BackendRefused("this life is to end"))
    await world.until("the next life", lambda: node.node not in (None, first) and connected(node))
    assert world.asked == []  # Neither the take-over nor a new life in place pays for a probe.


async def test_who_looks_alone_before_it_claims_asks_whoever_serves(world: PairWorld) -> None:
    await world.authority_on(world.view("coordinator"))
    node = await world.node_on(world.view("a"))
    await world.until("registered", lambda: connected(node))
    await world.kill_authority()
    world.asked.clear()
    world.peers = ["nobody:1", node.endpoint]
    view = world.view("coordinator")
    await world.authority_on(view)
    assert view.pair.passed
    assert world.asked == [m.Meet, m.MeetEnd]


async def test_a_part_that_serves_nobody_is_no_second_party(world: PairWorld) -> None:
    """Or one that was refused would keep everybody from serving."""
    await world.authority_on(world.view("coordinator"))
    copy = copy_of(world.root, "copy")
    node = await world.node_on(world.view("a", copy))
    await world.until("refused", lambda: "root_refused" in facts(node))
    await world.kill_authority()
    world.peers = [node.endpoint]
    view = world.view("coordinator")
    await world.authority_on(view)
    assert world.asked
    assert not view.pair.passed


async def test_with_nobody_to_ask_the_first_one_claims(world: PairWorld) -> None:
    world.peers = ["nobody:1"]
    view = world.view("coordinator")
    await world.authority_on(view)
    assert not view.pair.passed


async def test_a_part_of_another_volume_is_no_second_party(world: PairWorld) -> None:
    stranger = world.view("a")
    stranger.pair._volume = b"w" * 16
    stranger.pair.passes()
    node = await world.node_on(stranger)
    world.peers = [node.endpoint]
    view = world.view("coordinator")
    await world.authority_on(view)
    assert not view.pair.refusal


async def test_a_full_disk_lets_parts_join(small_disk: Path) -> None:
    world = PairWorld(small_disk)
    try:
        owner, joiner = world.view("coordinator"), world.view("a")
        await world.authority_on(owner)
        claim = Claim("node-x", Epoch(1), Incarnation(b"x" * 16), b"n" * 16, "x:1")
        assert await joiner.fenced.try_claim(claim) is None
        fill(small_disk)
        theirs = LocalSharedRoot(owner.store, world.blocking)
        ours = LocalSharedRoot(joiner.store, world.blocking)
        await theirs.make("serves", "volume", 1)
        await ours.make("joins", "node-x", 1)
        assert not await ours.absent("serves")
        assert not await theirs.absent("joins")
    finally:
        await world.close()


# Folders that only seem to be one ---------------------------------------------------------------


async def refused_node(world: PairWorld, view: View) -> str:
    """Why a node on ``view`` is refused; it holds nothing then, and clients are told."""
    node = await world.node_on(view)
    await world.until("refused", lambda: "root_refused" in facts(node))
    assert not connected(node)
    assert node.node is not None
    assert node.node.link.registrations == 0
    why = facts(node)["root_refused"]
    assert "BACKEND_REFUSED" in why
    assert str(view.store.root) in why or str(world.root) in why
    assert "mount the same file system for both" in why
    return why


async def test_a_node_on_a_copy_of_the_folder_is_refused_by_device_and_inode(
    world: PairWorld,
) -> None:
    await world.authority_on(world.view("coordinator"))
    copy = copy_of(world.root, "copy")
    why = await refused_node(world, world.view("a", copy))
    assert "inode" in why
    assert str(copy) in why
    assert str(world.root) in why


async def test_a_node_on_a_copy_on_another_host_is_refused_by_the_names(world: PairWorld) -> None:
    await world.authority_on(world.view("coordinator"))
    copy = copy_of(world.root, "copy")
    why = await refused_node(world, world.view("a", copy, OtherHost()))
    assert "is not there" in why


async def test_a_node_that_keeps_absent_names_in_a_cache_is_refused(world: PairWorld) -> None:
    await world.authority_on(world.view("coordinator"))
    why = await refused_node(world, world.view("a", calls=CachedAbsence()))
    assert "is not there" in why


async def test_an_authority_that_keeps_absent_names_in_a_cache_gets_no_node(
    world: PairWorld,
) -> None:
    await world.authority_on(world.view("coordinator", calls=CachedAbsence()))
    why = await refused_node(world, world.view("a"))
    assert "coordinator does not see a name" in why


async def test_a_node_on_a_private_overlay_of_the_served_folder_is_refused(
    world: PairWorld,
) -> None:
    await world.authority_on(world.view("coordinator"))
    with overlay(world.root, "a") as merged:
        why = await refused_node(world, world.view("a", merged, OtherHost()))
        assert "does not see a name" in why or "is not there" in why
        await world.kill_node("a")
        assert "inode" in await refused_node(world, world.view("a", merged))
        await world.kill_node("a")


async def test_two_overlays_of_one_folder_both_win_a_claim_and_the_probe_tells(
    world: PairWorld,
) -> None:
    await world.authority_on(world.view("coordinator"))
    with overlay(world.root, "a") as one, overlay(world.root, "b") as other:
        views = [world.view(name, root, OtherHost()) for name, root in (("a", one), ("b", other))]
        claim = Claim("node-x", Epoch(1), Incarnation(b"x" * 16), b"n" * 16, "x:1")
        won = [await view.fenced.try_claim(claim) for view in views]
        assert won == [None, None]  # The same one twice: nothing of R3 holds here.
        node = await world.node_on(views[0])
        await world.until("refused", lambda: "root_refused" in facts(node))
        part = await world.authority_on(views[1], "resume-key", wait=False)
        await world.until("refused", lambda: "root_refused" in facts(part))
        assert part.active is None
        await world.kill_authority("resume-key")
        await world.kill_node("a")


async def test_a_follower_on_a_copy_never_follows_and_never_claims(world: PairWorld) -> None:
    await world.authority_on(world.view("coordinator"))
    copy = copy_of(world.root, "copy")
    view = world.view("resume-key", copy)
    part = await world.authority_on(view, "resume-key", wait=False)
    await world.until("refused", lambda: "root_refused" in facts(part))
    assert not part.follower_in_step
    assert await view.fenced.read_claim("volume", 2) is None


async def test_who_is_to_claim_on_a_copy_while_a_node_of_the_original_answers_is_refused(
    world: PairWorld,
) -> None:
    await world.authority_on(world.view("coordinator"))
    node = await world.node_on(world.view("a"))
    await world.until("registered", lambda: connected(node))
    copy = copy_of(world.root, "copy")
    await world.kill_authority()
    world.peers = [node.endpoint]
    view = world.view("resume-key", copy)
    part = await world.authority_on(view, "resume-key", wait=False)
    await world.until("refused", lambda: "root_refused" in facts(part))
    assert await view.fenced.read_claim("volume", 2) is None
    # The original goes on as before.
    await world.kill_authority("resume-key")
    await world.authority_on(world.view("coordinator"))
    await world.until("registered again", lambda: connected(node))


async def test_a_refused_node_joins_when_the_other_one_has_gone(world: PairWorld) -> None:
    """What was refused is looked at again: nobody has to start a process."""
    calls = CachedAbsence()
    await world.authority_on(world.view("coordinator"))
    node = await world.node_on(world.view("a", calls=calls))
    await world.until("refused", lambda: "root_refused" in facts(node))
    calls._absent = NeverFull()
    await world.until("registered", lambda: connected(node))
    assert "root_refused" not in facts(node)


class NeverFull(set[str]):
    def add(self, name: str) -> None:
        return
