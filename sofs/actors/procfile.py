"""Which processes belong to a run: a small file for each, and exact identities of processes.

Every process writes ``<run dir>/proc/<name>.json`` about itself (pid, start time, boot id, role,
address). A pid alone means nothing: it is used again. With the start time in clock ticks since boot
it names one process for ever, and with the boot id no process of another boot can be meant. So
whoever ends processes by these files ends exactly those that wrote them, and never anything of
another boot.

Ray starts processes of its own (raylet, agents, workers). The process that we start for a Ray node
leads a *session* of the kernel, which all of them inherit; ``session_members`` finds them. While a
session has members its number is given to no new process, so a session is ours if its leader still
is the recorded process, or if nobody has the leader's pid any more and some member carries the
run's mark in its environment (not all do: processes that rename themselves overwrite it).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

RUN_MARK: Final = "SOFS_RUN"  # Environment variable of all processes of a run: its id.
PROC_FILES_MAX: Final = 10_000  # In one run dir; more is not ours.
GONE_POLL_S: Final = 0.01
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class ProcFacts:
    """What a process wrote about itself. ``address`` is empty until it listens, ``run`` is the id
    of the run it belongs to (or ""), ``problem`` says why it cannot start."""

    name: str
    role: str
    pid: int
    start_ticks: int
    boot_id: str
    address: str = ""
    run: str = ""
    problem: str = ""


def boot_id() -> str:
    """Identity of this boot of the machine: a pid means nothing after another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat behind the command: state first. OSError when it is gone."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat[stat.rindex(")") + 2 :].split()


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; with the pid it names a process for
    ever."""
    return int(_stat(pid)[19])


def alive(facts: ProcFacts) -> bool:
    """Does this very process still run? A zombie does not."""
    if facts.boot_id != boot_id():
        return False
    try:
        fields = _stat(facts.pid)
    except (OSError, ValueError):
        return False
    return fields[0] not in "ZX" and int(fields[19]) == facts.start_ticks


def own_facts(name: str, role: str, address: str = "", run: str = "") -> ProcFacts:
    """The facts of the calling process."""
    return ProcFacts(name, role, os.getpid(), start_ticks(os.getpid()), boot_id(), address, run)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def proc_folder(run_dir: str | Path) -> Path:
    return Path(run_dir) / "proc"


def write(run_dir: str | Path, facts: ProcFacts) -> Path:
    """Record a process under the run directory; replaced atomically."""
    folder = proc_folder(run_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{facts.name}.json"
    partial = folder / f".{facts.name}.{facts.pid}"
    partial.write_text(json.dumps(asdict(facts)))
    os.replace(partial, path)
    return path


def read(path: Path) -> ProcFacts | None:
    """What a proc file says; None when it is gone or says nothing sensible."""
    try:
        fields = json.loads(path.read_text())
        return ProcFacts(
            str(fields["name"]),
            str(fields["role"]),
            int(fields["pid"]),
            int(fields["start_ticks"]),
            str(fields["boot_id"]),
            str(fields.get("address", "")),
            str(fields.get("run", "")),
            str(fields.get("problem", "")),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_all(run_dir: str | Path) -> list[ProcFacts]:
    """What all proc files of a run directory say, by name."""
    try:
        paths = sorted(proc_folder(run_dir).glob("*.json"))[:PROC_FILES_MAX]
    except OSError:
        return []
    return [facts for facts in map(read, paths) if facts is not None]


def forget_dead(run_dir: str | Path) -> list[ProcFacts]:
    """Remove the proc files of processes that do not run any more, of this boot or another;
    returns them."""
    dead = [facts for facts in read_all(run_dir) if not alive(facts)]
    for facts in dead:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(proc_folder(run_dir) / f"{facts.name}.json")
    return dead


# Sessions ---------------------------------------------------------------------------------------


def _pids() -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name)


def session_members(leaders: Sequence[ProcFacts], run: str) -> list[int]:
    """Return the pids of the live processes in the sessions that ``leaders`` lead or led."""
    now = boot_id()
    sessions = {leader.pid: leader for leader in leaders if leader.boot_id == now}
    members: dict[int, list[int]] = {}
    for pid in _pids():
        try:
            fields = _stat(pid)
            session = sessions.get(int(fields[3]))
        except (OSError, ValueError):
            continue  # It ended while we looked.
        if session is None or fields[0] in "ZX" or int(fields[19]) < session.start_ticks:
            continue
        members.setdefault(session.pid, []).append(pid)
    ours = [
        number
        for number in members
        if alive(sessions[number])
        or (not _exists(number) and any(_has_mark(pid, run) for pid in members[number]))
    ]
    return sorted(pid for number in ours for pid in members[number])


def _exists(pid: int) -> bool:
    """Does a process (not a zombie) have this pid?"""
    try:
        return _stat(pid)[0] not in "ZX"
    except (OSError, ValueError):
        return False


def _has_mark(pid: int, run: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{RUN_MARK}={run}".encode() in environment.split(b"\0")


def command_name(pid: int) -> str:
    """What the kernel calls a process; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


# Ending -----------------------------------------------------------------------------------------


def kill(facts: ProcFacts) -> None:
    """SIGKILL exactly this process, if it still runs. The pid is pinned by a descriptor while its
    start time is compared, so another process can never be hit."""
    try:
        descriptor = os.pidfd_open(facts.pid)
    except OSError:
        return
    try:
        if alive(facts):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)


def identify(pid: int) -> ProcFacts | None:
    """The identity of a live process that wrote no file; None when it is gone."""
    try:
        return ProcFacts(f"pid-{pid}", "ray", pid, start_ticks(pid), boot_id())
    except (OSError, ValueError):
        return None


def wait_gone(processes: Sequence[ProcFacts], limit_s: float) -> list[ProcFacts]:
    """Wait until these processes have ended; returns those that have not after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    left = list(processes)
    while left:
        left = [facts for facts in left if alive(facts)]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(GONE_POLL_S)
    return left
