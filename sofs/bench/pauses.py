"""What one client sees of one fault: the longest call, and where its milliseconds went.

A client writes blocks (or makes and removes folders, for the authority's faults) in a closed loop.
A round waits until everything is up and in step again, applies the fault with an operation in
flight, and takes the longest call that began before the client had done ten more. A round with
nothing in flight does not count.

A planned move is asked of the client's witness, as `sofs witness move` does. Nothing is down then,
so its rounds follow one another as soon as the client has a warm stream and a witness again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import sofs
from sofs.client.facts import FailoverRecord
from sofs.client.sync import Share
from sofs.testing import LocalCluster

RECOVER_S_MAX = 60.0
CALM_S = 1.0
FROZEN_S = 2.0  # After the client has gone on: longer than twice the recall limit.


@dataclass
class Pauses:
    """Pauses of one kind of fault in milliseconds, and the client's own account of each
    failover."""

    name: str
    target_ms: int
    pauses_ms: list[float] = field(default_factory=list)
    parts: list[FailoverRecord] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Load:
    """One client in a closed loop."""

    def __init__(self, step: Callable[[int], None]) -> None:
        self._step = step
        self._stop = threading.Event()
        self.done = 0
        self.longest_ms = 0.0
        self.began: float | None = None
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.began = time.perf_counter()
            try:
                self._step(self.done)
            except sofs.SofsError as error:
                self.errors.append(repr(error))
                return
            self.longest_ms = max(self.longest_ms, (time.perf_counter() - self.began) * 1e3)
            self.began = None
            self.done += 1

    def wait(self, operations: int) -> None:
        goal, end = self.done + operations, time.monotonic() + RECOVER_S_MAX
        while self.done < goal and not self.errors and time.monotonic() < end:
            time.sleep(0.001)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(RECOVER_S_MAX)


def measure(
    cluster: LocalCluster,
    name: str,
    target_ms: int,
    fault: str,
    victim: Callable[[Share], str],
    rounds: int,
    *,
    metadata: bool = False,
) -> Pauses:
    """Run ``rounds`` faults of one kind and return what the client saw."""
    found = Pauses(name, target_ms)
    with sofs.connect(cluster.url, credential=cluster.credential) as share:
        file = share.open("/pauses", "w+b")

        def write(i: int) -> None:
            file.pwrite(b"p" * 4096, (i % 256) * 4096)

        def make(i: int) -> None:
            share.mkdir("/pause") if i % 2 == 0 else share.rmdir("/pause")

        load = Load(make if metadata else write)
        try:
            while len(found.pauses_ms) < rounds and not load.errors:
                _calm(cluster, share)
                _round(cluster, share, load, fault, victim(share), found)
        finally:
            load.stop()
        found.errors = load.errors
        if metadata:
            with contextlib.suppress(sofs.SofsError):
                share.rmdir("/pause")
        file.close()
    return found


def measure_moves(cluster: LocalCluster, name: str, target_ms: int, rounds: int) -> Pauses:
    """Move a client that writes 4 KiB blocks from node to node; see the module."""
    found = Pauses(name, target_ms)
    with sofs.connect(cluster.url, credential=cluster.credential) as share:
        file = share.open("/moves", "w+b")
        load = Load(lambda i: _unit(file.pwrite(b"m" * 4096, (i % 256) * 4096)))
        try:
            _calm(cluster, share)
            while len(found.pauses_ms) < rounds and not load.errors:
                _until(lambda: share.facts().warm_address and share.facts().witness_address)
                load.wait(20)
                before, load.longest_ms = len(share.failovers()), 0.0
                at = serving_node(cluster, share)
                nodes = [n for n, part in cluster.parts.items() if part.role == "node"]
                cluster.move_client(share.client_id, nodes[nodes.index(at) - 1])
                load.wait(20)
                found.pauses_ms.append(load.longest_ms)
                found.parts.extend(share.failovers()[before:])
        finally:
            load.stop()
        found.errors = load.errors
        file.close()
    return found


def serving_node(cluster: LocalCluster, share: Share) -> str:
    """The node that a client uses; on a slow machine it may just be leaving one by itself."""
    end = time.monotonic() + RECOVER_S_MAX
    while not (address := share.facts().address):
        if time.monotonic() > end:
            raise sofs.Unavailable(f"the client found no node in {RECOVER_S_MAX} s")
        time.sleep(0.001)
    return cluster.node_at(address)


def _unit(written: int) -> None:
    """A step of a load returns nothing."""
    assert written == 4096


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + RECOVER_S_MAX
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def _calm(cluster: LocalCluster, share: Share) -> None:
    """Wait until every part is up, the coordinator has its volume, and the client a warm stream."""
    cluster.wait_ready()
    end = time.monotonic() + RECOVER_S_MAX
    while time.monotonic() < end:
        follower = cluster.facts("resume-key") if cluster.owner() == "coordinator" else {}
        if follower.get("in_step") == "True" and share.facts().warm_address:
            break
        time.sleep(0.05)
    time.sleep(CALM_S)


def _round(
    cluster: LocalCluster, share: Share, load: Load, fault: str, victim: str, found: Pauses
) -> None:
    load.wait(5)
    load.longest_ms = 0.0
    failovers = len(share.facts().failovers)
    while load.began is None:
        time.sleep(0.0002)
    if fault == "kill":
        cluster.kill(victim)
    else:
        cluster.freeze(victim)
    try:
        load.wait(10)
    finally:
        if fault == "freeze":
            # Frozen in earnest: one that wakes within a second doubles its limit (ADR 0010).
            time.sleep(FROZEN_S)
            cluster.thaw(victim)
    found.pauses_ms.append(load.longest_ms)
    found.parts.extend(share.facts().failovers[failovers:])
