"""The append log: places, group commit, rolling, room, waiters."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from pathlib import Path

import pytest
from storage_harness import SMALL, ModelDisk, Process, a_claim, process, run

from sofs.constants import BLOCK_BYTES
from sofs.core.record import RecordKind, decode_record, record_segment
from sofs.errors import DiskFull, InvariantViolation, LimitExceeded, OutcomeUnknown, StoreUnknown
from sofs.ports.log import LogWriter
from sofs.storage import (
    LocalAppendStore,
    LogOptions,
    SystemClock,
    SystemEntropy,
    ThreadBlocking,
    open_fenced,
)
from sofs.storage import logbase as logbase_module

LOG = "logs/volume/00000000000000000001"


async def opened(
    disk: ModelDisk, options: LogOptions = SMALL, first: int = 1
) -> tuple[Process, LogWriter]:
    node = process(disk, options)
    assert await node.fenced.try_claim(a_claim(1)) is None
    return node, await node.fenced.open_log(a_claim(1), first_sequence=first)


def test_records_of_all_sizes_come_back_in_order_from_many_segments() -> None:
    async def main() -> None:
        rng = random.Random(7)
        disk = ModelDisk()
        node, log = await opened(disk, first=41)
        written = []
        for index in range(300):
            pieces = [rng.randbytes(rng.choice((0, 1, 50, 700))) for _ in range(rng.randrange(3))]
            extension = rng.randbytes(rng.choice((0, 0, 16)))
            await log.room(sum(map(len, pieces)))
            placement = log.append(RecordKind.ENTRY, pieces, extension)
            written.append((41 + index, placement.segment, b"".join(pieces), extension))
            assert placement.sequence == 41 + index
            if rng.random() < 0.3:
                await log.durable(placement.sequence)
                assert log.durable_sequence == placement.sequence
        await log.close()
        assert node.fenced.store.list(LOG)[-1] >= f"{LOG}/00000010"
        await node.fenced.try_claim(a_claim(2))
        sealed = await process(disk).fenced.seal(a_claim(1))
        found = [(r.sequence, r.segment, bytes(r.payload), r.extension) for r in sealed.records]
        assert found == written
        assert (sealed.first_sequence, sealed.last_sequence) == (41, 340)
        for after in (0, 41, 100, 339, 340):
            sealed = await process(disk).fenced.seal(a_claim(1), after_sequence=after)
            assert [r.sequence for r in sealed.records] == list(range(max(41, after + 1), 341))
            assert sealed.first_sequence == 41
        peeked = await node.fenced.peek_log(a_claim(1), records_max=5)
        assert [r.sequence for r in peeked] == [41, 42, 43, 44, 45]
        peeked = await node.fenced.peek_log(a_claim(1), records_max=9, after_sequence=200)
        assert [r.sequence for r in peeked] == list(range(201, 210))

    run(main())


def test_a_placement_says_where_the_bytes_lie() -> None:
    async def main() -> None:
        disk = ModelDisk()
        options = LogOptions(first_bytes=64 * 1024, segment_bytes=64 * 1024)
        node, log = await opened(disk, options)
        pages = os.urandom(3 * BLOCK_BYTES)
        places = [
            log.append(RecordKind.DATA, [pages[:BLOCK_BYTES], pages[BLOCK_BYTES:]], block_sums=True)
            for _ in range(12)
        ]
        await log.durable(places[-1].sequence)
        for place in places:
            assert len(place.sums) == 3
            blocks = node.fenced.blocks
            at = place.payload_offset + BLOCK_BYTES
            got = await blocks.read("volume", 1, place.segment, at, BLOCK_BYTES)
            assert got == pages[BLOCK_BYTES : 2 * BLOCK_BYTES]
            assert blocks.cached("volume", 1, place.segment, at, 8) == got[:8]
        assert places[-1].segment > 0

    run(main())


def test_what_is_appended_in_one_turn_is_one_batch_with_one_sync_and_one_check() -> None:
    async def main() -> None:
        node, log = await opened(ModelDisk(), LogOptions())
        before = log.counters()
        syncs = sum(line.startswith("fsync") for line in node.calls.log)
        await asyncio.gather(
            *(log.durable(log.append(RecordKind.ENTRY, [b"x"]).sequence) for _ in range(100))
        )
        after = log.counters()
        assert after["batches"] - before["batches"] == 1
        assert after["checks"] - before["checks"] == 1
        assert sum(line.startswith("fsync") for line in node.calls.log) - syncs == 1

    run(main())


def test_the_next_batch_is_what_queued_up_while_the_one_before_was_written() -> None:
    async def main() -> None:
        node, log = await opened(ModelDisk(), LogOptions())
        batches: list[tuple[int, int]] = []
        log.on_durable(lambda first, last, records: batches.append((first, last)))

        def more(lane: str, index: int) -> None:
            if lane.startswith("log/") and index == 0 and log.next_sequence < 8:
                log.append(RecordKind.ENTRY, [b"x"])
                log.append(RecordKind.ENTRY, [b"y"])

        node.blocking.between = more
        await log.durable(log.append(RecordKind.ENTRY, [b"first"]).sequence)
        await log.close()
        assert batches[0] == (1, 1)
        assert batches[1:] == [(2, 3), (4, 5), (6, 7)]

    run(main())


def test_a_batch_is_bounded_by_bytes() -> None:
    async def main() -> None:
        options = LogOptions(first_bytes=1 << 20, segment_bytes=1 << 20, batch_bytes_max=10_000)
        _, log = await opened(ModelDisk(), options)
        sizes: list[int] = []
        log.on_durable(lambda first, last, records: sizes.append(sum(map(len, records))))
        for _ in range(50):
            last = log.append(RecordKind.ENTRY, [bytes(1000)]).sequence
        await log.durable(last)
        assert len(sizes) >= 5
        assert max(sizes) <= 10_000

    run(main())


def test_followers_get_the_encoded_records_before_waiters_run() -> None:
    async def main() -> None:
        _, log = await opened(ModelDisk())
        seen: list[bytes] = []
        order: list[str] = []

        def collect(first: int, last: int, records: object) -> None:
            seen.extend(records)
            order.append("callback")

        log.on_durable(collect)
        for index in range(40):
            await log.durable(log.append(RecordKind.ENTRY, [b"%d" % index * 30]).sequence)
            order.append("waiter")
        assert order == ["callback", "waiter"] * 40
        nonce = a_claim(1).nonce
        decoded = [decode_record(r, 0, nonce=nonce, segment=record_segment(r)) for r in seen]
        assert [bytes(r.payload) for r in decoded] == [b"%d" % index * 30 for index in range(40)]
        assert {r.segment for r in decoded} != {0}
        assert [r.sequence for r in decoded] == list(range(1, 41))

    run(main())


def test_waiters_may_wait_in_any_order_and_be_cancelled() -> None:
    async def main() -> None:
        _, log = await opened(ModelDisk(), LogOptions())
        last = [log.append(RecordKind.ENTRY, [b"x"]).sequence for _ in range(5)][-1]
        done: list[int] = []

        async def wait(sequence: int) -> None:
            await log.durable(sequence)
            done.append(sequence)

        tasks = [asyncio.create_task(wait(s)) for s in (5, 3, 4, 1, 2, 5)]
        doomed = asyncio.create_task(wait(3))
        await asyncio.sleep(0)
        doomed.cancel()
        await asyncio.gather(*tasks)
        assert sorted(done) == [1, 2, 3, 4, 5, 5]
        assert doomed.cancelled() or doomed.done()
        await log.durable(last)
        with pytest.raises(InvariantViolation):
            await log.durable(last + 1)

    run(main())


def test_records_state_what_was_durable_when_they_were_written() -> None:
    async def main() -> None:
        disk = ModelDisk()
        node, log = await opened(disk, first=10)
        log.append(RecordKind.ENTRY, [b"a"])
        await log.durable(log.append(RecordKind.ENTRY, [b"b"]).sequence)
        await log.durable(log.append(RecordKind.ENTRY, [b"c"]).sequence)
        await log.durable(log.append(RecordKind.IDLE, []).sequence)
        sealed = await node.fenced.seal(a_claim(1))
        assert [record.durable_to for record in sealed.records] == [0, 0, 11, 12]

    run(main())


# Room -------------------------------------------------------------------------------------------


def test_a_full_disk_is_a_definite_refusal_and_the_log_lives_on() -> None:
    async def main() -> None:
        disk = ModelDisk(capacity=7000)
        _, log = await opened(disk, LogOptions(first_bytes=2048, segment_bytes=4096))
        written: list[bytes] = []
        with pytest.raises(DiskFull):
            while True:
                await log.room(900)
                written.append(b"%d" % len(written) * 100)
                log.append(RecordKind.ENTRY, [written[-1]])
        assert log.ended is None
        next_sequence = log.next_sequence
        await log.room(10)  # What is left of the segment takes smaller records.
        await log.durable(log.append(RecordKind.ENTRY, [b"small"]).sequence)
        written.append(b"small")
        with pytest.raises(DiskFull):
            await log.room(900)
        assert log.next_sequence == next_sequence + 1
        disk.capacity = 1 << 20
        await log.room(900)
        await log.durable(log.append(RecordKind.ENTRY, [b"z" * 900]).sequence)
        await log.close()
        sealed = await process(disk).fenced.seal(a_claim(1))
        assert [bytes(record.payload) for record in sealed.records] == [*written, b"z" * 900]

    run(main())


def test_a_record_larger_than_a_segment_gets_one_that_fits() -> None:
    async def main() -> None:
        disk = ModelDisk(capacity=40_000)
        _, log = await opened(disk)
        await log.room(20_000)
        await log.durable(log.append(RecordKind.ENTRY, [bytes(20_000)]).sequence)
        with pytest.raises(DiskFull):
            await log.room(20_000)
        await log.room(500)
        await log.durable(log.append(RecordKind.ENTRY, [b"after"]).sequence)
        await log.close()
        sealed = await process(disk).fenced.seal(a_claim(1))
        assert [len(record.payload) for record in sealed.records] == [20_000, 5]

    run(main())


def test_appends_that_did_not_ask_for_room_wait_for_their_segment() -> None:
    async def main() -> None:
        disk = ModelDisk()
        _, log = await opened(disk)
        for index in range(100):
            last = log.append(RecordKind.ENTRY, [b"%03d" % index * 100]).sequence
        await log.durable(last)
        log.append(RecordKind.ENTRY, [bytes(9000)])
        await log.durable(log.append(RecordKind.ENTRY, [b"end"]).sequence)
        await log.close()
        sealed = await process(disk).fenced.seal(a_claim(1))
        assert len(sealed.records) == 102
        assert bytes(sealed.records[57].payload) == b"057" * 100

    run(main())


def test_an_append_without_room_that_meets_a_full_disk_ends_the_log() -> None:
    async def main() -> None:
        disk = ModelDisk(capacity=3000)
        _, log = await opened(disk)
        for _ in range(10):
            last = log.append(RecordKind.ENTRY, [bytes(300)]).sequence
        with pytest.raises(OutcomeUnknown):
            await log.durable(last)
        await log.close()

    run(main())


def test_a_queue_that_is_full_makes_room_wait_and_refuses_who_does_not_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logbase_module, "QUEUE_BYTES_HARD_MAX", 8000)

    async def main() -> None:
        options = LogOptions(
            first_bytes=1 << 20,
            segment_bytes=1 << 20,
            batch_bytes_max=1 << 20,
            queue_bytes_max=2000,
        )
        _, log = await opened(ModelDisk(), options)
        for _ in range(3):
            log.append(RecordKind.ENTRY, [bytes(1000)])
        assert log.durable_sequence == 0
        await log.room(1000)
        assert log.durable_sequence == 3
        with pytest.raises(LimitExceeded):
            for _ in range(20):
                log.append(RecordKind.ENTRY, [bytes(1000)])
        await log.close()
        assert log.ended is None

    run(main())


def test_large_records_go_to_reserved_segments_and_small_ones_find_their_way_back() -> None:
    async def main() -> None:
        disk = ModelDisk()
        mib = 1 << 20
        node, log = await opened(disk, LogOptions(first_bytes=mib, segment_bytes=2 * mib))
        made: dict[int, int] = {}
        create = node.fenced.store.create_segment

        def recording(key: str, *, zero_fill_bytes: int) -> object:
            made[int(key[-8:])] = zero_fill_bytes
            return create(key, zero_fill_bytes=zero_fill_bytes)

        node.fenced.store.create_segment = recording
        count = 0

        async def write(n_bytes: int, times: int) -> int:
            nonlocal count
            for _ in range(times):
                await log.room(n_bytes)
                place = log.append(RecordKind.ENTRY, [b"%d" % count * (n_bytes // len(str(count)))])
                await log.durable(place.sequence)
                count += 1
            return place.segment

        await write(300_000, 12)
        assert 0 in made.values(), "large records get a segment that is only reserved"
        reserved = await write(300_000, 2)
        small = await write(100, 600)
        assert small > reserved, "small records leave a reserved segment"
        kinds = len(made)
        await write(100, 3000)
        assert len(made) <= kinds + 2, "segments do not thrash"
        await log.close()
        sealed = await process(disk).fenced.seal(a_claim(1))
        assert len(sealed.records) == count

    run(main())


def test_of_segments_made_for_large_records_only_the_newest_stay_cached() -> None:
    async def main() -> None:
        disk, mib = ModelDisk(), 1 << 20
        options = LogOptions(
            first_bytes=mib, segment_bytes=2 * mib, large_cached_bytes=5 * mib // 2
        )
        node, log = await opened(disk, options)
        dropped: list[str] = []
        advise = node.calls.advise

        def recording(fd: int, offset: int, length: int, advice: int) -> None:
            if advice == os.POSIX_FADV_DONTNEED:
                dropped.append(node.calls._path_of(fd)[-8:])
            advise(fd, offset, length, advice)

        node.calls.advise = recording  # type: ignore[method-assign]
        places = []
        for _ in range(40):
            await log.room(300_000)
            places.append(log.append(RecordKind.ENTRY, [b"x" * 300_000]))
            await log.durable(places[-1].sequence)
        await log.close()
        segments = [f"{number:08d}" for number in dict.fromkeys(p.segment for p in places)]
        assert dropped == sorted(dropped), "the oldest are let go first, each once"
        assert len(dropped) == len(set(dropped)) >= 3
        assert not set(dropped) & {segments[0], *segments[-2:]}, "zero-filled and newest ones stay"

    run(main())


def test_preparing_that_fails_otherwise_ends_the_log() -> None:
    async def main() -> None:
        node, log = await opened(ModelDisk())
        node.calls.fail = lambda name, path: (
            OSError(5, "bad") if name == "open" and path.endswith("00000001") else None
        )
        with pytest.raises(OutcomeUnknown):
            for _ in range(100):
                await log.room(300)
                await log.durable(log.append(RecordKind.ENTRY, [bytes(300)]).sequence)
        await log.close()

    run(main())


# Opening and deleting ---------------------------------------------------------------------------


def test_a_log_is_never_continued_by_another_incarnation() -> None:
    async def main() -> None:
        disk = ModelDisk()
        await opened(disk)
        with pytest.raises(OSError, match="00000000"):
            await process(disk).fenced.open_log(a_claim(1), first_sequence=1)

    run(main())


def test_a_log_is_not_opened_where_its_claim_is_not() -> None:
    async def main() -> None:
        with pytest.raises(StoreUnknown):
            await process(ModelDisk()).fenced.open_log(a_claim(1), first_sequence=1)

    run(main())


def test_segments_are_deleted_in_order_and_the_first_goes_last() -> None:
    async def main() -> None:
        disk = ModelDisk()
        node, log = await opened(disk)
        for index in range(80):
            await log.durable(log.append(RecordKind.ENTRY, [b"%02d" % index * 100]).sequence)
        await log.close()
        total = len(node.fenced.store.list(LOG))
        assert total > 5
        assert await node.fenced.delete_segments(a_claim(1), below_segment=4) == 3
        assert node.fenced.store.list(LOG)[:2] == [f"{LOG}/00000000", f"{LOG}/00000004"]
        with pytest.raises(OSError, match="00000001"):
            await node.fenced.seal(a_claim(1))
        sealed = await node.fenced.seal(a_claim(1), deleted_ok=True)
        resumed = sealed.resumed_at
        kept = [r.sequence for r in sealed.records]
        assert resumed > kept[1] - 1 >= 1
        sealed = await node.fenced.seal(a_claim(1), after_sequence=resumed - 1)
        assert [r.sequence for r in sealed.records] == list(range(resumed, 81))
        peeked = await node.fenced.peek_log(a_claim(1), records_max=1000)
        assert [r.sequence for r in peeked][-1] == 80
        assert await node.fenced.delete_segments(a_claim(1), below_segment=10**6, keep_first=True)
        assert node.fenced.store.list(LOG) == [f"{LOG}/00000000"]
        assert await node.fenced.delete_segments(a_claim(1), below_segment=10**6) == 1
        assert node.fenced.store.list(LOG) == []

    run(main())


def test_sealing_above_a_known_sequence_gives_exactly_the_records_above_it() -> None:
    async def main() -> None:
        disk = ModelDisk()
        mib = 1 << 20
        options = LogOptions(first_bytes=2 * mib, segment_bytes=2 * mib)
        _, log = await opened(disk, options, first=100)
        for index in range(9000):
            await log.room(100)
            last = log.append(RecordKind.ENTRY, [b"%06d" % index * 50]).sequence
            if index % 50 == 0:
                await log.durable(last)
        await log.durable(last)
        await log.close()
        for after in (100, 101, 2000, 4711, 8000, last - 1, last):
            sealed = await process(disk, options).fenced.seal(a_claim(1), after_sequence=after)
            assert [r.sequence for r in sealed.records] == list(range(after + 1, last + 1))
            assert all(bytes(r.payload[:6]) == b"%06d" % (r.sequence - 100) for r in sealed.records)
        with pytest.raises(OSError, match="durable"):
            await process(disk, options).fenced.seal(a_claim(1), after_sequence=last + 1)

    run(main())


def test_a_prepared_segment_that_cannot_grow_keeps_its_size() -> None:
    async def main() -> None:
        disk = ModelDisk(capacity=9000)
        _, log = await opened(disk)
        for _ in range(5):
            await log.room(300)
            await log.durable(log.append(RecordKind.ENTRY, [bytes(300)]).sequence)
        for _ in range(3):
            with pytest.raises(DiskFull):
                await log.room(12_000)
        written = 5
        with pytest.raises(DiskFull):
            while True:
                await log.room(300)
                await log.durable(log.append(RecordKind.ENTRY, [bytes(300)]).sequence)
                written += 1
        assert log.ended is None
        assert written > 10
        await log.close()

    run(main())


# With real threads and a real disk --------------------------------------------------------------


def test_a_real_log_on_a_real_disk_survives_its_process(tmp_path: Path) -> None:
    async def main() -> None:
        blocking = ThreadBlocking()
        try:
            fenced = open_fenced(
                LocalAppendStore(str(tmp_path)), SystemClock(), SystemEntropy(), blocking
            )
            claim = a_claim(1)
            assert await fenced.try_claim(claim) is None
            log = await fenced.open_log(claim, first_sequence=1)

            async def writer(number: int) -> None:
                for index in range(40):
                    payload = b"%d/%d" % (number, index) * (60_000 if index == 20 else 100)
                    await log.room(len(payload))
                    await log.durable(log.append(RecordKind.ENTRY, [payload]).sequence)
                    await log.check()

            await asyncio.gather(*(writer(number) for number in range(8)))
            assert log.counters()["records"] == 320
            assert log.counters()["batches"] < 320
            await log.close()
            assert await fenced.try_claim(a_claim(2)) is None
            sealed = await fenced.seal(claim)
            assert sealed.last_sequence == 320
            await fenced.probe_latency()
            assert fenced.store.list("probes") == []
        finally:
            blocking.close()

    asyncio.run(main())


def test_a_real_full_disk_is_told_before_the_append(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here; the model disk tests the same")

    async def main() -> None:
        blocking = ThreadBlocking()
        try:
            options = LogOptions(first_bytes=256 * 1024, segment_bytes=1 << 20)
            fenced = open_fenced(
                LocalAppendStore(str(folder)), SystemClock(), SystemEntropy(), blocking, options
            )
            assert await fenced.try_claim(a_claim(1)) is None
            log = await fenced.open_log(a_claim(1), first_sequence=1)
            with pytest.raises(DiskFull):
                for _ in range(1000):
                    await log.room(10_000)
                    await log.durable(log.append(RecordKind.ENTRY, [bytes(10_000)]).sequence)
            assert log.ended is None
            last = log.next_sequence - 1
            await log.close()
            assert (await fenced.seal(a_claim(1))).last_sequence == last
        finally:
            blocking.close()

    try:
        asyncio.run(main())
    finally:
        subprocess.run(["umount", str(folder)], check=True)
