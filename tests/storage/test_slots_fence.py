"""On slot backends the highest slot of a sealed log is its fence, and stays."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest
from storage_harness import InlineBlocking, SeededEntropy, VirtualClock, a_claim, run

from sofs.core.record import RecordKind
from sofs.errors import Fenced
from sofs.ports.log import LogWriter
from sofs.storage import MemorySlotStore, StoreFences, open_fenced
from sofs.storage.names import slot_key

URL = "memory://slots-fence"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    filesystem = fsspec.filesystem("memory")
    for path in filesystem.find("/slots-fence"):
        filesystem.rm_file(path)


def test_deleting_a_sealed_log_leaves_no_slot_free_for_its_frozen_writer() -> None:
    """The owner freezes after three slots; a successor seals with a fence in the next and deletes
    all that its checkpoint covers; the owner wakes and writes its next slot."""

    async def main() -> None:
        fenced = open_fenced(
            MemorySlotStore(URL), VirtualClock(), SeededEntropy(), InlineBlocking()
        )
        assert await fenced.try_claim(a_claim(1)) is None
        log = await fenced.open_log(a_claim(1), first_sequence=1)
        for _ in range(3):
            place = log.append(RecordKind.ENTRY, [b"acknowledged"])
            await log.durable(place.sequence)
        assert await fenced.try_claim(a_claim(2)) is None
        sealed = await fenced.seal(a_claim(1))
        assert sealed.last_sequence == place.sequence
        assert await fenced.delete_segments(a_claim(1), below_segment=2**31) > 0
        left = fsspec.filesystem("memory").find("/slots-fence/logs")
        zombie = log.append(RecordKind.ENTRY, [b"of a zombie"])
        with pytest.raises(Fenced):
            await log.durable(zombie.sequence)
        assert fsspec.filesystem("memory").find("/slots-fence/logs") == left
        await log.close()

    run(main())


def test_a_claim_between_read_and_reply_keeps_an_old_owner_from_serving_it() -> None:
    """What it read is what it had; a successor may have acknowledged something newer since."""

    async def main() -> None:
        fenced = open_fenced(
            MemorySlotStore(URL), VirtualClock(), SeededEntropy(), InlineBlocking()
        )
        assert await fenced.try_claim(a_claim(1)) is None
        log = await fenced.open_log(a_claim(1), first_sequence=1)
        place = log.append(RecordKind.ENTRY, [b"what is read"])
        await log.durable(place.sequence)
        await log.check()  # Nobody else: this reply may leave.
        read = await fenced.blocks.read("volume", 1, place.segment, place.payload_offset, 12)
        assert read == b"what is read"
        assert await fenced.try_claim(a_claim(2)) is None
        with pytest.raises(Fenced):
            await log.check()
        with pytest.raises(Fenced):
            await log.check()
        await log.close()

    run(main())


async def _owner(n_slots: int) -> tuple[StoreFences, LogWriter]:
    fenced = open_fenced(MemorySlotStore(URL), VirtualClock(), SeededEntropy(), InlineBlocking())
    assert await fenced.try_claim(a_claim(1)) is None
    log = await fenced.open_log(a_claim(1), first_sequence=1)
    await _append(log, n_slots)
    return fenced, log


async def _append(log: LogWriter, n_slots: int) -> None:
    for _ in range(n_slots):
        await log.durable(log.append(RecordKind.ENTRY, [b"acknowledged"]).sequence)


def _successor(store: MemorySlotStore) -> StoreFences:
    return open_fenced(store, VirtualClock(), SeededEntropy(2), InlineBlocking())


def _slot(number: int) -> str:
    return slot_key("volume", 1, number)


def test_a_log_begins_with_its_first_slot_though_slots_that_were_deleted_are_still_listed() -> None:
    class Lagging(MemorySlotStore):
        def list(self, prefix: str, *, after: str = "") -> list[str]:
            found = super().list(prefix, after=after)
            gone = [_slot(n) for n in range(1, 6)] if prefix.startswith("logs/") else []
            return sorted(dict.fromkeys([*found, *(key for key in gone if key > after)]))

    async def main() -> None:
        fenced, log = await _owner(8)
        assert await fenced.delete_segments(a_claim(1), below_segment=6) == 5
        successor = _successor(Lagging(URL))
        [first] = await successor.peek_log(a_claim(1), records_max=1)
        assert first.sequence == 1
        sealed = await successor.seal(a_claim(1), deleted_ok=True)
        assert [r.sequence for r in sealed.records] == [1, 7, 8]
        assert (sealed.last_sequence, sealed.resumed_at) == (8, 7)
        sealed = await successor.seal(a_claim(1), after_sequence=6)
        assert [r.sequence for r in sealed.records] == [7, 8]
        await log.close()

    run(main())
