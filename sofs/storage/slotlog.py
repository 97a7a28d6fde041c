"""The log of a slot backend (R12): one object per batch, existence decided by ``put_if_absent``
alone.

Why safe. Slot n is put only after slots 0..n-1 were won, so acknowledging in slot order comes for
free. A successor walks the slots upward and puts a fence in the first free one: from then on the
owner loses that slot, and learns that it is fenced; whatever it won before, the successor has
read. A put whose outcome is open is sent again with the same bytes, which hold the log's secret
nonce and are written to one slot only: finding them there is a win. After PUT_TRIES_MAX the log
ends, and the successor decides. Fences are never deleted, slots in ascending order only, and slot
0 (which holds the lineage) last.

Where a log ends. A free slot is the end only if nothing stands above it. Slots are won in ascending
order, so one that is absent below another was deleted (by an owner that may still be deleting while
it is sealed) or is damage. So the walk lists the slots first, takes an absent one below the highest
for no end, and once its fence stands lists them again: a fence that was put where a slot had just
been deleted is none. Behind slot 0 it begins with the run of slots that reaches the highest: a copy
of an old put that lands after its slot was deleted leaves an object below a gap, which nobody
reads. Whether a gap is covered by a checkpoint, the caller judges (``resumed_at``).

Reads (R12 asks for a serving grant that is renewed by winning a slot or by a strongly consistent
read; ADR 0014). There is no grant that outlives a reply: ``check`` is itself such a read, of the
successor's claim, begun after the data was read, once for each frame of replies. If it finds
nothing, no successor had claimed at some moment after the read; a successor acknowledges nothing
before it has claimed, so what was read was still the newest then. No clock is trusted. The price is
a round trip to the backend for each frame that serves data.

An object is a segment header and records; its number is the slot's. Objects are whole or absent:
one that does not verify is corruption, there are no torn tails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sofs.constants import BLOCK_BYTES
from sofs.core.record import (
    PAYLOAD_BYTES_MAX,
    SEGMENT_HEADER_BYTES,
    Record,
    RecordKind,
    decode_record,
    decode_segment_header,
    encode_record,
    encode_segment_header,
    record_bytes,
)
from sofs.errors import Corrupt, Fenced, LimitExceeded, MessageTooLarge, StoreUnknown
from sofs.ports.log import Claim, SealedLog
from sofs.ports.runtime import Blocking, Clock, Entropy
from sofs.ports.store import Buffer, Lost, Store, Won
from sofs.storage.logbase import BaseLog, Batch, LogOptions
from sofs.storage.names import claim_key, log_folder, number_of, slot_key
from sofs.storage.walk import Asked

PUT_TRIES_MAX: Final = 4
PUT_RETRY_MS: Final = 50
FENCE_TRIES_MAX: Final = (
    100_000  # Slots that a live owner may win while its successor puts the fence.
)


STARTS_MAX: Final = 16  # How often a walk begins again because slots vanish while it reads.


class _SlotBatch(Batch):
    __slots__ = ("at", "buffers", "slot")

    def __init__(self, first: int, slot: int) -> None:
        super().__init__(first)
        self.slot = slot
        self.at = SEGMENT_HEADER_BYTES
        self.buffers: list[Buffer] = []


class SlotLog(BaseLog):
    """The LogWriter of a slot backend."""

    def __init__(
        self,
        store: Store,
        claim: Claim,
        first_sequence: int,
        blocking: Blocking,
        clock: Clock,
        options: LogOptions,
    ) -> None:
        super().__init__(claim, first_sequence, blocking, options)
        self._store = store
        self._clock = clock
        self._next_slot = 0
        self._retries = 0

    async def room(self, n_bytes: int) -> None:
        """Wait while too much is queued. A slot backend has no room to reserve: one that is full
        answers the put itself, and ends the log."""
        if n_bytes > PAYLOAD_BYTES_MAX:
            raise MessageTooLarge(f"a record holds at most {PAYLOAD_BYTES_MAX} bytes")
        while self._ended is None and self._queued_bytes > self._options.queue_bytes_max:
            await self.durable(self._durable + 1)
        if self._ended is not None:
            raise self._refusal()

    def _place(
        self, payload_bytes: int, extension_bytes: int, block_sums: bool
    ) -> tuple[int, int, Batch]:
        blocks = payload_bytes // BLOCK_BYTES if block_sums else 0
        size = record_bytes(payload_bytes, extension_bytes, blocks)
        batch = self._open
        if batch is not None and batch.n_bytes + size > self._options.batch_bytes_max:
            self._queue.append(batch)
            batch = None
        if batch is None:
            batch = self._open = _SlotBatch(self._next, self._next_slot)
            self._next_slot += 1
        assert isinstance(batch, _SlotBatch)
        return batch.slot, batch.at, batch

    def _put(self, batch: Batch, buffers: Sequence[Buffer], n_bytes: int) -> None:
        assert isinstance(batch, _SlotBatch)
        batch.buffers.extend(buffers)
        batch.at += n_bytes

    async def _make_durable(self, batch: Batch) -> None:
        assert isinstance(batch, _SlotBatch)
        claim = self._claim
        key = slot_key(claim.role, claim.epoch, batch.slot)
        header = _header(claim, batch.slot, batch.first)
        data = b"".join((header, *batch.buffers))
        for attempt in range(PUT_TRIES_MAX):
            try:
                [outcome] = await self._blocking.run(
                    self._lane, lambda: self._store.put_if_absent(key, data)
                )
            except StoreUnknown:
                if attempt == PUT_TRIES_MAX - 1:
                    raise
                self._retries += 1
                await self._clock.sleep_ms(PUT_RETRY_MS)
                continue
            if isinstance(outcome, Won):
                return
            raise Fenced(f"slot {key} was taken by a successor of epoch {claim.epoch}")

    async def check(self) -> None:
        """A strongly consistent read of the successor's claim; a round trip to the backend."""
        if self._ended is not None:
            raise self._refusal()
        self._checks += 1
        key = claim_key(self._claim.role, self._claim.epoch + 1)
        [found] = await self._blocking.run("", lambda: self._store.get(key))
        if found is not None:
            self._end(Fenced(f"{key} exists; look the owner up again"))
            raise self._refusal()

    def counters(self) -> dict[str, int]:
        return {
            **super().counters(),
            "slots": self._next_slot,
            "retries": self._retries,
            "syncs": 0,
        }

    async def _release(self) -> None:
        """A slot log holds nothing."""


def _header(claim: Claim, slot: int, first_sequence: int) -> bytes:
    return encode_segment_header(
        nonce=claim.nonce,
        incarnation=claim.incarnation,
        epoch=claim.epoch,
        segment=slot,
        first_sequence=first_sequence,
    )


class _SlotWalk:
    """Reads a log slot by slot; ``fence`` ends it."""

    def __init__(self, store: Store, claim: Claim, asked: Asked) -> None:
        self._store = store
        self._claim = claim
        self._after = after = asked.after
        self._known = asked.known
        self._deleted_ok = asked.deleted_ok
        self.resumed_at = 0
        self.records: list[Record] = []
        self.first_sequence = self.next_sequence = after + 1
        self.slot = 0
        self._live: list[int] = []  # Slot 0, and the slots up to the highest, without a gap.
        self._starts = 0
        self.fenced = False

    def _key(self, slot: int) -> str:
        return slot_key(self._claim.role, self._claim.epoch, slot)

    def _listed(self) -> list[int]:
        return sorted(
            map(number_of, self._store.list(log_folder(self._claim.role, self._claim.epoch)))
        )

    def start(self) -> None:
        """Find the slot to begin with: the last that starts at or below the first record asked
        for."""
        self._starts += 1
        if self._starts > STARTS_MAX:
            raise LimitExceeded(f"slots of {self._key(0)} vanish while they are read; try again")
        slots = self._listed()
        self.records.clear()
        self.resumed_at = self.slot = 0
        self.first_sequence = self.next_sequence = self._after + 1
        self._live = []
        if not slots:
            return
        if slots[0] != 0:
            raise Corrupt(f"{self._key(0)} is missing; restore it from a copy")
        lowest = len(slots) - 1
        while lowest > 0 and slots[lowest - 1] == slots[lowest] - 1:
            lowest -= 1
        self._live = live = slots if lowest == 0 else [0, *slots[lowest:]]
        self.first_sequence = self.next_sequence = self._first_of(0)
        low, high = 0, len(live) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._first_of(live[middle]) <= self._after + 1:
                low = middle
            else:
                high = middle - 1
        self.slot = live[low]
        self.next_sequence = self._first_of(self.slot)

    @property
    def _highest(self) -> int:
        return self._live[-1] if self._live else -1

    def _next_slot(self) -> None:
        """Go on behind the current slot; behind slot 0 over those that were deleted."""
        if self.slot == 0 and len(self._live) > 1 and self._live[1] > 1:
            self._resume(self._live[1])
        else:
            self.slot += 1

    def _resume(self, slot: int) -> None:
        """Go on at a slot behind a gap."""
        if not self._deleted_ok:
            raise Corrupt(f"{self._key(self.slot + 1)} is missing; restore it from a copy")
        self.slot = slot
        self.next_sequence = self.resumed_at = self._first_of(slot)

    def _is_end(self) -> bool:
        """Does nothing stand above the fence in the current slot?"""
        slots = self._listed()
        return not slots or slots[-1] <= self.slot

    def _first_of(self, slot: int) -> int:
        head = self._store.read(self._key(slot), 0, SEGMENT_HEADER_BYTES)
        header = decode_segment_header(head, nonce=self._claim.nonce, segment=slot)
        if header is None:
            raise Corrupt(f"{self._key(slot)} is damaged at offset 0; restore it from a copy")
        return header.first_sequence

    def read_to_free_slot(self, *, records_max: int | None = None) -> None:
        """Read slots from ``slot`` on until one is absent or holds a fence."""
        while not self.fenced:
            if records_max is not None and len(self.records) >= records_max:
                del self.records[records_max:]
                return
            data = self._store.get(self._key(self.slot))
            if data is not None:
                self.take(data)
            elif self.slot > self._highest:
                return
            else:
                self.start()  # It was deleted since the slots were listed.

    def take(self, data: bytes) -> None:
        """Take the contents of the current slot."""
        key, nonce, slot = self._key(self.slot), self._claim.nonce, self.slot
        header = decode_segment_header(data, nonce=nonce, segment=slot)
        if header is None:
            raise Corrupt(f"{key} is damaged at offset 0; restore it from a copy")
        if slot == 0:
            self.first_sequence = self.next_sequence = header.first_sequence
        at = SEGMENT_HEADER_BYTES
        while at < len(data):
            record = decode_record(data, at, nonce=nonce, segment=slot)
            if record is None or record.sequence != self.next_sequence:
                raise Corrupt(
                    f"{key} is damaged at offset {at}, sequence {self.next_sequence}; "
                    "restore it from a copy"
                )
            if record.kind is RecordKind.FENCE:
                self._take_fence()
                return
            self.next_sequence += 1
            at = record.end_offset
            if record.sequence > self._after:
                self.records.append(record)
        self._next_slot()

    def _take_fence(self) -> None:
        """A fence is the end, unless an earlier successor put it where a slot had been deleted."""
        if self.slot < self._highest:
            self._resume(self.slot + 1)
        elif self._is_end():
            self.fenced = True
        else:
            self.start()

    def put_fence(self, token: bytes) -> None:
        """Put a fence in the first free slot, taking what the owner wins meanwhile."""
        for _ in range(FENCE_TRIES_MAX):
            self.read_to_free_slot()
            if self.fenced:
                break
            header, padding, _ = encode_record(
                RecordKind.FENCE,
                nonce=self._claim.nonce,
                incarnation=token,
                segment=self.slot,
                sequence=self.next_sequence,
                durable_to=0,
                payload=(token,),
            )
            fence = _header(self._claim, self.slot, self.next_sequence) + header + token + padding
            outcome = self._put_known(self._key(self.slot), fence)
            if isinstance(outcome, Lost):
                self.take(outcome.existing)
            elif self._is_end():
                self.fenced = True
                break
            else:
                self.start()
        else:
            raise LimitExceeded(f"no free slot found for a fence in {FENCE_TRIES_MAX} tries")
        if self.next_sequence <= self._known:
            raise Corrupt(
                f"{self._key(self.slot)}: the log ends below sequence {self._known}, which was "
                "durable; restore it from a copy"
            )

    def _put_known(self, key: str, data: bytes) -> Won | Lost:
        for attempt in range(PUT_TRIES_MAX):
            try:
                return self._store.put_if_absent(key, data)
            except StoreUnknown:
                if attempt == PUT_TRIES_MAX - 1:
                    raise
        raise AssertionError("unreachable")


async def seal_slot_log(
    store: Store,
    claim: Claim,
    blocking: Blocking,
    entropy: Entropy,
    asked: Asked,
) -> SealedLog:
    """Walk to the first free slot and fence it; see ``FencedStore.seal``."""
    walk = _SlotWalk(store, claim, asked)
    token = entropy.token(16)
    await blocking.run("", walk.start, walk.read_to_free_slot, lambda: walk.put_fence(token))
    return SealedLog(
        claim, walk.first_sequence, walk.next_sequence - 1, walk.records, walk.resumed_at
    )


async def peek_slot_log(
    store: Store, claim: Claim, blocking: Blocking, *, records_max: int, after: int
) -> Sequence[Record]:
    """Read whole records from the log's start without fencing it."""
    walk = _SlotWalk(store, claim, Asked(after, 0, True))
    await blocking.run("", walk.start, lambda: walk.read_to_free_slot(records_max=records_max))
    return walk.records
