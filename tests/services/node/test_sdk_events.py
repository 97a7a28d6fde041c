"""What the SDK tells, as events, while its nodes die and its handles are lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from node_world import World
from test_node_admin_close import close_handle, listed

from sofs.client.aio import AsyncShare, connect
from sofs.client.story import ClientStory
from sofs.core import events as e
from sofs.errors import HandleLost, SofsError
from sofs.ports.events import EventList

A, B = "10.0.0.1:7000", "10.0.0.2:7000"


async def sdk(w: World, *addresses: str) -> tuple[AsyncShare, EventList]:
    url = f"sofs://{','.join(addresses)}/vol"
    share = await connect(url, transport=w.hub.transport(), witness=False)
    told = EventList()
    share.core.story.events = told
    return share, told


def only(told: EventList, kind: e.EventKind) -> dict[str, Any]:
    [fields] = told.of(kind)
    return dict(fields)


async def test_a_session_that_is_lost_and_goes_on_is_told_as_both(tmp_path: Path) -> None:
    w = World(tmp_path)
    try:
        await w.authority()
        await w.node("a", address=A)
        await w.node("b", address=B)
        share, told = await sdk(w, A, B)
        async with await share.open("/f", "w+b") as file:
            await file.pwrite(b"1", 0)
            used = share.facts().node
            await w.kill_node(used)
            await file.pwrite(b"2", 1)
        lost, back = only(told, e.SESSION_LOST), only(told, e.SESSION_RESTORED)
        assert (lost["node"], back["node"]) == (used, "b" if used == "a" else "a")
        assert (back["handles"], back["handles_lost"]) == (1, 0)
        assert told.ids() == [30805, 30806]
        await share.close()
        assert told.ids() == [30805, 30806], "a client that leaves has lost nothing"
    finally:
        await w.close()


async def test_a_handle_that_cannot_be_taken_up_again_is_an_error_event(tmp_path: Path) -> None:
    w = World(tmp_path)
    try:
        await w.authority()
        await w.node("a", address=A)
        share, told = await sdk(w, A)
        file = await share.open("/f", "w+b")
        await file.pwrite(b"1", 0)
        [info] = await listed(w)
        await w.kill_node("a")
        assert await close_handle(w, info.handle)
        await w.node("a", address=A)
        with pytest.raises(HandleLost, match="an administrator closed it"):
            await file.pwrite(b"2", 1)
        failed = only(told, e.RECLAIM_FAILED)
        assert (failed["handle"], failed["path"]) == (info.handle, "/f")
        assert only(told, e.SESSION_RESTORED)["handles_lost"] == 1
        await share.close()
    finally:
        await w.close()


def test_a_share_that_was_removed_and_comes_back_is_told_once_each() -> None:
    told = EventList()
    story = ClientStory(told, "logs")
    for _ in range(3):  # It is asked for again and again.
        story.share_lost(SofsError("removed"))
    story.session_begun(A, "a", _record(B), 5)
    story.session_begun(A, "a", _record(B), 5)
    assert told.ids() == [30807, 30806, 30808, 30806]


def test_a_handle_that_will_not_be_kept_is_told() -> None:
    told = EventList()
    story = ClientStory(told, "logs")
    story.opened(1, "/f", True)
    story.opened(2, "/g", False)
    assert only(told, e.OPEN_NOT_PERSISTENT)["path"] == "/g"


def _record(left: str) -> Any:
    from sofs.client.facts import FailoverRecord

    return FailoverRecord("stream ended", left, "", 0)


async def test_a_move_is_told_as_asked_for_and_done_and_no_session_as_lost(tmp_path: Path) -> None:
    w = World(tmp_path)
    try:
        await w.authority()
        await w.node("a", address=A)
        await w.node("b", address=B)
        share, told = await sdk(w, A, B)
        async with await share.open("/f", "w+b") as file:
            await file.pwrite(b"1", 0)
            origin = share.facts().address
            target = B if origin == A else A
            await share.move(target)
            await file.pwrite(b"2", 1)
        assert told.ids() == [30819, 30820]
        asked, done = only(told, e.MOVE_REQUESTED), only(told, e.MOVE_DONE)
        assert (asked["address"], asked["destination"]) == (origin, target)
        assert (done["origin"], done["address"], done["handles"]) == (origin, target, 1)
        with pytest.raises(SofsError):
            await share.move("10.0.0.9:7000")
        failed = only(told, e.MOVE_FAILED)
        assert (failed["destination"], failed["address"]) == ("10.0.0.9:7000", target)
        await share.close()
    finally:
        await w.close()
