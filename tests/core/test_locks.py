from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofs.core.locks import check_ranges, io_conflict, lock_conflict, ranges_overlap, unlock_index
from sofs.core.messages import HeldLock, LockRange
from sofs.errors import InvalidParameter

ME, OTHER = 1, 2


def lock(handle: int, offset: int, length: int, exclusive: bool) -> HeldLock:
    return HeldLock(handle, offset, length, exclusive)


def positions(offset: int, length: int) -> set[int]:
    """Bytes at even numbers and the gaps between them at odd ones; an empty range is a gap."""
    if length == 0:
        return {2 * offset - 1}
    return set(range(2 * offset, 2 * (offset + length) - 1))


small = st.integers(0, 6)


@given(small, small, small, small)
def test_ranges_overlap_like_sets_of_bytes_and_gaps(a: int, m: int, b: int, n: int) -> None:
    expected = bool(positions(a, m) & positions(b, n))
    if m == 0 and n == 0:
        expected = False
    assert ranges_overlap(a, m, b, n) == expected == ranges_overlap(b, n, a, m)


@pytest.mark.parametrize(
    ("held_by", "held_exclusive", "wanted_exclusive", "refused"),
    [
        (OTHER, True, True, True),
        (OTHER, True, False, True),
        (OTHER, False, True, True),
        (OTHER, False, False, False),
        (ME, True, True, True),
        (ME, True, False, False),  # A shared lock stacks on the handle's own exclusive one.
        (ME, False, True, True),
        (ME, False, False, False),
    ],
)
def test_lock_against_lock(
    held_by: int, held_exclusive: bool, wanted_exclusive: bool, refused: bool
) -> None:
    held = [lock(held_by, 10, 10, held_exclusive)]
    found = lock_conflict(held, ME, LockRange(15, 10, wanted_exclusive))
    assert (found is held[0]) == refused
    assert lock_conflict(held, ME, LockRange(20, 10, wanted_exclusive)) is None


@pytest.mark.parametrize(
    ("held_by", "exclusive", "write", "refused"),
    [
        (OTHER, True, False, True),
        (OTHER, True, True, True),
        (OTHER, False, False, False),
        (OTHER, False, True, True),
        (ME, True, False, False),
        (ME, True, True, False),
        (ME, False, False, False),
        (ME, False, True, True),  # A shared lock blocks its owner's writes too.
    ],
)
def test_io_against_lock(held_by: int, exclusive: bool, write: bool, refused: bool) -> None:
    held = [lock(held_by, 10, 10, exclusive)]
    assert (io_conflict(held, ME, 19, 1, write) is held[0]) == refused
    assert io_conflict(held, ME, 20, 1, write) is None
    assert io_conflict(held, ME, 12, 0, write) is None


def test_empty_locks_conflict_only_strictly_inside() -> None:
    held = [lock(OTHER, 10, 10, True)]
    assert lock_conflict(held, ME, LockRange(10, 0, True)) is None
    assert lock_conflict(held, ME, LockRange(20, 0, True)) is None
    assert lock_conflict(held, ME, LockRange(11, 0, True)) is held[0]
    empty = [lock(OTHER, 10, 0, True)]
    assert lock_conflict(empty, ME, LockRange(10, 0, True)) is None
    assert lock_conflict(empty, ME, LockRange(9, 2, True)) is empty[0]


def test_locks_at_the_end_of_the_address_space_do_not_wrap() -> None:
    held = [lock(OTHER, 2**64 - 1, 1, True)]
    check_ranges([LockRange(2**64 - 1, 1)])
    assert lock_conflict(held, ME, LockRange(0, 10, True)) is None
    assert lock_conflict(held, ME, LockRange(2**64 - 2, 2, True)) is held[0]
    with pytest.raises(InvalidParameter):
        check_ranges([LockRange(2**64 - 1, 2)])


def test_an_empty_table_refuses_nothing() -> None:
    assert lock_conflict([], ME, LockRange(0, 1, True)) is None
    assert io_conflict((), ME, 0, 1, True) is None


def test_unlock_needs_exactly_the_held_range_and_takes_the_exclusive_one_first() -> None:
    held = [
        lock(ME, 0, 10, False), lock(ME, 0, 10, True), lock(OTHER, 5, 5, True)
    ]  # fmt: skip
    assert unlock_index(held, ME, LockRange(0, 10)) == 1
    assert unlock_index(held[:1], ME, LockRange(0, 10)) == 0
    assert unlock_index(held, ME, LockRange(0, 9)) is None
    assert unlock_index(held, ME, LockRange(5, 5)) is None


@pytest.mark.parametrize("count", [0, 65])
def test_a_request_holds_1_to_64_ranges(count: int) -> None:
    with pytest.raises(InvalidParameter):
        check_ranges([LockRange(0, 1)] * count)
