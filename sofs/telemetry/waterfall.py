"""A trace as text: a line a span, indented below its parent, with a bar in proportion to time.

Lines are at most WIDTH columns. What was killed or lost has a bar of another pattern and says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sofs.core.spans import (
    DEPTH_MAX,
    RingView,
    Span,
    Trace,
    assemble,
    traces,
    with_linked,
)
from sofs.core.trace import SpanKind, SpanStatus
from sofs.telemetry.ring import TRACE_FOLDER, read_rings, sdk_folder

WIDTH: Final = 100
ROWS_MAX: Final = 200
BAR: Final = 30
_PROCESS: Final = 12
_WHAT: Final = 38
_WORDS: Final = {
    SpanStatus.KILLED: "KILLED",
    SpanStatus.LOST: "LOST",
    SpanStatus.OPEN: "open",
    SpanStatus.ERROR: "error",
}


def waterfall(trace: Trace) -> list[str]:
    """The trace as lines."""
    root = trace.root
    begin = min(span.start_ns for span in trace.spans)
    end = max(max(span.end_ns for span in trace.spans), begin + 1)
    killed = f", {trace.killed} KILLED" if trace.killed else ""
    lines = [
        f"trace {trace.id.hex()}  {at(root.start_ns)}",
        f"{subject(root)}: {ms(root.duration_ns)} ms, {status(root)}{killed}",
        "",
        f"{'PROCESS':{_PROCESS}} {'SPAN':{_WHAT}} {'AT MS':>7} {'TOOK':>7}  "
        f"0{f'{ms(end - begin)} ms':>{BAR - 1}}",
    ]
    rows = _ordered(trace)
    for depth, span in rows[:ROWS_MAX]:
        what = "  " * min(depth, 12) + label(span)
        if len(what) > _WHAT:
            what = what[: _WHAT - 1] + "~"
        lines.append(
            f"{span.process[:_PROCESS]:{_PROCESS}} {what:{_WHAT}} "
            f"{ms(span.start_ns - begin):>7} {ms(span.duration_ns):>7}  "
            f"{bar(span, begin, end)}".rstrip()
        )
    if len(rows) > ROWS_MAX:
        lines.append(f"... and {len(rows) - ROWS_MAX} more spans; --json has them all")
    return lines


def _ordered(trace: Trace) -> list[tuple[int, Span]]:
    """All spans, depth first, children in order of their start; with their depth."""
    ids = {span.id for span in trace.spans}
    below: dict[bytes, list[Span]] = {}
    for span in trace.spans:
        below.setdefault(span.parent if span.parent in ids else b"", []).append(span)
    rows: list[tuple[int, Span]] = []

    def visit(span: Span, depth: int) -> None:
        rows.append((depth, span))
        if depth < DEPTH_MAX:
            for child in below.get(span.id, ()):
                visit(child, depth + 1)

    for span in below.get(b"", ()):
        visit(span, 0)
    return rows


def label(span: Span) -> str:
    """A span in a few words."""
    words = [span.name]
    if span.kind is SpanKind.BATCH:
        words.append(f"of {span.number}" if span.number else "")
    if span.status in _WORDS:
        words.append(_WORDS[span.status])
    # Where a failover came from is said by what it waited for, and all of it by --json.
    words += span.notes[1:2] if span.kind is SpanKind.FAILOVER else span.notes
    return " ".join(word for word in words if word)


def subject(span: Span) -> str:
    """What an operation is about."""
    parts = [span.name]
    if span.handle and span.kind in (SpanKind.CLIENT, SpanKind.NODE, SpanKind.AUTHORITY):
        parts.append(f"handle {span.handle}")
    if span.length:
        parts.append(f"{span.length} bytes at {span.offset}")
    if span.kind in (SpanKind.LEADER, SpanKind.DNS):
        parts += span.notes[:1]
    return " ".join(parts)


def status(span: Span) -> str:
    """How it ended, as a word."""
    return _WORDS.get(span.status, "ok")


def bar(span: Span, begin: int, end: int) -> str:
    """Where the span lies between ``begin`` and ``end``."""
    scale = BAR / (end - begin)
    first = min(BAR - 1, int((span.start_ns - begin) * scale))
    length = max(1, min(BAR - first, round(span.duration_ns * scale)))
    mark = "░" if span.status in (SpanStatus.KILLED, SpanStatus.LOST) else "█"
    return " " * first + mark * length


def ms(duration_ns: int) -> str:
    """Nanoseconds as milliseconds, in at most seven characters below a day."""
    value = duration_ns / 1e6
    if value < 100:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 10_000 else f"{value:.0f}"


def at(wall_ns: int) -> str:
    """A moment for people, UTC."""
    moment = datetime.fromtimestamp(wall_ns / 1e9, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def table(found: Sequence[Trace]) -> list[str]:
    """Traces, a line each."""
    lines = [f"{'TRACE':18}{'AT (UTC)':14}{'MS':>9} {'SPANS':>6} {'STATUS':8} OPERATION"]
    for trace in found:
        root = trace.root
        marks = []
        if trace.failovers:
            marks.append(f"{len(trace.failovers)} failover")
        if trace.killed:
            marks.append(f"{trace.killed} KILLED")
        tail = f" ({', '.join(marks)})" if marks else ""
        lines.append(
            f"{trace.id.hex()[-16:]:18}{at(root.start_ns)[11:-1]:14}{ms(root.duration_ns):>9} "
            f"{len(trace.spans):6} {status(root):8} {subject(root)}{tail}"[:WIDTH]
        )
    return lines


def failover_table(found: Sequence[Trace]) -> list[str]:
    """Failovers, a line each."""
    lines = [f"{'TRACE':18}{'AT (UTC)':14}{'MS':>8} {'KILLED':>6}  WHY, FROM AND TO"]
    for trace in found:
        for span in trace.failovers:
            why, *rest = [*span.notes[1:2], *span.notes[:1], *span.notes[2:]] or [""]
            lines.append(
                f"{trace.id.hex()[-16:]:18}{at(span.start_ns)[11:-1]:14}"
                f"{ms(span.duration_ns):>8} {trace.killed:6}  {why}: {' '.join(rest)}"[:WIDTH]
            )
    return lines


def pick(found: Sequence[Trace], wanted: str) -> Trace | None:
    """The trace whose id ends in ``wanted`` (the newest of several); without it, the one with the
    longest failover."""
    if wanted:
        matching = [trace for trace in found if trace.id.hex().endswith(wanted.lower())]
        return matching[-1] if matching else None
    return max(
        (trace for trace in found if trace.failovers),
        key=lambda trace: max(span.duration_ns for span in trace.failovers),
        default=None,
    )


def worst_failover(run_dir: Path) -> list[str]:
    """The longest failover of this process's own clients that the rings of a run still hold, as a
    waterfall; no lines when there was none."""
    rings = read_rings(run_dir / TRACE_FOLDER)
    rings += [r for r in read_rings(sdk_folder(os.environ)) if r.contents.owner.pid == os.getpid()]
    spans = assemble(RingView(ring.contents, ring.alive) for ring in rings)
    trace = pick(traces(spans), "")
    return [] if trace is None else waterfall(with_linked(trace, spans))
