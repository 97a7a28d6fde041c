"""One operation of a client from its call to its answer, and the numbers exactly-once stands on.

Theory of operation. An operation gets its number when it is admitted: a metadata mutation an op id
of the client, a write or append an op sequence of its handle. From then on every copy that is sent
carries the same number, so that the servers can tell a copy from a new operation. ``acked_below``,
the lowest number without an answer, goes along and lets the servers forget.

An ``Operation`` is itself the sink of its reply (``ReplySink``): the channel's reader hands the
reply to ``set_result``, which completes the caller's waiter in the same breath. A write thus costs
one object and no task, timer or second future.

``indefinite`` says whether some copy of a mutation was sent and its outcome is not known. It never
goes back by itself: a definite refusal of a later copy says nothing about an earlier one, which may
still wait inside a frozen node. Only an operation that is not indefinite may be dropped; any other
must be answered or settled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from sofs.core.messages import Abandon, EndClient, Message
from sofs.errors import (
    Abandoned,
    Expired,
    FileClosed,
    FileForcedClosed,
    HandleLost,
    SofsError,
    error_from_code,
)
from sofs.ports.store import Buffer
from sofs.ports.stream import Envelope

FAR_AWAY_MS: Final = 2**62  # A deadline that never comes.
EVERYWHERE: Final = (0, 2**63)  # The range of what touches, or may touch, a whole file.
NOWHERE: Final = (0, 0)
_GONE: Final = (HandleLost, FileClosed, FileForcedClosed)


class Kind(Enum):
    """How an operation is numbered, and whether it leaves traces."""

    QUERY = 1  # Changes nothing: no number, may be dropped at any time.
    METADATA = 2  # A mutation by op id.
    DATA = 3  # A write or append by op sequence of its handle.


class Waiter(Protocol):
    """Who waits for the answer: an asyncio future, or a thread."""

    def done(self) -> bool: ...

    def set_result(self, envelope: Envelope, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...


class Numbers:
    """Numbers given out from 1, and the lowest of them without an answer."""

    __slots__ = ("_answered", "acked_below", "next")

    def __init__(self) -> None:
        self.next = 1
        self.acked_below = 1
        self._answered: dict[int, None] = {}  # Above ``acked_below``.

    def take(self) -> int:
        number = self.next
        self.next = number + 1
        return number

    @property
    def span(self) -> int:
        """How many numbers the servers must keep apart."""
        return self.next - self.acked_below

    def answered(self, number: int) -> None:
        """The number's outcome is known here, or no longer wanted. Again is harmless."""
        if number < self.acked_below:
            return
        if number != self.acked_below:
            self._answered[number] = None
            return
        number += 1
        answered = self._answered
        while answered and number in answered:
            del answered[number]
            number += 1
        self.acked_below = number


class Lane:
    """Operations that wait for admission, in order."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: deque[Operation] = deque()


class RemoteHandle(Lane):
    """An open handle as its client sees it."""

    __slots__ = (
        "create_guid",
        "generation",
        "handle",
        "lost",
        "lost_told",
        "numbers",
        "path",
        "unsettled",
    )

    def __init__(self, handle: int, create_guid: bytes, generation: int, path: str) -> None:
        super().__init__()
        self.handle = handle
        self.create_guid = create_guid
        self.generation = generation
        self.path = path
        self.numbers = Numbers()
        self.unsettled: dict[SettleToken, tuple[int, int]] = {}
        self.lost: SofsError | None = None
        self.lost_told = False  # Some caller got the error.

    def lost_error(self) -> SofsError:
        """Why the handle is gone, as a fresh error."""
        lost = self.lost
        assert lost is not None
        self.lost_told = True
        return error_from_code(lost.code, lost.message)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an operation: it took effect (an append at ``offset``), or never will."""

    executed: bool
    offset: int = 0


@dataclass(eq=False, slots=True)
class SettleToken:
    """Names an operation whose outcome the application does not know yet:
    ``share.settle(token)``."""

    operation: str
    path: str
    number: int
    outcome: asyncio.Future[Settled] = field(repr=False)


class Owner(Protocol):
    """Who decides what a reply or a lost session means for an operation."""

    def on_reply(self, op: Operation, envelope: Envelope) -> None: ...

    def on_lost(self, op: Operation, error: BaseException) -> None: ...


class Operation:
    """One call. ``body`` is a request of ``sofs.core.messages``, stamped anew each time it is
    sent."""

    __slots__ = (
        "attempts",
        "body",
        "data",
        "deadline_ms",
        "expects",
        "finished",
        "flying",
        "handle",
        "indefinite",
        "kind",
        "last_error",
        "n_bytes",
        "number",
        "owner",
        "proving",
        "refusals",
        "replayed",
        "session_errors",
        "span",
        "took_effect",
        "trace",
        "urgent",
        "waiter",
    )

    def __init__(
        self,
        owner: Owner,
        body: Any,
        data: Buffer,
        expects: type[Message],
        kind: Kind,
        handle: RemoteHandle | None,
        deadline_ms: int,
        waiter: Waiter,
        span: tuple[int, int] = NOWHERE,
        n_bytes: int = 0,
    ) -> None:
        """``deadline_ms``: a moment of the client's clock. ``span``: the bytes ``[start, end)``
        that it touches. ``n_bytes``: of data, either way."""
        self.owner = owner
        self.body = body  # Any: which fields it has follows from ``kind`` and ``handle``.
        self.data = data
        self.expects = expects
        self.kind = kind
        self.handle = handle
        self.deadline_ms = deadline_ms
        self.waiter = waiter
        self.span = span
        self.n_bytes = n_bytes
        self.number = 0
        self.flying = False  # Sent on the present channel and not answered.
        self.finished = False  # Nobody waits for a reply any more.
        self.indefinite = False
        self.proving = False  # Refused, and it is being settled that no copy is executed later.
        self.took_effect = False  # Settled as executed, although a copy of it was refused.
        self.urgent = False  # Passes the limits: what settles must not wait for what it settles.
        self.trace = b""  # The context of its span, while it is recorded.
        self.attempts = 0  # Copies sent.
        self.replayed = 0  # The session that sent it again.
        self.refusals = 0
        self.session_errors = 0
        self.last_error: SofsError | None = None

    @property
    def name(self) -> str:
        return type(self.body).__name__

    @property
    def path(self) -> str:
        if self.handle is not None:
            return self.handle.path
        path = getattr(self.body, "path", None) or getattr(self.body, "source", "")
        return str(path)

    def needs_proof(self, refusal: SofsError) -> bool:
        """Must its number be settled before anybody hears of the refusal? Some are final by
        themselves, or about the handle of a write."""
        if isinstance(self.body, Abandon | EndClient) or isinstance(refusal, Abandoned | Expired):
            return False
        about_handle = self.kind is Kind.DATA and isinstance(refusal, _GONE)
        return self.indefinite and not about_handle

    # The channel's sink.

    def done(self) -> bool:
        return self.finished

    def set_result(self, envelope: Envelope, /) -> None:
        self.owner.on_reply(self, envelope)

    def set_exception(self, error: BaseException, /) -> None:
        self.owner.on_lost(self, error)


class CloseWaiter(Waiter):
    """A close that its caller gave up goes on; this takes its answer."""

    def __init__(self, outcome: asyncio.Future[Settled]) -> None:
        self._outcome = outcome

    def done(self) -> bool:
        return self._outcome.done()

    def set_result(self, envelope: Envelope, /) -> None:
        self._outcome.set_result(Settled(True))

    def set_exception(self, error: BaseException, /) -> None:
        self._outcome.set_exception(error)
