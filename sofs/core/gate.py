"""The resume gate (the Resume Key Filter): what must wait while the open state of a volume is being
taken up by a new owner.

Phases::

    LOADING -> RESUME_LOCAL -> RESUME_REMOTE -> RELEASE -> ONLINE

LOADING: the database is being read; everything waits. RESUME_LOCAL: each incarnation that has
handles in the database must either report which of them are still connected, or be sealed; until it
has, it is not known whether its handles are held or orphaned. RESUME_REMOTE: handles whose
connection is gone wait for their clients, who reclaim them through other nodes. RELEASE: the window
is over; what nobody claimed is being released by the caller. ONLINE: nothing special; disconnected
handles fence their file by themselves.

Why it is safe. All handles, share modes and locks are in the database from the first moment, so
nobody can steal what an absent client holds even without a gate. The gate adds two things: a
contender for such a file waits or is told FILE_NOT_AVAILABLE ("retry") and not SHARING_VIOLATION
("give up"); and what nobody claims within the window is released, so that a dead client's files
come free. The default fence is per file. ``blackout`` holds every create, rename and delete of the
volume instead.

The window starts when loading ends, starts in full at every take-over (a gate object is made anew),
and counts only while some node accepts reclaims. It ends early once nothing is unclaimed. Handles
that disconnect after the gate was loaded are not in it: their own timers run.

Pure: events come in with ``now_ms``; an event method returns True when waiters should ask again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, IntEnum

from sofs.constants import GATE_WINDOW_MS
from sofs.core.handles import ActiveTime
from sofs.errors import invariant


class Phase(IntEnum):
    LOADING = 0
    RESUME_LOCAL = 1
    RESUME_REMOTE = 2
    RELEASE = 3
    ONLINE = 4


class Decision(Enum):
    """What to do with a create, open, rename or delete."""

    PROCEED = "proceed"
    WAIT = "wait"  # Ask again after the next event that returned True.
    REFUSE = "refuse"  # FILE_NOT_AVAILABLE.


class ResumeGate:
    """One take-over's gate."""

    def __init__(self, *, window_ms: int = GATE_WINDOW_MS, blackout: bool = False) -> None:
        self._window_ms = window_ms
        self._blackout = blackout
        self._active = ActiveTime()
        self.phase = Phase.LOADING
        self._unreported: dict[bytes, dict[int, int]] = {}  # incarnation -> handle -> ino
        self._unclaimed: dict[int, int] = {}  # handle -> ino
        self._held_inos: dict[int, int] = {}  # ino -> unreported and unclaimed handles on it

    # Events -----------------------------------------------------------------------------------

    def loaded(
        self,
        now_ms: int,
        bound: Iterable[tuple[int, int, bytes]],
        disconnected: Iterable[tuple[int, int]],
        incarnations: Iterable[bytes] = (),
    ) -> bool:
        """The database is there. ``bound``: (handle, ino, incarnation) of handles that were
        connected; ``disconnected``: (handle, ino); ``incarnations``: every unsealed one, with
        handles or without."""
        invariant(self.phase is Phase.LOADING, "a gate is loaded once")
        for incarnation in incarnations:
            self._unreported.setdefault(incarnation, {})
        for handle, ino, incarnation in bound:
            self._unreported.setdefault(incarnation, {})[handle] = ino
            self._hold(ino)
        for handle, ino in disconnected:
            self._unclaimed[handle] = ino
            self._hold(ino)
        self.phase = Phase.RESUME_LOCAL
        return self._advance(now_ms, changed=True)

    def accepting(self, now_ms: int, accepting: bool) -> bool:
        """Some node accepts reclaims for this volume, or none does."""
        self._active.set_running(now_ms, accepting)
        return False

    def node_reported(self, now_ms: int, incarnation: bytes, connected: Iterable[int]) -> bool:
        """A live incarnation registered; its handles not in ``connected`` are orphaned from now
        on."""
        handles = self._unreported.pop(incarnation, None)
        if handles is None:
            return False
        for handle in connected:
            ino = handles.pop(handle, None)
            if ino is not None:
                self._let_go(ino)
        self._unclaimed.update(handles)
        return self._advance(now_ms, changed=True)

    def node_sealed(self, now_ms: int, incarnation: bytes) -> bool:
        """An incarnation that does not report was sealed: all its handles are orphaned."""
        return self.node_reported(now_ms, incarnation, ())

    def settled(self, now_ms: int, handles: Iterable[int]) -> bool:
        """These handles were reclaimed, closed or released."""
        changed = False
        for handle in handles:
            ino = self._unclaimed.pop(handle, None)
            if ino is None:
                for handles_of_node in self._unreported.values():
                    ino = ino or handles_of_node.pop(handle, None)
            if ino is not None:
                self._let_go(ino)
                changed = True
        return self._advance(now_ms, changed=changed)

    def tick(self, now_ms: int) -> bool:
        """Time has passed."""
        return self._advance(now_ms, changed=False)

    # Questions --------------------------------------------------------------------------------

    def unreported(self) -> list[bytes]:
        """Incarnations that must still report or be sealed."""
        return list(self._unreported)

    def unclaimed(self) -> list[int]:
        """Handles that wait for their clients; in RELEASE: those to release now."""
        return list(self._unclaimed)

    def decide(self, inos: Sequence[int]) -> Decision:
        """May a create, open, rename or delete that touches these existing files go on?"""
        if self.phase is Phase.ONLINE:
            return Decision.PROCEED
        if self.phase is Phase.LOADING or self._blackout:
            return Decision.WAIT
        if not any(ino in self._held_inos for ino in inos):
            return Decision.PROCEED
        return Decision.WAIT if self.phase is Phase.RESUME_LOCAL else Decision.REFUSE

    def due_in_ms(self, now_ms: int) -> int | None:
        """Return when to call ``tick`` next, or None when no time is running."""
        if self.phase is not Phase.RESUME_REMOTE or not self._active.running:
            return None
        return max(0, self._window_ms - self._active.elapsed_ms(now_ms))

    # ------------------------------------------------------------------------------------------

    def _hold(self, ino: int) -> None:
        self._held_inos[ino] = self._held_inos.get(ino, 0) + 1

    def _let_go(self, ino: int) -> None:
        left = self._held_inos[ino] - 1
        if left:
            self._held_inos[ino] = left
        else:
            del self._held_inos[ino]

    def _advance(self, now_ms: int, *, changed: bool) -> bool:
        if self.phase is Phase.RESUME_LOCAL and not self._unreported:
            self.phase = Phase.RESUME_REMOTE
            changed = True
        if self.phase in (Phase.RESUME_REMOTE, Phase.RELEASE) and not self._unclaimed:
            self.phase = Phase.ONLINE
            return True
        over = self._active.elapsed_ms(now_ms) >= self._window_ms
        if self.phase is Phase.RESUME_REMOTE and over:
            self.phase = Phase.RELEASE
            changed = True
        return changed
