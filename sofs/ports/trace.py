"""The trace recorder as services see it: spans begin, end, and are told apart by their context.

``CURRENT`` is the context of the span that the running task works for. A task inherits it from
whoever spawned it, so a task that outlives what it was started for clears it first. Recording never
fails and never suspends: what cannot be recorded is lost, and nothing else happens.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, Protocol

from sofs.core.trace import NO_CONTEXT, SpanKind, SpanStatus
from sofs.errors import SofsError

CURRENT: Final[ContextVar[bytes]] = ContextVar("sofs_trace", default=NO_CONTEXT)


class Recorder(Protocol):
    """Records spans of one process. A context of no bytes is ignored by every method. ``kind`` is a
    SpanKind and ``status`` a SpanStatus, for hot paths as plain numbers."""

    @property
    def enabled(self) -> bool: ...

    def now(self) -> int:
        """The time, in nanoseconds of the machine's monotonic clock."""
        ...

    def begin(
        self,
        kind: int,
        parent: bytes = NO_CONTEXT,
        operation: str = "",
        handle: int = 0,
        offset: int = 0,
        began_ns: int = 0,
    ) -> bytes:
        """Record the start of a span below ``parent``, or of a new trace; return its context.
        ``began_ns``: when it began, as ``now`` said then; 0 for now."""
        ...

    def begin_as(
        self,
        context: bytes,
        kind: int,
        parent: bytes,
        operation: str = "",
        *,
        now: bool = True,
    ) -> None:
        """Record the start of a span whose context was made before. ``now`` false: it began when
        its parent did."""
        ...

    def end(
        self,
        context: bytes,
        status: int = SpanStatus.OK,
        number: int = 0,
        length: int = 0,
        link: bytes = NO_CONTEXT,
    ) -> None:
        """Record the end of a span. ``link``: the context of what it waited for."""
        ...

    def whole(
        self,
        kind: int,
        parent: bytes,
        operation: str,
        handle: int,
        offset: int,
        began_ns: int,
        length: int,
    ) -> None:
        """Record a span that began at ``began_ns`` and has ended well just now, while nothing else
        ran: nobody has its context, and there is at most one below one parent."""
        ...

    def note(self, context: bytes, text: str) -> None:
        """Say something about a span, in a few words."""
        ...

    def link(self, context: bytes, other: bytes) -> None:
        """Connect a span to another one, of any trace."""
        ...

    def close(self) -> None:
        """The process ends in order: whatever is open now was not killed."""
        ...


class NoRecorder:
    """Records nothing."""

    enabled = False

    def now(self) -> int:
        """See ``Recorder``."""
        return 0

    def begin(
        self,
        kind: int,
        parent: bytes = NO_CONTEXT,
        operation: str = "",
        handle: int = 0,
        offset: int = 0,
        began_ns: int = 0,
    ) -> bytes:
        """See ``Recorder``."""
        return NO_CONTEXT

    def begin_as(
        self,
        context: bytes,
        kind: int,
        parent: bytes,
        operation: str = "",
        *,
        now: bool = True,
    ) -> None:
        """See ``Recorder``."""

    def end(
        self,
        context: bytes,
        status: int = SpanStatus.OK,
        number: int = 0,
        length: int = 0,
        link: bytes = NO_CONTEXT,
    ) -> None:
        """See ``Recorder``."""

    def whole(
        self,
        kind: int,
        parent: bytes,
        operation: str,
        handle: int,
        offset: int,
        began_ns: int,
        length: int,
    ) -> None:
        """See ``Recorder``."""

    def note(self, context: bytes, text: str) -> None:
        """See ``Recorder``."""

    def link(self, context: bytes, other: bytes) -> None:
        """See ``Recorder``."""

    def close(self) -> None:
        """See ``Recorder``."""


NO_RECORDER: Final = NoRecorder()


class span:
    """Record the block as a span below ``parent`` (by default the current one), which is current
    inside; gives the block its context. An error is noted and goes on.

    A class, as a generator behind ``contextlib.contextmanager`` costs each request twice that.
    """

    __slots__ = (
        "_above",
        "_context",
        "_handle",
        "_kind",
        "_note",
        "_operation",
        "_recorder",
        "_token",
    )

    def __init__(
        self,
        recorder: Recorder,
        kind: SpanKind,
        operation: str = "",
        *,
        parent: bytes | None = None,
        handle: int = 0,
        note: str = "",
    ) -> None:
        self._recorder = recorder
        self._kind = kind
        self._operation = operation
        self._above = parent
        self._handle = handle
        self._note = note

    def __enter__(self) -> bytes:
        above = CURRENT.get() if self._above is None else self._above
        recorder = self._recorder
        context = recorder.begin(self._kind, above, self._operation, self._handle)
        if self._note:
            recorder.note(context, self._note)
        self._context = context
        self._token = CURRENT.set(context)
        return context

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        CURRENT.reset(self._token)
        if error is None:
            self._recorder.end(self._context)
        else:
            end_with(self._recorder, self._context, error)


def end_with(recorder: Recorder, context: bytes, error: BaseException) -> None:
    """End a span because of an error."""
    if context:
        recorder.note(context, error_text(error))
        recorder.end(context, SpanStatus.ERROR)


def error_text(error: BaseException) -> str:
    """An error in a few words: its code, or the name of its class."""
    return error.code if isinstance(error, SofsError) else type(error).__name__
