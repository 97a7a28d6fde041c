"""The event ring of a process: a memory-mapped file that outlives it, as its trace ring does.

An event is one copy of EVENT_BYTES into a shared mapping (``telemetry/ring.py`` says why that
outlives SIGKILL, and what a crash of the machine takes). A file has SOFS_EVENTS_MIB (1; 0: none),
half of it for rare events: some thousand of each kind. The newest replace the oldest.

``emit`` never raises. A field that does not fit its kind is a bug of whoever tells the event, so it
is logged, once a kind; the event is told with what it has.

Files. ``<folder>/<name>-<pid>-<start ticks>.events``; of dead processes the newest
DEAD_EVENTS_KEPT of each name are kept.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from sofs.core.events import (
    EVENT_BYTES,
    EVENTS_MAGIC,
    Event,
    EventKind,
    Value,
    decode_event,
    decode_events,
    encode_event,
    in_order,
    slot_at,
    slots_of,
)
from sofs.core.trace import HEADER_BYTES, decode_header, encode_header
from sofs.ports.events import NO_EVENTS, Events
from sofs.ports.trace import CURRENT
from sofs.telemetry.ring import (
    make_private,
    map_file,
    prune,
    ring_mib,
    ring_paths,
    sdk_folder,
    this_process,
)

log = logging.getLogger("sofs.events")

EVENTS_MIB_DEFAULT: Final = 1
EVENTS_MIB_VARIABLE: Final = "SOFS_EVENTS_MIB"
EVENTS_FOLDER: Final = "events"  # In a run directory.
SDK_EVENTS_FOLDER: Final = "sdk-events"
EVENTS_SUFFIX: Final = ".events"
DEAD_EVENTS_KEPT: Final = 8  # Files of each name.


class EventRecorder:
    """Writes a process's event ring. Made by ``open_events``."""

    def __init__(self, path: Path, mapping: mmap.mmap, slots: int) -> None:
        self.path = path
        self._ring: mmap.mmap | None = mapping
        self._slots = slots
        self._numbers = (itertools.count(), itertools.count())
        self._complained: dict[EventKind, None] = {}
        os.register_at_fork(after_in_child=self.close)

    def emit(self, kind: EventKind, /, **fields: Value) -> None:
        """See ``ports.events.Events``."""
        ring = self._ring
        if ring is None:
            return
        try:
            part = 1 if kind.frequent else 0
            number = next(self._numbers[part])
            record = encode_event(
                number, kind, time.time_ns(), time.monotonic_ns(), CURRENT.get(), fields
            )
            at = slot_at(part, self._slots, number)
            ring[at : at + EVENT_BYTES] = record
            problem = "" if fields.keys() == kind.fields.keys() else kind.problem(fields)
        except Exception as error:  # Whatever it is: an event is never worth an operation.
            problem = repr(error)
        if problem and kind not in self._complained:
            self._complained[kind] = None
            log.error("event %s: %s", kind.name, problem)

    def close(self) -> None:
        """Tell nothing more: the process ends, or it is a forked child of who owns the ring."""
        self._ring = None


def open_events(folder: Path, name: str, role: str, mib: int, *, run: str = "") -> Events:
    """Make this process's event ring, or return what keeps nothing: when ``mib`` is 0, and when the
    folder does not take it (which is logged: no service fails for its events)."""
    if mib <= 0:
        return NO_EVENTS
    try:
        make_private(folder)
        prune(folder, EVENTS_SUFFIX, DEAD_EVENTS_KEPT)
        n_bytes = mib << 20
        slots = slots_of(n_bytes, n_bytes)
        owner = this_process(name, role, run)
        header = encode_header(owner, slots, EVENTS_MAGIC)
        path, mapping = map_file(folder, owner, n_bytes, header, EVENTS_SUFFIX)
        return EventRecorder(path, mapping, slots)
    except OSError as error:
        log.warning("no events of this process: %s", error)
        return NO_EVENTS


def events_mib(environment: Mapping[str, str]) -> int:
    """How large rings of events are to be: SOFS_EVENTS_MIB, 0 for none."""
    return ring_mib(environment, EVENTS_MIB_VARIABLE, EVENTS_MIB_DEFAULT)


def sdk_events_folder(environment: Mapping[str, str]) -> Path:
    """Where the processes of this user that use the SDK keep their rings of events."""
    return sdk_folder(environment, SDK_EVENTS_FOLDER)


def open_process_events(environment: Mapping[str, str]) -> Events:
    """The ring of a process that uses the SDK."""
    folder = sdk_events_folder(environment)
    return open_events(folder, "client", "client", events_mib(environment))


# Reading ----------------------------------------------------------------------------------------


def read_events(*folders: Path) -> tuple[list[Event], int]:
    """Return the events of all rings of the folders, of living and of dead processes, in order, and
    how many were replaced by newer ones."""
    events: list[Event] = []
    lost = 0
    for path in _all_paths(folders):
        try:
            ring = decode_events(path.read_bytes())
        except OSError:
            continue  # Removed meanwhile.
        if ring is not None:
            events += ring.events
            lost += ring.lost
    return in_order(events), lost


def _all_paths(folders: Iterable[Path]) -> list[Path]:
    return [path for folder in folders for path in ring_paths(folder, EVENTS_SUFFIX)]


class _Tail:
    """What is new in one ring. Where it was left behind it goes on with what is still there."""

    def __init__(self, path: Path) -> None:
        """OSError or ValueError when it is no ring."""
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = decode_header(self._map[:HEADER_BYTES], EVENTS_MAGIC)
        if header is None:
            self._map.close()
            raise ValueError(f"{path} is no ring of events")
        self.owner, slots, _, _ = header
        self._slots = slots_of(len(self._map), slots)
        self._next = [0, 0]

    def read(self) -> list[Event]:
        found: list[Event] = []
        for part in (0, 1):
            for _ in range(2 * self._slots):
                event = self._at(part, self._next[part])
                if event is None or event.number < self._next[part]:
                    break  # Not written yet, being written, or of an older lap.
                if event.number > self._next[part]:
                    # Overtaken: what a newer lap left begins behind that number, a lap back.
                    self._next[part] = event.number - self._slots + 1
                    continue
                found.append(event)
                self._next[part] += 1
        return found

    def _at(self, part: int, number: int) -> Event | None:
        at = slot_at(part, self._slots, number)
        return decode_event(self._map[at : at + EVENT_BYTES], self.owner)

    def close(self) -> None:
        self._map.close()


class Follower:
    """What is new in all rings of some folders, those that come later too."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self._tails: dict[Path, _Tail] = {}

    def read(self) -> list[Event]:
        """The events since the last call; in order among themselves."""
        paths = _all_paths(self._folders)
        for path in [path for path in self._tails if path not in paths]:
            self._tails.pop(path).close()
        events: list[Event] = []
        for path in paths:
            tail = self._tails.get(path)
            if tail is None:
                try:
                    tail = self._tails[path] = _Tail(path)
                except (OSError, ValueError):
                    continue  # Removed meanwhile, or none of ours.
            events += tail.read()
        return in_order(events)

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()
