"""Slots and placements: pure rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sofs.ports.platform import Machine
from sofs.services.leader.plan import Placed, assign_slots, place

A, B, C, D = (Machine(letter * 4, f"machine-{i}") for i, letter in enumerate("abcd", 1))


def by_role(parts: list[Placed], role: str) -> list[str]:
    return [part.machine for part in parts if part.role == role]


def test_a_machine_gets_the_slot_of_its_number() -> None:
    assert assign_slots({}, [C, A, B], 3) == {1: A.id, 2: B.id, 3: C.id}


def test_a_machine_without_a_number_gets_the_lowest_slot_that_is_left() -> None:
    plain = Machine("zzzz")
    assert assign_slots({}, [plain, A], 2) == {1: A.id, 2: plain.id}


def test_a_slot_of_a_gone_machine_goes_to_the_next_that_joins() -> None:
    assert assign_slots({1: A.id, 2: B.id, 3: C.id}, [A, C, D], 3) == {1: A.id, 2: D.id, 3: C.id}


def test_no_more_machines_serve_than_are_wanted() -> None:
    assert assign_slots({}, [A, B, C, D], 2) == {1: A.id, 2: B.id}


def test_coordinator_and_resume_key_are_on_different_machines() -> None:
    parts = place({1: A.id, 2: B.id, 3: C.id}, [], alone=False)
    assert by_role(parts, "coordinator") == [A.id]
    assert by_role(parts, "resume-key") == [B.id]
    assert len(parts) == 8


def test_with_one_machine_the_resume_key_waits_for_a_second_unless_it_is_alone() -> None:
    assert by_role(place({1: A.id}, [], alone=False), "resume-key") == []
    assert by_role(place({1: A.id}, [], alone=True), "resume-key") == [A.id]


def test_authorities_stay_where_they_are_while_their_machine_serves() -> None:
    placed = [Placed("coordinator", "coordinator", C.id), Placed("resume-key", "resume-key", A.id)]
    parts = place({1: A.id, 2: B.id, 3: C.id}, placed, alone=False)
    assert by_role(parts, "coordinator") == [C.id]
    assert by_role(parts, "resume-key") == [A.id]


def test_a_coordinator_whose_machine_is_gone_moves_and_not_to_the_resume_keys() -> None:
    placed = [Placed("coordinator", "coordinator", A.id), Placed("resume-key", "resume-key", B.id)]
    parts = place({2: B.id, 3: C.id}, placed, alone=False)
    assert by_role(parts, "coordinator") == [C.id]
    assert by_role(parts, "resume-key") == [B.id]


def test_a_resume_key_that_shares_the_machine_moves_when_there_is_another() -> None:
    placed = [Placed("coordinator", "coordinator", A.id), Placed("resume-key", "resume-key", A.id)]
    assert by_role(place({1: A.id}, placed, alone=False), "resume-key") == [A.id]
    assert by_role(place({1: A.id, 2: B.id}, placed, alone=False), "resume-key") == [B.id]


MACHINES = st.lists(
    st.integers(0, 9).map(lambda n: Machine(f"id{n}", f"machine-{n}" if n % 2 else "")),
    unique=True,
    max_size=8,
)


@given(st.lists(MACHINES, max_size=6), st.integers(1, 5))
def test_whatever_comes_and_goes_slots_are_stable_and_parts_are_where_machines_are(
    history: list[list[Machine]], wanted: int
) -> None:
    slots: dict[int, str] = {}
    placed: list[Placed] = []
    for machines in history:
        before = slots
        slots = assign_slots(slots, machines, wanted)
        alive = {machine.id for machine in machines}
        assert set(slots.values()) <= alive
        assert len(set(slots.values())) == len(slots) == min(wanted, len(machines))
        assert all(slots[s] == m for s, m in before.items() if m in alive)
        placed = place(slots, placed, alone=False)
        assert len({part.name for part in placed}) == len(placed)
        assert {part.machine for part in placed} <= alive
        if len(slots) > 1:
            homes = by_role(placed, "coordinator") + by_role(placed, "resume-key")
            assert len(set(homes)) == 2
        assert place(slots, placed, alone=False) == placed


def test_the_dns_part_is_made_once_on_the_last_machine_and_stays_while_that_serves() -> None:
    slots = {1: A.id, 2: B.id, 3: C.id}
    assert by_role(place(slots, [], alone=False), "dns") == []
    parts = place(slots, [], alone=False, dns=True)
    assert by_role(parts, "dns") == [C.id]
    assert by_role(place({1: A.id, 3: C.id, 4: D.id}, parts, alone=False, dns=True), "dns") == [
        C.id
    ]
    assert by_role(place({1: A.id, 2: B.id}, parts, alone=False, dns=True), "dns") == [B.id]
    assert by_role(place({}, parts, alone=False, dns=True), "dns") == []
