"""Persistent handles: timeouts, who may reclaim, and the timers of disconnected handles.

Rules (semantics of MS-SMB2 3.3.5.9.10 and 3.3.5.9.12). A handle's timer starts at its last
disconnect, is cancelled by a reclaim, and starts in full at the next disconnect. Timers run on the
monotonic clock of the volume's current owner, start in full at each take-over, and count only while
some node accepts reclaims: so they only ever lengthen, and a client is never told "too late" for a
time in which nobody could have heard it.

A failed reclaim is OBJECT_NAME_NOT_FOUND, or ACCESS_DENIED when everything fits but the principal;
the principal is checked last, so that a stranger who does not know the create GUID learns nothing.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from sofs.constants import HANDLE_TIMEOUT_DEFAULT_MS, HANDLE_TIMEOUT_MS_MAX
from sofs.errors import AccessDenied, ObjectNameNotFound
from sofs.ids import ID_BYTES

ZERO_GUID: Final = bytes(ID_BYTES)


def granted_timeout_ms(requested_ms: int) -> int:
    """Return the handle timeout for a requested one: 0 asks for the default; capped."""
    return min(requested_ms or HANDLE_TIMEOUT_DEFAULT_MS, HANDLE_TIMEOUT_MS_MAX)


def reclaim_refusal(
    *, guid: bytes, principal: str, same_client: bool, claimed_guid: bytes, claimed_by: str
) -> str:
    """Return the error code that refuses a reclaim of an existing handle, or "" if it may go on."""
    if not claimed_guid or claimed_guid == ZERO_GUID or claimed_guid != guid:
        return ObjectNameNotFound.code
    if claimed_by != principal:
        return AccessDenied.code
    return "" if same_client else ObjectNameNotFound.code


class ActiveTime:
    """Milliseconds during which something was active; stands still otherwise."""

    __slots__ = ("_counted_ms", "_since_ms")

    def __init__(self) -> None:
        self._counted_ms = 0
        self._since_ms: int | None = None

    @property
    def running(self) -> bool:
        return self._since_ms is not None

    def elapsed_ms(self, now_ms: int) -> int:
        if self._since_ms is None:
            return self._counted_ms
        return self._counted_ms + max(0, now_ms - self._since_ms)

    def set_running(self, now_ms: int, running: bool) -> None:
        self._counted_ms = self.elapsed_ms(now_ms)
        self._since_ms = now_ms if running else None


class HandleTimers:
    """Deadlines of disconnected handles; pure, no clock of its own."""

    __slots__ = ("_active", "_due", "_heap")

    def __init__(self) -> None:
        self._active = ActiveTime()
        self._due: dict[int, int] = {}  # handle -> active time at which it expires
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._due)

    def accepting(self, now_ms: int, accepting: bool) -> None:
        """Some node accepts reclaims for the volume, or none does: time counts only meanwhile."""
        self._active.set_running(now_ms, accepting)

    def start(self, now_ms: int, handle: int, timeout_ms: int) -> None:
        """The handle was disconnected: its timer starts in full."""
        due = self._active.elapsed_ms(now_ms) + timeout_ms
        self._due[handle] = due
        heappush(self._heap, (due, handle))
        if len(self._heap) > 2 * len(self._due) + 64:  # Mostly entries of cancelled timers.
            self._heap = [(at, h) for h, at in self._due.items()]
            heapify(self._heap)

    def cancel(self, handle: int) -> None:
        """The handle was reclaimed or is gone."""
        self._due.pop(handle, None)

    def take_due(self, now_ms: int) -> list[int]:
        """Return the handles whose time is over and stop their timers. The caller expires them."""
        self._drop_cancelled()
        taken: list[int] = []
        elapsed = self._active.elapsed_ms(now_ms)
        while self._heap and self._heap[0][0] <= elapsed:
            _, handle = heappop(self._heap)
            del self._due[handle]
            taken.append(handle)
            self._drop_cancelled()
        return taken

    def next_due_ms(self, now_ms: int) -> int | None:
        """Return in how many ms the next timer ends, or None when none is running."""
        self._drop_cancelled()
        if not self._heap or not self._active.running:
            return None
        return max(0, self._heap[0][0] - self._active.elapsed_ms(now_ms))

    def _drop_cancelled(self) -> None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
