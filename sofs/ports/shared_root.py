"""What the two-party probe needs of a root on an append backend (R11): names, and where it is.

Names here are the probe's own. They are made as claims are (``link``) and looked up as the claim
check does (``stat`` in an open folder), since these two are what the protocols stand on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RootPlace:
    """Where a process sees a root. ``host`` names one run of one kernel ("": not told); device and
    inode of the root's folder mean something on that host only."""

    url: str
    host: str
    device: int
    inode: int


class SharedRoot(Protocol):
    """One process's view of a root."""

    async def place(self) -> RootPlace:
        """Where the root is. BackendRefused when that is not where it was at the first call."""
        ...

    async def absent(self, name: str) -> bool:
        """Is the name absent, by the look-up of the claim check? StoreUnknown when that is
        open."""
        ...

    async def make(self, name: str, role: str, epoch: int) -> None:
        """Give the claim ``epoch`` of ``role`` a further name: it takes no space, so a full disk
        allows it. With epoch 0 (nobody ever claimed) a small object is made. The name need not
        outlive a crash."""
        ...

    async def remove(self, name: str) -> None:
        """Remove the name, if it is there. A failure is silent: the name harms nobody."""
        ...
