"""Linearizability of a whole history: split into independent parts, each judged by ``wgl.py``.

A history is linearizable if and only if its restriction to each independent object is (Herlihy and
Wing). So every file is judged by itself, and within a file:

- locks apart from data;
- when nothing tells of the file's size (no append, truncate or size, and every read got all that it
  asked for), each set of pages that no operation ties to other pages by itself. Workloads that
  write within pages are judged page by page, in time linear in their length;
- else the file as one object. If that cannot be decided within the limit, its pages are judged one
  by one in addition: each operation cut to the page is weaker, but still has to be linearizable.

Names are split likewise: a name stands for itself until an operation ties it to others (a rename,
a listing, a directory that was itself made or removed).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sofs.sim.checkers.evidence import pinned
from sofs.sim.checkers.models import (
    COUNTER_KINDS,
    DATA_KINDS,
    LOCK_KINDS,
    NAME_KINDS,
    PAGE,
    CounterModel,
    FileModel,
    LockModel,
    NameModel,
    PagesModel,
    ancestors,
    parent,
)
from sofs.sim.checkers.violation import Violation, named
from sofs.sim.checkers.wgl import STEPS_MAX, Model, judge
from sofs.sim.history import History, Operation

S = TypeVar("S", bound=Hashable)
_LAST_SHOWN = 6


def check_linearizable(
    history: History,
    *,
    contents: Mapping[str, bytes] | None = None,
    names: Iterable[tuple[str, bool]] = (),
    steps_max: int = STEPS_MAX,
) -> list[Violation]:
    """Judge all files, lock tables, names and counters of a history. ``contents``: what files held
    before it; ``names``: (path, is a directory) of what existed before it."""
    return [
        *check_data(history, contents=contents, steps_max=steps_max),
        *check_locks(history, steps_max=steps_max),
        *check_names(history, names=names, steps_max=steps_max),
        *check_counters(history, steps_max=steps_max),
    ]


def _judged(
    checker: str, model: Model[S], operations: Sequence[Operation], steps_max: int
) -> list[Violation]:
    """Judge one object; returns at most one violation."""
    verdict = judge(model, operations, steps_max=steps_max)
    if verdict.outcome == "linearizable":
        return []
    if verdict.outcome == "undecided":
        message = f"{len(operations)} operations not decided within {steps_max} steps"
        at = verdict.stuck or operations[0]
        return [Violation(checker, f"{message}, stuck at {at}", (at,), decided=False)]
    stuck = verdict.stuck
    assert stuck is not None
    last = verdict.order[-_LAST_SHOWN:]
    state = "" if verdict.state is None else model.describe(verdict.state)
    message = (
        f"no order explains {stuck}; the longest explained one ends with "
        f"{named(last) or 'nothing'} and leaves: {state}"
    )
    return [Violation(checker, message, (stuck, *last[-2:]))]


# Data ---------------------------------------------------------------------------------------


def check_data(
    history: History,
    *,
    contents: Mapping[str, bytes] | None = None,
    steps_max: int = STEPS_MAX,
    page: int = PAGE,
) -> list[Violation]:
    """Reads, writes, appends, truncates and sizes of every file."""
    found: list[Violation] = []
    for key, operations in history.by_key(*DATA_KINDS).items():
        content = (contents or {}).get(key, b"")
        useful = pinned([o for o in operations if _tells(o)], content)
        if any(_sized(o) for o in useful):
            whole = _judged("linearizable data", FileModel(content, page=page), useful, steps_max)
            found += whole
            if not whole or whole[0].decided:
                continue
            pieces = _projected(useful, page)
            if pieces is None:
                continue
            useful = pieces
        found += _check_pages(useful, content, steps_max, page)
    return found


def _tells(operation: Operation) -> bool:
    """Whether leaving the operation out could change the verdict."""
    if operation.outcome == "refused":
        return False
    return operation.kind not in ("read", "size") or operation.outcome == "ok"


def _sized(operation: Operation) -> bool:
    if operation.kind == "read":
        return len(operation.result) != int(operation.arguments[1])
    return operation.kind != "write"


def _check_pages(
    operations: Sequence[Operation], content: bytes, steps_max: int, page: int
) -> list[Violation]:
    groups = Groups[int]()
    pages_of: list[range] = []
    for operation in operations:
        offset = operation.arguments[0]
        length = _length(operation)
        touched = range(offset // page, -(-(offset + length) // page)) if length else range(0)
        pages_of.append(touched)
        groups.join(touched)
    parts: dict[int, list[Operation]] = {}
    for operation, touched in zip(operations, pages_of, strict=True):
        if touched:
            parts.setdefault(groups.of(touched[0]), []).append(operation)
    members = groups.members()
    found: list[Violation] = []
    for root, part in parts.items():
        model = PagesModel(sorted(members[root]), content, page=page)
        found += _judged("linearizable data", model, part, steps_max)
    return found


def _length(operation: Operation) -> int:
    if operation.kind == "read":
        return int(operation.arguments[1])
    return len(operation.arguments[1])


def _projected(operations: Sequence[Operation], page: int) -> list[Operation] | None:
    """The operations as reads and writes inside one page each; None when it is not known where an
    append may have landed. A truncate leaves zeros from the new end on, whatever the old one."""
    ends = [_reach(o) for o in operations]
    if any(end is None for end in ends):
        return None
    last = max((end for end in ends if end is not None), default=0)
    return [piece for o in operations for piece in _pieces(o, -(-last // page) * page, page)]


def _reach(operation: Operation) -> int | None:
    """One past the last byte that an operation touches; None when nobody knows."""
    kind, given = operation.kind, operation.arguments
    if kind == "read":
        return int(given[0]) + len(operation.result)
    if kind == "write":
        return int(given[0]) + len(given[1])
    if kind == "append":
        at = operation.result if operation.outcome == "ok" else None
        return None if at is None else int(at) + len(given[0])
    return 0 if kind == "size" else int(given[0])


def _pieces(operation: Operation, end: int, page: int) -> list[Operation]:
    kind, given = operation.kind, operation.arguments
    if kind == "size":
        return []
    if kind == "truncate":
        offset, data = int(given[0]), bytes(end - int(given[0]))
    elif kind == "append":
        offset, data = int(operation.result), given[0]
    else:
        offset, data = int(given[0]), operation.result if kind == "read" else given[1]
    pieces = []
    at = 0
    while at < len(data):
        step = page - (offset + at) % page
        piece = data[at : at + step]
        if kind == "read":
            arguments: tuple[Any, ...] = (offset + at, len(piece))
            pieces.append(replace(operation, arguments=arguments, result=piece))
        else:
            pieces.append(replace(operation, kind="write", arguments=(offset + at, piece)))
        at += step
    return pieces


# Locks, names, counters ---------------------------------------------------------------------


def check_locks(history: History, *, steps_max: int = STEPS_MAX) -> list[Violation]:
    """Lock tables of every file."""
    found: list[Violation] = []
    for operations in history.by_key(*LOCK_KINDS).values():
        found += _judged("linearizable locks", LockModel(), operations, steps_max)
    return found


def check_counters(history: History, *, steps_max: int = STEPS_MAX) -> list[Violation]:
    """Counters."""
    found: list[Violation] = []
    for operations in history.by_key(*COUNTER_KINDS).values():
        useful = [o for o in operations if o.kind != "get" or o.outcome == "ok"]
        found += _judged("linearizable counter", CounterModel(), useful, steps_max)
    return found


def check_names(
    history: History, *, names: Iterable[tuple[str, bool]] = (), steps_max: int = STEPS_MAX
) -> list[Violation]:
    """Names of every volume. ``names`` existed before the history, in each volume."""
    start = list(names)
    found: list[Violation] = []
    for operations in history.by_key(*NAME_KINDS).values():
        for part, tracked in _name_parts(operations, start):
            first = [(path, directory) for path, directory in start if path in tracked]
            found += _judged("linearizable names", NameModel(tracked, first), part, steps_max)
    return found


def _name_parts(
    operations: Sequence[Operation], start: Sequence[tuple[str, bool]]
) -> list[tuple[list[Operation], frozenset[str]]]:
    """Split into (operations, names they touch), so that no name is in two parts."""
    made = _made(operations)
    known = sorted(made | {path for path, _ in start} | _looked_at(operations))
    groups = Groups[str]()
    touched: list[list[str]] = []
    for operation in operations:
        names = _touches(operation, made, known)
        touched.append(names)
        groups.join(names)
    parts: dict[str, list[Operation]] = {}
    for operation, names in zip(operations, touched, strict=True):
        parts.setdefault(groups.of(names[0]), []).append(operation)
    members = groups.members()
    tracked = made | {path for path, _ in start}
    return [(part, frozenset(n for n in members[r] if n in tracked)) for r, part in parts.items()]


def _made(operations: Sequence[Operation]) -> set[str]:
    """Every name that an operation may have made or removed, those below a renamed directory
    included."""
    made: set[str] = set()
    moves: list[tuple[str, str]] = []
    for operation in operations:
        if operation.kind == "rename":
            moves.append((operation.arguments[0], operation.arguments[1]))
            made.update(moves[-1])
        elif operation.kind not in ("exists", "listdir"):
            made.add(operation.arguments[0])
    return made


def _looked_at(operations: Sequence[Operation]) -> set[str]:
    return {o.arguments[0] for o in operations if o.kind in ("exists", "listdir")}


def _touches(operation: Operation, made: set[str], known: Sequence[str]) -> list[str]:
    """The names that an operation reads or changes, its own first."""
    paths = [operation.arguments[0]]
    if operation.kind == "rename":
        paths.append(operation.arguments[1])
    touched = list(paths)
    for path in paths:
        touched += [above for above in ancestors(path) if above in made]
        if operation.kind in ("rename", "rmdir"):
            touched += [name for name in known if name.startswith(f"{path}/")]
    if operation.kind == "listdir":
        touched += [name for name in known if parent(name) == paths[0]]
    return touched


T = TypeVar("T", int, str)


class Groups(dict[T, T]):
    """Disjoint sets of numbers or names (union-find)."""

    def of(self, item: T) -> T:
        root = item
        while self.setdefault(root, root) != root:
            root = self[root]
        while self[item] != root:
            self[item], item = root, self[item]
        return root

    def join(self, items: Iterable[T]) -> None:
        """Put all of ``items`` into one set."""
        first: T | None = None
        for item in items:
            if first is None:
                first = self.of(item)
            else:
                self[self.of(item)] = first

    def members(self) -> dict[T, list[T]]:
        found: dict[T, list[T]] = {}
        for item in sorted(self):
            found.setdefault(self.of(item), []).append(item)
        return found
