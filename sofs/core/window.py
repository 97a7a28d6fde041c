"""The completed window of a handle: which of its data operations took effect, so that a resent one
is answered and never executed again (G5).

Theory. The operations of a handle carry op sequences that count from 1 and survive generations.
Everything below ``watermark`` is settled; above it, bit i of a bitmap says whether ``watermark +
i`` is. *Settled* means: executed, abandoned (never to be executed), or answered definitely and
acknowledged by the client. The last case is why ``ack_below`` moves the watermark: a refused
operation leaves no record, and without the move a late copy of it on a forgotten connection would
be executed as new.

The answer of a write follows from its request, so nothing is kept for it. The answer of an append
(where it landed) and the fact of an abandonment are kept until the client acknowledges them. A copy
of an append that arrives after that cannot be answered, and nobody waits for the answer.

``judge`` bounds the bitmap and the kept answers. ``complete`` does not: tail replay may see records
far above a watermark whose moves by acknowledgement died with the node; the tail's own limit bounds
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sofs.constants import WINDOW_OPS_MAX
from sofs.core.messages import AppendResult, Window
from sofs.errors import InvalidParameter

OP_SEQUENCE_MAX: Final = 2**62  # Op sequences beyond it are refused; the database holds int64.


@dataclass(frozen=True, slots=True)
class Fresh:
    """Never seen: execute it."""


@dataclass(frozen=True, slots=True)
class Completed:
    """Executed before. ``offset``: where an append landed; None for a write (its own offset)."""

    offset: int | None = None


@dataclass(frozen=True, slots=True)
class WasAbandoned:
    """Settled as never to be executed: answer Abandoned."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Below the watermark with no kept answer: a write is answered as completed, an append with
    Expired."""


@dataclass(frozen=True, slots=True)
class BeyondWindow:
    """Too far above the watermark, or too many unacknowledged answers: LimitExceeded."""


Judgement = Fresh | Completed | WasAbandoned | Forgotten | BeyondWindow

FRESH: Final = Fresh()
COMPLETED: Final = Completed()
WAS_ABANDONED: Final = WasAbandoned()
FORGOTTEN: Final = Forgotten()
BEYOND_WINDOW: Final = BeyondWindow()


class OpWindow:
    """The window of one handle; no I/O, mutated in place."""

    __slots__ = ("_abandoned", "_bits", "_results", "_watermark")

    def __init__(self) -> None:
        self._watermark = 1
        self._bits = 0  # Bit i: watermark + i is settled. Bit 0 is clear between calls.
        self._results: dict[int, int] = {}
        self._abandoned: dict[int, None] = {}

    @classmethod
    def from_message(cls, message: Window) -> OpWindow:
        """Build the window that ``message`` describes; InvalidParameter for an impossible one."""
        if not 1 <= message.watermark <= OP_SEQUENCE_MAX:
            raise InvalidParameter(f"window watermark {message.watermark} is outside 1..2**62")
        window = cls()
        window._watermark = message.watermark
        window._bits = int.from_bytes(message.bitmap, "little")
        window._results = {kept.op_sequence: kept.offset for kept in message.results}
        window._abandoned = dict.fromkeys(message.abandoned)
        window._advance()
        return window

    def to_message(self, handle: int, generation: int) -> Window:
        """Return the whole window as a message of its own."""
        bits = self._bits
        return Window(
            handle=handle,
            generation=generation,
            watermark=self._watermark,
            bitmap=bits.to_bytes((bits.bit_length() + 7) // 8, "little"),
            results=[AppendResult(sequence, at) for sequence, at in sorted(self._results.items())],
            abandoned=sorted(self._abandoned),
        )

    @property
    def watermark(self) -> int:
        """All op sequences below it are settled."""
        return self._watermark

    def judge(self, op_sequence: int) -> Judgement:
        """Say what to do with an operation that has arrived; InvalidParameter for a sequence that
        no client gives out."""
        ahead = op_sequence - self._watermark
        if ahead >= 0 and not self._bits >> ahead & 1:
            if ahead >= WINDOW_OPS_MAX:
                if op_sequence > OP_SEQUENCE_MAX:
                    raise InvalidParameter(f"op sequence {op_sequence} is above 2**62")
                return BEYOND_WINDOW
            if len(self._results) + len(self._abandoned) >= WINDOW_OPS_MAX:
                return BEYOND_WINDOW
            return FRESH
        if op_sequence < 1:
            raise InvalidParameter("op sequences count from 1")
        offset = self._results.get(op_sequence)
        if offset is not None:
            return Completed(offset)
        if op_sequence in self._abandoned:
            return WAS_ABANDONED
        return COMPLETED if ahead >= 0 else FORGOTTEN

    def complete(self, op_sequence: int, offset: int | None = None) -> None:
        """Record that the operation took effect; ``offset``: where an append landed. Again is
        harmless."""
        if self._settle(op_sequence) and offset is not None:
            self._results[op_sequence] = offset

    def abandon(self, op_sequence: int) -> None:
        """Record that the operation shall never be executed; a settled one stays as it is."""
        if self._settle(op_sequence):
            self._abandoned[op_sequence] = None

    def ack_below(self, op_sequence: int) -> None:
        """The client has all answers below ``op_sequence``: forget them, and take refused
        operations below it as settled."""
        if op_sequence > OP_SEQUENCE_MAX:
            raise InvalidParameter(f"acknowledged op sequence {op_sequence} is above 2**62")
        if self._results:
            self._results = {k: v for k, v in self._results.items() if k >= op_sequence}
        if self._abandoned:
            self._abandoned = dict.fromkeys(k for k in self._abandoned if k >= op_sequence)
        if op_sequence > self._watermark:
            self._bits >>= op_sequence - self._watermark
            self._watermark = op_sequence
            self._advance()

    def merge(self, other: OpWindow) -> None:
        """Take what either window has settled: settled operations stay settled. Answers that one of
        them has dropped may come back; that is harmless."""
        mark = max(self._watermark, other._watermark)
        bits = self._bits >> (mark - self._watermark) | other._bits >> (mark - other._watermark)
        self._watermark, self._bits = mark, bits
        self._results = {**other._results, **self._results}
        self._abandoned = {**other._abandoned, **self._abandoned}
        self._advance()

    def _settle(self, op_sequence: int) -> bool:
        """Set the bit; False when it was settled before."""
        ahead = op_sequence - self._watermark
        if ahead == 0 and not self._bits:  # In order, nothing above: by far the common case.
            self._watermark = op_sequence + 1
            return True
        if ahead < 0 or self._bits >> ahead & 1:
            return False
        self._bits |= 1 << ahead
        self._advance()
        return True

    def _advance(self) -> None:
        """Move the watermark over the settled sequences directly above it."""
        bits = self._bits
        if bits & 1:
            ones = (bits ^ (bits + 1)).bit_length() - 1
            self._bits = bits >> ones
            self._watermark += ones
