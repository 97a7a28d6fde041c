"""Asking the authorities of volumes for their open handles, from any machine that reaches the
cluster root: for operators.

An authority is found by its claim, as nodes find it; neither Ray nor the leader is asked. While it
is away, or another one takes over, the same question is asked again, as the leader is. A handle's
number is never given out twice in its volume, so a close that is asked for again closes nothing
else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from sofs.actors import admin
from sofs.core.messages import (
    CloseHandle,
    HandleInfo,
    HandleList,
    HandleReleased,
    ListHandles,
    Message,
)
from sofs.errors import (
    BadNetworkName,
    FileClosed,
    FormatRefused,
    InvalidParameter,
    SofsError,
    Unavailable,
)
from sofs.ports.stream import Transport
from sofs.rpc.transport import GrpcTransport
from sofs.services.authority.env import VOLUME_ROLE
from sofs.services.leader.ask import ask_leader
from sofs.services.shares import read_newest
from sofs.storage import SystemClock, SystemEntropy, ThreadBlocking, attach, open_fenced, roots
from sofs.storage.fenced import StoreFences

R = TypeVar("R", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """An open handle and the name of its volume."""

    volume: str
    handle: HandleInfo


def list_handles(
    root: str,
    credential: str,
    *,
    share: str = "",
    volume: str = "",
    client: str = "",
    path: str = "",
    each: Callable[[Found], None],
) -> None:
    """Call ``each`` with every open handle, page by page. Raises BadNetworkName for a share or
    volume that is not there, Unavailable for a volume of which no authority answers, and what the
    root says."""

    async def work(asker: _Asker) -> None:
        for name in await asker.volumes(share, volume):
            after = 0
            while True:
                body = ListHandles(after, client.lower(), path)
                page = await asker.ask(name, body, HandleList)
                for handle in page.handles:
                    each(Found(name, handle))
                if not page.next_after:
                    break
                after = page.next_after

    asyncio.run(_with(root, credential, work))


def close_handle(
    root: str, credential: str, handle: int, *, share: str = "", volume: str = ""
) -> str:
    """Close a handle for good; returns its volume. Raises FileClosed when none of that number is
    open, InvalidParameter when several volumes have one, and what ``list_handles`` does."""

    async def work(asker: _Asker) -> str:
        names = await asker.volumes(share, volume)
        if len(names) > 1:
            names = [name for name in names if await asker.has(name, handle)]
        if len(names) > 1:
            raise InvalidParameter(
                f"the volumes {', '.join(names)} each have a handle {handle}; say which with "
                "--volume"
            )
        for name in names:
            reply = await asker.ask(name, CloseHandle(handle), HandleReleased)
            # Asked for the second time: the first one's answer may have been lost.
            if reply.was_open or asker.repeated:
                return name
        raise FileClosed(f"no handle {handle} is open; `sofs handles ls` lists them")

    return asyncio.run(_with(root, credential, work))


async def _with(root: str, credential: str, work: Callable[[_Asker], Awaitable[T]]) -> T:
    clock, blocking = SystemClock(), ThreadBlocking()
    transport = GrpcTransport(credential, clock)
    try:
        return await work(_Asker(root, credential, clock, blocking, transport))
    finally:
        await transport.close()
        blocking.close()


class _Asker:
    """Asks the owners of a cluster's volumes."""

    def __init__(
        self,
        root: str,
        credential: str,
        clock: SystemClock,
        blocking: ThreadBlocking,
        transport: Transport,
    ) -> None:
        self._clock = clock
        self._blocking = blocking
        self._transport = transport
        self._store = attach(root, probe=False, make=False)
        cluster = roots.open_cluster(self._store)
        if cluster is None:
            raise FormatRefused(f"{root} is no cluster root; `sofs up` makes one")
        roots.check_credential(cluster, credential.encode())
        self._urls = {entry.name: entry.url for entry in roots.list_volumes(self._store)}
        self._open: dict[str, StoreFences] = {}
        self.repeated = False  # Was the last question asked more than once?

    async def volumes(self, share: str, volume: str) -> list[str]:
        """The volumes that are meant: the one named, that of the share, or all."""
        if share:
            fenced = open_fenced(self._store, self._clock, SystemEntropy(), self._blocking)
            table = await read_newest(fenced)
            found = None if table is None else table.find(share)
            if found is None and not (table is None and share in self._urls):
                raise BadNetworkName(f"there is no share {share!r}; `sofs share ls` lists them")
            of_share = share if found is None else found.volume
            if volume and volume != of_share:
                raise InvalidParameter(f"the share {share!r} is on the volume {of_share!r}")
            volume = of_share
        if volume and volume not in self._urls:
            raise BadNetworkName(f"there is no volume {volume!r}; `sofs volume ls` lists them")
        return [volume] if volume else sorted(self._urls)

    async def has(self, volume: str, handle: int) -> bool:
        """Has a volume an open handle of that number?"""
        page = await self.ask(volume, ListHandles(max(0, handle - 1)), HandleList)
        return any(found.handle == handle for found in page.handles)

    async def ask(self, volume: str, body: Message, kind: type[R]) -> R:
        """Ask whoever owns a volume, again and again for ``admin.ASK_S_MAX``."""
        fenced = self._open.get(volume)
        if fenced is None:
            store = attach(self._urls[volume], probe=False, make=False)
            fenced = open_fenced(store, self._clock, SystemEntropy(), self._blocking)
            self._open[volume] = fenced
        deadline = self._clock.monotonic_ms() + admin.ASK_S_MAX * 1000
        self.repeated = False
        while True:
            try:
                claim = await fenced.highest_claim(VOLUME_ROLE)
                if claim is None:
                    raise Unavailable("the volume never had an authority")
                return await ask_leader(
                    self._clock, self._transport, claim, body, kind, admin.ANSWER_MS_MAX
                )
            except SofsError as error:
                if error.retry == "never":
                    raise
                if self._clock.monotonic_ms() > deadline:
                    raise Unavailable(
                        f"no authority of the volume {volume!r} answers ({error}); "
                        "`sofs status` tells more"
                    ) from error
            self.repeated = True
            await self._clock.sleep_ms(admin.PAUSE_MS)
