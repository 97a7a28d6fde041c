"""How long a client takes to leave a node that is gone: from the fault to its decision.

    .venv/bin/python scripts/bench_detect.py [--rounds 10] [--only "idle, with a witness"]

Faults: the node's process killed; stopped (its sockets live on and nothing is answered); its host
cut off (every packet from and to it is dropped, nobody is told); and only the client's own
connection dropped, while everybody else reaches the node. Each meets an idle client that has a
witness; one without a witness that writes (its own hedge); one without either.

Packets are dropped by routing rules in a network namespace of our own, which this script enters
first (`unshare --net`, as root); the machine's network is not touched.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import sofs
from sofs.testing import LocalCluster

LOOKS_MAX = 6_000  # Half a minute.
CALM_S = 2.0
FROZEN_S = 2.0  # In earnest: one that comes back within a second gets twice the limit (ADR 0010).


def ip(*lines: str) -> None:
    """All of it at once: what is measured begins with it."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


@contextlib.contextmanager
def killed(cluster: LocalCluster, share: sofs.Share, node: str) -> Iterator[None]:
    cluster.kill(node)
    yield


@contextlib.contextmanager
def stopped(cluster: LocalCluster, share: sofs.Share, node: str) -> Iterator[None]:
    cluster.freeze(node)
    yield
    time.sleep(FROZEN_S)
    cluster.thaw(node)


@contextlib.contextmanager
def cut_off(cluster: LocalCluster, share: sofs.Share, node: str) -> Iterator[None]:
    """One rule for both ways: whatever is sent to the host, and the host's own answers."""
    host = share.facts().address.rpartition(":")[0]
    ip(f"rule add pref 11 from {host} blackhole", f"rule add pref 10 to {host} blackhole")
    yield
    time.sleep(FROZEN_S)
    ip("rule del pref 10", "rule del pref 11")


@contextlib.contextmanager
def connection_dropped(cluster: LocalCluster, share: sofs.Share, node: str) -> Iterator[None]:
    """Only what this process and the node send each other is lost."""
    host, _, port = share.facts().address.rpartition(":")
    ways = [
        way
        for own in own_ports(host, int(port))
        for way in (f"to {host} sport {own} dport {port}", f"from {host} sport {port} dport {own}")
    ]
    prefs = [10 + i for i in range(len(ways))]
    rules = zip(prefs, ways, strict=True)
    ip(*(f"rule add pref {pref} ipproto tcp {way} blackhole" for pref, way in rules))
    yield
    time.sleep(FROZEN_S)
    ip(*(f"rule del pref {pref}" for pref in prefs))


def own_ports(host: str, port: int) -> list[int]:
    """The local ports of this process's connections to an address."""
    inodes = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
    wanted = "".join(f"{int(part):02X}" for part in reversed(host.split("."))) + f":{port:04X}"
    found = []
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[2][-13:] == wanted and fields[9] in inodes:
                found.append(int(fields[1].rpartition(":")[2], 16))
    return found


FAULTS = {
    "SIGKILL": killed,
    "SIGSTOP": stopped,
    "host cut off": cut_off,
    "connection dropped": connection_dropped,
}
CLIENTS = {
    "idle, with a witness": (True, False),
    "writing, no witness": (False, True),
    "writing, with a witness": (True, True),
    "idle, no witness": (False, False),
}


def until(cluster: LocalCluster, condition: Callable[[], object]) -> None:
    for _ in range(LOOKS_MAX):
        if condition():
            return
        time.sleep(0.005)
    raise SystemExit(f"nothing happened\n{cluster.last_words(5)}")


class Writer:
    """Writes one block after the other until it is told to stop."""

    def __init__(self, file: sofs.File) -> None:
        self._file = file
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        i = 0
        while not self._stop.is_set():
            self._file.pwrite(b"d" * 4096, i % 256 * 4096)
            i += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def measure(
    cluster: LocalCluster, fault: str, witness: bool, writing: bool, rounds: int
) -> tuple[list[float], dict[str, int]]:
    """Milliseconds from the fault to the decision, and why it was made."""
    took: list[float] = []
    why: dict[str, int] = {}
    with sofs.connect(cluster.url, credential=cluster.credential, witness=witness) as share:
        file = share.open("/detect", "w+b")  # An open handle: the client cares.
        writer = Writer(file) if writing else None
        for _ in range(rounds):
            cluster.wait_ready()
            until(cluster, lambda: share.facts().warm_address)
            until(cluster, lambda: share.facts().witness_address or not witness)
            time.sleep(CALM_S)
            before = len(share.failovers())
            node = cluster.node_at(share.facts().address)
            began_ns = time.time_ns()
            with FAULTS[fault](cluster, share, node):
                until(cluster, lambda before=before: len(share.failovers()) > before)
            record = share.failovers()[before]
            took.append((record.at_wall_ns - began_ns) / 1e6)
            why[record.reason] = why.get(record.reason, 0) + 1
        if writer is not None:
            writer.stop()
        file.close()
    return took, why


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--fault", default="", help="faults of which the name has this in it")
    parser.add_argument("--only", default="", help="clients of which the name has this in it")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv, "--inside"])
    # The kernel's own rule for local addresses comes first of all, else nothing can be dropped.
    ip("link set lo up", "rule add pref 100 lookup local", "rule del pref 0")
    print(f"{'fault':20s}{'client':25s}{'rounds':>6s}{'p50':>7s}{'max':>7s} ms  decided by")
    with tempfile.TemporaryDirectory() as folder, LocalCluster(f"{folder}/root") as cluster:
        for fault in [fault for fault in FAULTS if options.fault in fault]:
            for client, (witness, writing) in CLIENTS.items():
                if options.only not in client:
                    continue
                took, why = measure(cluster, fault, witness, writing, options.rounds)
                reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(why.items()))
                print(
                    f"{fault:20s}{client:25s}{len(took):6d}{statistics.median(took):7.0f}"
                    f"{max(took):7.0f}     {reasons}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
