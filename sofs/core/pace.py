"""How long a group commit waits for company.

A commit that starts with the first record that is there makes batches that happen to form. With
callers who each wait for their answer the records come in two halves that take turns, and each half
pays for a sync of its own. So a commit that may expect more looks around the event loop a few times
first: what has arrived at the process meanwhile joins it. There is no timer, since nothing that a
timer could wait for is worth its millisecond.

What may be expected: callers whose records were in the last two batches are the ones who can come
back, so their sum is how many there are. Below SIBLINGS_MIN a commit never waits: a single caller
gains nothing. (PostgreSQL's ``commit_siblings`` is the same thought, with a delay in microseconds.)
"""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import Final

SIBLINGS_MIN: Final = 4  # Fewer records in two batches: nobody to wait for.
TURNS_MAX: Final = 5  # Of the event loop; a frame needs three from the socket to its append.


@types.coroutine
def next_turn() -> Generator[None, None, None]:
    """Let everything else run that is ready, once: one turn of whatever event loop there is."""
    yield


class CommitPace:
    """Counts batches of one log. ``wait`` is asked once a turn of the event loop, until it says
    no; then the batch is taken and ``took`` is told how many records it has."""

    __slots__ = ("_before", "_last", "_turns")

    def __init__(self) -> None:
        self._last = self._before = 0
        self._turns = 0

    def wait(self, n_records: int) -> bool:
        """Shall the batch, which holds ``n_records`` now, wait another turn?"""
        expected = self._last + self._before
        if expected < SIBLINGS_MIN or n_records >= expected or self._turns == TURNS_MAX:
            return False
        self._turns += 1
        return True

    def took(self, n_records: int) -> None:
        """The batch was taken with ``n_records``."""
        self._before, self._last = self._last, n_records
        self._turns = 0
