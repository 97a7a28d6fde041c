"""The trace ring of a process: a memory-mapped file that outlives it.

Why a file in memory. A record is a copy of 64 bytes into a shared mapping: no system call, and what
was copied is in the page cache whatever becomes of the process, SIGKILL included (a crash of the
machine may take it). The file's blocks are allocated when it is made, since a write into a mapping
for which the disk has no room would kill the process; where that fails, nothing is recorded.

Any thread may record: the number of a record comes from ``itertools.count``, which no two callers
get the same number of, and each number has its own slot. Span ids count too, in steps of 256, from
a random start; so do not mistake them for secrets.

A forked child inherits the mapping and must not write to it: it stops recording.

Files. ``<folder>/<name>-<pid>-<start ticks>.ring``. Rings of dead processes are kept for whoever
looks into what they did, the newest few of each name; the rest goes whenever a ring is made.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sofs.core.trace import (
    CONTEXT_BYTES,
    DURATION_NS_MAX,
    HEADER_BYTES,
    IS_END,
    IS_START,
    IS_WHOLE,
    NO_CONTEXT,
    NO_LINK,
    NO_SPAN,
    OPERATION_NUMBERS,
    RECORD_BYTES,
    SERIAL_MASK,
    TRACE_BYTES,
    RingContents,
    RingOwner,
    RingRecord,
    SpanStatus,
    closed_field,
    decode_ring,
    encode_header,
    lap_field,
    pack_end,
    pack_link,
    pack_note,
    pack_start,
    pack_whole,
    read_after,
    sum_of,
)
from sofs.ports.trace import NO_RECORDER, Recorder

log = logging.getLogger("sofs.trace")

RING_MIB_DEFAULT: Final = 4  # 65,472 records: some 15,000 to 30,000 operations.
RING_MIB_MAX: Final = 1024
RING_MIB_VARIABLE: Final = "SOFS_TRACE_MIB"
ENDPOINT_VARIABLE: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"  # Of the standard.
METRICS_VARIABLE: Final = "SOFS_METRICS_PORT"
DEAD_RINGS_KEPT: Final = 4  # Of each name.
RINGS_MAX: Final = 512  # Files of one folder that are looked at.
SDK_FOLDER: Final = "sdk-trace"
TRACE_FOLDER: Final = "trace"  # In a run directory.
SUFFIX: Final = ".ring"
_OK: Final = int(SpanStatus.OK)


class RingRecorder:
    """Writes a process's ring. Made by ``open_ring``."""

    enabled = True

    def __init__(self, path: Path, mapping: mmap.mmap, slots: int) -> None:
        self.path = path
        self._ring: mmap.mmap | None = mapping
        self._slots = slots
        self._serials = itertools.count()
        # A span's id is this and the number of its first record, in steps of 256. Below 2**63: see
        # ``core.trace`` for the topmost bit.
        self._first_span = int.from_bytes(os.urandom(7), "big") << 6 & ~0xFF or 256
        self._trace = os.urandom(8)
        self._now = time.monotonic_ns
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._ring = None
        self.enabled = False

    def now(self) -> int:
        """See ``ports.trace.Recorder``."""
        return self._now()

    def begin(
        self,
        kind: int,
        parent: bytes = NO_CONTEXT,
        operation: str = "",
        handle: int = 0,
        offset: int = 0,
        began_ns: int = 0,
    ) -> bytes:
        """See ``ports.trace.Recorder``."""
        serial = next(self._serials)
        span = (self._first_span + (serial << 8)).to_bytes(8, "big")
        if len(parent) == CONTEXT_BYTES:
            context, above = parent[:TRACE_BYTES] + span, parent[TRACE_BYTES:]
        else:
            context, above = self._trace + span + span, NO_SPAN
        self._put(
            serial,
            pack_start(
                IS_START,
                kind,
                OPERATION_NUMBERS.get(operation, 0),
                serial & SERIAL_MASK,
                context,
                above,
                began_ns or self._now(),
                handle & 0xFFFFFFFF,
                offset & 0xFFFFFFFFFFFFFFFF,
            ),
        )
        return context

    def begin_as(
        self,
        context: bytes,
        kind: int,
        parent: bytes,
        operation: str = "",
        *,
        now: bool = True,
    ) -> None:
        """See ``ports.trace.Recorder``."""
        if not context:
            return
        serial = next(self._serials)
        self._put(
            serial,
            pack_start(
                IS_START,
                kind,
                OPERATION_NUMBERS.get(operation, 0),
                serial & SERIAL_MASK,
                context,
                parent[TRACE_BYTES:] or NO_SPAN,
                self._now() if now else 0,
                0,
                0,
            ),
        )

    def end(
        self,
        context: bytes,
        status: int = _OK,
        number: int = 0,
        length: int = 0,
        link: bytes = NO_CONTEXT,
    ) -> None:
        """See ``ports.trace.Recorder``."""
        if context:
            serial = next(self._serials)
            self._put(
                serial,
                pack_end(
                    IS_END,
                    0,
                    status,
                    serial & SERIAL_MASK,
                    context[TRACE_BYTES:],
                    self._now(),
                    number & 0xFFFFFFFFFFFFFFFF,
                    length & 0xFFFFFFFF,
                    link or NO_LINK,
                ),
            )

    def whole(
        self,
        kind: int,
        parent: bytes,
        operation: str,
        handle: int,
        offset: int,
        began_ns: int,
        length: int,
    ) -> None:
        """See ``ports.trace.Recorder``."""
        took_ns = self._now() - began_ns
        if len(parent) != CONTEXT_BYTES or took_ns > DURATION_NS_MAX:
            # Nothing to make its id of, or no room for what it took.
            context = self.begin(kind, parent, operation, handle, offset, began_ns)
            self.end(context, _OK, 0, length)
            return
        serial = next(self._serials)
        self._put(
            serial,
            pack_whole(
                IS_WHOLE,
                kind,
                OPERATION_NUMBERS.get(operation, 0),
                serial & SERIAL_MASK,
                parent,
                began_ns,
                took_ns,
                length & 0xFFFFFFFF,
                handle & 0xFFFFFFFF,
                offset & 0xFFFFFFFFFFFFFFFF,
            ),
        )

    def note(self, context: bytes, text: str) -> None:
        """See ``ports.trace.Recorder``."""
        if context:
            serial = next(self._serials)
            self._put(serial, pack_note(serial, context[TRACE_BYTES:], text))

    def link(self, context: bytes, other: bytes) -> None:
        """See ``ports.trace.Recorder``."""
        if context and len(other) == CONTEXT_BYTES:
            serial = next(self._serials)
            self._put(serial, pack_link(serial, context[TRACE_BYTES:], other))

    def _put(self, serial: int, body: bytes) -> None:
        ring = self._ring
        if ring is None:
            return
        slot = serial % self._slots
        if not slot:
            at, lap = lap_field(serial)
            ring[at : at + len(lap)] = lap
        at = HEADER_BYTES + slot * RECORD_BYTES
        ring[at : at + RECORD_BYTES] = body + sum_of(body)

    def close(self) -> None:
        """Say in the header that the process ended in order: what is open was not killed."""
        ring, self._ring = self._ring, None
        if ring is not None:
            at, byte = closed_field()
            ring[at : at + 1] = byte


def ring_mib(
    environment: Mapping[str, str],
    variable: str = RING_MIB_VARIABLE,
    default: int = RING_MIB_DEFAULT,
) -> int:
    """How large rings are to be: SOFS_TRACE_MIB, 0 for none."""
    text = environment.get(variable, "")
    try:
        wanted = int(text) if text else default
    except ValueError:
        log.warning("%s=%r is no number of MiB; %d is used", variable, text, default)
        wanted = default
    return max(0, min(wanted, RING_MIB_MAX))


def open_ring(folder: Path, name: str, role: str, mib: int, *, run: str = "") -> Recorder:
    """Make this process's ring, or return a recorder that records nothing: when ``mib`` is 0, and
    when the folder does not take it (which is logged: no service fails for its traces)."""
    if mib <= 0:
        return NO_RECORDER
    try:
        make_private(folder)
        prune(folder)
        return _create(folder, name, role, mib, run)
    except OSError as error:
        log.warning("no traces of this process: %s", error)
        return NO_RECORDER


def _create(folder: Path, name: str, role: str, mib: int, run: str) -> RingRecorder:
    n_bytes = mib << 20
    slots = (n_bytes - HEADER_BYTES) // RECORD_BYTES
    owner = this_process(name, role, run)
    path, mapping = map_file(folder, owner, n_bytes, encode_header(owner, slots), SUFFIX)
    return RingRecorder(path, mapping, slots)


def this_process(name: str, role: str, run: str) -> RingOwner:
    """Who writes a ring that this process makes now."""
    pid = os.getpid()
    return RingOwner(
        name=name,
        role=role,
        pid=pid,
        start_ticks=start_ticks(pid),
        boot_id=boot_id(),
        wall_ns=time.time_ns(),
        monotonic_ns=time.monotonic_ns(),
        run=run,
    )


def map_file(
    folder: Path, owner: RingOwner, n_bytes: int, header: bytes, suffix: str
) -> tuple[Path, mmap.mmap]:
    """Make a ring's file, with room on the disk, under its name only once its header is there."""
    path = folder / f"{owner.name}-{owner.pid}-{owner.start_ticks}{suffix}"
    partial = path.with_suffix(".making")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, n_bytes)
        mapping = mmap.mmap(descriptor, n_bytes)
    except OSError:
        partial.unlink()
        raise
    finally:
        os.close(descriptor)
    mapping[:HEADER_BYTES] = header
    os.replace(partial, path)
    return path, mapping


def make_private(folder: Path) -> None:
    """Create a folder that only we may enter; PermissionError for one of somebody else's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to another user or may be written by others")


def sdk_folder(environment: Mapping[str, str], name: str = SDK_FOLDER) -> Path:
    """Where the processes of this user that use the SDK keep their rings."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "sofs" if runtime else Path("/tmp") / f"sofs-{os.getuid()}"
    return base / name


# Reading ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundRing:
    """A ring of a folder. ``alive``: its process still runs."""

    path: Path
    contents: RingContents
    alive: bool


def read_rings(*folders: Path) -> list[FoundRing]:
    """Read every ring of the folders, of living and of dead processes, by path."""
    found = []
    for folder in folders:
        for path in ring_paths(folder):
            try:
                contents = decode_ring(path.read_bytes())
            except OSError:
                continue  # Removed meanwhile.
            if contents is not None:
                found.append(FoundRing(path, contents, process_alive(contents.owner)))
    return found


class RingTail:
    """Reads what is new in one ring, while its process writes it or afterwards."""

    def __init__(self, path: Path) -> None:
        """OSError or ValueError when it is no ring."""
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        contents = decode_ring(self._map[:HEADER_BYTES])
        if contents is None:
            self._map.close()
            raise ValueError(f"{path} is no ring")
        self.owner: RingOwner = contents.owner
        self._next = 0

    def read(self) -> tuple[list[RingRecord], int]:
        """The records since the last call, and how many were lost before they were read."""
        records, self._next, lost = read_after(self._map, self._next)
        return records, lost

    @property
    def closed(self) -> bool:
        """Did the process end in order?"""
        at, byte = closed_field()
        return self._map[at : at + 1] == byte

    def close(self) -> None:
        self._map.close()


def prune(folder: Path, suffix: str = SUFFIX, kept: int = DEAD_RINGS_KEPT) -> None:
    """Remove rings of dead processes, but for the newest ``kept`` of each name."""
    dead: dict[str, list[tuple[float, Path]]] = {}
    for path in [*ring_paths(folder, suffix), *folder.glob("*.making")]:
        name, pid, ticks = _parts(path)
        if pid and _runs(pid, ticks):
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.suffix != suffix:
                path.unlink()  # Its process died while it made it.
            else:
                dead.setdefault(name, []).append((path.stat().st_mtime, path))
    for rings in dead.values():
        for _, path in sorted(rings, reverse=True)[kept:]:
            path.unlink(missing_ok=True)


def ring_paths(folder: Path, suffix: str = SUFFIX) -> list[Path]:
    """The rings of a folder, by name."""
    return sorted(folder.glob(f"*{suffix}"))[:RINGS_MAX]


def _parts(path: Path) -> tuple[str, int, int]:
    """Name, pid and start ticks of a ring's file name; zeros for another's."""
    name, _, rest = path.stem.rpartition("-")
    name, _, pid = name.rpartition("-")
    return (name, int(pid), int(rest)) if pid.isdigit() and rest.isdigit() else (path.stem, 0, 0)


def process_alive(owner: RingOwner) -> bool:
    """Does the very process that wrote a ring still run?"""
    return owner.boot_id == boot_id() and _runs(owner.pid, owner.start_ticks)


def _runs(pid: int, ticks: int) -> bool:
    try:
        fields = _stat(pid)
    except (OSError, ValueError):
        return False
    return fields[0] not in "ZX" and int(fields[19]) == ticks


def _stat(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot."""
    return int(_stat(pid)[19])


def boot_id() -> str:
    """Identity of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
