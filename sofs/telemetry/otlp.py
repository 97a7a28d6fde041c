"""Spans of rings as OTLP: for files (OTLP/JSON) and for the OpenTelemetry SDK's exporters.

One resource a process (``service.name`` sofs-<role>, instance <name>-<pid>). A killed
span ends when its process was last heard of; its status is an error, and ``sofs.killed`` is true.
Spans that are still open are left for later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    TraceFlags,
)
from opentelemetry.trace import SpanKind as OtelKind
from opentelemetry.trace.status import Status, StatusCode

from sofs.core.spans import Span
from sofs.core.trace import TRACE_BYTES, SpanKind, SpanStatus

SCOPE: Final = "sofs"
_KINDS: Final = {
    SpanKind.CLIENT: OtelKind.CLIENT,
    SpanKind.ATTEMPT: OtelKind.CLIENT,
    SpanKind.NODE: OtelKind.SERVER,
    SpanKind.AUTHORITY: OtelKind.SERVER,
}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


def attributes(span: Span) -> dict[str, str | int | bool]:
    """What is known of a span beside its name and times."""
    found: dict[str, str | int | bool] = {"sofs.kind": span.kind.name.lower()}
    for name in ("handle", "offset", "number", "length"):
        value = getattr(span, name)
        if value:
            found[f"sofs.{name}"] = min(value, 2**63 - 1)  # OTLP numbers are signed.
    if span.notes:
        found["sofs.note"] = "; ".join(span.notes)
    if span.status is SpanStatus.KILLED:
        found["sofs.killed"] = True
    return found


def resource(span: Span) -> dict[str, str | int]:
    """The process of a span."""
    return {
        "service.name": f"sofs-{span.role}",
        "service.instance.id": f"{span.process}-{span.pid}",
        "process.pid": span.pid,
    }


def finished(spans: Iterable[Span]) -> list[Span]:
    """The spans that will not change any more."""
    return [span for span in spans if span.status is not SpanStatus.OPEN]


def above(span: Span) -> bytes:
    """The id of a span's parent; as recorded when that one is not known here (any more)."""
    return span.parent or (span.begun_below and span.begun_below[:-1] + b"\0")


def trace_of_links(spans: Iterable[Span]) -> dict[bytes, bytes]:
    """By span id, the trace that a span belongs to: links name the one that it was begun in."""
    return {span.id: span.trace for span in spans}


# JSON -------------------------------------------------------------------------------------------


def to_json(spans: Sequence[Span]) -> dict[str, Any]:
    """An ExportTraceServiceRequest in OTLP's JSON form."""
    belongs = trace_of_links(spans)
    by_process: dict[tuple[tuple[str, str | int], ...], list[Span]] = {}
    for span in finished(spans):
        by_process.setdefault(tuple(resource(span).items()), []).append(span)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [_json_attribute(*pair) for pair in process]},
                "scopeSpans": [
                    {
                        "scope": {"name": SCOPE},
                        "spans": [_json_span(span, belongs) for span in members],
                    }
                ],
            }
            for process, members in by_process.items()
        ]
    }


def _json_span(span: Span, belongs: dict[bytes, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": span.trace.hex(),
        "spanId": span.id.hex(),
        "name": span.name,
        "kind": _KINDS.get(span.kind, OtelKind.INTERNAL).value + 1,  # 0 is "unspecified" in OTLP.
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": [_json_attribute(*pair) for pair in attributes(span).items()],
        "status": {"code": 1}
        if span.status is SpanStatus.OK
        else {"code": 2, "message": why(span)},
    }
    if above(span):
        found["parentSpanId"] = above(span).hex()
    if span.links:
        found["links"] = [
            {"traceId": trace.hex(), "spanId": other.hex()}
            for trace, other in _links(span, belongs)
        ]
    return found


def _json_attribute(name: str, value: str | int | bool) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"key": name, "value": {"boolValue": value}}
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    return {"key": name, "value": {"stringValue": value}}


def why(span: Span) -> str:
    """Why a span did not end well."""
    if span.status is SpanStatus.KILLED:
        return "killed with its process"
    return span.notes[-1] if span.notes else span.status.name.lower()


def _links(span: Span, belongs: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    found = []
    for link in span.links:
        other = link[TRACE_BYTES:]
        if other not in belongs:
            other = other[:-1] + b"\0"  # An attempt without a record is its operation.
        found.append((belongs.get(other, link[:TRACE_BYTES]), other))
    return found


# The SDK ----------------------------------------------------------------------------------------


def to_sdk(spans: Sequence[Span], belongs: dict[bytes, bytes]) -> list[ReadableSpan]:
    """Spans as the OpenTelemetry SDK hands them to exporters. ``belongs``: see
    ``trace_of_links``, of all spans that are known."""
    scope = InstrumentationScope(SCOPE)
    resources: dict[tuple[str, int], Resource] = {}
    found = []
    for span in finished(spans):
        process = (span.process, span.pid)
        if process not in resources:
            resources[process] = Resource(resource(span))
        ok = span.status is SpanStatus.OK
        found.append(
            ReadableSpan(
                name=span.name,
                context=_context(span.trace, span.id),
                parent=_context(span.trace, above(span)) if above(span) else None,
                resource=resources[process],
                attributes=attributes(span),
                links=[Link(_context(*link)) for link in _links(span, belongs)],
                kind=_KINDS.get(span.kind, OtelKind.INTERNAL),
                instrumentation_scope=scope,
                status=Status(StatusCode.OK) if ok else Status(StatusCode.ERROR, why(span)),
                start_time=span.start_ns,
                end_time=span.end_ns,
            )
        )
    return found


def _context(trace: bytes, span: bytes) -> SpanContext:
    return SpanContext(int.from_bytes(trace, "big"), int.from_bytes(span, "big"), False, _SAMPLED)
