"""What an application sees, and the servers execute, when nodes die, freeze or forget."""

from __future__ import annotations

import asyncio
import socket

import pytest
from client_rig import rig_of, until
from mini_cluster import DROP, LOSE

from sofs.client import limits
from sofs.client.aio import connect
from sofs.constants import MIB
from sofs.core import messages as m
from sofs.errors import (
    AccessDenied,
    Corrupt,
    DeadlineExceeded,
    DiskFull,
    FileNotAvailable,
    HandleLost,
    LockNotGranted,
    OutcomeUnknown,
    SofsError,
    StaleGeneration,
    Unavailable,
)


async def test_write_read_and_close_reach_the_volume() -> None:
    async with rig_of() as rig, rig.connect() as share:
        async with await share.open("/a", "x+b") as file:
            assert await file.pwrite(b"hello", 3) == 5
            assert await file.pread(100, 0) == b"\0\0\0hello"
            assert await file.append(b"!") == 8
        assert await share.read_file("/a") == b"\0\0\0hello!"
        assert not rig.volume.handles


async def test_write_whose_reply_was_lost_takes_effect_once() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: LOSE if isinstance(body, m.Write) else None
        pending = asyncio.create_task(file.append(b"once"))
        await until(lambda: rig.volume.executed)
        node.kill()
        assert await pending == 0
        assert await file.pread(100, 0) == b"once"
        assert rig.volume.executed == [(file.remote.handle, 1)]
        [record] = share.failovers()
        assert (record.reason, record.warm, record.handles, record.replayed) == (
            "stream ended",
            True,
            1,
            1,
        )


async def test_mutation_whose_reply_was_lost_takes_effect_once() -> None:
    async with rig_of() as rig, rig.connect() as share:
        node = rig.node_of(share)
        node.script = lambda body: LOSE if isinstance(body, m.Mkdir) else None
        pending = asyncio.create_task(share.mkdir("/d"))
        await until(lambda: rig.volume.mutations)
        node.kill()
        assert (await pending).is_directory
        assert [name for name, _ in rig.volume.mutations].count("Mkdir") == 1


async def test_open_whose_reply_was_lost_gives_a_usable_handle() -> None:
    async with rig_of() as rig, rig.connect() as share:
        node = rig.node_of(share)
        node.script = lambda body: LOSE if isinstance(body, m.Open) else None
        pending = asyncio.create_task(share.open("/a", "x+b"))
        await until(lambda: rig.volume.handles)
        node.kill()
        file = await pending
        await file.pwrite(b"x", 0)
        assert len(rig.volume.handles) == 1


async def test_close_whose_reply_was_lost_succeeds_at_the_next_node() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "wb")
        node = rig.node_of(share)
        node.script = lambda body: LOSE if isinstance(body, m.Close) else None
        pending = asyncio.create_task(file.close())
        await until(lambda: not rig.volume.handles)
        node.kill()
        await pending


async def test_frozen_node_is_left_and_answers_nothing_after_it_thaws() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        rig.hub.freeze(node.address)
        assert await file.pwrite(b"new", 0) == 3
        assert rig.node_of(share) is not node
        await file.pwrite(b"NEW", 0)
        rig.hub.thaw(node.address)
        await until(lambda: not any(c.alive and c.remote is None for c in node.channels))
        assert await file.pread(9, 0) == b"NEW"
        assert rig.volume.executed == [(file.remote.handle, 1), (file.remote.handle, 2)]
        [record] = share.failovers()
        assert record.reason == "silence"
        assert record.detect_ms >= 300


async def test_slow_answer_is_not_a_frozen_node() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.gate = asyncio.Event()
        pending = asyncio.create_task(file.pwrite(b"x", 0))
        await asyncio.sleep(0.6)
        assert not share.failovers()
        gate, node.gate = node.gate, None
        gate.set()
        assert await pending == 1
        assert not share.failovers()


async def test_unanswered_writes_are_replayed_in_order_with_their_numbers() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: DROP if isinstance(body, m.Write) else None
        pending = [asyncio.create_task(file.append(bytes([i]))) for i in range(50)]
        await until(lambda: sum(isinstance(b, m.Write) for b in node.seen) == 50)
        node.kill()
        offsets = await asyncio.gather(*pending)
        assert offsets == list(range(50))
        replayed = [b for b in rig.other_than(node).seen if isinstance(b, m.Write)]
        assert [b.op_sequence for b in replayed] == list(range(1, 51))
        assert {b.generation for b in replayed} == {2}
        assert isinstance(rig.other_than(node).seen[0], m.Reclaim)


async def test_node_killed_during_reclaim_makes_the_client_go_on_to_a_third() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        first = rig.node_of(share)
        await until(lambda: share.facts().warm_address)
        second = next(n for n in rig.nodes if n.address == share.facts().warm_address)
        second.script = lambda body: LOSE if isinstance(body, m.Reclaim) else None
        first.kill()
        pending = asyncio.create_task(file.pwrite(b"x", 0))
        await until(lambda: any(isinstance(b, m.Reclaim) for b in second.seen))
        second.kill()
        assert await pending == 1
        assert rig.node_of(share) not in (first, second)
        assert rig.volume.executed == [(file.remote.handle, 1)]


async def test_node_that_freezes_during_reclaim_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "RECLAIM_MS_MAX", 10**9)
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        first = rig.node_of(share)
        await until(lambda: share.facts().warm_address)
        second = share.facts().warm_address
        rig.hub.freeze(second)
        first.kill()
        assert await file.pwrite(b"x", 0) == 1
        assert rig.node_of(share).address not in (first.address, second)


@pytest.mark.parametrize("refusing", [0, 1, 2])
async def test_node_that_refuses_every_reclaim_is_passed_by(refusing: int) -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        first = rig.node_of(share)
        if rig.nodes[refusing] is first:
            refusing = (refusing + 1) % 3
        rig.nodes[refusing].script = lambda body: (
            Unavailable("not me") if isinstance(body, m.Reclaim) else None
        )
        first.kill()
        assert await file.pwrite(b"x", 0) == 1
        assert rig.node_of(share) not in (first, rig.nodes[refusing])


async def test_other_address_of_the_node_in_use_is_no_standby() -> None:
    async with rig_of() as rig:
        for node in rig.nodes:
            node.name = "one and the same"
        async with rig.connect() as share:
            tried = rig.other_than(rig.node_of(share))
            await until(lambda: len(tried.channels) >= 2)
            assert not share.facts().warm_address


async def test_client_waits_while_all_nodes_are_down_and_goes_on_with_the_first_back() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        for node in rig.nodes:
            node.kill()
        pending = asyncio.create_task(file.pwrite(b"x", 0))
        await until(lambda: not share.facts().address)
        await rig.nodes[1].start()
        assert await pending == 1
        assert rig.node_of(share) is rig.nodes[1]


async def test_only_the_handle_that_is_gone_fails() -> None:
    async with rig_of() as rig, rig.connect() as share:
        gone = await share.open("/gone", "w+b")
        kept = await share.open("/kept", "w+b")
        foreign = await share.open("/foreign", "w+b")
        rig.volume.drop_handle(rig.volume.handles[gone.remote.handle])
        rig.volume.handles[foreign.remote.handle].principal = "somebody else"
        rig.node_of(share).kill()
        assert await kept.pwrite(b"x", 0) == 1
        with pytest.raises(HandleLost):
            await gone.pwrite(b"x", 0)
        with pytest.raises(AccessDenied):
            await foreign.pread(1, 0)
        assert share.failovers()[0].handles_lost == 2
        assert share.facts().handles == 1
        await gone.close()  # That it is gone was told.


async def test_handle_that_the_server_closes_by_force_fails_at_once() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        other = await share.open("/b", "w+b")
        channel = next(c for c in rig.node_of(share).channels if c.alive)
        channel.notify(m.HandleClosed(file.remote.handle, "FILE_FORCED_CLOSED"))
        await until(lambda: file.remote.lost is not None)
        with pytest.raises(Exception, match="FILE_FORCED_CLOSED"):
            await file.pread(1, 0)
        await other.pwrite(b"x", 0)


async def test_write_past_its_deadline_is_unknown_and_can_be_settled_as_executed() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        rig.node_of(share).script = lambda body: LOSE if isinstance(body, m.Write) else None
        with pytest.raises(OutcomeUnknown) as caught:
            await file.append(b"abc", deadline_ms=100)
        settled = await share.settle(caught.value.token)
        assert settled.executed
        assert settled.offset == 0
        assert bytes(rig.volume.files["/a"].data) == b"abc"


async def test_write_settled_as_never_executed_cannot_land_late() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: DROP if isinstance(body, m.Write) else None
        with pytest.raises(OutcomeUnknown) as caught:
            await file.pwrite(b"abc", 0, deadline_ms=100)
        assert not (await share.settle(caught.value.token)).executed
        node.script = lambda body: None
        assert await file.pwrite(b"def", 0) == 3
        assert rig.volume.executed == [(file.remote.handle, 2)]


@pytest.mark.parametrize("refusal", [Corrupt, DiskFull])
@pytest.mark.parametrize("known", [True, False])
async def test_refused_copy_of_a_write_that_was_executed_is_no_definite_refusal(
    refusal: type[SofsError], known: bool
) -> None:
    """The second node refuses what comes before it has the file's token: a full disk or a damaged
    log keep that from it, and nobody else knows that the write was executed."""
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        first.script = lambda body: LOSE if isinstance(body, m.Write) else None
        kinds = m.Write if known else m.Write | m.Abandon
        refusals = [refusal("no"), refusal("no")]
        second.script = lambda body: (
            refusals.pop() if isinstance(body, kinds) and refusals else None
        )
        pending = asyncio.create_task(file.pwrite(b"abc", 0))
        await until(lambda: rig.volume.executed)
        first.kill()
        with pytest.raises(OutcomeUnknown, match="took" if known else "may have taken") as caught:
            await pending
        if known:
            assert (await share.settle(caught.value.token)).executed
        else:
            with pytest.raises(refusal):
                await share.settle(caught.value.token)
        assert rig.volume.executed == [(file.remote.handle, 1)]


async def test_refused_copy_of_a_write_that_was_not_executed_is_refused_for_ever() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        first.script = lambda body: DROP if isinstance(body, m.Write) else None
        second.script = lambda body: DiskFull("no") if isinstance(body, m.Write) else None
        pending = asyncio.create_task(file.pwrite(b"abc", 0))
        await until(lambda: any(isinstance(b, m.Write) for b in first.seen))
        first.kill()
        with pytest.raises(DiskFull):
            await pending
        assert [b.op_sequence for b in second.seen if isinstance(b, m.Abandon)] == [1]
        assert not rig.volume.executed


async def test_overlapping_operation_waits_until_the_unknown_one_is_settled() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: DROP if isinstance(body, m.Write | m.Abandon) else None
        with pytest.raises(OutcomeUnknown):
            await file.pwrite(b"abc", 0, deadline_ms=100)
        node.script = lambda body: DROP if isinstance(body, m.Abandon) else None
        apart = asyncio.create_task(file.pread(2, 3))
        overlapping = asyncio.create_task(file.pread(2, 1))
        beyond = asyncio.create_task(file.pread(2, 9))
        assert await apart == b""
        assert sum(isinstance(b, m.Read) for b in node.seen) == 1
        node.kill()  # The next node gets the Abandon again.
        assert await overlapping == await beyond == b""
        assert [type(b) for b in rig.other_than(node).seen][1:] == [m.Abandon, m.Read, m.Read]


async def test_operation_never_sent_exceeds_its_deadline_without_effect() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        for node in rig.nodes:
            node.kill()
        await until(lambda: not share.facts().address)
        with pytest.raises(DeadlineExceeded):
            await file.pwrite(b"x", 0, deadline_ms=100)
        await rig.nodes[0].start()
        await file.pwrite(b"y", 0)
        assert bytes(rig.volume.files["/a"].data) == b"y"


async def test_read_past_its_deadline_is_no_unknown_outcome() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        rig.node_of(share).script = lambda body: DROP if isinstance(body, m.Read) else None
        with pytest.raises(DeadlineExceeded):
            await file.pread(1, 0, deadline_ms=100)


async def test_cancelled_write_is_settled_and_later_writes_go_on() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: DROP if isinstance(body, m.Write) else None
        pending = asyncio.create_task(file.pwrite(b"abc", 0))
        await until(lambda: any(isinstance(b, m.Write) for b in node.seen))
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        node.script = lambda body: None
        await file.pwrite(b"def", 0)
        await until(lambda: any(isinstance(b, m.Abandon) for b in node.seen))
        assert bytes(rig.volume.files["/a"].data) == b"def"
        assert file.remote.numbers.acked_below == 3


async def test_cancelled_open_that_took_effect_leaves_no_handle() -> None:
    async with rig_of() as rig, rig.connect() as share:
        node = rig.node_of(share)
        node.script = lambda body: LOSE if isinstance(body, m.Open) else None
        pending = asyncio.create_task(share.open("/a", "wb"))
        await until(lambda: rig.volume.handles)
        node.script = lambda body: None
        pending.cancel()
        await until(lambda: not rig.volume.handles)
        assert not share.facts().handles


async def test_cancelled_lock_that_took_effect_is_released() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: LOSE if isinstance(body, m.Lock) else None
        pending = asyncio.create_task(file.lock(0, 10, wait=False))
        await until(lambda: rig.volume.files["/a"].locks)
        node.script = lambda body: None
        pending.cancel()
        await until(lambda: not rig.volume.files["/a"].locks)


async def test_cancelled_change_of_locks_that_took_effect_gives_back_what_it_took() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        await file.lock(50, 1)
        node = rig.node_of(share)
        node.script = lambda body: LOSE if isinstance(body, m.ChangeLocks) else None
        change = file.change_locks(
            drop=[m.LockRange(50, 1)], take=[m.LockRange(0, 10, True), m.LockRange(20, 5, False)]
        )
        pending = asyncio.create_task(change)
        await until(lambda: len(rig.volume.files["/a"].locks) == 2)
        node.script = lambda body: None
        pending.cancel()
        await until(lambda: not rig.volume.files["/a"].locks)


async def test_change_of_locks_whose_reply_was_lost_takes_effect_once() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: LOSE if isinstance(body, m.ChangeLocks) else None
        pending = asyncio.create_task(
            file.change_locks(take=[m.LockRange(0, 10, True)], beside="/b")
        )
        await until(lambda: rig.volume.files["/a"].locks)
        node.kill()
        seen = await pending
        assert (seen.size, seen.nothing_beside) == (0, True)
        assert len(rig.volume.files["/a"].locks) == 1
        with pytest.raises(LockNotGranted):
            await file.change_locks(
                drop=[m.LockRange(0, 10)],
                test=[m.LockRange(0, 1, True)] * 2,
                take=[m.LockRange(0, 9, True), m.LockRange(0, 9, True)],
            )
        assert await file.change_locks(drop=[m.LockRange(0, 10)]) == (None, b"", False)
        assert not rig.volume.files["/a"].locks


async def test_write_of_several_ranges_whose_reply_was_lost_takes_effect_once() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: LOSE if isinstance(body, m.WriteParts) else None
        parts = [(0, b"a" * 4096), (8192, b"b" * 4096)]
        pending = asyncio.create_task(file.pwrite_parts(parts))
        await until(lambda: rig.volume.executed)
        node.kill()
        assert await pending == 8192
        assert rig.volume.executed == [(file.remote.handle, 1)]
        assert await file.pread(3 * 4096, 0) == b"a" * 4096 + bytes(4096) + b"b" * 4096


async def test_lock_waits_until_the_other_handle_unlocks() -> None:
    async with rig_of() as rig, rig.connect() as share:
        one = await share.open("/a", "w+b")
        two = await share.open("/a", "r+b")
        await one.lock(0, 10)
        pending = asyncio.create_task(two.lock(5, 1))
        await until(lambda: sum(isinstance(b, m.Lock) for b in rig.node_of(share).seen) == 2)
        assert not pending.done()
        await one.unlock(0, 10)
        await pending


async def test_file_not_available_is_asked_again_until_it_is() -> None:
    async with rig_of() as rig, rig.connect() as share:
        refusals = [FileNotAvailable("gate"), FileNotAvailable("gate")]
        rig.node_of(share).script = lambda body: (
            refusals.pop() if isinstance(body, m.Open) and refusals else None
        )
        async with await share.open("/a", "wb"):
            pass
        assert not refusals
        assert not share.failovers()


async def test_refused_for_sure_until_the_deadline_is_no_unknown_outcome() -> None:
    async with rig_of() as rig, rig.connect() as share:
        rig.node_of(share).script = lambda body: (
            FileNotAvailable("gate") if isinstance(body, m.Open) else None
        )
        with pytest.raises(DeadlineExceeded, match="FILE_NOT_AVAILABLE"):
            await share.open("/a", "wb", deadline_ms=200)


@pytest.mark.parametrize("error", [StaleGeneration, Unavailable])
async def test_answer_that_wants_a_new_session_gets_one(error: type[Exception]) -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: error("go away") if isinstance(body, m.Write) else None
        assert await file.pwrite(b"x", 0) == 1
        assert rig.node_of(share) is not node
        assert share.failovers()[0].reason.startswith("refused")


async def test_operation_refused_by_every_session_does_not_spin() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        for node in rig.nodes:
            node.script = lambda body: (
                StaleGeneration("never") if isinstance(body, m.Write) else None
            )
        with pytest.raises(DeadlineExceeded):
            await file.pwrite(b"x", 0, deadline_ms=600)
        assert share.facts().sessions < 12


async def test_operation_refused_by_every_session_leaves_others_their_session() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        for node in rig.nodes:
            node.script = lambda body: (
                StaleGeneration("never") if isinstance(body, m.Write) else None
            )
        refused = asyncio.create_task(file.pwrite(b"x", 0, deadline_ms=400))
        while not refused.done():
            await share.exists("/a")
        with pytest.raises(DeadlineExceeded):
            await refused
        assert share.facts().sessions < 8


async def test_witness_notice_makes_the_client_leave_at_once() -> None:
    async with rig_of() as rig, rig.connect(witness=True) as share:
        file = await share.open("/a", "w+b")
        node, witness = rig.node_of(share), rig.other_than(rig.node_of(share))
        await witness.registered.wait()
        await until(lambda: witness._notify)
        rig.hub.freeze(node.address)
        witness.notify(m.Notification(1, 255, node.name, node.address))
        await until(lambda: rig.node_of(share) is witness if share.facts().address else False)
        assert await file.pwrite(b"x", 0) == 1
        assert share.failovers()[0].reason == "witness: node unavailable"
        rig.hub.thaw(node.address)


async def test_witness_is_not_on_the_node_in_use() -> None:
    async with rig_of() as rig, rig.connect(witness=True) as share:
        witness = rig.other_than(rig.node_of(share))
        await witness.registered.wait()
        [registration] = [b for b in witness.seen if isinstance(b, m.RegisterWitness)]
        assert registration.address == rig.node_of(share).address
        await until(lambda: share.facts().witness_address == witness.address)


async def test_planned_move_keeps_handles_and_goes_where_it_was_told() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        target = next(
            n.address
            for n in rig.nodes
            if n.address not in (share.facts().address, share.facts().warm_address)
        )
        await share.move(target)
        assert share.facts().address == target
        await file.pwrite(b"x", 0)


async def test_standby_is_restored_on_another_node_after_a_failover() -> None:
    async with rig_of(3) as rig, rig.connect() as share:
        await until(lambda: share.facts().warm_address)
        first = rig.node_of(share)
        first.kill()
        await share.exists("/a")
        await until(lambda: share.facts().warm_address)
        facts = share.facts()
        assert first.address not in (facts.address, facts.warm_address)
        assert facts.address != facts.warm_address


async def test_close_says_goodbye_and_later_calls_are_refused() -> None:
    async with rig_of() as rig:
        share = await rig.connect()
        file = await share.open("/a", "w+b")
        await share.close()
        await share.close()
        assert rig.volume.ended == [share.client_id]
        assert not rig.volume.handles
        with pytest.raises(Unavailable, match="closed"):
            await file.pwrite(b"x", 0)


async def test_client_closed_while_no_node_answers_ends_all_the_same() -> None:
    async with rig_of() as rig:
        share = await rig.connect()
        for node in rig.nodes:
            node.script = lambda body: DROP
        pending = asyncio.create_task(share.mkdir("/d"))
        await until(lambda: any(isinstance(b, m.Mkdir) for node in rig.nodes for b in node.seen))
        with pytest.raises(OutcomeUnknown, match="goodbye"):
            await share.close(timeout_ms=100)
        with pytest.raises(Unavailable):
            await pending


async def test_client_closed_while_every_node_is_down_ends_all_the_same() -> None:
    async with rig_of() as rig:
        share = await rig.connect()
        for node in rig.nodes:
            node.kill()
        await until(lambda: not share.facts().address)
        with pytest.raises(DeadlineExceeded):
            await share.close(timeout_ms=100)


async def test_connect_gives_up_with_a_reason_when_nobody_answers() -> None:
    async with rig_of() as rig:
        for node in rig.nodes:
            node.kill()
        with pytest.raises(DeadlineExceeded, match="is the cluster up"):
            await rig.connect(connect_timeout_ms=150)


async def test_connect_says_so_when_the_name_was_not_resolved_in_time() -> None:
    async with rig_of() as rig:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            url = f"sofs://files.example/share?dns=127.0.0.1:{deaf.getsockname()[1]}"
            with pytest.raises(DeadlineExceeded, match=r": no node set up .*not resolved"):
                await connect(url, transport=rig.hub.transport(), connect_timeout_ms=100)


async def test_reclaim_is_repeated_for_the_handles_that_are_not_ready_yet() -> None:
    async with rig_of() as rig, rig.connect() as share:
        ready = await share.open("/ready", "w+b")
        late = await share.open("/late", "w+b")
        first, second = rig.node_of(share), rig.other_than(rig.node_of(share))
        refusals = [FileNotAvailable("loading", retry_after_ms=1)]
        second.script = lambda body: (
            refusals.pop() if isinstance(body, m.Reclaim) and refusals else None
        )
        second.postponed[late.remote.handle] = 2
        first.kill()
        assert await late.pwrite(b"x", 0) == 1
        assert await ready.pwrite(b"x", 0) == 1
        asked = [len(b.handles) for b in second.seen if isinstance(b, m.Reclaim)]
        assert asked == [2, 2, 1, 1]
        assert len({b.caller.op_id for b in second.seen if isinstance(b, m.Reclaim)}) == 4


async def test_addresses_that_a_node_names_are_used_too() -> None:
    async with rig_of() as rig:
        one, two = rig.nodes
        one.hints = [one.address, two.address]
        url = f"sofs://{one.address}/v1"
        async with connect(url, transport=rig.hub.transport(), witness=False) as share:
            await share.mkdir("/d")
            one.kill()
            assert await share.exists("/d")
            assert share.facts().address == two.address


async def test_connect_passes_by_a_frozen_node() -> None:
    async with rig_of() as rig:
        rig.hub.freeze(rig.nodes[0].address)
        async with rig.connect() as share:
            assert share.facts().address == rig.nodes[1].address


async def test_close_that_was_given_up_goes_on_in_the_background() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "wb")
        node = rig.node_of(share)
        node.script = lambda body: DROP if isinstance(body, m.Close) else None
        with pytest.raises(OutcomeUnknown) as caught:
            await file.close(deadline_ms=100)
        assert rig.volume.handles
        node.kill()
        assert (await share.settle(caught.value.token)).executed
        assert not rig.volume.handles
        assert not share.facts().handles


async def test_close_waits_for_the_writes_of_the_handle() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "wb")
        node = rig.node_of(share)
        refusals = [FileNotAvailable("busy", retry_after_ms=50)]
        node.script = lambda body: (
            refusals.pop() if isinstance(body, m.Write) and refusals else None
        )
        writing = asyncio.create_task(file.pwrite(b"x", 0))
        await until(lambda: not refusals)
        await file.close()
        assert await writing == 1


async def test_outage_does_not_let_in_more_than_the_next_session_can_take() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        for node in rig.nodes:
            node.kill()
        await until(lambda: not share.facts().address)
        writes = [asyncio.create_task(file.pwrite(bytes(MIB), i * MIB)) for i in range(100)]
        await until(lambda: file.remote.waiting)
        assert share.core.flight._pending_bytes <= limits.FLIGHT_BYTES_MAX
        await rig.nodes[0].start()
        assert await asyncio.gather(*writes) == [MIB] * 100
        assert share.facts().sessions == 2


async def test_lock_that_is_not_granted_says_so_at_once_or_after_the_wait() -> None:
    async with rig_of() as rig, rig.connect() as share:
        one = await share.open("/a", "w+b")
        two = await share.open("/a", "r+b")
        await one.lock(0, 10)
        with pytest.raises(LockNotGranted):
            await two.lock(0, 1, wait=False)
        with pytest.raises(LockNotGranted):
            await two.lock(0, 1, wait_ms=30)
        await two.lock(10, 1, wait=False)


async def test_token_of_a_closed_client_cannot_be_settled_and_does_not_hang() -> None:
    async with rig_of() as rig:
        share = await rig.connect()
        file = await share.open("/a", "w+b")
        rig.node_of(share).script = lambda body: (
            DROP if isinstance(body, m.Write | m.Abandon) else None
        )
        with pytest.raises(OutcomeUnknown) as caught:
            await file.pwrite(b"x", 0, deadline_ms=60)
        await share.close()
        with pytest.raises(Unavailable, match="closed"):
            await share.settle(caught.value.token)


async def test_bug_in_the_client_ends_it_loudly() -> None:
    heard: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    async with rig_of() as rig:
        share = await rig.connect()
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: DROP if isinstance(body, m.Write) else None
        pending = asyncio.create_task(file.pwrite(b"x", 0))
        await until(lambda: any(isinstance(b, m.Write) for b in node.seen))
        share.core.flight.lose = None  # type: ignore[assignment, method-assign]
        channel = next(c for c in node.channels if c.alive)
        channel.notify(m.HandleClosed(file.remote.handle, "FILE_FORCED_CLOSED"))
        with pytest.raises(Unavailable, match="internal error"):
            await pending
        with pytest.raises(Unavailable, match="internal error"):
            await share.stat("/")
        await share.close()
    assert heard


async def test_error_in_a_with_block_is_not_hidden_by_a_failing_goodbye(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "GOODBYE_MS_MAX", 50)
    async with rig_of() as rig:
        with pytest.raises(KeyError) as caught:  # noqa: PT012
            async with rig.connect() as share, await share.open("/a", "wb"):
                for node in rig.nodes:
                    node.kill()
                raise KeyError("the application's own")
        assert any("failed too" in note for note in caught.value.__notes__)


async def test_buffer_that_changes_while_its_write_waits_is_sent_as_it_was() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        node = rig.node_of(share)
        node.script = lambda body: DROP if isinstance(body, m.Write) else None
        buffer = bytearray(b"before")
        pending = asyncio.create_task(file.pwrite(buffer, 0))
        await until(lambda: any(isinstance(b, m.Write) for b in node.seen))
        buffer[:] = b"after!"
        node.kill()
        await pending
        assert await file.pread(9, 0) == b"before"


async def test_pieces_of_an_append_stay_in_order_when_one_is_refused() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        refusals = [FileNotAvailable("busy"), FileNotAvailable("busy")]
        rig.node_of(share).script = lambda body: (
            refusals.pop() if isinstance(body, m.Write) and refusals else None
        )
        data = b"a" * MIB + b"b" * MIB + b"c"
        assert await file.append(data) == 0
        assert await file.pread(3 * MIB, 0) == data


async def test_large_read_ends_at_the_first_short_piece() -> None:
    async with rig_of() as rig, rig.connect() as share:
        file = await share.open("/a", "w+b")
        await file.pwrite(b"x" * 10, 0)

        def grow(body: m.Message) -> None:
            if isinstance(body, m.Read) and body.offset == MIB:
                rig.volume.files["/a"].data.extend(bytes(2 * MIB))

        rig.node_of(share).script = grow
        assert await file.pread(2 * MIB, 0) == b"x" * 10
