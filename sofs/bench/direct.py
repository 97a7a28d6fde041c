"""The same work on the folder itself: the floor that every ratio stands on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

BLOCK = 4096
MIB = 1 << 20
BLOCKS_MIB = 64
LARGE_MIB = 256


def rate(
    work: Callable[[int, int], None], threads: int, seconds: float
) -> tuple[float, list[float]]:
    """Call ``work(thread, i)`` in a closed loop per thread; returns (calls a second, sorted
    latencies in us)."""
    latencies: list[list[float]] = [[] for _ in range(threads)]
    errors: list[BaseException] = []
    stop_at = time.perf_counter() + seconds

    def loop(thread: int) -> None:
        mine = latencies[thread]
        i = 0
        try:
            while (start := time.perf_counter()) < stop_at:
                work(thread, i)
                mine.append((time.perf_counter() - start) * 1e6)
                i += 1
        except BaseException as error:
            errors.append(error)

    begin = time.perf_counter()
    workers = [threading.Thread(target=loop, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    every = sorted(value for mine in latencies for value in mine)
    return len(every) / (time.perf_counter() - begin), every


class Direct:
    """Files on the backing folder, written through with fdatasync."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._blocks = os.open(folder / "blocks", os.O_RDWR | os.O_CREAT, 0o600)
        self._large = os.open(folder / "large", os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(BLOCKS_MIB):
            os.write(self._blocks, bytes(MIB))
        os.fsync(self._blocks)

    def write_block(self, thread: int, i: int) -> None:
        os.pwrite(self._blocks, b"x" * BLOCK, ((i * 37 + thread * 1024) % 16384) * BLOCK)
        os.fdatasync(self._blocks)

    def read_block(self, thread: int, i: int) -> None:
        os.pread(self._blocks, BLOCK, ((i * 37 + thread * 1024) % 16384) * BLOCK)

    def write_large(self, thread: int, i: int) -> None:
        """Write a file from its start to LARGE_MIB, then begin anew: as a copy does."""
        at = i % LARGE_MIB
        if at == 0:
            os.ftruncate(self._large, 0)
        os.pwrite(self._large, b"y" * MIB, at * MIB)
        os.fdatasync(self._large)

    def overwrite_large(self, thread: int, i: int) -> None:
        """Write over bytes that are there already, and in the page cache."""
        os.pwrite(self._blocks, b"y" * MIB, (i % BLOCKS_MIB) * MIB)
        os.fdatasync(self._blocks)

    def write_file(self, thread: int, i: int) -> None:
        fd = os.open(self.folder / f"f{thread}-{i}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, b"z" * BLOCK)
        os.fdatasync(fd)
        os.close(fd)

    def read_file(self, thread: int, i: int) -> None:
        with open(self.folder / "f0-0", "rb") as file:
            file.read()

    def stat(self, thread: int, i: int) -> None:
        os.stat(self.folder / "f0-0")

    def close(self) -> None:
        os.close(self._blocks)
        os.close(self._large)
