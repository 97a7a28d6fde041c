"""A real local Ray cluster to kill; what ``sofs.testing.RayCluster`` is.

It is `sofs up` and `sofs down` on a run directory of its own, with the faults of
``sofs.testing.LocalCluster``. Ray starts again what is killed. Pids come from the proc files, which
a process that was started again writes anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from sofs.actors import lifecycle, procfile, ray_cluster
from sofs.actors.compose import PartConfig
from sofs.actors.lifecycle import Report, Up, UpOptions
from sofs.actors.procfile import ProcFacts

LOCK_FILE: Final = "sofs-ray-test.lock"  # In the temporary folder; see RayCluster.
READY_S_MAX: Final = 120.0
GONE_S_MAX: Final = 10.0
POLL_S: Final = 0.02


@dataclass
class RayPart:
    """One part, whichever process it is just now."""

    config: PartConfig
    run_dir: Path
    frozen: ProcFacts | None = None

    @property
    def role(self) -> str:
        return self.config.role

    @property
    def name(self) -> str:
        return self.config.name

    def facts(self) -> ProcFacts | None:
        """Its process as recorded, if it is alive."""
        found = procfile.read(procfile.proc_folder(self.run_dir) / f"{self.name}.json")
        return found if found is not None and procfile.alive(found) else None

    @property
    def pid(self) -> int:
        """Its process id; 0 while it has no process."""
        found = self.facts()
        return found.pid if found is not None else 0

    @property
    def address(self) -> str:
        """Where it listens; "" while it does not."""
        found = self.facts()
        return found.address if found is not None else ""


class RayCluster:
    """Leader, coordinator, resume-key, nodes and witnesses on a local Ray cluster.

    One at a time on a machine: a second one waits until the first is closed, since two are more
    than a small machine can bear. It ends with this process, however it ends, if it was started
    from the main thread.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        nodes: int = 3,
        port: int = 0,
        run_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.root = Path(root).absolute()
        self._own_run_dir = run_dir is None
        self.run_dir = Path(run_dir or tempfile.mkdtemp(prefix="sofs-run-"))
        self._options = UpOptions(
            root=str(self.root), nodes=nodes, run_dir=str(self.run_dir), port=port
        )
        self._lock: int | None = None
        self._up: Up | None = None
        self._stopped: dict[str, None] = {}
        self._closing = threading.Event()
        self._stopper: threading.Thread | None = None
        self.parts: dict[str, RayPart] = {}

    # Life
    # ------------------------------------------------------------------------------------------

    def __enter__(self) -> RayCluster:
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
        """Start the cluster and return when it serves."""
        if self._lock is None:
            path = Path(tempfile.gettempdir()) / LOCK_FILE
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        main = threading.current_thread() is threading.main_thread()
        options = UpOptions(
            root=self._options.root,
            nodes=self._options.nodes,
            run_dir=self._options.run_dir,
            port=self._options.port,
            die_with_parent=main,
        )
        self._up = lifecycle.up(options, _without_credential(), lifecycle.ignore)
        self.parts = {
            name: RayPart(self._config(name), self.run_dir)
            for name in lifecycle.part_names(self._up.record)
        }

    def _config(self, name: str) -> PartConfig:
        """What a part was told, as far as tests need it."""
        up = self.up
        role, _, slot = name.rpartition("-") if name[-1].isdigit() else (name, "", "")
        address = "127.0.0.1:0"
        if role == "dns":
            address = up.record.dns[int(slot) - 1]
        elif slot:
            port = up.record.node_port if role == "node" else up.record.witness_port
            address = f"{up.record.hosts[int(slot) - 1]}:{port}"
        return PartConfig(
            role=role,
            name=name,
            root=str(self.root),
            address=address,
            credential=up.credential,
            run_dir=str(self.run_dir),
            run_id=up.record.run_id,
            access_point=up.record.addresses,
        )

    @property
    def up(self) -> Up:
        """The started cluster."""
        assert self._up is not None, "the cluster was not started"
        return self._up

    def wait_ready(self, names: list[str] | None = None) -> None:
        """Return when the parts (all by default) listen."""
        deadline = time.monotonic() + READY_S_MAX
        for name in names or list(self.parts):
            while not self.parts[name].address:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} did not start; see {self.run_dir}/log/{name}.log")
                time.sleep(POLL_S)

    def close(self) -> None:
        """End everything and remove the run directory (the root stays)."""
        self._closing.set()
        if self._stopper is not None:
            self._stopper.join()
        try:
            if self.run_dir.exists():
                lifecycle.down(self.run_dir)
            if self._own_run_dir:
                shutil.rmtree(self.run_dir, ignore_errors=True)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    # Faults
    # ----------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """SIGKILL a part, and wait until its process is gone; Ray starts another."""
        facts = self.parts[name].facts()
        if facts is not None:
            procfile.kill(facts)
            self._wait_gone([facts])

    def kill_all(self) -> None:
        """SIGKILL every process, Ray's too; nothing restarts until ``revive``."""
        self._stopped.clear()
        ray_cluster.end_all(self.run_dir, self.up.record.run_id)

    def revive(self) -> None:
        """Start again what ``kill_all`` or ``stop`` ended, and wait for it."""
        self._stopped.clear()
        self.start()
        self.wait_ready()

    def stop(self, name: str) -> None:
        """Kill a part for good: whatever Ray starts in its place is killed too, until
        ``revive``."""
        self._stopped[name] = None
        if self._stopper is None:
            self._stopper = threading.Thread(target=self._keep_stopped, daemon=True)
            self._stopper.start()
        self.kill(name)

    def _keep_stopped(self) -> None:
        while not self._closing.wait(POLL_S):
            for name in list(self._stopped):
                facts = self.parts[name].facts()
                if facts is not None:
                    procfile.kill(facts)

    def freeze(self, name: str) -> None:
        """SIGSTOP: the process keeps its sockets and files and does nothing."""
        part = self.parts[name]
        part.frozen = part.facts()
        if part.frozen is not None:
            os.kill(part.frozen.pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT a frozen part."""
        part = self.parts[name]
        frozen, part.frozen = part.frozen, None
        if frozen is not None and procfile.alive(frozen):
            with contextlib.suppress(ProcessLookupError):
                os.kill(frozen.pid, signal.SIGCONT)

    def kill_ray(self, name: str) -> None:
        """SIGKILL the processes of a Ray node: "ray-head", or "ray-node-1" and so on. The parts on
        it die with it, but for what the kernel keeps of them a moment longer."""
        ray_cluster.end_node(self.run_dir, name, self.up.record.run_id)

    def kill_head(self) -> None:
        """SIGKILL the Ray head; from now on nothing that crashes is started again."""
        self.kill_ray(ray_cluster.HEAD)

    def start_head(self) -> None:
        """Start the head again in place, as `sofs up` does."""
        self.start()

    @property
    def ray(self) -> RayCluster:
        """What is below the parts: this very object kills and starts its head."""
        return self

    def _wait_gone(self, processes: list[ProcFacts]) -> None:
        left = procfile.wait_gone(processes, GONE_S_MAX)
        if left:
            raise TimeoutError(f"killed processes linger: {[facts.pid for facts in left]}")

    # Facts
    # -----------------------------------------------------------------------------------------

    def status(self) -> Report:
        """What `sofs status` tells."""
        return lifecycle.status(self.run_dir, self.credential)

    def last_words(self, lines: int = 25) -> str:
        """The last lines of every log, for the message of a failed test."""
        words = []
        for path in sorted((self.run_dir / "log").glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            words.append("\n".join([f"--- {path.stem}", *tail]))
        return "\n".join(words)

    @property
    def credential(self) -> str:
        return self.up.credential

    @property
    def addresses(self) -> list[str]:
        """The access point: the addresses of all nodes."""
        return self.up.record.addresses

    @property
    def url(self) -> str:
        return self.up.record.url

    @property
    def dns_url(self) -> str:
        """The share by its access point's name."""
        return self.up.record.dns_url

    def url_from(self, first: str) -> str:
        """The URL for a client that begins at the node of a name."""
        return f"sofs://{','.join(self.addresses)}/share?start={self.parts[first].config.address}"

    def node_at(self, address: str) -> str:
        """The name of the node part with an address."""
        for name, part in self.parts.items():
            if part.role == "node" and part.config.address == address:
                return name
        raise KeyError(address)


def _without_credential() -> Mapping[str, str]:
    """The environment without a credential of another cluster."""
    return {name: value for name, value in os.environ.items() if name != "SOFS_CREDENTIAL"}
