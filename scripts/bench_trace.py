"""What tracing costs: one record alone, and operations with it beside operations without.

    .venv/bin/python scripts/bench_trace.py [--pairs 24] [--seconds 0.5]

The second part gives one cluster the same work in turns of half a second, with and without
recording, in the same processes: they stop to record at one signal and go on at another. (Two
processes of the same kind differ by up to ten percent for as long as they live, so one with a ring
beside one without shows nothing.) What is switched are the methods of the recorder's class, by a
``sitecustomize`` that the parts of this script's cluster import. Printed are medians over
neighbouring turns, and where the middle half of them is; ``--same`` shows how unequal turns are.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import sofs
from sofs.bench.direct import rate
from sofs.client.sync import File, Share
from sofs.core.trace import SpanKind
from sofs.ports.trace import NoRecorder
from sofs.telemetry.ring import RingRecorder, open_ring
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


SWITCHED = ("enabled", "now", "begin", "begin_as", "end", "whole", "note", "link")
RECORDING = {name: getattr(RingRecorder, name) for name in SWITCHED}
PARTS_PATH = "PYTHONPATH"
SETTLE_S = 0.1  # For every process to have run a line of Python since it was told.


def switch(on: bool) -> None:
    """Have this process record, or not."""
    for name, method in RECORDING.items():
        setattr(RingRecorder, name, method if on else getattr(NoRecorder, name))


# What every part runs first; it leaves the imports to the part.
SITE = f"""
import signal, sys

kept = {{}}

def switch(number, frame):
    recorder = sys.modules["sofs.telemetry.ring"].RingRecorder
    silent = sys.modules["sofs.ports.trace"].NoRecorder
    for name in {SWITCHED}:
        kept.setdefault(name, getattr(recorder, name))
        on = number == signal.SIGUSR1
        setattr(recorder, name, kept[name] if on else getattr(silent, name))

signal.signal(signal.SIGUSR1, switch)
signal.signal(signal.SIGUSR2, switch)
"""


@dataclass
class Row:
    """What was found for one kind of work."""

    speeds: list[float] = field(default_factory=list)  # Traced, a second.
    ratios: list[float] = field(default_factory=list)  # Of speeds, traced to untraced.
    each_us: list[tuple[float, float]] = field(default_factory=list)  # Traced, untraced.

    def text(self, name: str) -> str:
        on, off = (statistics.median(side) for side in zip(*self.each_us, strict=True))
        costs = [traced / untraced for traced, untraced in self.each_us]
        return (
            f"{name:25}{statistics.median(self.speeds):6.0f}/s  {_half(self.ratios)}  "
            f"{on:5.0f}{off:6.0f}  {_half(costs)}"
        )


def _half(values: list[float]) -> str:
    """The median, and where the middle half of the values is."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return f"{statistics.median(ordered):.3f} ({low:.3f}-{high:.3f})"


def _used_s(pid: int) -> float:
    """Seconds of processor time of a process, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)  # Its clock: see clock_getcpuclockid(3).


class Bench:
    """A cluster and a client, which record or do not."""

    def __init__(self, cluster: LocalCluster, options: argparse.Namespace) -> None:
        self.cluster, self.options = cluster, options
        self.pids = [os.getpid(), *(part.pid for part in cluster.parts.values())]

    def record(self, on: bool) -> None:
        """Have all processes record, or none."""
        switch(on)
        for pid in self.pids[1:]:
            os.kill(pid, signal.SIGUSR1 if on else signal.SIGUSR2)
        time.sleep(SETTLE_S)

    def compare(self, name: str, work: Work, threads: int) -> None:
        """Do the work in turns and print what was found."""
        row = Row()
        seconds = self.options.seconds
        for pair in range(self.options.pairs):
            speeds, each_us = {}, {}
            for on in (True, False) if pair % 2 else (False, True):
                self.record(on and not self.options.same)
                before = sum(map(_used_s, self.pids))
                speeds[on] = rate(work, threads, seconds)[0]
                used_s = sum(map(_used_s, self.pids)) - before
                each_us[on] = used_s / (speeds[on] * seconds) * 1e6
            row.speeds.append(speeds[True])
            row.ratios.append(speeds[True] / speeds[False])
            row.each_us.append((each_us[True], each_us[False]))
        print(row.text(f"{name}, {threads} thr"), flush=True)

    def run(self, share: Share) -> None:
        file = filled(share.open("/file", "w+b"))
        print(f"{'':25}{'traced':>8}  {'to untraced':21}  {'CPU us each, and their ratio'}")
        for name, work in (
            ("4 KiB write", writes(file)),
            ("4 KiB read", reads(file)),
            ("create+write+close", creates(share, "/new-")),
            ("open+read+close", whole(share)),
        ):
            for threads in (8, 1):
                self.compare(name, work, threads)
        file.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument(
        "--same", action="store_true", help="no recording in either turn: how unequal they are"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sofs-trace-") as name:
        folder = Path(name)
        print(f"one record: {one_record(folder / 'ring'):.2f} us", flush=True)
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(SITE)
        path = os.environ.get(PARTS_PATH)  # noqa: TID251
        os.environ[PARTS_PATH] = f"{folder / 'site'}:{path}" if path else str(folder / "site")  # noqa: TID251
        with (
            LocalCluster(folder / "root", nodes=2, run_dir=folder / "run") as cluster,
            sofs.connect(cluster.url_from("node-1"), credential=cluster.credential) as share,
        ):
            Bench(cluster, options).run(share)


if __name__ == "__main__":
    main()
