"""Damaged logs and checkpoints under a serving authority: other files go on, people are told what
is damaged, and what mends it makes it forgotten."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from authority_cluster import PeerNode, World, world

from sofs.core import messages as m
from sofs.core.events import RESUME_KEY_FAILED
from sofs.core.record import DataHeader, DataOp, RecordKind
from sofs.errors import Corrupt
from sofs.services.authority import follower
from sofs.services.authority.damage import Reported
from sofs.services.authority.env import node_role
from sofs.services.authority.follower import Follower
from sofs.services.authority.service_active import ActiveAuthority
from sofs.services.leader.ask import corrupt_list

T = TypeVar("T")
CLIENT, OTHER = b"c" * 16, b"d" * 16
OVERWRITE = 4  # The disposition of an open that empties an existing file.
HANG_S = 10  # No step here takes a tenth of it: what does not end by then hangs.


def caller(op_id: int, client: bytes = CLIENT) -> m.Caller:
    return m.Caller(client=client, principal="p", op_id=op_id)


def open_request(op_id: int, path: str, client: bytes = CLIENT, share: int = 7) -> m.Open:
    return m.Open(
        caller=caller(op_id, client), path=path, access=3, share=share, disposition=3,
        create_guid=client[:8] + op_id.to_bytes(8, "big"),
    )  # fmt: skip


async def ends(work: Awaitable[T]) -> T:
    """Await what once hung."""
    return await asyncio.wait_for(work, HANG_S)


async def alone(w: World) -> tuple[ActiveAuthority, PeerNode]:
    """A coordinator without a follower, and one node."""
    await w.start("coordinator")
    active = (await w.until_active("coordinator")).active
    assert active is not None
    return active, await PeerNode(w, "n1").join()


async def pair(w: World) -> ActiveAuthority:
    """A coordinator with a resume-key in step."""
    await w.start("coordinator")
    active = (await w.until_active("coordinator")).active
    assert active is not None
    await w.start("resume-key")
    await w.until_in_step("resume-key")
    return active


async def opened(node: PeerNode, request: m.Open) -> m.OpenReply:
    reply = await node.call(request)
    assert isinstance(reply, m.OpenReply)
    return reply


async def names(node: PeerNode) -> list[str]:
    reply = await ends(node.call(m.ReadDir(path="/", entries_max=1000, caller=caller(0))))
    assert isinstance(reply, m.ReadDirReply)
    return [entry.name for entry in reply.entries]


# A damaged data log


async def damaged(root: Path, node: PeerNode, held: m.OpenReply) -> None:
    """The node wrote, died, and the header of an acknowledged record of its log is damaged."""
    assert held.grant is not None
    header = DataHeader(
        file=held.info.ino, offset=0, length=4096, generation=1, handle=held.handle, op_sequence=1,
        token_generation=held.grant.generation, resulting_offset=0, first_page=0, mtime_ns=1,
        op=DataOp.WRITE,
    )  # fmt: skip
    places = []
    for op in range(1, 5):
        extension = dataclasses.replace(header, op_sequence=op).pack()
        place = node.log.append(RecordKind.DATA, [bytes(4096)], extension, block_sums=True)
        await node.log.durable(place.sequence)
        places.append(place)
    flip(root / "logs" / node_role(node.incarnation), places[1].payload_offset - 40)
    await node.die()


def flip(log_folder: Path, offset: int) -> None:
    """Overwrite eight bytes of the only segment of a log."""
    [segment] = [path for path in log_folder.rglob("*") if path.is_file()]
    file = os.open(segment, os.O_WRONLY)
    os.pwrite(file, b"\xff" * 8, offset)
    os.close(file)


async def touch_damaged(node: PeerNode, held: m.OpenReply, request: m.Open) -> None:
    """What the dead node held is free, its file says why it has no data, and can be made anew."""
    client = b"t" * 16
    mine = await ends(opened(node, open_request(1, request.path, client)))
    assert mine.grant is None
    for mode in (1, 2):
        with pytest.raises(Corrupt):
            await ends(node.call(m.AcquireToken(held.info.ino, mode)))
    with pytest.raises(Corrupt):
        await ends(node.call(m.ReadFile(request.path, 0, 10, caller(0, client))))
    lock = m.Lock(caller(2, client), mine.handle, mine.generation, [m.LockRange(0, 10, True)])
    await ends(node.call(lock))
    assert await ends(node.call(lock)) == m.Done()
    stated = await ends(node.call(m.Stat(path=request.path, caller=caller(0))))
    assert isinstance(stated, m.InfoReply)
    overwrite = dataclasses.replace(open_request(3, request.path, client), disposition=OVERWRITE)
    assert (await ends(opened(node, overwrite))).grant is not None


async def damaged_places(w: World, part: str) -> list[m.CorruptPlace]:
    """What people are told."""
    listed = await corrupt_list(w.clock, w.hub.transport(), w.parts[part].address)
    assert listed.total == len(listed.places)
    return listed.places


async def test_a_damaged_header_in_one_data_log_stops_its_own_files_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node dies, and a record of its log cannot be read: under the same owner ..."""
    async with world(tmp_path) as w:
        active, node = await alone(w)
        other = await PeerNode(w, "n2").join()
        request = open_request(1, "/f")
        held = await opened(node, request)
        await damaged(tmp_path, node, held)
        await w.until("the damage was found", lambda: "$corrupt" in caplog.text)
        await w.until("sealed", lambda: not active.state.is_live_node(node.incarnation))
        [place] = await damaged_places(w, "coordinator")
        assert (place.kind, place.path, place.sequence) == (m.CorruptKind.LOST, "/f", 2)
        assert (place.found_by, place.log_id) == ("coordinator", node.registration.log_id)
        await ends(opened(other, open_request(1, "/other", OTHER)))
        item = m.ReclaimItem(held.handle, request.create_guid)
        reply = await ends(other.call(m.Reclaim(caller(2), [item])))
        assert isinstance(reply, m.ReclaimReply)
        assert [(r.code, r.generation) for r in reply.results] == [("", 2)]
        await touch_damaged(other, held, request)
        assert await damaged_places(w, "coordinator") == []
        assert await names(other) == ["f", "other"]
        assert not active.ended.done()
        await other.die()


async def test_a_damaged_data_log_keeps_no_take_over_from_going_online(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """... and under a successor, whose resume gate waits for every node of before. The handles of
    its absent clients are released with the window, like all others."""
    async with world(tmp_path) as w:
        w.settings["gate_window_ms"] = 100
        w.settings["silence_ms"] = 20_000
        await pair(w)
        node = await PeerNode(w, "n1").join()
        other, away = await PeerNode(w, "n2").join(), await PeerNode(w, "n3").join()
        request = open_request(1, "/f", share=0)
        held = await opened(node, request)
        await opened(away, open_request(1, "/away", OTHER, share=0))
        await away.die()
        await damaged(tmp_path, node, held)
        await w.until("the damage was found", lambda: "$corrupt" in caplog.text)
        await w.kill("coordinator")
        third = b"e" * 16
        await ends(opened(other, open_request(1, "/other", third)))
        await ends(opened(other, open_request(2, "/away", third)))  # Released with the window.
        active = (await w.until_active("resume-key")).active
        assert active is not None
        assert active.resume.online
        assert [place.path for place in await damaged_places(w, "resume-key")] == ["/f"]
        await touch_damaged(other, held, request)
        assert not active.ended.done()
        await other.die()


async def damage_checkpoints(w: World, root: Path) -> list[Path]:
    """End the follower, and change what the log names as a checkpoint, and any other there is;
    returns them."""
    active = w.parts["coordinator"].active
    assert active is not None
    await w.until("a checkpoint is named", lambda: active.checkpoints._named.sequence)
    await w.kill("resume-key")
    async with active.checkpoints._naming:
        await active.group.settled()
    images = list((root / "checkpoints").glob("0*"))  # A put may still be under way.
    for image in images:
        image.write_bytes(image.read_bytes()[:-1] + b"?")
    return images


async def test_what_a_follower_cannot_read_is_told_and_a_checkpoint_makes_it_needless(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        w.settings["checkpoint_every_entries"] = 3
        await pair(w)
        node = await PeerNode(w, "n1").join()
        for n in range(8):
            await node.call(m.Mkdir(caller(n + 1), f"/d{n}"))
        images = await damage_checkpoints(w, tmp_path)
        active = w.parts["coordinator"].active
        assert active is not None
        seen: list[m.CorruptPlace] = []
        real = active.state.report_corrupt

        def report(places: Sequence[m.CorruptPlace], found_by: str, now: int) -> Reported:
            seen.extend(places)
            return real(places, found_by, now)

        active.state.report_corrupt = report  # type: ignore[method-assign]
        w.settings["checkpoint_every_entries"] = 10_000
        await w.start("resume-key")
        await w.until("told", lambda: seen)
        assert any(image.name in seen[0].object for image in images)
        await w.until("mended", lambda: not any(image.exists() for image in images))
        await w.until_in_step("resume-key")
        await w.until("forgotten", lambda: active.state.corrupt_total() == 0)
        await w.kill("coordinator")
        assert len(await names(node)) == 8
        await node.die()


async def test_a_follower_that_reads_damage_again_and_again_waits_between_two_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would read the whole log, as often as it can, for as long as the damage is there."""
    async with world(tmp_path) as w:
        w.settings["checkpoint_every_entries"] = 3
        await pair(w)
        node = await PeerNode(w, "n1").join()
        for n in range(8):
            await node.call(m.Mkdir(caller(n + 1), f"/d{n}"))
        await damage_checkpoints(w, tmp_path)
        active = w.parts["coordinator"].active
        assert active is not None
        # Nobody mends it.
        monkeypatch.setattr(active.checkpoints, "want", lambda: None)
        steps: list[str] = []
        catch_up = Follower._catch_up

        async def counted(one: Follower, through_sequence: int) -> None:
            steps.append("try")
            await catch_up(one, through_sequence)

        sleep = w.clock.sleep_ms

        async def slept(ms: float) -> None:
            if ms == 211:
                steps.append("wait")
            await sleep(ms)

        monkeypatch.setattr(follower, "DAMAGED_AGAIN_MS", 211)  # Nobody else waits so long.
        monkeypatch.setattr(Follower, "_catch_up", counted)
        monkeypatch.setattr(w.clock, "sleep_ms", slept)
        w.settings["checkpoint_every_entries"] = 10_000
        await w.start("resume-key")
        await w.until("four tries", lambda: steps.count("try") >= 4)
        assert steps[:7] == ["try", "wait"] * 3 + ["try"]
        await node.die()


async def test_who_cannot_recover_the_volume_says_what_is_damaged(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.settings["checkpoint_every_entries"] = 3
        await pair(w)
        node = await PeerNode(w, "n1").join()
        for n in range(8):
            await node.call(m.Mkdir(caller(n + 1), f"/d{n}"))
        await damage_checkpoints(w, tmp_path)
        await w.kill("coordinator")
        part = await w.start("coordinator")

        def told() -> str:
            return "".join(f for f in part.describe().facts if f.startswith("corrupt="))

        await w.until("told", told)
        assert "checkpoint" in told()
        assert "restore it from a copy" in told()
        failed = w.events.of(RESUME_KEY_FAILED)[0]
        assert (failed["part"], "checkpoint" in str(failed["reason"])) == ("coordinator", True)
        await node.die()
