"""SOFS in a Ray cluster that others started: `sofs up --address`, and what is different there.

What is ours there is actors, nothing else. Their names are in a namespace of the run, they need the
resource ``sofs_node`` of the Ray nodes that are meant for them, and they get their environment
(MALLOC, the path of this very SOFS) from Ray's runtime environment. Every part writes its proc file
into the run directory as everywhere, so `sofs status` and the other commands need no Ray.

**Ending.** Ray starts again whoever is merely killed, and an actor that only Ray's head can end
would live on while that is dead. So `sofs down` asks neither: it writes into ``run.json`` that the
leader shall end, then that all shall; every part looks there four times a second, and first of all
when it starts, and asks Ray to end it for good. What does not go by itself within GRACE_S_MAX (it
is frozen, or the head is dead) is killed. If Ray starts that again, now or when its head is back,
the new process finds the same words and ends. The leader goes first, since it would make the others
anew. Ray itself, and other people's actors in it, are never touched.

**One machine.** Parts listen on the loopback until there is TLS. A Ray node elsewhere that has the
resource is refused by `sofs up` (NotSupported), and left alone when it joins later.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sofs.actors import procfile, rundir
from sofs.actors.compose import PartConfig
from sofs.actors.procfile import RUN_MARK, ProcFacts
from sofs.actors.ray_cluster import MALLOC, driver_order, ray_environment
from sofs.actors.rundir import ALL_END, LEADER_ENDS, RunRecord
from sofs.errors import Unavailable, error_from_code
from sofs.rpc.address import split_address
from sofs.rpc.credential import CREDENTIAL_VARIABLE
from sofs.services.leader.run import LEADER_ROLE

ASK_S_MAX: Final = 60.0  # A driver starts in two seconds; Ray gives a silent head up after thirty.
KNOCK_S_MAX: Final = 5.0
AUTO: Final = "auto"
GRACE_S_MAX: Final = 5.0  # Then whoever has not ended by itself is killed, ...
END_S_MAX: Final = 30.0  # ...and what still lives now does not end at all.
QUIET_S: Final = 1.5  # Ray starts another process within a second.
POLL_S: Final = 0.05
PASSED_ON: Final = ("SOFS_", "OTEL_")  # Variables that parts get from whoever starts them...
KEPT_BACK: Final = (CREDENTIAL_VARIABLE, RUN_MARK)  # ...but for these: Ray shows them to all.


@dataclass(frozen=True, slots=True)
class Found:
    """A Ray cluster: ``address`` of its head, names (or ids) of the machines meant for SOFS."""

    address: str
    machines: list[str]


def look(run_dir: Path, address: str) -> Found:
    """Find the Ray cluster at ``address`` ("auto": the one of this machine, or of the job that
    calls). Raises NotSupported (a Ray node for SOFS is elsewhere), InvalidParameter (there is none
    for SOFS), Unavailable."""
    if address != AUTO:
        _knock(address)  # Ray itself tries for a minute.
    order = driver_order("look", address, run_dir, "", rundir.NAMESPACE)
    says = _drive(order, run_dir, _environment(""))
    return Found(str(says["address"]), [str(name) for name in says["machines"]])


def start_leader(run_dir: Path, record: RunRecord, config: PartConfig) -> None:
    """Register the leader with a Ray cluster of others, or find it there."""
    order = driver_order(
        "start",
        record.ray_address,
        run_dir,
        record.run_id,
        record.namespace,
        config=asdict(config),
        variables=_variables(os.environ, record.run_id),
    )
    _drive(order, run_dir, _environment(record.run_id))


def leave(run_dir: Path, record: RunRecord, name: str, within_s: int) -> str:
    """Tell Ray that a machine leaves within so many seconds; returns its id. Raises
    InvalidParameter, Unavailable."""
    order = driver_order(
        "leave",
        record.ray_address,
        run_dir,
        record.run_id,
        record.namespace,
        name=name,
        within_s=within_s,
    )
    inherited = _environment(record.run_id)
    environment = inherited if record.foreign else ray_environment(run_dir, record)
    return str(_drive(order, run_dir, environment)["id"])


def _knock(address: str) -> None:
    """Raise InvalidParameter or Unavailable if nothing listens at ``address``."""
    try:
        with socket.create_connection(split_address(address), KNOCK_S_MAX):
            return
    except OSError as error:
        raise Unavailable(
            f"nothing answers at {address} ({error}); give the address of a Ray head (`ray start` "
            "prints it), or auto"
        ) from error


# Drivers ----------------------------------------------------------------------------------------


def _package() -> str:
    return str(Path(__file__).parents[2])


def _environment(run: str) -> dict[str, str]:
    """The environment of a driver: the caller's, which says how to get into that Ray cluster."""
    path = os.environ.get("PYTHONPATH")
    here = {"PYTHONPATH": f"{_package()}{os.pathsep}{path}" if path else _package()}
    return {**os.environ, **here, RUN_MARK: run, "RAY_USAGE_STATS_ENABLED": "0"}


def _variables(environment: Mapping[str, str], run: str) -> dict[str, str]:
    """What parts find in their environment beside what their Ray node has."""
    passed = {
        name: value
        for name, value in environment.items()
        if name.startswith(PASSED_ON) and name not in KEPT_BACK
    }
    return {**passed, **MALLOC, RUN_MARK: run, "PYTHONPATH": _environment(run)["PYTHONPATH"]}


def _drive(order: str, run_dir: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a driver; return what it says, raise what it refuses."""
    (run_dir / "log").mkdir(mode=0o700, exist_ok=True)
    log = run_dir / "log" / "launch.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sofs.actors.launch", order],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=dict(environment),
        )
    try:
        process.wait(ASK_S_MAX)
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"Ray did not answer within {ASK_S_MAX:.0f} s; is its head alive? See {log}"
        ) from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return said(log.read_text(errors="replace"), log)


def said(text: str, log: Path) -> dict[str, Any]:
    """What a driver said in the end; raises what it refused, Unavailable when it broke."""
    for line in reversed(text.splitlines()):
        if line.startswith("sofs: "):
            found = json.loads(line.removeprefix("sofs: "))
            return dict(found)
        if line.startswith("refused: "):
            code, _, message = line.removeprefix("refused: ").partition(": ")
            raise error_from_code(code, message)
    words = " | ".join(text.strip().splitlines()[-2:])
    raise Unavailable(f"the leader could not be started; see {log}: {words}")


# Ending -----------------------------------------------------------------------------------------


def end(run_dir: Path, record: RunRecord) -> int:
    """End every part of the run for good, and wait until they are gone; returns how many processes
    there were. Raises Unavailable when one does not end."""
    seen: dict[tuple[int, int], None] = {}
    for word, whom in ((LEADER_ENDS, _leaders), (ALL_END, procfile.read_all)):
        record.ending = word
        rundir.write_run(run_dir, record)
        _await_end(lambda whom=whom: whom(run_dir), seen, QUIET_S if word == ALL_END else 0.0)  # type: ignore[misc]
    procfile.forget_dead(run_dir)
    return len(seen)


def _leaders(run_dir: Path) -> list[ProcFacts]:
    return [facts for facts in procfile.read_all(run_dir) if facts.role == LEADER_ROLE]


def _await_end(
    whom: Callable[[], list[ProcFacts]], seen: dict[tuple[int, int], None], quiet_s: float
) -> None:
    """Return once none of them has lived for ``quiet_s``; kill who stays."""
    began = last = time.monotonic()
    while True:
        alive = [facts for facts in whom() if procfile.alive(facts)]
        now = time.monotonic()
        for facts in alive:
            seen[facts.pid, facts.start_ticks] = None
            last = now
            if now - began > GRACE_S_MAX:
                procfile.kill(facts)
        if alive and now - began > END_S_MAX:
            pids = ", ".join(str(facts.pid) for facts in alive)
            raise Unavailable(
                f"processes {pids} do not end, or are started again; run `sofs down` again"
            )
        if now - last >= quiet_s and not alive:
            return
        time.sleep(POLL_S)
