"""Ray nodes as processes of this machine: starting them one after another, ending them exactly.

Each Ray node is one ``ray start --block`` (through ``ray_node``), a session leader with its own
log. They are started one after another, because two joins at the same moment abort a raylet. The
head carries no part of SOFS, and keeps its tables (GCS) in RocksDB below the run's temporary
folder: a head that died can be started again in place, and adopts the raylets and actors that went
on without it. Raylets wait for it for days (RECONNECT_S), since at Ray's default every actor would
die a minute after the head.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from sofs.actors import procfile
from sofs.actors.procfile import RUN_MARK, ProcFacts
from sofs.actors.ray_node import RayNodeOrder
from sofs.actors.rundir import TOKEN_FILE, RunRecord
from sofs.errors import InvalidParameter, Unavailable

HEAD: Final = "ray-head"
RAY_NODE: Final = "ray-node"
RAYLET: Final = "raylet"  # What the kernel calls Ray's process of a node.
OBJECT_STORE_BYTES: Final = 80 * 1024 * 1024  # Ray's floor is 75 MiB; SOFS puts nothing there.
RECONNECT_S: Final = 30 * 24 * 3600
START_S_MAX: Final = 60.0
START_TRIES: Final = 3
END_S_MAX: Final = 15.0
PORTS: Final = range(20_000, 30_000)  # Below the ephemeral ports, above those of Ray's workers.
PORT_TRIES_MAX: Final = 200
STARTED: Final = "Ray runtime started"  # What `ray start` prints when its node has joined.
MALLOC: Final = {
    # Large messages are freed and allocated again all the time; without these every one of them
    # costs a page fault for each 4 KiB.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 1024 * 1024),
}


def ray_environment(run_dir: Path, record: RunRecord) -> dict[str, str]:
    """The environment of every Ray process and driver of a run: nothing of Ray's is inherited."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    package = str(Path(__file__).parents[2])
    path = base.get("PYTHONPATH")
    return {
        **base,
        **MALLOC,
        RUN_MARK: record.run_id,
        "PYTHONPATH": f"{package}{os.pathsep}{path}" if path else package,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(run_dir / TOKEN_FILE),
        "RAY_TMPDIR": record.temp,
        "RAY_START_HOOK": "sofs.actors.ray_node.quiet",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_S),
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(Path(record.temp) / "gcs"),
        # A file server is not what Ray shall kill when memory runs short.
        "RAY_memory_monitor_refresh_ms": "0",
    }


def start_node(run_dir: Path, record: RunRecord, number: int, *, die_with_parent: bool) -> None:
    """Start the head (``number`` 0) or a Ray node and return when it has joined. Ray gives a node
    30 seconds, which a machine under load may exceed: it is tried START_TRIES times. Raises
    Unavailable with the last words."""
    name = f"{RAY_NODE}-{number}" if number else HEAD
    order = RayNodeOrder(
        name,
        RAY_NODE if number else HEAD,
        str(run_dir),
        record.run_id,
        _arguments(record, number),
        die_with_parent,
    )
    (run_dir / "log").mkdir(mode=0o700, exist_ok=True)
    output = run_dir / "log" / f"{name}.log"
    words = ""
    end_node(run_dir, name, record.run_id)  # What is left of a former one.
    for _ in range(START_TRIES):
        if not number:
            # Ray refuses to start a head where another's raylets live; here they are its own.
            with contextlib.suppress(FileNotFoundError):
                (Path(record.temp) / "ray_current_cluster").unlink()
        text = _start(run_dir, record, order, output)
        if STARTED in text:
            if not number:
                record.ray_address = _own_address(text, record.ray_port)
            return
        words = " | ".join(text.strip().splitlines()[-3:])
        end_node(run_dir, name, record.run_id)
    raise Unavailable(f"{name} did not start; see {output}: {words}")


def _start(run_dir: Path, record: RunRecord, order: RayNodeOrder, output: Path) -> str:
    """Run ``ray start`` until it says that it has started, ends, or START_S_MAX passed; returns
    what it said."""
    with open(output, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sofs.actors.ray_node", json.dumps(asdict(order))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=ray_environment(run_dir, record),
        )
    deadline = time.monotonic() + START_S_MAX
    while True:
        ended = process.poll() is not None
        text = output.read_text(errors="replace")
        if STARTED in text or ended or time.monotonic() > deadline:
            return text
        time.sleep(0.02)


def _own_address(text: str, port: int) -> str:
    """Ray takes an address of the network for itself even when told the loopback: it prints it."""
    for line in text.splitlines():
        _, found, address = line.partition("Local node IP: ")
        if found:
            return f"{address.strip()}:{port}"
    return f"127.0.0.1:{port}"


def _arguments(record: RunRecord, number: int) -> list[str]:
    common = [
        "start",
        "--block",
        "--node-ip-address=127.0.0.1",
        "--num-cpus=0",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--include-log-monitor=false",
        # With ray[default] agents listen, and one of another Ray cluster here has the usual port.
        "--dashboard-agent-listen-port=0",
        "--disable-usage-stats",
        "--log-style=record",
        "--log-color=false",
    ]
    if not number:
        return [
            *common,
            "--head",
            f"--port={record.ray_port}",
            "--include-dashboard=false",
            "--no-monitor",
            f"--temp-dir={record.temp}",
        ]
    return [
        *common,
        f"--address={record.ray_address}",
        '--resources={"sofs_node": 1}',
        f"--labels=sofs/name=machine-{number}",
    ]


def make_storage(record: RunRecord) -> None:
    """The folder for the head's tables."""
    Path(record.temp, "gcs").mkdir(mode=0o700, exist_ok=True)


def driver_order(
    action: str, address: str, run_dir: Path, run: str, namespace: str, **more: object
) -> str:
    """The argument of a driver; see ``launch``."""
    order = {"action": action, "address": address, "namespace": namespace}
    return json.dumps({**order, "run_dir": str(run_dir), "run": run, **more})


def launch_leader(
    run_dir: Path, record: RunRecord, config: dict[str, object]
) -> subprocess.Popen[bytes]:
    """Start the driver that registers the leader; the caller waits for it."""
    order = driver_order(
        "start",
        record.ray_address,
        run_dir,
        record.run_id,
        record.namespace,
        config=config,
        variables={},
    )
    with open(run_dir / "log" / "launch.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "sofs.actors.launch", order],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=ray_environment(run_dir, record),
        )


# Ending -----------------------------------------------------------------------------------------


def end_node(run_dir: Path, name: str, run: str) -> None:
    """SIGKILL the processes of one Ray node and wait until they are gone, at most END_S_MAX."""
    facts = procfile.read(procfile.proc_folder(run_dir) / f"{name}.json")
    if facts is None:
        return
    members = map(procfile.identify, procfile.session_members([facts], run))
    doomed = [facts, *(found for found in members if found is not None)]
    for process in doomed:
        procfile.kill(process)
    left = procfile.wait_gone(doomed, END_S_MAX)
    if left:
        raise Unavailable(f"killed processes linger: {[process.pid for process in left]}")


def end_all(run_dir: Path, run: str) -> int:
    """SIGKILL every recorded process of this boot and all members of their Ray nodes' sessions, and
    wait until all are gone; returns how many there were. Whether Ray answers plays no part.

    Raises Unavailable when a process does not end (it hangs in the kernel: a dead disk).
    """
    killed: set[tuple[int, int]] = set()
    deadline = time.monotonic() + END_S_MAX
    while True:
        recorded = procfile.read_all(run_dir)
        leaders = [facts for facts in recorded if facts.role in (HEAD, RAY_NODE)]
        members = [procfile.identify(pid) for pid in procfile.session_members(leaders, run)]
        # Whoever restarts others comes first: raylets, and what started them.
        targets = [
            *leaders,
            *(facts for facts in members if facts is not None),
            *(facts for facts in recorded if facts not in leaders),
        ]
        alive = [facts for facts in targets if procfile.alive(facts)]
        if not alive:
            break
        for facts in alive:
            killed.add((facts.pid, facts.start_ticks))
            procfile.kill(facts)
        left = procfile.wait_gone(alive, min(1.0, END_S_MAX))
        if left and time.monotonic() > deadline:
            pids = ", ".join(str(facts.pid) for facts in left)
            raise Unavailable(
                f"processes {pids} do not end although they were killed; a device that they wait "
                "for may hang"
            )
    procfile.forget_dead(run_dir)
    return len(killed)


# Ports ------------------------------------------------------------------------------------------


def is_free(hosts: Sequence[str], port: int) -> bool:
    """Can this port be bound now at all of ``hosts``, for TCP and UDP?"""
    for host in hosts:
        with socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
                datagrams.bind((host, port))
            except OSError:
                return False
    return True


def pick_ports(hosts: Sequence[str], count: int, wanted: int = 0) -> int:
    """Return the first of ``count`` ports in a row that are free at all ``hosts``: from ``wanted``
    if it is given, else any of PORTS. Raises InvalidParameter when it is taken."""
    if wanted:
        taken = [p for p in range(wanted, wanted + count) if not is_free(hosts, p)]
        if taken:
            raise InvalidParameter(
                f"port {taken[0]} is taken at one of {', '.join(hosts)}; give another with --port"
            )
        return wanted
    for _ in range(PORT_TRIES_MAX):
        port = PORTS.start + secrets.randbelow(len(PORTS) - count)
        if all(is_free(hosts, p) for p in range(port, port + count)):
            return port
    raise Unavailable(f"no free port from {PORTS.start} to {PORTS.stop} at {', '.join(hosts)}")


def ray_nodes(run_dir: Path) -> dict[str, ProcFacts]:
    """The recorded Ray nodes that are alive, by name. One whose raylet has ended is not, though
    what started it stays: so it is with a Ray node that was drained."""
    recorded = [f for f in procfile.read_all(run_dir) if f.role in (HEAD, RAY_NODE)]
    found = {}
    for facts in filter(procfile.alive, recorded):
        members = procfile.session_members([facts], facts.run)
        if any(procfile.command_name(pid) == RAYLET for pid in members):
            found[facts.name] = facts
    return found
