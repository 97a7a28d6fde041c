"""Judges a run: every checker, over its history, its last contents, its tables and its store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from sofs.core.record import KIND_AT, SEGMENT_HEADER_BYTES, RecordKind
from sofs.sim.checkers.appends import check_appends
from sofs.sim.checkers.contents import check_contents
from sofs.sim.checkers.exclusion import check_exclusion
from sofs.sim.checkers.linear import check_linearizable
from sofs.sim.checkers.liveness import check_absences, check_gates, check_progress
from sofs.sim.checkers.once import check_once, check_totals
from sofs.sim.checkers.store import Owner, Slots, check_store
from sofs.sim.checkers.tables import TablesOf, check_tables
from sofs.sim.checkers.violation import Violation
from sofs.sim.disk import CLUSTER_ROOT, ROOT, files
from sofs.sim.history import History, Operation
from sofs.sim.plan import Plan
from sofs.sim.watch import Watch, tables_of
from sofs.sim.workloads.base import Workload

if TYPE_CHECKING:
    from sofs.sim.cluster import Cluster

CHECK_STEPS_MAX: Final = 100_000  # For each object; what is not decided by then is counted.
GATE_SLACK_US: Final = 20_000_000  # What faults may add to a gate's window: freezes, stalls.
RARE_BYTES: Final = 8  # Of what appends to one file are recognised by.
# Requests of which a copy may land when its slot was deleted.
MAKE_STRAYS: Final = ("store-late", "store-replies-lost", "store-loses", "store-slow", "sync-fails")
WAITING_KINDS: Final = ("lock",)  # May wait for other clients.


def judge_history(history: History, workloads: Sequence[Workload]) -> Iterator[Violation]:
    """What clients did and saw, and what the files hold in the end."""
    finals: dict[str, bytes] = {}
    totals: dict[str, int] = {}
    for workload in workloads:
        finals.update(workload.finals)
        totals.update(workload.totals)
    yield from check_linearizable(history, steps_max=CHECK_STEPS_MAX)
    yield from check_contents(history, finals)
    yield from check_appends(history, finals)
    yield from check_exclusion(history)
    yield from check_totals(history, totals)
    for workload in workloads:
        yield from check_absences(workload.absences)
        if workload.tagged is not None:
            yield from check_once(history, [workload.tagged], _times(workload.finals))


def _times(finals: dict[str, bytes]) -> Callable[[Operation], int]:
    """How often the data of an operation shows in its file in the end."""

    def times(operation: Operation) -> int:
        final = finals.get(operation.key)
        if final is None or not operation.arguments[-1]:
            return int(operation.outcome == "ok")
        return count(final, operation.arguments[-1])

    return times


def count(text: bytes, part: bytes) -> int:
    """How often ``part``, which begins with what is rare, is in ``text``: as ``text.count(part)``,
    which takes eight times as long for records of many equal bytes."""
    found, head = 0, part[:RARE_BYTES]
    at = text.find(head)
    while at >= 0:
        whole = text.startswith(part, at)
        found += whole
        at = text.find(head, at + (len(part) if whole else 1))
    return found


def judge_times(
    history: History,
    watch: Watch,
    plan: Plan,
    clients: Sequence[str],
    healed_us: int,
    ended_us: int,
) -> Iterator[Violation]:
    """Progress after the faults, and the times of the resume gates."""
    bound_us = progress_bound_ms(plan) * 1000
    asked = dict.fromkeys(o.client for o in history.operations if o.called_us >= healed_us)
    yield from check_progress(
        history,
        [client for client in clients if client in asked],
        healed_us=healed_us,
        bound_us=bound_us,
        ended_us=max(ended_us, healed_us + bound_us),
        waiting_kinds=WAITING_KINDS,
    )
    gates = watch.end()
    yield from check_gates(
        gates,
        window_us=plan.gate_window_ms * 1000,
        slack_us=GATE_SLACK_US,
        ended_us=0,
        lost=[event.owner for event in gates],
    )


def progress_bound_ms(plan: Plan) -> int:
    """Within this time after the last fault every operation ends: the longest that an absent
    client's handle may keep others out, and what a take-over takes."""
    kept_ms = max(plan.gate_window_ms, plan.handle_timeout_ms or 60_000)
    return int(kept_ms / (1 - plan.clock_spread)) + 30_000


def judge_state(cluster: Cluster, active: Any, watch: Watch) -> Iterator[Violation]:
    """The tables and the store when all is quiet."""
    tables = tables_of(active._database)
    yield from check_tables(tables, quiet=True)
    if cluster.plan.backend == "slots":
        yield from check_store(*_slot_store(cluster, tables, owner_of(active, watch)))
        return
    objects = {
        key[len(ROOT) + 1 :]: size
        for key, size in files(cluster.disk).items()
        if not key.startswith(f"{CLUSTER_ROOT}/")
    }
    yield from check_store(objects, tables, owner_of(active, watch))


def _slot_store(
    cluster: Cluster, tables: TablesOf, owner: Owner
) -> tuple[dict[str, int], TablesOf, Owner, Slots]:
    objects = {
        key[len(ROOT) + 1 :]: data
        for key, data in cluster.objects.objects.items()
        if key.startswith(f"{ROOT}/") and not key.startswith(f"{CLUSTER_ROOT}/")
        if key not in cluster.objects.back
    }
    fences = [key for key, data in objects.items() if key.startswith("logs/") and is_fence(data)]
    strays = any(fault in cluster.plan.faults for fault in MAKE_STRAYS)
    return {key: len(data) for key, data in objects.items()}, tables, owner, Slots(fences, strays)


def is_fence(data: bytes) -> bool:
    """Does a slot hold a fence? That it is whole is the business of who walks the log."""
    kind = SEGMENT_HEADER_BYTES + KIND_AT
    return len(data) > kind and data[kind] == RecordKind.FENCE


def owner_of(active: Any, watch: Watch) -> Owner:
    """What the owner's lineage and its own log say it stands on."""
    lineage = active._lineage
    checkpoint, position = "", 0
    if lineage.checkpoint is not None:
        checkpoint, position = lineage.checkpoint.key, lineage.checkpoint.position.sequence
    named = active.checkpoints._named
    history = [epoch for epoch in lineage.history if epoch.last_sequence > position]
    if named.sequence:
        history = [epoch for epoch in history if epoch.last_sequence > named.sequence]
        checkpoint = ""  # Its key is known to the log only; the newest object has its place.
    return Owner(
        active.claim.epoch,
        [epoch.epoch for epoch in history],
        checkpoint,
        list(watch.served),
    )
