"""A newer instance of an application opens what an older one has open: who else is affected."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from authority_cluster import PeerNode, World, world

from sofs.core import messages as m
from sofs.errors import DeletePending, FileClosed, ObjectNameNotFound, SharingViolation, SofsError
from sofs.ids import Sequence
from sofs.services.authority.blocked import Blocked

APP = b"i" * 16
OLD, NEW, OTHER = b"o" * 16, b"n" * 16, b"x" * 16
READ_WRITE, DELETE = 3, 8
ONLY_READ = 1  # A share mode.


def caller(client: bytes, op_id: int) -> m.Caller:
    return m.Caller(client=client, principal="p", op_id=op_id)


def open_request(
    op_id: int, client: bytes, *, app: bytes = b"", share: int = 7, options: int = 0
) -> m.Open:
    return m.Open(
        caller=caller(client, op_id), path="/file",
        access=READ_WRITE | DELETE * bool(options), share=share, disposition=3, options=options,
        create_guid=client[:8] + op_id.to_bytes(8, "big"), app_instance=app,
    )  # fmt: skip


async def opened(node: PeerNode, request: m.Open) -> int:
    reply = await node.call(request)
    assert isinstance(reply, m.OpenReply)
    return reply.handle


async def one_node(w: World) -> PeerNode:
    await w.start("coordinator")
    await w.until_active("coordinator")
    return await PeerNode(w, "n1").join()


@pytest.mark.parametrize(
    ("share", "options", "error"),
    [(ONLY_READ, 0, SharingViolation), (7, int(m.OpenOptions.DELETE_ON_CLOSE), DeletePending)],
)
async def test_what_a_newer_instance_closed_keeps_the_file_from_nobody_though_its_open_was_refused(
    tmp_path: Path, share: int, options: int, error: type[SofsError]
) -> None:
    async with world(tmp_path) as w:
        node = await one_node(w)
        old = await opened(node, open_request(1, OLD, app=APP, options=options))
        other = await opened(node, open_request(1, OTHER))
        with pytest.raises(error):
            await node.call(open_request(1, NEW, app=APP, share=share))
        active = w.parts["coordinator"].active
        assert active is not None
        assert active.state.disconnected_handles() == []
        with pytest.raises(FileClosed):
            await node.call(m.Close(caller(OLD, 2), old, 1))
        await node.call(m.Close(caller(OTHER, 2), other, 1))
        await opened(node, open_request(2, NEW, share=ONLY_READ))
        active.state.check()
        await node.die()


async def test_an_open_that_deletes_the_file_with_the_older_instance_and_finds_none_stays_so(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        node = await one_node(w)
        delete = int(m.OpenOptions.DELETE_ON_CLOSE)
        await opened(node, open_request(1, OLD, app=APP, options=delete))
        request = open_request(1, NEW, app=APP)
        request.disposition = int(m.Disposition.OPEN)
        with pytest.raises(ObjectNameNotFound):
            await node.call(request)
        active = w.parts["coordinator"].active
        assert active is not None
        assert active.state.disconnected_handles() == []
        with pytest.raises(ObjectNameNotFound):
            await node.call(m.Stat(path="/file"))
        await node.die()


async def test_a_newer_instance_takes_its_files_over_while_the_gate_waits_for_the_older_one(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        first = await one_node(w)
        await opened(first, open_request(1, OLD, app=APP, share=0))
        await first.die()
        await w.kill("coordinator")
        second = PeerNode(w, "n2")
        await w.start("resume-key")
        active = (await w.until_active("resume-key")).active
        assert active is not None
        await second.join()
        await w.until("the gate waits", lambda: active.resume.phase == "RESUME_REMOTE")
        await opened(second, open_request(1, NEW, app=APP, share=0))
        assert active.resume.phase == "ONLINE", "and nobody waits for the older one any more"
        await second.die()


async def test_a_client_that_leaves_while_the_gate_waits_for_its_handles_is_waited_for_no_longer(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        first = await one_node(w)
        await opened(first, open_request(1, OLD))
        await first.die()
        await w.kill("coordinator")
        second = PeerNode(w, "n2")
        await w.start("resume-key")
        active = (await w.until_active("resume-key")).active
        assert active is not None
        await second.join()
        await w.until("the gate waits", lambda: active.resume.phase == "RESUME_REMOTE")
        await second.call(m.EndClient(caller(OLD, 2)))
        assert active.resume.phase == "ONLINE"
        await second.call(m.Unlink(caller(OTHER, 1), "/file"))
        await second.die()


async def test_who_waits_for_a_lock_of_an_older_instance_gets_it_when_a_newer_one_comes(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        node = await one_node(w)
        old = await opened(node, open_request(1, OLD, app=APP))
        other = await opened(node, open_request(1, OTHER))
        span = [m.LockRange(0, 10, True)]
        await node.call(m.Lock(caller(OLD, 2), old, 1, span))
        waiter = asyncio.ensure_future(
            node.call(m.Lock(caller(OTHER, 2), other, 1, span, wait_ms=60_000))
        )
        active = w.parts["coordinator"].active
        assert active is not None
        await w.until("it waits", lambda: active.locks.waiting() == 1)
        await opened(node, open_request(1, NEW, app=APP))
        assert isinstance(await asyncio.wait_for(waiter, 20), m.Done)
        await node.die()


async def test_a_node_hears_of_a_reclaimed_handle_before_it_is_told_to_let_go_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        one = await one_node(w)
        two, three = await PeerNode(w, "n2").join(), await PeerNode(w, "n3").join()
        request = open_request(1, OLD, app=APP)
        old = await opened(one, request)
        await three.call(m.Mkdir(caller(NEW, 1), "/known"))
        await one.call(m.Disconnected([m.BoundHandle(old, 1)]))
        assert two.channel is not None
        active = w.parts["coordinator"].active
        assert active is not None
        durable_now, blocked = asyncio.Event(), asyncio.Event()
        durable, clear = active.group.log.durable, active.nodes.clear

        async def held(sequence: Sequence) -> None:
            await durable_now.wait()
            await durable(sequence)

        async def cleared(what: Blocked) -> None:
            blocked.set()
            await clear(what)

        monkeypatch.setattr(active.group.log, "durable", held)
        monkeypatch.setattr(active.nodes, "clear", cleared)
        item = m.ReclaimItem(old, request.create_guid)
        reclaimed = two.channel.begin(m.Reclaim(caller(OLD, 2), [item]))
        told_before: list[bool] = []
        seen = two.asked

        class Asked(list[m.Message]):
            def append(self, body: m.Message) -> None:
                if isinstance(body, m.Detach):
                    told_before.append(reclaimed.done())
                seen.append(body)

        two.asked = Asked()
        await w.until("the reclaim ran", lambda: active.state.handle_node(old) == two.incarnation)
        newer = asyncio.ensure_future(opened(three, open_request(2, NEW, app=APP, share=0)))
        await blocked.wait()
        for _ in range(100):  # Whatever is sent at once is sent.
            await asyncio.sleep(0)
        durable_now.set()
        await newer
        assert told_before == [True], "else it binds the handle behind its end, and writes go on"
        for node in (one, two, three):
            await node.die()
