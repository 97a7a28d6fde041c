"""Metrics: counted from rings and from what parts say, and told to Prometheus on loopback only."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest

import sofs
from sofs.client import runtime
from sofs.core.trace import SpanKind, SpanStatus
from sofs.ports.trace import NO_RECORDER
from sofs.telemetry.metrics import Metrics
from sofs.telemetry.ring import RingRecorder, open_ring
from sofs.testing import LocalCluster

WAIT_S_MAX = 60.0


def scrape(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def total(found: dict[str, float], name: str, *labels: str) -> float:
    return sum(
        value
        for key, value in found.items()
        if re.match(rf"{name}(_total)?{{", key) and all(label in key for label in labels)
    )


def test_records_become_counts_latencies_and_pauses(tmp_path: Path) -> None:
    recorder = open_ring(tmp_path, "node-1", "node", 1)
    assert isinstance(recorder, RingRecorder)
    metrics = Metrics()
    address = metrics.serve(0)
    assert address.startswith("127.0.0.1:")
    for _ in range(3):
        recorder.end(recorder.begin(SpanKind.NODE, operation="Write"), length=4096)
    failed = recorder.begin(SpanKind.NODE, operation="Open")
    recorder.note(failed, "SHARING_VIOLATION")
    recorder.end(failed, SpanStatus.ERROR)
    recorder.end(recorder.begin(SpanKind.FAILOVER))
    reading = recorder.begin(SpanKind.NODE, operation="Read")  # Not ended: not counted.
    recorder.whole(SpanKind.NODE, reading, "ReadFile", 0, 0, recorder.now(), 512)
    metrics.poll(tmp_path)
    metrics.poll(tmp_path)
    metrics.facts = {"node-1": {"tokens": "7"}, "coordinator": {"phase": "ONLINE"}}
    found = scrape(address)
    assert total(found, "sofs_operations", 'operation="Write"', 'outcome="ok"') == 3
    assert total(found, "sofs_operations", 'outcome="SHARING_VIOLATION"') == 1
    assert total(found, "sofs_operations", 'operation="ReadFile"', 'outcome="ok"') == 1
    assert total(found, "sofs_bytes", 'operation="ReadFile"') == 512
    assert total(found, "sofs_operations") == 5
    assert total(found, "sofs_bytes", 'operation="Write"') == 3 * 4096
    assert total(found, "sofs_duration_milliseconds_count", 'operation="Write"') == 3
    assert total(found, "sofs_pause_milliseconds_count") == 1
    assert total(found, "sofs_tokens", 'process="node-1"') == 7
    assert total(found, "sofs_gate_phase", 'process="coordinator"') == 4


def test_what_a_ring_lost_is_counted(tmp_path: Path) -> None:
    recorder = open_ring(tmp_path, "node-1", "node", 1)
    assert isinstance(recorder, RingRecorder)
    metrics = Metrics()
    metrics.poll(tmp_path)
    for _ in range(20_000):
        recorder.link(b"x" * 24, b"y" * 24)
    metrics.poll(tmp_path)
    found = scrape(metrics.serve(0))
    assert total(found, "sofs_trace_records_lost") == 20_000 - ((1 << 20) - 4096) // 64


def test_a_cluster_answers_prometheus_when_a_port_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFS_METRICS_PORT", "0")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(runtime, "_recorder", (0, NO_RECORDER))
    with LocalCluster(tmp_path / "root", nodes=1, run_dir=tmp_path / "run") as cluster:
        where = cluster.run_dir / "trace" / "metrics.address"
        deadline = time.monotonic() + WAIT_S_MAX
        with sofs.connect(cluster.url, credential=cluster.credential) as share:
            with share.open("/a", "w+b") as file:
                file.pwrite(b"x" * 8192, 0)
                found: dict[str, float] = {}
                while not (
                    total(found, "sofs_bytes", 'process="client"') >= 8192
                    and total(found, "sofs_tokens", 'process="node-1"') == 1
                    and total(found, "sofs_gate_phase") == 4
                ):
                    assert time.monotonic() < deadline, cluster.last_words()
                    time.sleep(0.2)
                    found = scrape(where.read_text()) if where.exists() else {}
    runtime._recorder[1].close()
