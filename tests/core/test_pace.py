"""How long a group commit waits for company."""

from __future__ import annotations

from sofs.core.pace import SIBLINGS_MIN, TURNS_MAX, CommitPace


def turns_waited(pace: CommitPace, n_records: int) -> int:
    turns = 0
    while pace.wait(n_records):
        turns += 1
    pace.took(n_records)
    return turns


def test_one_caller_never_waits() -> None:
    pace = CommitPace()
    assert [turns_waited(pace, 1) for _ in range(10)] == [0] * 10


def test_a_commit_of_half_the_callers_waits_for_the_other_half() -> None:
    pace = CommitPace()
    pace.took(4)
    pace.took(4)
    assert pace.wait(4)
    assert not pace.wait(8), "all are here"


def test_a_commit_waits_a_few_turns_at_most_and_begins_anew_with_the_next_batch() -> None:
    pace = CommitPace()
    pace.took(SIBLINGS_MIN)
    assert turns_waited(pace, 1) == TURNS_MAX
    assert turns_waited(pace, 1) == TURNS_MAX


def test_callers_who_went_away_are_forgotten_after_two_batches() -> None:
    pace = CommitPace()
    pace.took(8)
    pace.took(8)
    assert [turns_waited(pace, 1) > 0 for _ in range(3)] == [True, True, False]
