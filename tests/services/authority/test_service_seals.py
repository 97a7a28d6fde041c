"""When a node is sealed: as soon as its host says that it is gone, and however often it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from authority_cluster import PeerNode, World, world

from sofs.core import messages as m
from sofs.errors import StoreFailed, Unavailable
from sofs.services.authority.follower import Follower, FollowerState, Verdict
from sofs.services.authority.service_active import ActiveAuthority

T = TypeVar("T")
CLIENT = b"c" * 16
NEVER_MS = 20_000  # A limit that passes in no test.
HANG_S = 10  # Half of it: who waits for the limit hangs.


def caller(op_id: int) -> m.Caller:
    return m.Caller(client=CLIENT, principal="p", op_id=op_id)


def open_request(op_id: int, path: str) -> m.Open:
    return m.Open(
        caller=caller(op_id), path=path, access=3, share=7, disposition=3,
        create_guid=CLIENT[:8] + op_id.to_bytes(8, "big"),
    )  # fmt: skip


async def ends(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, HANG_S)


async def alone(w: World) -> ActiveAuthority:
    w.settings["recall_ms"] = NEVER_MS
    await w.start("coordinator")
    active = (await w.until_active("coordinator")).active
    assert active is not None
    return active


class Dying(PeerNode):
    """A process that is being killed: its streams are reset, and what still connects is, too, until
    its kernel has closed the socket on which it listened."""

    dying = False
    resets = 0

    async def _accept(self, service, stream) -> None:  # type: ignore[no-untyped-def]
        if self.dying:
            self.resets += 1
            raise Unavailable("connection reset by peer")
        await super()._accept(service, stream)


async def test_a_node_that_is_being_killed_is_sealed_as_soon_as_its_host_refuses(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        active = await alone(w)
        one, two = Dying(w, "n1"), await PeerNode(w, "n2").join()
        await one.join()
        opened = await ends(one.call(open_request(1, "/f")))
        assert isinstance(opened, m.OpenReply)
        one.dying = True
        assert one.channel is not None
        await one.channel.close()
        item = m.ReclaimItem(opened.handle, open_request(1, "/f").create_guid)
        reclaiming = asyncio.ensure_future(two.call(m.Reclaim(caller(2), [item])))
        await w.until("everybody who asks was reset", lambda: one.resets >= 5)
        assert active.state.is_live_node(one.incarnation), "a reset alone proves nothing"
        w.hub.cut(one.endpoint)
        reply = await ends(reclaiming)
        assert isinstance(reply, m.ReclaimReply)
        assert [(r.code, r.generation) for r in reply.results] == [("", 2)]
        await one.die()
        await two.die()


async def test_many_who_wait_for_a_lost_node_ask_its_host_in_turns(tmp_path: Path) -> None:
    """Each recall on its own would connect every few milliseconds."""
    async with world(tmp_path) as w:
        active = await alone(w)
        one, two = Dying(w, "n1"), await PeerNode(w, "n2").join()
        await one.join()
        one.dying = True
        asking, most = 0, 0
        real = active.nodes._is_gone

        async def is_gone(incarnation: bytes) -> bool:
            nonlocal asking, most
            asking += 1
            most = max(most, asking)
            try:
                return await real(incarnation)
            finally:
                asking -= 1

        active.nodes._is_gone = is_gone  # type: ignore[method-assign]
        assert one.channel is not None
        await one.channel.close()
        waits = [asyncio.ensure_future(active.nodes.detach(one.incarnation, [], "")) for _ in "abc"]
        await w.until("many questions", lambda: one.resets >= 9)
        w.hub.cut(one.endpoint)
        await ends(asyncio.gather(*waits))
        assert not active.state.is_live_node(one.incarnation)
        assert most == 1
        await one.die()
        await two.die()


async def test_a_seal_that_failed_after_its_waiter_left_is_tried_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        active = await alone(w)
        node = await PeerNode(w, "n1").join()
        real, door, tries = w.fenced.seal, asyncio.Event(), 0

        async def seal(*args: Any, **rest: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries == 1:
                await door.wait()
                raise StoreFailed("the device did not answer")
            return await real(*args, **rest)

        w.fenced.seal = seal  # type: ignore[method-assign]
        waiter = asyncio.ensure_future(active.nodes.seal(node.incarnation))
        await w.until("the seal", lambda: tries == 1)
        [first] = active.nodes._seals.values()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        door.set()
        await w.until("the first seal ended", first.done)
        await ends(active.nodes.seal(node.incarnation))
        assert not active.state.is_live_node(node.incarnation)
        await node.die()


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_connect_that_is_reset_proves_nothing_before_the_limit(
    tmp_path: Path, refuses: bool
) -> None:
    async with world(tmp_path) as w:
        await alone(w)
        w.settings["silence_ms"] = NEVER_MS if refuses else 150
        owner = await w.fenced.highest_claim("volume")
        assert owner is not None
        resets = 0

        async def reset(service: str, stream: object) -> None:
            nonlocal resets
            resets += 1
            raise Unavailable("connection reset by peer")

        w.hub.cut(owner.endpoint)
        listener = w.hub.listen(owner.endpoint, reset)
        state = FollowerState(w.env("resume-key").new_database())
        follower = Follower(w.env("resume-key"), b"f" * 16, owner, state, w.crashes.append)
        running = asyncio.ensure_future(follower.run())
        await w.until("it asked again", lambda: resets >= 3)
        if refuses:
            assert not running.done()
            await listener.close()
        assert await ends(running) is (Verdict.GONE if refuses else Verdict.SILENT)
        state.database.close()
