"""Leaders that die, freeze and come in two copies, and machines that come and go."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest
from leader_world import ALL, M1, M2, M3, M4, FakePlatform, World, until, world

from sofs.core.messages import (
    ChangeMachine,
    ChangeShare,
    ListMachines,
    ListShares,
    ListVolumes,
    MachineList,
    ShareInfo,
    ShareList,
    VolumeList,
)
from sofs.core.share_table import ShareTable
from sofs.errors import SofsError, Unavailable
from sofs.ports.log import Claim
from sofs.ports.platform import PartOrder
from sofs.services.leader import reign as reign_module
from sofs.services.leader.ask import ask_leader
from sofs.services.leader.desk import CREATE, REMOVE
from sofs.services.leader.part import ELSEWHERE, LeaderPart
from sofs.services.leader.run import LEADER_ROLE
from sofs.services.shares import ShareView


async def claim_of(w: World) -> Claim:
    claim = await w.fenced.highest_claim(LEADER_ROLE)
    assert claim is not None
    return claim


async def leading(w: World, platform: FakePlatform, **settings: object) -> LeaderPart:
    leader = await w.leader(platform, **settings)  # type: ignore[arg-type]
    await until(lambda: leader.state == "leading")
    return leader


async def drain(w: World, machine: str, avoided: bool = True) -> MachineList:
    body = ChangeMachine(w.entropy.token(16), machine, avoided)
    return await ask_leader(
        w.clock, w.hub.transport(), await claim_of(w), body, MachineList, 10_000
    )


# Two copies


async def test_a_superseded_leader_finishes_at_most_the_action_it_had_begun(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        held, go = asyncio.Event(), asyncio.Event()

        async def hold(order: PartOrder) -> None:
            held.set()
            await go.wait()

        platform.before_create = hold
        first = await leading(w, platform)
        await held.wait()
        w.hub.freeze(first.address)
        platform.before_create = None
        other = FakePlatform(M1, M2, M3)
        await leading(w, other)
        await until(lambda: set(other.running) == ALL)
        go.set()
        w.hub.thaw(first.address)
        await until(lambda: first.state == "standby")
        assert len(platform.created) == 1
        assert platform.removed == []


async def test_a_part_that_a_superseded_leader_made_elsewhere_ends_up_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reign_module, "SURVEY_MS", 5)
    monkeypatch.setattr(reign_module, "SURVEY_IDLE_MS", 5)
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        await leading(w, platform)
        await until(lambda: set(platform.running) == ALL)
        order = platform.running["coordinator"]
        platform.running["coordinator"] = PartOrder(
            "coordinator", "coordinator", M3.id, order.address
        )
        await until(lambda: platform.homes().get("coordinator") == M1.id)
        assert platform.removed == ["coordinator"]


async def test_two_leaders_over_one_platform_end_nothing_that_serves(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        first = await leading(w, platform)
        await until(lambda: set(platform.running) == ALL)
        for _ in range(3):
            w.hub.freeze(first.address)
            second = await leading(w, platform)
            w.hub.thaw(first.address)
            await until(lambda first=first: first.state == "standby")  # type: ignore[misc]
            reign = second.reign
            assert reign is not None
            await until(lambda reign=reign: reign.rounds > 1)  # type: ignore[misc]
            first, second = second, first
            await second.close()
        assert sorted(platform.created) == sorted(ALL)
        assert platform.removed == []


# Machines


async def test_a_machine_that_the_platform_drains_is_left_before_it_goes(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        await leading(w, platform)
        await until(lambda: set(platform.running) == ALL)
        platform.drain(M1)
        await until(lambda: M1.id not in platform.homes().values())
        assert platform.removed == ["coordinator", "node-1", "witness-1"]
        assert platform.homes()["coordinator"] == M3.id
        platform.lose(M1)
        platform.alive.append(M4)
        await until(lambda: platform.homes().get("node-1") == M4.id)
        assert platform.removed == ["coordinator", "node-1", "witness-1"]


async def test_a_leader_leaves_its_machine_when_all_others_have_left_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(replace(M1, own=True), M2, M3)
        await leading(w, platform)
        await until(lambda: set(platform.running) == ALL)
        platform.drain(M1)
        await until(lambda: bool(w.fatal))
        assert M1.id not in platform.homes().values()
        assert "about to leave" in str(w.fatal[0])
        platform.lose(M1)
        await until(lambda: {"coordinator", "resume-key"} <= set(platform.running))
        w.fatal.clear()


async def test_when_every_machine_is_to_leave_the_leader_stays_as_the_parts_do(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(replace(M1, own=True), M2)
        leader = await leading(w, platform, wanted_nodes=2)
        await until(lambda: len(platform.running) == 6)
        for machine in (M1, M2):
            platform.drain(machine)
        assert leader.reign is not None
        rounds = leader.reign.rounds
        await until(lambda: leader.reign is not None and leader.reign.rounds > rounds + 3)
        assert not w.fatal
        assert platform.removed == []


async def test_a_machine_that_cannot_be_used_gets_nothing_and_is_told_of(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(replace(M1, elsewhere="192.0.2.7"), M2, M3)
        leader = await leading(w, platform)
        await until(lambda: {"node-2", "node-3", "coordinator"} <= set(platform.running))
        assert M1.id not in platform.homes().values()
        [told] = [fact for fact in leader.describe().facts if fact.startswith(ELSEWHERE)]
        assert told == f"{ELSEWHERE}={M1.name} (192.0.2.7)"
        assert leader.reign is not None
        assert [m.name for m in leader.reign.machines] == [M2.name, M3.name]


async def test_what_an_operator_drains_stays_drained_for_the_next_leader(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        first = await leading(w, platform)
        await until(lambda: set(platform.running) == ALL)
        assert (await drain(w, M2.name)).avoided == [M2.name]
        await first.close()
        await leading(w, platform)
        await until(lambda: M2.id not in platform.homes().values())
        listed = await ask_leader(
            w.clock, w.hub.transport(), await claim_of(w), ListMachines(), MachineList, 10_000
        )
        assert [(m.name, m.slot, m.avoided) for m in listed.machines] == [
            (M1.name, 1, False),
            (M2.name, 0, True),
            (M3.name, 3, False),
        ]
        await drain(w, M2.name, avoided=False)
        await until(lambda: platform.homes().get("node-2") == M2.id)


async def test_volumes_are_listed_with_the_machines_of_their_parts(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        leader = await leading(w, platform, volumes=("share", "archive"))
        await until(lambda: "resume-key-archive" in platform.running)
        assert platform.running["coordinator-archive"].volume == "archive"
        assert platform.running["coordinator"].volume == "share"
        assert leader.reign is not None
        listed = await ask_leader(
            w.clock, w.hub.transport(), await claim_of(w), ListVolumes(), VolumeList, 10_000
        )
        assert [(v.name, v.coordinator, v.resume_key, v.shares) for v in listed.volumes] == [
            ("share", M1.name, M2.name, ["share"]),
            ("archive", M3.name, M1.name, ["archive"]),
        ]


# A platform that does not answer


async def test_shares_are_changed_while_the_platform_is_dead(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        leader = await leading(w, platform)
        await until(lambda: set(platform.running) == ALL)
        platform.broken = Unavailable("the head is dead")
        reign = leader.reign
        assert reign is not None
        await until(lambda: "the head is dead" in reign.problem)
        body = ChangeShare(b"t" * 16, CREATE, ShareInfo("logs", "share", False, True))
        reply = await ask_leader(
            w.clock, w.hub.transport(), await claim_of(w), body, ShareList, 10_000
        )
        assert [share.name for share in reply.shares] == ["logs", "share"]
        facts = leader.describe().facts
        assert any(fact.startswith("rounds_failed=") and fact[-1] != "0" for fact in facts)


# Deaths at random


@pytest.mark.parametrize("seed", range(12))
async def test_acknowledged_changes_stay_whenever_leaders_die(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    draw = random.Random(seed)
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        wanted: dict[str, bool] = {"share": True}  # As acknowledged.
        for _ in range(6):
            leader = await leading(w, platform)
            claim = await claim_of(w)
            name = f"s{draw.randrange(4)}"
            action = REMOVE if wanted.get(name) else CREATE
            body = ChangeShare(w.entropy.token(16), action, ShareInfo(name, "share", False, True))
            asked = asyncio.ensure_future(
                ask_leader(w.clock, w.hub.transport(), claim, body, ShareList, 10_000)
            )
            for _ in range(draw.randrange(0, 60)):
                await asyncio.sleep(0)
            if draw.random() < 0.7:
                w.hub.cut(leader.address)  # Killed: nobody hears of it any more.
                await leader.close()
            try:
                await asked
            except SofsError:
                await leader.close()
                again = await leading(w, platform)
                await ask_leader(
                    w.clock, w.hub.transport(), await claim_of(w), body, ShareList, 10_000
                )
                await again.close()
            wanted[name] = action == CREATE
            await leader.close()
            published = await ShareView(w.clock, w.fenced, ShareTable()).current()
            there = sorted(name for name, is_there in wanted.items() if is_there)
            assert [share.name for share in published.shares] == there
        await leading(w, platform)
        listed = await ask_leader(
            w.clock, w.hub.transport(), await claim_of(w), ListShares(), ShareList, 10_000
        )
        assert [share.name for share in listed.shares] == there
