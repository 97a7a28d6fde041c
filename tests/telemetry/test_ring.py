"""The ring of a process: it outlives SIGKILL, is bounded, and never stops anybody from working."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ring_rig import killed_writer

from sofs.core.trace import (
    DURATION_NS_MAX,
    HEADER_BYTES,
    RECORD_BYTES,
    End,
    Note,
    SpanKind,
    SpanStatus,
    Start,
    Whole,
)
from sofs.ports.trace import CURRENT, NO_RECORDER, span
from sofs.telemetry import ring as rings
from sofs.telemetry.ring import DEAD_RINGS_KEPT, RingRecorder, open_ring, prune, read_rings


def open_here(folder: Path, mib: int = 1, name: str = "here") -> RingRecorder:
    recorder = open_ring(folder, name, "node", mib)
    assert isinstance(recorder, RingRecorder)
    return recorder


def test_what_a_killed_process_recorded_is_read_from_its_ring(tmp_path: Path) -> None:
    killed_writer(tmp_path)
    [found] = read_rings(tmp_path)
    assert not found.alive
    assert not found.contents.closed
    assert found.contents.owner.name == "victim"
    assert found.contents.torn <= 1
    first = next(r for _, r in found.contents.records if isinstance(r, Start))
    assert first.operation in ("Read", "Write")
    assert any(isinstance(r, Note) and r.text == "under way" for _, r in found.contents.records)


def test_a_ring_is_bounded_and_tells_what_it_lost(tmp_path: Path) -> None:
    recorder = open_here(tmp_path)
    slots = ((1 << 20) - HEADER_BYTES) // RECORD_BYTES
    for _ in range(slots + 10):
        recorder.end(b"x" * 24)
    [found] = read_rings(tmp_path)
    assert found.path.stat().st_size == 1 << 20
    assert found.contents.lost == 10
    assert len(found.contents.records) == slots


def test_threads_never_share_a_slot(tmp_path: Path) -> None:
    recorder = open_here(tmp_path)

    def work() -> None:
        for _ in range(500):
            recorder.end(recorder.begin(SpanKind.CLIENT))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [found] = read_rings(tmp_path)
    assert [n for n, _ in found.contents.records] == list(range(4000))
    contexts = {r.context for _, r in found.contents.records if isinstance(r, Start)}
    assert len(contexts) == 2000


def test_a_child_continues_the_trace_of_its_parent_and_a_root_begins_one(tmp_path: Path) -> None:
    recorder = open_here(tmp_path)
    root = recorder.begin(SpanKind.CLIENT)
    child = recorder.begin(SpanKind.NODE, root)
    other = recorder.begin(SpanKind.CLIENT)
    assert child[:16] == root[:16]
    assert child[16:] != root[16:]
    assert other[:16] != root[:16]
    assert root[-1] == child[-1] == other[-1] == 0  # The low byte numbers attempts.
    garbage = recorder.begin(SpanKind.NODE, b"a peer's nonsense")
    assert len(garbage) == 24


def test_a_span_of_one_record_has_an_id_of_its_own_below_its_parent(tmp_path: Path) -> None:
    recorder = open_here(tmp_path)
    parent = recorder.begin(SpanKind.CLIENT, operation="Read")
    began_ns = recorder.now()
    recorder.whole(SpanKind.NODE, parent, "Read", 7, 4096, began_ns, 512)
    recorder.whole(SpanKind.NODE, b"", "Read", 8, 0, began_ns, 256)
    [found] = read_rings(tmp_path)
    (_, first), (_, whole), (_, start), (_, end) = found.contents.records
    assert isinstance(first, Start)
    assert isinstance(whole, Whole)
    assert whole.start.parent == parent[16:] != whole.end.span
    assert whole.start.context == parent[:16] + whole.end.span
    assert whole.start.time_ns == began_ns <= whole.end.time_ns
    assert (whole.start.handle, whole.start.offset, whole.end.length) == (7, 4096, 512)
    # Without a parent: two records, of a trace of its own.
    assert isinstance(start, Start)
    assert isinstance(end, End)
    assert (start.time_ns, start.handle, end.length, end.span) == (
        began_ns,
        8,
        256,
        start.context[16:],
    )


def test_a_span_too_long_for_one_record_is_two_below_the_same_parent(tmp_path: Path) -> None:
    recorder = open_here(tmp_path)
    parent = recorder.begin(SpanKind.CLIENT, operation="Read")
    began_ns = recorder.now() - DURATION_NS_MAX - 1
    recorder.whole(SpanKind.NODE, parent, "Read", 7, 4096, began_ns, 512)
    [found] = read_rings(tmp_path)
    _, (_, start), (_, end) = found.contents.records
    assert isinstance(start, Start)
    assert isinstance(end, End)
    assert (start.context[:16], start.parent) == (parent[:16], parent[16:])
    assert end.span == start.context[16:]
    assert end.time_ns - start.time_ns > DURATION_NS_MAX


def test_where_the_folder_takes_no_ring_nothing_is_recorded_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rings.os, "posix_fallocate", full)
    recorder = open_ring(tmp_path, "here", "node", 1)
    assert recorder is NO_RECORDER
    assert list(tmp_path.iterdir()) == []
    assert recorder.begin(SpanKind.NODE) == b""


def test_a_size_of_zero_records_nothing(tmp_path: Path) -> None:
    assert open_ring(tmp_path, "here", "node", 0) is NO_RECORDER
    assert rings.ring_mib({"SOFS_TRACE_MIB": "0"}) == 0
    assert rings.ring_mib({"SOFS_TRACE_MIB": "many"}) == rings.RING_MIB_DEFAULT
    assert rings.ring_mib({}) == rings.RING_MIB_DEFAULT


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert open_ring(tmp_path, "here", "node", 1) is NO_RECORDER


def test_a_forked_child_writes_nothing_into_the_ring_of_its_parent(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from sofs.core.trace import SpanKind
from sofs.telemetry.ring import open_ring
recorder = open_ring(Path({str(tmp_path)!r}), "parent", "client", 1)
if os.fork() == 0:
    recorder.begin(SpanKind.CLIENT)
    os._exit(0)
os.wait()
recorder.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    [found] = read_rings(tmp_path)
    assert found.contents.records == []
    assert found.contents.closed


def test_only_the_newest_rings_of_dead_processes_are_kept_and_every_living_one(
    tmp_path: Path,
) -> None:
    own = open_here(tmp_path)
    for number in range(DEAD_RINGS_KEPT + 3):
        path = tmp_path / f"gone-{2**22 + number}-1.ring"
        path.write_bytes(b"")
        os.utime(path, (number, number))
    (tmp_path / f"gone-{2**22}-1.making").write_bytes(b"")
    prune(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert own.path.name in left
    assert left[:-1] == sorted(
        f"gone-{2**22 + number}-1.ring" for number in range(3, DEAD_RINGS_KEPT + 3)
    )


def test_a_block_that_fails_ends_its_span_with_the_error(tmp_path: Path) -> None:
    recorder = open_here(tmp_path)

    def fail() -> None:
        with span(recorder, SpanKind.SEAL, note="node-1") as context:
            assert CURRENT.get() == context
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert CURRENT.get() == b""
    [found] = read_rings(tmp_path)
    records = [record for _, record in found.contents.records]
    assert [r.text for r in records if isinstance(r, Note)] == ["node-1", "ValueError"]
    assert getattr(records[-1], "status", None) is SpanStatus.ERROR
