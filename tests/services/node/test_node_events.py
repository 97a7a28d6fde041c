"""What an authority and nodes tell, as events, while handles are kept, given back and released."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from node_world import Client, World, refused, world

from sofs.core import events as e
from sofs.core import messages as m
from sofs.errors import SofsError
from sofs.services.authority import story

HANDLES = [
    e.OPEN_ESTABLISHED,
    e.OPEN_DISCONNECTED,
    e.OPEN_RECONNECTED,
    e.OPEN_SUSPENDED,
    e.OPEN_CLOSED,
    e.OPEN_TIMED_OUT,
    e.OPEN_TERMINATED,
    e.OPEN_REPLACED,
    e.OPEN_CLOSED_BY_ADMINISTRATOR,
]


def handle_ids(w: World, part: str = "coordinator") -> list[int]:
    return [kind.id for kind, _ in w.events[part].told if kind in HANDLES]


def only(w: World, kind: e.EventKind, part: str = "coordinator") -> dict[str, Any]:
    [fields] = w.events[part].of(kind)
    return dict(fields)


async def test_the_death_of_a_node_is_told_as_kept_and_reconnected(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        client = await w.client()
        file = await client.open("/dir")
        await w.kill_node("a")
        other = await w.client(node="b", like=client)
        again = await file.reclaim(other)
        await again.close()
        assert handle_ids(w) == [650, 651, 652, 654]
        opened = only(w, e.OPEN_ESTABLISHED)
        assert opened == {
            "handle": file.handle,
            "client": client.id,
            "path": "/dir",
            "node": "a",
            "timeout_ms": 60_000,
        }
        kept = only(w, e.OPEN_DISCONNECTED)
        assert (kept["node"], kept["path"], kept["reason"]) == ("a", "/dir", "its node was lost")
        assert only(w, e.OPEN_RECONNECTED)["node"] == "b"
        assert only(w, e.OPEN_RECONNECTED)["generation"] == 2
        fenced = only(w, e.NODE_FENCED)
        assert (fenced["node"], fenced["address"], fenced["handles"]) == ("a", "a:1", 1)


async def test_an_answer_that_is_given_again_is_told_once(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        body = m.Open(client.caller(), "/f", 3, 7, m.Disposition.OPEN_IF, create_guid=b"g" * 16)
        first, second = await asyncio.gather(client.call(body), client.call(body))
        assert first.handle == second.handle
        await client.call(body)
        assert handle_ids(w).count(650) == 1


async def test_what_was_refused_or_is_not_durable_is_not_told(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        assert await refused(client.open("/none/f")) == "OBJECT_NAME_NOT_FOUND"
        active = w.authorities["coordinator"].active
        assert active is not None
        before = handle_ids(w)
        # The group of this open fails with the log: whoever succeeds knows nothing of it.
        opening = asyncio.ensure_future(refused(client.open("/late")))
        for _ in range(1000):
            if active.state.list_handles(0, 9):
                break
            await asyncio.sleep(0)
        assert not active.group.clean
        active.group.end(SofsError("over"))
        active.end(SofsError("over"))
        assert handle_ids(w) == before
        await w.kill_node("a")
        await opening


async def test_a_client_that_stays_away_is_told_as_kept_and_then_timed_out(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open("/f", timeout_ms=1)
        await client.close()
        await w.until("the handle is released", lambda: 655 in handle_ids(w))
        assert handle_ids(w) == [650, 651, 655]
        assert only(w, e.OPEN_DISCONNECTED)["reason"] == "its session ended"
        assert only(w, e.OPEN_TIMED_OUT)["handle"] == file.handle
        told = w.events["a"]
        assert told.ids() == [1010, 1013, 500, 550, 501, 552]
        assert told.of(e.SESSION_ENDED)[0]["handles"] == 1


async def test_a_goodbye_tells_that_handles_ended_with_their_client(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        for name in ("/f", "/g"):
            await client.open(name)
        await client.call(m.EndClient(client.caller()))
        assert handle_ids(w) == [650, 650, 656, 656]


async def test_a_newer_instance_of_an_application_closes_the_older_ones_handle(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a", "b") as w:
        older, newer = await w.client("older"), await w.client("newer", "b")
        file = await older.open("/f", app_instance=b"i" * 16)
        await newer.open("/f", app_instance=b"i" * 16)
        assert handle_ids(w) == [650, 657, 650]
        told = only(w, e.OPEN_REPLACED)
        assert (told["handle"], told["client"], told["successor"]) == (
            file.handle,
            older.id,
            newer.id,
        )


async def test_a_refused_newer_instance_is_told_too(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        older, newer = await w.client("older"), await w.client("newer", "b")
        third = await w.client("third", "b")
        await older.open("/f", m.Access.READ, share=m.Share.ALL, app_instance=b"i" * 16)
        await third.open("/f", m.Access.READ, share=m.Share.READ)
        code = await refused(newer.open("/f", m.Access.WRITE, app_instance=b"i" * 16))
        assert code == "SHARING_VIOLATION"
        assert only(w, e.OPEN_REPLACED)["successor"] == newer.id
        assert 655 not in handle_ids(w)


async def test_a_take_over_tells_the_gates_phases_and_the_handles_it_keeps(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        client = await w.client()
        file = await client.open("/f")
        await client.close()
        await w.until("the handle is kept", lambda: 651 in handle_ids(w))
        await w.kill_authority("coordinator")
        await w.authority("resume-key")
        told = w.events["resume-key"]
        assert [f["handle"] for f in told.of(e.OPEN_SUSPENDED)] == [file.handle]
        await w.until("the gate waits for it", lambda: told.of(e.GATE_RESUME_REMOTE))
        assert told.of(e.GATE_RESUME_REMOTE)[0]["handles"] == 1
        other = await w.client(node="b", like=client)
        await file.reclaim(other)
        await w.until("the gate is open", lambda: told.of(e.GATE_ONLINE))
        gate = [k.id for k, _ in told.told if k.channel is e.Channel.RESUME_KEY_FILTER]
        assert gate == [1, 2, 3, 5]
        assert 652 in handle_ids(w, "resume-key")


async def test_many_handles_at_one_moment_are_told_in_part_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "LISTED_MAX", 3)
    async with world(tmp_path, "a", "b") as w:
        client = await w.client()
        for number in range(8):
            await client.open(f"/f{number}")
        await w.kill_node("a")
        await w.until("the node is sealed", lambda: 651 in handle_ids(w))
        kept = w.events["coordinator"].of(e.OPEN_DISCONNECTED)
        assert [fields["others"] for fields in kept] == [0, 0, 5]
        assert w.events["coordinator"].of(e.NODE_FENCED)[0]["handles"] == 8


async def test_a_nodes_lives_and_its_refusals_are_told(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        part = w.nodes["a"]
        node = part.node
        assert node is not None
        await w.seal(node)
        await w.until("the next life", lambda: w.events["a"].ids().count(1013) == 2)
        ends = w.events["a"].of(e.ENDPOINT_OFFLINE)
        assert [fields["incarnation"] for fields in ends] == [bytes(node.incarnation)]
        stranger = Client(w, "stranger", part)
        with pytest.raises(SofsError, match="no share"):
            await _connect(stranger, "nowhere")
        assert w.events["a"].of(e.TREE_REFUSED)[0]["share"] == "nowhere"


async def _connect(client: Client, share: str) -> None:
    from sofs.services.channel import open_channel

    w = client.world
    await open_channel(
        w.hub.transport(), w.clock, client.part.endpoint, "file",
        m.Hello(client=client.id, principal="me", share=share),
        lambda _, envelope: None, name="client", on_crash=w.crashes.append, timeout_ms=2_000,
    )  # fmt: skip
