"""Export of traces to an OTLP receiver: made from the rings afterwards, in a process of its own.

One process a run directory exports what all rings there hold, and those of this user's SDK
processes, so nobody on a hot path ever formats or sends a span. It is a helper (``helper``) of all
parts whose environment names OTEL_EXPORTER_OTLP_ENDPOINT.

A span is sent once it has ended and HOLD_NS passed: by then it is known what it was linked to, and
which trace a shared step belongs to (``core.spans``). What was sent is told by a mark: all that
ended before it, killed spans apart, which become known only when their process is gone. A new
exporter goes on at the mark and sends killed spans again; ids are the same, so receivers that keep
spans by id see them once. A receiver that does not answer is asked again, with all that waits: what
the rings lose meanwhile is lost.
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

from sofs.core.spans import RingView, assemble
from sofs.core.trace import SpanStatus
from sofs.telemetry import helper
from sofs.telemetry.otlp import to_sdk
from sofs.telemetry.ring import ENDPOINT_VARIABLE, read_rings, sdk_folder

POLL_S: Final = 1.0
HOLD_NS: Final = 2_500_000_000  # Longer than ``core.spans.ADOPTED_NS_MAX``.
BATCH_SPANS_MAX: Final = 2_000  # In one request; some 1 MiB.
KILLED_MAX: Final = 100_000  # Ids of killed spans that are remembered as sent.
MARK_FILE: Final = "exported"

Send = Callable[[Sequence[ReadableSpan]], bool]
"""Delivers spans; False when the receiver did not take them."""


class Exporter:
    """Sends what rings hold, each span once; see the module."""

    def __init__(self, folders: Sequence[Path], send: Send, mark: Path | None = None) -> None:
        self._folders = folders
        self._send = send
        self._mark_file = mark
        self._until_ns = _read_mark(mark)
        self._killed: dict[bytes, None] = {}
        self.sent = 0

    def poll(self, now_ns: int, *, hold_ns: int = HOLD_NS) -> int:
        """Send what has ended by ``now_ns - hold_ns`` (wall clock) and was not sent; return how
        many spans that was."""
        until = now_ns - hold_ns
        spans = assemble(RingView(r.contents, r.alive) for r in read_rings(*self._folders))
        fresh = []
        for span in spans:
            if span.status is SpanStatus.KILLED:
                if span.id not in self._killed:
                    fresh.append(span)
            elif span.status is not SpanStatus.OPEN and self._until_ns < span.end_ns <= until:
                fresh.append(span)
        chosen = {span.id for span in fresh}
        ready = [
            span
            for span in to_sdk(spans)
            if span.context is not None and span.context.span_id.to_bytes(8, "big") in chosen
        ]
        for at in range(0, len(ready), BATCH_SPANS_MAX):
            if not self._send(ready[at : at + BATCH_SPANS_MAX]):
                return 0  # All of it is sent again.
        for span in fresh:
            if span.status is SpanStatus.KILLED:
                self._killed[span.id] = None
        while len(self._killed) > KILLED_MAX:
            del self._killed[next(iter(self._killed))]
        self._until_ns = max(self._until_ns, until)
        _write_mark(self._mark_file, self._until_ns)
        self.sent += len(ready)
        return len(ready)


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
