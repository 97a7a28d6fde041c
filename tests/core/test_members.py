"""Who is listed: the leader's roster and the nodes' own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofs.core.members import MEMBERS_MAX, REGISTRATIONS_MAX, Member, Membership
from sofs.errors import Fenced, InvalidParameter


def member(node: int, machine: str = "", port: int = 7440) -> Member:
    return Member(f"node-{node}", machine or f"m{node}", (f"127.0.0.{node}",), port)


def names(membership: Membership) -> list[str] | None:
    listed = membership.listed()
    return None if listed is None else [m.node for m in listed]


def test_before_the_first_roster_nothing_is_known_whoever_registers() -> None:
    known = Membership()
    assert known.register(member(1)) is False
    assert known.listed() is None
    known.set_members(1, 1, [member(1)])
    assert names(known) == ["node-1"]


def test_who_was_there_before_this_part_is_listed_without_registering() -> None:
    known = Membership()
    known.set_members(1, 7, [member(1), member(2)])
    assert known.listed() == [member(1), member(2)]


def test_who_joins_is_listed_when_it_registers_and_stays_listed_when_it_dies() -> None:
    known = Membership()
    known.set_members(1, 1, [member(1)])
    known.set_members(1, 2, [member(1), member(2)])
    assert names(known) == ["node-1"]
    assert known.register(member(2)) is True
    assert names(known) == ["node-1", "node-2"]
    known.set_members(2, 1, [member(1), member(2)])  # It says nothing any more, and belongs.
    assert names(known) == ["node-1", "node-2"]


def test_who_is_evicted_is_not_listed_however_often_it_registers() -> None:
    known = Membership()
    known.set_members(1, 1, [member(1), member(2)])
    known.register(member(2))
    known.set_members(1, 2, [member(1)])
    assert names(known) == ["node-1"]
    assert known.register(member(2)) is False
    assert names(known) == ["node-1"]


def test_the_next_machine_of_a_place_is_listed_and_the_former_one_is_not() -> None:
    known = Membership()
    known.set_members(1, 1, [member(1), member(2, "old")])
    known.register(member(2, "old", port=1))
    known.set_members(1, 2, [member(1), member(2, "new")])
    assert known.register(member(2, "old", port=1)) is False
    assert names(known) == ["node-1"]
    assert known.register(member(2, "new", port=2)) is True
    listed = known.listed()
    assert listed is not None
    assert [m.port for m in listed] == [7440, 2]


def test_who_was_evicted_and_belongs_again_registers_again() -> None:
    known = Membership()
    known.set_members(1, 1, [member(1), member(2)])
    known.register(member(2))
    known.set_members(1, 2, [member(1)])
    known.set_members(1, 3, [member(1), member(2)])
    assert names(known) == ["node-1"]
    known.register(member(2))
    assert names(known) == ["node-1", "node-2"]


def test_a_new_address_replaces_the_old_one() -> None:
    known = Membership()
    known.set_members(1, 1, [member(1)])
    known.register(Member("Node-1", "m1", ("2001:DB8::1", "127.0.0.9"), 99))
    assert known.listed() == [Member("node-1", "m1", ("2001:db8::1", "127.0.0.9"), 99)]


@pytest.mark.parametrize("older", [(1, 9), (2, 4)])
def test_an_older_roster_is_refused_and_changes_nothing(older: tuple[int, int]) -> None:
    known = Membership()
    known.set_members(2, 5, [member(1)])
    with pytest.raises(Fenced):
        known.set_members(*older, [member(1), member(2)])
    known.set_members(2, 5, [member(1)])
    assert names(known) == ["node-1"]


@pytest.mark.parametrize(
    "wrong",
    [
        Member("", "m", ("127.0.0.1",), 1),
        Member("a.b", "m", ("127.0.0.1",), 1),
        Member("ns1", "m", ("127.0.0.1",), 1),
        Member("ns2", "m", ("127.0.0.1",), 1),
        Member("x" * 64, "m", ("127.0.0.1",), 1),
        Member("n", "m" * 129, ("127.0.0.1",), 1),
        Member("n", "m", (), 1),
        Member("n", "m", tuple(f"127.0.0.{i}" for i in range(9)), 1),
        Member("n", "m", ("127.0.0.1",), 0),
        Member("n", "m", ("127.0.0.1",), 65536),
        Member("n", "m", ("localhost",), 1),
        Member("n", "m", ("127.0.0.1:80",), 1),
        Member("n", "m", ("0.0.0.0",), 1),
        Member("n", "m", ("224.0.0.1",), 1),
        Member("n", "m", ("fe80::1",), 1),
        Member("n", "m", ("fe80::1%eth0",), 1),
    ],
)
def test_what_cannot_stand_in_a_zone_is_refused(wrong: Member) -> None:
    known = Membership()
    known.set_members(1, 1, [member(1)])
    with pytest.raises(InvalidParameter):
        known.register(wrong)
    with pytest.raises(InvalidParameter):
        known.set_members(1, 2, [member(1), wrong])
    assert (known.version, names(known)) == (1, ["node-1"])


def test_a_roster_beyond_its_limit_or_with_a_name_twice_is_refused() -> None:
    known = Membership()
    with pytest.raises(InvalidParameter):
        known.set_members(1, 1, [member(i) for i in range(1, MEMBERS_MAX + 2)])
    with pytest.raises(InvalidParameter):
        known.set_members(1, 1, [member(1, "a"), member(1, "b")])
    assert known.listed() is None


def test_strangers_without_number_push_out_only_each_other() -> None:
    known = Membership()
    known.set_members(1, 1, [member(1), member(2)])
    known.register(member(1, port=11))
    for i in range(2 * REGISTRATIONS_MAX):
        known.register(Member(f"stranger-{i}", "", ("127.0.0.1",), 1))
    assert len(known._registered) == REGISTRATIONS_MAX
    listed = known.listed()
    assert listed is not None
    assert listed[0].port == 11
    assert len(known.strangers()) == REGISTRATIONS_MAX - 1


NODES = st.integers(1, 4)
MACHINES = st.sampled_from(["a", "b"])
STEPS = st.one_of(
    st.tuples(st.just("register"), NODES, MACHINES),
    st.tuples(st.just("roster"), st.dictionaries(NODES, MACHINES), st.integers(-1, 2)),
)


@given(st.lists(STEPS, max_size=40))
def test_nobody_is_listed_whom_the_newest_roster_does_not_name(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    known = Membership()
    newest: tuple[int, dict[int, str]] | None = None
    for step in steps:
        if step[0] == "register":
            known.register(member(step[1], step[2]))
        else:
            version = (newest[0] if newest else 0) + step[2]
            roster = [member(n, m) for n, m in sorted(step[1].items())]
            try:
                known.set_members(1, version, roster)
                newest = (version, step[1])
            except Fenced:
                assert newest is not None
                assert version < newest[0]
        listed = known.listed()
        assert (listed is None) == (newest is None)
        for found in listed or []:
            assert newest is not None
            assert newest[1][int(found.node[-1])] == found.machine
