"""The active side of following: what is pushed, when, and what ends a follower's stream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sofs.core.messages import Entries, Follow
from sofs.services.authority.feed import PUSH_MS, PUSHED_ENTRY_BYTES_MAX, FollowerFeed
from sofs.services.tasks import Tasks


class HeldClock:
    """Sleeps end when the test says so."""

    def __init__(self) -> None:
        self.sleeping: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic_ms(self) -> int:
        return 0

    def wall_ns(self) -> int:
        return 0

    async def sleep_ms(self, duration_ms: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleeping.append((duration_ms, future))
        await future


class Pushed:
    """Stands for the follower's channel."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []
        self.end_reason: Any = None

    @property
    def alive(self) -> bool:
        return self.end_reason is None

    def notify(self, body: Any) -> None:
        assert isinstance(body, Entries)
        self.messages.append([entry.sequence for entry in body.entries])

    def end(self, reason: Any) -> None:
        self.end_reason = reason


class Rig:
    def __init__(self, backlog_bytes_max: int = 1 << 20) -> None:
        self.clock = HeldClock()
        self.crashes: list[BaseException] = []
        self.tasks = Tasks("test", self.crashes.append)
        self.feed = FollowerFeed(1, 1, backlog_bytes_max, self.clock, self.tasks)
        self.channel = Pushed()

    def follow(self, sequence: int) -> bool:
        request = Follow(b"f" * 16, "resume-key", "", 1, sequence)
        return self.feed.follow(self.channel, request, 0).from_store  # type: ignore[arg-type]

    async def pass_push_time(self) -> None:
        await asyncio.sleep(0)
        [(duration_ms, future)] = self.clock.sleeping
        assert duration_ms == PUSH_MS
        self.clock.sleeping.clear()
        future.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_entries_of_one_push_time_travel_together_and_in_order(rig: Rig) -> None:
    rig.follow(0)
    for sequence in range(1, 6):
        rig.feed.logged(sequence, b"x")
        await asyncio.sleep(0)
    assert rig.channel.messages == [], "nothing is pushed before its time"
    await rig.pass_push_time()
    rig.feed.logged(6, b"x")
    await rig.pass_push_time()
    assert rig.channel.messages == [[1, 2, 3, 4, 5], [6]]
    assert not rig.crashes


async def test_who_begins_to_follow_gets_what_waits_and_nothing_twice(rig: Rig) -> None:
    rig.follow(0)
    rig.feed.logged(1, b"x")
    rig.feed.logged(2, b"x")
    rig.channel = Pushed()
    assert not rig.follow(1)  # Again, over a new stream, behind entry 1.
    assert rig.channel.messages == [[2]]
    rig.feed.logged(3, b"x")
    await rig.pass_push_time()
    assert rig.channel.messages == [[2], [3]]


async def test_a_follower_is_sent_to_the_store_when_the_backlog_lost_what_it_misses() -> None:
    rig = Rig(backlog_bytes_max=100)
    rig.follow(0)
    rig.feed.logged(1, b"x" * 80)
    rig.feed.logged(2, b"x" * 80)  # Entry 1 leaves the backlog before it was pushed.
    await rig.pass_push_time()
    assert not rig.channel.alive
    assert rig.channel.messages == []
    rig.channel = Pushed()
    assert rig.follow(0), "it must read the store"


async def test_an_entry_too_large_to_push_ends_the_stream(rig: Rig) -> None:
    rig = Rig(backlog_bytes_max=2 * PUSHED_ENTRY_BYTES_MAX)
    rig.follow(0)
    rig.feed.logged(1, bytes(PUSHED_ENTRY_BYTES_MAX + 1))
    await rig.pass_push_time()
    assert not rig.channel.alive
    rig.channel = Pushed()
    assert rig.follow(0), "it must read the store"


async def test_nothing_wakes_up_while_nobody_follows(rig: Rig) -> None:
    rig.feed.logged(1, b"x")
    await asyncio.sleep(0)
    assert rig.clock.sleeping == []
