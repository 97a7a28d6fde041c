"""Reading blocks by place: bounded descriptors, nothing negative remembered."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from sofs.errors import StoreFailed
from sofs.storage import LocalAppendStore, ThreadBlocking
from sofs.storage.blocks import SegmentBlocks
from sofs.storage.names import segment_key


def make(tmp_path: Path, count: int) -> LocalAppendStore:
    store = LocalAppendStore(str(tmp_path))
    for number in range(count):
        segment = store.create_segment(segment_key("node-1", 1, number), zero_fill_bytes=0)
        segment.write(0, [b"%04d" % number * 4096])
        segment.close()
    return store


def test_many_segments_are_read_with_few_descriptors(tmp_path: Path) -> None:
    async def main() -> None:
        blocking = ThreadBlocking()
        try:
            blocks = SegmentBlocks(make(tmp_path, 20), blocking, open_max=4)

            async def read(number: int) -> None:
                got = await blocks.read("node-1", 1, number % 20, 400, 4)
                assert got == b"%04d" % (number % 20)
                assert len(blocks._open) <= 4

            await asyncio.gather(*(read(number) for number in range(200)))
            for number in range(20):
                await read(number)
            assert len(blocks._open) <= 4
            assert blocks.cached("node-1", 1, 0, 0, 4) is None
            assert blocks.cached("node-1", 1, 19, 0, 4) in (b"0019", None)
            blocks.will_need("node-1", 1, 19, 0, 4096)
            blocks.will_need("node-1", 1, 0, 0, 4096)
            blocks.close()
            assert len(blocks._open) == 0
        finally:
            blocking.close()

    asyncio.run(main())


def test_a_missing_segment_is_an_error_that_is_not_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        blocking = ThreadBlocking()
        try:
            store = make(tmp_path, 1)
            blocks = SegmentBlocks(store, blocking)
            with pytest.raises(StoreFailed, match="00000001"):
                await blocks.read("node-1", 1, 1, 0, 4)
            store.create_segment(segment_key("node-1", 1, 1), zero_fill_bytes=4096).close()
            assert await blocks.read("node-1", 1, 1, 0, 4) == bytes(4)
            with pytest.raises(StoreFailed, match="00000001"):
                await blocks.read("node-1", 1, 1, 4000, 200)
            store.delete(segment_key("node-1", 1, 1))
            assert await blocks.read("node-1", 1, 1, 8, 4) == bytes(4)
            blocks.close()
        finally:
            blocking.close()

    asyncio.run(main())


def test_a_reader_in_use_is_not_closed_by_others(tmp_path: Path) -> None:
    async def main() -> None:
        blocking = ThreadBlocking()
        try:
            blocks = SegmentBlocks(make(tmp_path, 6), blocking, open_max=1)
            assert await blocks.read("node-1", 1, 0, 0, 4) == b"0000"
            reader = blocks._open[("node-1", 1, 0)].reader
            started, release = threading.Event(), threading.Event()
            whole = reader.read

            def slow(offset: int, length: int) -> bytes:
                started.set()
                release.wait(10)
                return whole(offset, length)

            reader.read = slow
            pending = asyncio.ensure_future(blocks.read("node-1", 1, 0, 4, 4))
            await blocking.run("", started.wait)
            for number in range(1, 6):
                await blocks.read("node-1", 1, number, 0, 4)
            release.set()
            assert await pending == b"0000"
            await blocks.read("node-1", 1, 2, 0, 4)
            assert len(blocks._open) <= 1
            blocks.close()
        finally:
            blocking.close()

    asyncio.run(main())
