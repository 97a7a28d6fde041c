"""The clusters that this user knows on this machine: what the run directories say.

No part is asked and nothing is changed: a list is there even when nothing answers. A run directory
that cannot be read is told as such and hides no other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sofs.actors import procfile, rundir
from sofs.actors.lifecycle import part_names
from sofs.actors.procfile import ProcFacts
from sofs.actors.ray_cluster import HEAD, RAY_NODE
from sofs.actors.rundir import RUN_FILE, RUNS_MAX, RunRecord
from sofs.errors import SofsError
from sofs.rpc.credential import CREDENTIAL_FILE


@dataclass(slots=True)
class KnownPart:
    """A process that a run is meant to have. ``running``: its very process lives."""

    name: str
    running: bool
    pid: int = 0
    address: str = ""


@dataclass(slots=True)
class KnownCluster:
    """A cluster as its run directory tells. ``state``: "up", "down", or "unreadable" (``problem``
    says why). ``since``: when its oldest process started, seconds since 1970; 0 when none runs.
    ``credential``: the file that has it, if it is there."""

    run_dir: str
    state: str
    cluster: str = ""
    root: str = ""
    run_id: str = ""
    url: str = ""
    dns_url: str = ""
    credential: str = ""
    since: float = 0.0
    parts: list[KnownPart] = field(default_factory=list)
    problem: str = ""

    @property
    def running(self) -> int:
        return sum(part.running for part in self.parts)


def known_clusters(environment: Mapping[str, str]) -> list[KnownCluster]:
    """Every cluster that has a run directory of this user, those that are up first."""
    base = rundir.base_dir(environment)
    paths = sorted(path.parent for path in base.glob(f"*/{RUN_FILE}"))[:RUNS_MAX]
    found = [known_cluster(path) for path in paths]
    return sorted(found, key=lambda one: (one.state != "up", one.root))


def known_cluster(run_dir: Path) -> KnownCluster:
    """The cluster of one run directory."""
    try:
        record = rundir.read_run(run_dir)
    except SofsError as error:
        return KnownCluster(str(run_dir), "unreadable", problem=str(error))
    if record is None:
        return KnownCluster(str(run_dir), "unreadable", problem="no run was ever recorded there")
    facts = {f.name: f for f in procfile.read_all(run_dir) if f.run == record.run_id}
    parts = [_part(name, facts.get(name)) for name in _expected(record)]
    parts = parts if record.up else [part for part in parts if part.running]
    running = [facts[part.name] for part in parts if part.running]
    credential = run_dir / CREDENTIAL_FILE
    return KnownCluster(
        run_dir=str(run_dir),
        state="up" if record.up else "down",
        cluster=record.cluster,
        root=record.root,
        run_id=record.run_id,
        url=record.url,
        dns_url=record.dns_url,
        credential=str(credential) if credential.exists() else "",
        since=_started_s(running),
        parts=parts,
    )


def _expected(record: RunRecord) -> list[str]:
    ray = [HEAD, *(f"{RAY_NODE}-{number}" for number in range(1, record.nodes + 1))]
    return [*ray, *part_names(record)]


def _part(name: str, facts: ProcFacts | None) -> KnownPart:
    if facts is None or not procfile.alive(facts):
        return KnownPart(name, False)
    return KnownPart(name, True, facts.pid, facts.address)


def _started_s(running: list[ProcFacts]) -> float:
    """When the oldest of these processes of this boot started."""
    if not running:
        return 0.0
    ticks = min(facts.start_ticks for facts in running)
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted_s + ticks / os.sysconf("SC_CLK_TCK")
