"""Single promises, one at a time, on real processes: what a zombie may not do, what a replay does
not do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sofs
from sofs.core import messages as m
from sofs.services.channel import result_of
from sofs.testing import LocalCluster

from .raw import RawClient
from .runner import Runner
from .test_kill_loop import workers_on
from .workloads import verify

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path / "root") as made:
        yield made


def address_of(cluster: LocalCluster, name: str) -> str:
    return cluster.parts[name].config.address


async def until_durable(cluster: LocalCluster, name: str, more_than: int) -> None:
    """Wait until a node's data log has grown on the device: fdatasync returned."""
    for _ in range(2_000):
        if int((await asyncio.to_thread(cluster.facts, name))["durable"]) > more_than:
            return
    raise AssertionError("the write never became durable")


async def test_a_write_that_was_synced_and_never_answered_is_not_applied_again(
    cluster: LocalCluster,
) -> None:
    first = RawClient(cluster.credential)
    await first.connect(address_of(cluster, "node-1"))
    opened, guid = await first.open("/f")
    await first.call(m.Write(opened.handle, 1, 1, 1, 0), b"a" * 8192)
    before = int((await asyncio.to_thread(cluster.facts, "node-1"))["durable"])
    request = m.Write(opened.handle, 1, 2, 2, 0)
    first.send(request, b"b" * 8192)  # Its reply is never looked at.
    await until_durable(cluster, "node-1", before)
    await asyncio.to_thread(cluster.stop, "node-1")

    def overwrite() -> None:
        url = cluster.url_from("node-2")
        with sofs.connect(url, credential=cluster.credential) as share:
            while True:
                try:
                    with share.open("/f", "r+b", deadline_ms=500) as file:
                        assert file.pread(1, 0) == b"b", "what was synced is there"
                        file.pwrite(b"c" * 8192, 0)
                        return
                except (sofs.Unavailable, sofs.DeadlineExceeded, sofs.OutcomeUnknown):
                    continue

    await first.connect(address_of(cluster, "node-3"))
    reclaimed = await first.call(m.Reclaim(first.caller(), [m.ReclaimItem(opened.handle, guid)]))
    assert [result.code for result in reclaimed.results] == [""]
    generation = reclaimed.results[0].generation
    await asyncio.to_thread(overwrite)
    request.generation = generation
    answer = await first.call(request, b"b" * 8192)
    assert isinstance(answer, m.WriteReply), "the resent write is answered"
    await first.call(m.Read(opened.handle, generation, 0, 8192))
    with sofs.connect(cluster.url_from("node-2"), credential=cluster.credential) as share:
        assert share.read_file("/f") == b"c" * 8192, "and it is not applied a second time"
    await first.close()


async def test_a_frozen_node_that_wakes_acknowledges_nothing_and_serves_no_stale_read(
    cluster: LocalCluster,
) -> None:
    old, again = RawClient(cluster.credential), RawClient(cluster.credential)
    again.id = old.id  # The same client, over two streams.
    await old.connect(address_of(cluster, "node-1"))
    opened, guid = await old.open("/f")
    await old.call(m.Write(opened.handle, 1, 1, 1, 0), b"old" * 1000)
    await asyncio.to_thread(cluster.freeze, "node-1")
    late_write = old.send(m.Write(opened.handle, 1, 2, 2, 0), b"late" * 750)
    late_read = old.send(m.Read(opened.handle, 1, 0, 3000))
    await again.connect(address_of(cluster, "node-2"))
    again.op_id = old.op_id
    reclaimed = await again.call(m.Reclaim(again.caller(), [m.ReclaimItem(opened.handle, guid)]))
    generation = reclaimed.results[0].generation
    await again.call(m.Write(opened.handle, generation, 2, 2, 0), b"late" * 750)
    await again.call(m.Write(opened.handle, generation, 3, 3, 0), b"new" * 1000)
    await asyncio.to_thread(cluster.thaw, "node-1")
    await asyncio.wait((late_write, late_read), timeout=20)
    for answer in (late_write, late_read):
        assert answer.done(), "the woken node neither answered nor ended the stream"
        if answer.exception() is None:
            body = answer.result().body
            assert isinstance(body, m.Failure), f"a zombie answered {body}"
    read, data = result_of(await again.send(m.Read(opened.handle, generation, 0, 3000)))
    assert isinstance(read, m.ReadReply)
    assert bytes(data) == b"new" * 1000
    await old.close()
    await again.close()


def test_everything_killed_at_once_goes_on_from_the_folder(
    cluster: LocalCluster, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--chaos-seed")
    workers = workers_on(cluster, seed)
    for worker in workers:
        worker.start()
    runner = Runner(cluster, workers, seed)
    try:
        for _ in range(2):
            runner.one("kill all", "everything")
            time.sleep(0.2)
    finally:
        for worker in workers:
            worker.finish()
    wrong = runner.errors()
    if not wrong:
        with sofs.connect(cluster.url, credential=cluster.credential) as share:
            wrong += verify(workers, share)
    assert not wrong, "\n".join([*wrong, cluster.last_words()])
    assert len(runner.rounds) == 2
