"""The client's side of traces: one span an operation, and one for each attempt that was in vain.

An operation that is answered at once is two records, its start and its end. Its first attempt has a
context of its own, which goes to the node, but no record: readers know it by its id
(``core.trace.attempt_context``). Only when that attempt ends badly is it recorded, afterwards, as
begun when the operation began. Later attempts are recorded when they are sent, and linked to the
one before, and to the failover that let them be sent again.
"""

from __future__ import annotations

from sofs.client.operation import Operation
from sofs.core.trace import NO_CONTEXT, SpanKind, SpanStatus, attempt_context
from sofs.errors import SofsError
from sofs.ports.trace import NO_RECORDER, Recorder, end_with

_CLIENT = int(SpanKind.CLIENT)
_OK = int(SpanStatus.OK)
_FIRST_ATTEMPT = b"\x01"  # As in ``attempt_context``.


class Spans:
    """Records what becomes of a client's operations."""

    def __init__(self, recorder: Recorder = NO_RECORDER) -> None:
        self._recorder = recorder
        self._enabled = recorder.enabled
        self.failover = NO_CONTEXT  # The newest change of node.

    def begun(self, op: Operation) -> None:
        """The operation was submitted."""
        if self._enabled:
            handle = op.handle
            op.trace = self._recorder.begin(
                _CLIENT,
                NO_CONTEXT,
                op.name,
                0 if handle is None else handle.handle,
                op.span[0],
            )

    def sent(self, op: Operation) -> bytes:
        """A copy is being sent; returns the context that goes along."""
        trace = op.trace
        if not trace:
            return NO_CONTEXT
        op.attempts += 1
        if op.attempts == 1:
            return trace[:-1] + _FIRST_ATTEMPT
        context = attempt_context(trace, op.attempts)
        recorder = self._recorder
        recorder.begin_as(context, SpanKind.ATTEMPT, trace, op.name)
        recorder.link(context, attempt_context(trace, op.attempts - 1))
        if op.replayed:
            recorder.link(context, self.failover)
        return context

    def lost(self, op: Operation) -> None:
        """The stream ended before the answer came."""
        context = self._attempt(op)
        self._recorder.end(context, SpanStatus.LOST)

    def refused(self, op: Operation, error: SofsError) -> None:
        """The node refused a copy."""
        if op.attempts > 1 or error.retry != "never":  # Else the operation's end says it all.
            end_with(self._recorder, self._attempt(op), error)

    def _attempt(self, op: Operation) -> bytes:
        """The context of the newest attempt, which has a record now."""
        if not op.trace or not op.attempts:
            return NO_CONTEXT
        context = attempt_context(op.trace, op.attempts)
        if op.attempts == 1:
            self._recorder.begin_as(context, SpanKind.ATTEMPT, op.trace, op.name, now=False)
        return context

    def answered(self, op: Operation) -> None:
        """The operation has its answer."""
        trace = op.trace
        if trace:
            if op.attempts > 1:
                self._recorder.end(attempt_context(trace, op.attempts))
            self._recorder.end(trace, _OK, op.number, op.n_bytes)
            op.trace = NO_CONTEXT

    def failed(self, op: Operation, error: BaseException) -> None:
        """The operation ends with an error."""
        end_with(self._recorder, op.trace, error)
        op.trace = NO_CONTEXT
