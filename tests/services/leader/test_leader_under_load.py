"""Leaders die, freeze and come in two copies under a client with an open file: it notices
nothing, and shares are what was acknowledged."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import leader_world
import node_world
import pytest
from leader_world import M1, M2, FakePlatform, until

from sofs.client.aio import AsyncShare, connect
from sofs.core.messages import ChangeShare, ListShares, Message, ShareInfo, ShareList
from sofs.core.share_table import ShareEntry, ShareTable
from sofs.errors import BadNetworkName
from sofs.services.leader.ask import ask_leader
from sofs.services.leader.desk import CREATE, REMOVE
from sofs.services.leader.part import LeaderPart
from sofs.services.leader.run import LEADER_ROLE
from sofs.services.shares import ShareView

FAULTS = ("kill", "freeze", "double")


class Writer:
    """A client that writes without a pause into one file that it opened once."""

    def __init__(self, share: AsyncShare) -> None:
        self._share = share
        self.count = 0
        self._stop = False
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async with await self._share.open("/open", "w+b") as file:
            while not self._stop:
                await file.pwrite(self.count.to_bytes(8, "big"), 8 * self.count)
                self.count += 1
            data = await file.pread(8 * self.count, 0)
            assert data == b"".join(i.to_bytes(8, "big") for i in range(self.count))

    async def goes_on(self) -> None:
        count = self.count
        await until(lambda: self._task.done() or self.count > count + 3)
        assert not self._task.done(), self._task.exception()

    async def finish(self) -> None:
        self._stop = True
        await self._task
        assert self._share.facts().sessions == 1  # Not one failover.


class Both:
    """A volume with two nodes, and leaders that know their addresses, on one network."""

    def __init__(self, nodes: node_world.World, leaders: leader_world.World) -> None:
        self.nodes = nodes
        self.leaders = leaders
        self.leaders.hub = nodes.hub
        self.platform = FakePlatform(M1, M2)
        self.leader: LeaderPart | None = None
        self.number = 0

    async def start(self) -> None:
        default = ShareTable(0, 0, (ShareEntry("vol", "vol"),))
        for slot, name in enumerate(("a", "b"), 1):
            self.nodes.views[name] = ShareView(self.nodes.clock, self.leaders.fenced, default)
            part = await self.nodes.node(name)
            self.platform.addresses[f"node-{slot}"] = part.endpoint
        await self.lead()
        await until(lambda: "node-2" in self.platform.running)

    async def lead(self) -> LeaderPart:
        leader = await self.leaders.leader(self.platform, wanted_nodes=2, volumes=("vol",))
        await until(lambda: leader.state == "leading")
        self.leader = leader
        return leader

    async def ask(self, body: Message) -> ShareList:
        claim = await self.leaders.fenced.highest_claim(LEADER_ROLE)
        assert claim is not None
        return await ask_leader(
            self.nodes.clock, self.nodes.hub.transport(), claim, body, ShareList, 10_000
        )

    async def change(self, action: int, name: str) -> ShareList:
        token = self.nodes.entropy.token(16)
        return await self.ask(ChangeShare(token, action, ShareInfo(name, "vol", False, True)))

    async def fault(self, kind: str) -> None:
        """Have another leader lead, while the one before is dead, frozen, or awake again."""
        old = self.leader
        assert old is not None
        hub = self.nodes.hub
        if kind == "kill":
            hub.cut(old.address)
            await old.close()
        else:
            hub.freeze(old.address)
        await self.lead()
        if kind == "double":
            hub.thaw(old.address)
            await until(lambda: old.state == "standby")

    async def served(self, name: str, node: str) -> bool:
        where = self.nodes.nodes[node].endpoint

        async def resolve() -> list[str]:
            return [where]

        try:
            async with connect(
                f"sofs://any/{name}", resolver=resolve, transport=self.nodes.hub.transport(),
                witness=False, warm=False,
            ):  # fmt: skip
                return True
        except BadNetworkName:
            return False


@pytest.mark.parametrize("seed", [1, 2])
async def test_leaders_die_freeze_and_double_and_no_open_file_notices(
    tmp_path: Path, seed: int
) -> None:
    print(f"seed {seed}")
    draw = random.Random(seed)
    (tmp_path / "volume").mkdir()
    async with (
        leader_world.world(tmp_path / "root") as leaders,
        node_world.world(tmp_path / "volume") as nodes,
    ):
        both = Both(nodes, leaders)
        await both.start()

        async def resolve() -> list[str]:
            return [nodes.nodes[name].endpoint for name in ("a", "b")]

        async with connect(
            "sofs://any/vol", resolver=resolve, transport=nodes.hub.transport(), witness=False
        ) as share:
            writer = Writer(share)
            there: dict[str, bool] = {}
            for kind in draw.sample(FAULTS * 2, 6):
                name = f"s{draw.randrange(2)}"
                await both.change(REMOVE if there.get(name) else CREATE, name)
                there[name] = not there.get(name)
                await both.fault(kind)
                await writer.goes_on()
                for node in ("a", "b"):
                    assert await both.served(name, node) == there[name]
            await writer.finish()
        listed = await both.ask(ListShares())
        wanted = sorted([*(name for name, is_there in there.items() if is_there), "vol"])
        assert [s.name for s in listed.shares] == wanted
        assert both.platform.removed == []
        for leader in leaders.leaders:
            await leader.close()


async def test_a_change_is_answered_when_every_node_goes_by_it(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    async with (
        leader_world.world(tmp_path / "root") as leaders,
        node_world.world(tmp_path / "volume") as nodes,
    ):
        both = Both(nodes, leaders)
        await both.start()
        for number in range(3):
            made = await both.change(CREATE, f"s{number}")
            assert made.reached == ["node-1", "node-2"]
            for view in nodes.views.values():
                assert view.table.order == (made.epoch, made.version)
            gone = await both.change(REMOVE, f"s{number}")
            assert not any([await both.served(f"s{number}", node) for node in ("a", "b")])
            assert gone.reached == ["node-1", "node-2"]
        for leader in leaders.leaders:
            await leader.close()
