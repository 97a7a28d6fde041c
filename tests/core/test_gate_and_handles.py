from __future__ import annotations

import pytest

from sofs.core.gate import Decision, Phase, ResumeGate
from sofs.core.handles import ActiveTime, HandleTimers, granted_timeout_ms, reclaim_refusal
from sofs.errors import InvariantViolation

A, B = b"a" * 16, b"b" * 16
FILE, OTHER, ORPHANED = 10, 11, 12


def loaded_gate(*, blackout: bool = False) -> ResumeGate:
    """Handle 1 on FILE through A, 2 on OTHER through B, 3 on ORPHANED through nobody."""
    gate = ResumeGate(window_ms=1000, blackout=blackout)
    gate.accepting(0, True)
    assert gate.decide([]) is Decision.WAIT
    assert gate.loaded(0, [(1, FILE, A), (2, OTHER, B)], [(3, ORPHANED)])
    return gate


def test_the_gate_passes_its_phases_and_ends_early_when_all_is_claimed() -> None:
    gate = loaded_gate()
    assert gate.phase is Phase.RESUME_LOCAL
    assert gate.unreported() == [A, B]
    assert gate.node_reported(10, A, [1])
    assert gate.node_sealed(20, B)
    assert gate.phase is Phase.RESUME_REMOTE
    assert sorted(gate.unclaimed()) == [2, 3]
    assert gate.settled(30, [3])
    assert not gate.settled(30, [3])
    assert gate.settled(40, [2])
    assert gate.phase is Phase.ONLINE


def test_an_empty_volume_is_online_at_once() -> None:
    gate = ResumeGate()
    assert gate.loaded(0, [], [])
    assert gate.phase is Phase.ONLINE
    with pytest.raises(InvariantViolation):
        gate.loaded(0, [], [])


def test_the_fence_is_per_file() -> None:
    gate = loaded_gate()
    assert gate.decide([]) is Decision.PROCEED
    assert gate.decide([99]) is Decision.PROCEED
    assert gate.decide([99, FILE]) is Decision.WAIT
    gate.node_reported(10, A, [1])
    assert gate.decide([FILE]) is Decision.PROCEED
    gate.node_reported(10, B, [])
    assert gate.decide([OTHER]) is Decision.REFUSE
    gate.settled(20, [2])
    assert gate.decide([OTHER]) is Decision.PROCEED
    assert gate.decide([ORPHANED]) is Decision.REFUSE


def test_a_blackout_holds_every_create_until_online() -> None:
    gate = loaded_gate(blackout=True)
    gate.node_reported(10, A, [1])
    gate.node_reported(10, B, [2])
    assert gate.decide([]) is Decision.WAIT
    gate.settled(20, [3])
    assert gate.decide([]) is Decision.PROCEED


def test_the_window_counts_only_while_reclaims_are_accepted() -> None:
    gate = loaded_gate()
    gate.accepting(400, False)
    assert gate.due_in_ms(500) is None
    gate.node_reported(900, A, [])
    gate.node_reported(900, B, [])
    assert gate.due_in_ms(1000) is None
    assert not gate.tick(5000)
    gate.accepting(6000, True)
    assert gate.due_in_ms(6000) == 600
    assert not gate.tick(6599)
    assert gate.tick(6600)
    assert gate.phase is Phase.RELEASE
    assert sorted(gate.unclaimed()) == [1, 2, 3]
    assert gate.decide([FILE]) is Decision.REFUSE
    assert gate.settled(6700, [1, 2, 3])
    assert gate.phase is Phase.ONLINE


def test_the_window_does_not_end_while_a_node_has_not_reported() -> None:
    gate = loaded_gate()
    gate.node_reported(10, A, [1])
    assert not gate.tick(50_000)
    assert gate.phase is Phase.RESUME_LOCAL
    assert gate.node_sealed(50_001, B)
    assert gate.phase is Phase.RELEASE


def test_a_handle_reclaimed_from_a_silent_node_leaves_the_gate() -> None:
    gate = loaded_gate()
    assert gate.settled(5, [1])
    assert gate.decide([FILE]) is Decision.PROCEED
    assert not gate.node_reported(6, b"c" * 16, [7])


def test_an_incarnation_without_handles_is_waited_for_too() -> None:
    gate = ResumeGate()
    gate.loaded(0, [], [], [A])
    assert gate.phase is Phase.RESUME_LOCAL
    gate.node_reported(1, A, [])
    assert gate.phase is Phase.ONLINE


@pytest.mark.parametrize(("asked", "granted"), [(0, 60_000), (5, 5), (0xFFFFFFFF, 300_000)])
def test_timeouts_are_defaulted_and_capped(asked: int, granted: int) -> None:
    assert granted_timeout_ms(asked) == granted


def test_who_may_reclaim() -> None:
    def refusal(guid: bytes, by: str, same_client: bool = True) -> str:
        return reclaim_refusal(
            guid=A, principal="me", same_client=same_client, claimed_guid=guid, claimed_by=by
        )

    assert refusal(A, "me") == ""
    assert refusal(A, "you") == "ACCESS_DENIED"
    assert refusal(B, "you") == refusal(bytes(16), "me") == refusal(b"", "me")
    assert refusal(B, "me") == refusal(A, "me", False) == "OBJECT_NAME_NOT_FOUND"


def test_timers_start_in_full_at_each_disconnect() -> None:
    timers = HandleTimers()
    timers.accepting(0, True)
    timers.start(0, 1, 5000)
    timers.cancel(1)
    timers.start(4000, 1, 5000)
    assert timers.take_due(6000) == []
    assert timers.next_due_ms(6000) == 3000
    assert timers.take_due(9000) == [1]
    assert len(timers) == 0
    assert timers.take_due(99_000) == []


def test_timers_stand_still_while_nobody_accepts_reclaims() -> None:
    timers = HandleTimers()
    timers.start(0, 1, 100)
    timers.start(0, 2, 50)
    assert timers.take_due(1_000_000) == []
    assert timers.next_due_ms(1_000_000) is None
    timers.accepting(1_000_000, True)
    assert timers.take_due(1_000_099) == [2]
    assert timers.take_due(1_000_100) == [1]


def test_many_restarts_of_a_timer_do_not_pile_up() -> None:
    timers = HandleTimers()
    timers.accepting(0, True)
    for _ in range(1000):
        timers.start(0, 1, 100)
    assert len(timers._heap) < 200
    assert timers.take_due(100) == [1]


def test_active_time_ignores_a_clock_that_stands() -> None:
    active = ActiveTime()
    assert not active.running
    active.set_running(10, True)
    assert active.elapsed_ms(5) == 0
    assert active.elapsed_ms(15) == 5
