"""Logs on slot backends: fences, own objects recognised, order of acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import fsspec
import pytest
from storage_harness import InlineBlocking, SeededEntropy, VirtualClock, a_claim, run

from sofs.core.pace import next_turn
from sofs.core.record import RecordKind
from sofs.errors import Corrupt, Fenced, OutcomeUnknown, StoreFailed, StoreUnknown
from sofs.ports.log import SealedLog
from sofs.ports.store import Lost, Won
from sofs.storage import (
    LogOptions,
    MemorySlotStore,
    StoreFences,
    ThreadBlocking,
    open_fenced,
    slotlog,
)
from sofs.storage.fenced import ASIDES_MAX
from sofs.storage.walk import Asked

LOG = "logs/volume/00000000000000000001"
URL = "memory://slot-logs"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    filesystem = fsspec.filesystem("memory")
    for path in filesystem.find("/slot-logs"):
        filesystem.rm_file(path)


class Faulty(MemorySlotStore):
    """Loses requests or replies of creates in the log's folder."""

    def __init__(self, *, requests: int = 0, replies: int = 0) -> None:
        super().__init__(URL)
        self.lost_requests, self.lost_replies = requests, replies
        self.creates = 0

    def put_if_absent(self, key: str, data: bytes) -> Won | Lost:
        if not key.startswith("logs/"):
            return super().put_if_absent(key, data)
        self.creates += 1
        if self.lost_requests:
            self.lost_requests -= 1
            raise StoreUnknown(f"create {key}: no reply")
        outcome = super().put_if_absent(key, data)
        if self.lost_replies:
            self.lost_replies -= 1
            raise StoreUnknown(f"create {key}: no reply")
        return outcome


def fences(store: MemorySlotStore | None = None, seed: int = 1) -> StoreFences:
    return open_fenced(
        store or MemorySlotStore(URL),
        VirtualClock(),
        SeededEntropy(seed),
        InlineBlocking(),
        LogOptions(batch_bytes_max=2000),
    )


async def owner(fenced: StoreFences, first: int = 1) -> object:
    assert await fenced.try_claim(a_claim(1)) is None
    return await fenced.open_log(a_claim(1), first_sequence=first)


def test_batches_are_slots_in_order_and_a_successor_reads_them() -> None:
    async def main() -> None:
        fenced = fences()
        log = await owner(fenced, first=5)
        places = []
        for index in range(60):
            await log.room(100)
            places.append(log.append(RecordKind.ENTRY, [b"%02d" % index * 40]))
            if index % 7 == 0:
                await log.durable(places[-1].sequence)
        await log.close()
        assert [place.segment for place in places] == sorted(place.segment for place in places)
        assert places[-1].segment > 5
        place = places[33]
        got = await fenced.blocks.read("volume", 1, place.segment, place.payload_offset, 4)
        assert got == b"3333"
        other = fences(seed=2)
        assert await other.try_claim(a_claim(2)) is None
        for _ in range(2):
            sealed = await other.seal(a_claim(1))
            assert (sealed.first_sequence, sealed.last_sequence) == (5, 64)
            assert [bytes(r.payload) for r in sealed.records] == [
                b"%02d" % index * 40 for index in range(60)
            ]
        sealed = await other.seal(a_claim(1), after_sequence=50)
        assert [record.sequence for record in sealed.records] == list(range(51, 65))
        assert [r.sequence for r in await other.peek_log(a_claim(1), records_max=3)] == [5, 6, 7]
        with pytest.raises(Fenced):
            await log.check()

    run(main())


def test_after_the_fence_the_owner_wins_no_slot_and_acknowledges_nothing() -> None:
    async def main() -> None:
        log = await owner(fences())
        await log.durable(log.append(RecordKind.ENTRY, [b"acked"]).sequence)
        other = fences(seed=2)
        assert await other.try_claim(a_claim(2)) is None
        sealed = await other.seal(a_claim(1))
        with pytest.raises(Fenced):
            await log.durable(log.append(RecordKind.ENTRY, [b"late"]).sequence)
        again = await fences(seed=3).seal(a_claim(1))
        for result in (sealed, again):
            assert [bytes(record.payload) for record in result.records] == [b"acked"]

    run(main())


def test_a_record_that_wins_its_slot_before_the_fence_is_acknowledged_and_adopted() -> None:
    async def main() -> None:
        log = await owner(fences())
        other = fences(seed=2)
        assert await other.try_claim(a_claim(2)) is None
        await log.durable(log.append(RecordKind.ENTRY, [b"in time"]).sequence)
        sealed = await other.seal(a_claim(1))
        assert [bytes(record.payload) for record in sealed.records] == [b"in time"]

    run(main())


def test_a_fence_that_loses_its_slot_to_the_owner_takes_the_record_and_goes_on() -> None:
    async def main() -> None:
        log = await owner(fences())
        await log.durable(log.append(RecordKind.ENTRY, [b"one"]).sequence)

        class Racing(MemorySlotStore):
            racing = 2

            def put_if_absent(self, key: str, data: bytes) -> Won | Lost:
                if key.startswith("logs/") and self.racing:
                    self.racing -= 1
                    log._open = None
                    log.append(RecordKind.ENTRY, [b"raced %d" % self.racing])
                    batch, log._open = log._open, None
                    assert batch is not None
                    steps = log._make_durable(batch)
                    with pytest.raises(StopIteration):
                        while True:
                            steps.send(None)
                return super().put_if_absent(key, data)

        other = fences(Racing(URL), seed=2)
        sealed = await other.seal(a_claim(1))
        assert [bytes(record.payload) for record in sealed.records] == [
            b"one",
            b"raced 1",
            b"raced 0",
        ]

    run(main())


@pytest.mark.parametrize("kind", ["requests", "replies"])
def test_a_lost_reply_is_asked_again_and_the_own_object_recognised(kind: str) -> None:
    async def main() -> None:
        store = Faulty(**{kind: 2})
        log = await owner(fences(store))
        await log.durable(log.append(RecordKind.ENTRY, [b"mine"]).sequence)
        assert store.creates == 3
        assert log.counters()["retries"] == 2
        assert store.list(LOG) == [f"{LOG}/{0:020d}"]
        await log.durable(log.append(RecordKind.ENTRY, [b"next"]).sequence)
        assert (await fences(seed=2).seal(a_claim(1))).last_sequence == 2

    run(main())


@pytest.mark.parametrize("kind", ["requests", "replies"])
def test_an_outcome_that_stays_open_ends_the_log_after_bounded_tries(kind: str) -> None:
    async def main() -> None:
        store = Faulty(**{kind: 1000})
        log = await owner(fences(store))
        with pytest.raises(OutcomeUnknown):
            await log.durable(log.append(RecordKind.ENTRY, [b"open"]).sequence)
        assert store.creates < 10
        with pytest.raises(OutcomeUnknown):
            log.append(RecordKind.ENTRY, [b"more"])
        sealed = await fences(seed=2).seal(a_claim(1))
        assert sealed.last_sequence == (1 if kind == "replies" else 0)

    run(main())


def test_a_damaged_or_missing_slot_is_told() -> None:
    async def main() -> None:
        store = MemorySlotStore(URL)
        log = await owner(fences(store))
        for index in range(4):
            await log.durable(log.append(RecordKind.ENTRY, [b"%d" % index]).sequence)
        key = f"{LOG}/{2:020d}"
        data = store.get(key)
        told: list[str] = []
        for at in range(0, len(data), 8):
            store.delete(key)
            store.put_if_absent(key, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            try:
                sealed = await fences(seed=2).seal(a_claim(1))
                assert [bytes(r.payload) for r in sealed.records] == [b"0", b"1", b"2", b"3"]
            except Corrupt as error:
                told.append(str(error))
        assert told
        assert all(key in message for message in told)
        store.delete(key)
        with pytest.raises(Corrupt):
            await fences(seed=3).seal(a_claim(1), known_durable=4)

    run(main())


def _seal_past_damage(seed: int, *, after: int = 0) -> tuple[list[int], list[int], int]:
    """Sequences that were read, and those in gaps, and the last."""

    async def seal() -> SealedLog:
        return await fences(seed=seed).seal(
            a_claim(1), after_sequence=after, known_durable=9, damaged_ok=True
        )

    sealed = run(seal())
    lost = [n for gap in sealed.gaps for n in range(gap.first, gap.last + 1)]
    return [r.sequence for r in sealed.records], lost, sealed.last_sequence


@pytest.mark.parametrize("slot", range(3))
@pytest.mark.parametrize("length", [1, 64, 100_000])
def test_who_can_go_on_gets_everything_but_the_damaged_records_of_a_slot(
    slot: int, length: int
) -> None:
    """Three slots of three records. Whatever is damaged in one: what is not read is in a gap, the
    other slots are read, and a second seal answers the same."""

    async def write() -> None:
        log = await owner(fences())
        for _ in range(3):
            for _ in range(3):
                place = log.append(RecordKind.ENTRY, [b"x" * 100])
            await log.durable(place.sequence)
        await log.close()

    run(write())
    store = MemorySlotStore(URL)
    key, fence = f"{LOG}/{slot:020d}", f"{LOG}/{3:020d}"
    whole = store.get(key)
    assert whole is not None
    others = [n for n in range(1, 10) if (n - 1) // 3 != slot]
    lost_some = 0
    for at in range(0, len(whole), 16):
        bad = bytes(b ^ 0x5A for b in whole[at : at + length])
        store.delete(key)
        store.delete(fence)
        store.put_if_absent(key, whole[:at] + bad + whole[at + length :])
        read, lost, last = _seal_past_damage(2)
        assert sorted([*read, *lost]) == list(range(1, 10))
        assert set(others) <= set(read)
        assert last == 9
        lost_some += bool(lost)
        assert _seal_past_damage(3) == (read, lost, last)
        read_above, lost_above, _ = _seal_past_damage(3, after=4)
        assert sorted({*read_above, *(n for n in lost_above if n > 4)}) == list(range(5, 10))
    assert lost_some


def test_slots_are_deleted_in_order_and_the_first_goes_last() -> None:
    async def main() -> None:
        fenced = fences()
        log = await owner(fenced)
        for index in range(8):
            await log.durable(log.append(RecordKind.ENTRY, [b"%d" % index]).sequence)
        assert await fenced.delete_segments(a_claim(1), below_segment=5) == 4
        with pytest.raises(Corrupt):
            await fenced.seal(a_claim(1))
        sealed = await fenced.seal(a_claim(1), deleted_ok=True)
        assert sealed.resumed_at == 6
        assert [r.sequence for r in sealed.records] == [1, 6, 7, 8]
        sealed = await fenced.seal(a_claim(1), after_sequence=5)
        assert [r.sequence for r in sealed.records] == [6, 7, 8]

    run(main())


class Vanishing(MemorySlotStore):
    """Its owner deletes slots, and wins others, just before a reader gets or fences a slot."""

    def __init__(self) -> None:
        super().__init__(URL)
        self.before: dict[str, Callable[[], object]] = {}

    def _meet(self, what: str, key: str) -> None:
        step = self.before.pop(f"{what} {key[-2:]}", None)
        if step is not None:
            step()

    def get(self, key: str) -> bytes | None:
        if key.startswith(LOG):
            self._meet("get", key)
        return super().get(key)

    def put_if_absent(self, key: str, data: bytes) -> Won | Lost:
        if key.startswith(LOG):
            self._meet("put", key)
        return super().put_if_absent(key, data)

    def delete_slots(self, first: int, last: int) -> None:
        for slot in range(first, last + 1):
            self.delete(f"{LOG}/{slot:020d}")


class Blind(MemorySlotStore):
    """Lists nothing: a reader that looked before there was anything."""

    def __init__(self) -> None:
        super().__init__(URL)

    def list(self, prefix: str, *, after: str = "") -> list[str]:
        return []


async def ten_slots(store: MemorySlotStore) -> None:
    log = await owner(fences(store))
    for index in range(10):
        await log.durable(log.append(RecordKind.ENTRY, [b"%d" % index]).sequence)
    await log.close()


async def sealed_by(store: MemorySlotStore, seed: int) -> tuple[int, int]:
    """The sequence at which a seal found the log to go on, and the last one."""
    sealed = await fences(store, seed).seal(a_claim(1), deleted_ok=True)
    assert [r.sequence for r in sealed.records if r.sequence >= sealed.resumed_at] == list(
        range(max(sealed.resumed_at, 1), sealed.last_sequence + 1)
    )
    return sealed.resumed_at, sealed.last_sequence


def test_slots_that_are_deleted_while_they_are_read_are_not_the_end_of_the_log() -> None:
    async def main() -> None:
        store = Vanishing()
        await ten_slots(store)
        store.before["get 01"] = lambda: store.delete_slots(1, 3)
        assert await sealed_by(store, 2) == (5, 10)
        assert await sealed_by(store, 3) == (5, 10)

    run(main())


def test_a_fence_in_the_place_of_a_deleted_slot_is_none_for_anybody() -> None:
    async def main() -> None:
        store = Vanishing()
        log = await owner(fences(store))
        await log.durable(log.append(RecordKind.ENTRY, [b"first"]).sequence)
        await log.durable(log.append(RecordKind.ENTRY, [b"second"]).sequence)

        def go_on() -> None:
            """The owner wins slots 2 to 6, and deletes all below 4 after a checkpoint."""
            for step in range(5):
                log.append(RecordKind.ENTRY, [b"more %d" % step])
                batch, log._open = log._open, None
                steps = log._make_durable(batch)
                with pytest.raises(StopIteration):
                    while True:
                        steps.send(None)
            store.delete_slots(1, 3)

        store.before["put 02"] = go_on
        assert await sealed_by(store, 2) == (5, 7)
        assert f"{LOG}/{2:020d}" in store.list(LOG), "the needless fence stays"
        assert await sealed_by(store, 3) == (5, 7)
        with pytest.raises(Fenced):
            await log.durable(log.append(RecordKind.ENTRY, [b"late"]).sequence)

    run(main())


def test_a_needless_fence_next_to_slots_that_live_is_read_over() -> None:
    async def main() -> None:
        store = Vanishing()
        await ten_slots(store)
        store.before["get 10"] = lambda: store.delete_slots(1, 3)
        assert await sealed_by(store, 2) == (0, 10)
        assert store.get(f"{LOG}/{10:020d}") is not None  # The fence.
        walk = slotlog._SlotWalk(Blind(), a_claim(1), Asked(0, 0, True))
        walk.slot, walk.next_sequence = 3, 4
        walk.put_fence(b"x" * 16)  # In slot 3, beside the slots 4 to 10.
        assert f"{LOG}/{3:020d}" in store.list(LOG)
        assert await sealed_by(store, 3) == (5, 10)

    run(main())


def test_a_late_copy_of_a_put_whose_slot_was_deleted_is_not_read() -> None:
    async def main() -> None:
        store = Vanishing()
        await ten_slots(store)
        copy = store.get(f"{LOG}/{2:020d}")
        assert copy is not None
        store.delete_slots(1, 5)
        assert store.put_if_absent(f"{LOG}/{2:020d}", copy) == Won()
        assert await sealed_by(store, 2) == (7, 10)

    run(main())


def test_a_slot_that_is_missing_below_others_is_never_the_end() -> None:
    async def main() -> None:
        store = Vanishing()
        await ten_slots(store)
        store.delete_slots(4, 4)
        with pytest.raises(Corrupt):
            await fences(store, 2).seal(a_claim(1))
        assert await sealed_by(store, 3) == (
            6,
            10,
        )  # Recovery asks for a checkpoint that covers it.

    run(main())


def test_a_create_whose_winner_cannot_be_read_is_unknown_not_refused() -> None:
    """The object may be our own, from a request whose reply was lost: a caller that is told of a
    refusal would take its claim for lost."""
    store = MemorySlotStore(URL)
    store.put_if_absent("claims/volume/1", b"own")

    class Unreadable(MemorySlotStore):
        def get(self, key: str) -> bytes | None:
            raise StoreFailed(f"get {key}: slow down")

    with pytest.raises(StoreUnknown, match="claims/volume/1 exists and cannot be read"):
        Unreadable(URL).put_if_absent("claims/volume/1", b"own")


class Watching(ThreadBlocking):
    """Counts how many calls of the pool are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    async def run(
        self, lane: str, *steps: Callable[[], object], brief: bool = False
    ) -> list[object]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().run(lane, *steps, brief=brief)
        finally:
            self.now -= 1


class Counting(MemorySlotStore):
    """Counts requests by kind; ``missing``: slots that are listed and were deleted since."""

    def __init__(self) -> None:
        super().__init__(URL)
        self.asked: list[tuple[str, str]] = []
        self.shown: list[int] = []  # Keys of each listing.
        self.missing: set[str] = set()

    def get(self, key: str) -> bytes | None:
        self.asked.append(("get", key))
        return None if key in self.missing else super().get(key)

    def read(self, key: str, offset: int, length: int) -> bytes:
        self.asked.append(("head", key))
        return super().read(key, offset, length)

    def list(self, prefix: str, *, after: str = "") -> list[str]:
        self.asked.append(("list", prefix))
        found = super().list(prefix, after=after)
        self.shown.append(len(found))
        return found

    def delete(self, key: str) -> None:
        self.asked.append(("delete", key))
        super().delete(key)


async def asides(fenced: StoreFences) -> None:
    """Wait for what nobody waits for."""
    if fenced._asides:
        await asyncio.wait(list(fenced._asides))


async def tail(slots: int) -> None:
    """A log of so many slots, one record each."""
    log = await owner(fences())
    for index in range(slots):
        await log.durable(log.append(RecordKind.ENTRY, [b"%03d" % index]).sequence)
    await log.close()


def test_a_long_tail_is_fetched_several_slots_at_a_time_and_each_once() -> None:
    async def main() -> None:
        await tail(50)
        store, blocking = Counting(), Watching()
        other = open_fenced(store, VirtualClock(), SeededEntropy(2), blocking)
        assert await other.try_claim(a_claim(2)) is None
        await asides(other)
        store.asked.clear()
        sealed = await other.seal(a_claim(1))
        assert [bytes(r.payload) for r in sealed.records] == [b"%03d" % n for n in range(50)]
        assert blocking.most == slotlog.FETCH_AT_ONCE
        slots = [key for kind, key in store.asked if kind == "get" and key.startswith(LOG)]
        assert len(slots) == len(set(slots)) == 51  # The last one is the free one.
        assert store.shown == [50, 0, 0]  # The whole log once; then only what is behind its end.
        blocking.close()

    run(main())


def test_a_slot_that_is_missing_among_those_fetched_ahead_is_looked_at_in_its_turn() -> None:
    async def main() -> None:
        await tail(12)
        store = Counting()
        store.missing = {f"{LOG}/{5:020d}"}
        other = open_fenced(store, VirtualClock(), SeededEntropy(2), InlineBlocking())
        assert await other.try_claim(a_claim(2)) is None
        with pytest.raises(Corrupt, match=f"{5:020d} is missing"):
            await other.seal(a_claim(1))
        sealed = await other.seal(a_claim(1), damaged_ok=True)
        assert [(gap.first, gap.last) for gap in sealed.gaps] == [(6, 6)]
        assert sealed.last_sequence == 12

    run(main())


def test_what_nobody_waits_for_is_done_all_the_same() -> None:
    """The probe's object goes and the hint comes, behind the answer."""

    async def main() -> None:
        store = Counting()
        fenced = open_fenced(store, VirtualClock(), SeededEntropy(), InlineBlocking())
        await fenced.probe_latency()
        assert await fenced.try_claim(a_claim(1)) is None
        await asides(fenced)
        assert store.list("probes") == []
        assert store.get("claims/volume.hint") == b"1\n"
        assert await fenced.highest_claim("volume") == a_claim(1)
        store.asked.clear()
        assert await fenced.try_claim(a_claim(2)) is None
        assert store.asked == []  # The claim below was read before, and claims are kept.

    run(main())


class HeldDeletes(InlineBlocking):
    """Deletions wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.waiting = 0

    async def run(
        self, lane: str, *steps: Callable[[], object], brief: bool = False
    ) -> list[object]:
        if any("delete" in step.__code__.co_names for step in steps):
            self.waiting += 1
            await self.go.wait()
        return await super().run(lane, *steps, brief=brief)


def test_of_what_nobody_waits_for_only_so_many_steps_are_under_way() -> None:
    async def main() -> None:
        blocking = HeldDeletes()
        fenced = open_fenced(Counting(), VirtualClock(), SeededEntropy(), blocking)
        for _ in range(ASIDES_MAX):
            await fenced.probe_latency()
        one_more = asyncio.ensure_future(fenced.probe_latency())
        await asyncio.wait([one_more], timeout=0)
        while blocking.waiting <= ASIDES_MAX:
            await next_turn()
        assert not one_more.done()  # It waits for its own: the disk or the service is slow.
        blocking.go.set()
        await one_more
        await asides(fenced)
        assert fenced.store.list("probes") == []

    run(main())


@pytest.mark.parametrize("a_slot", [1, 3])
@pytest.mark.parametrize("after", [0, 1, 7, 299, 899, 940, 960])
def test_the_slot_where_a_tail_begins_is_found_in_few_requests(a_slot: int, after: int) -> None:
    """However many slots there are; ``a_slot``: records in each."""

    async def main() -> None:
        log = await owner(fences())
        for index in range(300):
            for part in range(a_slot):
                place = log.append(RecordKind.ENTRY, [b"%d" % (index * a_slot + part)])
            await log.durable(place.sequence)
        await log.close()
        last = 300 * a_slot
        store = Counting()
        walk = slotlog._SlotWalk(store, a_claim(1), Asked(min(after, last), 0, False))
        walk.start()
        assert walk.slot == min(min(after, last) // a_slot, 299)
        heads = sum(kind == "head" for kind, _ in store.asked)
        if last - SHORT <= after <= last:
            assert heads <= 8
        assert heads <= 16

    run(main())


SHORT = slotlog.SHORT_TAIL


def test_a_slot_without_a_record_does_not_hide_the_one_below_it() -> None:
    """A fence that a deletion left behind holds none: a guess by counting must not be believed."""

    class Scripted(slotlog._SlotWalk):
        firsts = (1, 2, 10, 11, 11, 12)  # The fifth slot repeats what the fourth began with.

        def _first_of(self, slot: int) -> int | None:
            return self.firsts[slot]

    for after, slot in ((9, 2), (10, 4), (11, 5), (1, 1), (0, 0), (8, 1)):
        walk = Scripted(MemorySlotStore(URL), a_claim(1), Asked(after, 0, False))
        assert walk._search(list(range(6))) == slot, after


@pytest.mark.parametrize("a_slot", [1, 3])
def test_the_begin_of_a_tail_is_the_same_without_listing_the_log_or_with_it(a_slot: int) -> None:
    async def main() -> None:
        log = await owner(fences(), first=5)
        for _ in range(200):
            for _ in range(a_slot):
                place = log.append(RecordKind.ENTRY, [b"x"])
            await log.durable(place.sequence)
        await log.close()
        for after in (0, 63, 64, 100, 150, 180, 203, 204, 400, 500, 604):
            if after > place.sequence:
                continue
            found = []
            for near in (True, False):
                store = Counting()
                walk = slotlog._SlotWalk(store, a_claim(1), Asked(after, 0, False))
                if not near:
                    walk._start_near = lambda: False  # type: ignore[method-assign]
                walk.start()
                found.append((walk.slot, walk.first_sequence, walk.next_sequence))
                if near and a_slot == 1 and after >= 180:
                    assert max(store.shown) <= 2 * slotlog.SHORT_TAIL
            assert found[0] == found[1], after

    run(main())
