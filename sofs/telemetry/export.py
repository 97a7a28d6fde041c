"""Export of traces to an OTLP receiver: made from the rings afterwards, in a process of its own.

One process a run directory exports what all rings there hold, and those of this user's SDK
processes, so nobody on a hot path ever formats or sends a span. It is a helper (``helper``) of all
parts whose environment names OTEL_EXPORTER_OTLP_ENDPOINT.

A span is sent once it has ended and HOLD_NS passed: by then it is known what it was linked to, and
which trace a shared step belongs to (``core.spans``). What was sent is told by a mark: all that
ended before it, killed spans apart, which become known only when their process is gone. A new
exporter goes on at the mark and sends killed spans again; ids are the same, so receivers that keep
spans by id see them once. A receiver that does not answer is asked again, with all that waits; of
each ring the newest HELD_MAX spans wait. What a ring loses before it is read is lost.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from sofs.core.spans import RingSpans, Span, place
from sofs.core.trace import SpanStatus
from sofs.telemetry import helper
from sofs.telemetry.otlp import to_sdk, trace_of_links
from sofs.telemetry.ring import (
    ENDPOINT_VARIABLE,
    SUFFIX,
    RingTail,
    process_alive,
    sdk_folder,
)

POLL_S: Final = 1.0
HOLD_NS: Final = 2_500_000_000  # Longer than ``core.spans.ADOPTED_NS_MAX``.
BATCH_SPANS_MAX: Final = 2_000  # In one request; some 1 MiB.
HELD_MAX: Final = 100_000  # Spans of one ring.
KEEP_NS: Final = 10_000_000_000  # A span is held so long after it was sent, for later ones.
MARK_FILE: Final = "exported"

Send = Callable[[Sequence[ReadableSpan]], bool]
"""Delivers spans; False when the receiver did not take them."""


class _Ring:
    """A ring that is being exported."""

    def __init__(self, path: Path) -> None:
        """OSError or ValueError when it is no ring."""
        self.tail = RingTail(path)
        self.spans = RingSpans(self.tail.owner)

    def read(self) -> None:
        closed = self.tail.closed  # Before the records: what is open afterwards stays open.
        alive = process_alive(self.tail.owner)
        self.spans.take(self.tail.read()[0])
        self.spans.settle(alive=alive, closed=closed)


class Exporter:
    """Sends what rings hold, each span once; see the module."""

    def __init__(self, folders: Sequence[Path], send: Send, mark: Path | None = None) -> None:
        self._folders = folders
        self._send = send
        self._mark_file = mark
        self._from_ns = _read_mark(mark)  # What ended before was sent by an earlier exporter.
        self._rings: dict[Path, _Ring] = {}
        self._sent: dict[bytes, None] = {}  # Ids of spans that are still held.

    def poll(self, now_ns: int, *, hold_ns: int = HOLD_NS) -> int:
        """Send what has ended by ``now_ns - hold_ns`` (wall clock) and was not sent; return how
        many spans that was."""
        self._read()
        until = now_ns - hold_ns
        held = place([span for ring in self._rings.values() for span in ring.spans.spans.values()])
        ready = [span for span in held if span.id not in self._sent and self._ripe(span, until)]
        belongs = trace_of_links(held)
        for at in range(0, len(ready), BATCH_SPANS_MAX):
            batch = ready[at : at + BATCH_SPANS_MAX]
            if not self._send(to_sdk(batch, belongs)):
                self._forget(0)
                return 0  # It is sent again, with what comes meanwhile.
            for span in batch:
                self._sent[span.id] = None
        _write_mark(self._mark_file, until)
        self._forget(until - KEEP_NS)
        return len(ready)

    def _ripe(self, span: Span, until_ns: int) -> bool:
        if span.status is SpanStatus.OPEN or span.end_ns > until_ns:
            return False
        return span.status is SpanStatus.KILLED or span.end_ns > self._from_ns

    def _read(self) -> None:
        paths = [path for folder in self._folders for path in sorted(folder.glob(f"*{SUFFIX}"))]
        for path in [known for known in self._rings if known not in paths]:
            self._rings.pop(path).tail.close()
        for path in paths:
            if path not in self._rings:
                try:
                    self._rings[path] = _Ring(path)
                except (OSError, ValueError):
                    continue  # Gone meanwhile, or of another version.
            self._rings[path].read()

    def _forget(self, before_ns: int) -> None:
        """Drop spans that ended long ago, as nothing is linked to them any more, and the oldest of
        too many: of spans whose end was lost, or that no receiver took."""
        for ring in self._rings.values():
            held = list(ring.spans.spans.values())
            for span in held[: max(0, len(held) - HELD_MAX)]:
                ring.spans.forget(span)
                self._sent.pop(span.id, None)
            for span in held:
                if span.status is not SpanStatus.OPEN and span.end_ns < before_ns:
                    ring.spans.forget(span)
                    self._sent.pop(span.id, None)


def _read_mark(path: Path | None) -> int:
    try:
        return int(path.read_text()) if path is not None else 0
    except (OSError, ValueError):
        return 0  # No exporter was here before.


def _write_mark(path: Path | None, until_ns: int) -> None:
    if path is not None:
        partial = path.with_suffix(".new")
        partial.write_text(str(until_ns))
        os.replace(partial, path)


def grpc_sender(endpoint: str) -> Send:
    """Send over OTLP/gRPC. ``http://`` (and a bare host:port) means without TLS."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    insecure = not endpoint.startswith("https://")
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=insecure)
    return lambda spans: exporter.export(spans) is SpanExportResult.SUCCESS


# The exporter of a run directory ----------------------------------------------------------------


def follow(exporter: Exporter, stop: threading.Event) -> None:
    """Poll until ``stop``."""
    while not stop.is_set():
        exporter.poll(time.time_ns())
        stop.wait(POLL_S)


def main() -> None:
    """The exporter process; see ``helper``."""
    folder = helper.begin(sys.argv)
    environment = os.environ
    exporter = Exporter(
        [folder, sdk_folder(environment)],
        grpc_sender(environment[ENDPOINT_VARIABLE]),
        folder / MARK_FILE,
    )
    follow(exporter, threading.Event())


if __name__ == "__main__":
    main()
