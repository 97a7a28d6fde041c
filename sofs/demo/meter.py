"""What clients see: every call of the SDK timed, from outside.

``Timed`` stands before a share or a file and passes everything on; each call that may reach a
server is one operation of the ``Meter``. So "in flight" is the number of calls that have not
returned, and "the longest pause" the longest time that one call took, which is what an application
feels of a failover. A call that was told to wait for another client's lock is in flight like any
other, but its time is no pause.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Final, cast

from sofs.client.sync import Share

# Calls that return without asking a server.
_LOCAL: Final = frozenset({"tell", "facts", "failovers", "readable", "writable", "seekable"})


class Meter:
    """Operations of all clients together. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._serial = itertools.count()
        self._began: dict[int, tuple[float, str]] = {}
        self._longest = (0.0, "")
        self.operations = 0

    def timed(self, what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``work`` as an operation of this meter."""

        def call(*positional: Any, **named: Any) -> Any:
            number = next(self._serial)
            waits = bool(named.get("wait_ms"))
            with self._lock:
                self._began[number] = (time.monotonic(), "" if waits else what)
            try:
                return work(*positional, **named)
            finally:
                end = time.monotonic()
                with self._lock:
                    began, _ = self._began.pop(number)
                    self.operations += 1
                    if not waits:
                        self._longest = max(self._longest, (end - began, what))

        return call

    def in_flight(self) -> int:
        return len(self._began)

    def forget_longest(self) -> None:
        """Begin a new window: operations that end from now on count, with all of their time."""
        with self._lock:
            self._longest = (0.0, "")

    def longest(self) -> tuple[float, str]:
        """(seconds, call) of the longest operation of the window; those in flight count so far."""
        now = time.monotonic()
        with self._lock:
            going_on = [(now - began, what) for began, what in self._began.values() if what]
            return max([self._longest, *going_on])


class Timed:
    """A share or a file of which every call is an operation of a meter."""

    def __init__(self, inner: Any, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value) or name in _LOCAL:
            return value
        call = self._meter.timed(name, value)
        if name != "open":
            self.__dict__[name] = call
            return call
        self.__dict__[name] = opened = lambda *p, **n: Timed(call(*p, **n), self._meter)
        return opened

    def __enter__(self) -> Timed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def timed_share(share: Share, meter: Meter) -> Share:
    """Return ``share`` with every call measured."""
    return cast(Share, Timed(share, meter))
