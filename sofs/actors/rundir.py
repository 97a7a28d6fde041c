"""The run directory of a cluster on this machine: what runs, its log, and its secrets.

``<run dir>/`` holds ``run.json`` (what this run is), ``credential`` and ``ray-token`` (secrets,
mode 0600), ``proc/`` (one file a process), ``log/``, and ``lock``. It is ``--run-dir``, else a
folder named by the cluster's uuid under ``$XDG_RUNTIME_DIR/sofs`` or ``/tmp/sofs-<uid>``.

The credential belongs to the cluster and must outlive the run directory, which a reboot takes away:
unless the run directory was named by the operator, it is kept under ``$XDG_STATE_HOME/sofs``
(``~/.local/state/sofs``) by cluster uuid, and the run directory has a copy. Before a new root has a
uuid, its credential waits there under a name made from the root's URL, so that no crash can leave a
cluster whose credential nobody has.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final

from sofs.errors import CredentialRefused, FormatRefused, InvalidParameter, Unavailable
from sofs.rpc.credential import (
    CREDENTIAL_FILE,
    CREDENTIAL_VARIABLE,
    find_credential,
    make_credential,
    read_credential,
)
from sofs.storage.roots import Root, check_credential
from sofs.storage.runtime import SystemEntropy

RUN_FILE: Final = "run.json"
TOKEN_FILE: Final = "ray-token"
LOCK_WAIT_S: Final = 15.0
RUN_DIR_CHARS_MAX: Final = 40  # Ray makes Unix sockets below; their paths end at 107 characters.
TEMP_NAME: Final = "t"
RUNS_MAX: Final = 1000  # Run directories looked at.
RUN_FORMAT: Final = 1
NAMESPACE: Final = "sofs"
LEADER_ENDS: Final = "leader"
ALL_END: Final = "all"


@dataclass(slots=True)
class RunRecord:
    """What ``run.json`` says. ``up`` is set before the first process is started and cleared after
    the last one was seen to be gone. ``temp``: Ray's folder for sockets and its own logs.
    ``dns_hosts``: of the DNS parts, ``dns-1`` first; none in a run of a version that had at most
    one. ``dns_port``: where they take registrations; one above it they answer. ``foreign``: it
    lives in a Ray cluster that others started (``foreign``) and takes at most ``nodes`` of its Ray
    nodes. ``ending``: who shall end for good: nobody (""), LEADER_ENDS or ALL_END."""

    root: str
    cluster: str
    run_id: str
    nodes: int
    node_port: int
    witness_port: int
    ray_port: int
    temp: str
    base_epoch: int = 0
    take_over: bool = False
    up: bool = True
    ray_address: str = ""
    format: int = RUN_FORMAT
    hosts: list[str] = field(default_factory=list)
    dns_hosts: list[str] = field(default_factory=list)
    dns_port: int = 0
    dns_name: str = ""
    dns_ttl_s: int = 0
    foreign: bool = False
    ending: str = ""

    @property
    def namespace(self) -> str:
        """Where the names of its actors are. In a Ray cluster of others each run has its own."""
        return f"{NAMESPACE}-{self.run_id[:8]}" if self.foreign else NAMESPACE

    @property
    def addresses(self) -> list[str]:
        """The access point."""
        return [f"{host}:{self.node_port}" for host in self.hosts]

    @property
    def url(self) -> str:
        return f"sofs://{','.join(self.addresses)}/share"

    @property
    def dns(self) -> list[str]:
        """Where the DNS parts take registrations."""
        return [f"{host}:{self.dns_port}" for host in self.dns_hosts]

    @property
    def dns_addresses(self) -> list[str]:
        """Where the DNS parts answer, UDP and TCP."""
        return [f"{host}:{self.dns_port + 1}" for host in self.dns_hosts]

    @property
    def dns_url(self) -> str:
        """The share by the access point's name; "" if there is no DNS part."""
        servers = ",".join(self.dns_addresses)
        return f"sofs://{self.dns_name}/share?dns={servers}" if servers else ""


def base_dir(environment: Mapping[str, str]) -> Path:
    """Where run directories are, unless the operator names one."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "sofs"
    return Path(tempfile.gettempdir()) / f"sofs-{os.getuid()}"


def keyring_dir(environment: Mapping[str, str]) -> Path:
    """Where credentials are kept by cluster uuid."""
    state = environment.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "sofs"


def normal_root(root: str) -> str:
    """A root as it is compared: local paths absolute."""
    return root if "://" in root else str(Path(root).absolute())


def make_private(folder: Path) -> None:
    """Create a folder that only we may enter; refuse one of somebody else's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InvalidParameter(
            f"{folder} belongs to another user or may be written by others; "
            "give a folder of your own with --run-dir"
        )


# run.json ---------------------------------------------------------------------------------------


def read_run(run_dir: Path) -> RunRecord | None:
    """What runs, or last ran, in a run directory; None when nothing ever did."""
    path = run_dir / RUN_FILE
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FormatRefused(f"{path} cannot be read ({error}); remove it if nothing runs") from None
    if not isinstance(found, dict) or found.get("format") != RUN_FORMAT:
        raise FormatRefused(f"{path} is of another version; use that version to end its run")
    known = {f.name for f in fields(RunRecord)}
    try:
        return RunRecord(**{name: value for name, value in found.items() if name in known})
    except TypeError as error:
        raise FormatRefused(f"{path} lacks a field ({error}); remove it if nothing runs") from None


def write_run(run_dir: Path, record: RunRecord) -> None:
    partial = run_dir / f".{RUN_FILE}.{os.getpid()}"
    partial.write_text(json.dumps(asdict(record), indent=1))
    os.replace(partial, run_dir / RUN_FILE)


def must_end(run_dir: Path, run_id: str, leader: bool) -> bool:
    """Did `sofs down` tell the leader, or all parts, of this run to end for good, or is the next
    run there already? A run directory that is gone, or cannot be read, tells nobody anything."""
    try:
        record = read_run(run_dir)
    except FormatRefused:
        return False
    if record is None:
        return False
    words = (LEADER_ENDS, ALL_END) if leader else (ALL_END,)
    return record.run_id != run_id or record.ending in words


def find_run_dir(
    run_dir: str | None, root: str | None, environment: Mapping[str, str]
) -> Path | None:
    """The run directory that an operator means: the one named, the one of ``root``, or the only
    one there is. None when there is none; InvalidParameter when there are several."""
    if run_dir is not None:
        return Path(run_dir).absolute()
    base = base_dir(environment)
    found = []
    for path in sorted(base.glob(f"*/{RUN_FILE}"))[:RUNS_MAX]:
        record = read_run(path.parent)
        if record is None or (root is not None and record.root != normal_root(root)):
            continue
        found.append((path.parent, record))
    up = [(path, record) for path, record in found if record.up] or found
    if len(up) > 1 and any(record.up for _, record in up):
        roots = ", ".join(record.root for _, record in up)
        raise InvalidParameter(f"several clusters are up; name one with --root: {roots}")
    return max(up, key=lambda pair: pair[0].stat().st_mtime)[0] if up else None


# Credentials ------------------------------------------------------------------------------------


def pending_name(root: str) -> str:
    return f"pending-{hashlib.sha256(normal_root(root).encode()).hexdigest()[:16]}"


def credential_for(
    root: str, cluster: Root | None, run_dir: Path | None, environment: Mapping[str, str]
) -> str:
    """The credential for a root: of SOFS_CREDENTIAL, else of the run dir or the keyring, else a
    fresh one when the root is no cluster yet. Raises CredentialRefused."""
    if environment.get(CREDENTIAL_VARIABLE):
        return find_credential(None, environment, None)
    if run_dir is not None and (cluster is None or (run_dir / CREDENTIAL_FILE).exists()):
        return make_credential(run_dir / CREDENTIAL_FILE, SystemEntropy())
    keyring = keyring_dir(environment)
    if cluster is None:
        folder = keyring / pending_name(root)
        make_private(folder)
        return make_credential(folder / CREDENTIAL_FILE, SystemEntropy())
    for folder in (
        base_dir(environment) / cluster.cluster.hex(),
        keyring / cluster.cluster.hex(),
        keyring / pending_name(root),
    ):
        if (folder / CREDENTIAL_FILE).exists():
            credential = read_credential(folder / CREDENTIAL_FILE)
            with contextlib.suppress(CredentialRefused):  # Of another cluster: look on.
                check_credential(cluster, credential.encode())
                return credential
    raise CredentialRefused(
        f"{root} is a cluster already, and its credential is not on this machine; set "
        f"{CREDENTIAL_VARIABLE} to it, or to the path of its file"
    )


def keep_credential(credential: str, folder: Path) -> None:
    """Write a credential into ``folder`` unless it is there."""
    path = folder / CREDENTIAL_FILE
    if path.exists() and read_credential(path) == credential:
        return
    make_private(folder)
    partial = folder / f".{CREDENTIAL_FILE}.{secrets.token_hex(4)}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(credential + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def forget_pending(root: str, environment: Mapping[str, str]) -> None:
    """The root has a uuid and its credential is kept under it."""
    folder = keyring_dir(environment) / pending_name(root)
    with contextlib.suppress(FileNotFoundError):
        (folder / CREDENTIAL_FILE).unlink()
        folder.rmdir()


def make_token(run_dir: Path) -> Path:
    """A fresh secret for Ray's own token authentication."""
    path = run_dir / TOKEN_FILE
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32))
    return path


# Temporary folder and lock ----------------------------------------------------------------------


def make_temp(run_dir: Path) -> Path:
    """A fresh folder for Ray, with a path short enough for Unix sockets. Ray opens it to all users,
    so it lies in one that is ours alone."""
    if len(str(run_dir)) <= RUN_DIR_CHARS_MAX:
        outer = run_dir / f"ray-{secrets.token_hex(2)}"
    else:
        outer = Path(f"/tmp/sofs-{secrets.token_hex(4)}")
    outer.mkdir(mode=0o700)
    (outer / TEMP_NAME).mkdir(mode=0o700)
    return outer / TEMP_NAME


def remove_temp(temp: str) -> None:
    """Remove what ``make_temp`` made."""
    outer = Path(temp).parent
    if Path(temp).name == TEMP_NAME and outer.name.startswith(("ray-", "sofs-")):
        shutil.rmtree(outer, ignore_errors=True)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run directory: only one `sofs up` or `sofs down` works on it at a time."""
    with open(run_dir / "lock", "a") as file:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"another `sofs up` or `sofs down` is at work on {run_dir}; "
                        "wait for it, or end it"
                    ) from None
                time.sleep(0.1)
        yield
