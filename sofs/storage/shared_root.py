"""A root as the two-party probe sees it: ``sofs.ports.shared_root`` on the local driver.

Each look-up opens the folder of the probe's names anew; what a kernel caches of absent names
belongs to the folder, not to who opened it. A further name of a claim is a hard link: neither data
nor, as a rule, a block is allocated for it.
"""

from __future__ import annotations

import contextlib
from typing import Final, cast

from sofs.errors import BackendRefused, SofsError
from sofs.ports.runtime import Blocking
from sofs.ports.shared_root import RootPlace
from sofs.storage.ballast import Ballast
from sofs.storage.local import LocalAppendStore
from sofs.storage.names import claim_key

PAIR_FOLDER: Final = "probes/pair"


class LocalSharedRoot:
    """See the module. ``ballast``: what a full disk is relieved with when no claim is there yet.
    ``first``: where the root was when the process began; else that of the first look."""

    def __init__(
        self,
        store: LocalAppendStore,
        blocking: Blocking,
        ballast: Ballast | None = None,
        first: RootPlace | None = None,
    ) -> None:
        self._store = store
        self._blocking = blocking
        self._ballast = ballast
        self._first = first

    async def place(self) -> RootPlace:
        [found] = await self._blocking.run("", self._place)
        return cast("RootPlace", found)

    def _place(self) -> RootPlace:
        """What this process holds open stays in the folder that it opened, whatever a path leads to
        later: an unmounted or replaced root is told here."""
        found = self._store.place()
        if self._first is None:
            self._first = found
        if found != self._first:
            raise BackendRefused(
                f"{found.url} is another folder than when this process began (device "
                f"{found.device:#x}, inode {found.inode}; it was {self._first.device:#x}, "
                f"{self._first.inode}); bring the first one back, or end all parts of this cluster"
            )
        return found

    async def absent(self, name: str) -> bool:
        [found] = await self._blocking.run("", lambda: self._absent(name))
        return cast("bool", found)

    def _absent(self, name: str) -> bool:
        guard = self._store.open_guard(PAIR_FOLDER)
        try:
            return guard.absent(name)
        finally:
            guard.close()

    async def make(self, name: str, role: str, epoch: int) -> None:
        await self._blocking.run("", lambda: self._make(f"{PAIR_FOLDER}/{name}", role, epoch))

    def _make(self, key: str, role: str, epoch: int) -> None:
        if epoch:
            self._store.link_object(claim_key(role, epoch), key)
        elif self._ballast is None:
            self._store.put_if_absent(key, key.encode())
        else:
            self._ballast.relieve(lambda: self._store.put_if_absent(key, key.encode()))

    async def remove(self, name: str) -> None:
        with contextlib.suppress(SofsError):
            await self._blocking.run("", lambda: self._store.unlink_object(f"{PAIR_FOLDER}/{name}"))
