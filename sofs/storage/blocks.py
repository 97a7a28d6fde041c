"""Reading data blocks of any log by place, with a bounded cache of open segments.

Records never change, so an open segment is good for ever, also after its file was deleted. A
missing segment is never remembered. A reader in use by a thread is not closed: its descriptor's
number could be given to another file under the read. So each open reader counts its users, and
leaves the cache only when it has none.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, cast

from sofs.errors import StoreFailed
from sofs.ports.runtime import Blocking
from sofs.ports.store import AppendStore, SegmentReader, Store
from sofs.storage.names import segment_key, slot_key

OPEN_SEGMENTS_MAX: Final = 256

_Key = tuple[str, int, int]


class _Open:
    __slots__ = ("reader", "users")

    def __init__(self, reader: SegmentReader) -> None:
        self.reader = reader
        self.users = 0


class SegmentBlocks:
    """BlockReader of an append backend."""

    def __init__(
        self, store: AppendStore, blocking: Blocking, *, open_max: int = OPEN_SEGMENTS_MAX
    ) -> None:
        self._store = store
        self._blocking = blocking
        self._open_max = open_max
        self._open: OrderedDict[_Key, _Open] = OrderedDict()

    def cached(self, role: str, epoch: int, segment: int, offset: int, length: int) -> bytes | None:
        found = self._open.get((role, epoch, segment))
        return None if found is None else found.reader.read_cached(offset, length)

    async def read(self, role: str, epoch: int, segment: int, offset: int, length: int) -> bytes:
        key = (role, epoch, segment)
        found = self._open.get(key) or await self._enter(key)
        if found is None:
            [data] = await self._blocking.run("", lambda: self._read_once(key, offset, length))
        else:
            found.users += 1
            try:
                reader = found.reader
                [data] = await self._blocking.run("", lambda: reader.read(offset, length))
            finally:
                found.users -= 1
            self._open.move_to_end(key)
        got = cast(bytes, data)
        if len(got) != length:
            raise StoreFailed(
                f"{segment_key(*key)} ends before offset {offset + length}; "
                "look the extent up again, it may have been moved"
            )
        return got

    def _read_once(self, key: _Key, offset: int, length: int) -> bytes:
        reader = self._store.open_segment(segment_key(*key))
        try:
            return reader.read(offset, length)
        finally:
            reader.close()

    def will_need(self, role: str, epoch: int, segment: int, offset: int, length: int) -> None:
        found = self._open.get((role, epoch, segment))
        if found is not None:
            found.reader.will_need(offset, length)

    async def _enter(self, key: _Key) -> _Open | None:
        """Open a segment; None when the cache is full of readers that are all in use."""
        if not self._make_room():
            return None
        [reader] = await self._blocking.run("", lambda: self._store.open_segment(segment_key(*key)))
        opened = _Open(cast(SegmentReader, reader))
        other = self._open.get(key)
        if other is not None or not self._make_room():  # Other reads were quicker.
            opened.reader.close()
            return other
        self._open[key] = opened
        return opened

    def _make_room(self) -> bool:
        """Close the reader that was used longest ago, if the cache is full."""
        if len(self._open) < self._open_max:
            return True
        for key, opened in self._open.items():
            if opened.users == 0:
                del self._open[key]
                opened.reader.close()
                return True
        return False

    def close(self) -> None:
        """Close what nobody reads; called when no read is under way."""
        for key in [key for key, opened in self._open.items() if opened.users == 0]:
            self._open.pop(key).reader.close()


class SlotBlocks:
    """BlockReader of a slot backend: every read is a request."""

    def __init__(self, store: Store, blocking: Blocking) -> None:
        self._store = store
        self._blocking = blocking

    def cached(self, role: str, epoch: int, segment: int, offset: int, length: int) -> bytes | None:
        return None

    async def read(self, role: str, epoch: int, segment: int, offset: int, length: int) -> bytes:
        key = slot_key(role, epoch, segment)
        [data] = await self._blocking.run("", lambda: self._store.read(key, offset, length))
        got = cast(bytes, data)
        if len(got) != length:
            raise StoreFailed(
                f"{key} ends before offset {offset + length}; look the extent up again"
            )
        return got

    def will_need(self, role: str, epoch: int, segment: int, offset: int, length: int) -> None:
        """Nothing to do: the backend has no read-ahead."""

    def close(self) -> None:
        """Nothing is held."""
