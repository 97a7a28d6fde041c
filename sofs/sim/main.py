"""``sofs sim``: run the whole cluster in virtual time, from seeds.

    sofs sim --seed 17 --trace       replay one run and print its story
    sofs sim --seeds 500             run many; a table, and the seeds that failed

Exit status: 0 every promise held, 1 a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sofs.sim import story
from sofs.sim.plan import Plan, draw_plan
from sofs.sim.pool import pool
from sofs.sim.run import Outcome, run_seed
from sofs.storage.runtime import SystemClock

FAILURES_SHOWN: Final = 3
REGRESSIONS_HEAD: Final = """\
# Runs that failed once: seed, plan, and behind # what it was. Run for ever by test_regressions.py;
# `sofs sim --seeds` appends new ones with --save. Replay: sofs sim --regression LINE --trace
"""


@dataclass
class Row:
    """What many runs keep of one."""

    seed: int
    failures: list[str]
    plan: str
    virtual_ms: int
    callbacks: int
    operations: int
    failovers: int
    undecided: int
    faults: dict[str, int] = field(default_factory=dict)
    real_ms: int = 0


def row_of(seed: int) -> Row:
    """Run one seed in this process."""
    clock = SystemClock()
    start = clock.monotonic_ms()
    plan = draw_plan(seed)
    try:
        outcome = run_seed(seed, plan=plan)
    except Exception as error:  # A bug of the simulator: told like any other, with its seed.
        return Row(seed, [f"the simulator itself: {error!r}"], plan.to_json(), 0, 0, 0, 0, 0)
    return Row(
        seed,
        outcome.failures,
        plan.to_json(),
        outcome.virtual_ms,
        outcome.callbacks,
        outcome.operations,
        outcome.failovers,
        outcome.undecided,
        outcome.faults,
        clock.monotonic_ms() - start,
    )


def rows(seeds: Sequence[int], processes: int) -> Iterator[Row]:
    """Run the seeds in ``processes`` processes; rows come as they are done."""
    if processes <= 1:
        yield from map(row_of, seeds)
        return
    with pool(processes) as workers:
        yield from workers.imap_unordered(row_of, seeds)


EXAMPLES: Final = """\
examples:
  sofs sim --seeds 500              run many; a table, and the seeds that failed
  sofs sim --seed 17 --trace        replay one run and print its story
  sofs sim --seeds 200 --json       the totals for programs

Exit status: 0 every promise held, 1 a promise was broken.
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="sofs sim",
        description="Run whole clusters in virtual time, from seeds.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--regression", metavar="LINE", help="run a line of regressions.txt")
    parser.add_argument("--trace", action="store_true", help="print the story of the run")
    parser.add_argument("--keys", default="", help="in the story, only operations that name this")
    parser.add_argument("--seeds", type=int, default=200, help="run so many (default 200)")
    parser.add_argument("--from", type=int, default=1, dest="first", help="the first of them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print the totals as JSON")
    parser.add_argument("--save", metavar="FILE", help="append the seeds that fail to this file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = make_parser().parse_args(arguments)
    if options.regression is not None:
        seed, plan = parse_regression(options.regression)
        return one(seed, plan, options.trace, options.keys)
    if options.seed is not None:
        return one(options.seed, draw_plan(options.seed), options.trace, options.keys)
    return many(options)


def one(seed: int, plan: Plan, trace: bool, keys: str) -> int:
    """Run one seed and say how it went."""
    outcome = run_seed(seed, plan=plan, tracing=trace)
    if trace:
        for line in story.lines(outcome, keys):
            print(line)
    print(_summary(outcome))
    return 0 if outcome.ok else 1


def _summary(outcome: Outcome) -> str:
    told = [
        f"seed {outcome.seed}: {'every promise held' if outcome.ok else 'BROKEN'}; "
        f"{outcome.virtual_ms / 1000:.1f} s of virtual time, {outcome.operations} operations, "
        f"{outcome.failovers} restarts, digest {outcome.digest:x}",
        f"plan: {outcome.plan}",
        f"faults: {_counts(outcome.faults)}",
    ]
    return "\n".join([*told, *outcome.failures])


def many(options: Any) -> int:
    """Run many seeds; print the table; save those that failed."""
    clock = SystemClock()
    start = clock.monotonic_ms()
    failed: list[Row] = []
    total = Counter[str]()
    faults = Counter[str]()
    for row in rows(range(options.first, options.first + options.seeds), options.processes):
        total.update(
            seeds=1,
            operations=row.operations,
            failovers=row.failovers,
            callbacks=row.callbacks,
            virtual_ms=row.virtual_ms,
            undecided=row.undecided,
        )
        faults.update(row.faults)
        if row.failures:
            failed.append(row)
            print(_failure(row), file=sys.stderr, flush=True)
    minutes = max(1, clock.monotonic_ms() - start) / 60_000
    rates = {
        "seeds_a_minute": round(total["seeds"] / minutes),
        "failovers_a_minute": round(total["failovers"] / minutes),
    }
    if options.save and failed:
        save(Path(options.save), failed)
    if options.json:
        seeds = sorted(row.seed for row in failed)
        print(json.dumps({**total, **rates, "faults": dict(faults), "failed": seeds}))
    else:
        print(f"{total['seeds']} seeds, {len(failed)} failed, in {minutes:.1f} min")
        print(
            f"  {rates['seeds_a_minute']} seeds and {rates['failovers_a_minute']} restarts a minute"
        )
        print(f"  {total['virtual_ms'] / 3_600_000:.1f} h of virtual time")
        print(f"  {total['operations']} operations, {total['undecided']} objects not decided")
        print(f"  faults: {_counts(faults)}")
    return 1 if failed else 0


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {counts[name]}" for name in sorted(counts)) or "none"


def _failure(row: Row) -> str:
    head = f"seed {row.seed} BROKEN; replay: sofs sim --seed {row.seed} --trace"
    return "\n  ".join([head, *(text[:2_000] for text in row.failures[:FAILURES_SHOWN])])


# Regressions --------------------------------------------------------------------------------


def save(path: Path, failed: Sequence[Row]) -> None:
    """Append runs to the file of regressions, with their plans: plans of seeds may change."""
    known = path.read_text() if path.exists() else REGRESSIONS_HEAD
    added = [
        f"{row.seed} {row.plan} # {row.failures[0].splitlines()[0][:200]}\n"
        for row in sorted(failed, key=lambda row: row.seed)
        if f"{row.seed} {row.plan} " not in known
    ]
    path.write_text(known + "".join(added))


def parse_regression(line: str) -> tuple[int, Plan]:
    """Return seed and plan of a line that ``save`` wrote."""
    seed, _, rest = line.partition(" ")
    plan, _ = json.JSONDecoder().raw_decode(rest)
    return int(seed), Plan(**plan)


if __name__ == "__main__":
    sys.exit(main())
