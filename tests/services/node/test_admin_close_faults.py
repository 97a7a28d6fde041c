"""An administrator's close while the client writes through the real SDK, and parts die."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from node_world import World
from test_node_admin_close import ask, listed

from sofs.client.aio import AsyncShare, connect
from sofs.core import events as e
from sofs.core import messages as m
from sofs.core.messages import Share
from sofs.errors import ClosedByAdministrator, HandleLost, SofsError

ADDRESSES = {"a": "10.0.0.1:7000", "b": "10.0.0.2:7000", "c": "10.0.0.3:7000"}


async def close_at_last(w: World, handle: int) -> None:
    """Ask whoever owns the volume until one says that the handle is closed, as the command does."""
    for asked in range(500):
        try:
            reply = await ask(w, m.CloseHandle(handle), m.HandleReleased, 2_000)
        except SofsError as error:
            if error.retry == "never":
                raise
            await asyncio.sleep(0.01)
        else:
            assert reply.was_open or asked, "the first question finds it open"
            return
    raise AssertionError("nobody closes the handle")


class Writer:
    """Writes one number after the other, until it is told that this has an end."""

    def __init__(self, share: AsyncShare) -> None:
        self._share = share
        self.acknowledged = 0
        self.end: SofsError | None = None
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        file = await self._share.open("/count", "w+b", timeout_ms=60_000)
        for number in range(1, 1_000_000):
            try:
                await file.pwrite(number.to_bytes(8, "big"), 0)
            except (ClosedByAdministrator, HandleLost) as error:
                self.end = error
                return
            self.acknowledged = number


async def fault(w: World, kind: str, node: str) -> None:
    if kind == "node":
        await w.kill_node(node)
    elif kind == "authority":
        await w.kill_authority("coordinator")
    elif kind == "both":
        await w.kill_node(node)
        await w.kill_authority("coordinator")


@pytest.mark.parametrize("kind", ["none", "node", "authority", "both"])
@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_and_nothing_lands_late_whoever_dies_meanwhile(
    tmp_path: Path, kind: str, seed: int
) -> None:
    rng = random.Random(f"{kind} {seed}")
    w = World(tmp_path)
    w.settings["silence_ms"] = 150
    shares: list[AsyncShare] = []
    writer: Writer | None = None
    try:
        await w.authority()
        await w.make_authority("resume-key").start("resume-key:0")
        for name, address in ADDRESSES.items():
            await w.node(name, address=address)
        for first in ("a", "b"):
            order = sorted(ADDRESSES.values(), key=lambda a, f=first: a != ADDRESSES[f])  # type: ignore[misc]
            url = f"sofs://{','.join(order)}/vol"
            shares.append(await connect(url, transport=w.hub.transport(), witness=False))
        writer = Writer(shares[0])
        await w.until("it writes", lambda: writer.acknowledged > 3)
        [info] = await listed(w)
        closing = asyncio.ensure_future(close_at_last(w, info.handle))
        await asyncio.sleep(rng.uniform(0, 0.02))
        await fault(w, kind, shares[0].facts().node)
        await asyncio.wait_for(closing, 30)
        again = await shares[1].open("/count", "r+b", share=Share.NONE)
        first_seen = int.from_bytes(await again.pread(8, 0), "big")
        assert first_seen >= writer.acknowledged, "nothing that was acknowledged is lost"
        await asyncio.wait_for(writer.task, 30)
        assert isinstance(writer.end, ClosedByAdministrator | HandleLost)
        assert first_seen >= writer.acknowledged, "nothing is acknowledged behind the release"
        assert int.from_bytes(await again.pread(8, 0), "big") == first_seen, "nothing lands late"
        await again.close()
        told = [f for part in w.events.values() for f in part.of(e.OPEN_CLOSED_BY_ADMINISTRATOR)]
        # An authority that dies between the release and its event tells nobody.
        certain = kind in ("none", "node")
        assert [fields["handle"] for fields in told] in (
            [[info.handle]] if certain else [[info.handle], []]
        )
    finally:
        if writer is not None:
            writer.task.cancel()
            await asyncio.gather(writer.task, return_exceptions=True)
        for share in shares:
            await share.close(timeout_ms=2_000)
        await w.close()
