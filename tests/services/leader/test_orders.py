"""When a part may be ordered again."""

from __future__ import annotations

from itertools import pairwise

from sofs.services.leader.orders import AGAIN_MS, AGAIN_MS_MAX, Orders


def times_of(orders: Orders, name: str, until_ms: int) -> list[int]:
    return [now for now in range(0, until_ms, 500) if orders.may(name, now)]


def test_a_part_that_does_not_show_up_is_ordered_after_pauses_that_double_up_to_a_limit() -> None:
    times = times_of(Orders(), "a", 400_000)
    pauses = [after - before for before, after in pairwise(times)]
    assert times[0] == 0
    assert pauses[:3] == [AGAIN_MS, 2 * AGAIN_MS, 4 * AGAIN_MS]
    assert pauses[-2:] == [AGAIN_MS_MAX, AGAIN_MS_MAX]


def test_parts_do_not_wait_for_each_other_and_one_that_was_seen_starts_anew() -> None:
    orders = Orders()
    assert times_of(orders, "a", 3_000) == [0, AGAIN_MS]
    assert orders.may("b", 100)
    orders.seen("a")
    assert orders.may("a", 3_000)
    assert not orders.may("a", 3_000 + AGAIN_MS - 1)
    assert orders.may("a", 3_000 + AGAIN_MS)


def test_parts_that_are_wanted_no_more_are_forgotten() -> None:
    orders = Orders()
    assert all(orders.may(name, 0) for name in "abc")
    orders.keep(["b", "d"])
    assert len(orders) == 1
    assert not orders.may("b", 1)
    assert orders.may("a", 1)
