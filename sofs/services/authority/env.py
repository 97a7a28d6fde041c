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
from sofs.ports.log import FencedStore
from sofs.ports.recovery import LogRecovery
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.state import StateDatabase
from sofs.ports.stream import Transport

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
    suspicion: Suspicion = field(init=False)

    def __post_init__(self) -> None:
        self.suspicion = Suspicion()


class Suspicion:
    """Limits that double when the same role was claimed for silence lately, and shrink back (R14):
    on a slow machine suspicion must not feed on the work that earlier suspicion caused."""

    def __init__(self) -> None:
        self._claims: dict[str, list[int]] = {}

    def limit_ms(self, role: str, base_ms: int, now_ms: int) -> int:
        """Return the limit for ``role``: ``base_ms`` doubled for each claim within the last
        minute."""
        recent = [at for at in self._claims.get(role, ()) if now_ms - at < SUSPICION_FORGET_MS]
        if recent:
            self._claims[role] = recent
        else:
            self._claims.pop(role, None)
        return int(min(base_ms << min(len(recent), 8), max(SUSPICION_MS_MAX, base_ms)))

    def claimed(self, role: str, now_ms: int) -> None:
        """Remember that ``role`` was claimed because a limit passed."""
        self._claims.setdefault(role, []).append(now_ms)
