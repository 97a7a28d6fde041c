"""Sequential objects that histories are judged against: a file, a lock table, a tree of names, a
counter. Kinds and arguments: ``sofs/sim/history.py``.

States are values. Bytes are kept page by page, so that the next state shares with the last one what
did not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sofs.sim.history import Operation, show

PAGE: Final = 4096
DATA_KINDS: Final = ("read", "write", "append", "truncate", "size")
LOCK_KINDS: Final = ("lock", "unlock", "release")
NAME_KINDS: Final = ("create", "mkdir", "unlink", "rmdir", "rename", "exists", "listdir")
COUNTER_KINDS: Final = ("add", "get")


class FileState(NamedTuple):
    size: int
    pages: tuple[bytes, ...]  # Whole pages; zeros behind the end.


class FileModel:
    """A whole file: read, write, append, truncate, size. A write beyond the end leaves zeros."""

    def __init__(self, content: bytes = b"", *, page: int = PAGE) -> None:
        self._page = page
        self._zeros = bytes(page)
        self._content = content

    def initial(self) -> FileState:
        return self._write(FileState(0, ()), 0, self._content)

    def step(self, state: FileState, operation: Operation) -> FileState | None:
        if operation.outcome == "refused":
            return state
        given = operation.arguments
        told = operation.outcome == "ok"
        match operation.kind:
            case "read":
                right = not told or self._read(state, given[0], given[1]) == operation.result
                return state if right else None
            case "size":
                return state if not told or state.size == operation.result else None
            case "write":
                return self._write(state, given[0], given[1])
            case "append":
                if told and operation.result is not None and operation.result != state.size:
                    return None
                return self._write(state, state.size, given[0])
            case "truncate":
                return self._truncate(state, given[0])
            case _:
                raise ValueError(f"a file knows no {operation.kind!r}")

    def describe(self, state: FileState) -> str:
        return f"{state.size} bytes {show(b''.join(state.pages)[: state.size])}"

    def _read(self, state: FileState, offset: int, length: int) -> bytes:
        end = min(offset + length, state.size)
        if offset >= end:
            return b""
        first = offset // self._page
        data = b"".join(state.pages[first : (end - 1) // self._page + 1])
        return data[offset - first * self._page : end - first * self._page]

    def _write(self, state: FileState, offset: int, data: bytes) -> FileState:
        if not data:
            return state
        size = max(state.size, offset + len(data))
        pages = [*state.pages]
        pages += [self._zeros] * (-(-size // self._page) - len(pages))
        put(pages, offset, data, self._page)
        return FileState(size, tuple(pages))

    def _truncate(self, state: FileState, size: int) -> FileState:
        whole, rest = divmod(size, self._page)
        pages = [*state.pages[: whole + (rest > 0)]]
        if rest and len(pages) > whole:
            pages[whole] = pages[whole][:rest].ljust(self._page, b"\0")
        pages += [self._zeros] * (whole + (rest > 0) - len(pages))
        return FileState(size, tuple(pages))


class PagesModel:
    """Some pages of a file whose size does not matter: every read got all that it asked for."""

    def __init__(self, numbers: Sequence[int], content: bytes = b"", *, page: int = PAGE) -> None:
        self._page = page
        self._at = {number: index for index, number in enumerate(numbers)}
        self._first = tuple(
            content[number * page : (number + 1) * page].ljust(page, b"\0") for number in numbers
        )

    def initial(self) -> tuple[bytes, ...]:
        return self._first

    def step(self, state: tuple[bytes, ...], operation: Operation) -> tuple[bytes, ...] | None:
        if operation.outcome == "refused":
            return state
        offset = operation.arguments[0]
        first = offset // self._page
        index = self._at.get(first, 0)  # An access of no bytes has no page.
        at = offset - first * self._page
        if operation.kind == "read":
            length = operation.arguments[1]
            if operation.outcome != "ok" or not length:
                return state
            data = b"".join(state[index : index + -(-(at + length) // self._page)])
            return state if data[at : at + length] == operation.result else None
        if operation.kind == "write":
            pages = [*state]
            put(pages, index * self._page + at, operation.arguments[1], self._page)
            return tuple(pages)
        raise ValueError(f"pages know no {operation.kind!r}")

    def describe(self, state: tuple[bytes, ...]) -> str:
        shown = [f"page {n}: {show(state[i])}" for n, i in list(self._at.items())[:4]]
        return ", ".join(shown)


def put(pages: list[bytes], offset: int, data: bytes, page: int) -> None:
    """Write ``data`` at ``offset`` into a list of pages that has room for it."""
    at = 0
    while at < len(data):
        number, start = divmod(offset + at, page)
        piece = data[at : at + page - start]
        old = pages[number]
        if len(piece) == page:
            pages[number] = bytes(piece)
        else:
            pages[number] = old[:start] + piece + old[start + len(piece) :]
        at += len(piece)


class HeldRange(NamedTuple):
    """A lock that somebody holds."""

    offset: int
    length: int
    exclusive: bool
    holder: str

    def excludes(self, other: HeldRange) -> bool:
        """Whether ``other`` cannot be granted while this one is held: they overlap, and are not
        both shared, nor is ``other`` a shared one on top of the same holder's exclusive one."""
        if not (
            self.offset < other.offset + other.length and other.offset < self.offset + self.length
        ):
            return False
        if other.exclusive:
            return True
        return self.exclusive and self.holder != other.holder


LockState = tuple[HeldRange, ...]


class LockModel:
    """A file's byte-range locks. LOCK_NOT_GRANTED needs a lock in the way, RANGE_NOT_LOCKED none
    to unlock; other refusals say nothing."""

    def initial(self) -> LockState:
        return ()

    def step(self, state: LockState, operation: Operation) -> LockState | None:
        given = operation.arguments
        refused = operation.outcome == "refused"
        match operation.kind:
            case "lock":
                wanted = HeldRange(*given)
                free = not any(held.excludes(wanted) for held in state)
                if refused:
                    return None if free and operation.code == "LOCK_NOT_GRANTED" else state
                return tuple(sorted((*state, wanted))) if free else None
            case "unlock":
                match = [h for h in state if (h.offset, h.length, h.holder) == given]
                if refused:
                    return None if match and operation.code == "RANGE_NOT_LOCKED" else state
                if not match:
                    return None
                gone = max(match, key=lambda held: held.exclusive)
                left = [*state]
                left.remove(gone)
                return tuple(left)
            case "release":
                return state if refused else tuple(h for h in state if h.holder != given[0])
            case _:
                raise ValueError(f"a lock table knows no {operation.kind!r}")

    def describe(self, state: LockState) -> str:
        return ", ".join(
            f"{h.holder} holds {h.offset}+{h.length}{'' if h.exclusive else ' shared'}"
            for h in state
        )


NameState = tuple[tuple[str, bool], ...]  # (path, is a directory), sorted.


class NameModel:
    """Names of a tree. ``tracked``: the names that operations made or removed, and those that were
    there at the start. A directory on the way to a name is taken to be there if neither it nor one
    above it is tracked. Files are supposed to be closed when they are unlinked: a name whose file
    is open outlives its unlink."""

    def __init__(self, tracked: Iterable[str], start: Iterable[tuple[str, bool]] = ()) -> None:
        self._tracked = frozenset(tracked)
        self._start = tuple(sorted(start))

    def initial(self) -> NameState:
        return self._start

    def describe(self, state: NameState) -> str:
        return " ".join(f"{path}{'/' if directory else ''}" for path, directory in state[:20])

    def step(self, state: NameState, operation: Operation) -> NameState | None:
        names = dict(state)
        if operation.kind in ("exists", "listdir"):
            return state if self._looked(names, operation) else None
        fault = self._fault(names, operation)
        if operation.outcome == "refused":
            if operation.code in _CODES and operation.code not in fault:
                return None
            return state
        if fault:
            return None
        self._change(names, operation)
        return tuple(sorted(names.items()))

    def _looked(self, names: dict[str, bool], operation: Operation) -> bool:
        if operation.outcome != "ok":
            return True
        path = operation.arguments[0]
        if operation.kind == "exists":
            return bool((path in names) == operation.result)
        if path in self._tracked and path not in names:
            return False
        found = sorted(name[len(_folder(path)) :] for name in names if parent(name) == path)
        return found == sorted(operation.result)

    def _way(self, names: dict[str, bool], path: str) -> list[str]:
        """The codes that refuse ``path`` for what leads to it."""
        below_tracked = False
        for above in reversed(ancestors(path)):
            below_tracked = below_tracked or above in self._tracked
            if below_tracked and above not in names:
                return ["OBJECT_NAME_NOT_FOUND"]
            if names.get(above) is False:
                return ["NOT_A_DIRECTORY"]
        return []

    def _fault(self, names: dict[str, bool], operation: Operation) -> list[str]:
        """The codes of all reasons for which the operation cannot take effect now."""
        kind, given = operation.kind, operation.arguments
        path: str = given[0]
        fault = self._way(names, path)
        if kind in ("create", "mkdir"):
            return [*fault, *(["OBJECT_NAME_COLLISION"] if path in names else [])]
        if path not in names:
            return fault or ["OBJECT_NAME_NOT_FOUND"]
        if kind == "unlink" and names[path]:
            fault.append("FILE_IS_A_DIRECTORY")
        if kind == "rmdir":
            if not names[path]:
                fault.append("NOT_A_DIRECTORY")
            elif any(parent(name) == path for name in names):
                fault.append("DIRECTORY_NOT_EMPTY")
        if kind == "rename":
            fault += self._rename_fault(names, *given)
        return fault

    def _rename_fault(
        self, names: dict[str, bool], source: str, target: str, replace: bool
    ) -> list[str]:
        fault = self._way(names, target)
        if source == target:
            return fault
        if names[source] and source in ancestors(target):
            fault.append("INVALID_PARAMETER")
        if target in names:
            if not replace:
                fault.append("OBJECT_NAME_COLLISION")
            elif names[target] and not names[source]:
                fault.append("FILE_IS_A_DIRECTORY")
            elif names[source] and not names[target]:
                fault.append("NOT_A_DIRECTORY")
            elif any(parent(name) == target for name in names):
                fault.append("DIRECTORY_NOT_EMPTY")
        return fault

    @staticmethod
    def _change(names: dict[str, bool], operation: Operation) -> None:
        kind, given = operation.kind, operation.arguments
        if kind in ("create", "mkdir"):
            names[given[0]] = kind == "mkdir"
        elif kind in ("unlink", "rmdir"):
            del names[given[0]]
        elif given[0] != given[1]:
            source, target = given[0], given[1]
            names.pop(target, None)
            for name in [n for n in names if n == source or n.startswith(f"{source}/")]:
                names[target + name[len(source) :]] = names.pop(name)


_CODES: Final = (
    "OBJECT_NAME_NOT_FOUND", "OBJECT_NAME_COLLISION", "NOT_A_DIRECTORY", "FILE_IS_A_DIRECTORY",
    "DIRECTORY_NOT_EMPTY",
)  # fmt: skip


def parent(path: str) -> str:
    """The path of the directory that holds ``path``; "" for the root."""
    if path == "/":
        return ""
    return path.rpartition("/")[0] or "/"


def ancestors(path: str) -> list[str]:
    """The directories on the way to ``path``, nearest first, the root last."""
    found = []
    while path not in ("/", ""):
        path = parent(path)
        found.append(path)
    return found


def _folder(path: str) -> str:
    return path if path == "/" else f"{path}/"


class CounterModel:
    """A number: ``add`` and ``get``."""

    def __init__(self, value: int = 0) -> None:
        self._value = value

    def initial(self) -> int:
        return self._value

    def step(self, state: int, operation: Operation) -> int | None:
        if operation.outcome == "refused":
            return state
        told: Any = operation.result if operation.outcome == "ok" else None
        if operation.kind == "get":
            return state if told is None or told == state else None
        if operation.kind == "add":
            after = state + int(operation.arguments[0])
            return after if told is None or told == after else None
        raise ValueError(f"a counter knows no {operation.kind!r}")

    def describe(self, state: int) -> str:
        return str(state)
