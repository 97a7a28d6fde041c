"""Pages that were taken out of a file whose runs are still in the table: a changeset is bounded.

Theory. Taking all pages out of a file costs one row a run, and the changeset of one transaction is
one record, at most PAYLOAD_BYTES_MAX. So a transaction drops at most DROP_RUNS_MAX runs itself.
Where there are more, it enters the page ranges as *cut*, and that is the whole effect: from then on
a run inside a cut range is not part of the file. The runs are deleted later, DROP_RUNS_MAX a
transaction (``drop_some``), by whoever owns the volume then: what is left to do stands in the
tables, so a take-over goes on where the owner before it was.

No run reaches over the border of a cut range: it is split when the range is entered, and a newer
run that lands inside takes its pages out of the range. A deleted file's number is never used again,
so its cut ends with its last run. Until a run is deleted its pages count as live: its segment
stays.

The ranges of file 5 are the row ``cut/0000000000000005`` of ``meta``: pairs of 64-bit page numbers,
ascending and apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import iter_unpack, pack
from typing import Final

from sofs.services.authority.tables import Tables

DROP_RUNS_MAX: Final = 512  # Deleted in one transaction; a run is at most 2.1 KiB of a changeset.
_NAMES: Final = ("cut/", "cut0")
_DEAD: Final = (
    "SELECT page,pages,log_id,segment FROM extent WHERE file=? AND page>=? AND page<? "
    "ORDER BY page LIMIT ?"
)

Ranges = list[tuple[int, int]]


class LiveDelta(dict[tuple[int, int], int]):
    """Changes of live counts in one transaction by (log id, segment), and how many runs it may
    still drop."""

    __slots__ = ("runs_left",)

    def __init__(self) -> None:
        super().__init__()
        self.runs_left = DROP_RUNS_MAX


def without(ranges: Sequence[tuple[int, int]], first: int, end: int) -> Ranges:
    """Return ``ranges`` less ``[first, end)``."""
    left: Ranges = []
    for low, high in ranges:
        if high <= first or end <= low:
            left.append((low, high))
            continue
        if low < first:
            left.append((low, first))
        if end < high:
            left.append((end, high))
    return left


def within(ranges: Sequence[tuple[int, int]], page: int) -> bool:
    """Does a range hold the page?"""
    return any(low <= page < high for low, high in ranges)


class Cuts(Tables):
    """Rules of cut ranges."""

    def _cuts(self, ino: int) -> Ranges:
        row = self._one("SELECT value FROM meta WHERE name=?", _name(ino))
        return [] if row is None else list(iter_unpack("<QQ", row[0]))

    def _set_cuts(self, ino: int, ranges: Ranges) -> None:
        if ranges:
            flat = [page for one in ranges for page in one]
            value = pack(f"<{len(flat)}Q", *flat)
            self._run("INSERT OR REPLACE INTO meta VALUES(?,?)", _name(ino), value)
        else:
            self._run("DELETE FROM meta WHERE name=?", _name(ino))

    def _all_cuts(self) -> dict[int, Ranges]:
        """Return every file's cut ranges."""
        rows = self._all("SELECT name FROM meta WHERE name>=? AND name<?", *_NAMES)
        return {int(name[4:], 16): self._cuts(int(name[4:], 16)) for (name,) in rows}

    def drop_some(self) -> bool:
        """Delete up to DROP_RUNS_MAX runs of cut ranges; False when there is nothing to do."""
        row = self._one("SELECT name FROM meta WHERE name>=? AND name<? LIMIT 1", *_NAMES)
        if row is None:
            return False
        ino = int(row[0][4:], 16)
        ranges = self._cuts(ino)
        live = LiveDelta()
        while ranges and live.runs_left:
            low, high = ranges[0]
            dead = self._all(_DEAD, ino, low, high, live.runs_left)
            for _, pages, log_id, segment in dead:
                live[(log_id, segment)] = live.get((log_id, segment), 0) - pages
            if len(dead) < live.runs_left:
                del ranges[0]
            else:
                high = dead[-1][0] + dead[-1][1]
                ranges = without(ranges, low, high)
            live.runs_left -= len(dead)
            self._run("DELETE FROM extent WHERE file=? AND page>=? AND page<?", ino, low, high)
        self._set_cuts(ino, ranges)
        self._flush_live(live)
        return True

    def _flush_live(self, live: LiveDelta) -> None:
        """Write the collected changes of the live counts."""
        for (log_id, segment), pages in live.items():
            if pages:
                self._run(
                    "INSERT INTO segment VALUES(?,?,?) ON CONFLICT(log_id,segment) "
                    "DO UPDATE SET live=live+excluded.live",
                    log_id, segment, pages,
                )  # fmt: skip


def _name(ino: int) -> str:
    return f"{_NAMES[0]}{ino:016x}"
