"""Planted bugs: what the simulator must find, and the seeds with which it does.

Theory. A checker that never fails proves nothing. Each ``Bug`` of ``planted_table`` breaks one rule
of the product on purpose, from the test's side only: the source of one or a few functions is taken,
one place in it is exchanged, and the result stands in for the original while ``planted`` is open.
The product has no switches, and a bug whose place is no longer in the source is an error here, not
a pass.

A bug is found when a run fails: a checker, an invariant, or liveness. ``planted_bugs.txt`` keeps
for each the number of seeds that the search needed from 1 on, and the seed *and* plan of a run that
finds it, because plans of seeds change when draws are added.

    python tests/sim/planted_bugs.py                       search for all that are not in the file
    python tests/sim/planted_bugs.py NAME... --seeds 500   search for these, longer
    python tests/sim/planted_bugs.py --refresh             search anew for those whose runs find
                                                           them no more, and drop what is not found
"""

from __future__ import annotations
import __future__

import argparse
import importlib
import inspect
import json
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from planted_plans import EQUIVALENT, FOCUS
from planted_table import BUGS, Bug

from sofs.sim.plan import Plan, draw_plan
from sofs.sim.pool import pool
from sofs.sim.run import run_seed

FILE: Final = Path(__file__).with_name("planted_bugs.txt")
HEAD: Final = """\
# Planted bugs: name, seeds that the search from 1 needed, seed, plan, and behind # what failed.
# Written by `python tests/sim/planted_bugs.py`; run by test_planted_bugs.py.
"""
# A bug that only makes the cluster stand still may be an accident of its edit: not counted.
LIVENESS: Final = ("not within", "while waiting", "progress", "resume gate", "the run itself")
RUNS_A_PROCESS: Final = 4  # Of up to ROUND_SEEDS runs each, which leave their garbage there.
ROUND_SEEDS: Final = 4  # The search gives each bug so many seeds in turn.


# Planting
# --------------------------------------------------------------------------------------------


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The product with this bug, as long as the context is open."""
    texts: dict[str, str] = {}
    for edit in bug.edits:
        text = texts.get(edit.where) or _source(edit.where)
        if text.count(edit.old) != 1:
            raise LookupError(
                f"{bug.name}: {edit.where} holds its place {text.count(edit.old)} times; mend it"
            )
        texts[edit.where] = text.replace(edit.old, edit.new)
    with ExitStack() as stack:
        for where, text in texts.items():
            _exchange(where, text, stack)
        yield


def _resolve(where: str) -> tuple[Any, Any, str, Any]:
    """Return (module, owner, name, what the owner holds under the name)."""
    module_name, _, path = where.partition(":")
    module = importlib.import_module(f"sofs.{module_name}")
    *parents, name = path.split(".")
    owner: Any = module
    for parent in parents:
        owner = getattr(owner, parent)
    return module, owner, name, vars(owner)[name]


def _source(where: str) -> str:
    held = _resolve(where)[3]
    return textwrap.dedent(inspect.getsource(getattr(held, "__func__", held)))


def _exchange(where: str, text: str, stack: ExitStack) -> None:
    module, owner, name, held = _resolve(where)
    made: dict[str, Any] = {}
    flags = __future__.annotations.compiler_flag
    exec(compile(text, f"<planted in {where}>", "exec", flags, True), vars(module), made)
    owners = [owner]
    if owner is module:  # Whoever imported the function has a name of its own for it.
        owners = [
            other
            for key, other in sorted(sys.modules.items())
            if key.startswith("sofs.") and vars(other).get(name) is held
        ]
    for each in owners:
        stack.callback(setattr, each, name, held)
        setattr(each, name, made[name])


def plan_of(name: str, seed: int) -> Plan:
    """The plan with which ``seed`` searches for a bug."""
    return replace(draw_plan(seed), paced_after=0, **FOCUS.get(name, {}))  # All the load it had.


def failures(bug: Bug, seed: int, plan: Plan | None = None) -> list[str]:
    """Run one seed with the bug; return what failed."""
    with planted(bug):
        try:
            return run_seed(seed, plan=plan).failures
        except Exception as error:
            return [f"the run itself: {error!r}"]


# The file
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A run that finds a bug. ``seeds``: how many the search needed, from 1 on."""

    name: str
    seeds: int
    seed: int
    plan: Plan
    what: str

    def line(self) -> str:
        return f"{self.name} {self.seeds} {self.seed} {self.plan.to_json()} # {self.what}\n"


def read(path: Path = FILE) -> dict[str, Found]:
    """Return the file's lines by name."""
    found: dict[str, Found] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        if line and not line.startswith("#"):
            name, seeds, seed, rest = line.split(" ", 3)
            plan, end = json.JSONDecoder().raw_decode(rest)
            found[name] = Found(name, int(seeds), int(seed), Plan(**plan), rest[end + 3 :])
    return found


def write(found: dict[str, Found], path: Path = FILE) -> None:
    path.write_text(HEAD + "".join(found[name].line() for name in BUGS if name in found))


def late(text: str) -> bool:
    """Does a failure only say that something took too long?"""
    return text.startswith(LIVENESS) or "set up a session within" in text


def unsafe(bug: Bug, seed: int, plan: Plan) -> list[str]:
    """What failed in a run with the bug, without what only took too long."""
    return [text for text in failures(bug, seed, plan) if not late(text)]


Try = tuple[str, int, int]


def attempt(wanted: Try) -> tuple[str, Found | None]:
    """Run seeds with a bug until one finds it; that one without it, too."""
    name, first, last = wanted
    for seed in range(first, last + 1):
        plan = plan_of(name, seed)
        safety = unsafe(BUGS[name], seed, plan)
        if not safety:
            continue
        without = run_seed(seed, plan=plan).failures
        if not without:
            return name, Found(name, seed, seed, plan, safety[0].splitlines()[0][:160])
        # A bug of the product itself: no reason to be silent.
        print(f"BROKEN without {name}: seed {seed} {plan.to_json()}: {without[0]}", flush=True)
    return name, None


def search(names: Sequence[str], seeds: int, limit_s: float, processes: int) -> dict[str, Found]:
    """Search for each bug with the seeds from 1 on, a few at a time, for about ``limit_s``."""
    end = time.monotonic() + limit_s
    found: dict[str, Found] = {}
    with pool(processes, RUNS_A_PROCESS) as workers:
        for first in range(1, seeds + 1, ROUND_SEEDS):
            last = min(first + ROUND_SEEDS - 1, seeds)
            tries = [(name, first, last) for name in names if name not in found]
            for name, one in workers.imap_unordered(attempt, tries):
                if one is not None:
                    found[name] = one
                    print(f"{name}: seed {one.seed}: {one.what}", flush=True)
                if time.monotonic() > end:
                    workers.terminate()
                    return found
            left = [name for name in names if name not in found]
            print(f"through seed {last} left: {' '.join(left)}", flush=True)
            if not left:
                break
    return found


def lost(processes: int) -> list[str]:
    """The bugs whose kept run finds them no more, or fails without them."""
    with pool(processes, RUNS_A_PROCESS) as workers:
        return [name for name, good in workers.imap_unordered(_still, list(read())) if not good]


def _still(name: str) -> tuple[str, bool]:
    kept = read()[name]
    found = unsafe(BUGS[name], kept.seed, kept.plan)
    return name, bool(found) and run_seed(kept.seed, plan=kept.plan).ok


def table(found: dict[str, Found]) -> str:
    """The table of the documentation: with how many seeds each bug was found."""
    rows = ["| bug | the rule that it breaks | seeds |", "|---|---|---|"]
    for name, bug in BUGS.items():
        told = "equivalent" if name in EQUIVALENT else "-"
        if name in found:
            told = f"{found[name].seeds}{' F' if name in FOCUS else ''}"
        rows.append(f"| {name} | {bug.rule} | {told} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Search for planted bugs.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=150)
    parser.add_argument("--limit-s", type=float, default=120)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--refresh", action="store_true", help="search for those that were lost")
    parser.add_argument("--table", action="store_true", help="print the table of docs/SIMULATION")
    options = parser.parse_args()
    start = time.monotonic()
    known = read()
    if options.table:
        print(table(known))
        return
    names = options.names or [name for name in BUGS if name not in {**known, **EQUIVALENT}]
    if options.refresh:
        gone = lost(options.processes)
        print(f"lost: {' '.join(gone) or 'none'}", flush=True)
        names = [*gone, *(name for name in names if name not in gone)]
    limit_s = options.limit_s - (time.monotonic() - start)
    found = search(names, options.seeds, limit_s, options.processes)
    kept = {name: one for name, one in read().items() if not options.refresh or name not in names}
    write({**kept, **found})


if __name__ == "__main__":
    main()
