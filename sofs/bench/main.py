"""The command: run the sections, print the tables."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import sofs
from sofs.bench import scale
from sofs.bench.direct import BLOCK, LARGE_MIB, MIB, Direct, rate
from sofs.bench.pauses import Pauses, measure, measure_moves, serving_node
from sofs.client.sync import File, Share
from sofs.interrupts import signals_interrupt
from sofs.telemetry.waterfall import worst_failover
from sofs.testing import LocalCluster

FAULTS = (
    ("serving node killed", 250, "kill", "node", False),
    ("serving node frozen", 1000, "freeze", "node", False),
    ("coordinator killed, metadata", 500, "kill", "coordinator", True),
    ("coordinator killed, direct I/O", 0, "kill", "coordinator", False),
    ("resume-key killed, metadata", 0, "kill", "resume-key", True),
)


MOVE_TARGET_MS = 100
MANY_MIB = 16  # A call; the SDK keeps PIECES_MAX pieces of a MiB of it in flight.


@dataclass
class Row:
    """One benchmark: calls a second directly and through SOFS, latencies in microseconds."""

    name: str
    direct: float
    sofs: float
    p50_us: float
    p99_us: float
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.sofs / self.direct if self.direct else 0.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """Runs rows against a started cluster."""

    def __init__(self, cluster: LocalCluster, direct: Direct, seconds: float) -> None:
        self.cluster = cluster
        self.direct = direct
        self.seconds = seconds
        self.rows: list[Row] = []
        self.share: Share = sofs.connect(cluster.url, credential=cluster.credential)

    def row(
        self,
        name: str,
        threads: int,
        direct: Callable[[int, int], None],
        through: Callable[[int, int], None],
        note: Callable[[], str] = lambda: "",
        each: int = 1,
    ) -> None:
        """Measure one row: direct, SOFS, direct again (the machine drifts), SOFS again. A call does
        what is counted ``each`` times; latencies are of calls."""
        say(f"  {name}, {threads} thread{'s' if threads > 1 else ''} ...")
        floor, calls = 0.0, 0.0
        latencies: list[float] = []
        for _ in range(2):
            floor += rate(direct, threads, self.seconds / 2)[0] * each / 2
            speed, some = rate(through, threads, self.seconds / 2)
            calls += speed * each / 2
            latencies += some
        latencies.sort()
        p50, p99 = (
            latencies[min(len(latencies) - 1, int(len(latencies) * q))] for q in (0.5, 0.99)
        )
        self.rows.append(Row(f"{name}, {threads} thr", floor, calls, p50, p99, note()))

    def batch_note(self) -> Callable[[], str]:
        """Records per fdatasync since this call, at the node in use."""
        name = self.cluster.node_at(self.share.facts().address)
        before = self.cluster.facts(name)

        def note() -> str:
            after = self.cluster.facts(name)
            syncs = int(after["log_syncs"]) - int(before["log_syncs"])
            records = int(after["log_records"]) - int(before["log_records"])
            return f"{records / max(1, syncs):.1f} records/fdatasync"

        return note

    def run(self) -> None:
        share, d = self.share, self.direct
        file = share.open("/blocks", "w+b")
        for i in range(64):
            file.pwrite(bytes(MIB), i * MIB)

        def place(thread: int, i: int) -> int:
            return ((i * 37 + thread * 1024) % 16384) * BLOCK

        def write(thread: int, i: int) -> None:
            file.pwrite(b"x" * BLOCK, place(thread, i))

        def read(thread: int, i: int) -> None:
            file.pread(BLOCK, place(thread, i))

        for threads in (1, 8):
            self.row("4 KiB write-through", threads, d.write_block, write, self.batch_note())
        for threads in (1, 8):
            self.row("4 KiB random read", threads, d.read_block, read)
        self.large(share)
        self.metadata(share)
        file.close()

    def large(self, share: Share) -> None:
        d = self.direct
        file: File = share.open("/large", "w+b")
        one = b"y" * MIB
        many = one * MANY_MIB

        def write(thread: int, i: int) -> None:
            file.pwrite(one, (i % LARGE_MIB) * MIB)

        def write_many(thread: int, i: int) -> None:
            file.pwrite(many, (i % (LARGE_MIB // MANY_MIB)) * MANY_MIB * MIB)

        def in_place() -> str:
            return f"{rate(d.overwrite_large, 1, self.seconds / 2)[0]:.0f}/s direct in place"

        def many_direct(thread: int, i: int) -> None:
            for part in range(MANY_MIB):
                d.write_large(thread, MANY_MIB * i + part)

        def read(thread: int, i: int) -> None:
            file.pread(MIB, (i % LARGE_MIB) * MIB)

        def read_direct(thread: int, i: int) -> None:
            os.pread(d._large, MIB, (i % LARGE_MIB) * MIB)

        self.row("1 MiB write, 1 in flight", 1, d.write_large, write, in_place)
        self.row("1 MiB write, 4 in flight", 1, many_direct, write_many, each=MANY_MIB)
        for part in range(LARGE_MIB):  # What is read next is there on both sides.
            d.write_large(0, part)
        drop_caches(Path(self.cluster.root))
        self.row("1 MiB sequential read", 1, read_direct, read)
        file.close()

    def metadata(self, share: Share) -> None:
        d = self.direct
        folders = [share.mkdir(f"/b{thread}") for thread in range(8)]
        del folders
        serial = {"n": 0}

        def create(thread: int, i: int) -> None:
            serial["n"] += 1
            share.write_file(f"/b{thread}/{serial['n']}-{i}", b"z" * BLOCK)

        made = {"n": 0}

        def create_direct(thread: int, i: int) -> None:
            made["n"] += 1
            d.write_file(thread, made["n"] * 100 + i)

        d.write_file(0, 0)
        share.write_file("/one", b"z" * BLOCK)

        def read(thread: int, i: int) -> None:
            share.read_file("/one")

        def stat(thread: int, i: int) -> None:
            share.stat("/one")

        for threads in (1, 8):
            self.row("create+write+close 4 KiB", threads, create_direct, create)
        for threads in (1, 8):
            self.row("open+read+close", threads, d.read_file, read)
        self.row("stat", 1, d.stat, stat)


def drop_caches(folder: Path) -> None:
    """Ask the kernel to forget the pages of everything below ``folder`` (reads come from the
    device)."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))] if ordered else 0.0


def print_rows(rows: Sequence[Row]) -> None:
    print(
        f"\n{'':32s} {'direct/s':>10s} {'SOFS/s':>9s} {'ratio':>6s} {'p50 us':>8s} {'p99 us':>8s}"
    )
    for row in rows:
        print(
            f"{row.name:32s} {row.direct:10.0f} {row.sofs:9.0f} {row.ratio:6.2f} "
            f"{row.p50_us:8.0f} {row.p99_us:8.0f}  {row.note}"
        )


def print_pauses(found: Sequence[Pauses]) -> None:
    print(
        f"\n{'pause at the client, ms':32s} {'rounds':>6s} {'p50':>6s} {'p99':>6s} {'max':>6s} "
        f"{'target':>6s}  {'detect':>6s} {'drain':>5s} {'connect':>7s} {'reclaim':>7s} "
        f"{'replay':>6s}"
    )
    for one in found:
        parts = one.parts

        def median(field: str, parts: Sequence[object] = parts) -> str:
            values = [float(getattr(part, field)) for part in parts]
            return f"{quantile(values, 0.5):.0f}" if values else "-"

        print(
            f"{one.name:32s} {len(one.pauses_ms):6d} {quantile(one.pauses_ms, 0.5):6.0f} "
            f"{quantile(one.pauses_ms, 0.99):6.0f} {max(one.pauses_ms, default=0):6.0f} "
            f"{one.target_ms:6d}  {median('detect_ms'):>6s} {median('drain_ms'):>5s} "
            f"{median('connect_ms'):>7s} {median('reclaim_ms'):>7s} {median('replay_ms'):>6s}"
        )
        for error in one.errors:
            print(f"    the application saw: {error}")


def print_scales(scales: Sequence[scale.Scale]) -> None:
    print(
        f"\n{'authority':>12s} {'take-over ms':>13s} {'recovery ms':>12s} "
        f"{'follower lag at 1000/s':>23s}"
    )
    for one in scales:
        print(
            f"{one.files:6d} files {one.take_over_ms:13.0f} {one.recovery_ms:12.0f} "
            f"{one.lag_max:23d}"
        )


def machine() -> str:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    python = platform.python_version()
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {python}"


def run_pauses(cluster: LocalCluster, rounds: int, moves: int, only: str = "") -> list[Pauses]:
    found = []
    if moves:
        say(f"  planned moves, {moves} rounds ...")
        found.append(measure_moves(cluster, "planned move", MOVE_TARGET_MS, moves))
    if not rounds:
        return found
    for name, target_ms, fault, role, metadata in FAULTS:
        if only not in name:
            continue
        say(f"  {name}, {rounds} rounds ...")

        def victim(share: Share, role: str = role) -> str:
            return serving_node(cluster, share) if role == "node" else role

        found.append(measure(cluster, name, target_ms, fault, victim, rounds, metadata=metadata))
    return found


EXAMPLES: Final = """\
examples:
  sofs bench --rounds 20 --root /var/tmp/bench --json figures.json
  sofs bench --no-speed --files                         only the faults
  sofs bench --root 's3://bucket/prefix?endpoint_url=http://127.0.0.1:8333' --rounds 20
                                                        pauses on an object store (docs/S3.md)

On a backend that is no folder there is nothing to compare with: only calls through SOFS and pauses.
Exit status: 0 done, 1 an application saw an error.
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="sofs bench",
        description="Measure SOFS beside the same work done directly on the backing folder.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root", metavar="PATH_OR_URL", help="where the volume is (default: a temporary folder)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="per figure (default 3)")
    parser.add_argument(
        "--rounds", type=int, default=20, help="per fault; 0: no faults (default 20)"
    )
    parser.add_argument(
        "--moves", type=int, default=20, help="planned moves of a client (default 20)"
    )
    parser.add_argument("--files", type=int, nargs="*", default=[10_000, 100_000], metavar="N")
    parser.add_argument("--no-speed", action="store_true", help="only the faults")
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="only faults whose name has it, as in 'killed'"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks; returns 0, or 1 when an application saw an error. Ctrl-C and SIGTERM end
    all that was started, and raise KeyboardInterrupt."""
    options = make_parser().parse_args(argv)
    with signals_interrupt():
        return run(options)


def run(options: argparse.Namespace) -> int:
    """What ``main`` does, with its options."""
    if "://" in (options.root or "") and not options.root.startswith("file://"):
        rows, pauses, worst = measure_url(options)
        files = []  # The authority alone is measured on a folder.
    else:
        rows, pauses, worst = measure_folder(options)
        files = options.files
    scales = []
    for count in files:
        say(f"  authority with {count} files ...")
        scales.append(asyncio.run(scale.measure(count)))
    print(machine())
    if scales:
        print_scales(scales)
    if rows:
        print_rows(rows)
    if pauses:
        print_pauses(pauses)
    if worst:
        print("\nthe longest failover that the rings still hold\n")
        print("\n".join(worst))
    if options.json:
        facts = {
            "machine": machine(),
            "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
            "scales": [asdict(one) for one in scales],
            "pauses": [
                {
                    "name": p.name,
                    "ms": p.pauses_ms,
                    "parts": [asdict(part) for part in p.parts],
                    "errors": p.errors,
                }
                for p in pauses
            ],
        }
        Path(options.json).write_text(json.dumps(facts, indent=1, default=str))
    return 1 if any(one.errors for one in pauses) else 0


def measure_folder(options: argparse.Namespace) -> tuple[list[Row], list[Pauses], list[str]]:
    """Rates beside the bare folder, pauses, and the longest failover as a waterfall."""
    folder = Path(options.root or tempfile.mkdtemp(prefix="sofs-bench-"))
    rows: list[Row] = []
    try:
        with LocalCluster(folder / "root", witness=True) as cluster:
            if not options.no_speed:
                direct = Direct(folder / "direct")
                bench = Bench(cluster, direct, options.seconds)
                bench.run()
                bench.share.close()
                direct.close()
                rows = bench.rows
            return rows, *faults(cluster, options)
    finally:
        if not options.root:
            shutil.rmtree(folder, ignore_errors=True)


def measure_url(options: argparse.Namespace) -> tuple[list[Row], list[Pauses], list[str]]:
    """Latencies and pauses on a backend that is no folder."""
    with LocalCluster(options.root, witness=True) as cluster:
        rows = [] if options.no_speed else remote_rows(cluster, options.seconds)
        return rows, *faults(cluster, options)


def faults(cluster: LocalCluster, options: argparse.Namespace) -> tuple[list[Pauses], list[str]]:
    """Pauses of planned moves and of every fault, and the longest failover as a waterfall."""
    found = run_pauses(cluster, options.rounds, options.moves, options.only)
    return found, worst_failover(cluster.run_dir) if options.rounds else []


def remote_rows(cluster: LocalCluster, seconds: float) -> list[Row]:
    """Rates of the calls that are made most, one at a time and eight at once."""
    rows = []
    with sofs.connect(cluster.url, credential=cluster.credential) as share:
        file = share.open("/blocks", "w+b")
        file.pwrite(bytes(MIB), 0)
        share.mkdir("/made")
        made = itertools.count()

        def write(thread: int, i: int) -> None:
            file.pwrite(b"x" * BLOCK, i % 256 * BLOCK)

        def read(thread: int, i: int) -> None:
            file.pread(BLOCK, i * 37 % 256 * BLOCK)

        def create(thread: int, i: int) -> None:
            share.write_file(f"/made/{next(made)}", b"z" * BLOCK)

        calls: list[tuple[str, Callable[[int, int], None]]] = [
            ("4 KiB write-through", write),
            ("4 KiB random read", read),
            ("create+write+close 4 KiB", create),
        ]
        for name, call in calls:
            for threads in (1, 8):
                say(f"  {name}, {threads} thr ...")
                speed, latencies = rate(call, threads, seconds)
                latencies.sort()
                p50, p99 = (quantile(latencies, q) for q in (0.5, 0.99))
                rows.append(Row(f"{name}, {threads} thr", 0.0, speed, p50, p99))
        file.close()
    return rows
