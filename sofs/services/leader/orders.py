"""When a part may be ordered again: a pause a part, doubling while ordering does not help.

Pure: the caller says what time it is.
"""

from __future__ import annotations

from typing import Final

AGAIN_MS: Final = 2_000  # A part that was ordered and does not show up.
AGAIN_MS_MAX: Final = 60_000


class Orders:
    """Of each part that was ordered and was not seen since: when, and how long to wait."""

    def __init__(self, again_ms: int = AGAIN_MS) -> None:
        self._again_ms = again_ms
        self._ordered: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._ordered)

    def may(self, name: str, now_ms: int) -> bool:
        """May ``name`` be ordered now? If so it counts as ordered."""
        last = self._ordered.get(name)
        if last is None:
            self._ordered[name] = (now_ms, self._again_ms)
            return True
        ordered_ms, pause_ms = last
        if now_ms - ordered_ms < pause_ms:
            return False
        self._ordered[name] = (now_ms, min(2 * pause_ms, AGAIN_MS_MAX))
        return True

    def seen(self, name: str) -> None:
        """It is there, or it is wanted elsewhere: the next order need not wait."""
        self._ordered.pop(name, None)

    def keep(self, names: list[str]) -> None:
        """Forget all parts but these."""
        self._ordered = {name: self._ordered[name] for name in names if name in self._ordered}
