"""Once faults have stopped, everybody goes on within a bound; and the resume gate keeps its times.

Liveness is judged by the history's own time stamps, in microseconds of its clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sofs.sim.checkers.violation import Violation
from sofs.sim.history import History, Operation

PROGRESS: Final = "progress"
GATE: Final = "resume gate"
EARLY: Final = "early release"  # Of what a gate keeps: no matter of time only, somebody lost it.
KEPT: Final = "kept handles"
GATE_PHASES: Final = ("LOADING", "RESUME_LOCAL", "RESUME_REMOTE", "RELEASE", "ONLINE")
GATE_LOADING_US_MAX: Final = 3_000_000


def check_progress(
    history: History,
    clients: Iterable[str],
    *,
    healed_us: int,
    bound_us: int,
    ended_us: int,
    waiting_kinds: Sequence[str] = (),
) -> list[Violation]:
    """Every client finished an operation that it had called after ``healed_us``, and none waited
    longer than ``bound_us`` after its call and the healing.

    ``ended_us``: when the recording ended; an operation may be open then. ``waiting_kinds`` may
    wait for other clients, however long: they are judged by the first rule only.
    """
    found: list[Violation] = []
    if ended_us < healed_us + bound_us:
        raise ValueError("the recording must go on for the bound after the healing, to judge it")
    by_client: dict[str, list[Operation]] = {client: [] for client in clients}
    for operation in sorted(history.operations, key=lambda o: o.called):
        if operation.client in by_client:
            by_client[operation.client].append(operation)
    for client, operations in by_client.items():
        after = [o for o in operations if o.called_us >= healed_us]
        done = [o for o in after if o.returned_us is not None and o.outcome != "unknown"]
        if not any((o.returned_us or 0) <= healed_us + bound_us for o in done):
            message = f"{client} finished nothing within {bound_us} us after the faults had stopped"
            found.append(Violation(PROGRESS, message, tuple(operations[-2:])))
        for operation in operations:
            waited = _waited_us(operation, healed_us, ended_us)
            if waited > bound_us and operation.kind not in waiting_kinds:
                message = f"{operation} took {waited} us after the faults had stopped"
                found.append(Violation(PROGRESS, message, (operation,)))
    return found


def _waited_us(operation: Operation, healed_us: int, ended_us: int) -> int:
    end = ended_us if operation.returned_us is None else operation.returned_us
    return end - max(operation.called_us, healed_us)


@dataclass(frozen=True, slots=True)
class GateEvent:
    """A resume gate's state, as an observer saw it. ``owner``: the life of the authority, one gate
    each. ``open_handles``: unclaimed and unreported handles that it still waits for."""

    at_us: int
    owner: str
    phase: str
    open_handles: int = 0
    accepting: bool = True


def check_gates(
    events: Sequence[GateEvent],
    *,
    window_us: int,
    slack_us: int,
    ended_us: int,
    lost: Sequence[str] = (),
) -> list[Violation]:
    """Judge every gate: phases only ascend; loading ends in time; what is unclaimed is released not
    before the window is over, and not much later; it is open only when it waits for nobody.

    ``events``: in order of time, at least one at each change. ``slack_us``: how late a gate may be
    beside its window (ticks, observation). ``lost``: owners that ended before ``ended_us``; of
    these nothing overdue is expected.
    """
    found: list[Violation] = []
    by_owner: dict[str, list[GateEvent]] = {}
    for event in events:
        by_owner.setdefault(event.owner, []).append(event)
    for owner, seen in by_owner.items():
        alive_until = seen[-1].at_us if owner in lost else ended_us
        found += _check_gate(owner, seen, window_us, slack_us, alive_until)
    return found


def _check_gate(
    owner: str, seen: Sequence[GateEvent], window_us: int, slack_us: int, alive_until: int
) -> list[Violation]:
    faults: list[str] = []
    early: list[str] = []
    numbers = [GATE_PHASES.index(event.phase) for event in seen]
    if numbers != sorted(numbers):
        faults.append("went back to an earlier phase")
    began = seen[0].at_us
    loaded = next((e.at_us for e in seen if e.phase != "LOADING"), None)
    loading_us = (alive_until if loaded is None else loaded) - began
    if loading_us > GATE_LOADING_US_MAX + slack_us:
        faults.append(f"was loading for {loading_us} us")
    opened = next((e for e in seen if e.phase == "ONLINE"), None)
    release = next((e for e in seen if e.phase in ("RELEASE", "ONLINE")), None)
    since = began if loaded is None else loaded
    if release is not None and release.phase == "RELEASE" and release.at_us < since + window_us:
        early.append(f"released after {release.at_us - since} us, not {window_us}")
    if opened is not None and opened.open_handles:
        early.append(f"is open while {opened.open_handles} handles are unclaimed")
    if opened is None and all(e.accepting for e in seen):
        waited = alive_until - since
        if waited > window_us + slack_us:
            faults.append(f"is in phase {seen[-1].phase} after {waited} us")
    return [
        *(Violation(EARLY, f"the gate of {owner} {fault}") for fault in early),
        *(Violation(GATE, f"the gate of {owner} {fault}") for fault in faults),
    ]


@dataclass(frozen=True, slots=True)
class Absence:
    """A client was away with an open handle: from its last exchange until it asked for the handle
    again. ``kept``: it got it back, with all its locks."""

    client: str
    handle: str
    left_us: int
    back_us: int
    timeout_us: int
    kept: bool


def check_absences(absences: Sequence[Absence]) -> list[Violation]:
    """A handle outlives its client's absence for its whole timeout, whoever dies meanwhile."""
    return [
        Violation(
            KEPT,
            f"{a.client} was away for {a.back_us - a.left_us} us and lost {a.handle}, which it was "
            f"promised for {a.timeout_us} us",
        )
        for a in absences
        if not a.kept and a.back_us - a.left_us < a.timeout_us
    ]
