"""Time, chance, ids and blocking work.

Services never import ``time``, ``random``, ``uuid`` or ``threading``: the simulator must be able to
decide all four from one seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Monotonic time for durations; wall time only for people and file times."""

    def monotonic_ms(self) -> int:
        """Milliseconds of a clock that never goes back; comparable within one process only."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump; decides nothing."""
        ...

    async def sleep_ms(self, duration_ms: float) -> None:
        """Suspend the calling task for about ``duration_ms`` milliseconds."""
        ...


class Entropy(Protocol):
    """The only source of chance."""

    def token(self, n_bytes: int) -> bytes:
        """Return ``n_bytes`` unpredictable bytes (ids, nonces, credentials)."""
        ...

    def stream(self, name: str) -> random.Random:
        """Return the named stream of pseudo-random numbers (jitter, order of tries)."""
        ...


class Blocking(Protocol):
    """Runs blocking calls off the event loop.

    A *lane* is one thread that runs its calls in order; ``""`` means any thread of a pool. The
    steps of one call run one after another with no other call of the lane between them, and the
    first exception ends the call. They are separate steps, not one function, so that the simulator
    can stop, delay or kill a process between any two of them.
    """

    async def run(
        self, lane: str, *steps: Callable[[], object], brief: bool = False
    ) -> list[object]:
        """Run ``steps`` in order and return their results; raises the first exception.

        ``brief`` says that they move few bytes. Where such calls have lately taken less than two
        hand-overs between threads cost, they may run at once on the caller's own thread."""
        ...
