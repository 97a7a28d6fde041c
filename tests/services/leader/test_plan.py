"""What should be and what must be done for it: pure rules, alone and played out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.ports.platform import Machine
from sofs.services.leader.plan import (
    COORDINATOR,
    NODE,
    PAIR,
    RESUME_KEY,
    WITNESS,
    Desired,
    Observed,
    Placed,
    Plan,
    part_name,
    plan,
    role_of,
    slot_of,
    volume_of,
)

A, B, C, D = (Machine(letter * 4, f"machine-{i}") for i, letter in enumerate("abcd", 1))
ONE = ("share",)


class World:
    """A platform that does what it is told, one step after the other."""

    def __init__(self, *machines: Machine, wanted: int = 3, volumes: Sequence[str] = ONE) -> None:
        self.machines = list(machines)
        self.running: dict[str, str] = {}
        self.desired = Desired(wanted, tuple(volumes))
        self.removed: list[str] = []
        self.created: list[str] = []
        self.alone = False

    def observed(self) -> Observed:
        ordered = sorted(self.machines, key=lambda machine: (machine.name, machine.id))
        return Observed(ordered, dict(self.running), self.alone)

    def step(self, slow: random.Random | None = None) -> Plan:
        """Plan, check the guards, and do it; with ``slow`` some of it is not done yet."""
        made = plan(self.desired, self.observed())
        self.check_guards(made)
        self.desired = replace(
            self.desired, slots=made.slots, parts=made.parts, leaving=made.leaving
        )
        for name in made.remove:
            if slow is None or slow.random() < 0.5:
                self.removed.append(name)
                self.running.pop(name, None)
        for part in made.create:
            if slow is None or slow.random() < 0.5:
                self.created.append(part.name)
                self.running[part.name] = part.machine
        return made

    def check_guards(self, made: Plan) -> None:
        alive = {machine.id for machine in self.machines}
        ended = [n for n in made.remove if self.running.get(n) in alive]
        left = [n for n in self.running if n not in made.remove]
        if self.desired.dns > 1 and "dns" in [role_of(name) for name in ended]:
            assert any(role_of(name) == "dns" for name in left)
        for name in ended:
            role = role_of(name)
            if role in PAIR:
                volume = volume_of(Placed(name, role, ""), self.desired.volumes)
                if volume in self.desired.volumes:
                    assert any(part_name(r, volume, self.desired.volumes) in left for r in PAIR)
            if role == NODE:
                assert any(role_of(n) == NODE for n in left)
        assert len({part.name for part in made.parts}) == len(made.parts)

    def settle(self) -> None:
        """Step until nothing is left to do."""
        for _ in range(60):
            before = self.desired
            made = self.step()
            if not made.changes(before) and not made.create and not made.remove:
                return
        pytest.fail(f"it never settles: {self.desired} {self.running}")

    def lose(self, machine: Machine) -> None:
        self.machines = [m for m in self.machines if m.id != machine.id]
        self.running = {n: m for n, m in self.running.items() if m != machine.id}

    def drain(self, machine: Machine) -> None:
        self.machines = [replace(m, draining=m.id == machine.id or m.draining)
                         for m in self.machines]  # fmt: skip

    def homes(self, role: str) -> list[str]:
        return [m for n, m in sorted(self.running.items()) if role_of(n) == role]

    def on(self, machine: Machine) -> list[str]:
        return sorted(name for name, where in self.running.items() if where == machine.id)


def settled(*machines: Machine, wanted: int = 3, volumes: Sequence[str] = ONE) -> World:
    world = World(*machines, wanted=wanted, volumes=volumes)
    world.settle()
    assert world.removed == []
    return world


# Slots


def test_a_machine_gets_the_slot_of_its_number() -> None:
    assert settled(C, A, B).desired.slots == {1: A.id, 2: B.id, 3: C.id}


def test_a_machine_without_a_number_gets_the_lowest_slot_that_is_left() -> None:
    plain = Machine("zzzz", "²")
    assert settled(plain, A, wanted=2).desired.slots == {1: A.id, 2: plain.id}


def test_a_slot_of_a_gone_machine_goes_to_the_next_that_joins() -> None:
    world = settled(A, B, C)
    world.lose(B)
    world.settle()
    assert world.desired.slots == {1: A.id, 3: C.id}
    world.machines.append(D)
    world.settle()
    assert world.desired.slots == {1: A.id, 2: D.id, 3: C.id}


def test_no_more_machines_serve_than_are_wanted() -> None:
    world = settled(A, B, C, D, wanted=2)
    assert world.desired.slots == {1: A.id, 2: B.id}
    assert world.on(C) == world.on(D) == []


# Volumes


def test_coordinator_and_resume_key_are_on_different_machines() -> None:
    world = settled(A, B, C)
    assert (world.homes(COORDINATOR), world.homes(RESUME_KEY)) == ([A.id], [B.id])
    assert len(world.running) == 8


def test_with_one_machine_the_resume_key_waits_for_a_second_unless_it_is_alone() -> None:
    world = settled(A)
    assert world.homes(RESUME_KEY) == []
    world.alone = True
    world.settle()
    assert world.homes(RESUME_KEY) == [A.id]


def test_a_coordinator_whose_machine_is_gone_moves_and_not_to_the_resume_keys() -> None:
    world = settled(A, B, C)
    world.lose(A)
    world.settle()
    assert (world.homes(COORDINATOR), world.homes(RESUME_KEY)) == ([C.id], [B.id])
    assert world.removed == []


def test_a_resume_key_that_shares_the_machine_moves_when_there_is_another() -> None:
    world = World(A, wanted=2)
    world.alone = True
    world.settle()
    world.machines.append(B)
    world.settle()
    assert (world.homes(COORDINATOR), world.homes(RESUME_KEY)) == ([A.id], [B.id])
    assert world.removed == ["resume-key"]


def test_authorities_stay_where_they_are_when_machines_come() -> None:
    world = settled(A, B)
    world.machines += [C, D]
    world.settle()
    assert world.removed == []


def test_parts_of_the_first_volume_have_plain_names_whatever_comes_later() -> None:
    world = settled(A, B, C, volumes=("share", "archive"))
    assert {"coordinator", "resume-key", "coordinator-archive", "resume-key-archive"} < set(
        world.running
    )
    for part in world.desired.parts:
        if part.role in PAIR:
            assert part_name(part.role, volume_of(part, world.desired.volumes),
                             world.desired.volumes) == part.name  # fmt: skip


def test_coordinators_of_many_volumes_are_spread() -> None:
    world = settled(A, B, C, volumes=[f"v{i}" for i in range(7)])
    counts = [world.homes(COORDINATOR).count(m.id) for m in (A, B, C)]
    assert sorted(counts) == [2, 2, 3]


def test_a_machine_that_joins_gets_its_share_of_coordinators_and_no_more() -> None:
    world = settled(A, B, volumes=[f"v{i}" for i in range(6)])
    world.machines.append(C)
    world.settle()
    counts = [world.homes(COORDINATOR).count(m.id) for m in (A, B, C)]
    assert sorted(counts) == [2, 2, 2]
    assert sum(role_of(name) == COORDINATOR for name in world.removed) == 2


def test_a_coordinator_moves_only_while_its_resume_key_runs() -> None:
    world = settled(A, B, C)
    world.drain(A)
    del world.running["resume-key"]
    made = plan(world.desired, world.observed())
    assert made.remove == ()
    world.settle()
    assert world.removed[0] == "coordinator"
    assert world.homes(COORDINATOR) == [C.id]


# Draining


def test_a_machine_that_is_drained_is_left_by_all_once_others_serve() -> None:
    world = settled(A, B, C)
    world.drain(A)
    world.settle()
    assert world.on(A) == []
    assert world.desired.slots == {2: B.id, 3: C.id}
    assert world.homes(COORDINATOR) == [C.id]
    assert world.removed[0] == "coordinator"  # First the authority, then the node.


def test_a_spare_machine_takes_the_slot_of_one_that_is_drained() -> None:
    world = settled(A, B, C, D)
    world.drain(B)
    world.settle()
    assert world.desired.slots == {1: A.id, 2: D.id, 3: C.id}
    assert world.on(B) == []


def test_an_avoided_machine_is_drained_and_comes_back_when_it_is_no_more() -> None:
    world = settled(A, B, C)
    world.desired = replace(world.desired, avoided=(A.name,))
    world.settle()
    assert world.on(A) == []
    world.desired = replace(world.desired, avoided=())
    world.settle()
    assert world.on(A) == ["node-1", "witness-1"]


def test_the_last_one_stays_although_it_is_to_be_left() -> None:
    world = settled(A, B)
    world.drain(A)
    world.drain(B)
    world.settle()
    assert world.removed == []
    assert len(world.running) == 6


def test_both_parts_of_a_volume_leave_machines_that_are_drained_one_after_the_other() -> None:
    world = settled(A, B, C, D, wanted=4)
    world.drain(A)
    world.drain(B)
    world.settle()
    assert world.on(A) == world.on(B) == []
    assert {world.homes(COORDINATOR)[0], world.homes(RESUME_KEY)[0]} == {C.id, D.id}


def test_a_spare_machine_comes_in_when_all_that_serve_are_drained() -> None:
    world = settled(A, B, wanted=2)
    world.drain(A)
    world.drain(B)
    world.machines += [C, D]
    world.settle()
    assert world.on(A) == world.on(B) == []
    assert len(world.running) == 6


def with_dns(world: World, count: int = 2) -> World:
    world.desired = replace(world.desired, dns=count)
    return world


def dns_homes(world: World) -> list[str]:
    return [world.running.get(f"dns-{number}", "") for number in (1, 2)]


def test_dns_parts_are_made_on_the_last_machines_and_stay_while_those_serve() -> None:
    world = with_dns(World(A, B, C))
    world.settle()
    assert dns_homes(world) == [C.id, B.id]
    world.machines.append(D)
    world.lose(A)
    world.settle()
    assert dns_homes(world) == [C.id, B.id]
    world.lose(B)
    world.settle()
    assert dns_homes(world) == [C.id, D.id], "what is gone is made again, away from the other"
    world.lose(C)
    world.lose(D)
    world.settle()
    assert world.running == {}


def test_a_drain_moves_dns_parts_one_at_a_time_and_never_both_away() -> None:
    world = with_dns(World(A, B, C, wanted=2))  # And the guards are checked at each step.
    world.settle()
    assert dns_homes(world) == [B.id, A.id]
    world.drain(B)
    world.settle()
    assert sorted(dns_homes(world)) == [A.id, C.id]


def test_the_second_dns_part_waits_for_a_second_machine_but_not_for_ever() -> None:
    world = with_dns(World(A))
    world.settle()
    assert dns_homes(world) == [A.id, ""]
    world.alone = True
    world.settle()
    assert dns_homes(world) == [A.id, A.id]
    world.alone = False
    world.machines.append(B)
    world.settle()
    assert dns_homes(world) == [A.id, B.id], "they part as soon as they can"
    world.drain(B)
    world.settle()
    assert dns_homes(world) == [A.id, A.id]
    assert world.on(B) == []


def test_the_dns_part_of_older_versions_is_ended_and_one_part_is_enough_for_one_node() -> None:
    world = with_dns(World(A, wanted=1), 1)
    world.running["dns"] = A.id
    world.settle()
    assert dns_homes(world) == [A.id, ""]
    assert world.removed == ["dns"]


@given(st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_dns_parts_settle_on_machines_of_their_own_whatever_happened(chance: random.Random) -> None:
    world = with_dns(World(A, B, C))
    for _ in range(20):
        machine = chance.choice((A, B, C, D))
        there = machine.id in [m.id for m in world.machines]
        match chance.randrange(4):
            case 0 if there and len(world.machines) > 1:
                world.lose(machine)
            case 1 if not there:
                world.machines.append(machine)
            case 2:
                world.drain(machine)
            case _:
                world.running.pop(chance.choice(("dns-1", "dns-2")), None)
        world.step(chance)
    world.desired = replace(world.desired, avoided=())
    world.machines = [A, B, C]
    world.running = {n: m for n, m in world.running.items() if m != D.id}
    world.settle()
    first, second = dns_homes(world)
    assert first != second
    assert "" not in (first, second)


# What others did


def test_a_part_that_a_superseded_leader_made_elsewhere_is_moved() -> None:
    world = settled(A, B, C)
    world.running["coordinator"] = C.id
    world.settle()
    assert world.homes(COORDINATOR) == [A.id]
    assert world.removed == ["coordinator"]


def test_a_move_that_its_leader_did_not_finish_is_finished_by_the_next() -> None:
    world = settled(A, B, C)
    world.drain(A)
    made = plan(world.desired, world.observed())
    world.desired = replace(world.desired, slots=made.slots, parts=made.parts, leaving=made.leaving)
    assert made.remove == ("coordinator",)  # And it dies here: nothing was done.
    world.settle()
    assert world.homes(COORDINATOR) == [C.id]


def test_parts_that_are_not_ours_are_left_alone() -> None:
    world = settled(A, B, C)
    world.running |= {"leader": A.id, "names": A.id, "notes": A.id}
    world.settle()
    assert world.removed == []


def test_without_volumes_no_authority_is_ended() -> None:
    world = settled(A, B, C)
    world.desired = replace(world.desired, volumes=())
    world.settle()
    assert world.removed == []


def test_names_tell_roles_and_slots() -> None:
    assert slot_of(Placed("witness-12", WITNESS, "m")) == 12
    assert slot_of(Placed("coordinator-12", COORDINATOR, "m")) == 0
    assert [role_of(n) for n in ("node-1", "resume-key-a-b", "leader", "nodes")] == [
        NODE, RESUME_KEY, "", "",
    ]  # fmt: skip


# Played out


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 6))
def test_whatever_happens_it_settles_spread_and_apart_and_never_ends_the_last(
    seed: int, wanted: int, n_volumes: int
) -> None:
    draw = random.Random(seed)
    world = World(wanted=wanted, volumes=[f"v{i}" for i in range(n_volumes)])
    joined = 0
    for _ in range(draw.randrange(1, 40)):
        match draw.choice(["join", "join", "lose", "drain", "avoid", "die", "step", "step"]):
            case "join" if len(world.machines) < 7:
                joined += 1
                number = draw.randrange(1, 9)
                world.machines.append(Machine(f"id{joined}", f"m-{number}" if number < 8 else ""))
            case "lose" if world.machines:
                world.lose(draw.choice(world.machines))
            case "drain" if world.machines:
                world.drain(draw.choice(world.machines))
            case "avoid":
                world.desired = replace(world.desired, avoided=(f"m-{draw.randrange(1, 9)}",))
            case "die" if world.running:
                del world.running[draw.choice(sorted(world.running))]
            case _:
                pass
        world.step(draw)
    world.alone = draw.random() < 0.5
    world.settle()
    check_settled(world)


def check_settled(world: World) -> None:
    desired = world.desired
    alive = {m.id: m for m in world.machines}
    usable = {m.id for m in world.machines if not m.draining and m.name not in desired.avoided}
    slots = list(desired.slots.values())
    assert len(set(slots)) == len(slots)
    if usable:
        assert len(slots) == min(desired.wanted_nodes, len(usable))
    assert bool(slots) == bool(alive)
    if len(slots) > 1:  # The only node stays where it is.
        assert set(slots) <= (usable or set(alive))
    assert world.running == {part.name: part.machine for part in desired.parts}
    if not slots:
        assert world.running == {}
        return
    counts = [world.homes(COORDINATOR).count(machine) for machine in slots]
    assert sum(counts) == len(desired.volumes)
    for volume in desired.volumes:
        homes = [world.running.get(part_name(r, volume, desired.volumes)) for r in PAIR]
        if len(slots) > 1:
            assert homes[0] != homes[1]
            assert None not in homes
    if len(slots) > 2:
        assert max(counts) - min(counts) <= 1
