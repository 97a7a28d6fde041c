"""Traces of real processes: one operation is one trace, through the death of whoever had it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

import sofs
from sofs.cli.main import main
from sofs.client import runtime
from sofs.core.spans import RingView, Span, Trace, assemble, traces, with_linked
from sofs.core.trace import SpanKind, SpanStatus, Whole
from sofs.ports.trace import NO_RECORDER
from sofs.telemetry.ring import TRACE_FOLDER, read_rings, sdk_folder
from sofs.telemetry.waterfall import WIDTH, waterfall
from sofs.testing import LocalCluster

WAIT_S_MAX = 30.0


@contextmanager
def traced_cluster(folder: Path) -> Iterator[LocalCluster]:
    """A cluster, and a ring of this process in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder / "runtime"))
        patch.setattr(runtime, "_recorder", (0, NO_RECORDER))
        with LocalCluster(folder / "root", run_dir=folder / "run") as running:
            yield running
        runtime._recorder[1].close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """For tests that harm nobody. What they look at is the newest of its kind."""
    with traced_cluster(tmp_path_factory.mktemp("traces")) as running:
        yield running


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with traced_cluster(tmp_path) as running:
        yield running


def spans_of(cluster: LocalCluster) -> list[Span]:
    rings = read_rings(cluster.run_dir / TRACE_FOLDER, sdk_folder(os.environ))
    return assemble(RingView(ring.contents, ring.alive) for ring in rings)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S_MAX
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def kinds(trace: Trace, process: str = "") -> set[SpanKind]:
    return {span.kind for span in trace.spans if not process or span.process == process}


def newest(found: list[Trace], operation: str) -> Trace:
    return [t for t in found if t.root.operation == operation][-1]


def test_a_write_is_one_trace_from_the_client_to_the_store(shared: LocalCluster) -> None:
    with sofs.connect(shared.url, credential=shared.credential) as share:
        with share.open("/a", "w+b") as file:
            file.pwrite(b"x" * 4096, 8192)
        node = shared.node_at(share.facts().address)
    trace = newest(traces(spans_of(shared)), "Write")
    by_kind = {span.kind: span for span in trace.spans}
    assert kinds(trace) == {SpanKind.CLIENT, SpanKind.NODE, SpanKind.BATCH}
    client, served, batch = (
        by_kind[kind] for kind in (SpanKind.CLIENT, SpanKind.NODE, SpanKind.BATCH)
    )
    assert (client.process, served.process, batch.process) == ("client", node, node)
    assert served.parent == client.id
    assert batch.parent == served.id
    assert (client.offset, client.length) == (8192, 4096)
    assert all(span.status is SpanStatus.OK for span in trace.spans)
    assert client.start_ns <= served.start_ns <= batch.start_ns
    assert batch.end_ns <= served.end_ns <= client.end_ns


@pytest.mark.parametrize("operation", ["WriteFile", "Truncate"])
def test_what_changes_data_and_tables_is_one_trace_with_both_logs(
    shared: LocalCluster, operation: str
) -> None:
    with sofs.connect(shared.url, credential=shared.credential) as share:
        share.write_file("/a", b"x" * 8192)
        with share.open("/a", "r+b") as file:
            file.truncate(5000)  # Within a page, which is written anew.
        node = shared.node_at(share.facts().address)
    trace = newest(traces(spans_of(shared)), operation)
    [served] = [span for span in trace.spans if span.kind is SpanKind.NODE]
    [asked] = [
        span
        for span in trace.spans
        if span.kind is SpanKind.AUTHORITY and span.operation == operation
    ]
    logs = {span.process: span.parent for span in trace.spans if span.kind is SpanKind.BATCH}
    assert logs == {node: served.id, "coordinator": asked.id}


def wholes(cluster: LocalCluster, trace: Trace) -> list[Whole]:
    rings = read_rings(cluster.run_dir / TRACE_FOLDER)
    records = [record for ring in rings for _, record in ring.contents.records]
    found = [record for record in records if isinstance(record, Whole)]
    return [record for record in found if record.start.context[:16] == trace.id]


def test_a_read_that_is_answered_at_once_is_one_record_of_its_node(cluster: LocalCluster) -> None:
    with (
        sofs.connect(cluster.url, credential=cluster.credential) as share,
        share.open("/a", "w+b") as file,
    ):
        file.pwrite(b"x" * 8192, 0)
        for _ in range(2):  # The first one opens the log for reading.
            assert len(file.pread(4096, 4096)) == 4096
    trace = newest(traces(spans_of(cluster)), "Read")
    client, served = sorted(trace.spans, key=lambda span: span.kind)
    assert (client.kind, served.kind) == (SpanKind.CLIENT, SpanKind.NODE)
    assert served.parent == client.id
    assert (served.offset, served.length, served.status) == (4096, 4096, SpanStatus.OK)
    assert client.start_ns <= served.start_ns <= served.end_ns <= client.end_ns
    reads = [t for t in traces(spans_of(cluster)) if t.root.operation == "Read"]
    assert [len(wholes(cluster, read)) for read in reads] == [0, 1]


def test_a_read_that_waits_for_a_token_has_its_waits_below_it(shared: LocalCluster) -> None:
    urls = [shared.url_from(name) for name in ("node-1", "node-2")]
    with (
        sofs.connect(urls[0], credential=shared.credential) as one,
        sofs.connect(urls[1], credential=shared.credential) as other,
        one.open("/a", "w+b") as written,
        other.open("/a", "rb") as read,
    ):
        served_by = [shared.node_at(share.facts().address) for share in (one, other)]
        assert served_by == ["node-1", "node-2"]
        written.pwrite(b"x" * 4096, 0)
        assert read.pread(4096, 0) == b"x" * 4096
    trace = newest(traces(spans_of(shared)), "Read")
    [served] = [span for span in trace.spans if span.kind is SpanKind.NODE]
    [asked] = [span for span in trace.spans if span.kind is SpanKind.AUTHORITY]
    assert asked.parent == served.id
    assert served.start_ns <= asked.start_ns <= asked.end_ns <= served.end_ns
    assert not wholes(shared, trace)


def test_a_read_that_is_refused_ends_with_its_error(shared: LocalCluster) -> None:
    with (
        sofs.connect(shared.url, credential=shared.credential) as share,
        share.open("/a", "w+b") as file,
        share.open("/a", "r+b") as other,
    ):
        file.pwrite(b"x" * 4096, 0)
        file.lock(0, 4096)
        with pytest.raises(sofs.FileLockConflict):
            other.pread(4096, 0)
    trace = newest(traces(spans_of(shared)), "Read")
    [served] = [span for span in trace.spans if span.kind is SpanKind.NODE]
    assert (served.status, served.notes) == (SpanStatus.ERROR, ["FILE_LOCK_CONFLICT"])
    assert served.parent == trace.root.id
    assert not wholes(shared, trace)


def test_a_name_is_made_in_one_trace_through_the_authority(shared: LocalCluster) -> None:
    with sofs.connect(shared.url, credential=shared.credential) as share:
        share.mkdir("/folder")
        with pytest.raises(FileExistsError):
            share.mkdir("/folder")
    good, bad = [t for t in traces(spans_of(shared)) if t.root.operation == "Mkdir"][-2:]
    assert {SpanKind.CLIENT, SpanKind.NODE, SpanKind.AUTHORITY, SpanKind.BATCH} <= kinds(good)
    assert kinds(good, "coordinator") == {SpanKind.AUTHORITY, SpanKind.BATCH}
    assert bad.root.status is SpanStatus.ERROR
    assert bad.root.notes == ["OBJECT_NAME_COLLISION"]
    [served] = [span for span in bad.spans if span.kind is SpanKind.NODE]
    assert (served.status, served.notes) == (SpanStatus.ERROR, ["OBJECT_NAME_COLLISION"])


def test_a_write_whose_node_is_killed_is_one_trace_with_the_killed_attempt(
    cluster: LocalCluster,
    capsys: pytest.CaptureFixture[str],
) -> None:
    authorities = ("coordinator", "resume-key")
    one = sofs.connect(cluster.url_from("node-1"), credential=cluster.credential)
    two = sofs.connect(cluster.url_from("node-2"), credential=cluster.credential)
    with one, two, one.open("/a", "w+b") as first, two.open("/a", "r+b") as second:
        victim = apart(cluster, one, two)
        first.pwrite(b"1" * 4096, 0)  # The other node has the token: the victim must ask for it.
        until(lambda: bool(two.facts().warm_address), "no warm stream")
        for name in authorities:
            cluster.freeze(name)
        writer = threading.Thread(target=lambda: second.pwrite(b"2" * 4096, 0))
        writer.start()

        def arrived() -> bool:
            return any(
                s.process == victim and s.operation == "Write" and s.status is SpanStatus.OPEN
                for s in spans_of(cluster)
            )

        until(arrived, f"the write did not reach {victim}")
        cluster.kill(victim)
        for name in authorities:
            cluster.thaw(name)
        writer.join(WAIT_S_MAX)
        assert not writer.is_alive()
        until(lambda: two.failovers()[-1].replay_ms >= 0, "nothing was replayed")
        assert second.pread(1, 0) == b"2"
        everything = spans_of(cluster)
    across = [t for t in traces(everything) if t.killed and t.root.kind is SpanKind.CLIENT]
    [trace] = [t for t in across if t.root.operation == "Write"]
    assert trace.failovers
    assert trace.root.status is SpanStatus.OK
    wanted = {
        SpanKind.CLIENT,
        SpanKind.ATTEMPT,
        SpanKind.FAILOVER,
        SpanKind.RECONNECT,
        SpanKind.RECLAIM,
        SpanKind.NODE,
        SpanKind.AUTHORITY,
        SpanKind.SEAL,
        SpanKind.CLAIM,
        SpanKind.LINEAGE,
        SpanKind.BATCH,
    }
    whole = with_linked(trace, everything)
    assert wanted <= kinds(whole), "\n".join(waterfall(whole))
    [killed] = [s for s in trace.spans if s.status is SpanStatus.KILLED and s.operation == "Write"]
    assert (killed.process, killed.kind) == (victim, SpanKind.NODE)
    attempts = [span for span in trace.spans if span.kind is SpanKind.ATTEMPT]
    assert [span.attempt for span in attempts] == list(range(1, len(attempts) + 1))
    assert attempts[0].status is SpanStatus.LOST
    assert attempts[-1].status is SpanStatus.OK
    for earlier, later in pairwise(attempts):
        assert earlier.id in {link[16:] for link in later.links}
    assert killed.parent == attempts[0].id
    lines = waterfall(whole)
    assert max(map(len, lines)) <= WIDTH
    assert any("Write KILLED" in line for line in lines)
    told_by_command(cluster, trace, capsys)


def apart(cluster: LocalCluster, one: sofs.Share, two: sofs.Share) -> str:
    """See to it that two clients use different nodes, which a slow machine may have changed;
    returns the second one's."""
    while one.facts().address == two.facts().address:
        other = next(a for a in cluster.addresses if a != two.facts().address)
        one.move(other)
        until(lambda other=other: one.facts().address in (other, ""), "it does not move")
        until(lambda: bool(one.facts().address), "it has no session")
    return cluster.node_at(two.facts().address)


def told_by_command(
    cluster: LocalCluster, trace: Trace, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sofs trace` tells the same of the same rings."""
    run_dir = ["--run-dir", str(cluster.run_dir)]
    assert main(["trace", "failovers", *run_dir]) == 0
    listed = capsys.readouterr().out
    assert trace.id.hex()[-16:] in listed
    assert "stream ended" in listed
    assert main(["trace", "show", trace.id.hex()[-16:], "--json", *run_dir]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["trace"] == trace.id.hex()
    assert "killed" in {span["status"] for span in told["spans"]}
    assert main(["trace", "show", *run_dir]) == 0
    assert "KILLED" in capsys.readouterr().out
    assert main(["trace", "ls", "--last", "5", *run_dir]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 6
    assert main(["trace", "show", "nosuchtrace", *run_dir]) == 3
    assert "sofs trace ls" in capsys.readouterr().err


def test_a_name_that_outlives_its_authority_is_one_trace_with_the_take_over(
    cluster: LocalCluster,
) -> None:
    with sofs.connect(cluster.url, credential=cluster.credential) as share:
        share.mkdir("/before")
        until(lambda: cluster.facts("resume-key").get("in_step") == "True", "nobody follows")
        cluster.freeze("coordinator")
        maker = threading.Thread(target=lambda: share.mkdir("/across"))
        maker.start()

        def asked() -> bool:
            return any(
                s.operation == "Mkdir" and s.kind is SpanKind.NODE and s.status is SpanStatus.OPEN
                for s in spans_of(cluster)
            )

        until(asked, "the request did not reach a node")
        cluster.kill("coordinator")
        maker.join(WAIT_S_MAX)
        assert not maker.is_alive()
    trace = newest(traces(spans_of(cluster)), "Mkdir")
    assert {SpanKind.WAIT, SpanKind.TAKEOVER, SpanKind.CLAIM, SpanKind.LINEAGE} <= kinds(trace)
    assert {SpanKind.TAKEOVER, SpanKind.AUTHORITY} <= kinds(trace, "resume-key")
    assert trace.root.status is SpanStatus.OK
