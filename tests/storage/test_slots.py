"""Logs on slot backends: fences, own objects recognised, order of acknowledgement."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest
from storage_harness import InlineBlocking, SeededEntropy, VirtualClock, a_claim, run

from sofs.core.record import RecordKind
from sofs.errors import Corrupt, Fenced, OutcomeUnknown, StoreUnknown
from sofs.ports.store import Lost, Won
from sofs.storage import LogOptions, MemorySlotStore, StoreFences, open_fenced

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
