"""What the demo prints: a line per event, a table, the checks; the same as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

from sofs.demo.activity import Seen
from sofs.demo.bank import Acknowledged, BankReport
from sofs.demo.faults import Baseline, Fault

WIDTH: Final = 100


STILL_S: Final = 5.0  # Nothing is silent for longer.


class Narrator:
    """Writes lines with the time since the start."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", file=self.stream, flush=True)

    @contextlib.contextmanager
    def during(self, what: Callable[[], str]) -> Iterator[None]:
        """While the block runs, say every few seconds how far it is."""
        over = threading.Event()

        def tell() -> None:
            while not over.wait(STILL_S):
                self.say(f"  {what()}")

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def plain(self, text: str = "") -> None:
        print(text, file=self.stream, flush=True)


@dataclass
class TreeReport:
    files: int = 0
    copied: int = 0
    copied_bytes: int = 0
    compared: int = 0
    lost: list[Acknowledged] = field(default_factory=list)


@dataclass
class Outcome:
    """All facts of a run."""

    cluster: str
    under_way: bool = False  # The cluster is up: from here on a failure breaks the promise.
    seconds: float = 0.0
    operations: int = 0
    baseline: Baseline | None = None
    faults: list[Fault] = field(default_factory=list)
    roles_missing: list[str] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)
    errors: list[Seen] = field(default_factory=list)
    bank: BankReport | None = None
    tree: TreeReport = field(default_factory=TreeReport)
    broken: list[str] = field(default_factory=list)
    worst_failover: list[str] = field(default_factory=list)  # A waterfall.

    def judge(self) -> None:
        """Attribute errors and losses to faults, and list the promises that were broken."""
        bank_lost = [] if self.bank is None else self.bank.lost
        lost = [*bank_lost, *self.tree.lost]
        for fault, until in _windows(self.faults):
            fault.errors = sum(fault.began <= seen.at < until for seen in self.errors)
            fault.lost = sum(fault.began <= each.at < until for each in lost)
        self.broken += [f"{seen.who} saw an error: {seen.text}" for seen in self.errors]
        self.broken += [f"acknowledged, and lost: {each.key}" for each in lost]
        if self.bank is not None:
            self.broken += self.bank.wrong

    @property
    def kept(self) -> bool:
        return not self.broken


def _windows(faults: Sequence[Fault]) -> list[tuple[Fault, float]]:
    """Each fault with the moment when the next begins."""
    ends = [*(fault.began for fault in faults[1:]), float("inf")]
    return list(zip(faults, ends, strict=False))


def print_outcome(outcome: Outcome, narrator: Narrator) -> None:
    """The table, the checks and the verdict, at most 100 columns wide."""
    say = narrator.plain
    say()
    say(f"{'fault':44} {'in flight':>9} {'longest pause':>14} {'errors':>7} {'lost':>5}")
    say("-" * 83)
    if (usual := outcome.baseline) is not None:
        title = f"none, for {usual.seconds:.0f} s"
        say(f"{title:44} {'':>9} {f'{usual.longest_s * 1e3:.0f} ms':>14}")
    for fault in outcome.faults:
        pause = f"{fault.longest_s * 1e3:.0f} ms"
        say(
            f"{fault.title[:44]:44} {fault.in_flight:>9} {pause:>14} {fault.errors:>7}"
            f" {fault.lost:>5}"
        )
    say("-" * 83)
    if outcome.roles_missing:
        say(f"not in this cluster: {', '.join(outcome.roles_missing)}")
    if outcome.not_reached:
        say(f"no time was left for: {', '.join(outcome.not_reached)}")
    say()
    bank, tree = outcome.bank, outcome.tree
    if bank is not None:
        say(f"database  PRAGMA integrity_check: {bank.integrity}")
        say(
            f"bank      {bank.accounts} accounts hold {bank.cents / 100:.2f} of"
            f" {bank.cents_wanted / 100:.2f} after {bank.transfers} transfers"
        )
        say(f"audit     {bank.lines} lines for {bank.transfers} transfers, each number once")
    say(
        f"tree      {tree.copied} of {tree.files} files copied ({tree.copied_bytes / 1e6:.1f} MB);"
        f" {tree.compared} read back, {len(tree.lost)} differ"
    )
    say()
    if outcome.worst_failover:
        say("the longest change of node that the trace rings still hold (docs/TRACING.md)")
        for line in outcome.worst_failover:
            say(line)
        say()
    for text in outcome.broken[:20]:
        say(f"BROKEN    {text}"[: 2 * WIDTH])
    verdict = "every promise was kept" if outcome.kept else "a promise was BROKEN"
    say(
        f"{verdict}: {outcome.operations} operations, {len(outcome.faults)} faults,"
        f" {len(outcome.errors)} errors, {outcome.seconds:.0f} s, on {outcome.cluster}"
    )


def write_json(outcome: Outcome, path: str) -> None:
    """Write all facts to a file, or to standard output for "-"."""
    text = json.dumps(_facts(outcome), indent=2)
    if path == "-":
        sys.stdout.write(f"{text}\n")
    else:
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")


def _facts(outcome: Outcome) -> dict[str, Any]:
    bank, tree = outcome.bank, outcome.tree
    return {
        "kept": outcome.kept,
        "broken": outcome.broken,
        "cluster": outcome.cluster,
        "seconds": round(outcome.seconds, 1),
        "operations": outcome.operations,
        "errors": [f"{seen.who}: {seen.text}" for seen in outcome.errors],
        "longest_call_without_fault_ms": None
        if outcome.baseline is None
        else round(outcome.baseline.longest_s * 1e3),
        "faults": [
            {
                "signal": fault.signal,
                "role": fault.role,
                "target": fault.target,
                "in_flight": fault.in_flight,
                "longest_pause_ms": round(fault.longest_s * 1e3),
                "longest_call": fault.longest_call,
                "errors": fault.errors,
                "lost": fault.lost,
            }
            for fault in outcome.faults
        ],
        "roles_missing": outcome.roles_missing,
        "not_reached": outcome.not_reached,
        "bank": None
        if bank is None
        else {
            "integrity_check": bank.integrity,
            "accounts": bank.accounts,
            "cents": bank.cents,
            "cents_wanted": bank.cents_wanted,
            "transfers": bank.transfers,
            "audit_lines": bank.lines,
            "lost": len(bank.lost),
        },
        "tree": {
            "files": tree.files,
            "copied": tree.copied,
            "copied_bytes": tree.copied_bytes,
            "compared": tree.compared,
            "lost": len(tree.lost),
        },
    }
