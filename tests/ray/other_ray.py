"""A Ray cluster that others started, for tests: a head with the job server, and Ray nodes of which
some are meant for SOFS. All on this machine, and one at a time (see ``RayCluster``).

It is started as people do it, by `ray start`; only that each Ray node is recorded before it starts
(``ray_node``), so that its processes can be ended exactly, and end with this process.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import pytest

import sofs
from sofs.actors import admin, lifecycle, procfile, ray_cluster, rundir
from sofs.actors.lifecycle import Report
from sofs.actors.ray_cluster import HEAD, RAY_NODE, RECONNECT_S
from sofs.actors.ray_node import RayNodeOrder
from sofs.actors.ray_testing import LOCK_FILE
from sofs.actors.rundir import RunRecord
from sofs.core.messages import ListMachines, MachineList
from sofs.rpc.credential import CREDENTIAL_FILE, read_credential

PACKAGE = str(Path(sofs.__file__).parents[1])
START_S_MAX = 120.0
TRIES = 3
VETH = "sofs-veth"
NET = "10.77.9"


class Guest:
    """SOFS in somebody else's Ray cluster: a run directory, and what is recorded there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.run_dir = folder / "run"

    @property
    def record(self) -> RunRecord:
        found = rundir.read_run(self.run_dir)
        assert found is not None
        return found

    @property
    def url(self) -> str:
        return self.record.url

    @property
    def credential(self) -> str:
        return read_credential(self.run_dir / CREDENTIAL_FILE)

    def facts(self, name: str) -> procfile.ProcFacts | None:
        """The process of a part, if it is alive."""
        found = procfile.read(procfile.proc_folder(self.run_dir) / f"{name}.json")
        return found if found is not None and procfile.alive(found) else None

    def listens(self, name: str) -> bool:
        found = self.facts(name)
        return found is not None and bool(found.address)

    def kill(self, name: str) -> None:
        """SIGKILL a part; Ray starts another."""
        found = self.facts(name)
        assert found is not None, f"{name} does not run"
        procfile.kill(found)
        assert procfile.wait_gone([found], 10.0) == []

    def parts(self) -> list[procfile.ProcFacts]:
        """All that is recorded and alive."""
        return [facts for facts in procfile.read_all(self.run_dir) if procfile.alive(facts)]

    def status(self) -> Report:
        return lifecycle.status(self.run_dir, self.credential)

    def processes(self) -> dict[str, tuple[int, int]]:
        """Part -> its process. Lives within one may change on a loaded machine: an authority that
        was slow is passed, and takes its volume back."""
        return {facts.name: (facts.pid, facts.start_ticks) for facts in self.parts()}

    def all_run(self) -> bool:
        """Every part that is meant to be is there and answers."""
        report = self.status()
        wrong = {"dead", "away", "starting", "taking over", "learning"}
        return report.serving and not wrong & {part.state for part in report.parts}

    def complete(self, machines: int) -> bool:
        """Does everything run, with a node and a witness on each of so many machines? (The leader
        may not have noticed yet that one came back; then all run that are meant to.)"""
        roles = [facts.name.partition("-")[0] for facts in self.parts()]
        return roles.count("node") == roles.count("witness") == machines and self.all_run()

    def machines(self) -> dict[str, list[str]]:
        """Machine -> the parts that are meant for it."""
        reply = admin.ask(str(self.root), self.credential, ListMachines(), MachineList)
        return {machine.name: machine.parts for machine in reply.machines}

    def last_words(self, lines: int = 25) -> str:
        """The last lines of every log."""
        words = []
        for path in sorted((self.run_dir / "log").glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            words.append("\n".join([f"--- {path.stem}", *tail]))
        return "\n".join(words)


class OtherRay:
    """See the module. ``jobs``: with Ray's job server (it needs ray[default])."""

    def __init__(self, nodes: int = 3, *, jobs: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self.run = secrets.token_hex(8)
        self.port, self.dashboard, self.client = (
            ray_cluster.pick_ports(["0.0.0.0"], 1) for _ in range(3)
        )
        self.address = ""
        self._nodes = nodes
        self._jobs = jobs
        self._lock: int | None = None
        (self.folder / "gcs").mkdir()
        (self.folder / "token").write_text(secrets.token_urlsafe(32))
        self.environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "SOFS_"))},
            "PYTHONPATH": PACKAGE,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_TMPDIR": str(self.folder / "t"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(self.folder / "gcs"),
            "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_S),
            "RAY_memory_monitor_refresh_ms": "0",
            procfile.RUN_MARK: self.run,
        }

    def __enter__(self) -> OtherRay:
        try:
            self._lock = os.open(
                Path(tempfile.gettempdir()) / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self.start_head()
            for number in range(1, self._nodes + 1):
                self.add(number)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all of it."""
        ray_cluster.end_all(self.folder, self.run)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # Ray nodes
    # ----------------------------------------------------------------------------------------

    @contextmanager
    def elsewhere(self, number: int) -> Iterator[str]:
        """A Ray node on what Ray takes for another machine: a network namespace, where the
        loopback is another one. Yields its address; skips where namespaces are not allowed."""
        if shutil.which("ip") is None:
            pytest.skip("there is no `ip` here (Debian: iproute2)")
        space = f"sofs-{self.run[:6]}"
        inside = ["ip", "-n", space]
        steps = [
            ["ip", "netns", "add", space],
            [
                *("ip", "link", "add", VETH, "type", "veth"),
                *("peer", "name", "eth0", "netns", space),
            ],
            ["ip", "addr", "add", f"{NET}.1/24", "dev", VETH],
            ["ip", "link", "set", VETH, "up"],
            [*inside, "addr", "add", f"{NET}.2/24", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
            [*inside, "link", "set", "lo", "up"],
            [*inside, "route", "add", "default", "via", f"{NET}.1"],
        ]
        try:
            for step in steps:
                if subprocess.run(step, capture_output=True).returncode != 0:
                    pytest.skip(f"not permitted here: {' '.join(step)}")
            self.add(number, prefix=["ip", "netns", "exec", space], host=f"{NET}.2")
            yield f"{NET}.2"
        finally:
            self.end(f"{RAY_NODE}-{number}")
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
            subprocess.run(["ip", "link", "del", VETH], capture_output=True)

    def start_head(self) -> None:
        """The head, or a new one on the tables of one that died."""
        (self.folder / "t" / "ray_current_cluster").unlink(missing_ok=True)
        arguments = ["--head", f"--port={self.port}", f"--temp-dir={self.folder / 't'}"]
        arguments.append(f"--ray-client-server-port={self.client}")
        arguments += (
            ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"]
            if self._jobs
            else []
        )
        arguments.append(f"--include-dashboard={str(self._jobs).lower()}")
        text = self._start(HEAD, HEAD, arguments)
        self.address = ray_cluster._own_address(text, self.port)

    def add(self, number: int, *, prefix: Sequence[str] = (), host: str = "127.0.0.1") -> None:
        """A Ray node that joins. ``prefix``: what it is started by; ``host``: its own address."""
        self.end(f"{RAY_NODE}-{number}")  # What is left of a former one.
        self._start(
            f"{RAY_NODE}-{number}",
            RAY_NODE,
            [
                f"--address={self.address}",
                '--resources={"sofs_node": 1}',
                f"--labels=sofs/name=machine-{number}",
            ],
            prefix,
            host,
        )

    def end(self, name: str) -> None:
        """SIGKILL all processes of "ray-head", or of "ray-node-1" and so on."""
        ray_cluster.end_node(self.folder, name, self.run)

    def alive(self, name: str) -> bool:
        """Does a Ray node run?"""
        return name in ray_cluster.ray_nodes(self.folder)

    def last_words(self) -> str:
        """The ends of what `ray start` printed, and which Ray nodes live."""
        logs = [path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log")]
        return "\n".join([*logs, f"alive: {list(ray_cluster.ray_nodes(self.folder))}"])

    def _start(
        self,
        name: str,
        role: str,
        arguments: Sequence[str],
        prefix: Sequence[str] = (),
        host: str = "127.0.0.1",
    ) -> str:
        common = ["start", "--block", f"--node-ip-address={host}", "--num-cpus=0"]
        common += [f"--object-store-memory={ray_cluster.OBJECT_STORE_BYTES}"]
        common += ["--disable-usage-stats", "--include-log-monitor=false", "--log-color=false"]
        common.append("--dashboard-agent-listen-port=0")  # Other Ray clusters have the usual one.
        order = RayNodeOrder(name, role, str(self.folder), self.run, [*common, *arguments], True)
        log = self.folder / f"{name}.log"
        text = ""
        for _ in range(TRIES):
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    [
                        *prefix,
                        sys.executable,
                        "-m",
                        "sofs.actors.ray_node",
                        json.dumps(asdict(order)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=self.environment,
                )
            deadline = time.monotonic() + START_S_MAX
            while process.poll() is None and time.monotonic() < deadline:
                text = log.read_text(errors="replace")
                if ray_cluster.STARTED in text:
                    return text
                time.sleep(0.05)
            self.end(name)
        raise RuntimeError(f"{name} did not start: {text}")

    # Others' work
    # -------------------------------------------------------------------------------------

    def job(self, arguments: Sequence[str], **variables: str) -> subprocess.Popen[str]:
        """`ray job submit <arguments>`, as a process."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", *arguments]
        server = f"http://127.0.0.1:{self.dashboard}"
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**self.environment, "RAY_API_SERVER_ADDRESS": server, **variables},
        )

    def ask(self, expression: str) -> object:
        """The value of a Python expression in a driver of the cluster, through JSON."""
        code = (
            "import json, logging, ray, ray.util\n"
            f"ray.init(address={self.address!r}, logging_level=logging.ERROR,"
            " log_to_driver=False)\n"
            f"print('says', json.dumps({expression}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
        )
        [line] = [text for text in done.stdout.splitlines() if text.startswith("says ")] or [""]
        if not line:
            raise RuntimeError(done.stderr)
        return json.loads(line.removeprefix("says "))

    def sofs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The `sofs` command of somebody who may use this Ray cluster."""
        return subprocess.run(
            [sys.executable, "-m", "sofs", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=180,
        )
