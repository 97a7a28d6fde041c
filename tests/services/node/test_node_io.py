"""Reads and writes through one node, against a model, with a real authority and store."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from node_world import KIB, refused, world

from sofs.constants import READ_BYTES_MAX, WRITE_BYTES_MAX
from sofs.core import messages as m
from sofs.services.channel import result_of

PAGE = 4 * KIB


def pattern(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


async def test_what_was_written_is_read_back_in_every_alignment(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        model = bytearray()
        rng = random.Random(7)
        sizes = [1, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 5 * PAGE + 17, 70_000]
        for round_ in range(60):
            offset = rng.choice([0, 1, 10, PAGE - 1, PAGE, 2 * PAGE + 5, len(model), 90_000])
            data = pattern(round_, rng.choice(sizes))
            if rng.random() < 0.25:
                offset = await file.append(data)
                assert offset == len(model)
            else:
                await file.write(offset, data)
            if offset > len(model):
                model.extend(bytes(offset - len(model)))
            model[offset : offset + len(data)] = data
            if rng.random() < 0.15:
                cut = rng.randrange(len(model) + 1)
                reply = await file.truncate(cut)
                assert reply.info.size == cut
                del model[cut:]
            start = rng.randrange(len(model) + 1)
            assert await file.read(start, 8 * PAGE) == model[start : start + 8 * PAGE]
            assert file.size == len(model)
        assert await file.read(0, READ_BYTES_MAX) == model
        assert (await file.stat()).size == len(model)
        await file.close()
        again = await client.open(disposition=m.Disposition.OPEN)
        assert again.info.size == len(model)
        assert await again.read(0, READ_BYTES_MAX) == model


async def test_pipelined_unaligned_writes_see_each_other(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        model = bytearray(20_000)
        futures = []
        rng = random.Random(3)
        for round_ in range(200):
            offset, data = rng.randrange(19_000), pattern(round_, rng.randrange(1, 1000))
            futures.append(file.begin_write(offset, data))
            model[offset : offset + len(data)] = data
        for future in futures:
            result_of(await future)
        found = await file.read(0, 20_000)
        assert found == model[: len(found)]
        assert not any(model[len(found) :])


async def test_appends_land_one_after_another_and_say_where(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client, other = await w.client(), await w.client("two")
        first, second = await client.open(), await other.open()
        offsets = await asyncio.gather(
            *(file.append(b"%04d" % i) for i in range(50) for file in (first, second))
        )
        assert sorted(offsets) == [4 * i for i in range(100)]
        whole = await first.read(0, 400)
        for offset, i in zip(offsets, (i for i in range(50) for _ in (0, 1)), strict=True):
            assert whole[offset : offset + 4] == b"%04d" % i


async def test_a_one_mebibyte_write_is_one_record(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        data = pattern(1, WRITE_BYTES_MAX)
        await file.write(100, data)
        node = w.nodes["a"].node
        assert node is not None
        assert node.log.counters()["records"] == 1
        assert await file.read(0, READ_BYTES_MAX) == bytes(100) + data


async def test_the_same_operation_twice_takes_effect_once(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client, other = await w.client(), await w.client("two")
        file, rival = await client.open(), await other.open()
        assert await file.write(0, b"first", op=1) == 0
        assert await rival.write(0, b"newer") == 0
        assert await file.write(0, b"first", op=1) == 0, "answered from the window"
        assert await file.read(0, 10) == b"newer"
        offset = await file.append(b"tail", op=2)
        assert await file.append(b"tail", op=2) == offset
        assert await file.read(0, 100) == b"newertail"


async def test_a_copy_of_an_operation_in_flight_shares_its_outcome(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        await file.append(b"0")
        copies = [client.send(file.write_message(0, append=True, op=9), b"xyz") for _ in range(4)]
        replies = [result_of(await copy)[0] for copy in copies]
        assert replies == [m.WriteReply(1)] * 4
        assert await file.read(0, 100) == b"0xyz"


async def test_an_abandoned_operation_never_happens(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        await file.write(0, b"kept", op=1)

        def abandon(op: int) -> m.Abandon:
            return m.Abandon(handle=file.handle, generation=file.generation, op_sequence=op)

        assert await client.call(abandon(1)) == m.AbandonReply(True, 0)
        assert await client.call(abandon(2)) == m.AbandonReply(False)
        assert await refused(file.write(0, b"late", op=2)) == "ABANDONED"
        assert await client.call(abandon(2)) == m.AbandonReply(False)
        write = client.send(file.write_message(0, op=3), b"race")
        settle = client.send(abandon(3))
        assert result_of(await write)[0] == m.WriteReply(0)
        assert result_of(await settle)[0] == m.AbandonReply(True, 0)
        assert await file.read(0, 10) == b"race"


async def test_what_no_write_may_be_is_refused_by_name(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        reader = await client.open(access=m.Access.READ)
        appender = await client.open(access=m.Access.APPEND)
        too_long = bytes(WRITE_BYTES_MAX + 1)
        assert await refused(file.write(0, too_long)) == "MESSAGE_TOO_LARGE"
        assert await refused(file.write(2**63, b"x")) == "INVALID_PARAMETER"
        assert await refused(file.read(0, READ_BYTES_MAX + 1)) == "MESSAGE_TOO_LARGE"
        assert await refused(reader.write(0, b"x")) == "ACCESS_DENIED"
        assert await refused(appender.write(0, b"x")) == "ACCESS_DENIED"
        assert await refused(appender.read(0, 1)) == "ACCESS_DENIED"
        assert await appender.append(b"ok") == 0
        assert await refused(file.write(0, b"x", op=5000)) == "LIMIT_EXCEEDED"
        file.generation += 1
        assert await refused(file.write(0, b"x")) == "STALE_GENERATION"
        assert await refused(file.read(0, 1)) == "STALE_GENERATION"
        await reader.close()
        assert await refused(reader.read(0, 1)) == "FILE_CLOSED"
        file.handle += 1000
        assert await refused(file.write(0, b"x")) == "FILE_CLOSED"


async def test_a_close_waits_for_earlier_writes_and_takes_no_later_ones(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        writes = [file.begin_write(i * 10, b"0123456789") for i in range(100)]
        close = client.send(m.Close(client.caller(), file.handle, file.generation))
        late = file.begin_write(0, b"late")
        assert [type(result_of(await write)[0]) for write in writes] == [m.WriteReply] * 100
        reply = result_of(await close)[0]
        assert isinstance(reply, m.InfoReply)
        assert reply.info.size == 1000
        assert (await late).body.code == "FILE_CLOSED"  # type: ignore[attr-defined]
        again = await client.open()
        assert await again.read(0, 2000) == b"0123456789" * 100


async def test_whole_files_are_written_and_read_in_one_call_each(tmp_path: Path) -> None:
    async with world(tmp_path, "a", "b") as w:
        client, other = await w.client(), await w.client("two", "b")
        for length in (0, 5, PAGE, 3 * PAGE + 1, WRITE_BYTES_MAX):
            data = pattern(length, length)
            body = m.WriteFile(client.caller(), f"/f{length}", m.Disposition.CREATE)
            reply = await client.call(body, data)
            assert reply.info.size == length
            for reader in (client, other):
                envelope = await reader.send(m.ReadFile(f"/f{length}", 2, 2 * WRITE_BYTES_MAX))
                assert result_of(envelope)[1] == data[2:]
        file = await client.open("/f5")
        await file.write(3, b"NEW")
        envelope = await client.send(m.ReadFile("/f5", 0, 100))
        assert result_of(envelope)[1] == pattern(5, 5)[:3] + b"NEW"
        envelope = await other.send(m.ReadFile("/f5", 0, 100))
        assert result_of(envelope)[1] == pattern(5, 5)[:3] + b"NEW"
        too_long = client.call(m.WriteFile(client.caller(), "/x", 2), bytes(WRITE_BYTES_MAX + 1))
        assert await refused(too_long) == "MESSAGE_TOO_LARGE"


async def test_ten_thousand_direct_writes_cause_at_most_twenty_messages(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        await file.write(0, b"x")
        node = w.nodes["a"].node
        assert node is not None
        before, checks = node.link.calls, node.log.counters()
        assert client.channel is not None
        for _ in range(20):
            replies = [file.begin_write(i % 700 * PAGE, bytes(PAGE)) for i in range(500)]
            await asyncio.wait(replies)
            file.acked = file.next_op
        assert node.link.calls - before <= 20
        after = node.log.counters()
        assert after["records"] - checks["records"] == 10_000
        assert after["checks"] - checks["checks"] == after["batches"] - checks["batches"]


async def test_one_claim_look_up_serves_a_whole_frame_of_reads(tmp_path: Path) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        await file.write(0, pattern(1, 64 * PAGE))
        await file.read(0, 64 * PAGE)
        node = w.nodes["a"].node
        assert node is not None
        before = node.log.counters()["checks"]
        [channel] = node._streams
        frames = channel.frames_sent
        reads = [
            client.send(m.Read(file.handle, file.generation, i * PAGE, PAGE)) for i in range(64)
        ]
        await asyncio.wait(reads)
        assert node.log.counters()["checks"] - before == channel.frames_sent - frames
        assert channel.frames_sent - frames < 64


def damage(root: Path, page: bytes) -> None:
    """Change one byte of the only stored copy of a page."""
    [segment] = [path for path in root.rglob("*") if path.is_file() and page in path.read_bytes()]
    at = segment.read_bytes().index(page) + 100
    with segment.open("r+b") as stored:
        stored.seek(at)
        stored.write(b"?")


async def test_a_page_that_fails_its_checksum_is_an_error_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path, "a") as w:
        client = await w.client()
        file = await client.open()
        await file.write(0, b"A" * PAGE)
        await file.write(PAGE, b"B" * PAGE)
        assert await file.read(0, 2 * PAGE) == b"A" * PAGE + b"B" * PAGE
        damage(tmp_path, b"B" * PAGE)
        assert await refused(file.read(0, 2 * PAGE)) == "DATA_CORRUPT"
        assert await refused(file.read(PAGE + 5, 10)) == "DATA_CORRUPT"
        assert await refused(file.write(PAGE + 5, b"partial")) == "DATA_CORRUPT"
        assert await file.read(0, PAGE) == b"A" * PAGE, "the rest of the file is served"
        assert "$corrupt: page 1" in caplog.text
        await file.write(PAGE, b"C" * PAGE)
        assert await file.read(PAGE, PAGE) == b"C" * PAGE
