"""Where the newest bytes of every page lie, and how many pages of each segment are still needed.

The runs of a file never overlap: a new run cuts what it covers out of older ones. Only one run can
reach into a page from before it (the one with the largest first page at or below it), so an
insertion looks at that run and those that start inside the new one. What a list of new runs will
meet is read ahead with one statement, since most are single pages that overwrite single pages.
``LiveDelta`` collects the changes of the live counts during one transaction and writes each count
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Final

from sofs.constants import BLOCK_BYTES
from sofs.core.extents import PAGES_MAX, cut, repack, unpack_extents
from sofs.core.messages import LogInfo
from sofs.errors import ProtocolError
from sofs.services.authority.cuts import LiveDelta, within, without
from sofs.services.authority.damage import Damage
from sofs.services.authority.tables import FOREVER_PAGE

EXTENT_PAGES_FIRST: Final = 4096  # Pages of a file that come with its token: 16 MiB.
FETCH_PAGES_MAX: Final = 65_536  # One FetchExtents: up to 3.4 MiB of single-page runs.
_HEAD: Final = Struct("<QIIQII")
_HEAD_BYTES: Final = _HEAD.size

_ASK: Final = (0, (0, 0))  # Not read ahead: look when it is needed.

_OVERLAPPED: Final = (
    "SELECT page,pages,log_id,segment,packed FROM extent WHERE file=?1 AND page<?3 AND page>="
    "ifnull((SELECT page FROM extent WHERE file=?1 AND page<=?2 ORDER BY page DESC LIMIT 1),?2)"
)
_BEFORE: Final = (
    "SELECT j.value,e.page,e.pages,e.log_id,e.segment FROM json_each(?1) j CROSS JOIN extent e "
    "ON e.file=?2 AND e.page="
    "(SELECT page FROM extent WHERE file=?2 AND page<=j.value ORDER BY page DESC LIMIT 1)"
)
_REPLACE: Final = "UPDATE extent SET log_id=?,segment=?,packed=? WHERE file=? AND page=?"
_PUT: Final = "INSERT INTO extent VALUES(?,?,?,?,?,?)"


def _split(packed: bytes, log_id: int, end_page: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (first page, pages, segment, packed run) of a packed list, checked."""
    view = memoryview(packed)
    n_bytes = len(view)
    at = 0
    while at < n_bytes:
        if at + _HEAD_BYTES > n_bytes:
            raise ProtocolError("a packed extent list ends inside an extent")
        page, its_log, segment, _, _, pages = _HEAD.unpack_from(view, at)
        end_at = at + _HEAD_BYTES + 8 * pages
        if not 0 < pages <= PAGES_MAX or end_at > n_bytes:
            raise ProtocolError(f"an extent of {pages} pages does not fit its list")
        if its_log != log_id:
            raise ProtocolError(f"an extent of log {its_log} in a list of log {log_id}")
        if page + pages > end_page:
            raise ProtocolError(f"pages {page} to {page + pages} lie behind the file's end")
        yield page, pages, segment, bytes(view[at:end_at])
        at = end_at


def pages_of(size: int) -> int:
    """Return how many pages a file of ``size`` bytes has."""
    return -(-size // BLOCK_BYTES)


class Extents(Damage):
    """Rules of the tables ``extent`` and ``segment``."""

    def _end_page(self, ino: int) -> int:
        """Return the first page behind all runs of a file."""
        row = self._one(
            "SELECT page+pages FROM extent WHERE file=? ORDER BY page DESC LIMIT 1", ino
        )
        return 0 if row is None else int(row[0])

    def _put_extents(
        self, ino: int, packed: bytes, log_id: int, end_page: int, live: LiveDelta
    ) -> None:
        """Enter a packed list in order; all of it lies in ``log_id`` and below ``end_page``."""
        db_execute = self._db.execute
        runs = list(_split(packed, log_id, end_page))
        behind = self._end_page(ino)
        single = all(run[1] == 1 for run in runs)
        there = self._look_ahead(ino, [run[0] for run in runs], behind, single)
        cuts = left = self._cuts(ino)
        damaged = self._is_damaged(ino)
        for page, pages, segment, run in runs:
            old = there.get(page, _ASK) if page < behind else None
            if old is not None and old[0] == pages:  # Overwritten as it was written.
                live[old[1]] = live.get(old[1], 0) - pages
                statement = db_execute(_REPLACE, (log_id, segment, run, ino, page))
            else:
                if old is not None and self._cut_out(ino, page, page + pages, live) and not single:
                    there = {}  # What was read ahead is no longer so: ask from here on.
                statement = db_execute(_PUT, (ino, page, pages, log_id, segment, run))
            for _ in statement:
                pass
            key = (log_id, segment)
            there[page] = (pages, key)
            live[key] = live.get(key, 0) + pages
            behind = max(behind, page + pages)
            if left:
                left = without(left, page, page + pages)
            if damaged:
                self._heal(ino, page, page + pages)
        if left != cuts:
            self._set_cuts(ino, left)

    def _look_ahead(
        self, ino: int, pages: list[int], behind: int, single: bool
    ) -> dict[int, tuple[int, tuple[int, int]] | None]:
        """Read what stands at the first pages of new runs with one statement: by page, the (length,
        (log id, segment)) of a run that starts there, or None for a hole. Pages in the middle of a
        run are left out.

        Holes are told only when every new run is one page long (``single``): then an entry that
        decides anything (a hole, or a run of one page) cannot change while the list is entered, but
        by a new run of the same page.
        """
        there: dict[int, tuple[int, tuple[int, int]] | None] = (
            dict.fromkeys(pages) if single else {}
        )
        if min(pages, default=behind) >= behind:
            return there
        for page, start, length, log_id, segment in self._all(
            _BEFORE, f"[{','.join(map(str, pages))}]", ino
        ):
            if start == page:
                there[page] = (length, (log_id, segment))
            elif start + length > page:
                there.pop(page, None)
        return there

    def _cut_out(self, ino: int, first: int, end: int, live: LiveDelta) -> bool:
        """Take pages ``[first, end)`` out of the runs of a file; return whether there were any."""
        any_gone = False
        for page, pages, log_id, segment, packed in self._all(_OVERLAPPED, ino, first, end):
            run_end = page + pages
            if run_end <= first:
                continue
            any_gone = True
            gone = min(run_end, end) - max(page, first)
            key = (log_id, segment)
            live[key] = live.get(key, 0) - gone
            self._run("DELETE FROM extent WHERE file=? AND page=?", ino, page)
            if gone < pages:
                run = next(unpack_extents(packed))
                for part in (cut(run, 0, first), cut(run, end, FOREVER_PAGE)):
                    if part is not None:
                        self._run(_PUT, ino, part.page, part.pages, *key, repack(part))
        return any_gone

    def _drop_pages(self, ino: int, first: int, live: LiveDelta) -> None:
        """Take all pages from ``first`` on out of a file: their runs now, or as cut when they are
        more than this transaction may drop."""
        n_runs = self._one(
            "SELECT count(*) FROM (SELECT 1 FROM extent WHERE file=? AND page>=? LIMIT ?)",
            ino, first, live.runs_left + 1,
        )[0]  # fmt: skip
        self._heal(ino, first, FOREVER_PAGE)
        cuts = self._cuts(ino)
        left = without(cuts, first, FOREVER_PAGE)
        if n_runs > live.runs_left:
            self._split_at(ino, first)
            self._set_cuts(ino, [*left, (first, FOREVER_PAGE)])
            return
        live.runs_left -= n_runs
        if left != cuts:
            self._set_cuts(ino, left)
        if first == 0:
            for log_id, segment, pages in self._all(
                "SELECT log_id,segment,sum(pages) FROM extent WHERE file=? GROUP BY 1,2", ino
            ):
                live[(log_id, segment)] = live.get((log_id, segment), 0) - pages
            self._run("DELETE FROM extent WHERE file=?", ino)
        else:
            self._cut_out(ino, first, FOREVER_PAGE, live)

    def _split_at(self, ino: int, border: int) -> None:
        """Make two of the run that reaches over the page ``border``, if there is one."""
        row = self._one(
            "SELECT page,pages,log_id,segment,packed FROM extent WHERE file=? AND page<? "
            "ORDER BY page DESC LIMIT 1",
            ino, border,
        )  # fmt: skip
        if row is None or row[0] + row[1] <= border:
            return
        run = next(unpack_extents(row[4]))
        self._run("DELETE FROM extent WHERE file=? AND page=?", ino, row[0])
        for part in (cut(run, 0, border), cut(run, border, FOREVER_PAGE)):
            assert part is not None
            self._run(_PUT, ino, part.page, part.pages, row[2], row[3], repack(part))

    def _has_page(self, ino: int, page: int) -> bool:
        """Is there anything in a page of the file?"""
        row = self._one(
            "SELECT page+pages FROM extent WHERE file=? AND page<=? ORDER BY page DESC LIMIT 1",
            ino, page,
        )  # fmt: skip
        return row is not None and row[0] > page and not within(self._cuts(ino), page)

    def _packed(self, ino: int, first: int, end: int) -> tuple[bytes, int, list[LogInfo]]:
        """Return (packed runs of pages ``[first, end)``, page up to which they are complete, logs).
        That page is FOREVER_PAGE when no run lies behind."""
        parts: list[bytes] = []
        logs: dict[int, None] = {}
        last_end = 0
        cuts = self._cuts(ino)
        for page, pages, log_id, _, packed in self._all(_OVERLAPPED, ino, first, end):
            last_end = page + pages
            if last_end <= first or (cuts and within(cuts, page)):
                continue
            logs[log_id] = None
            if page < first or last_end > end:
                part = cut(next(unpack_extents(packed)), first, end)
                assert part is not None
                packed = repack(part)
            parts.append(packed)
        whole = last_end <= end and self._end_page(ino) <= end
        infos = [self._log_info(log_id) for log_id in logs]
        return b"".join(parts), FOREVER_PAGE if whole else end, infos

    def _log_info(self, log_id: int) -> LogInfo:
        row = self._one("SELECT incarnation,nonce FROM datalog WHERE log_id=?", log_id)
        return LogInfo(log_id, *row)

    # Space ------------------------------------------------------------------------------------

    def live_pages(self, log_id: int) -> dict[int, int]:
        """Return how many pages each segment of a data log still holds for files."""
        return dict(
            self._all("SELECT segment,live FROM segment WHERE log_id=? ORDER BY segment", log_id)
        )

    def dead_below(
        self, whole_log: int, settled: Mapping[int, int]
    ) -> dict[int, tuple[bytes, int, bool]]:
        """Return log id -> (incarnation, segment below which nothing is named, sealed) of data
        logs.

        ``whole_log`` stands for all segments of a sealed log that no extent names. ``settled``: log
        id -> below which segment nothing will be named any more, by the word of its living owner; a
        live log that is not in it is left out, since a record is in the log before what names it.
        """
        rows = self._all(
            "SELECT d.log_id,d.incarnation,MIN(s.segment),d.sealed IS NOT NULL FROM datalog d "
            "LEFT JOIN segment s ON s.log_id=d.log_id AND s.live>0 GROUP BY d.log_id"
        )
        dead: dict[int, tuple[bytes, int, bool]] = {}
        for log_id, incarnation, lowest, sealed in rows:
            end = whole_log if sealed else settled.get(log_id, 0)
            below = end if lowest is None else min(end, lowest)
            if below > 0:
                dead[log_id] = (incarnation, below, bool(sealed))
        return dead
