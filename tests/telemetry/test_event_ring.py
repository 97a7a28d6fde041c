"""The event ring of a process: it outlives SIGKILL, is bounded, and never stops anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sofs.core import events as e
from sofs.ports.events import NO_EVENTS
from sofs.ports.trace import CURRENT
from sofs.telemetry import event_ring, ring
from sofs.telemetry.event_ring import (
    DEAD_EVENTS_KEPT,
    EventRecorder,
    Follower,
    open_events,
    read_events,
)

SLOTS = ((1 << 20) - 4096) // (2 * e.EVENT_BYTES)


def open_here(folder: Path, name: str = "here") -> EventRecorder:
    made = open_events(folder, name, "node", 1)
    assert isinstance(made, EventRecorder)
    return made


def close_of(made: EventRecorder, handle: int) -> None:
    made.emit(e.OPEN_CLOSED, handle=handle, client=b"c" * 16, file=1)  # A frequent one.


def gone(made: EventRecorder, number: int) -> None:
    made.emit(e.SERVICE_NODE_GONE, node=f"node-{number}", address="a")


def test_what_a_killed_process_told_is_read_from_its_ring(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from sofs.core import events as e
from sofs.telemetry.event_ring import open_events
made = open_events(Path({str(tmp_path)!r}), "victim", "node", 1)
made.emit(e.ENDPOINT_ADDED, address="127.0.0.1:1")
print("told", flush=True)
n = 0
while True:
    n += 1
    made.emit(e.OPEN_CLOSED, handle=n, client=bytes(16), file=1)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "told\n"
        child.send_signal(signal.SIGKILL)
    found, _ = read_events(tmp_path)
    assert found[0].message == "this node listens at 127.0.0.1:1"
    assert found[0].owner.name == "victim"
    assert found[0].owner.pid == child.pid


def test_frequent_events_do_not_push_out_rare_ones(tmp_path: Path) -> None:
    made = open_here(tmp_path)
    gone(made, 1)
    for number in range(SLOTS + 10):
        close_of(made, number)
    found, lost = read_events(tmp_path)
    assert lost == 10
    assert [event.id for event in found].count(4) == 1
    assert [event.fields["handle"] for event in found if event.id == 654] == list(
        range(10, SLOTS + 10)
    )
    assert made.path.stat().st_size == 1 << 20


def test_the_newest_rare_events_replace_the_oldest(tmp_path: Path) -> None:
    made = open_here(tmp_path)
    for number in range(2 * SLOTS + 3):
        gone(made, number)
    found, lost = read_events(tmp_path)
    assert lost == SLOTS + 3
    assert found[-1].fields["node"] == f"node-{2 * SLOTS + 2}"
    assert len(found) == SLOTS


def test_an_event_carries_the_trace_of_the_operation_under_way(tmp_path: Path) -> None:
    made = open_here(tmp_path)
    token = CURRENT.set(b"t" * 16 + b"s" * 8)
    gone(made, 1)
    CURRENT.reset(token)
    gone(made, 2)
    [with_trace, without], _ = read_events(tmp_path)
    assert (with_trace.trace, with_trace.span) == (b"t" * 16, b"s" * 8)
    assert (without.trace, without.span) == (b"", b"")


def test_an_event_with_wrong_fields_raises_nothing_and_is_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = open_here(tmp_path)
    for _ in range(3):
        made.emit(e.OPEN_CLOSED, handle=1)
        made.emit(e.SERVICE_NODE_GONE, node=object(), address="a")  # type: ignore[arg-type]
    assert len(caplog.records) == 2
    found, _ = read_events(tmp_path)
    assert [event.id for event in found] == [654] * 3
    assert found[0].message == "client ? closed handle 1 (file ?)"


def test_where_the_folder_takes_no_ring_nothing_is_told_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ring.os, "posix_fallocate", full)
    made = open_events(tmp_path, "here", "node", 1)
    assert made is NO_EVENTS
    made.emit(e.ENDPOINT_ADDED, address="a")
    assert list(tmp_path.iterdir()) == []
    assert open_events(tmp_path, "here", "node", 0) is NO_EVENTS
    assert event_ring.events_mib({"SOFS_EVENTS_MIB": "0"}) == 0


def test_a_forked_child_writes_nothing_into_the_ring_of_its_parent(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from sofs.core import events as e
from sofs.telemetry.event_ring import open_events
made = open_events(Path({str(tmp_path)!r}), "parent", "client", 1)
if os.fork() == 0:
    made.emit(e.ENDPOINT_ADDED, address="child")
    os._exit(0)
os.wait()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert read_events(tmp_path) == ([], 0)


def test_only_the_newest_rings_of_dead_processes_are_kept_and_every_living_one(
    tmp_path: Path,
) -> None:
    own = open_here(tmp_path)
    for number in range(DEAD_EVENTS_KEPT + 3):
        path = tmp_path / f"gone-{2**22 + number}-1.events"
        path.write_bytes(b"")
        os.utime(path, (number, number))
    open_here(tmp_path, "another")
    left = [path.name for path in tmp_path.glob("gone-*")]
    assert sorted(left) == sorted(
        f"gone-{2**22 + number}-1.events" for number in range(3, DEAD_EVENTS_KEPT + 3)
    )
    assert own.path.exists()


def test_a_follower_reads_each_event_once_and_finds_rings_that_come_later(tmp_path: Path) -> None:
    made = open_here(tmp_path)
    follower = Follower(tmp_path)
    gone(made, 1)
    assert [event.fields["node"] for event in follower.read()] == ["node-1"]
    assert follower.read() == []
    other = open_here(tmp_path, "other")
    gone(other, 2)
    close_of(made, 3)
    assert [event.id for event in follower.read()] == [4, 654]
    follower.close()


def test_a_follower_that_was_overtaken_goes_on_with_what_is_left(tmp_path: Path) -> None:
    made = open_here(tmp_path)
    follower = Follower(tmp_path)
    gone(made, 0)
    follower.read()
    for number in range(1, 3 * SLOTS + 5):
        gone(made, number)
    found = [event.fields["node"] for event in follower.read()]
    assert found == [f"node-{number}" for number in range(2 * SLOTS + 5, 3 * SLOTS + 5)]
    assert follower.read() == []
    (tmp_path / "nonsense-1-1.events").write_bytes(b"x" * 9000)
    assert follower.read() == []
    assert read_events(tmp_path)[0]
    follower.close()
