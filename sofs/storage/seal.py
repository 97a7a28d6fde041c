"""Sealing and reading the log of an append backend, in exactly the order of R4.

Read, then sync, then verify. Reading first decides what the log is. Syncing after it makes durable
what was read: bytes of a predecessor that never synced them are adopted, and after the sync no
power loss can take them back. The cached pages are dropped and the tail is read again from the
device, because a device that refused the predecessor's sync may have left bytes in the cache only;
what is not there is cut. Only then does the caller record the sealed position in its own lineage.
(Sync before read would adopt bytes written in between, which a power loss could still take after
they were served.)

The three steps are separate, so that a simulator can stop or kill the process between any two.
"""

from __future__ import annotations

from collections.abc import Sequence

from sofs.core.record import Record
from sofs.ports.log import Claim, SealedLog
from sofs.ports.runtime import Blocking
from sofs.ports.store import AppendStore, SegmentReader
from sofs.storage.names import log_folder, number_of, segment_key
from sofs.storage.walk import Asked, Walk, peek


class _Segments:
    """The segments of one log, each opened once."""

    def __init__(self, store: AppendStore, claim: Claim) -> None:
        self._store = store
        self._claim = claim
        self._readers: dict[int, SegmentReader] = {}

    def numbers(self) -> list[int]:
        return sorted(map(number_of, self._store.list(log_folder(*self._log))))

    @property
    def _log(self) -> tuple[str, int]:
        return self._claim.role, self._claim.epoch

    def name(self, number: int) -> str:
        return segment_key(*self._log, number)

    def reader(self, number: int) -> SegmentReader:
        reader = self._readers.get(number)
        if reader is None:
            reader = self._readers[number] = self._store.open_segment(self.name(number))
            reader.next_data(0)  # Asked before the first read, which fills the cache.
        return reader

    def size(self, number: int) -> int:
        return self.reader(number).size()

    def next_data(self, number: int, offset: int) -> int:
        return self.reader(number).next_data(offset)

    def load(self, number: int, offset: int, length: int) -> bytes:
        return self.reader(number).read(offset, length)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


async def seal_append_log(
    store: AppendStore, claim: Claim, blocking: Blocking, asked: Asked
) -> SealedLog:
    """Seal a log whose successor's claim is won; see ``FencedStore.seal``."""
    segments = _Segments(store, claim)
    walk = Walk(segments, claim.nonce, asked)

    def sync() -> None:
        for number in walk.read:
            segments.reader(number).sync_and_drop()

    def verify() -> None:
        walk.verify_tail(segments.load)

    try:
        await blocking.run("", walk.run, sync, verify)
    finally:
        await blocking.run("", segments.close)
    return SealedLog(
        claim,
        walk.first_sequence,
        walk.next_sequence - 1,
        walk.records,
        walk.resumed_at,
        walk.gaps,
    )


async def peek_append_log(
    store: AppendStore, claim: Claim, blocking: Blocking, *, records_max: int, after: int
) -> Sequence[Record]:
    """Read whole records from the log's start without sealing it."""
    segments = _Segments(store, claim)
    found: list[Record] = []

    def read() -> None:
        found.extend(peek(segments, claim.nonce, records_max=records_max, after=after))

    try:
        await blocking.run("", read)
    finally:
        await blocking.run("", segments.close)
    return found
