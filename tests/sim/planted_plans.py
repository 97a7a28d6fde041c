"""Plans that bring together what the moment of a planted bug takes, and bugs that nobody can find.

FOCUS names parts of the plan that the search for a bug draws no more.
"""

from __future__ import annotations

from typing import Any, Final

_STALLS: Final = {
    "nodes": 3,
    "machines": 3,
    "clients": 3,
    "workloads": ["registers", "counters", "private"],
    "faults": ["stall-disk", "freeze-at-call"],
    "fault_every_ms": 100.0,
    "think_ms": 5.0,
    "lanes": 2,
    "gate_window_ms": 60_000,  # No handle may be lost.
    "handle_timeout_ms": 0,
}
_SYNCS: Final = {**_STALLS, "faults": ["sync-fails", "kill-node", "power-loss", "kill-at-call"]}
_DEATHS: Final = {
    **_STALLS,
    "workloads": ["tree", "locks", "exclusive", "counters"],
    "faults": ["kill-authority", "kill-at-call", "freeze-authority", "cut"],
    "checkpoint_bytes": 16 * 1024,
    "checkpoint_entries": 20,
}
_SPLITS: Final = {**_STALLS, "faults": ["cut", "cut-one-way", "freeze-node"], "moves": 0.1}
_LEAVERS: Final = {**_STALLS, "faults": ["kill-node", "cut"], "moves": 0.1, "restart_ms": [50, 200]}
_PAUSES: Final = {
    **_STALLS,
    "workloads": ["registers"],
    "faults": ["pause-at-step"],
    "fault_every_ms": 300.0,
    "fault_ms": 8_000.0,
    "delay_us": 1_000.0,
    "clients": 4,
    "lanes": 1,
    "think_ms": 20.0,
    "witnesses": 0,
    "moves": 0.02,
    "short_deadlines": 0.0,
    "cancels": 0.0,
}
_KILLS: Final = {
    **_STALLS,
    "machines": 1,
    "faults": ["kill-authority-at-step"],
    "steps": ["pwritev"],
    "slow_steps": 0.05,
    "fault_ms": 8_000.0,
    "delay_us": 50.0,
    "restart_ms": [50.0, 200.0],
    "lanes": 3,
}
_COPIES: Final = {
    **_STALLS,
    "workloads": ["copies"],
    "faults": ["kill-node", "stall-disk", "cut", "slow-host"],
    "fault_every_ms": 700.0,
    "short_deadlines": 0.0,
    "cancels": 0.0,
}
_DARK: Final = {
    **_STALLS,
    "machines": 1,
    "workloads": ["registers", "appends"],
    "faults": ["power-loss-all"],
    "fault_every_ms": 1_500.0,
    "fault_ms": 4_000.0,
    "dark_end": True,
}
_ZOMBIES: Final = {
    **_STALLS,
    "workloads": ["overwrites"],
    "faults": ["isolate-node"],
    "fault_every_ms": 1_000.0,
    "fault_ms": 15_000.0,
    "clients": 4,
    "lanes": 1,
    "think_ms": 15.0,
    "delay_us": 200.0,
    "witnesses": 0,
    "leader": False,
    "moves": 0.02,
    "reads": 0.7,
    "short_deadlines": 0.0,
    "cancels": 0.0,
}
_ON_SLOTS: Final = {"backend": "slots", "interleave": True, "store_us": 2_000.0, "probe": False}
_SLOT_TROUBLE: Final = {
    **_STALLS,
    **_ON_SLOTS,
    "workloads": ["registers", "appends"],
    "faults": ["store-slow", "store-loses", "kill-node", "kill-authority", "kill-node-at-step"],
    "steps": ["create"],
    "lanes": 3,
    "store_us": 500.0,
    "restart_ms": [50.0, 200.0],
}
_DAMAGE: Final = {
    **_STALLS,
    "workloads": ["registers"],
    "faults": ["damage-dying"],
    "fault_every_ms": 300.0,
    "fault_ms": 4_000.0,
    "delay_us": 5_000.0,
}
_BUSY: Final = {
    **_STALLS,
    "workloads": ["registers", "copies"],
    "faults": ["cut", "kill-node"],
    "fault_every_ms": 300.0,
    "moves": 0.3,
}
FOCUS: Final[dict[str, dict[str, Any]]] = {
    "ack-before-fsync": _DARK,
    "no-fsync": _DARK,
    "seal-does-not-sync": {
        **_DARK,
        "faults": ["kill-node-at-step"],
        "steps": ["pwritev"],
        "fault_every_ms": 300.0,
    },
    "lineage-re-derived": {
        **_DEATHS,
        "faults": ["zombie", "zombie", "power-loss-all"],
        "checkpoint_bytes": 1 << 20,
        "checkpoint_entries": 1_000,
        "restart_ms": [50.0, 200.0],
        "fault_every_ms": 700.0,
        "fault_ms": 8_000.0,
        "machines": 1,
    },
    "lineage-late": {
        **_DEATHS,
        "faults": ["kill-authority"],
        "restart_ms": [50.0, 200.0],
    },
    "check-before-append": {**_PAUSES, "steps": ["pwritev"]},
    "check-before-sync": {**_PAUSES, "steps": ["stat_at"]},
    "no-claim-check": {**_PAUSES, "steps": ["pwritev", "fsync"]},
    "token-before-logged": {**_KILLS, "workloads": ["registers", "private"], "moves": 0.1},
    "lock-before-logged": {**_KILLS, "workloads": ["locks"]},
    "overwrite-not-recalled": {**_LEAVERS, "workloads": ["overwrites"]},
    "no-fence": {
        **_STALLS,
        "workloads": ["exclusive", "registers"],
        "faults": ["kill-client", "kill-node"],
        "handle_timeout_ms": 2_000,
    },
    "expired-executed": _COPIES,
    "window-not-asked": _COPIES,
    "windows-not-committed": _COPIES,
    "abandoned-executed": _COPIES,
    "close-before-writes": _COPIES,
    "fsync-retried": _SYNCS,
    "failed-sync-ignored": _SYNCS,
    "offset-reused": _SYNCS,
    "seal-syncs-before-it-reads": {
        **_STALLS,
        "machines": 1,
        "workloads": ["registers", "private"],
        "faults": ["seal-race"],
        "nodes": 2,
        "fault_every_ms": 400.0,
        "fault_ms": 4_000.0,
        "lanes": 3,
        "delay_us": 50.0,
        "think_ms": 5.0,
    },
    "deleted-before-boundary": {
        **_DEATHS,
        "faults": ["kill-authority-at-step"],
        "steps": ["unlink"],
    },
    "read-before-durable": {
        **_STALLS,
        "workloads": ["tree"],
        "faults": ["lost-tail"],
        "fault_every_ms": 700.0,
        "lanes": 3,
        "reads": 0.5,
        "restart_ms": [50.0, 200.0],
    },
    "follower-keeps-all": _DEATHS,
    "records-beyond-the-lineage": {
        **_DEATHS,
        "faults": ["zombie", "zombie", "power-loss-all"],
        "fault_every_ms": 700.0,
        "fault_ms": 8_000.0,
        "machines": 1,
        "checkpoint_bytes": 1 << 20,
        "checkpoint_entries": 1_000,
        "restart_ms": [50.0, 200.0],
    },
    "live-handles-in-the-gate": _DEATHS,
    "window-not-handed-over": _BUSY,
    "stat-from-the-table": {**_BUSY, "workloads": ["appends", "private", "registers"]},
    "group-answered-early": {
        **_DEATHS,
        "workloads": ["tree", "locks", "exclusive"],
        "faults": ["lost-tail"],
        "fault_every_ms": 500.0,
        "restart_ms": [50.0, 200.0],
        "lanes": 3,
    },
    "superseded-authority-answers": {
        **_ZOMBIES,
        "workloads": ["tree"],
        "faults": ["isolate-authority"],
    },
    "superseded-node-answers": _ZOMBIES,
    "sealed-node-commits": _SPLITS,
    "recall-answered-by-next-incarnation": {
        **_LEAVERS,
        "faults": ["kill-node"],
        "restart_ms": [0.1, 1.0],
        "delay_us": 5_000.0,
        "workloads": ["registers"],
    },
    "old-generation-accepted": _COPIES,
    "tail-under-older-tokens": _LEAVERS,
    "tail-without-windows": _LEAVERS,
    "generation-not-raised": _LEAVERS,
    "detached-before-drained": _LEAVERS,
    "copy-in-flight-executed": _COPIES,
    "late-grant-installed": _SPLITS,
    "write-acked-before-durable": {**_LEAVERS, "faults": ["kill-node"]},
    "lock-not-told": {**_LEAVERS, "workloads": ["locks"], "faults": ["freeze-client"]},
    "writes-through-locks": {**_LEAVERS, "workloads": ["locks"]},
    "gate-opened-early": {**_LEAVERS, "faults": ["kill-node", "kill-authority", "power-loss"]},
    "damage-cut-as-a-tail": {
        **_DEATHS,
        "faults": ["damage-entry", "kill-authority", "kill-authority"],
        "fault_every_ms": 150.0,
        "fault_ms": 4_000.0,
        "checkpoint_bytes": 1 << 20,
        "checkpoint_entries": 1_000,
        "restart_ms": [50.0, 200.0],
    },
    "damage-not-told": _DAMAGE,
    "slots-without-a-fence": {**_ZOMBIES, **_ON_SLOTS, "workloads": ["private", "registers"]},
    "slot-fence-deleted": {
        **_LEAVERS,
        **_ON_SLOTS,
        "faults": ["kill-node"],
        "workloads": ["registers"],
    },
    "slot-fence-ignored": {
        **_ZOMBIES,
        **_ON_SLOTS,
        "workloads": ["private", "registers"],
        "lanes": 3,
        "think_ms": 5.0,
    },
    "slot-reads-unchecked": {**_ZOMBIES, **_ON_SLOTS},
    "slot-acked-unknown": {**_SLOT_TROUBLE, "faults": ["store-loses"]},
    "slots-acked-out-of-order": _SLOT_TROUBLE,
    "free-slot-is-the-end": {**_SLOT_TROUBLE, "list_lag_us": 3_000_000},
    "results-not-persisted": _DEATHS,
    "delete-on-close-forgotten": {
        **_LEAVERS,
        "workloads": ["exclusive"],
        "faults": ["kill-client"],
        "handle_timeout_ms": 2_000,
    },
}

# Bugs that no client and no later owner could ever tell from the product as it is, and why.
EQUIVALENT: Final[dict[str, str]] = {
    "sealed-node-commits": (
        "a node sends only what it was acknowledged, and that is at or below its seal; replay has "
        "applied it in the transaction that seals, so a later batch is ignored as applied"
    ),
    "tail-under-older-tokens": (
        "a node gives a token back, or asks for another, only when all its records of the file are "
        "committed; so the tail above what is applied has none of an older token"
    ),
    "follower-keeps-all": (
        "a follower is sent only what was durable before the owner looked for a successor, and "
        "that is in every later lineage"
    ),
    "detached-before-drained": (
        "what a handle has in flight still lands ahead of all that follows: the next user of the "
        "file waits for its token, which is given back when all was committed, windows included"
    ),
}

# Bugs that a search did not find, and what is missing.
SURVIVING: Final[dict[str, str]] = {}
