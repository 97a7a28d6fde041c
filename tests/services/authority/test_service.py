"""The authority as a service: following, take-over, handing back, exactly once across them, and
sealing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from authority_cluster import PeerNode, World, world

from sofs.core import messages as m
from sofs.errors import FileNotAvailable, ObjectNameCollision, SofsError

CLIENT = b"c" * 16


def caller(op_id: int, client: bytes = CLIENT) -> m.Caller:
    return m.Caller(client=client, principal="p", op_id=op_id)


async def pair(w: World) -> None:
    await w.start("coordinator")
    await w.until_active("coordinator")
    await w.start("resume-key")
    await w.until_in_step("resume-key")


def open_request(op_id: int, path: str, client: bytes = CLIENT, **rest: int) -> m.Open:
    return m.Open(
        caller=caller(op_id, client), path=path, access=3, share=7, disposition=3,
        create_guid=client[:8] + op_id.to_bytes(8, "big"), **rest,
    )  # fmt: skip


async def test_a_mutation_is_answered_again_by_the_successor_and_happens_once(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await pair(w)
        node = await PeerNode(w, "n1").join()
        first = await node.call(m.Mkdir(caller(1), "/a"))
        await w.kill("coordinator")
        again = await node.call(m.Mkdir(caller(1), "/a"))
        assert again == first
        with pytest.raises(ObjectNameCollision):
            await node.call(m.Mkdir(caller(2), "/a"))
        resume_key = await w.until_active("resume-key")
        assert resume_key.takeovers[0].kept, "a follower in step keeps what it followed"
        await node.die()


async def test_the_coordinator_gets_the_volume_back_when_it_is_in_step(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.settings["hand_back_after_ms"] = 20
        await pair(w)
        node = await PeerNode(w, "n1").join()
        await node.call(m.Mkdir(caller(1), "/a"))
        await w.kill("coordinator")
        await node.call(m.Mkdir(caller(2), "/b"))
        await w.start("coordinator")
        await w.until_active("coordinator")
        names = await node.call(m.ReadDir(path="/", entries_max=10, caller=caller(0)))
        assert isinstance(names, m.ReadDirReply)
        assert [entry.name for entry in names.entries] == ["a", "b"]
        await w.until_in_step("resume-key")
        await node.die()


async def test_both_may_die_and_whoever_starts_recovers_from_the_store(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await pair(w)
        node = await PeerNode(w, "n1").join()
        for i in range(20):
            await node.call(m.Mkdir(caller(i + 1), f"/d{i}"))
        await w.kill("coordinator")
        await w.kill("resume-key")
        await w.start("resume-key")
        await w.until_active("resume-key")
        names = await node.call(m.ReadDir(path="/", entries_max=100, caller=caller(0)))
        assert isinstance(names, m.ReadDirReply)
        assert len(names.entries) == 20
        await node.die()


async def test_a_frozen_owner_that_wakes_acknowledges_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await pair(w)
        node = await PeerNode(w, "n1").join()
        await node.call(m.Mkdir(caller(1), "/a"))
        coordinator = w.parts["coordinator"]
        zombie = coordinator.active
        assert zombie is not None
        w.hub.freeze(coordinator.address)
        await w.until_active("resume-key")
        with zombie.group.transaction():
            zombie.state.mkdir(m.Mkdir(caller(5), "/zombie"), 1)
        with pytest.raises(SofsError):
            await zombie.group.settled()
        w.hub.thaw(coordinator.address)
        names = await node.call(m.ReadDir(path="/", entries_max=100, caller=caller(0)))
        assert isinstance(names, m.ReadDirReply)
        assert [entry.name for entry in names.entries] == ["a"]
        await node.die()


async def test_a_dead_node_is_sealed_when_its_client_reclaims_elsewhere(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await pair(w)
        one, two = await PeerNode(w, "n1").join(), await PeerNode(w, "n2").join()
        opened = await one.call(open_request(1, "/f"))
        assert isinstance(opened, m.OpenReply)
        assert opened.grant is not None
        await one.die()
        item = m.ReclaimItem(opened.handle, open_request(1, "/f").create_guid)
        reply = await two.call(m.Reclaim(caller(2), [item]))
        assert isinstance(reply, m.ReclaimReply)
        assert [(r.code, r.generation) for r in reply.results] == [("", 2)]
        assert await w.fenced.read_claim(f"node-{one.incarnation.hex()}", 2) is not None
        await two.die()


async def test_a_node_that_does_not_answer_a_recall_is_sealed_after_the_limit(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await pair(w)
        one, two = await PeerNode(w, "n1").join(), await PeerNode(w, "n2").join()
        opened = await one.call(open_request(1, "/f"))
        assert isinstance(opened, m.OpenReply)
        one.answer = False
        other = await two.call(open_request(1, "/f", b"d" * 16))
        assert isinstance(other, m.OpenReply)
        grant = await two.call(m.AcquireToken(opened.info.ino, 2))
        assert isinstance(grant, m.TokenReply)
        assert [type(message) for message in one.asked] == [m.Recall]
        assert await w.fenced.read_claim(f"node-{one.incarnation.hex()}", 2) is not None
        await one.die()
        await two.die()


async def test_stat_asks_the_node_that_writes(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await pair(w)
        one, two = await PeerNode(w, "n1").join(), await PeerNode(w, "n2").join()
        await one.call(open_request(1, "/f"))
        reply = await two.call(m.Stat(path="/f", caller=caller(0)))
        assert isinstance(reply, m.InfoReply)
        assert reply.info.size == 77
        await one.die()
        await two.die()


async def test_a_lock_is_granted_only_after_other_holders_know_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await pair(w)
        one, two = await PeerNode(w, "n1").join(), await PeerNode(w, "n2").join()
        a = await one.call(m.Open(caller(1), "/f", 1, 7, 3, create_guid=b"1" * 16))
        b = await two.call(m.Open(caller(1, b"d" * 16), "/f", 1, 7, 3, create_guid=b"2" * 16))
        assert isinstance(a, m.OpenReply)
        assert isinstance(b, m.OpenReply)
        await two.call(m.AcquireToken(b.info.ino, 1))
        lock = m.Lock(caller(2), a.handle, a.generation, [m.LockRange(0, 10, True)])
        await one.call(lock)
        updates = [body for body in two.asked if isinstance(body, m.LockUpdate)]
        assert [(lk.handle, lk.length) for u in updates for lk in u.locks] == [(a.handle, 10)]
        await one.die()
        await two.die()


async def test_checkpoints_bound_the_log_and_recovery_starts_at_the_newest(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.settings["checkpoint_every_bytes"] = 4_000
        await pair(w)
        node = await PeerNode(w, "n1").join()
        ids = itertools.count(1)

        def op() -> m.Caller:
            number = next(ids)
            return m.Caller(client=CLIENT, principal="p", op_id=number, acked_below=number)

        for i in range(100):
            await node.call(m.Mkdir(op(), f"/d{i}"))
        for _ in range(3):  # Each change of owner leaves a log that a later checkpoint covers.
            for part in ("coordinator", "resume-key"):
                if w.parts[part].active is not None:
                    await w.kill(part)
                    await node.call(m.Mkdir(op(), "/x"))
                    await node.call(m.Rmdir(op(), "/x"))
                    await w.start(part)
                    await w.until_in_step(part)
                    break
            for i in range(60):
                await node.call(m.SetInfo(op(), path="/d1", modified_ns=i + 1))
        checkpoints = await w.fenced.list_objects("checkpoints")
        assert len(checkpoints) <= 2, "older checkpoints are deleted"
        first = tmp_path / "logs" / "volume" / f"{1:020d}"
        assert not list(first.glob("*")), "the first epoch's log is covered and deleted"
        await w.kill("coordinator")
        await w.kill("resume-key")
        await w.start("resume-key")
        await w.until_active("resume-key")
        names = await node.call(m.ReadDir(path="/", entries_max=1000, caller=caller(0)))
        assert isinstance(names, m.ReadDirReply)
        assert len(names.entries) == 100
        await node.die()


async def test_a_sealed_log_that_nothing_names_is_deleted_at_the_second_look(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await pair(w)
        node = await PeerNode(w, "n1").join()
        folder = tmp_path / "logs" / f"node-{node.incarnation.hex()}"
        assert list(folder.rglob("0*"))
        coordinator = w.parts["coordinator"].active
        assert coordinator is not None
        assert await coordinator.space.one_pass() == 0
        await node.die()
        await coordinator.nodes.seal(node.incarnation)
        assert await coordinator.space.one_pass() == 0, "a reader may be under way"
        assert await coordinator.space.one_pass() > 0
        assert not [path for path in folder.rglob("*") if path.is_file()]


async def test_the_gate_lets_unrelated_creates_pass_and_keeps_what_an_absent_client_holds(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        w.settings["gate_window_ms"] = 400
        await pair(w)
        one, two = await PeerNode(w, "n1").join(), await PeerNode(w, "n2").join()
        await one.call(open_request(1, "/held"))
        await one.die()
        await w.kill("coordinator")
        stranger = b"d" * 16
        await two.call(open_request(1, "/other", stranger))
        active = (await w.until_active("resume-key")).active
        assert active is not None
        await w.until("the node is sealed", lambda: active.resume.phase == "RESUME_REMOTE")
        assert two.channel is not None
        with pytest.raises(FileNotAvailable):
            await two.channel.call(open_request(2, "/held", stranger))
        await two.call(open_request(2, "/held", stranger))  # Released when the window ended.
        assert active.resume.phase == "ONLINE"
        await two.die()
