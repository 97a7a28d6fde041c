"""No acknowledged write is lost, and each is there whole or not at all: judged by what files hold
in the end.

Unlike the search of ``wgl.py`` this takes time in proportion to the history, whatever the number of
clients, and never is undecided; it looks at the end only.

A file's bytes fall into runs that every operation covers whole or not at all. Since operations are
atomic, each run must hold what *one* of those covering it left there (or what was there before). An
operation is out of the question where another one that surely took effect began after it had
returned. One of unknown outcome becomes sure as soon as some run can come from nobody else; then it
must show everywhere it went, but where others may have come later. And two that both cover two runs
cannot each be the later one in one of them: that is a torn write.

A truncate leaves zeros from the new end on. An append counts where it was told to have landed;
those whose place nobody knows may have left pieces of their data anywhere.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sofs.sim.checkers.violation import Violation, named
from sofs.sim.history import History, Operation, show

CHECKER: Final = "contents"
_FOREVER: Final = 1 << 62


@dataclass(eq=False, slots=True)
class _Effect:
    """What an operation does to bytes ``[first, end)``; ``operation`` is None for what was there
    before."""

    operation: Operation | None
    first: int
    end: int
    data: bytes
    sure: bool

    def at(self, first: int, end: int) -> bytes:
        return self.data[first - self.first : end - self.first].ljust(end - first, b"\0")

    def before(self, other: _Effect) -> bool:
        """Whether it was over when ``other`` began."""
        if self.operation is None:
            return other.operation is not None
        return other.operation is not None and self.operation.end < other.operation.called


def check_contents(
    history: History,
    finals: Mapping[str, bytes],
    *,
    before: Mapping[str, bytes] | None = None,
) -> list[Violation]:
    """Judge the final contents of files. ``finals``: what they hold, read when all was quiet;
    ``before``: what they held before the history. Files that are not in ``finals`` are passed
    over."""
    found: list[Violation] = []
    by_key = history.by_key("write", "append", "truncate")
    for key, final in finals.items():
        first = (before or {}).get(key, b"")
        found += _check_file(key, final, first, by_key.get(key, []))
    return found


def _effects(operations: Sequence[Operation]) -> tuple[list[_Effect], list[bytes]]:
    """What operations did where, and the data of appends that may be anywhere."""
    effects: list[_Effect] = []
    anywhere: list[bytes] = []
    for o in operations:
        if o.outcome == "refused":
            continue
        sure = not o.maybe
        if o.kind == "truncate":
            effects.append(_Effect(o, int(o.arguments[0]), _FOREVER, b"", sure))
        elif o.kind == "write":
            at, data = int(o.arguments[0]), o.arguments[1]
            effects.append(_Effect(o, at, at + len(data), data, sure))
        elif sure and o.result is not None:
            at, data = int(o.result), o.arguments[0]
            effects.append(_Effect(o, at, at + len(data), data, sure))
        else:
            anywhere.append(o.arguments[0])
    return [e for e in effects if e.first < e.end], anywhere


def _check_file(
    key: str, final: bytes, before: bytes, operations: Sequence[Operation]
) -> list[Violation]:
    effects, anywhere = _effects(operations)
    end = max([len(final), len(before), *(e.end for e in effects if e.end < _FOREVER)])
    borders = sorted(
        {0, len(final), end, *(b for e in effects for b in (e.first, e.end) if b < end)}
    )
    effects.append(_Effect(None, 0, end, before, True))
    final = final.ljust(end, b"\0")
    runs = list(itertools.pairwise(borders))
    cover = _covering(effects, runs)
    elsewhere = _Anywhere(anywhere)
    while True:
        winners: dict[int, _Effect] = {}
        sure_now: list[_Effect] = []
        for number, (first, stop) in enumerate(runs):
            value = final[first:stop]
            able = [e for e in _possible(cover[number]) if e.at(first, stop) == value]
            if len(able) > 1 or elsewhere.explains(number, value):
                continue
            if not able:
                return [_lost(key, first, stop, value, cover[number])]
            winners[number] = able[0]
            if not able[0].sure:
                sure_now.append(able[0])
        if not sure_now:
            break
        for effect in sure_now:
            effect.sure = True
    return _torn(key, runs, cover, winners)


def _covering(effects: Sequence[_Effect], runs: Sequence[tuple[int, int]]) -> list[list[_Effect]]:
    """The effects on each run, by a sweep over the runs in order."""
    waiting = sorted(effects, key=lambda e: -e.first)
    open_: list[_Effect] = []
    cover = []
    for first, _ in runs:
        while waiting and waiting[-1].first <= first:
            open_.append(waiting.pop())
        open_ = [e for e in open_ if e.end > first]
        cover.append(list(open_))
    return cover


def _possible(cover: Sequence[_Effect]) -> list[_Effect]:
    """Those that no sure one surely came after."""
    latest = max((e.operation.called for e in cover if e.sure and e.operation), default=-1)
    return [
        e for e in cover
        if (e.operation is None and latest < 0) or (e.operation and e.operation.end >= latest)
    ]  # fmt: skip


class _Anywhere:
    """The data of appends whose place nobody knows.

    A run may hold pieces of it. Appends land at the end of a file, and what a truncate cuts is gone
    from there on; so the head of an append may be left, but its tail only with its head. Therefore
    a piece begins where an append begins, or where the run does.
    """

    def __init__(self, data: Sequence[bytes]) -> None:
        self._count_max = len(data)
        self._sorted = sorted(data)  # What has most in common with a value is its neighbour here.
        self._joined = b"".join(data)
        self._explained: dict[int, bool] = {}  # By run.

    def explains(self, number: int, value: bytes) -> bool:
        """Whether run ``number`` can be cut in as many pieces as there are appends, and zeros.
        Zeros are where a truncate made the file longer."""
        if not self._count_max:
            return False
        found = self._explained.get(number)
        if found is None:
            found = self._explained[number] = self._cut(value)
        return found

    def _cut(self, value: bytes) -> bool:
        never = self._count_max + 1
        least = [0, *[never] * len(value)]  # By place: of how many pieces what is before it can be.
        for at, byte in enumerate(value):
            count = least[at]
            if count == never:
                continue
            if not byte:
                least[at + 1] = min(least[at + 1], count)
            for stop in range(at + 1, at + self._reach(value, at) + 1):
                least[stop] = min(least[stop], count + 1)
        return least[-1] < never

    def _reach(self, value: bytes, at: int) -> int:
        """How long a piece that begins at ``at`` can be."""
        if not at:  # The middle of one; that it may reach into the next one does no harm.
            lengths = range(1, len(value) + 1)
            return bisect_left(lengths, True, key=lambda n: value[:n] not in self._joined)
        rest = value[at:]
        place = bisect_left(self._sorted, rest)
        return max(_common(rest, data) for data in self._sorted[max(place - 1, 0) : place + 1])


def _common(one: bytes, two: bytes) -> int:
    """How many bytes both begin with."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(two)))


def _lost(key: str, first: int, end: int, value: bytes, cover: Sequence[_Effect]) -> Violation:
    possible = [e.operation for e in _possible(cover) if e.operation]
    origin = [e.operation for e in cover if e.operation and e.at(first, end) == value]
    whence = "that nobody wrote"
    if origin:
        whence = f"of {named(origin)}, which a later write replaced"
    elif not value.strip(b"\0"):
        whence = "(zeros)"
    message = (
        f"{key} bytes {first}..{end} hold {show(value)} {whence}; they should be of "
        f"{named(possible) or 'what was there before'}"
    )
    return Violation(CHECKER, message, tuple([*possible, *origin][:6]))


def _torn(
    key: str,
    runs: Sequence[tuple[int, int]],
    cover: Sequence[Sequence[_Effect]],
    winners: Mapping[int, _Effect],
) -> list[Violation]:
    """Two effects of which each is the later one somewhere."""
    later: dict[tuple[int, int], int] = {}  # (id of the later, id of the earlier) -> run
    for number, winner in winners.items():
        for other in cover[number]:
            if other is winner or not other.sure or not other.operation or not winner.operation:
                continue
            pair = (winner.operation.number, other.operation.number)
            later.setdefault(pair, number)
            if pair[::-1] in later:
                one, two = runs[number], runs[later[pair[::-1]]]
                message = (
                    f"{key} is torn: bytes {one[0]}..{one[1]} are of #{pair[0]}, bytes "
                    f"{two[0]}..{two[1]} of #{pair[1]}, and both wrote all of these"
                )
                return [Violation(CHECKER, message, (winner.operation, other.operation))]
    return []
