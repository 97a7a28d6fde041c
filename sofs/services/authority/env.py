"""What an authority is composed of, and what an operator may set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sofs.constants import (
    GATE_WINDOW_MS,
    MIB,
    RECALL_MS,
    SILENCE_MS,
    SUSPICION_FORGET_MS,
    SUSPICION_MS_MAX,
)
from sofs.core.entries import EntryCodec
from sofs.ports.codec import MessageCodec
from sofs.ports.events import NO_EVENTS, Events
from sofs.ports.log import FencedStore
from sofs.ports.recovery import LogRecovery
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.state import StateDatabase
from sofs.ports.stream import Transport
from sofs.ports.trace import NO_RECORDER, Recorder
from sofs.services.pair import PairProbe

VOLUME_ROLE: Final = "volume"
COORDINATOR: Final = "coordinator"
RESUME_KEY: Final = "resume-key"


def node_role(incarnation: bytes) -> str:
    """The role of a node incarnation's data log: epoch 1 is its own claim, epoch 2 its seal."""
    return f"node-{incarnation.hex()}"


@dataclass(frozen=True, slots=True)
class AuthoritySettings:
    """``part``: "coordinator" claims first at a cold start and asks for the volume back;
    "resume-key" keeps it meanwhile. Times in milliseconds."""

    part: str = COORDINATOR
    volume: bytes = b""
    run_id: bytes = b""
    silence_ms: int = SILENCE_MS
    recall_ms: int = RECALL_MS
    gate_window_ms: int = GATE_WINDOW_MS
    gate_blackout: bool = False
    hand_back_after_ms: int = 2_000
    checkpoint_every_bytes: int = 16 * MIB
    checkpoint_every_entries: int = 10_000  # Bounds what a cold start replays.
    checkpoint_alone_bytes: int = 64 * MIB  # The active makes one itself when nobody follows.
    backlog_bytes_max: int = 32 * MIB  # Entries kept for followers that fall behind.


@dataclass(slots=True)
class AuthorityEnv:
    settings: AuthoritySettings
    clock: Clock
    entropy: Entropy
    fenced: FencedStore
    transport: Transport
    recovery: LogRecovery
    entries: EntryCodec
    messages: MessageCodec
    new_database: Callable[[], StateDatabase]
    endpoint: str = ""
    recorder: Recorder = NO_RECORDER
    pair: PairProbe | None = None  # On an append backend.
    peers: Callable[[], list[str]] = list  # Where other parts of the volume may answer.
    events: Events = NO_EVENTS
    suspicion: Suspicion = field(init=False)

    def __post_init__(self) -> None:
        self.suspicion = Suspicion()


class Suspicion:
    """Limits that double when the same role was accused by mistake lately, and shrink back (R14).

    On a slow machine suspicion must not feed on the work that earlier suspicion caused, so an
    accusation for silence doubles the limit of its role for a minute. But a role that stays silent
    for twice the limit was accused rightly: it was frozen or cut off, no longer limit would have
    spared anybody, and the next fault must be passed as quickly as the first (G6). Such an
    accusation no longer counts. See ADR 0010.
    """

    def __init__(self) -> None:
        self._mistakes: dict[str, list[int]] = {}
        self._open: dict[str, tuple[int, int]] = {}  # Role: when accused, by which limit.

    def limit_ms(self, role: str, base_ms: int, now_ms: int) -> int:
        """Return the limit for ``role``: ``base_ms`` doubled for each mistaken or still undecided
        accusation within the last minute, at most SUSPICION_MS_MAX."""
        self._settle(role, now_ms)
        recent = [at for at in self._mistakes.get(role, ()) if now_ms - at < SUSPICION_FORGET_MS]
        if recent:
            self._mistakes[role] = recent
        else:
            self._mistakes.pop(role, None)
        doublings = min(len(recent) + (role in self._open), 8)
        return int(min(base_ms << doublings, max(SUSPICION_MS_MAX, base_ms)))

    def claimed(self, role: str, limit_ms: int, now_ms: int) -> None:
        """``role`` is accused because it was silent for ``limit_ms``: undecided for that long
        again."""
        self._settle(role, now_ms)
        if role in self._open:  # Accused anew before the first was decided: it was alive between.
            self.returned(role, now_ms)
        self._open[role] = (now_ms, limit_ms)

    def returned(self, role: str, now_ms: int) -> None:
        """``role`` was heard again: a mistake, if it was accused less than its limit ago."""
        self._settle(role, now_ms)
        if self._open.pop(role, None) is not None:
            self._mistakes.setdefault(role, []).append(now_ms)

    def _settle(self, role: str, now_ms: int) -> None:
        accused = self._open.get(role)
        if accused is not None and now_ms - accused[0] > accused[1]:
            del self._open[role]
