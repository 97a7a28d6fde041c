"""Telling events, as services and the client see it.

``emit`` never suspends, never raises, and costs a few microseconds. It belongs behind what it tells
of: a change that is to outlive its process is told when it is durable. What an event of an
operation carries of its trace is ``ports.trace.CURRENT`` at that moment.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from sofs.core.events import EventKind, Value
from sofs.errors import invariant


class Events(Protocol):
    """Keeps the events of one process."""

    def emit(self, kind: EventKind, /, **fields: Value) -> None:
        """Tell an event. What cannot be kept is lost, and nothing else happens."""
        ...

    def close(self) -> None:
        """The process ends in order."""
        ...


class NoEvents:
    """Keeps nothing."""

    def emit(self, kind: EventKind, /, **fields: Value) -> None:
        """See ``Events``."""

    def close(self) -> None:
        """See ``Events``."""


NO_EVENTS: Final = NoEvents()


class EventList:
    """Keeps the newest events in memory, and insists on their fields: for tests and the
    simulator."""

    def __init__(self, count_max: int = 4096) -> None:
        self.told: deque[tuple[EventKind, dict[str, Value]]] = deque(maxlen=count_max)

    def emit(self, kind: EventKind, /, **fields: Value) -> None:
        """See ``Events``; fields that do not fit the kind are a bug of whoever tells it."""
        problem = kind.problem(fields)
        invariant(not problem, problem)
        self.told.append((kind, fields))

    def close(self) -> None:
        """See ``Events``."""

    def of(self, *kinds: EventKind) -> list[dict[str, Value]]:
        """The fields of all events of some kinds."""
        return [fields for kind, fields in self.told if kind in kinds]

    def ids(self) -> list[int]:
        """The numbers of all events, oldest first."""
        return [kind.id for kind, _ in self.told]
