"""Byte-range locks: who excludes whom (semantics of MS-FSA 2.1.4.10, as SMB servers implement it).

Rules. The owner of a lock is the handle. Two locks conflict when their ranges overlap, unless both
are shared, or a shared one is put on top of an exclusive one of the same handle. A read is refused
inside another handle's exclusive range. A write is refused inside any range that another handle
holds, and inside a *shared* range of its own handle too: a shared lock promises that the bytes
stand still.

A lock of length zero at z overlaps a range strictly around z (start < z < end) and nothing else; in
particular neither another empty one nor an access that begins or ends at z. Offsets run to 2**64;
Python integers cannot overflow, so the end of a range is always its true end.

Unlock names exactly one held lock by (offset, length); an exclusive one goes before a shared one
that is stacked on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sofs.constants import LOCK_RANGES_MAX
from sofs.core.messages import HeldLock, LockRange
from sofs.errors import InvalidParameter

RANGE_END_MAX: Final = 2**64


def ranges_overlap(offset: int, length: int, other_offset: int, other_length: int) -> bool:
    """Do two ranges share a byte, or is an empty one strictly inside the other?"""
    return offset < other_offset + other_length and other_offset < offset + length


def exclude_each_other(one: LockRange, other: LockRange) -> bool:
    """Could two handles not hold these at the same time?"""
    return (one.exclusive or other.exclusive) and ranges_overlap(
        one.offset, one.length, other.offset, other.length
    )


def check_ranges(ranges: Sequence[LockRange]) -> None:
    """Raise InvalidParameter unless there are 1 to LOCK_RANGES_MAX ranges, each inside 2**64."""
    if not 0 < len(ranges) <= LOCK_RANGES_MAX:
        raise InvalidParameter(f"{len(ranges)} ranges; give 1 to {LOCK_RANGES_MAX}")
    for item in ranges:
        if item.offset < 0 or item.length < 0 or item.offset + item.length > RANGE_END_MAX:
            raise InvalidParameter(f"range at {item.offset} of {item.length} bytes passes 2**64")


def lock_conflict(held: Sequence[HeldLock], handle: int, wanted: LockRange) -> HeldLock | None:
    """Return a held lock that excludes ``wanted`` for ``handle``, or None."""
    if not held:
        return None
    offset, length = wanted.offset, wanted.length
    for lock in held:
        if not ranges_overlap(offset, length, lock.offset, lock.length):
            continue
        if wanted.exclusive or (lock.exclusive and lock.handle != handle):
            return lock
    return None


def io_conflict(
    held: Sequence[HeldLock], handle: int, offset: int, length: int, write: bool
) -> HeldLock | None:
    """Return a held lock that forbids ``handle`` this read or write, or None. An access of no bytes
    is never refused; ``handle`` 0 is nobody's."""
    if not held or length == 0:
        return None
    for lock in held:
        if not ranges_overlap(offset, length, lock.offset, lock.length):
            continue
        if lock.handle != handle:
            if write or lock.exclusive:
                return lock
        elif write and not lock.exclusive:
            return lock
    return None


def unlock_index(held: Sequence[HeldLock], handle: int, wanted: LockRange) -> int | None:
    """Return the index of the lock that an unlock of ``wanted`` removes, or None: RangeNotLocked.
    ``wanted.exclusive`` is not looked at."""
    found: int | None = None
    for index, lock in enumerate(held):
        if (lock.handle, lock.offset, lock.length) == (handle, wanted.offset, wanted.length):
            if lock.exclusive:
                return index
            if found is None:
                found = index
    return found
