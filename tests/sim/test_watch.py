"""What looks on while a run goes: transactions are judged one by one, traps act at their call, and
every checker is asked."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from sofs.services.authority.schema import SCHEMA
from sofs.sim.checkers.liveness import Absence
from sofs.sim.history import History
from sofs.sim.judgement import judge_history, progress_bound_ms
from sofs.sim.plan import Plan
from sofs.sim.run import run_seed
from sofs.sim.traps import Trap, Traps
from sofs.sim.watch import DamageHandler, WatchedState, tables_of
from sofs.sim.workloads.base import Workload
from sofs.sim.world import SimProcess, World


def watched() -> tuple[WatchedState, list[str]]:
    state = WatchedState.create(SCHEMA)
    told: list[str] = []
    state.told = told.append
    with state.transaction():
        run(state, "INSERT INTO counter VALUES(1,1,1,1,9)")
    return state, told


def run(state: WatchedState, sql: str) -> None:
    for _ in state.execute(sql):
        pass


def test_a_transaction_that_breaks_a_rule_is_told_when_it_takes_effect() -> None:
    state, told = watched()
    with state.transaction(), state.transaction():
        run(state, "UPDATE counter SET token=8")
        assert told == []
    assert told == ["change of tables: the counter token fell from 9 to 8"]


def test_a_transaction_that_is_rolled_back_is_not_judged() -> None:
    state, told = watched()
    with contextlib.suppress(ValueError), state.transaction():
        run(state, "UPDATE counter SET token=8")
        raise ValueError
    with state.transaction():
        run(state, "UPDATE counter SET token=10")
    assert told == []


def test_what_others_changed_is_the_new_start() -> None:
    state, told = watched()
    changes = state.take_changeset()
    other = WatchedState.create(SCHEMA)
    other.told = told.append
    other.apply_changesets([changes])
    with other.transaction():
        run(other, "UPDATE counter SET token=10")
    assert told == []
    assert tables_of(other)["counter"][0]["token"] == 10


def test_reported_damage_that_nobody_did_fails_the_run() -> None:
    failed: list[str] = []
    owner = SimProcess.__new__(SimProcess)
    owner.dead, owner.name = False, "node-1"
    world = SimpleNamespace(
        loop=SimpleNamespace(current=owner),
        fail=failed.append,
        damaged=SimpleNamespace(happened=False),
    )
    handler = DamageHandler(lambda: cast(World, world))
    for text in ("$corrupt: page 4", "something else"):
        handler.emit(logging.LogRecord("sofs", logging.ERROR, "", 0, text, None, None))
    assert failed == ["node-1 reports damage that nobody did: $corrupt: page 4"]


# Traps --------------------------------------------------------------------------------------------


def test_a_trap_acts_once_at_the_nth_call_of_its_kind_and_path() -> None:
    one, two = (cast(SimProcess, SimpleNamespace(dead=False)) for _ in range(2))
    acted: list[str] = []
    traps = Traps()
    traps.lay(Trap(one, "fsync", "/logs/", True, 2, lambda p, path: acted.append(path)))
    for process, call, path, after in (
        (two, "fsync", "/logs/0", True),
        (one, "pwritev", "/logs/0", True),
        (one, "fsync", "/claims/0", True),
        (one, "fsync", "/logs/1", False),
        (one, "fsync", "/logs/2", True),
        (one, "fsync", "/logs/3", True),
        (one, "fsync", "/logs/4", True),
    ):
        traps(process, call, path, after)
    assert acted == ["/logs/3"]


def test_a_trap_for_others_lets_its_own_process_pass() -> None:
    one, two = (cast(SimProcess, SimpleNamespace(dead=False)) for _ in range(2))
    acted: list[Any] = []
    traps = Traps()
    trap = Trap(one, "fsync", "/logs/", True, 1, lambda p, _: acted.append(p), other=True)
    traps.lay(trap)
    traps(one, "fsync", "/logs/0", True)
    assert acted == []
    traps(two, "fsync", "/logs/0", True)
    assert acted == [two]


# Wiring -------------------------------------------------------------------------------------------


@dataclass
class Told:
    """A workload as the judgement sees it."""

    tagged: str | None = None
    finals: dict[str, bytes] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    absences: list[Absence] = field(default_factory=list)


def judged(history: History, told: Told) -> list[str]:
    return [v.checker for v in judge_history(history, [cast(Workload, told)])]


def test_each_checker_of_histories_is_asked() -> None:
    history = History(lambda: 0)
    assert judged(history, Told()) == []
    history.ok(history.invoke("a", "write", "/f", 0, b"new"))
    assert judged(history, Told(finals={"/f": b"old"})) == ["contents"]
    history = History(lambda: 0)
    history.ok(history.invoke("a", "append", "/f", b"line"), 0)
    assert "appends" in judged(history, Told("append", {"/f": b"lineline"}))
    assert "exactly once" in judged(history, Told("append", {"/f": b"lineline"}))
    history = History(lambda: 0)
    history.ok(history.invoke("a", "add", "/n", 1), 1)
    assert judged(history, Told(totals={"/n": 2})) == ["exactly once"]
    history = History(lambda: 0)
    for client in "ab":
        history.ok(history.invoke(client, "lock", "/f", 0, 1, True, client))
    assert set(judged(history, Told())) == {"linearizable locks", "lock exclusion"}
    away = Absence("a", "/f", 0, 10, 20, kept=False)
    assert judged(History(lambda: 0), Told(absences=[away])) == ["kept handles"]


def test_clients_have_longer_to_go_on_where_handles_last_longer() -> None:
    short = progress_bound_ms(Plan(gate_window_ms=5_000, handle_timeout_ms=2_000))
    assert short < progress_bound_ms(Plan(gate_window_ms=60_000))
    assert short < progress_bound_ms(Plan(gate_window_ms=5_000, handle_timeout_ms=0))


def test_after_a_power_loss_at_the_end_everything_is_read_again() -> None:
    outcome = run_seed(1, plan=Plan(workloads=["registers"], fault_ms=200.0, dark_end=True))
    assert outcome.ok, outcome.failures
    assert outcome.history is not None
    again = [o for o in outcome.history.operations if o.client == "verify-again"]
    assert again
    assert all(o.outcome == "ok" for o in again)
