"""Limits of R14: they double after a mistake, and only then."""

from __future__ import annotations

from sofs.constants import SUSPICION_FORGET_MS, SUSPICION_MS_MAX
from sofs.services.authority.env import Suspicion

BASE = 400
NODE = "node-a"


def test_a_role_that_stays_silent_for_twice_its_limit_keeps_a_short_limit() -> None:
    suspicion, now = Suspicion(), 0
    for _ in range(20):
        assert suspicion.limit_ms(NODE, BASE, now) == BASE
        suspicion.claimed(NODE, BASE, now)
        now += BASE + 1
        suspicion.returned(NODE, now)


def test_an_undecided_accusation_doubles_the_limit() -> None:
    suspicion = Suspicion()
    suspicion.claimed(NODE, BASE, 0)
    assert suspicion.limit_ms(NODE, BASE, BASE) == 2 * BASE
    assert suspicion.limit_ms(NODE, BASE, BASE + 1) == BASE


def test_a_role_that_was_only_slow_gets_twice_the_limit_for_a_minute() -> None:
    suspicion = Suspicion()
    suspicion.claimed(NODE, BASE, 0)
    suspicion.returned(NODE, BASE)
    assert suspicion.limit_ms(NODE, BASE, BASE) == 2 * BASE
    assert suspicion.limit_ms(NODE, BASE, BASE + SUSPICION_FORGET_MS - 1) == 2 * BASE
    assert suspicion.limit_ms(NODE, BASE, BASE + SUSPICION_FORGET_MS) == BASE


def test_mistakes_add_up_to_the_cap() -> None:
    suspicion = Suspicion()
    for now in range(12):
        suspicion.claimed(NODE, BASE, now)
        suspicion.returned(NODE, now)
    assert suspicion.limit_ms(NODE, BASE, 12) == SUSPICION_MS_MAX


def test_a_second_accusation_while_the_first_is_undecided_makes_it_a_mistake() -> None:
    suspicion = Suspicion()
    suspicion.claimed(NODE, BASE, 0)
    suspicion.claimed(NODE, BASE, 10)
    assert suspicion.limit_ms(NODE, BASE, 10) == 4 * BASE
    assert suspicion.limit_ms(NODE, BASE, 11 + BASE) == 2 * BASE


def test_roles_do_not_share_their_mistakes() -> None:
    suspicion = Suspicion()
    suspicion.claimed(NODE, BASE, 0)
    suspicion.returned(NODE, 0)
    assert suspicion.limit_ms("node-b", BASE, 0) == BASE
