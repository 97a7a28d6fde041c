"""Spans from rings: what began and what ended, put together, over all processes of a machine.

Times. Monotonic times of one boot are comparable between processes, so they order spans exactly;
the newest ring of a boot says what they are on the wall clock. A span without an end was *killed*
if its process is dead and did not end in order; it is shown as lasting until that process's last
record.

Steps that many wait for (a seal, a take-over, a batch, a witness's notice) begin a trace of their
own, since nobody knows yet who will wait. Here each of them is *adopted* by the first span that is
linked to it; a seal or a notice also by the failover that leaves the address it is about, if it
happened within ADOPTED_NS_MAX of it. So an operation that outlived a process is one trace, and an
exporter that uses this module tells the same. Later waiters keep their links.

The first attempt of an operation has no record of its own unless it died; a span whose parent is
such an attempt belongs to the operation.

Rules of this file: no I/O, no clock; rings in, spans out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sofs.core.trace import (
    TRACE_BYTES,
    End,
    Link,
    Note,
    RingContents,
    RingOwner,
    RingRecord,
    SpanKind,
    SpanStatus,
    Start,
    Whole,
)

ADOPTED_NS_MAX: Final = 2_000_000_000
DEPTH_MAX: Final = 64  # Of spans below one another; deeper ones are a loop in damaged rings.
_SHARED: Final = (SpanKind.SEAL, SpanKind.TAKEOVER, SpanKind.NOTICE, SpanKind.BATCH)
_NAMES: Final = {
    SpanKind.TAKEOVER: "take-over",
    SpanKind.WAIT: "no authority",
    SpanKind.LINEAGE: "read its log",
}
_ABOUT_NODES: Final = (SpanKind.SEAL, SpanKind.NOTICE)


@dataclass(eq=False, slots=True)
class Span:
    """One span. ``trace`` and ``parent`` are as assembled. Times are nanoseconds since the Unix
    epoch; ``end_ns`` of a killed or open one is when its process was last heard of."""

    trace: bytes
    id: bytes
    parent: bytes
    kind: SpanKind
    operation: str
    process: str
    role: str
    pid: int
    start_ns: int
    end_ns: int
    status: SpanStatus
    handle: int = 0
    offset: int = 0
    number: int = 0
    length: int = 0
    notes: list[str] = field(default_factory=list)
    links: list[bytes] = field(default_factory=list)  # Contexts.
    begun_in: bytes = b""  # Trace and parent as recorded.
    begun_below: bytes = b""

    @property
    def attempt(self) -> int:
        return self.id[-1] if self.kind is SpanKind.ATTEMPT else 0

    @property
    def name(self) -> str:
        """What people call it."""
        word = self.kind.name.lower()
        if self.kind is SpanKind.ATTEMPT:
            return f"attempt {self.attempt}"
        if self.kind is SpanKind.RECALL:
            return self.operation.lower() or word
        if self.kind in _NAMES:
            return _NAMES[self.kind]
        return self.operation or word

    @property
    def duration_ns(self) -> int:
        return max(0, self.end_ns - self.start_ns)


@dataclass(frozen=True, slots=True)
class RingView:
    """A ring and whether its process lives."""

    contents: RingContents
    alive: bool


class RingSpans:
    """The spans of one ring, built record by record."""

    def __init__(self, owner: RingOwner) -> None:
        self.owner = owner
        self.spans: dict[bytes, Span] = {}
        self._unended: dict[bytes, Span] = {}
        self._last_ns = 0

    def take(self, records: Iterable[RingRecord]) -> None:
        """Take the next records, in order."""
        owner = self.owner
        offset_ns = owner.wall_ns - owner.monotonic_ns
        for record in records:
            if isinstance(record, Start):
                self._start(record, offset_ns)
                continue
            if isinstance(record, Whole):
                self._start(record.start, offset_ns)
                record = record.end
            span = self.spans.get(record.span)
            if isinstance(record, End):
                self._last_ns = max(self._last_ns, record.time_ns)
                if span is not None:
                    self._unended.pop(record.span, None)
                    span.end_ns = record.time_ns + offset_ns
                    span.status = record.status
                    span.number, span.length = record.number, record.length
                    if record.link:
                        span.links.append(record.link)
            elif span is not None and isinstance(record, Note):
                span.notes.append(record.text)
            elif span is not None and isinstance(record, Link):
                span.links.append(record.link)

    def _start(self, record: Start, offset_ns: int) -> None:
        owner = self.owner
        self._last_ns = max(self._last_ns, record.time_ns)
        began = record.time_ns + offset_ns
        if not record.time_ns:  # It began when its parent did.
            parent = self.spans.get(record.parent)
            if parent is None:
                return
            began = parent.start_ns
        span = Span(
            trace=record.context[:TRACE_BYTES],
            id=record.context[TRACE_BYTES:],
            parent=record.parent,
            kind=record.kind,
            operation=record.operation,
            process=owner.name,
            role=owner.role,
            pid=owner.pid,
            start_ns=began,
            end_ns=0,
            status=SpanStatus.OPEN,
            handle=record.handle,
            offset=record.offset,
            begun_in=record.context[:TRACE_BYTES],
            begun_below=record.parent,
        )
        self.spans[span.id] = self._unended[span.id] = span

    def settle(self, *, alive: bool, closed: bool) -> None:
        """Say what became of spans without an end, as far as it is known now."""
        ended = SpanStatus.LOST if closed else SpanStatus.KILLED
        last_ns = self._last_ns + self.owner.wall_ns - self.owner.monotonic_ns
        for span in self._unended.values():
            span.status = SpanStatus.OPEN if alive else ended
            span.end_ns = max(span.start_ns, last_ns)

    def forget(self, span: Span) -> None:
        """Drop a span that nobody needs any more."""
        self.spans.pop(span.id, None)
        self._unended.pop(span.id, None)


def assemble(rings: Iterable[RingView]) -> list[Span]:
    """Return the spans of all rings, in order of their start, with adopted ones in their place."""
    rings = list(rings)
    owners = one_clock([ring.contents.owner for ring in rings])
    spans: list[Span] = []
    for ring, owner in zip(rings, owners, strict=True):
        found = RingSpans(owner)
        found.take(record for _, record in ring.contents.records)
        found.settle(alive=ring.alive, closed=ring.contents.closed)
        spans += found.spans.values()
    return place(spans)


def one_clock(owners: Sequence[RingOwner]) -> list[RingOwner]:
    """The owners with the wall clock of the newest process of their boot: it may have been set
    meanwhile, and monotonic times are exact."""
    newest: dict[str, RingOwner] = {}
    for owner in owners:
        known = newest.get(owner.boot_id)
        if known is None or owner.monotonic_ns > known.monotonic_ns:
            newest[owner.boot_id] = owner
    return [
        replace(
            owner,
            wall_ns=newest[owner.boot_id].wall_ns,
            monotonic_ns=newest[owner.boot_id].monotonic_ns,
        )
        for owner in owners
    ]


def place(spans: Sequence[Span]) -> list[Span]:
    """Put spans below one another; returns them in order of their start. May be done again with
    more of them."""
    spans = sorted(spans, key=lambda span: (span.start_ns, span.id))
    by_id = {span.id: span for span in spans}
    for span in spans:
        span.parent = span.begun_below
        if span.parent and span.parent not in by_id:
            operation = span.parent[:-1] + b"\0"
            span.parent = operation if operation in by_id else b""
    _adopt(spans, by_id)
    for span in spans:
        span.trace = _root(span, by_id).begun_in
    return spans


def _adopt(spans: Sequence[Span], by_id: dict[bytes, Span]) -> None:
    for span in spans:
        for link in span.links:
            shared = by_id.get(link[TRACE_BYTES:])
            if shared is not None and shared.kind in _SHARED and not shared.parent:
                _adopt_one(shared, span, by_id)
    leaving = [s for s in spans if s.kind is SpanKind.FAILOVER and s.notes]
    for shared in spans:
        if shared.kind not in _ABOUT_NODES or not shared.notes:
            continue
        near = [
            failover
            for failover in leaving
            if failover.notes[0] == shared.notes[0]
            and failover.start_ns - ADOPTED_NS_MAX <= shared.start_ns
            and shared.start_ns <= failover.end_ns + ADOPTED_NS_MAX
        ]
        if near:  # Of several clients, or moves one after the other, the nearest.
            began = shared.start_ns
            failover = min(near, key=lambda f: (abs(f.start_ns - began), f.id))
            if not shared.parent:
                _adopt_one(shared, failover, by_id)
            elif _root(shared, by_id) is not _root(failover, by_id):
                link = shared.begun_in + shared.id  # Another operation needed it, too.
                if link not in failover.links:
                    failover.links.append(link)


def _adopt_one(shared: Span, waiter: Span, by_id: dict[bytes, Span]) -> None:
    if _root(waiter, by_id) is not shared:
        shared.parent = waiter.id


def _root(span: Span, by_id: dict[bytes, Span]) -> Span:
    for _ in range(DEPTH_MAX):
        above = by_id.get(span.parent) if span.parent else None
        if above is None:
            break
        span = above
    return span


# Traces -----------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Trace:
    """The spans of one trace, in order of their start, and those of others that it is linked to."""

    id: bytes
    spans: list[Span]

    @property
    def root(self) -> Span:
        """The first span that is below no other."""
        ids = {span.id for span in self.spans}
        return next((s for s in self.spans if s.parent not in ids), self.spans[0])

    @property
    def start_ns(self) -> int:
        return self.root.start_ns

    @property
    def duration_ns(self) -> int:
        return self.root.duration_ns

    @property
    def killed(self) -> int:
        """How many of its spans were killed."""
        return sum(span.status is SpanStatus.KILLED for span in self.spans)

    @property
    def failovers(self) -> list[Span]:
        return [span for span in self.spans if span.kind is SpanKind.FAILOVER]


def traces(spans: Iterable[Span]) -> list[Trace]:
    """Group spans by trace, in order of their start."""
    found: dict[bytes, Trace] = {}
    for span in spans:
        trace = found.get(span.trace)
        if trace is None:
            trace = found[span.trace] = Trace(span.trace, [])
        trace.spans.append(span)
    return sorted(found.values(), key=lambda trace: (trace.start_ns, trace.id))


def with_linked(trace: Trace, spans: Sequence[Span]) -> Trace:
    """The trace with what its spans waited for in other traces (a batch that another write began, a
    failover for another operation's sake), each below the first that is linked to it."""
    by_id = {span.id: span for span in spans}
    below: dict[bytes, list[Span]] = {}
    for span in spans:
        below.setdefault(span.parent, []).append(span)
    own = {span.id for span in trace.spans}
    added: list[Span] = []
    for span in trace.spans:
        for link in span.links:
            other = by_id.get(link[TRACE_BYTES:])
            if other is None or other.id in own or other.kind is SpanKind.ATTEMPT:
                continue
            added.append(_moved(other, span.id))
            own.add(other.id)
            for descendant in _descendants(other, below):
                if descendant.id not in own:
                    own.add(descendant.id)
                    added.append(descendant)
    return Trace(trace.id, sorted([*trace.spans, *added], key=lambda s: (s.start_ns, s.id)))


def _moved(span: Span, parent: bytes) -> Span:
    copy = Span(*(getattr(span, name) for name in Span.__slots__))
    copy.parent = parent
    return copy


def _descendants(span: Span, below: dict[bytes, list[Span]], depth: int = 0) -> list[Span]:
    found: list[Span] = []
    if depth < DEPTH_MAX:
        for child in below.get(span.id, ()):
            found += [child, *_descendants(child, below, depth + 1)]
    return found
