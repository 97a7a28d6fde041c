"""What clients did and saw: the record that checkers judge.

A ``History`` holds operations. Each has a call, drawn before the client sends anything, and at most
one return, drawn after the client has its answer; so an operation whose return stands before
another's call was really over by then, and the checkers' notion of "before" is sound. Time stamps
are for people: many events may share a microsecond of virtual time. Order comes from ``called``
and ``returned``, drawn from one counter.

Four outcomes. ``ok``: took effect, with this result. ``refused``: a definite error, had no effect
and never will. ``unknown``: the client gave up, or met an indefinite error; it took effect once, at
any time after its call, even long after the client gave up, or never will. ``pending``: no
answer yet; the same as unknown when the history is judged.

Kinds are words, and what their arguments mean is fixed by the checkers that read them. The
vocabulary:

==============  ==================================  ==============================================
kind            arguments                           result when ok
==============  ==================================  ==============================================
``read``        offset, length                      the bytes (short at the end of the file)
``write``       offset, data                        anything
``append``      data                                offset where it landed
``truncate``    size                                anything
``size``                                            bytes
``lock``        offset, length, exclusive, holder   anything; ``holder`` names the handle
``unlock``      offset, length, holder              anything
``release``     holder                              anything: all its locks go (close, or expiry)
``add``         amount                              the new value, or None if not told
``get``                                             the value
``create``      path                                anything: exclusive; the name was free
``mkdir``       path                                anything
``unlink``      path                                anything
``rmdir``       path                                anything
``rename``      source, target, replace             anything
``exists``      path                                bool
``listdir``     path                                names
==============  ==================================  ==============================================

The key is the file's name or number for the first ten, a name of the volume for the others. Other
kinds are welcome: a checker passes over those that it does not read.

No I/O, no clock, no thread: calls may come from several threads (each operation from one), since
they only draw from a counter and append to a list.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Outcome = Literal["pending", "ok", "refused", "unknown"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("pending", "ok", "refused", "unknown")

OPERATIONS_MAX: Final = 500_000
BYTES_MAX: Final = 512 << 20  # Of data in arguments and results.
COLUMNS: Final = 100
_BAR: Final = 16
_WINDOW_MAX: Final = 60


class HistoryFull(RuntimeError):
    """The recorder is at its stated limit. Judge what it has, or raise the limit."""


@dataclass(slots=True, eq=False)
class Operation:
    """One operation of one client; two are the same only if they are the same object."""

    number: int
    client: str
    kind: str
    key: str
    arguments: tuple[Any, ...]
    called: int
    called_us: int
    outcome: Outcome = "pending"
    result: Any = None
    code: str = ""
    returned: int | None = None
    returned_us: int | None = None

    @property
    def maybe(self) -> bool:
        """Whether it may have taken effect without anybody having been told."""
        return self.outcome in ("pending", "unknown")

    @property
    def end(self) -> float:
        """Its return in the order of events; infinite for an effect that may yet come."""
        return float("inf") if self.maybe or self.returned is None else self.returned

    def __str__(self) -> str:
        return self.text()

    def text(self, columns: int = 0) -> str:
        """A line about it; with ``columns``, what is too long is cut before the outcome."""
        told = {
            "pending": "?",
            "unknown": f"unknown {self.code}".rstrip(),
            "refused": f"refused {self.code}".rstrip(),
            "ok": "ok" if self.result is None else f"= {show(self.result)}",
        }[self.outcome]
        given = ", ".join(show(a) for a in self.arguments)
        head = f"#{self.number} {self.client} {self.kind} {self.key}({given})"
        room = columns - len(told) - 1
        if columns and len(head) > room:
            head = f"{head[: max(0, room - 2)]}.."
        return f"{head} {told}"


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened beside the clients, such as a fault."""

    order: int
    at_us: int
    text: str


@dataclass(eq=False)
class History:
    """A bounded record of concurrent operations. ``now_us`` is the clock of its time stamps.

    ``HistoryFull`` is raised by the call that would exceed ``operations_max`` operations and notes
    or ``bytes_max`` bytes of data (with several threads: by one that does, or soon after).
    """

    now_us: Callable[[], int]
    operations_max: int = OPERATIONS_MAX
    bytes_max: int = BYTES_MAX
    operations: list[Operation] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _bytes: int = 0

    def invoke(self, client: str, kind: str, key: str, *arguments: Any) -> Operation:
        """Record that ``client`` is about to send an operation; to be called before it does."""
        self._room(arguments)
        order = next(self._order)
        operation = Operation(order, client, kind, key, arguments, order, self.now_us())
        self.operations.append(operation)
        return operation

    def ok(self, operation: Operation, result: Any = None) -> None:
        """Record that the client was told that it took effect."""
        self._room((result,))
        self._return(operation, "ok", result=result)

    def refused(self, operation: Operation, code: str) -> None:
        """Record a definite error: no effect, now or later."""
        self._return(operation, "refused", code=code)

    def unknown(self, operation: Operation, code: str = "") -> None:
        """Record that nobody knows: it may take effect at any time from its call on, or never."""
        self._return(operation, "unknown", code=code)

    def note(self, text: str) -> None:
        """Record something beside the clients, to be shown between the operations."""
        self._room(())
        self.notes.append(Note(next(self._order), self.now_us(), text))

    def _return(
        self, operation: Operation, outcome: Outcome, *, result: Any = None, code: str = ""
    ) -> None:
        if operation.outcome != "pending":
            raise ValueError(f"{operation} has its outcome already; it cannot be {outcome} too")
        operation.result, operation.code = result, code
        operation.returned_us = self.now_us()
        operation.returned = next(self._order)
        operation.outcome = outcome

    def _room(self, values: Iterable[Any]) -> None:
        if len(self.operations) + len(self.notes) >= self.operations_max:
            raise HistoryFull(f"the history holds its maximum of {self.operations_max} operations")
        self._bytes += sum(len(v) for v in values if isinstance(v, bytes | bytearray))
        if self._bytes > self.bytes_max:
            raise HistoryFull(f"the history holds its maximum of {self.bytes_max} bytes of data")

    # Selection ------------------------------------------------------------------------------

    def of(self, *kinds: str) -> list[Operation]:
        """The operations of these kinds, in the order of their calls."""
        return sorted((o for o in self.operations if o.kind in kinds), key=lambda o: o.called)

    def by_key(self, *kinds: str) -> dict[str, list[Operation]]:
        """The operations of these kinds by key, each in the order of their calls."""
        found: dict[str, list[Operation]] = {}
        for operation in self.of(*kinds):
            found.setdefault(operation.key, []).append(operation)
        return found

    # As text --------------------------------------------------------------------------------

    def window(self, around: Sequence[Operation], margin: int = 4) -> str:
        """Render the operations ``around``, those on the same keys that may overlap them,
        ``margin`` before and after these, and the notes between; a line has at most 100 columns."""
        if not around:
            return "(no operations)"
        keys = dict.fromkeys(o.key for o in around)
        first = min(o.called for o in around)
        last = max(o.returned or o.called for o in around)
        same = [o for o in sorted(self.operations, key=lambda o: o.called) if o.key in keys]
        inside = [o for o in same if o.called <= last and o.end >= first]
        before = [o for o in same if o.end < first][-margin:]
        after = [o for o in same if o.called > last][:margin]
        marked = {o.number for o in around}
        if len(inside) > _WINDOW_MAX:
            inside = _nearest(inside, marked)
        return self.render([*before, *inside, *after], marked)

    def render(self, operations: Sequence[Operation], marked: Iterable[int] = ()) -> str:
        """Render ``operations`` with the notes between their calls; those in ``marked`` get a
        star."""
        stars = set(marked)
        shown = sorted(operations, key=lambda o: o.called)
        if not shown:
            return "(no operations)"
        start = min(o.called for o in shown)
        end = max(max(o.called, o.returned or 0) for o in shown)
        lines: list[tuple[int, str]] = []
        for o in shown:
            bar = _bar(o.called, o.returned if not o.maybe else None, start, end)
            star = "*" if o.number in stars else " "
            returned = "?" if o.returned_us is None else _ms(o.returned_us)
            place = f"{star}{_ms(o.called_us):>11}{returned:>12} {bar} "
            lines.append((o.called, place + o.text(COLUMNS - len(place))))
        for note in self.notes:
            if start <= note.order <= end:
                lines.append((note.order, f" {_ms(note.at_us):>11} ---- {note.text}"))
        lines.sort(key=lambda line: line[0])
        head = f" {'called ms':>11}{'returned ms':>12}"
        return "\n".join([head, *(_cut(line) for _, line in lines)])

    # As JSON lines --------------------------------------------------------------------------

    def dump(self) -> Iterator[str]:
        """The history as JSON, a line an operation or note; ``load`` gives it back."""
        for o in self.operations:
            row = {name: _plain(getattr(o, name)) for name in _FIELDS}
            yield json.dumps({"operation": row}, separators=(",", ":"))
        for note in self.notes:
            row = {"order": note.order, "at_us": note.at_us, "text": note.text}
            yield json.dumps({"note": row}, separators=(",", ":"))

    @classmethod
    def load(cls, lines: Iterable[str]) -> History:
        """Build a history from what ``dump`` gave. It can be judged, not recorded on."""
        history = cls(_no_clock)
        for line in lines:
            if not line.strip():
                continue
            row = json.loads(line)
            if "note" in row:
                history.notes.append(Note(**row["note"]))
                continue
            operation = {name: _rich(value) for name, value in row["operation"].items()}
            operation["arguments"] = tuple(operation["arguments"])
            if operation["outcome"] not in OUTCOMES:
                raise ValueError(f"{operation['outcome']!r} is no outcome; use one of {OUTCOMES}")
            history.operations.append(Operation(**operation))
        return history


_FIELDS: Final = (
    "number", "client", "kind", "key", "arguments", "called", "called_us",
    "outcome", "result", "code", "returned", "returned_us",
)  # fmt: skip


def show(value: Any) -> str:
    """A short form of an argument or result."""
    if isinstance(value, bytes | bytearray):
        data = bytes(value)
        if len(data) <= 16 and data.isascii() and data.decode("ascii").isprintable():
            return repr(data)
        return f"{data[:4].hex()}..{len(data)}B"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_clock() -> int:
    raise RuntimeError("a loaded history is not recorded on")


def _nearest(operations: list[Operation], marked: set[int]) -> list[Operation]:
    """At most _WINDOW_MAX of them: the marked ones and the newest others."""
    others = [o for o in operations if o.number not in marked]
    room = max(0, _WINDOW_MAX - len(marked))
    kept = {o.number for o in others[len(others) - room :]} if room else set()
    return [o for o in operations if o.number in marked or o.number in kept]


def _bar(called: int, returned: int | None, start: int, end: int) -> str:
    span = max(1, end - start)
    left = (called - start) * (_BAR - 1) // span
    right = _BAR - 1 if returned is None else (returned - start) * (_BAR - 1) // span
    tail = ">" if returned is None else "|"
    body = "|" if left == right else "|" + "-" * (right - left - 1) + tail
    return (" " * left + body).ljust(_BAR)


def _ms(at_us: int) -> str:
    return f"{at_us / 1000:.3f}"


def _cut(line: str) -> str:
    return line if len(line) <= COLUMNS else line[: COLUMNS - 2] + ".."


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return {"hex": bytes(value).hex()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _rich(value: Any) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if isinstance(value, list):
        return [_rich(v) for v in value]
    return value
