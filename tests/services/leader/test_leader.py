"""The leader over a real store, with a platform and a network that the tests hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from leader_world import (
    ALL,
    M1,
    M2,
    M3,
    M4,
    RUN_A,
    RUN_B,
    FakePlatform,
    World,
    until,
    world,
)

from sofs.constants import PROTOCOL_VERSION
from sofs.core.messages import Done, HelloReply, SetMembers
from sofs.errors import Unavailable
from sofs.ports.stream import Envelope, Stream
from sofs.services.channel import Channel
from sofs.services.leader import reign as reign_module
from sofs.services.leader.ask import answers, cluster_status, part_state
from sofs.services.leader.run import LEADER_ROLE, superseded


async def test_every_wanted_part_is_created_where_it_was_recorded(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        leader = await w.leader(platform, node_port=7000, witness_port=7001)
        await until(lambda: set(platform.running) == ALL)
        assert leader.reign is not None
        recorded = {part.name: part.machine for part in leader.reign.state.parts()}
        assert recorded == {name: order.machine for name, order in platform.running.items()}
        node = platform.running["node-2"]
        assert (node.machine, node.address) == (M2.id, "127.0.0.12:7000")
        assert node.access_point == ("127.0.0.11:7000", "127.0.0.12:7000", "127.0.0.13:7000")
        assert node.witnesses == ("127.0.0.11:7001", "127.0.0.12:7001", "127.0.0.13:7001")


async def test_a_leader_that_starts_again_adopts_what_runs_and_creates_nothing(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        first = await w.leader(platform)
        await until(lambda: set(platform.running) == ALL)
        assert first.reign is not None
        slots = first.reign.state.slots()
        await first.close()
        created = list(platform.created)
        second = await w.leader(platform)
        await until(lambda: second.reign is not None and second.reign.rounds > 2)
        assert second.reign is not None
        assert second.reign.state.slots() == slots
        assert platform.created == created
        assert platform.removed == []


async def test_a_gone_machine_is_forgotten_and_the_next_gets_its_slot_and_parts(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        await w.leader(platform)
        await until(lambda: set(platform.running) == ALL)
        platform.lose(M1)  # The coordinator was there.
        await until(lambda: "coordinator" in platform.running)
        assert platform.running["coordinator"].machine == M3.id
        assert "node-1" not in platform.running
        platform.alive.append(M4)
        await until(lambda: set(platform.running) == ALL)
        assert platform.running["node-1"].machine == M4.id
        assert platform.running["node-1"].address.startswith("127.0.0.11:")


async def test_nothing_is_forgotten_while_the_platform_does_not_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        leader = await w.leader(platform)
        await until(lambda: set(platform.running) == ALL)
        platform.broken = Unavailable("the head is dead")
        assert leader.reign is not None
        reign = leader.reign
        await until(lambda: "the head is dead" in reign.problem)
        assert len(reign.state.slots()) == 3
        assert any("the head is dead" in fact for fact in leader.describe().facts)
        platform.broken = None
        await until(lambda: reign.problem == "")
        assert platform.removed == []


async def test_a_part_that_does_not_appear_is_ordered_again_but_not_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reign_module, "CREATE_AGAIN_MS", 200)
    async with world(tmp_path) as w:
        platform = FakePlatform(M1)
        platform.deaf = True
        leader = await w.leader(platform, wanted_nodes=1)
        await until(lambda: platform.created.count("node-1") >= 2)
        assert leader.reign is not None
        assert platform.created.count("node-1") <= leader.reign.rounds
        platform.deaf = False
        await until(lambda: "node-1" in platform.running)


async def test_a_run_that_finds_another_runs_leader_answering_ends_for_good(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await w.leader(FakePlatform(M1, M2, M3))
        await until(lambda: first.state == "leading")
        platform = FakePlatform(M1, M2, M3)
        second = await w.leader(platform, RUN_B, base_epoch=1)
        await until(lambda: second.state == "refused")
        assert len(w.over) == 1
        assert platform.created == []
        assert first.state == "leading"


async def test_with_take_over_it_claims_and_the_old_run_ends_and_never_claims_again(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        first = await w.leader(FakePlatform(M1, M2, M3), take_over=True)
        await until(lambda: first.state == "leading")
        second = await w.leader(FakePlatform(M2, M3), RUN_B, base_epoch=1, take_over=True)
        await until(lambda: first.state == "superseded" and second.state == "leading")
        owner = await superseded(w.fenced, RUN_A)
        assert owner is not None
        assert owner.run_id == RUN_B
        assert await superseded(w.fenced, RUN_B) is None
        await second.close()  # Nobody answers now, and still the old run may not claim.
        again = await w.leader(FakePlatform(M1), RUN_A, take_over=True)
        await until(lambda: again.state == "superseded")
        claim = await w.fenced.highest_claim(LEADER_ROLE)
        assert claim is not None
        assert claim.run_id == RUN_B


async def test_a_run_claims_when_the_other_runs_leader_does_not_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await w.leader(FakePlatform(M1, M2, M3))
        await until(lambda: first.state == "leading")
        await first.close()
        second = await w.leader(FakePlatform(M4), RUN_B, base_epoch=1)
        await until(lambda: second.state == "leading")
        assert w.over == []


async def test_a_frozen_leader_is_no_answer_and_finds_out_when_it_thaws(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await w.leader(FakePlatform(M1, M2, M3))
        await until(lambda: first.state == "leading")
        w.hub.freeze(first.address)
        second = await w.leader(FakePlatform(M1), RUN_B, base_epoch=1)
        await until(lambda: second.state == "leading")
        w.hub.thaw(first.address)
        await until(lambda: first.state == "superseded")


async def test_a_second_leader_of_the_same_run_stands_by_until_the_first_is_gone(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        first = await w.leader(platform)
        await until(lambda: first.state == "leading")
        second = await w.leader(platform)
        await until(lambda: second.state == "standby")
        await first.close()
        await until(lambda: second.state == "leading")


async def test_the_state_survives_many_lives_and_old_logs_go_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reign_module, "HISTORY_EPOCHS_MAX", 3)
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        slots: dict[int, str] = {}
        for life in range(9):
            leader = await w.leader(platform)
            await until(lambda leader=leader: leader.state == "leading")  # type: ignore[misc]
            reign = leader.reign
            assert reign is not None
            if life == 0:
                await until(lambda: set(platform.running) == ALL)
                slots = reign.state.slots()
            assert reign.state.slots() == slots
            await leader.close()
        assert platform.created == sorted(platform.created, key=platform.created.index)
        assert len(platform.created) == len(ALL)
        logs = [path for path in (tmp_path / "logs").rglob("*") if path.is_file()]
        assert len(logs) <= 5
        assert len(list((tmp_path / "checkpoints").iterdir())) == 1


async def test_status_tells_of_every_part_and_of_those_that_do_not_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        platform = FakePlatform(M1, M2, M3)
        leader = await w.leader(platform)
        await until(lambda: set(platform.running) == ALL)
        del platform.running["witness-2"]
        platform.deaf = True
        transport = w.hub.transport()
        reply = await cluster_status(w.clock, transport, leader.address)
        assert reply.run_id == RUN_A
        states = {part.name: part for part in reply.parts}
        assert set(states) == ALL | {"leader"}
        assert states["leader"].state == "leading"
        assert states["node-1"].pid == 4711
        assert states["witness-2"].state == "away"
        own = await part_state(w.clock, transport, leader.address)
        assert own.part == "leader"
        claim = await w.fenced.highest_claim(LEADER_ROLE)
        assert claim is not None
        assert await answers(w.clock, transport, claim)


class Secretary:
    """Stands for a DNS part: keeps the rosters that it is told."""

    def __init__(self, w: World, address: str) -> None:
        self.rosters: list[SetMembers] = []
        self._world = w
        w.hub.listen(address, self._accept)

    async def _accept(self, service: str, stream: Stream) -> None:
        channel = Channel(
            stream, self._world.clock, self._on_message, name=service, on_crash=self._crash
        )
        channel.start()
        try:
            await channel.ended
        finally:
            await channel.close()

    def _crash(self, error: BaseException) -> None:
        self._world.fatal.append(error)

    def _on_message(self, channel: Channel, envelope: Envelope) -> None:
        if isinstance(envelope.body, SetMembers):
            self.rosters.append(envelope.body)
            channel.reply(envelope.call, Done())
        else:
            channel.reply(envelope.call, HelloReply(PROTOCOL_VERSION, b"d" * 16, "dns"))

    def last(self) -> tuple[int, int, list[tuple[str, str]]]:
        last = self.rosters[-1] if self.rosters else SetMembers()
        return last.epoch, last.version, [(x.node, x.machine) for x in last.members]


async def test_the_dns_parts_are_told_who_holds_a_slot_and_who_lost_it(tmp_path: Path) -> None:
    dns = ("127.0.0.9:7002", "127.0.0.10:7002")  # Nobody ever listens at the first.
    async with world(tmp_path) as w:
        secretary = Secretary(w, dns[1])
        platform = FakePlatform(M1, M2, M3)
        settings = {"node_port": 7000, "dns": dns, "access_point": "a.b"}
        leader = await w.leader(platform, **settings)
        await until(lambda: set(platform.running) == ALL | {"dns-1", "dns-2"})
        orders = [platform.running[f"dns-{number}"] for number in (1, 2)]
        assert [(x.address, x.machine) for x in orders] == [(dns[0], M3.id), (dns[1], M2.id)]
        everybody = [("node-1", M1.id), ("node-2", M2.id), ("node-3", M3.id)]
        await until(lambda: secretary.last() == (1, 1, everybody))
        assert secretary.rosters[-1].access_point == "a.b"
        assert [(x.hosts, x.port) for x in secretary.rosters[-1].members][:2] == [
            (["127.0.0.11"], 7000),
            (["127.0.0.12"], 7000),
        ]
        platform.lose(M2)
        await until(lambda: secretary.last() == (1, 2, [everybody[0], everybody[2]]))
        platform.broken = Unavailable("the head is dead")  # Nobody is evicted for that.
        assert leader.reign is not None
        reign = leader.reign
        await until(lambda: reign.problem)
        platform.broken = None
        platform.alive.append(M4)
        joined = [everybody[0], ("node-2", M4.id), everybody[2]]
        await until(lambda: secretary.last() == (1, 3, joined))
        await leader.close()
        await w.leader(platform, **settings)
        await until(lambda: secretary.last() == (2, 1, joined))
        assert len(secretary.rosters) == 4
