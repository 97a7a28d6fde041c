"""What a client tells people and benchmarks about its cluster and its failovers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class FailoverRecord:
    """One change of the node in use. Times are milliseconds of the client's monotonic clock.

    ``detect_ms``: from the node's last word while an operation waited to the decision to leave (0
    when the stream ended or a witness spoke). ``connect_ms``: to a stream with Hello answered (0
    with a warm one). ``reclaim_ms``: to all handles reclaimed. ``replay_ms``: to the last answer of
    the operations that were sent again; -1 while some are unanswered. A ``planned`` one is a move
    that somebody asked for: ``drain_ms``, while nothing was sent to the old node any more, until it
    had answered.
    """

    reason: str
    from_address: str
    to_address: str
    at_wall_ns: int
    detect_ms: int = 0
    connect_ms: int = 0
    reclaim_ms: int = 0
    replay_ms: int = -1
    warm: bool = False
    handles: int = 0
    handles_lost: int = 0
    replayed: int = 0
    attempts: int = 1
    planned: bool = False
    drain_ms: int = 0

    @property
    def total_ms(self) -> int:
        """From the node's last word to the last replayed answer, as far as known."""
        before = self.detect_ms + self.drain_ms
        return before + self.connect_ms + self.reclaim_ms + max(0, self.replay_ms)


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Where the client is now. An empty address: none at the moment."""

    address: str
    node: str
    incarnation: bytes
    warm_address: str
    witness_address: str
    addresses: tuple[str, ...]
    sessions: int
    handles: int
    failovers: tuple[FailoverRecord, ...]
