"""The simulated stores: what a system call, a request and a damaged byte do to each other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine

import pytest

from sofs.errors import StoreUnknown
from sofs.ports.store import Lost, Won
from sofs.sim.disk import ROOT, SimDisk, SimOs
from sofs.sim.loop import SimLoop, simulate
from sofs.sim.network import SimNetwork
from sofs.sim.objects import TIMEOUT_US, SimObjects, SimSlotStore
from sofs.sim.traps import Trap
from sofs.sim.world import SimProcess, World
from sofs.storage import LocalAppendStore

Scenario = Callable[[World], Coroutine[None, None, None]]


def _run(seed: int, scenario: Scenario) -> SimLoop:
    loops: list[SimLoop] = []

    async def main() -> None:
        world = World(loops[0], seed)
        world.network = SimNetwork(world)
        world.interleave()
        await scenario(world)

    return simulate(seed, main(), prepare=loops.append)[1]


def _process(world: World, name: str) -> SimProcess:
    return world.process(name, world.machine(f"m-{name}"), f"10.0.0.{len(world.machines)}")


def _store(world: World, objects: SimObjects, name: str) -> tuple[SimProcess, SimSlotStore]:
    process = _process(world, name)
    return process, SimSlotStore(objects, process, ROOT)


def test_of_creates_at_the_same_time_exactly_one_wins_and_who_wins_follows_from_the_seed() -> None:
    winners: list[list[int]] = []

    async def race(world: World) -> None:
        objects = SimObjects(world, 2_000.0, 0)
        runs = []
        for n in range(4):
            process, store = _store(world, objects, f"p{n}")
            data = bytes([n]) * 16
            runs.append(process.blocking.run("", lambda s=store, d=data: s.put_if_absent("k", d)))
        outcomes = [found[0] for found in await asyncio.gather(*runs)]
        winners.append([n for n, found in enumerate(outcomes) if isinstance(found, Won)])
        assert all(
            found == Lost(bytes([winners[-1][0]]) * 16)
            for found in outcomes
            if not isinstance(found, Won)
        )

    for seed in (*range(20), *range(20)):
        _run(seed, race)
    assert all(len(found) == 1 for found in winners)
    assert winners[:20] == winners[20:]
    assert len({found[0] for found in winners}) > 1


def test_a_request_on_its_way_lands_although_its_sender_was_killed() -> None:
    """Some are killed before they send it, and most after it."""
    landed: list[bool] = []

    async def scenario(world: World) -> None:
        objects = SimObjects(world, 2_000.0, 0)
        process, store = _store(world, objects, "p")
        process.spawn(_forever(process, store))
        await asyncio.sleep(world.draw("when").random() * 0.0005)
        process.crash("killed")
        await asyncio.sleep(1)
        landed.append(bool(objects.objects))

    async def _forever(process: SimProcess, store: SimSlotStore) -> None:
        await process.blocking.run("", lambda: store.put_if_absent("k", b"n" * 16))

    for seed in range(30):
        _run(seed, scenario)
    assert any(landed)
    assert not all(landed)


def test_a_late_request_is_told_as_unknown_and_lands_afterwards() -> None:
    async def scenario(world: World) -> None:
        objects = SimObjects(world, 2_000.0, 0)
        process, store = _store(world, objects, "p")
        objects.faults.late = 1.0
        with pytest.raises(StoreUnknown):
            await process.blocking.run("", lambda: store.put_if_absent("k", b"n" * 16))
        assert world.loop.now_us >= TIMEOUT_US
        assert not objects.objects
        objects.faults.late = 0.0
        await asyncio.sleep(120)
        assert objects.objects == {f"{ROOT}/k": b"n" * 16}
        [outcome] = await process.blocking.run("", lambda: store.put_if_absent("k", b"n" * 16))
        assert outcome == Won()

    for seed in range(10):
        _run(seed, scenario)


def test_what_was_deleted_a_moment_ago_may_still_be_listed_and_what_was_created_always_is() -> None:
    listed: list[int] = []

    async def scenario(world: World) -> None:
        objects = SimObjects(world, 100.0, 1_000_000)
        process, store = _store(world, objects, "p")

        def work() -> list[str]:
            for n in range(5):
                store.put_if_absent(f"f/{n}", b"n" * 16)
            for n in range(3):
                store.delete(f"f/{n}")
            return store.list("f")

        [found] = await process.blocking.run("", work)
        assert isinstance(found, list)
        assert found[-2:] == ["f/3", "f/4"]
        listed.append(len(found))
        await asyncio.sleep(2)
        assert (await process.blocking.run("", lambda: store.list("f"))) == [["f/3", "f/4"]]

    for seed in range(20):
        _run(seed, scenario)
    assert max(listed) > 2


def test_another_process_acts_between_two_system_calls_of_one_step() -> None:
    """One step looks twice for a name: now and then somebody has made it in between."""
    raced: list[bool] = []

    async def scenario(world: World) -> None:
        disk = SimDisk(world.draw("disk"))
        first, second = (
            LocalAppendStore(ROOT, calls=SimOs(disk, process))
            for process in (_process(world, "a"), _process(world, "b"))
        )

        def look_twice() -> list[bool]:
            return [first.get("x") is None for _ in range(2)]

        a, b = world.machines[0].processes[0], world.machines[1].processes[0]
        [[looks], _] = await asyncio.gather(
            a.blocking.run("", look_twice),
            b.blocking.run("", lambda: second.put_if_absent("x", b"x" * 16)),
        )
        raced.append(looks == [True, False])

    for seed in range(100):
        _run(seed, scenario)
    assert any(raced)


def test_a_process_that_dies_in_the_middle_of_a_step_does_nothing_more() -> None:
    left: list[int] = []

    async def scenario(world: World) -> None:
        disk = SimDisk(world.draw("disk"))
        process = _process(world, "p")
        calls = SimOs(disk, process)

        def many() -> None:
            for n in range(50):
                calls.mkdir(f"{ROOT}/{n:02d}")

        process.spawn(_call(process, many))
        await asyncio.sleep(world.draw("when").random() * 0.002)
        process.crash("killed")
        done = len(disk.folders(ROOT))
        await asyncio.sleep(1)
        assert len(disk.folders(ROOT)) - done in (0, 1)  # One may have been the system's already.
        left.append(done)

    async def _call(process: SimProcess, work: Callable[[], None]) -> None:
        await process.blocking.run("", work)

    for seed in range(20):
        _run(seed, scenario)
    assert len(set(left)) > 5


def test_damage_is_read_by_all_machines_unless_somebody_holds_the_page_dirty() -> None:
    async def scenario(world: World) -> None:
        disk = SimDisk(world.draw("disk"))
        one, two = SimOs(disk, _process(world, "a")), SimOs(disk, _process(world, "b"))
        fd = one.open(f"{ROOT}/f", os.O_RDWR | os.O_CREAT)
        one.pwritev(fd, [b"a" * 8192], 0)
        assert disk.damage(f"{ROOT}/f", 0, b"zz") is None  # Nothing is on the device yet.
        one.fsync(fd)
        assert disk.damage(f"{ROOT}/f", 0, b"zz") is not None
        assert one.pread(fd, 3, 0) == b"zza"
        assert two.pread(two.open(f"{ROOT}/f", os.O_RDONLY), 3, 0) == b"zza"
        one.pwritev(fd, [b"b"], 4096)
        assert disk.damage(f"{ROOT}/f", 5000, b"z") is None

    _run(1, scenario)


def test_a_trap_at_a_request_acts_before_it_is_sent_or_when_it_lands() -> None:
    """Killed before it nothing lands; killed when it lands the object is there, and the sender
    never learns it."""
    for after in (False, True):
        landed: list[bool] = []

        async def scenario(world: World, landed: list[bool] = landed, after: bool = after) -> None:
            objects = SimObjects(world, 2_000.0, 0)
            process, store = _store(world, objects, "p")
            objects.traps.lay(
                Trap(process, "create", "/k", after, 1, lambda found, path: found.crash("killed"))
            )
            answered: list[object] = []

            async def work() -> None:
                answered.append(
                    await process.blocking.run("", lambda: store.put_if_absent("k", b"n" * 16))
                )

            process.spawn(work())
            await asyncio.sleep(1)
            assert process.dead
            assert not answered
            landed.append(bool(objects.objects))

        _run(1, scenario)
        assert landed == [after]
