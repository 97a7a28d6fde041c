"""Where the newest bytes of every page lie, and how many pages of each segment are still needed.

The runs of a file never overlap: a new run cuts what it covers out of older ones. Only one run can
reach into a page from before it (the one with the largest first page at or below it), so an
insertion looks at that run and those that start inside the new one. ``LiveDelta`` collects the
changes of the live counts during one transaction and writes each count once.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from sofs.constants import BLOCK_BYTES
from sofs.core.extents import PAGES_MAX, cut, repack, unpack_extents
from sofs.core.messages import LogInfo
from sofs.errors import ProtocolError
from sofs.services.authority.tables import FOREVER_PAGE, Tables

EXTENT_PAGES_FIRST: Final = 4096  # Pages of a file that come with its token: 16 MiB.
FETCH_PAGES_MAX: Final = 65_536  # One FetchExtents: up to 3.4 MiB of single-page runs.
_HEAD: Final = Struct("<QIIQII")
_HEAD_BYTES: Final = _HEAD.size

LiveDelta = dict[tuple[int, int], int]

_OVERLAPPED: Final = (
    "SELECT page,pages,log_id,segment,packed FROM extent WHERE file=?1 AND page<?3 AND page>="
    "ifnull((SELECT page FROM extent WHERE file=?1 AND page<=?2 ORDER BY page DESC LIMIT 1),?2)"
)
_SAME: Final = "SELECT pages,log_id,segment FROM extent WHERE file=? AND page=?"
_REPLACE: Final = "UPDATE extent SET log_id=?,segment=?,packed=? WHERE file=? AND page=?"
_PUT: Final = "INSERT INTO extent VALUES(?,?,?,?,?,?)"


def pages_of(size: int) -> int:
    """Return how many pages a file of ``size`` bytes has."""
    return -(-size // BLOCK_BYTES)


class Extents(Tables):
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
        db_execute, db_one = self._db.execute, self._db.one
        view = memoryview(packed)
        n_bytes = len(view)
        behind = self._end_page(ino)
        at = 0
        while at < n_bytes:
            if at + _HEAD_BYTES > n_bytes:
                raise ProtocolError("a packed extent list ends inside an extent")
            page, its_log, segment, _, _, pages = _HEAD.unpack_from(view, at)
            end_at = at + _HEAD_BYTES + 8 * pages
            end = page + pages
            if not 0 < pages <= PAGES_MAX or end_at > n_bytes:
                raise ProtocolError(f"an extent of {pages} pages does not fit its list")
            if its_log != log_id:
                raise ProtocolError(f"an extent of log {its_log} in a list of log {log_id}")
            if end > end_page:
                raise ProtocolError(f"pages {page} to {end} lie behind the file's end")
            same: Any = db_one(_SAME, (ino, page)) if page < behind else None
            run = bytes(view[at:end_at])
            if same is not None and same[0] == pages:  # Overwritten as it was written.
                old = (same[1], same[2])
                live[old] = live.get(old, 0) - pages
                statement = db_execute(_REPLACE, (log_id, segment, run, ino, page))
            else:
                if page < behind:
                    self._cut_out(ino, page, end, live)
                statement = db_execute(_PUT, (ino, page, pages, log_id, segment, run))
            for _ in statement:
                pass
            if end > behind:
                behind = end
            key = (log_id, segment)
            live[key] = live.get(key, 0) + pages
            at = end_at

    def _cut_out(self, ino: int, first: int, end: int, live: LiveDelta) -> None:
        """Take pages ``[first, end)`` out of the runs of a file."""
        for page, pages, log_id, segment, packed in self._all(_OVERLAPPED, ino, first, end):
            run_end = page + pages
            if run_end <= first:
                continue
            gone = min(run_end, end) - max(page, first)
            key = (log_id, segment)
            live[key] = live.get(key, 0) - gone
            self._run("DELETE FROM extent WHERE file=? AND page=?", ino, page)
            if gone < pages:
                run = next(unpack_extents(packed))
                for part in (cut(run, 0, first), cut(run, end, FOREVER_PAGE)):
                    if part is not None:
                        self._run(_PUT, ino, part.page, part.pages, *key, repack(part))

    def _drop_pages(self, ino: int, first: int, live: LiveDelta) -> None:
        """Take all pages from ``first`` on out of a file."""
        if first == 0:
            for log_id, segment, pages in self._all(
                "SELECT log_id,segment,sum(pages) FROM extent WHERE file=? GROUP BY 1,2", ino
            ):
                live[(log_id, segment)] = live.get((log_id, segment), 0) - pages
            self._run("DELETE FROM extent WHERE file=?", ino)
        else:
            self._cut_out(ino, first, FOREVER_PAGE, live)

    def _flush_live(self, live: LiveDelta) -> None:
        """Write the collected changes of the live counts."""
        for (log_id, segment), pages in live.items():
            if pages:
                self._run(
                    "INSERT INTO segment VALUES(?,?,?) ON CONFLICT(log_id,segment) "
                    "DO UPDATE SET live=live+excluded.live",
                    log_id, segment, pages,
                )  # fmt: skip

    def _packed(self, ino: int, first: int, end: int) -> tuple[bytes, int, list[LogInfo]]:
        """Return (packed runs of pages ``[first, end)``, page up to which they are complete, logs).
        That page is FOREVER_PAGE when no run lies behind."""
        parts: list[bytes] = []
        logs: dict[int, None] = {}
        last_end = 0
        for page, pages, log_id, _, packed in self._all(_OVERLAPPED, ino, first, end):
            last_end = page + pages
            if last_end <= first:
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

    def dead_segments(self) -> list[tuple[int, int]]:
        """(log id, segment) of sealed logs in which no extent lies any more.

        A segment of a sealed log that is missing in ``live_pages`` never held any and is dead too;
        only the store knows its name. Delete only after the transaction was acknowledged and every
        token holder has a newer map or is sealed (R10); then call ``forget_segment``.
        """
        return self._all(
            "SELECT s.log_id,s.segment FROM segment s JOIN datalog d USING(log_id) "
            "WHERE s.live=0 AND d.sealed IS NOT NULL ORDER BY 1,2"
        )

    def forget_segment(self, log_id: int, segment: int) -> None:
        """The segment was deleted from the store."""
        self._run("DELETE FROM segment WHERE log_id=? AND segment=? AND live=0", log_id, segment)
