"""Metrics by the OpenTelemetry SDK, with a Prometheus endpoint on the loopback address.

Nothing is counted where the work is done: operations, bytes, latencies and pauses are counted from
the records of the trace rings, and the state of parts from what they say of themselves. So metrics
cost a part nothing but its answer to a question every few seconds. What rings lost before it was
read is counted too (``sofs_trace_records_lost``): then the other counts are too low.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, start_http_server

from sofs.core.trace import (
    End,
    Note,
    RingOwner,
    RingRecord,
    SpanKind,
    Start,
    Whole,
)
from sofs.telemetry.ring import SUFFIX, RingTail

LOOPBACK: Final = "127.0.0.1"
BUCKETS_MS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
OPEN_SPANS_MAX: Final = 65_536  # Of one ring whose end is awaited; the oldest are forgotten.
COUNTED: Final = (
    SpanKind.CLIENT,
    SpanKind.NODE,
    SpanKind.AUTHORITY,
    SpanKind.BATCH,
    SpanKind.SEAL,
    SpanKind.TAKEOVER,
)
# Facts of parts that are numbers worth a line in a graph.
GAUGES: Final = {
    "sessions": "clients connected to a node",
    "handles": "handles open through a node",
    "files": "files that a node knows",
    "tokens": "files for which a node has the right to read or write",
    "tail_records": "records of a node's log that the authority does not have yet",
    "follower_lag": "entries by which the follower is behind",
    "nodes": "nodes that the authority has streams to",
    "log_records": "records that a node appended",
    "log_syncs": "syncs of a node's log",
    "corrupt_pages": "pages that failed their checksum",
}
PHASES: Final = ("LOADING", "RESUME_LOCAL", "RESUME_REMOTE", "RELEASE", "ONLINE")


class Counted:
    """What is under way in one ring."""

    def __init__(self, path: Path) -> None:
        """OSError or ValueError when it is no ring."""
        self.tail = RingTail(path)
        self.open: dict[bytes, Start] = {}
        self.notes: dict[bytes, str] = {}


class Metrics:
    """Counts records and facts; see the module. ``facts``: by part, as last told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self.registry)
        views = [
            View(
                instrument_name=name,
                aggregation=ExplicitBucketHistogramAggregation(BUCKETS_MS),
            )
            for name in ("sofs.duration", "sofs.pause")
        ]
        self._provider = MeterProvider(
            metric_readers=[reader], views=views, resource=Resource({"service.name": "sofs"})
        )
        meter = self._provider.get_meter("sofs")
        self._operations = meter.create_counter("sofs.operations", description="spans that ended")
        self._bytes = meter.create_counter("sofs.bytes", unit="By", description="read or written")
        self._duration = meter.create_histogram("sofs.duration", unit="ms")
        self._pause = meter.create_histogram(
            "sofs.pause", unit="ms", description="failovers, as clients saw them"
        )
        self._lost = meter.create_counter("sofs.trace.records.lost")
        for name, what in GAUGES.items():
            meter.create_observable_gauge(
                f"sofs.{name}", [partial(self._gauge, name)], description=what
            )
        meter.create_observable_gauge(
            "sofs.gate.phase",
            [self._phase],
            description="of the resume gate: 0 loading to 4 online",
        )
        self._rings: dict[Path, Counted] = {}
        self.facts: Mapping[str, Mapping[str, str]] = {}

    def poll(self, *folders: Path) -> None:
        """Count what is new in the rings of the folders."""
        paths = [path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}"))]
        for path in [known for known in self._rings if known not in paths]:
            self._rings.pop(path).tail.close()
        for path in paths:
            ring = self._rings.get(path)
            if ring is None:
                try:
                    ring = self._rings[path] = Counted(path)
                except (OSError, ValueError):
                    continue  # Gone meanwhile, or of another version.
            records, lost = ring.tail.read()
            if lost:
                self._lost.add(lost, {"process": ring.tail.owner.name})
            for record in records:
                self._count(ring, record)

    def _count(self, ring: Counted, record: RingRecord) -> None:
        if isinstance(record, Start):
            if record.kind in COUNTED or record.kind is SpanKind.FAILOVER:
                ring.open[record.context[16:]] = record
                if len(ring.open) > OPEN_SPANS_MAX:
                    oldest = next(iter(ring.open))
                    del ring.open[oldest]
                    ring.notes.pop(oldest, None)
        elif isinstance(record, Note):
            if record.span in ring.open:
                ring.notes[record.span] = record.text
        elif isinstance(record, Whole) and record.start.kind in COUNTED:
            self._ended(ring.tail.owner, record.start, record.end, "")
        elif isinstance(record, End):
            start = ring.open.pop(record.span, None)
            note = ring.notes.pop(record.span, "")
            if start is not None:
                self._ended(ring.tail.owner, start, record, note)

    def _ended(self, owner: RingOwner, start: Start, end: End, note: str) -> None:
        took_ms = (end.time_ns - start.time_ns) / 1e6
        if start.kind is SpanKind.FAILOVER:
            self._pause.record(took_ms, {"process": owner.name})
            return
        name = start.operation or start.kind.name.lower()
        labels = {"process": owner.name, "kind": start.kind.name.lower(), "operation": name}
        self._duration.record(took_ms, labels)
        outcome = note if end.status.name == "ERROR" else end.status.name.lower()
        self._operations.add(1, labels | {"outcome": outcome})
        if end.length and start.kind is not SpanKind.BATCH:
            self._bytes.add(end.length, labels)

    def _gauge(self, name: str, _: CallbackOptions) -> Iterable[Observation]:
        for part, facts in list(self.facts.items()):
            value = facts.get(name, "")
            if value.lstrip("-").isdigit():
                yield Observation(int(value), {"process": part})

    def _phase(self, _: CallbackOptions) -> Iterable[Observation]:
        for part, facts in list(self.facts.items()):
            if facts.get("phase") in PHASES:
                yield Observation(PHASES.index(facts["phase"]), {"process": part})

    def serve(self, port: int) -> str:
        """Answer Prometheus on the loopback address; returns host and port (0: any free one)."""
        server, _ = start_http_server(port, LOOPBACK, self.registry)
        return f"{LOOPBACK}:{server.server_port}"
