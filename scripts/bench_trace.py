"""What tracing costs: one record alone, and operations with it beside operations without.

    .venv/bin/python scripts/bench_trace.py [--pairs 24] [--seconds 0.5]

The second part runs one cluster of which node 2 and one of two shares record nothing, and gives
both the same work in turns of half a second, so that whatever else the machine does meets both
alike. The ratio is the median of the ratios of neighbouring turns; its spread says what to make of
it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import sofs
from sofs.bench.direct import rate
from sofs.client import runtime
from sofs.client.sync import File, Share
from sofs.core.trace import SpanKind
from sofs.ports.trace import NO_RECORDER
from sofs.telemetry.ring import RING_MIB_VARIABLE, open_ring
from sofs.testing import LocalCluster

BLOCK = 4096
BLOCKS = 4096
ROUNDS = 100_000
Work = Callable[[int, int], None]


def one_record(folder: Path) -> float:
    """Microseconds of processor time for one record, the mean of a start and an end."""
    recorder = open_ring(folder, "bench", "bench", 4)
    parent = recorder.begin(SpanKind.CLIENT)

    def work() -> None:
        recorder.end(recorder.begin(SpanKind.NODE, parent, "Write", 7, BLOCK), length=BLOCK)

    times = timeit.repeat(work, number=ROUNDS, repeat=5, timer=time.process_time)
    return min(times) / ROUNDS / 2 * 1e6


def filled(file: File) -> File:
    for at in range(0, BLOCK * BLOCKS, 1 << 20):
        file.pwrite(bytes(1 << 20), at)
    return file


def place(thread: int, i: int) -> int:
    return (i * 37 + thread * 512) % BLOCKS * BLOCK


def writes(file: File) -> Callable[[int, int], None]:
    return lambda thread, i: (file.pwrite(b"x" * BLOCK, place(thread, i)), None)[1]


def reads(file: File) -> Callable[[int, int], None]:
    return lambda thread, i: (file.pread(BLOCK, place(thread, i)), None)[1]


def creates(share: Share, prefix: str) -> Work:
    numbers = itertools.count()
    return lambda thread, i: (share.write_file(f"{prefix}{next(numbers)}", b"x" * BLOCK), None)[1]


def whole(share: Share) -> Work:
    share.write_file("/whole", b"x" * BLOCK)
    return lambda thread, i: (share.read_file("/whole"), None)[1]


class Bench:
    """Two shares, of which ``traced`` has rings at both ends and ``plain`` has none."""

    def __init__(self, cluster: LocalCluster, pairs: int, seconds: float) -> None:
        self.cluster, self.pairs, self.seconds = cluster, pairs, seconds
        self.traced = sofs.connect(cluster.url_from("node-1"), credential=cluster.credential)
        runtime._recorder = (os.getpid(), NO_RECORDER)
        self.plain = sofs.connect(cluster.url_from("node-2"), credential=cluster.credential)

    def in_place(self) -> bool:
        """Are both at their nodes? A busy machine makes clients move; then they move back."""
        good = True
        for share, node in ((self.traced, "node-1"), (self.plain, "node-2")):
            address = self.cluster.parts[node].config.address
            if share.facts().address != address:
                good = False
                with contextlib.suppress(sofs.SofsError):  # It is tried again.
                    share.move(address)
        return good

    def processor_s(self, node: str) -> float:
        """Seconds that this process and ``node`` have used; less noisy than how fast they were."""
        stat = Path(f"/proc/{self.cluster.parts[node].pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        ticks = int(user) + int(system)
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")

    def compare(self, name: str, on: Work, off: Work, threads: int) -> None:
        """Run both in turns and print the ratio of their speeds."""
        ratios: list[float] = []
        speeds: list[float] = []
        spent = {on: 0.0, off: 0.0}  # Seconds of processor time of client and node, and for what.
        done = {on: 0.0, off: 0.0}
        for pair in range(4 * self.pairs):
            if len(ratios) == self.pairs:
                break
            if not self.in_place():
                time.sleep(0.5)
                continue
            found, used = {}, {}
            for work in (on, off) if pair % 2 else (off, on):
                before = self.processor_s("node-1" if work is on else "node-2")
                found[work] = rate(work, threads, self.seconds)[0]
                used[work] = self.processor_s("node-1" if work is on else "node-2") - before
            if self.in_place():
                for work in (on, off):
                    spent[work] += used[work]
                    done[work] += found[work] * self.seconds
                ratios.append(found[on] / found[off])
                speeds.append(found[on])
        if not ratios:
            print(f"{name:22} the clients move all the time: this machine is too busy", flush=True)
            return
        ratios.sort()
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        half = f"half of {len(ratios)} pairs: {low:.3f} to {high:.3f}"
        each = [spent[work] / done[work] * 1e6 for work in (on, off)]
        print(
            f"{name:22} {statistics.median(speeds):7.0f}/s traced; traced to untraced "
            f"{statistics.median(ratios):.3f} ({half}); processor time "
            f"{each[0]:.0f} us to {each[1]:.0f}, {each[0] / each[1]:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument(
        "--same", action="store_true", help="no rings on either side: how unequal the turns are"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sofs-trace-") as name:
        folder = Path(name)
        print(f"one record: {one_record(folder / 'ring'):.2f} us", flush=True)
        with LocalCluster(folder / "root", nodes=2, run_dir=folder / "run") as cluster:
            os.environ[RING_MIB_VARIABLE] = "0"  # noqa: TID251
            for node in ("node-1", "node-2") if options.same else ("node-2",):
                cluster.kill(node)  # It comes back without a ring.
                cluster.wait_ready()
            if options.same:
                runtime._recorder = (os.getpid(), NO_RECORDER)
            del os.environ[RING_MIB_VARIABLE]  # noqa: TID251
            bench = Bench(cluster, options.pairs, options.seconds)
            with bench.traced, bench.plain:
                on = filled(bench.traced.open("/on", "w+b"))
                off = filled(bench.plain.open("/off", "w+b"))
                for threads in (8, 1):
                    bench.compare(f"4 KiB write, {threads} thr", writes(on), writes(off), threads)
                    bench.compare(f"4 KiB read, {threads} thr", reads(on), reads(off), threads)
                on.close()
                off.close()
                for threads in (8, 1):
                    bench.compare(
                        f"create+write+close, {threads} thr",
                        creates(bench.traced, "/on-"),
                        creates(bench.plain, "/off-"),
                        threads,
                    )
                    bench.compare(
                        f"open+read+close, {threads} thr",
                        whole(bench.traced),
                        whole(bench.plain),
                        threads,
                    )


if __name__ == "__main__":
    main()
