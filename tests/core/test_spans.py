"""Spans from rings: what was killed, what belongs to whom, and what a line of a waterfall says."""

from __future__ import annotations

from sofs.core.spans import RingView, assemble, traces, with_linked
from sofs.core.trace import (
    End,
    Link,
    Note,
    RingContents,
    RingOwner,
    RingRecord,
    SpanKind,
    SpanStatus,
    Start,
    attempt_context,
)

MS = 1_000_000
WALL = 1_700_000_000 * 1000 * MS


def context(trace: int, span: int) -> bytes:
    return trace.to_bytes(16, "big") + (span << 8).to_bytes(8, "big")


class Writer:
    """A ring of one process, record by record."""

    def __init__(self, name: str, *, alive: bool = True, closed: bool = False) -> None:
        self.owner = RingOwner(name, "node", 1, 1, "boot", WALL, 0)
        self.alive, self.closed = alive, closed
        self.records: list[tuple[int, RingRecord]] = []

    def put(self, record: RingRecord) -> None:
        self.records.append((len(self.records), record))

    def start(self, what: bytes, kind: SpanKind, at_ms: int, parent: bytes = b"") -> None:
        self.put(Start(kind, "Write", what, parent[16:], at_ms * MS, 0, 0))

    def end(self, what: bytes, at_ms: int, link: bytes = b"") -> None:
        self.put(End(what[16:], SpanStatus.OK, at_ms * MS, 0, 0, link))

    def view(self) -> RingView:
        return RingView(RingContents(self.owner, self.closed, self.records), self.alive)


def test_what_a_dead_process_did_not_end_was_killed_when_it_was_last_heard_of() -> None:
    views = []
    for name, alive, closed in (("dead", False, False), ("live", True, False), ("left", 0, 1)):
        writer = Writer(name, alive=bool(alive), closed=bool(closed))
        number = len(views) + 1
        writer.start(context(number, 10 * number), SpanKind.NODE, 1)
        writer.start(context(number, 10 * number + 1), SpanKind.NODE, 7)
        writer.end(context(number, 10 * number + 1), 9)
        views.append(writer.view())
    by_process = {s.process: s for s in assemble(views) if s.start_ns == WALL + MS}
    assert by_process["dead"].status is SpanStatus.KILLED
    assert by_process["live"].status is SpanStatus.OPEN
    assert by_process["left"].status is SpanStatus.LOST
    assert by_process["dead"].end_ns == WALL + 9 * MS


def test_a_batch_belongs_to_the_first_who_waited_and_is_shown_to_the_others() -> None:
    node = Writer("node-1")
    first, second, batch = context(1, 1), context(2, 2), context(3, 3)
    node.start(first, SpanKind.CLIENT, 1)
    node.start(second, SpanKind.CLIENT, 2)
    node.start(batch, SpanKind.BATCH, 3)
    node.end(batch, 4)
    node.end(first, 5, batch)
    node.end(second, 5, batch)
    spans = assemble([node.view()])
    one, two = traces(spans)
    assert [s.kind for s in one.spans] == [SpanKind.CLIENT, SpanKind.BATCH]
    assert [s.kind for s in two.spans] == [SpanKind.CLIENT]
    shown = with_linked(two, spans)
    assert [s.kind for s in shown.spans] == [SpanKind.CLIENT, SpanKind.BATCH]
    assert shown.spans[1].parent == second[16:]
    assert one.spans[1].parent == first[16:]  # The other trace is as it was.


def test_a_first_attempt_without_a_record_is_its_operation() -> None:
    client, node = Writer("client"), Writer("node-1")
    operation, served = context(1, 1), context(1, 2)
    client.start(operation, SpanKind.CLIENT, 1)
    client.end(operation, 9)
    node.start(served, SpanKind.NODE, 2, attempt_context(operation, 1))
    spans = assemble([client.view(), node.view()])
    assert spans[1].parent == operation[16:]


def test_an_attempt_that_died_is_told_afterwards_with_what_it_led_to() -> None:
    client, node = Writer("client"), Writer("node-1", alive=False)
    operation, served = context(1, 1), context(1, 2)
    attempt = attempt_context(operation, 1)
    client.start(operation, SpanKind.CLIENT, 3)
    client.put(Start(SpanKind.ATTEMPT, "Write", attempt, operation[16:], 0, 0, 0))
    client.end(attempt, 8)
    client.end(operation, 9)
    node.start(served, SpanKind.NODE, 4, attempt)
    spans = {span.id: span for span in assemble([client.view(), node.view()])}
    assert spans[attempt[16:]].start_ns == WALL + 3 * MS
    assert spans[served[16:]].parent == attempt[16:]
    assert spans[served[16:]].status is SpanStatus.KILLED


def test_a_seal_and_a_notice_belong_to_the_failover_that_left_their_node() -> None:
    client, other = Writer("client"), Writer("coordinator")
    failover, seal, notice, late, elsewhere = (context(n, n) for n in range(1, 6))
    client.start(failover, SpanKind.FAILOVER, 10_000)
    client.put(Note(failover[16:], "127.0.0.11:1"))
    client.end(failover, 10_050)
    for what, kind, at_ms, about in (
        (seal, SpanKind.SEAL, 9_990, "127.0.0.11:1"),
        (notice, SpanKind.NOTICE, 10_060, "127.0.0.11:1"),
        (late, SpanKind.NOTICE, 13_000, "127.0.0.11:1"),
        (elsewhere, SpanKind.SEAL, 10_010, "127.0.0.12:1"),
    ):
        other.start(what, kind, at_ms)
        other.put(Note(what[16:], about))
        other.end(what, at_ms + 1)
    spans = {span.id: span for span in assemble([client.view(), other.view()])}
    parents = {what: spans[what[16:]].parent for what in (seal, notice, late, elsewhere)}
    assert parents == {seal: failover[16:], notice: failover[16:], late: b"", elsewhere: b""}
    assert spans[seal[16:]].trace == failover[:16]


def test_a_seal_that_another_operation_needed_is_linked_to_the_failover() -> None:
    client, other = Writer("client"), Writer("coordinator")
    near, far, asker, seal = (context(n, n) for n in range(1, 5))
    for failover, at_ms in ((far, 9_000), (near, 10_000)):
        client.start(failover, SpanKind.FAILOVER, at_ms)
        client.put(Note(failover[16:], "127.0.0.11:1"))
        client.end(failover, at_ms + 50)
    other.start(asker, SpanKind.AUTHORITY, 9_980)
    other.start(context(3, 4), SpanKind.SEAL, 9_990, asker)
    other.put(Note(seal[16:], "127.0.0.11:1"))
    other.end(seal, 9_995)
    other.end(asker, 9_996)
    spans = assemble([client.view(), other.view()])
    [trace] = [t for t in traces(spans) if t.root.id == near[16:]]
    assert SpanKind.SEAL not in {span.kind for span in trace.spans}
    assert SpanKind.SEAL in {span.kind for span in with_linked(trace, spans).spans}


def test_links_in_a_circle_do_not_hang() -> None:
    ring = Writer("node-1")
    one, two = context(1, 1), context(2, 2)
    ring.start(one, SpanKind.SEAL, 1)
    ring.start(two, SpanKind.SEAL, 1)
    ring.put(Link(one[16:], two))
    ring.put(Link(two[16:], one))
    ring.put(Link(one[16:], one))
    spans = assemble([ring.view()])
    assert len({span.trace for span in spans}) == 1
    for trace in traces(spans):
        with_linked(trace, spans)


def test_an_end_whose_start_was_overwritten_is_left_out() -> None:
    ring = Writer("node-1")
    ring.end(context(1, 1), 5)
    ring.put(Note(context(1, 1)[16:], "of nobody"))
    assert assemble([ring.view()]) == []
