"""What a seed decides before a run begins: sizes, settings, faults and the mix of workloads.

Swarm testing: each run draws its own subset of faults with its own rates, so that some runs try
one kind hard and others all kinds together. Averages hide bugs; corners show them.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

KIB: Final = 1024
FAULTS: Final = (
    "kill-node",
    "kill-authority",
    "kill-witness",
    "kill-client",
    "kill-at-call",
    "freeze-at-call",
    "twin",
    "freeze-node",
    "freeze-authority",
    "freeze-client",
    "cut",
    "cut-one-way",
    "isolate",
    "power-loss",
    "power-loss-all",
    "stall-disk",
    "spikes",
    "slow-host",
    "sync-fails",
    "io-fails",
    "disk-full",
    "wall-jump",
)
SLOT_FAULTS: Final = (
    "store-storm",
    "store-replies-lost",
    "store-late",
    "store-slow",
    "store-loses",
)
MORE_FAULTS: Final = ("stutter", "lag-streams", "drift")
LEADER_FAULTS: Final = ("kill-leader", "freeze-leader", "platform-away", "machine-hidden")
DAMAGE_FAULTS: Final = ("damage-page", "damage-record", "damage-store")
STEP_FAULTS: Final = (
    "kill-node-at-step",
    "kill-authority-at-step",
    "freeze-node-at-step",
    "freeze-authority-at-step",
    "power-loss-at-step",
    "pause-host",
    "pause-at-step",
    "zombie",
    "seal-race",
    "isolate-node",
    "isolate-authority",
    "lost-tail",
)
MOVE_FAULTS: Final = ("move-client", "move-crossing", "move-deadly")
WORKLOAD_NAMES: Final = (
    "registers",
    "appends",
    "counters",
    "tree",
    "exclusive",
    "private",
    "locks",
    "whole",
)
PACED_AFTER: Final = 1_000  # Operations: more of them find less than another seed does.
LATER_WORKLOADS: Final = ("opened", "overwrites", "apps", "copies")


@dataclass(slots=True)
class Plan:
    """One run. Times in milliseconds unless named otherwise."""

    nodes: int = 3
    machines: int = 1
    witnesses: int = 0
    clients: int = 3
    workloads: list[str] = field(default_factory=lambda: ["registers"])
    faults: list[str] = field(default_factory=list)
    fault_every_ms: float = 1_500.0
    fault_ms: float = 8_000.0  # How long faults are on.
    restart_ms: list[float] = field(default_factory=lambda: [400.0, 900.0])
    delay_us: float = 200.0
    clock_spread: float = 0.0
    first_bytes: int = 64 * KIB
    segment_bytes: int = 128 * KIB
    gate_window_ms: int = 60_000
    gate_blackout: bool = False
    hand_back_after_ms: int = 500
    checkpoint_bytes: int = 256 * KIB
    checkpoint_entries: int = 200
    think_ms: float = 40.0
    slow_steps: float = 0.0
    handle_timeout_ms: int = 0  # 0: the server's default, a minute.
    lanes: int = 1  # Operations of one workload and client at the same time, where it can.
    short_deadlines: float = 0.0  # Chance that an operation has one; it is settled then.
    cancels: float = 0.0  # Chance that an operation is cancelled half-way.
    moves: float = 0.0  # Chance that a client leaves its node before an operation.
    backend: str = "append"  # Or "slots".
    interleave: bool = False  # Each system call of a blocking step is an event of its own.
    store_us: float = 2_000.0  # One way to the object store.
    list_lag_us: int = 0  # What was deleted within this time may still be listed.
    leader: bool = False  # Parts are made by a leader; else by the supervisor itself.
    probe: bool = False  # Each part probes the root before it serves, as ``attach`` does.
    pair: bool = False  # Parts pass the two-party probe before they join, on an append backend.
    brief: float = 0.0  # Chance that a brief blocking call runs at once, on its caller's thread.
    steps: list[str] = field(default_factory=list)  # System calls that may be trapped; none: all.
    reads: float = 0.0  # Chance of a step that only reads, beside the mix (tree, overwrites).
    dark_end: bool = False  # When all is quiet all machines lose power; everything is read again.
    paced_after: int = 0  # Operations; after them clients think longer. 0: never.

    @property
    def handles_may_be_lost(self) -> bool:
        """Whether a client may be away for longer than its handles last."""
        return self.handle_timeout_ms > 0 or self.gate_window_ms < 60_000

    def to_json(self) -> str:
        """All of it in one line; ``Plan(**...)`` gives it back."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def __str__(self) -> str:
        return ", ".join(f"{f.name}={_short(getattr(self, f.name))}" for f in fields(self))


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw_plan(seed: int) -> Plan:
    """The plan of a seed."""
    draw = random.Random(f"{seed}/plan")
    plan = Plan()
    plan.nodes = draw.choice((1, 2, 2, 3, 3, 4))
    plan.machines = draw.choice((1, 1, 2, 3))
    plan.witnesses = draw.choice((0, 0, plan.nodes))
    plan.clients = draw.choice((1, 2, 2, 3, 4))
    plan.workloads = [w for w in WORKLOAD_NAMES if draw.random() < 0.3] or ["registers"]
    chosen = [fault for fault in FAULTS if draw.random() < draw.choice((0.15, 0.5))]
    plan.faults = chosen or [draw.choice(FAULTS)]
    plan.fault_every_ms = draw.choice((100.0, 300.0, 700.0, 1_500.0))
    plan.fault_ms = draw.choice((2_000.0, 4_000.0, 8_000.0))
    plan.restart_ms = draw.choice(([50.0, 200.0], [400.0, 900.0], [400.0, 3_000.0]))
    plan.delay_us = draw.choice((50.0, 200.0, 1_000.0, 5_000.0))
    plan.clock_spread = draw.choice((0.0, 0.0, 0.02, 0.3))
    plan.first_bytes = draw.choice((16, 64, 256)) * KIB
    plan.segment_bytes = draw.choice((16, 64, 256)) * KIB
    plan.gate_blackout = draw.random() < 0.2
    plan.hand_back_after_ms = draw.choice((100, 500, 2_000))
    plan.checkpoint_bytes = draw.choice((16, 64, 1024)) * KIB
    plan.checkpoint_entries = draw.choice((20, 100, 1_000))
    plan.think_ms = draw.choice((5.0, 20.0, 60.0, 150.0))
    plan.slow_steps = draw.choice((0.0, 0.0, 0.001, 0.01))
    plan.gate_window_ms = draw.choice((60_000, 60_000, 5_000))
    if "kill-client" in plan.faults or draw.random() < 0.2:
        plan.handle_timeout_ms = draw.choice((2_000, 5_000))
    plan.lanes = draw.choice((1, 1, 2, 3))
    plan.short_deadlines = draw.choice((0.0, 0.0, 0.1, 0.4))
    plan.cancels = draw.choice((0.0, 0.0, 0.05))
    plan.moves = draw.choice((0.0, 0.02, 0.1))
    _draw_store(plan, random.Random(f"{seed}/plan/store"))
    _draw_steps(plan, random.Random(f"{seed}/plan/steps"))
    _draw_moves(plan, random.Random(f"{seed}/plan/moves"))
    plan.paced_after = PACED_AFTER
    return plan


def _draw_store(plan: Plan, draw: random.Random) -> None:
    """What came later has chance of its own, so that older seeds keep their plans."""
    plan.brief = draw.choice((0.0, 0.5, 1.0))
    plan.interleave = draw.random() < 0.25
    plan.faults += [fault for fault in DAMAGE_FAULTS if draw.random() < 0.15]
    plan.faults += [fault for fault in MORE_FAULTS if draw.random() < 0.2]
    if draw.random() < 0.25:
        plan.leader, plan.witnesses = True, plan.nodes
        plan.faults += [fault for fault in LEADER_FAULTS if draw.random() < 0.4]
    plan.probe = plan.interleave and draw.random() < 0.2
    if draw.random() >= 0.3:
        return
    plan.backend, plan.interleave = "slots", True
    plan.store_us = draw.choice((500.0, 2_000.0, 10_000.0, 30_000.0))
    plan.list_lag_us = draw.choice((0, 100_000, 3_000_000))
    plan.probe = plan.probe and plan.list_lag_us == 0  # It refuses what need not be refused.
    plan.faults += [fault for fault in SLOT_FAULTS if draw.random() < 0.4]


def _draw_steps(plan: Plan, draw: random.Random) -> None:
    """What came later has chance of its own, so that older seeds keep their plans."""
    plan.dark_end = draw.random() < 0.3
    plan.workloads += [name for name in LATER_WORKLOADS if draw.random() < 0.15]
    plan.faults += [fault for fault in STEP_FAULTS if draw.random() < 0.1]
    plan.pair = draw.random() < 0.5


def _draw_moves(plan: Plan, draw: random.Random) -> None:
    """What came later has chance of its own, so that older seeds keep their plans."""
    if plan.nodes > 1 and draw.random() < 0.25:
        plan.witnesses = plan.nodes
        plan.faults += [fault for fault in MOVE_FAULTS if draw.random() < 0.6]
