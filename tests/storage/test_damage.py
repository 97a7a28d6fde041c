"""Damage to a log: a flipped byte or range anywhere gives the whole log, a cut tail that nobody
was told of, or an error that names the object. Never a wrong record, never a lost acknowledged one
in silence."""

from __future__ import annotations

import pytest
from storage_harness import ModelDisk, a_claim, process, run

from sofs.constants import BLOCK_BYTES
from sofs.core.record import DataHeader, DataOp, RecordKind, block_sum, encode_record, record_seed
from sofs.errors import Corrupt
from sofs.ports.log import SealedLog
from sofs.storage import LogOptions

LOG = "logs/volume/00000000000000000001"
Lines = list[tuple[int, bytes]]


async def small_log(batches: list[list[bytes]]) -> tuple[ModelDisk, Lines]:
    """A closed log of several segments, each inner list one acknowledged batch."""
    disk = ModelDisk()
    node = process(disk, LogOptions(first_bytes=1024, segment_bytes=1024))
    assert await node.fenced.try_claim(a_claim(1)) is None
    log = await node.fenced.open_log(a_claim(1), first_sequence=1)
    written: Lines = []
    for batch in batches:
        for payload in batch:
            await log.room(len(payload))
            placement = log.append(RecordKind.ENTRY, [payload])
            written.append((placement.sequence, payload))
        await log.durable(log.next_sequence - 1)
    await log.close()
    return disk, written


def segment_files(disk: ModelDisk) -> list[object]:
    folder = disk._lookup(f"/model-root/{LOG}")
    return [folder.entries[name] for name in sorted(folder.entries)]


async def sealed_or_corrupt(disk: ModelDisk, **known: int) -> SealedLog | Corrupt:
    node = process(disk)
    try:
        return await node.fenced.seal(a_claim(1), **known)
    except Corrupt as error:
        return error


BATCHES = [[b"a" * 90, b"b" * 200], [b"c" * 300], [b"d" * 10, b"e" * 250, b"f"], [b"g" * 80]]
LAST_BATCH = 1


@pytest.mark.parametrize(("width", "value"), [(1, 0x40), (16, 0xA5), (64, 0xFF)])
def test_damage_anywhere_is_told_or_cuts_only_the_last_batch(width: int, value: int) -> None:
    async def main() -> None:
        disk, written = await small_log(BATCHES)
        told = cut = 0
        for index, file in enumerate(segment_files(disk)):
            whole = bytes(file.data)
            for at in range(0, len(whole), width):
                damaged = bytearray(whole)
                for byte in range(at, min(at + width, len(whole))):
                    damaged[byte] ^= value
                file.data, file.durable = damaged, bytes(damaged)
                result = await sealed_or_corrupt(disk)
                if isinstance(result, Corrupt):
                    assert LOG in str(result)
                    told += 1
                    continue
                found = [(r.sequence, bytes(r.payload)) for r in result.records]
                assert found == written[: len(found)]
                assert len(found) >= len(written) - LAST_BATCH, f"segment {index} offset {at}"
                cut += len(found) < len(written)
            file.data, file.durable = bytearray(whole), whole
        assert told > 0
        assert cut > 0

    run(main())


def test_damage_to_the_last_batch_is_told_to_a_caller_who_knows_it_as_durable() -> None:
    async def main() -> None:
        disk, written = await small_log(BATCHES)
        for file in reversed(segment_files(disk)):
            at = bytes(file.data).find(b"g" * 80)
            if at >= 0:
                file.data[at] ^= 1
                file.durable = bytes(file.data)
        result = await sealed_or_corrupt(disk)
        assert isinstance(result, SealedLog)
        assert result.last_sequence == written[-2][0]
        for known in ({"known_durable": written[-1][0]}, {"after_sequence": written[-1][0]}):
            assert isinstance(await sealed_or_corrupt(disk, **known), Corrupt)

    run(main())


def test_a_whole_segment_lost_behind_a_good_one_is_told() -> None:
    async def main() -> None:
        disk, _ = await small_log([[b"%d" % batch * 150] for batch in range(12)])
        files = [file for file in segment_files(disk) if any(file.data)]
        assert len(files) >= 4
        for index in range(len(files) - 2):
            whole = bytes(files[index].data)
            files[index].data = bytearray(len(whole))
            files[index].durable = bytes(len(whole))
            assert isinstance(await sealed_or_corrupt(disk), Corrupt)
            files[index].data, files[index].durable = bytearray(whole), whole

    run(main())


def test_records_of_another_log_or_place_never_pass() -> None:
    async def main() -> None:
        disk, written = await small_log([[b"x" * 64]])
        [file, *_] = segment_files(disk)
        end = bytes(file.data).rfind(b"x") + 1
        end += -end % 64
        claim = a_claim(1)
        for nonce, segment, sequence in (
            (b"n" * 16, 0, 2),  # Another log's secret.
            (claim.nonce, 1, 2),  # Another segment.
            (claim.nonce, 0, 3),  # Not the next one.
        ):
            header, padding, _ = encode_record(
                RecordKind.ENTRY,
                nonce=nonce,
                incarnation=claim.incarnation,
                segment=segment,
                sequence=sequence,
                durable_to=0,
                payload=[b"forged"],
            )
            forged = header + b"forged" + padding
            file.data[end : end + len(forged)] = forged
            file.durable = bytes(file.data)
            result = await sealed_or_corrupt(disk)
            assert isinstance(result, SealedLog)
            assert [r.sequence for r in result.records] == [written[0][0]]

    run(main())


def test_a_damaged_page_of_an_older_data_record_leaves_the_others_readable() -> None:
    async def main() -> None:
        disk = ModelDisk()
        options = LogOptions(first_bytes=1 << 20, segment_bytes=1 << 20)
        node = process(disk, options)
        claim = a_claim(1, "node-1")
        assert await node.fenced.try_claim(claim) is None
        log = await node.fenced.open_log(claim, first_sequence=1)
        header = DataHeader(7, 0, 2 * BLOCK_BYTES, 1, 1, 1, 1, 0, 0, 0, DataOp.WRITE)
        for fill in b"abcd":
            pages = bytes([fill]) * (2 * BLOCK_BYTES)
            placement = log.append(RecordKind.DATA, [pages], header.pack(), block_sums=True)
            await log.durable(placement.sequence)
        await log.close()
        folder = disk._lookup("/model-root/logs/node-1/00000000000000000001")
        file = folder.entries["00000000"]
        for fill, whole_records in ((b"b", 4), (b"d", 3)):
            at = bytes(file.data).find(fill * BLOCK_BYTES)
            file.data[at] ^= 1
            file.durable = bytes(file.data)
            sealed = await process(disk, options).fenced.seal(claim)
            assert len(sealed.records) == whole_records
            for record in sealed.records:
                seed = record_seed(claim.nonce, record.segment, record.sequence)
                pages = [bytes(record.payload[i : i + BLOCK_BYTES]) for i in (0, BLOCK_BYTES)]
                bad = [
                    block_sum(page, seed) != s for page, s in zip(pages, record.sums, strict=True)
                ]
                assert bad == [record.sequence == 2, False]

    run(main())


def damaged_at(disk: ModelDisk, needle: bytes) -> None:
    """Flip a byte of the header of the record that holds ``needle``."""
    for file in segment_files(disk):
        at = bytes(file.data).find(needle)
        if at >= 0:
            file.data[at - 40] ^= 1
            file.durable = bytes(file.data)
            return
    raise AssertionError(f"{needle!r} is in no segment")


@pytest.mark.parametrize(("width", "value"), [(1, 0x40), (64, 0xFF)])
def test_who_can_go_on_gets_everything_but_the_damaged_records_and_is_told_which(
    width: int, value: int
) -> None:
    async def main() -> None:
        disk, written = await small_log(BATCHES)
        gaps = 0
        for file in segment_files(disk):
            whole = bytes(file.data)
            for at in range(0, len(whole), width):
                damaged = bytearray(whole)
                for byte in range(at, min(at + width, len(whole))):
                    damaged[byte] ^= value
                file.data, file.durable = damaged, bytes(damaged)
                strict = await sealed_or_corrupt(disk)
                sealed = await process(disk).fenced.seal(a_claim(1), damaged_ok=True)
                found = {r.sequence: bytes(r.payload) for r in sealed.records}
                assert found.items() <= dict(written).items()
                lost = {n for gap in sealed.gaps for n in range(gap.first, gap.last + 1)}
                assert not lost & set(found)
                assert lost | set(found) == set(range(1, sealed.last_sequence + 1))
                assert sealed.last_sequence >= len(written) - LAST_BATCH
                if isinstance(strict, SealedLog):
                    assert not lost
                    assert sealed.last_sequence == strict.last_sequence
                for gap in sealed.gaps:
                    assert LOG in gap.what
                gaps += bool(lost)
            file.data, file.durable = bytearray(whole), whole
        assert gaps > 0

    run(main())


def test_several_damaged_records_and_a_lost_segment_are_gaps_of_their_own() -> None:
    async def main() -> None:
        disk, _ = await small_log([[b"%02d" % n * 150] for n in range(1, 13)])
        damaged_at(disk, b"02" * 150)
        damaged_at(disk, b"05" * 150)
        sealed = await process(disk).fenced.seal(a_claim(1), damaged_ok=True)
        assert [(gap.first, gap.last) for gap in sealed.gaps] == [(2, 2), (5, 5)]
        assert [r.sequence for r in sealed.records] == [1, 3, 4, 6, 7, 8, 9, 10, 11, 12]
        folder = disk._lookup(f"/model-root/{LOG}")
        del folder.entries[sorted(folder.entries)[2]]
        sealed = await process(disk).fenced.seal(a_claim(1), damaged_ok=True)
        assert len(sealed.gaps) >= 2
        assert sealed.last_sequence == 12
        found = {r.sequence for r in sealed.records}
        lost = {n for gap in sealed.gaps for n in range(gap.first, gap.last + 1)}
        assert found | lost == set(range(1, 13))
        assert not found & lost

    run(main())


def test_damage_below_what_the_caller_has_is_a_gap_that_it_need_not_care_about() -> None:
    async def main() -> None:
        disk, _ = await small_log([[b"%02d" % n * 150] for n in range(1, 9)])
        damaged_at(disk, b"06" * 150)
        sealed = await process(disk).fenced.seal(a_claim(1), after_sequence=6, damaged_ok=True)
        assert [r.sequence for r in sealed.records] == [7, 8]
        assert all(gap.last <= 6 for gap in sealed.gaps)

    run(main())
