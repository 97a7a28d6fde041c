"""Rounds of faults against a local cluster under load, and the table of what clients saw.

Faults are dealt like cards: each of them once, in the seed's order, before any comes again. A round
makes sure that operations are in flight, applies its fault, and waits until every worker completed
operations that began after the fault. A round with nothing in flight does not count, and its fault
is tried again.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sofs.testing import LocalCluster, RayCluster

from .workloads import Worker

RECOVERED_S_MAX = 60.0
SETTLE_S = 0.15
MISSED_S = 1.0  # So long a part is frozen that no operation waits for: others are to miss it.
WAITED_FOR = ("node", "coordinator")  # Their silence is missed by who has something in flight.


@dataclass
class Round:
    fault: str
    role: str  # Of the target; "" if that is everything.
    target: str
    in_flight: int
    pause_ms: float


class Runner:
    """Applies faults drawn from ``seed`` and reports each as a line."""

    def __init__(
        self, cluster: LocalCluster | RayCluster, workers: Sequence[Worker], seed: int
    ) -> None:
        self.cluster = cluster
        self.workers = list(workers)
        self.random = random.Random(f"faults/{seed}")
        self.rounds: list[Round] = []

    def errors(self) -> list[str]:
        return [error for worker in self.workers for error in worker.errors]

    def run(self, faults: Sequence[tuple[str, str]], rounds: int) -> None:
        """Run until ``rounds`` faults (kind and role) hit with operations in flight; stops at the
        first error."""
        tries = 0
        deck: list[tuple[str, str]] = []
        while len(self.rounds) < rounds and not self.errors():
            tries += 1
            if tries > 3 * rounds + 10:
                raise AssertionError("too many rounds had nothing in flight")
            if not deck:
                deck = self.random.sample(list(faults), len(faults))
            fault, role = deck[-1]
            if self.one(fault, self.pick(role)) is not None:
                deck.pop()
            time.sleep(self.random.random() * SETTLE_S)

    def pick(self, role: str) -> str:
        names = [n for n, part in self.cluster.parts.items() if part.role == role]
        return self.random.choice(names)

    def one(self, fault: str, target: str) -> Round | None:
        """Apply one fault and wait for recovery; returns the round if it counts."""
        self.cluster.wait_ready()
        for worker in self.workers:
            worker.longest_ms = 0.0
        if not self.wait_in_flight():
            return None
        in_flight = sum(worker.in_flight for worker in self.workers)
        self.note(f"{fault} {target}")
        if fault == "kill":
            self.cluster.kill(target)
        elif fault == "freeze":
            self.cluster.freeze(target)
        else:
            self.cluster.kill_all()
            self.cluster.revive()
        try:
            self.wait_recovered(fault, target)
            if fault == "freeze" and self.cluster.parts[target].role not in WAITED_FOR:
                time.sleep(MISSED_S)
        finally:
            if fault == "freeze":
                self.note(f"thaw {target}")
                self.cluster.thaw(target)
        if fault == "freeze":
            self.wait_recovered(fault, target)
        if in_flight == 0:
            return None
        role = self.cluster.parts[target].role if target in self.cluster.parts else ""
        round_ = Round(fault, role, target, in_flight, max(w.longest_ms for w in self.workers))
        self.rounds.append(round_)
        print(
            f"{len(self.rounds):4d} {fault:7s} {target:12s} in flight {in_flight:2d}  "
            f"longest pause {round_.pause_ms:7.1f} ms",
            file=sys.stderr,
            flush=True,
        )
        return round_

    def note(self, text: str) -> None:
        """Into the histories of the workers, between what they do."""
        for history in dict.fromkeys(worker.history for worker in self.workers):
            history.note(text)

    def wait_in_flight(self) -> bool:
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            if any(worker.in_flight for worker in self.workers) or self.errors():
                return True
            time.sleep(0.0005)
        return False

    def wait_recovered(self, fault: str, target: str) -> None:
        """Every worker finished the call it was in and two more, or failed."""
        goals = {worker: worker.operations + 3 for worker in self.workers}
        end = time.monotonic() + RECOVERED_S_MAX
        while time.monotonic() < end:
            if self.errors() or all(w.operations >= goal for w, goal in goals.items()):
                return
            time.sleep(0.002)
        stuck = [w.name for w, goal in goals.items() if w.operations < goal]
        states = [f"{w.name}: {w.share.facts()}" for w in self.workers if w.name in stuck]
        raise AssertionError(
            f"no progress within {RECOVERED_S_MAX} s after {fault} {target}: {stuck}\n"
            + "\n".join(states)
            + f"\n{self.cluster.last_words()}"
        )
