"""Space that is held ready on a disk that may fill up: what must go on then is given it.

Theory. A full disk refuses new writes for certain, and that is all it is to do: a dead node must
still be sealed, an authority that died must be taken over, and what starts must start, or reads and
deletes (which alone make space again) stop too. All of these create small files. So each part
keeps one object of BALLAST_BYTES, ``ballast/<part>``. When one of these steps meets DiskFull, the
ballast is deleted, durably, and the step is tried once more. Once space is back the object is made
again (``keep``).

Why it is not simply taken by others: logs prepare segments of SEGMENT_FIRST_BYTES at least, which
is more than a ballast holds, and all at once. Checkpoints and other parts' claims may; so a second
step on a disk that stays full may fail with DiskFull as if there were no ballast. Nothing is lost
then: it is tried again when there is space.

May fail: ``relieve`` raises what the second try says. The object means nothing and is never read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from sofs.constants import MIB, SEGMENT_FIRST_BYTES
from sofs.errors import DiskFull, StoreFailed
from sofs.ports.store import AppendStore
from sofs.storage.names import ballast_key

BALLAST_BYTES: Final = 1 * MIB
assert BALLAST_BYTES < SEGMENT_FIRST_BYTES, "a log that grows would take what was given back"

T = TypeVar("T")


class Ballast:
    """The ballast of one part on one root. Blocks; for any thread."""

    def __init__(self, store: AppendStore, part: str, *, n_bytes: int = BALLAST_BYTES) -> None:
        self._store = store
        self._key = ballast_key(part)
        self._n_bytes = n_bytes
        self._lock = threading.Lock()
        self._held = False

    @property
    def held(self) -> bool:
        """Was it there when we last looked, and not given back since?"""
        return self._held

    def keep(self) -> bool:
        """Make the ballast unless it is there; False while the disk has no room for it."""
        with self._lock:
            if not self._held:
                if self._size() < self._n_bytes:  # A part that died while it made it left a piece.
                    self._store.delete(self._key)
                    try:
                        made = self._store.create_segment(self._key, zero_fill_bytes=self._n_bytes)
                    except DiskFull:
                        return False
                    made.close()
                self._held = True
            return True

    def drop(self) -> bool:
        """Give the space back, durably; False when there was none."""
        with self._lock:
            self._held = False
            if self._size() == 0:
                return False
            self._store.delete(self._key)
            return True

    def relieve(self, step: Callable[[], T]) -> T:
        """Return what ``step`` does; on a full disk, with the space of the ballast."""
        try:
            return step()
        except DiskFull:
            if not self.drop():
                raise
            return step()

    def _size(self) -> int:
        try:
            reader = self._store.open_segment(self._key)
        except StoreFailed:
            return 0
        try:
            return reader.size()
        finally:
            reader.close()
