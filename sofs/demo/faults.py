"""The faults, one after another, each while operations are in flight and each waited for.

A fault hits when calls are in flight and its target is up. It is over when every activity has
finished the step it was in and one more; a frozen process is thawed then, and waited for again,
because a server that wakes up and believes itself alive is the harder half. The Ray head comes
last: it stays dead for a while, nothing restarts what crashes then, and when it is started again it
must adopt the parts that went on without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sofs.client.sync import Share, connect
from sofs.demo.activity import Activity
from sofs.demo.cluster import RAY_HEAD, Cluster, parts_of
from sofs.demo.meter import Meter
from sofs.errors import DeadlineExceeded, SofsError

RECOVERED_S_MAX: Final = 45.0
IN_FLIGHT_S_MAX: Final = 10.0
BASELINE_S: Final = 3.0
SETTLE_S: Final = 1.5  # Between faults: life as usual.
THAW_AFTER_S: Final = 1.5
STEPS_AFTER: Final = 2
HEADLESS_S: Final = 4.0  # Longer than Ray takes to start again what it watches.
SERVING: Final = "serving node"
DNS: Final = "dns"
FAULTS: Final[tuple[tuple[str, str], ...]] = (
    ("SIGKILL", SERVING),
    ("SIGKILL", "coordinator"),
    ("SIGKILL", "resume-key"),
    ("SIGKILL", "witness"),
    ("SIGKILL", "leader"),
    ("SIGKILL", DNS),
    ("SIGSTOP", SERVING),
    ("SIGKILL", RAY_HEAD),
)
SHORT_FAULTS: Final[tuple[tuple[str, str], ...]] = (
    ("SIGKILL", SERVING),
    ("SIGKILL", "coordinator"),
    ("SIGSTOP", SERVING),
    ("SIGKILL", RAY_HEAD),
)


def faults_of(*, short: bool, ray: bool) -> tuple[tuple[str, str], ...]:
    """The script: what has no Ray has no head to lose."""
    script = SHORT_FAULTS if short else FAULTS
    return tuple(each for each in script if ray or each[1] != RAY_HEAD)


@dataclass
class Fault:
    """One row of the table. ``began`` and ``ended``: time.monotonic, set around the fault."""

    signal: str
    role: str
    target: str
    in_flight: int = 0
    longest_s: float = 0.0
    longest_call: str = ""
    errors: int = 0
    lost: int = 0
    began: float = 0.0
    ended: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.signal} {self.role} ({self.target})"


@dataclass(frozen=True, slots=True)
class Baseline:
    """The longest call in some seconds of work without a fault, to compare with."""

    seconds: float
    longest_s: float
    longest_call: str


class FaultScript:
    """Applies faults and says what happens. ``served``: a client; the node that serves it now is
    "the serving node"."""

    def __init__(
        self,
        cluster: Cluster,
        meter: Meter,
        activities: Sequence[Activity],
        served: Callable[[], Share],
        say: Callable[[str], None],
        faults: Sequence[tuple[str, str]] = FAULTS,
    ) -> None:
        self._faults = tuple(faults)
        self._cluster = cluster
        self._meter = meter
        self._activities = activities
        self._served = served
        self._say = say
        self.done: list[Fault] = []
        self.broken: list[str] = []
        self.baseline: Baseline | None = None

    def roles_missing(self) -> list[str]:
        """Roles of the script that this cluster does not have."""
        wanted = [role for _, role in self._faults]
        return [role for role in wanted if not self._has(role)]

    def _has(self, role: str) -> bool:
        if role == RAY_HEAD:
            return self._cluster.ray is not None
        return role == SERVING or bool(parts_of(self._cluster, role))

    def run(self, rounds: int, until: float) -> None:
        """Apply every fault ``rounds`` times, as far as they begin before ``until``
        (time.monotonic); stop at the first error of an activity."""
        self._measure_baseline()
        for signal, role in self._faults * rounds:
            if time.monotonic() >= until or any(a.errors for a in self._activities):
                return
            if self._has(role):
                self._cluster.wait_ready()
                time.sleep(SETTLE_S)
                self._apply(signal, role)

    def _measure_baseline(self) -> None:
        """From the moment when everybody has done a step: before, they connect and open."""
        self._wait_recovered({activity: 1 for activity in self._activities})
        self._meter.forget_longest()
        time.sleep(BASELINE_S)
        self.baseline = Baseline(BASELINE_S, *self._meter.longest())

    def not_reached(self) -> list[str]:
        """Faults for which there was no time."""
        done = {(fault.signal, fault.role) for fault in self.done}
        missing = self.roles_missing()
        return [
            f"{signal} {role}"
            for signal, role in self._faults
            if (signal, role) not in done and role not in missing
        ]

    def _target(self, role: str) -> str:
        if role == RAY_HEAD:
            return RAY_HEAD
        if role != SERVING:
            named = parts_of(self._cluster, role)
            watching = self._served().facts().witness_address  # Better one that somebody uses.
            used = [n for n in named if self._cluster.parts[n].config.address == watching]
            return [*used, *named][0]
        end = time.monotonic() + IN_FLIGHT_S_MAX
        while time.monotonic() < end:
            address = self._served().facts().address
            if address:
                return self._cluster.node_at(address)
            time.sleep(0.02)
        raise DeadlineExceeded("the first teller is connected to no node; see the cluster's logs")

    def _apply(self, signal: str, role: str) -> None:
        fault = Fault(signal, role, self._target(role))
        goals = {activity: activity.steps + STEPS_AFTER for activity in self._activities}
        self._meter.forget_longest()
        fault.in_flight = self._wait_in_flight()
        fault.began = time.monotonic()
        frozen = signal == "SIGSTOP"
        self._strike(fault, frozen)
        self._say(f"{fault.title}: {fault.in_flight} operations in flight")
        if role == DNS:
            self._connect_by_name(fault.target)
        try:
            self._wait_recovered(goals)
            if frozen:
                time.sleep(max(0.0, fault.began + THAW_AFTER_S - time.monotonic()))
        finally:
            if frozen:
                self._cluster.thaw(fault.target)
        if role == RAY_HEAD:
            self._bring_head_back()
        if frozen:
            self._say(f"SIGCONT {fault.target}: it wakes up and finds that it was replaced")
            self._wait_recovered({a: a.steps + STEPS_AFTER for a in self._activities})
        fault.longest_s, fault.longest_call = self._meter.longest()
        fault.ended = time.monotonic()
        self.done.append(fault)
        self._say(
            f"all {len(self._activities)} clients are {STEPS_AFTER} steps further;"
            f" the longest call took {fault.longest_s * 1e3:.0f} ms ({fault.longest_call})"
        )

    def _strike(self, fault: Fault, frozen: bool) -> None:
        ray = self._cluster.ray
        if fault.role == RAY_HEAD and ray is not None:
            ray.kill_head()
        else:
            (self._cluster.freeze if frozen else self._cluster.kill)(fault.target)

    def _connect_by_name(self, dead: str) -> None:
        """Whoever comes while one DNS part is dead is led by the other."""
        cluster = self._cluster
        try:
            with connect(cluster.dns_url, credential=cluster.credential) as share:
                address = share.facts().address
                node = cluster.node_at(address) if address else "one that it is leaving already"
        except SofsError as error:
            self.broken.append(f"nobody could connect by name while {dead} was dead: {error}")
        else:
            self._say(f"while {dead} is dead a new client comes by name, and is led to {node}")

    def _bring_head_back(self) -> None:
        """Work goes on without a head; then a new one must take over what runs, as it runs."""
        ray = self._cluster.ray
        assert ray is not None, "only who has a head is asked to lose it"
        before = {name: part.pid for name, part in self._cluster.parts.items()}
        time.sleep(HEADLESS_S)
        self._wait_recovered({a: a.steps + STEPS_AFTER for a in self._activities})
        self._say(f"no Ray head for {HEADLESS_S:.0f} s: all went on; starting a new one")
        ray.start_head()
        self._wait_recovered({a: a.steps + STEPS_AFTER for a in self._activities})
        after = {name: part.pid for name, part in self._cluster.parts.items()}
        changed = [name for name, pid in before.items() if after[name] != pid]
        if changed:
            self.broken.append(f"the new Ray head started anew: {', '.join(changed)}")
        else:
            self._say(f"the new Ray head adopted all {len(after)} parts as they ran")

    def _wait_in_flight(self) -> int:
        end = time.monotonic() + IN_FLIGHT_S_MAX
        while time.monotonic() < end:
            n = self._meter.in_flight()
            if n >= min(2, len(self._activities)):
                return n
            time.sleep(0.0005)
        raise DeadlineExceeded(
            f"nothing was in flight for {IN_FLIGHT_S_MAX:.0f} s, so the fault would prove nothing"
        )

    def _wait_recovered(self, goals: dict[Activity, int]) -> None:
        end = time.monotonic() + RECOVERED_S_MAX
        while time.monotonic() < end:
            if all(a.errors or not a.is_alive() or a.steps >= goal for a, goal in goals.items()):
                return
            time.sleep(0.005)
        stuck = ", ".join(a.name for a, goal in goals.items() if a.steps < goal)
        raise DeadlineExceeded(f"no progress {RECOVERED_S_MAX:.0f} s after a fault: {stuck}")
