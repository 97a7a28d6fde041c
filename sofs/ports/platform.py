"""What the leader asks of whatever places processes on machines: Ray, or a test's double.

The platform starts, restarts and stops parts; it is trusted for nothing else (it may run two copies
of one part, and calls a machine dead that only sleeps). Every method raises ``Unavailable`` when
the platform cannot be asked now; its outcome is then unknown, and the caller looks again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Machine:
    """A place for parts that is alive: one Ray node. ``name`` is what an operator calls it (""
    when nothing was said); ``id`` is never used again for another. ``draining``: it is about to
    leave. ``own``: the leader itself runs there. ``elsewhere``: the address of a machine whose
    parts could not reach ours, and ours not them; "" for all others."""

    id: str
    name: str = ""
    draining: bool = False
    own: bool = False
    elsewhere: str = ""


@dataclass(frozen=True, slots=True)
class PartOrder:
    """A part to be made. ``address`` is where it shall listen (``host:port``, port 0: any)."""

    name: str
    role: str
    machine: str
    address: str
    volume: str = ""
    access_point: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartFacts:
    """What a part's process says of itself. ``machine``: where it runs, "" if it does not know."""

    pid: int = 0
    address: str = ""
    state: str = ""
    detail: list[str] = field(default_factory=list)
    machine: str = ""


class Platform(Protocol):
    async def machines(self) -> list[Machine]:
        """Return the machines that are alive and meant for parts, sorted by name and id."""
        ...

    async def parts(self) -> list[str]:
        """Return the names of the parts that run, start, or are being restarted, sorted."""
        ...

    async def create(self, order: PartOrder) -> None:
        """Have a part made and return without waiting for it. A part of that name that exists
        already is left as it is."""
        ...

    async def remove(self, name: str) -> None:
        """End a part for good; one that does not exist is no error."""
        ...

    async def describe(self, name: str) -> PartFacts:
        """Ask a part's process for its facts; Unavailable when it does not answer at once."""
        ...
