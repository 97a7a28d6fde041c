"""The DNS part over an in-process network: real time, a wire that the test asks by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sofs.core import messages as m
from sofs.core.members import Member
from sofs.core.spans import RingView, assemble
from sofs.core.zone import Code, Kind, Question, Reply, parse_name
from sofs.errors import Fenced, InvalidParameter, NotSupported, StoreFailed, Unavailable
from sofs.ports.dns import Answerer, DnsListener
from sofs.ports.stream import Envelope
from sofs.ports.trace import NO_RECORDER, Recorder
from sofs.services.channel import Channel, expect, open_channel
from sofs.services.dns import registrar as registrar_module
from sofs.services.dns.part import DnsConfig, DnsPart
from sofs.services.dns.registrar import Registrar, Registrars
from sofs.services.tasks import Tasks
from sofs.sim.local_transport import LocalHub
from sofs.storage import SystemClock, SystemEntropy
from sofs.telemetry.ring import open_ring, read_rings

NAME = "files.example.org"
HOME = "10.0.0.9:7000"
APEX = parse_name(NAME)


class NoSockets:
    """``DnsWire`` without sockets; the test calls the answerer itself."""

    taken = False

    def __init__(self) -> None:
        self.open = 0

    async def listen(
        self, address: str, answerer: Answerer, on_crash: Callable[[BaseException], None]
    ) -> DnsListener:
        if self.taken:
            raise Unavailable(f"{address} is taken")
        self.open += 1
        wire = self

        class Open:
            address = "10.0.0.9:53"

            def counters(self) -> dict[str, int]:
                return {"queries": 0}

            async def close(self) -> None:
                wire.open -= 1

        return Open()


class Net:
    """One DNS part at a time, and whoever registers with it."""

    def __init__(self) -> None:
        self.hub = LocalHub()
        self.clock = SystemClock()
        self.crashes: list[BaseException] = []
        self.channels: list[Channel] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.wire = NoSockets()
        self.claimed = 1
        self.store_error: Exception | None = None
        self.part: DnsPart | None = None

    async def leader_epoch(self) -> int:
        if self.store_error is not None:
            raise self.store_error
        return self.claimed

    async def start(
        self, members: list[Member] | None = None, recorder: Recorder = NO_RECORDER
    ) -> DnsPart:
        self.part = DnsPart(
            clock=self.clock,
            entropy=SystemEntropy(),
            transport=self.hub.transport(),
            wire=self.wire,
            config=DnsConfig("dns", NAME, "10.0.0.9:53", members=members),
            leader_epoch=self.leader_epoch,
            on_exit=self.crashes.append,
            recorder=recorder,
        )
        await self.part.start(HOME)
        return self.part

    async def kill(self) -> None:
        assert self.part is not None
        self.hub.thaw(HOME)
        self.hub.cut(HOME)
        await self.part.close()
        self.part = None

    async def channel(self, service: str = "dns") -> Channel:
        def on_message(channel: Channel, envelope: Envelope) -> None:
            raise NotSupported("the DNS part asks nothing")

        channel = await open_channel(
            self.hub.transport(),
            self.clock,
            HOME,
            service,
            m.Hello(),
            on_message,
            name="test",
            on_crash=self.crashes.append,
            timeout_ms=1000,
        )
        self.channels.append(channel)
        return channel

    def registrar(self, current: Callable[[], m.Message | None]) -> Registrar:
        made = Registrar(
            self.clock, self.hub.transport(), HOME, "test", current, self.crashes.append
        )
        self.tasks.append(asyncio.get_running_loop().create_task(made.run()))
        return made

    def ask(self, kind: Kind = Kind.A, *labels: bytes) -> Reply:
        assert self.part is not None
        return self.part.answer(Question((*labels, *APEX), kind))

    def hosts(self) -> list[str]:
        return [record.data for record in self.ask().answers]


@asynccontextmanager
async def net_of(members: list[Member] | None = None) -> AsyncIterator[Net]:
    net = Net()
    await net.start(members)
    try:
        yield net
    finally:
        for task in net.tasks:
            task.cancel()
        await asyncio.gather(*net.tasks, return_exceptions=True)
        for channel in net.channels:
            await channel.close()
        if net.part is not None:
            await net.kill()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert not net.crashes, net.crashes
    assert not net.hub.crashes, net.hub.crashes
    assert net.wire.open == 0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # What it looks at has no events.
            await asyncio.sleep(0.005)


def told(slot: int, machine: str = "", port: int = 7440) -> m.DnsMember:
    return m.DnsMember(f"node-{slot}", machine or f"m{slot}", [f"10.0.0.{slot}"], port)


def roster(version: int, *slots: int, epoch: int = 1, name: str = NAME) -> m.SetMembers:
    return m.SetMembers(name, epoch, version, [told(slot) for slot in slots])


def node(slot: int, machine: str = "", port: int = 7440, name: str = NAME) -> m.RegisterMember:
    return m.RegisterMember(name, told(slot, machine, port))


async def test_until_the_leader_has_spoken_every_answer_is_a_failure() -> None:
    async with net_of() as net:
        channel = await net.channel()
        reply = expect(await channel.call(node(1)), m.RegisterMemberReply)
        assert reply.listed is False
        assert net.ask().code == net.ask(Kind.A, b"node-1").code == Code.SERVFAIL
        assert net.part is not None
        assert net.part.describe().state == "learning"
        expect(await channel.call(roster(1, 1, 2)), m.Done)
        assert net.hosts() == ["10.0.0.1", "10.0.0.2"]
        assert net.ask(Kind.A, b"node-3").code == Code.NXDOMAIN
        assert net.part.describe().state == "serving"


async def test_join_address_change_leave_and_return_are_seen_in_the_zone() -> None:
    async with net_of() as net:
        leader, second = await net.channel(), await net.channel()
        await leader.call(roster(1, 1))
        await leader.call(roster(2, 1, 2))
        assert net.hosts() == ["10.0.0.1"]
        assert expect(await second.call(node(2)), m.RegisterMemberReply).listed
        assert net.hosts() == ["10.0.0.1", "10.0.0.2"]
        moved = node(2)
        moved.member.hosts = ["10.9.9.9", "fd00::2"]
        await second.call(moved)
        assert net.hosts() == ["10.0.0.1", "10.9.9.9"]
        assert [r.data for r in net.ask(Kind.AAAA).answers] == ["fd00::2"]
        await leader.call(roster(3, 1))
        assert net.hosts() == ["10.0.0.1"]
        assert not expect(await second.call(node(2)), m.RegisterMemberReply).listed
        assert net.hosts() == ["10.0.0.1"]


async def test_a_node_whose_stream_ended_stays_listed() -> None:
    async with net_of() as net:
        leader, channel = await net.channel(), await net.channel()
        await leader.call(roster(1, 1, 2))
        await channel.call(node(2, port=99))
        await channel.close()
        await leader.close()
        await until(lambda: net.part is not None and not net.part._channels)
        assert net.hosts() == ["10.0.0.1", "10.0.0.2"]


async def test_a_leader_that_was_superseded_brings_nobody_back() -> None:
    async with net_of() as net:
        channel = await net.channel()
        net.claimed = 2
        with pytest.raises(Fenced):
            await channel.call(roster(9, 1, 2, epoch=1))
        assert net.ask().code == Code.SERVFAIL
        await channel.call(roster(1, 1, epoch=2))
        for late in (roster(9, 1, 2, epoch=1), roster(0, 1, 2, epoch=2)):
            with pytest.raises(Fenced):
                await channel.call(late)
        assert net.hosts() == ["10.0.0.1"]
        with pytest.raises(Fenced):  # Nobody has claimed that.
            await channel.call(roster(1, 1, 2, epoch=3))


async def test_a_store_that_does_not_say_who_leads_leaves_the_zone_as_it_is() -> None:
    async with net_of() as net:
        net.store_error = StoreFailed("the disk is away")
        saying = roster(1, 1)
        made = net.registrar(lambda: saying)
        await until(lambda: "the disk is away" in made.problem)
        assert net.ask().code == Code.SERVFAIL
        net.store_error = None
        await until(lambda: bool(net.hosts()) and made.problem == "")


async def test_without_a_leader_the_configured_nodes_are_listed_from_the_start() -> None:
    configured = [Member("node-1", "", ("10.0.0.1",), 7440)]
    async with net_of(configured) as net:
        assert net.hosts() == ["10.0.0.1"]


@pytest.mark.parametrize(
    "wrong",
    [
        node(1, name="other.example.org"),
        node(1, port=0),
        m.RegisterMember(NAME),
        roster(1, 1, name=""),
        roster(1, *range(1, 66)),
        m.SetMembers(NAME, 1, 1, [told(1), told(1)]),
    ],
)
async def test_what_cannot_stand_in_the_zone_is_refused(wrong: m.Message) -> None:
    async with net_of() as net:
        channel = await net.channel()
        with pytest.raises(InvalidParameter):
            await channel.call(wrong)
        assert net.ask().code == Code.SERVFAIL


async def test_other_services_greet_and_tell_but_take_no_registration() -> None:
    async with net_of() as net:
        channel = await net.channel("cluster")
        for refused in (node(1), roster(1, 1), m.Open()):
            with pytest.raises(NotSupported):
                await channel.call(refused)
        state = expect(await channel.call(m.PartState()), m.PartStateReply)
        assert (state.part, state.state) == ("dns", "learning")
        await (await net.channel()).call(roster(4, 1, 2))
        await (await net.channel()).call(node(7))
        found = expect(await channel.call(m.ListMembers()), m.MemberList)
        assert (found.learned, found.epoch, found.version) == (True, 1, 4)
        told_of = [(x.node, x.registered, x.listed) for x in found.members]
        assert told_of == [
            ("node-1", False, True),
            ("node-2", False, True),
            ("node-7", True, False),
        ]


async def test_a_port_that_is_taken_fails_the_start_and_leaves_nothing_open() -> None:
    net = Net()
    net.wire.taken = True
    with pytest.raises(Unavailable, match="taken"):
        await net.start()
    net.wire.taken = False

    async def accept(service: str, stream: object) -> None: ...

    net.hub.listen(HOME, accept)
    with pytest.raises(Unavailable, match="not be found"):
        await net.start()
    assert net.wire.open == 0


# Registrars --------------------------------------------------------------------------------------


async def test_a_part_that_starts_again_learns_all_from_the_registrars() -> None:
    async with net_of() as net:
        net.registrar(lambda: roster(1, 1, 2))
        net.registrar(lambda: node(2, port=99))
        await until(lambda: len(net.hosts()) == 2)
        for _ in range(3):
            await net.kill()
            await net.start()
            assert net.ask().code == Code.SERVFAIL
            await until(lambda: any(" 99 " in r.data for r in _srv(net)))
            assert len(net.hosts()) == 2


@pytest.mark.parametrize("there", [False, True])
async def test_a_part_that_is_dead_or_deaf_delays_nothing_of_what_the_other_is_told(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Whoever waited for the first would be late by its limit, which is longer than the test."""
    monkeypatch.setattr(registrar_module, "ANSWER_MS_MAX", 600_000)
    async with net_of() as net:
        deaf: list[str] = []
        over = asyncio.Event()

        async def hang(service: str, stream: object) -> None:
            deaf.append(service)
            await over.wait()

        if there:
            net.hub.listen("10.0.0.8:7000", hang)
        saying = [roster(1, 1)]
        tasks = Tasks("test", net.crashes.append)
        both = Registrars(
            net.clock,
            net.hub.transport(),
            ["10.0.0.8:7000", HOME],
            "test",
            lambda: saying[0],
            net.crashes.append,
        )
        both.start(tasks)
        await until(lambda: net.hosts() == ["10.0.0.1"])
        saying[0] = roster(2, 1, 2)
        await until(lambda: net.part is not None and net.part.membership.version == 2)
        await until(lambda: both.heard().endswith("; told 2"))
        assert bool(deaf) == there
        assert ("10.0.0.8:7000 is away" in both.heard()) != there
        over.set()
        net.hub.cut("10.0.0.8:7000")
        await tasks.close()


def _srv(net: Net) -> tuple[m.Message, ...]:
    return net.ask(Kind.SRV, b"_sofs", b"_tcp").answers  # type: ignore[return-value]


async def test_what_changes_is_said_at_once_and_what_does_not_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registrar_module, "LOOK_MS", 5)
    async with net_of() as net:
        saying: list[m.Message | None] = [None]
        looks = 0

        def say() -> m.Message | None:
            nonlocal looks
            looks += 1
            return saying[0]

        made = net.registrar(say)
        await until(lambda: net.part is not None and net.part._channels)
        saying[0] = roster(1, 1)
        await until(lambda: net.hosts() == ["10.0.0.1"])
        saying[0] = roster(2, 1, 2)
        await asyncio.sleep(0)
        await until(lambda: net.part is not None and net.part.membership.version == 2)
        await until(lambda: made.said == 2)
        before = looks
        await until(lambda: looks > before + 3)
        assert made.said == 2


async def test_it_is_said_again_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrar_module, "REPEAT_MS", 20)
    monkeypatch.setattr(registrar_module, "LOOK_MS", 5)
    async with net_of() as net:
        made = net.registrar(lambda: roster(1, 1))
        await until(lambda: made.said >= 3)


async def test_a_frozen_part_is_left_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrar_module, "ANSWER_MS_MAX", 100)
    async with net_of() as net:
        saying = [roster(1, 1)]
        made = net.registrar(lambda: saying[0])
        await until(net.hosts)
        net.hub.freeze(HOME)
        saying[0] = roster(2, 1, 2)
        await until(lambda: made.problem)
        net.hub.thaw(HOME)
        await until(lambda: net.part is not None and net.part.membership.version == 2)
        await until(lambda: made.problem == "")


async def test_a_registration_that_is_refused_ends_neither_the_stream_nor_the_registrar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registrar_module, "REFUSED_MS", 20)
    async with net_of() as net:
        saying: list[m.Message] = [node(1, port=0)]
        made = net.registrar(lambda: saying[0])
        await until(lambda: "port 0" in made.problem)
        saying[0] = roster(1, 1)
        await until(net.hosts)
        assert net.part is not None
        assert len(net.part._channels) == 1


async def test_questions_and_who_belongs_are_in_the_ring(tmp_path: Path) -> None:
    net = Net()
    recorder = open_ring(tmp_path, "dns", "dns", 1)
    await net.start(recorder=recorder)
    channel = await net.channel()
    net.ask()  # Nobody is known yet.
    roster = m.SetMembers(NAME, 1, 1, [m.DnsMember("node-1", "m1", ["10.0.0.1"], 7000)])
    await channel.call(roster)
    await channel.call(m.RegisterMember(NAME, m.DnsMember("node-1", "m1", ["10.0.0.1"], 7000)))
    net.ask()
    await channel.close()
    await net.kill()
    recorder.close()
    spans = assemble(RingView(found.contents, True) for found in read_rings(tmp_path))
    assert [(s.kind.name, s.operation, s.status.name, s.notes) for s in spans] == [
        ("DNS", "Question", "ERROR", [f"A {NAME}", "SERVFAIL"]),
        ("DNS", "SetMembers", "OK", ["epoch 1, 1 members"]),
        ("DNS", "RegisterMember", "OK", ["node-1"]),
        ("DNS", "Question", "OK", [f"A {NAME}"]),
    ]
