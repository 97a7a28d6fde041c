"""Several nodes and one file: tokens bounce, locks reach everybody, handles move, logs are
sealed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_world import KIB, World, refused, world

from sofs.core import messages as m
from sofs.errors import DiskFull, SofsError, Unavailable
from sofs.services.authority import service
from sofs.services.channel import result_of
from sofs.services.node import link as link_module
from sofs.storage import LogOptions, SystemClock, ThreadBlocking, open_fenced

PAGE = 4 * KIB
SMALL = LogOptions(first_bytes=256 * KIB, segment_bytes=512 * KIB)

steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1), st.integers(0, 30_000), st.integers(1, 9_000)),
    st.tuples(st.just("append"), st.integers(0, 1), st.just(0), st.integers(1, 5_000)),
    st.tuples(st.just("cut"), st.integers(0, 1), st.integers(0, 40_000), st.just(0)),
    st.tuples(st.just("read"), st.integers(0, 1), st.integers(0, 40_000), st.integers(1, 40_000)),
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(st.lists(steps, min_size=3, max_size=40))
def test_two_nodes_in_turns_agree_with_one_byte_array(
    script: list[tuple[str, int, int, int]],
) -> None:
    async def run(root: Path) -> None:
        async with world(root, "a", "b", options=SMALL) as w:
            files = [
                await (await w.client("one", "a")).open(),
                await (await w.client("two", "b")).open(),
            ]
            model = bytearray()
            for number, (kind, who, offset, length) in enumerate(script):
                file = files[who]
                data = random.Random(number).randbytes(length)
                if kind == "cut":
                    await file.truncate(offset)
                    model = model[:offset].ljust(offset, b"\0")
                elif kind == "read":
                    assert await file.read(offset, length) == model[offset : offset + length]
                    assert file.size == len(model)
                else:
                    if kind == "append":
                        offset = await file.append(data)
                        assert offset == len(model)
                    else:
                        await file.write(offset, data)
                    if offset > len(model):
                        model.extend(bytes(offset - len(model)))
                    model[offset : offset + length] = data
            for file in files:
                assert (await file.stat()).size == len(model)
                assert await file.read(0, 100_000) == model

    with TemporaryDirectory() as root:
        asyncio.run(run(Path(root)))


async def test_nodes_that_write_one_file_at_once_lose_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        files = [
            await (await w.client("one", "a")).open(),
            await (await w.client("two", "b")).open(),
        ]

        async def work(who: int) -> list[int]:
            offsets = []
            for i in range(40):
                offsets.append(await files[who].append(b"%d:%04d;" % (who, i)))
            return offsets

        results = await asyncio.gather(work(0), work(1))
        whole = await files[0].read(0, 100_000)
        assert len(whole) == 80 * 7
        for who, offsets in enumerate(results):
            for i, offset in enumerate(offsets):
                assert whole[offset : offset + 7] == b"%d:%04d;" % (who, i)
        assert await files[1].read(0, 100_000) == whole


async def test_a_recall_waits_for_admitted_writes_and_later_ones_wait_for_the_token(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a", "b") as w:
        one, two = await w.client("one", "a"), await w.client("two", "b")
        first, second = await one.open(), await two.open()
        before = [first.begin_write(i * PAGE, b"1" * PAGE) for i in range(64)]
        other = asyncio.ensure_future(second.write(0, b"2"))
        await other
        assert await second.read(63 * PAGE, PAGE) == b"1" * PAGE
        for future in before:
            assert isinstance(result_of(await future)[0], m.WriteReply)
        assert await first.write(1, b"1") == 1
        assert (await second.read(0, 3)) == b"211"
        node = w.nodes["a"].node
        assert node is not None
        assert not node.table.files[first.info.ino].quiescent or node.commits.applied_sequence


async def test_readers_on_two_nodes_share_and_a_writer_ends_that(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        one, two = await w.client("one", "a"), await w.client("two", "b")
        writer = await one.open()
        await writer.write(0, b"old")
        readers = [
            await client.open(access=m.Access.READ, disposition=m.Disposition.OPEN)
            for client in (one, two)
        ]
        assert [await reader.read(0, 9) for reader in readers] == [b"old", b"old"]
        calls = [w.nodes[name].node.link.calls for name in "ab"]  # type: ignore[union-attr]
        for _ in range(20):
            assert await readers[1].read(0, 9) == b"old"
        assert [w.nodes[name].node.link.calls for name in "ab"] == calls  # type: ignore[union-attr]
        await writer.write(0, b"new")
        assert [await reader.read(0, 9) for reader in readers] == [b"new", b"new"]


async def test_a_stat_elsewhere_asks_the_holder(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        file = await (await w.client("one", "a")).open()
        other = await w.client("two", "b")
        for size in (1, 500, 9_000):
            await file.write(0, bytes(size))
            reply = await other.call(m.Stat(path="/file"))
            assert reply.info.size == size


async def test_who_opens_is_told_the_size_that_the_holder_knows(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        holder, other = await w.client("one", "a"), await w.client("two", "b")
        file = await holder.open()
        for size in (500, 9_000):
            await file.write(0, bytes(size))
            for client in (holder, other):
                assert (await client.open()).info.size == size


async def test_who_sets_attributes_is_told_the_size_that_the_holder_knows(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        holder, other = await w.client("one", "a"), await w.client("two", "b")
        file = await holder.open()
        await file.write(0, bytes(500))
        for client in (holder, other):
            reply = await client.call(
                m.SetInfo(caller=client.caller(), path="/file", set_attributes=True, attributes=2)
            )
            assert (reply.info.size, reply.info.attributes) == (500, 2)


# Locks
# ------------------------------------------------------------------------------------------


async def test_locks_bind_readers_and_writers_of_both_nodes(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        one, two = await w.client("one", "a"), await w.client("two", "b")
        mine, beside, away = await one.open(), await one.open(), await two.open()
        await mine.write(0, bytes(300))
        await away.read(0, 10)
        await mine.lock(100, 100)
        for other in (beside, away):
            assert await refused(other.write(150, b"x")) == "FILE_LOCK_CONFLICT"
            assert await refused(other.read(150, 1)) == "FILE_LOCK_CONFLICT"
            assert await other.read(0, 100) == bytes(100)
            assert await refused(other.lock(199, 5)) == "LOCK_NOT_GRANTED"
        await mine.write(150, b"mine")
        assert await mine.read(150, 4) == b"mine"
        await mine.unlock(100, 100)
        await away.write(150, b"away")
        await beside.write(154, b"!")
        assert await mine.read(150, 5) == b"away!"


async def test_a_shared_lock_stops_its_owners_writes_too(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        file = await (await w.client()).open()
        await file.write(0, b"data")
        await file.lock(0, 4, exclusive=False)
        assert await refused(file.write(0, b"x")) == "FILE_LOCK_CONFLICT"
        assert await file.read(0, 4) == b"data"
        await file.unlock(0, 4)
        await file.write(0, b"x")


async def test_a_lock_that_waits_is_granted_at_the_unlock(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        one = await (await w.client("one", "a")).open()
        two = await (await w.client("two", "b")).open()
        await one.lock(0, 10)
        waiting = asyncio.ensure_future(two.lock(5, 10, wait_ms=20_000))
        await one.write(0, b"0123456789")
        await one.unlock(0, 10)
        await waiting
        assert await two.read(0, 10) == b"0123456789"
        assert await refused(one.write(7, b"x")) == "FILE_LOCK_CONFLICT"


# Truncate
# ---------------------------------------------------------------------------------------


async def test_a_truncate_orders_against_the_writes_around_it(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        futures = [file.begin_write(0, b"A" * 3 * PAGE)]
        futures.append(client.send(m.Truncate(client.caller(), file.handle, file.generation, 100)))
        futures.append(file.begin_write(200, b"B"))
        for future in futures:
            result_of(await future)
        assert await file.read(0, 10_000) == b"A" * 100 + bytes(100) + b"B"
        await file.truncate(PAGE + 50)
        assert await file.read(0, 10_000) == (
            b"A" * 100 + bytes(100) + b"B" + bytes(PAGE + 50 - 201)
        )


async def test_on_a_full_disk_a_file_can_be_cut_at_a_page(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        file = await (await w.client()).open()
        await file.write(0, b"A" * 3 * PAGE)
        life = w.nodes["a"].node
        assert life is not None

        async def full(n_bytes: int) -> None:
            raise DiskFull("no space left")

        life.log.room = full  # type: ignore[method-assign]
        with pytest.raises(DiskFull, match="multiple of 4096"):
            await file.truncate(PAGE + 50)
        assert await file.read(0, 4 * PAGE) == b"A" * 3 * PAGE
        await file.truncate(PAGE)
        assert await file.read(0, 4 * PAGE) == b"A" * PAGE


async def test_a_copy_of_an_old_truncate_leaves_what_was_written_since(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        client, other = await w.client("one", "a"), await w.client("two", "b")
        file, rival = await client.open(), await other.open()
        await file.write(0, b"first")
        body = m.Truncate(client.caller(), file.handle, file.generation, 0)
        await client.call(body)
        await rival.write(0, b"second")
        reply = await client.call(body)
        assert reply.info.size == 0, "its first answer"
        assert await file.read(0, 100) == b"second"
        assert await rival.read(0, 100) == b"second"


# Handles that move
# ------------------------------------------------------------------------------


async def test_a_handle_reclaimed_elsewhere_leaves_its_node_drained(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        client = await w.client("one", "a")
        file = await client.open()
        futures = [file.begin_write(i * PAGE, b"%05d" % i) for i in range(50)]
        await asyncio.wait(futures[:1])
        moved_client = await w.client("one", "b", like=client)
        moved = await file.reclaim(moved_client)
        assert moved.generation > file.generation
        assert await refused(file.write(0, b"stale")) in ("STALE_GENERATION", "UNAVAILABLE")
        for op, future in enumerate(futures, 1):
            with contextlib.suppress(SofsError):  # Else the old node let go of it first.
                result_of(await future)
            offset = (op - 1) * PAGE
            assert await moved.write(offset, b"%05d" % (op - 1), op=op) == offset
        for i in range(50):
            assert await moved.read(i * PAGE, 5) == b"%05d" % i


async def test_a_lost_session_fences_the_file_until_its_client_reclaims(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client, other = await w.client("one"), await w.client("two")
        file = await client.open()
        write = file.begin_write(0, b"on its way")
        result_of(await write)
        await client.close()
        node = w.nodes["a"].node
        assert node is not None
        await w.until("the handle is forgotten", lambda: not node.table.handles)
        assert await refused(other.open()) == "FILE_NOT_AVAILABLE"
        again = await w.client("one", like=client)
        back = await file.reclaim(again)
        assert await back.write(0, b"on its way", op=1) == 0
        assert await back.append(b"!", op=2) == 10
        shared = await other.open()
        assert await shared.read(0, 100) == b"on its way!"


async def test_a_newer_session_of_a_client_replaces_the_older_one(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client("one")
        file = await client.open()
        copies = [client.send(file.write_message(0, append=True, op=1), b"once")]
        newer = await w.client("one", like=client)
        back = await file.reclaim(newer)  # The first request: a Hello alone replaces nothing.
        assert client.channel is not None
        await asyncio.wait_for(asyncio.shield(client.channel.ended), 5)
        await asyncio.wait(copies)
        assert await back.append(b"once", op=1) == 0
        assert await back.read(0, 100) == b"once"


async def test_a_goodbye_closes_everything(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client, other = await w.client("one"), await w.client("two")
        file = await client.open(share=m.Share.NONE)
        await file.write(0, b"bye")
        assert await refused(other.open()) == "SHARING_VIOLATION"
        assert isinstance(await client.call(m.EndClient(client.caller())), m.Done)
        found = await other.open()
        assert await found.read(0, 10) == b"bye"
        assert await refused(file.write(0, b"x")) == "FILE_CLOSED"
        assert not client.pushed


async def test_a_forced_close_is_pushed_to_the_client(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        older, newer = await w.client("one", "a"), await w.client("two", "b")
        file = await older.open(app_instance=b"i" * 16)
        await file.write(0, b"older")
        taken = await newer.open(app_instance=b"i" * 16)
        assert await taken.read(0, 10) == b"older"
        await w.until("the push", lambda: older.pushed)
        assert older.pushed == [m.HandleClosed(file.handle, "FILE_FORCED_CLOSED")]
        assert await refused(file.write(0, b"x")) == "FILE_FORCED_CLOSED"


# Sealed logs and other ends
# ---------------------------------------------------------------------


async def test_a_sealed_node_acknowledges_and_serves_nothing_and_begins_a_new_life(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client("one")
        file = await client.open()
        await file.write(0, b"before")
        node = w.nodes["a"].node
        assert node is not None
        await w.seal(node)
        read = client.send(m.Read(file.handle, file.generation, 0, 10))
        write = file.begin_write(0, b"after!")
        for future in (read, write):
            assert await refused(asyncio.wait_for(future, 10)) == "UNAVAILABLE"
        await w.until("a new life", lambda: w.nodes["a"].node not in (None, node))
        assert w.nodes["a"].lives == 2
        again = await w.client("one", like=client)
        assert again.hello.incarnation != node.incarnation
        back = await asyncio.wait_for(file.reclaim(again), 10)
        assert await back.read(0, 10) in (b"before", b"after!"), "unanswered: whole or not at all"
        assert await back.write(0, b"after!", op=2) == 0
        assert await back.read(0, 10) == b"after!"


class GatedBlocking(ThreadBlocking):
    """Stops a log's lane between its sync and its check while ``hold`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = False
        self.held = asyncio.Event()
        self.go = asyncio.Event()

    async def run(
        self, lane: str, *steps: Callable[[], object], brief: bool = False
    ) -> list[object]:
        if not (self.hold and lane.startswith("log/node-") and len(steps) == 3):
            return await super().run(lane, *steps)
        done = await super().run(lane, *steps[:2])
        self.held.set()
        await self.go.wait()
        return done + await super().run(lane, steps[2])


async def test_a_claim_between_sync_and_check_takes_the_answer_but_not_the_write(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "b") as w:
        gated = GatedBlocking()
        await w.node("a", open_fenced(w.store, w.clock, w.entropy, gated))
        client = await w.client("one", "a")
        file = await client.open()
        assert await file.append(b"first") == 0
        node = w.nodes["a"].node
        assert node is not None
        gated.hold = True
        append = client.send(file.write_message(0, append=True, op=2), b"second")
        await gated.held.wait()
        await w.seal(node)
        gated.hold = False
        gated.go.set()
        assert await refused(append) == "UNAVAILABLE"
        moved = await file.reclaim(await w.client("one", "b", like=client))
        rival = await (await w.client("two", "b")).open()
        await rival.write(5, b"SECOND")
        assert await moved.append(b"second", op=2) == 5, "its first answer, from the sealed log"
        assert await moved.read(0, 100) == b"firstSECOND"
        await w.until("a new life", lambda: w.nodes["a"].node not in (None, node))
        await w.kill_node("a")
        gated.close()


async def test_a_dead_node_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        client = await w.client("one", "a")
        file = await client.open()
        futures = [file.begin_write(i * 1000, b"%04d" % i) for i in range(200)]
        await asyncio.wait(futures[:100])
        await w.kill_node("a")
        acknowledged = []
        for i, future in enumerate(futures):
            try:
                result_of(await future)
            except Unavailable:
                continue
            acknowledged.append(i)
        assert len(acknowledged) >= 100
        moved = await asyncio.wait_for(file.reclaim(await w.client("one", "b", like=client)), 10)
        for i in acknowledged:
            assert await moved.read(i * 1000, 4) == b"%04d" % i
        for i in range(200):
            await moved.write(i * 1000, b"%04d" % i, op=i + 1)
        for i in range(200):
            assert await moved.read(i * 1000, 4) == b"%04d" % i


async def test_direct_writes_go_on_while_the_authority_is_away(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        client = await w.client("one", "a")
        file = await client.open()
        await file.write(0, b"0")
        await w.kill_authority()
        for i in range(20):
            await file.write(i, b"%d" % (i % 10))
        opening = asyncio.ensure_future(client.open("/other"))
        stat = asyncio.ensure_future(file.stat())
        assert await file.read(0, 100) == b"01234567890123456789"
        assert not opening.done()
        await w.authority("resume-key")
        assert (await stat).size == 20
        await opening
        other = await (await w.client("two", "b")).open()
        assert await other.read(0, 100) == b"01234567890123456789"
        assert w.nodes["a"].lives == 1


async def test_calls_pend_while_an_authority_loads_and_are_refused_after_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "LOADING_TOLD_EVERY_MS", 1)
    async with world(tmp_path, "a") as w:
        client = await w.client("one", "a")
        file = await client.open()
        await file.write(0, b"0")
        await w.kill_authority()
        part = w.make_authority("resume-key")
        recovery = part._env.recovery
        loaded, asked = asyncio.Event(), asyncio.Event()
        replay = recovery.replay

        async def held(*args: Any, **more: Any) -> Any:
            asked.set()
            await loaded.wait()
            return await replay(*args, **more)

        monkeypatch.setattr(recovery, "replay", held)
        await part.start("resume-key:0")
        await asked.wait()
        node = w.nodes["a"].node
        assert node is not None
        link = node.link
        await w.until("the link knows", lambda: link._loading_since_ms is not None)
        await w.until("the step is told", lambda: "read of the checkpoint" in caplog.text)
        early = asyncio.ensure_future(client.open("/other"))
        commit = asyncio.ensure_future(link.call(lambda: m.CommitRecords(m.Commit()), own=True))
        await file.write(1, b"1")  # Direct I/O goes on.
        assert not early.done()
        monkeypatch.setattr(link_module, "LOADING_MS_MAX", 0)
        assert await refused(early) == "FILE_NOT_AVAILABLE"
        assert await refused(client.open("/other")) == "FILE_NOT_AVAILABLE"
        assert await file.read(0, 9) == b"01"
        assert not commit.done()
        loaded.set()
        await commit
        assert link._loading_since_ms is None
        await client.open("/other")
        assert w.nodes["a"].lives == 1


class LateClock(SystemClock):
    """The machine's clock, put forward by hand."""

    ahead_ms = 0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.ahead_ms


async def test_a_call_pends_for_three_seconds_of_loading_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client("one", "a")
        await client.open("/before")
        await w.kill_authority()
        part = w.make_authority("resume-key")
        recovery, loaded = part._env.recovery, asyncio.Event()
        replay = recovery.replay

        async def held(*args: Any, **more: Any) -> Any:
            await loaded.wait()
            return await replay(*args, **more)

        monkeypatch.setattr(recovery, "replay", held)
        node = w.nodes["a"].node
        assert node is not None
        link, clock = node.link, LateClock()
        monkeypatch.setattr(link, "_clock", clock)
        await part.start("resume-key:0")
        await w.until("the link knows", lambda: link._loading_since_ms is not None)
        pending = asyncio.ensure_future(client.open("/other"))
        looks, real = 0, link._loads_too_long

        def looked() -> bool:
            nonlocal looks
            looks += 1
            return real()

        monkeypatch.setattr(link, "_loads_too_long", looked)
        clock.ahead_ms = 2_000  # The machine would have to lose a second here to make this late.
        await w.until("the link has looked", lambda: looks >= 3)
        assert not pending.done()
        clock.ahead_ms = 3_000
        assert await refused(pending) == "FILE_NOT_AVAILABLE"
        loaded.set()
        await w.until("the authority serves", lambda: link.connected)
        await client.open("/other")


async def test_a_call_that_was_sent_keeps_waiting_while_the_next_authority_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "LOADING_MS_MAX", 0)
    async with world(tmp_path, "a") as w:
        client = await w.client("one", "a")
        await client.open("/before")
        active = w.authorities["coordinator"].active
        assert active is not None
        stuck = asyncio.Event()

        async def never() -> None:
            stuck.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(active.group, "settled", never)
        opening = asyncio.ensure_future(client.open("/sent"))
        await stuck.wait()
        await w.kill_authority()
        part = w.make_authority("resume-key")
        recovery = part._env.recovery
        loaded = asyncio.Event()
        replay = recovery.replay

        async def held(*args: Any, **more: Any) -> Any:
            await loaded.wait()
            return await replay(*args, **more)

        monkeypatch.setattr(recovery, "replay", held)
        await part.start("resume-key:0")
        assert await refused(client.call(m.Stat(path="/"))) == "FILE_NOT_AVAILABLE"
        assert not opening.done()
        loaded.set()
        await opening


async def test_writes_wait_when_the_authority_is_too_far_behind(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client("one", "a")
        file = await client.open()
        await w.kill_authority()
        await file.write(0, b"early")
        node = w.nodes["a"].node
        assert node is not None
        await w.until("the limit of age", lambda: node.writes.full())
        late = file.begin_write(5, b"late")
        assert await file.read(0, 100) == b"early"
        assert not late.done()
        await w.authority("resume-key")
        result_of(await asyncio.wait_for(late, 10))
        assert await file.read(0, 100) == b"earlylate"


async def test_lives_that_end_quickly_end_the_process_after_a_bounded_number(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "a") as w:
        part = w.nodes["a"]
        ended: list[object] = [None]
        for _ in range(20):
            if part.node is not None:
                ended.append(part.node)
                part.node.end(Unavailable("a test ends it"))
            await w.until("the next life or the exit", lambda: w.exits or part.node not in ended)
            if w.exits:
                break
        assert w.exits
        assert part.lives <= 9


async def test_a_session_beyond_its_limits_is_refused_and_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client("one", "a")
        file = await client.open()
        burst = [file.begin_write(0, b"x") for _ in range(1100)]
        codes: dict[str, int] = {}
        for future in burst:
            body = (await future).body
            code = body.code if isinstance(body, m.Failure) else ""
            codes[code] = codes.get(code, 0) + 1
        assert codes[""] >= 1024
        assert set(codes) <= {"", "LIMIT_EXCEEDED"}
        assert await file.read(0, 9) == b"x"


async def test_a_stream_must_say_who_it_is_and_mean_this_share(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client("one", "a")
        client.hello.incarnation = b""
        for hello, code in (
            (m.Hello(1, client=b"x" * 16, share="other"), "BAD_NETWORK_NAME"),
            (m.Hello(1, client=b"short", share="vol"), "PROTOCOL_ERROR"),
            (m.Hello(99, client=b"x" * 16, share="vol"), "PROTOCOL_VERSION"),
            (m.Hello(1, client=b"x" * 16, share="vol", target=b"y" * 16), "WRONG_INCARNATION"),
            (m.Stat(path="/"), "PROTOCOL_ERROR"),
            (m.Read(1, 1, 0, 1), "PROTOCOL_ERROR"),
        ):
            stream = await w.hub.connect("a:1", "file")
            assert await first_answer(w, stream, hello) == code


async def first_answer(w: World, stream, body: m.Message) -> str:  # type: ignore[no-untyped-def]
    from sofs.ports.stream import Envelope

    await stream.send([Envelope(1, False, body)])
    [reply] = await stream.receive()
    stream.close()
    return getattr(reply.body, "code", "")
