"""The space that is kept for a full disk: who is given it, and when it is made again."""

from __future__ import annotations

import pytest
from storage_harness import (
    ROOT,
    SMALL,
    InlineBlocking,
    ModelDisk,
    ModelOs,
    SeededEntropy,
    VirtualClock,
    a_claim,
    process,
    run,
)

from sofs.core.record import RecordKind
from sofs.errors import DiskFull
from sofs.storage import Ballast, LocalAppendStore, StoreFences, open_fenced

KEPT = 4_000


class Part:
    """A process with a ballast."""

    def __init__(self, disk: ModelDisk, name: str = "node-1") -> None:
        self.disk = disk
        self.store = LocalAppendStore(ROOT, calls=ModelOs(disk))
        self.ballast = Ballast(self.store, name, n_bytes=KEPT)
        self.fenced: StoreFences = open_fenced(
            self.store, VirtualClock(), SeededEntropy(3), InlineBlocking(), SMALL, self.ballast
        )

    def fill(self) -> None:
        self.disk.capacity = self.disk.used()


def test_a_claim_a_seal_and_a_log_have_room_on_a_full_disk() -> None:
    async def main() -> None:
        disk = ModelDisk()
        old = process(disk)
        assert await old.fenced.try_claim(a_claim(1)) is None
        log = await old.fenced.open_log(a_claim(1), first_sequence=1)
        await log.durable(log.append(RecordKind.ENTRY, [b"acknowledged"]).sequence)
        part = Part(disk)
        assert part.ballast.keep()
        part.fill()
        await part.fenced.probe_latency()
        assert await part.fenced.try_claim(a_claim(2)) is None
        sealed = await part.fenced.seal(a_claim(1))
        assert [bytes(record.payload) for record in sealed.records] == [b"acknowledged"]
        successor = await part.fenced.open_log(a_claim(2), first_sequence=2)
        await successor.durable(successor.append(RecordKind.ENTRY, [b"lineage"]).sequence)
        with pytest.raises(DiskFull):
            await successor.room(SMALL.first_bytes)
        assert successor.ended is None

    run(main())


def test_without_a_ballast_a_full_disk_is_told() -> None:
    async def main() -> None:
        part = Part(ModelDisk())
        part.fill()
        for _ in range(2):
            with pytest.raises(DiskFull):
                await part.fenced.try_claim(a_claim(1))
            with pytest.raises(DiskFull):
                await part.fenced.probe_latency()
        part.disk.capacity = 1 << 20
        assert await part.fenced.try_claim(a_claim(1)) is None

    run(main())


def test_a_ballast_is_made_again_when_there_is_space() -> None:
    part = Part(ModelDisk())
    assert part.ballast.keep()
    used = part.disk.used()
    assert part.ballast.drop()
    assert part.disk.used() == used - KEPT
    part.fill()
    assert not part.ballast.keep()
    assert not part.ballast.held
    assert not part.ballast.drop(), "there is none"
    part.disk.capacity = 1 << 20
    assert part.ballast.keep()
    assert part.ballast.held
    assert part.disk.used() == used


def test_a_piece_that_a_dead_process_left_is_no_ballast() -> None:
    part = Part(ModelDisk())
    part.store.create_segment("ballast/node-1", zero_fill_bytes=KEPT // 2).close()
    assert part.ballast.keep()
    reader = part.store.open_segment("ballast/node-1")
    assert reader.size() == KEPT
    reader.close()


def test_the_next_process_of_a_part_takes_its_ballast_over() -> None:
    disk = ModelDisk()
    assert Part(disk).ballast.keep()
    used = disk.used()
    other, next_life = Part(disk, "Node 2"), Part(disk)
    assert next_life.ballast.keep()
    assert disk.used() == used
    assert other.ballast.keep(), "a name that no key may hold is replaced"
    assert other.store.list("ballast") == ["ballast/node-1", "ballast/node-2"]
