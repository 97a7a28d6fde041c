"""What tracing costs: one record alone, and operations with it beside operations without.

    .venv/bin/python scripts/bench_trace.py [--pairs 24] [--seconds 0.5]

The second part runs one cluster of which one node and one of two shares record nothing, and gives
both the same work in turns of half a second, so that whatever else the machine does meets both
alike. Half-way the two nodes change sides, since two processes of the same kind differ by some
percent even without rings. The ratio is the median of the ratios of neighbouring turns; its spread
says what to make of it.
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
from dataclasses import dataclass, field
from pathlib import Path

import sofs
from sofs.bench.direct import rate
from sofs.client import runtime
from sofs.client.sync import File, Share
from sofs.core.trace import SpanKind
from sofs.ports.trace import NO_RECORDER, Recorder
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


@dataclass
class Row:
    """What was found for one kind of work, over both halves."""

    ratios: list[float] = field(default_factory=list)  # Of speeds, traced to untraced.
    speeds: list[float] = field(default_factory=list)  # Traced, a second.
    # Microseconds of processor time of client and node for one operation, (traced, untraced), of
    # each half.
    each_us: list[tuple[float, float]] = field(default_factory=list)

    def text(self, name: str) -> str:
        if not self.ratios:
            return f"{name:22} the clients move all the time: this machine is too busy"
        ratios = sorted(self.ratios)
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        on, off = (statistics.mean(side) for side in zip(*self.each_us, strict=True))
        dearer = statistics.geometric_mean([a / b for a, b in self.each_us])
        return (
            f"{name:22} {statistics.median(self.speeds):6.0f}/s; traced to untraced "
            f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f}); "
            f"processor time {on:.0f} us to {off:.0f}, {dearer:.3f}"
        )


class Half:
    """Two shares: one with rings at both ends, through ``traced``, and one with none, through
    ``plain``."""

    def __init__(
        self, cluster: LocalCluster, traced: str, plain: str, recorder: Recorder, pairs: int
    ) -> None:
        self.cluster, self.pairs = cluster, pairs
        self.nodes = {"on": traced, "off": plain}
        self.shares: dict[str, Share] = {}
        # Whoever connects first differs, too: it changes with the sides.
        for side in sorted(self.nodes, key=lambda side: self.nodes[side]):
            runtime._recorder = (os.getpid(), recorder if side == "on" else NO_RECORDER)
            url = cluster.url_from(self.nodes[side])
            self.shares[side] = sofs.connect(url, credential=cluster.credential)

    def in_place(self) -> bool:
        """Are both at their nodes? A busy machine makes clients move; then they move back."""
        good = True
        for side, share in self.shares.items():
            address = self.cluster.parts[self.nodes[side]].config.address
            if share.facts().address != address:
                good = False
                with contextlib.suppress(sofs.SofsError):  # It is tried again.
                    share.move(address)
        return good

    def processor_s(self, side: str) -> float:
        """Seconds that this process and a side's node have used; less noisy than how fast they
        were."""
        stat = Path(f"/proc/{self.cluster.parts[self.nodes[side]].pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        ticks = int(user) + int(system)
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")

    def compare(self, row: Row, work: dict[str, Work], threads: int, seconds: float) -> None:
        """Run both in turns."""
        spent = {"on": 0.0, "off": 0.0}
        done = {"on": 0.0, "off": 0.0}
        pairs = 0
        for turn in range(4 * self.pairs):
            if pairs == self.pairs:
                break
            if not self.in_place():
                time.sleep(0.5)
                continue
            found, used = {}, {}
            for side in ("on", "off") if turn % 2 else ("off", "on"):
                before = self.processor_s(side)
                found[side] = rate(work[side], threads, seconds)[0]
                used[side] = self.processor_s(side) - before
            if self.in_place():
                pairs += 1
                for side in ("on", "off"):
                    spent[side] += used[side]
                    done[side] += found[side] * seconds
                row.ratios.append(found["on"] / found["off"])
                row.speeds.append(found["on"])
        if pairs:
            row.each_us.append((spent["on"] / done["on"] * 1e6, spent["off"] / done["off"] * 1e6))

    def run(self, rows: dict[str, Row], seconds: float) -> None:
        shares = self.shares
        files = {side: filled(share.open(f"/{side}", "w+b")) for side, share in shares.items()}
        kinds: list[tuple[str, dict[str, Work]]] = [
            ("4 KiB write", {side: writes(file) for side, file in files.items()}),
            ("4 KiB read", {side: reads(file) for side, file in files.items()}),
            (
                "create+write+close",
                {side: creates(s, f"/{self.nodes[side]}-") for side, s in shares.items()},
            ),
            ("open+read+close", {side: whole(share) for side, share in shares.items()}),
        ]
        for name, work in kinds:
            for threads in (8, 1):
                row = rows.setdefault(f"{name}, {threads} thr", Row())
                self.compare(row, work, threads, seconds)
                print(".", end="", flush=True)
        for side, share in shares.items():
            files[side].close()
            share.close()


def set_rings(cluster: LocalCluster, without: list[str]) -> None:
    """Start both nodes anew, those of ``without`` without a ring."""
    for node in ("node-1", "node-2"):
        if node in without:
            os.environ[RING_MIB_VARIABLE] = "0"  # noqa: TID251
        try:
            cluster.kill(node)
            cluster.wait_ready()
        finally:
            os.environ.pop(RING_MIB_VARIABLE, None)  # noqa: TID251


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=24, help="of turns, in both halves together")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument(
        "--same", action="store_true", help="no rings on either side: how unequal the turns are"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sofs-trace-") as name:
        folder = Path(name)
        print(f"one record: {one_record(folder / 'ring'):.2f} us", flush=True)
        own = NO_RECORDER if options.same else open_ring(folder / "own", "client", "client", 4)
        rows: dict[str, Row] = {}
        with LocalCluster(folder / "root", nodes=2, run_dir=folder / "run") as cluster:
            for traced, plain in (("node-1", "node-2"), ("node-2", "node-1")):
                set_rings(cluster, ["node-1", "node-2"] if options.same else [plain])
                Half(cluster, traced, plain, own, (options.pairs + 1) // 2).run(
                    rows, options.seconds
                )
        print()
        for name, row in rows.items():
            print(row.text(name), flush=True)


if __name__ == "__main__":
    main()
