"""The log of a slot backend (R12): one object per batch, existence decided by ``put_if_absent``
alone.

Why safe. Slot n is put only after slots 0..n-1 were won, so acknowledging in slot order comes for
free. A successor walks the slots upward and puts a fence in the first free one: from then on the
owner loses that slot, and learns that it is fenced; whatever it won before, the successor has
read. A put whose outcome is open is sent again with the same bytes, which hold the log's secret
nonce and are written to one slot only: finding them there is a win. After PUT_TRIES_MAX the log
ends, and the successor decides. Fences are never deleted, slots in ascending order only, and slot
0 (which holds the lineage) last.

An absent slot is free only if no higher one exists; else it was deleted. Requests may land late: a
walker's first look at a slot and its fence may lie on both sides of a deletion, and a copy of a put
that was sent again may land when its slot is deleted. Neither decides anything: the log is what is
in the highest row of slots without a hole, and a fence counts only where nothing is above it (R10).
So a walk lists the log whenever it comes to an absent slot, and once more when it has its fence.
This needs listings that show every object whose creation was answered before they began.

Reads (R12 asks for a serving grant that is renewed by winning a slot or by a strongly consistent
read; ADR 0014). There is no grant that outlives a reply: ``check`` is itself such a read, of the
successor's claim, begun after the data was read, once for each frame of replies. If it finds
nothing, no successor had claimed at some moment after the read; a successor acknowledges nothing
before it has claimed, so what was read was still the newest then. No clock is trusted. The price is
a round trip to the backend for each frame that serves data.

An object is a segment header and records; its number is the slot's. Objects are whole or absent:
one that does not verify is corruption, there are no torn tails. A caller that can go on without
damaged records (``damaged_ok``) is told of them as gaps.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Final, cast

from sofs.constants import BLOCK_BYTES, RECORD_ALIGN_BYTES
from sofs.core.record import (
    KIND_AT,
    NONCE_AT,
    PAYLOAD_BYTES_MAX,
    SEGMENT_HEADER_BYTES,
    Record,
    RecordKind,
    decode_segment_header,
    encode_record,
    encode_segment_header,
    record_bytes,
)
from sofs.errors import Corrupt, Fenced, LimitExceeded, MessageTooLarge, StoreFailed, StoreUnknown
from sofs.ports.log import Claim, Gap, SealedLog
from sofs.ports.runtime import Blocking, Clock, Entropy
from sofs.ports.store import Buffer, Lost, Store, Won
from sofs.storage.logbase import BaseLog, Batch, LogOptions
from sofs.storage.names import claim_key, log_folder, number_of, slot_key
from sofs.storage.walk import Asked, walked

SHORT_TAIL: Final = 32  # Slots; a node commits before its tail is longer (``COMMIT_SEGMENTS``).
FETCH_AT_ONCE: Final = 8  # Slots of a tail: as many as a process has threads for the store.
PUT_TRIES_MAX: Final = 4
PUT_RETRY_MS: Final = 50
FENCE_TRIES_MAX: Final = (
    100_000  # Slots that a live owner may win while its successor puts the fence.
)


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
        self._damaged_ok = asked.damaged_ok
        self._lost = (
            ""  # What is damaged at the end of the last slot: nobody knows how much it was.
        )
        self.gaps: list[Gap] = []
        self.resumed_at = 0
        self.records: list[Record] = []
        self.first_sequence = self.next_sequence = after + 1
        self.slot = 0
        self.fenced = False
        self._listed: list[int] = []  # Slots that were there at the start.
        self._ahead: dict[int, bytes] = {}  # Contents that were fetched before their turn.

    def _key(self, slot: int) -> str:
        return slot_key(self._claim.role, self._claim.epoch, slot)

    def _numbers(self, above: int = -1) -> list[int]:
        """Numbers of the slots that exist above ``above``, ascending; a few that were deleted may
        be among them. What is below need not be listed: a log has as many slots as its owner made
        batches."""
        folder = log_folder(self._claim.role, self._claim.epoch)
        after = self._key(above) if above >= 0 else ""
        return sorted(map(number_of, self._store.list(folder, after=after)))

    def start(self) -> None:
        """Find the slot to begin with: the last that starts at or below the first record asked
        for."""
        if self._start_near():
            return
        slots = self._listed = self._numbers()
        if not slots:
            return
        if slots[0] != 0:
            raise Corrupt(f"{self._key(0)} is missing; restore it from a copy")
        self.first_sequence = self.next_sequence = self._known_first_of(0) or self.next_sequence
        try:
            self.slot = self._search(slots)
        except Corrupt:
            if not self._damaged_ok:
                raise
            self.slot = self._search_down(slots)
        first = self._known_first_of(self.slot)
        if first is None:  # Deleted, and still listed: of what is below it only slot 0 stays.
            self.slot = 0
        else:
            self.next_sequence = first

    def _start_near(self) -> bool:
        """Find it without listing the whole log, which takes a request for each thousand slots: a
        slot holds a record at least, so the one looked for is at most as many slots up as there are
        records below; with one writer at a time it is little below that. False, with nothing
        changed, when it is not found so: the listing decides then."""
        if self._after < 2 * SHORT_TAIL:
            return False
        try:
            zero = self._first_of(0)
            if zero is None:
                return False
            near = self._after + 1 - zero - SHORT_TAIL
            slots = self._numbers(near) if near > SHORT_TAIL else []
            if not slots or (self._first_of(slots[0]) or self._after + 2) > self._after + 1:
                return False
            slot = self._search(slots)
            first = self._first_of(slot)
        except Corrupt:
            return False  # The listing knows what to make of damage.
        if first is None or first > self._after + 1:
            return False
        self.first_sequence, self.next_sequence = zero, first
        self._listed, self.slot = slots, slot
        return True

    def _known_first_of(self, slot: int) -> int | None:
        """First sequence of a slot; what we expect of it if it cannot say; None: it was deleted."""
        try:
            return self._first_of(slot)
        except Corrupt:
            if not self._damaged_ok:
                raise
            return self.next_sequence

    def _search(self, slots: list[int]) -> int:
        """The last slot that starts at or below the first record asked for, in few requests: as a
        rule a tail is short, and with one writer at a time each of its slots holds one record."""
        wanted = self._after + 1
        low, high = 0, len(slots)  # The answer is at ``low`` or above it, and below ``high``.
        guesses = [high - 1]
        while low < high - 1:
            guess = guesses.pop(0) if guesses else 0
            middle = guess if low < guess < high else (low + high) // 2
            first = self._first_of(slots[middle])
            if first is None or first <= wanted:
                low = middle
                continue
            if high == len(slots):
                one_each = middle - (first - wanted)
                guesses = [one_each, one_each + 1, middle - SHORT_TAIL]
            high = middle
        return slots[low]

    def _search_down(self, slots: list[int]) -> int:
        """As ``_search``, past slots that do not say where they begin."""
        for slot in reversed(slots):
            with contextlib.suppress(Corrupt):
                first = self._first_of(slot)
                if first is not None and first <= self._after + 1:
                    return slot
        return slots[0]

    def _first_of(self, slot: int) -> int | None:
        """First sequence of a slot; None when it was deleted meanwhile."""
        key = self._key(slot)
        try:
            head = self._store.read(key, 0, SEGMENT_HEADER_BYTES)
        except StoreFailed:
            if self._store.get(key) is not None:
                raise
            return None
        header = decode_segment_header(head, nonce=self._claim.nonce, segment=slot)
        if header is None:
            raise Corrupt(f"{key} is damaged at offset 0; restore it from a copy")
        return header.first_sequence

    def _behind_deleted(self) -> bool:
        """The current slot is absent, or is a fence. Go to the first slot above it of the highest
        row; False when nothing is above it: then it is the log's end."""
        numbers = self._numbers(self.slot)
        row = len(numbers) - 1
        while row > 0 and numbers[row - 1] == numbers[row] - 1:
            row -= 1
        for number in numbers[max(row, 0) :]:
            if number <= self.slot:
                continue
            first = self._first_of(number)
            if first is None:
                continue
            missing = f"{self._key(self.slot)} is missing; restore it from a copy"
            if self._deleted_ok:
                self.next_sequence = self.resumed_at = first
            elif self._damaged_ok:
                self._lose(first, missing)
            else:
                raise Corrupt(missing)
            self.fenced = False
            self.slot = number
            return True
        return False

    def ahead(self) -> list[str]:
        """Keys of the next slots that were there at the start, to be fetched at the same time."""
        if self.fenced:
            return []
        self._listed = [number for number in self._listed if number >= self.slot]
        return [self._key(number) for number in self._listed[:FETCH_AT_ONCE]]

    def take_ahead(self, contents: Sequence[bytes | None]) -> None:
        """Take what ``ahead`` named as far as the slots follow each other without a hole. A slot
        that is absent is looked at again in its turn: only that look says what it means."""
        numbers, self._listed = self._listed[: len(contents)], self._listed[len(contents) :]
        for number, data in zip(numbers, contents, strict=True):
            if data is None:
                self._listed = []
            else:
                self._ahead[number] = data
        while not self.fenced and self.slot in self._ahead:
            self.take(self._ahead.pop(self.slot))

    def _content(self) -> bytes | None:
        fetched = self._ahead.pop(self.slot, None)
        return self._store.get(self._key(self.slot)) if fetched is None else fetched

    def read_to_free_slot(self, *, records_max: int | None = None) -> None:
        """Read slots from ``slot`` on until one is free or holds a fence."""
        while True:
            if records_max is not None and len(self.records) >= records_max:
                del self.records[records_max:]
                return
            data = None if self.fenced else self._content()
            if data is not None:
                self.take(data)
            elif not self._behind_deleted():
                return

    def take(self, data: bytes) -> None:
        """Take the contents of the current slot. The payloads of data records are left to who reads
        their pages: one that is damaged stops nobody else."""
        view, nonce, slot = memoryview(data), self._claim.nonce, self.slot
        header = decode_segment_header(data, nonce=nonce, segment=slot)
        if header is None:
            self._damaged(0)
        elif slot == 0:
            self.first_sequence = self.next_sequence = header.first_sequence
        elif self._lost:
            self._lose(header.first_sequence, self._lost)
        at = SEGMENT_HEADER_BYTES
        while at < len(data):
            record = None
            if at + KIND_AT < len(data):
                record = walked(view, at, nonce, slot, 0)
            if record is not None and self._lost and record.sequence > self.next_sequence:
                self._lose(record.sequence, self._lost)
            if record is None or record.sequence != self.next_sequence:
                self._damaged(at)
                at = self._behind_damage(view, at)
                continue
            if record.kind is RecordKind.FENCE:
                self.fenced = True
                return
            self._lost = ""  # Nothing is missing before a record that follows.
            self.next_sequence += 1
            at = record.end_offset
            if record.sequence > self._after:
                self.records.append(record)
        self.slot += 1

    def _damaged(self, at: int) -> None:
        """Something is not whole at an offset of the current slot: told, or lost."""
        what = (
            f"{self._key(self.slot)} is damaged at offset {at}, sequence {self.next_sequence}; "
            "restore it from a copy"
        )
        if not self._damaged_ok:
            raise Corrupt(what)
        self._lost = what

    def _behind_damage(self, view: memoryview, at: int) -> int:
        """Offset of the next whole record of this slot, or its end."""
        data, nonce = bytes(view), self._claim.nonce
        found = data.find(nonce, at + RECORD_ALIGN_BYTES)
        while found >= 0:
            start = found - NONCE_AT
            if start % RECORD_ALIGN_BYTES == 0:
                record = walked(view, start, nonce, self.slot, 0)
                if record is not None and record.sequence >= self.next_sequence:
                    self._lose(record.sequence, self._lost)
                    return start
            found = data.find(nonce, found + 1)
        return len(data)

    def _lose(self, end: int, what: str) -> None:
        """The records from ``next_sequence`` up to ``end`` cannot be read."""
        self._lost = ""
        if end > self.next_sequence:
            self.gaps.append(Gap(self.next_sequence, end - 1, what))
            self.next_sequence = end

    def put_fence(self, token: bytes) -> None:
        """Put a fence in the first free slot, taking what the owner wins meanwhile."""
        for _ in range(FENCE_TRIES_MAX):
            self.read_to_free_slot()
            if self._lost:  # At least one record; the fence says behind which sequence it stands.
                self._lose(max(self._known, self.next_sequence) + 1, self._lost)
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
            if isinstance(outcome, Won):
                self.fenced = True  # If nothing is above it: the next reading looks.
            else:
                self.take(outcome.existing)
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
    """Walk to the first free slot and fence it; see ``FencedStore.seal``. A tail is hundreds of
    slots when its owner wrote one at a time: those that a listing shows are fetched FETCH_AT_ONCE
    at a time. A slot that exists never changes, so it does not matter when it was read."""
    walk = _SlotWalk(store, claim, asked)
    token = entropy.token(16)
    await blocking.run("", walk.start)
    while keys := walk.ahead():
        found = await asyncio.gather(*(blocking.run("", partial(store.get, key)) for key in keys))
        contents = [cast("bytes | None", data) for [data] in found]
        await blocking.run("", partial(walk.take_ahead, contents))
    await blocking.run("", lambda: walk.put_fence(token))
    return SealedLog(
        claim,
        walk.first_sequence,
        walk.next_sequence - 1,
        walk.records,
        walk.resumed_at,
        walk.gaps,
    )


async def peek_slot_log(
    store: Store, claim: Claim, blocking: Blocking, *, records_max: int, after: int
) -> Sequence[Record]:
    """Read whole records from the log's start without fencing it."""
    walk = _SlotWalk(store, claim, Asked(after, 0, True))
    await blocking.run("", walk.start, lambda: walk.read_to_free_slot(records_max=records_max))
    return walk.records
