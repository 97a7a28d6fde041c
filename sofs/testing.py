"""A local cluster of real processes, to kill: for tests of SOFS and of applications that use it.

::

    with sofs.testing.LocalCluster(folder) as cluster:
        share = sofs.connect(cluster.url, credential=cluster.credential)
        ...
        cluster.kill("node-1")      # SIGKILL; a supervisor starts it again, as Ray would
        cluster.freeze("node-2")    # SIGSTOP ... cluster.thaw("node-2")

Every part is its own process with its own address on the loopback network (127.0.0.11, .12, ...).
All of them end with this process, however it ends.

``RayCluster`` has the same faults on a real local Ray cluster, which starts again what is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from sofs.actors.compose import PartConfig, create_roots
from sofs.actors.lifecycle import DNS_HOSTS, DNS_NAME, dns_hosts_of
from sofs.actors.ray_testing import RayCluster as RayCluster
from sofs.actors.rundir import normal_root
from sofs.client.background import loop_thread
from sofs.core.messages import Hello, PartState, PartStateReply
from sofs.errors import SofsError
from sofs.rpc.transport import GrpcTransport
from sofs.services.channel import expect, open_channel, within
from sofs.services.witness.ask import move_client
from sofs.storage import SystemClock

RESTART_DELAY_S = 0.4  # What Ray needs for a crashed actor on two cores.
READY_S_MAX = 30.0
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "268435456"}


@dataclass
class Part:
    """One supervised process."""

    config: PartConfig
    process: subprocess.Popen[str] | None = None
    address: str = ""
    starts: int = 0
    wanted: bool = True
    frozen: bool = False
    down_since: float | None = None
    ready: threading.Event = field(default_factory=threading.Event)

    @property
    def role(self) -> str:
        return self.config.role

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0


class LocalCluster:
    """Coordinator, resume-key, nodes, and if they are wanted witnesses and DNS parts, on one
    folder."""

    ray: None = None  # There is none below.

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        nodes: int = 3,
        port: int = 0,
        run_dir: str | os.PathLike[str] | None = None,
        restart: bool = True,
        witness: bool = True,
        dns: bool = False,
        dns_ttl_s: int = 60,
    ) -> None:
        self.root = normal_root(os.fspath(root))  # A folder, or the URL of a backend.
        self._own_run_dir = run_dir is None
        self.run_dir = Path(run_dir or tempfile.mkdtemp(prefix="sofs-run-"))
        self.credential = secrets.token_urlsafe(32)
        self.restart = restart
        self.port = port or _free_port([*DNS_HOSTS, *(f"127.0.0.{11 + i}" for i in range(nodes))])
        self.parts: dict[str, Part] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None
        hosts = [f"127.0.0.{11 + i}" for i in range(nodes)]
        addresses = [f"{host}:{self.port}" for host in hosts]
        self._witnesses = [f"{host}:{self.port + 1}" for host in hosts] if witness else []
        self.dns_hosts = dns_hosts_of(nodes) if dns else []
        self._dns = [f"{host}:{self.port}" for host in self.dns_hosts]
        self.dns_addresses = [f"{host}:{self.port + 1}" for host in self.dns_hosts]
        self._dns_ttl_s = dns_ttl_s
        self._add("coordinator", "coordinator", "127.0.0.1:0", addresses)
        self._add("resume-key", "resume-key", "127.0.0.1:0", addresses)
        for i, address in enumerate(addresses):
            self._add(f"node-{i + 1}", "node", address, addresses)
        for i, address in enumerate(self._witnesses):
            self._add(f"witness-{i + 1}", "witness", address, addresses)
        for i, address in enumerate(self._dns):
            self._add(f"dns-{i + 1}", "dns", address, addresses)

    def _add(self, name: str, role: str, address: str, access_point: list[str]) -> None:
        self.parts[name] = Part(
            PartConfig(
                role=role,
                name=name,
                root=self.root,
                address=address,
                credential=self.credential,
                run_dir=str(self.run_dir),
                access_point=access_point,
                witnesses=self._witnesses,
                dns=self._dns,
                dns_name=DNS_NAME if self._dns else "",
                dns_addresses=self.dns_addresses,
                dns_ttl_s=self._dns_ttl_s,
                die_with_parent=True,
            )
        )

    # Life
    # ------------------------------------------------------------------------------------------

    def __enter__(self) -> LocalCluster:
        try:
            self.start()
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

    def start(self) -> None:
        """Start every part and return when all of them listen."""
        create_roots(self.root, self.credential, "share")
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()
        self.wait_ready()

    def wait_ready(self, names: list[str] | None = None) -> None:
        """Return when the parts (all by default) said that they listen."""
        deadline = time.monotonic() + READY_S_MAX
        for name in names or list(self.parts):
            part = self.parts[name]
            if not part.ready.wait(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"{name} did not start; see {self.run_dir}/log/{name}.log")

    def close(self) -> None:
        """Kill everything and remove the run directory (the root stays)."""
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.join()
        for part in self.parts.values():
            if part.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    part.process.kill()
                part.process.wait()
                if part.process.stdout is not None:
                    part.process.stdout.close()
        if self._own_run_dir:
            shutil.rmtree(self.run_dir, ignore_errors=True)

    # The supervisor
    # --------------------------------------------------------------------------------

    def _supervise(self) -> None:
        """The one thread that starts processes: they are told to die with it."""
        while not self._stopping.is_set():
            for part in self.parts.values():
                with self._lock:
                    self._tend(part)
            self._stopping.wait(0.02)

    def _tend(self, part: Part) -> None:
        now = time.monotonic()
        if part.process is not None and part.process.poll() is None:
            return
        if part.process is not None and part.down_since is None:
            part.down_since = now
            part.frozen = False
            part.ready.clear()
            if part.process.stdout is not None:
                part.process.stdout.close()
        if not part.wanted or (part.starts and not self.restart):
            return
        if part.down_since is not None and now - part.down_since < RESTART_DELAY_S:
            return
        part.down_since = None
        part.starts += 1
        part.process = subprocess.Popen(
            [sys.executable, "-m", "sofs.actors.process", json.dumps(asdict(part.config))],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **MALLOC},
        )
        threading.Thread(target=_await_ready, args=(part, part.process), daemon=True).start()

    # Faults
    # ----------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until the process is gone."""
        part = self.parts[name]
        process = part.process
        if process is not None and process.poll() is None:
            part.ready.clear()
            process.kill()
            process.wait()

    def kill_all(self) -> None:
        """SIGKILL every process at once; nothing restarts until ``revive``."""
        with self._lock:
            for part in self.parts.values():
                part.wanted = False
            for name in self.parts:
                self.parts[name].ready.clear()
                process = self.parts[name].process
                if process is not None and process.poll() is None:
                    process.kill()
            for part in self.parts.values():
                if part.process is not None:
                    part.process.wait()

    def revive(self) -> None:
        """Let the supervisor start what ``kill_all`` or ``stop`` ended, and wait for it."""
        with self._lock:
            for part in self.parts.values():
                part.wanted = True
        self.wait_ready()

    def stop(self, name: str) -> None:
        """SIGKILL a part for good."""
        with self._lock:
            self.parts[name].wanted = False
        self.kill(name)

    def freeze(self, name: str) -> None:
        """SIGSTOP: the process keeps its sockets and files and does nothing."""
        part = self.parts[name]
        part.frozen = True
        os.kill(part.pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT a frozen part."""
        part = self.parts[name]
        if part.frozen:
            part.frozen = False
            os.kill(part.pid, signal.SIGCONT)

    def move_client(self, client_id: bytes, node: str) -> bool:
        """Move a client to a node part, as `sofs witness move` does; False if it was there. Raises
        why it stayed."""
        witnesses = {n: p.config.address for n, p in self.parts.items() if p.role == "witness"}
        destination = self.parts[node].config.address
        return loop_thread().run(
            _move_client(witnesses, client_id.hex(), destination, self.credential)
        )

    # Facts
    # -----------------------------------------------------------------------------------------

    def facts(self, name: str) -> dict[str, str]:
        """What a part says of itself: its state and counters, by name."""
        part = self.parts[name]
        # On the client's loop: gRPC's asyncio side does not survive the end of another loop.
        reply = loop_thread().run(_ask_state(part.address, self.credential))
        return {"state": reply.state} | dict(fact.split("=", 1) for fact in reply.facts)

    def owner(self) -> str:
        """Which of coordinator and resume-key is the volume's authority now."""
        deadline = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline:
            for name in ("coordinator", "resume-key"):
                with contextlib.suppress(SofsError):
                    if self.parts[name].ready.is_set() and self.facts(name)["state"] == "active":
                        return name
            time.sleep(0.05)
        raise TimeoutError("the volume has no authority")

    def last_words(self, lines: int = 25) -> str:
        """The last lines of every part's log, for the message of a failed test."""
        words = []
        for name in self.parts:
            path = self.run_dir / "log" / f"{name}.log"
            if path.exists():
                tail = path.read_text(errors="replace").splitlines()[-lines:]
                words.append("\n".join([f"--- {name}", *tail]))
        return "\n".join(words)

    @property
    def addresses(self) -> list[str]:
        """The access point: the configured addresses of all nodes."""
        return self.parts["node-1"].config.access_point

    @property
    def url(self) -> str:
        return f"sofs://{','.join(self.addresses)}/share"

    @property
    def dns_url(self) -> str:
        """The share by its access point's name, for a cluster with DNS parts."""
        return f"sofs://{DNS_NAME}/share?dns={','.join(self.dns_addresses)}"

    def url_from(self, first: str) -> str:
        """The URL for a client that begins at the node of a name."""
        return f"sofs://{','.join(self.addresses)}/share?start={self.parts[first].config.address}"

    def node_at(self, address: str) -> str:
        """The name of the node part with an address."""
        for name, part in self.parts.items():
            if part.config.role == "node" and part.config.address == address:
                return name
        raise KeyError(address)


async def _move_client(
    witnesses: dict[str, str], client: str, destination: str, credential: str
) -> bool:
    clock = SystemClock()
    transport = GrpcTransport(credential, clock)
    try:
        return await move_client(clock, transport, witnesses, client, destination)
    finally:
        await transport.close()


async def _ask_state(address: str, credential: str) -> PartStateReply:
    clock = SystemClock()
    transport = GrpcTransport(credential, clock)
    try:
        channel = await open_channel(
            transport,
            clock,
            address,
            "cluster",
            Hello(),
            lambda channel, envelope: None,
            name="ask",
            on_crash=lambda error: None,
            timeout_ms=2_000,
        )
        reply = expect(
            await within(clock, 2_000, channel.call(PartState()), "state"), PartStateReply
        )
        await channel.close()
        return reply
    finally:
        await transport.close()


def _await_ready(part: Part, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):
        for line in process.stdout:
            word, _, address = line.strip().partition(" ")
            if word == "ready":
                part.address = address
                part.ready.set()


def _free_port(hosts: list[str]) -> int:
    """A port that is free now at all hosts, and the next one too, below the ephemeral range."""
    import socket

    for _ in range(200):
        port = 20_000 + 2 * secrets.randbelow(5_000)
        try:
            for host in hosts:
                for candidate in (port, port + 1):
                    with socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as other:
                        probe.bind((host, candidate))
                        other.bind((host, candidate))
        except OSError:
            continue
        return port
    raise OSError("no free port between 20000 and 30000 on the loopback addresses")
