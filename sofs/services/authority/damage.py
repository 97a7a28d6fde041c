"""Damage that was found (``$corrupt``): which stored bytes are not what was acknowledged (G2, R5).

Theory. The table is a record for people, and for files of which nobody knows what was lost also a
fence. Its rows are made by whoever found the damage, through the authority's log like all state
(R9), once for each place, and they go in the transaction that makes the place whole or needless.

- PAGE: a stored page fails its checksum. Reads of it are errors by themselves, from the checksum
  that its extent holds; the row only tells. It counts while the file's extent names that very
  record, so a report that comes late, after the page was overwritten, is nothing; and it goes when
  the page is written anew, cut off, or deleted with its file.
- LOST: acknowledged records of a node's log cannot be read, and nothing says which files they
  changed: it may be each file that the node could write. Serving those as if nothing had happened
  would be silent data, so no node is given a token of one (``_refuse_lost``), until all of its
  pages are gone: overwritten as a whole, truncated to nothing, or deleted.
- STORE: an object of the authority's own (a checkpoint, its log) cannot be read. A follower found
  it while the owner still had the state in memory. The row goes when a newer checkpoint has made
  the object needless.

Limits. Beyond CORRUPT_PLACES_MAX rows further PAGE and STORE reports are counted by the caller and
not kept: the damage is found again by whoever reads it, once others are mended. LOST rows are as
many as the tokens that their node held, and are never left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sofs.constants import CORRUPT_PLACES_MAX, CORRUPT_TEXT_BYTES_MAX
from sofs.core.extents import unpack_extents
from sofs.core.messages import CorruptKind, CorruptList, CorruptPlace, TokenMode
from sofs.errors import Corrupt, ProtocolError
from sofs.services.authority.cuts import Cuts, within
from sofs.services.authority.tables import FOREVER_PAGE, INT64_MAX

LISTED_MAX: Final = 500  # Places in one CorruptList; with paths of 4 KiB it stays below a message.
_PAGE: Final = int(CorruptKind.PAGE)
_LOST: Final = int(CorruptKind.LOST)
_STORE: Final = int(CorruptKind.STORE)
_RW: Final = int(TokenMode.DIRECT_RW)
_COLUMNS: Final = "kind,file,page,pages,log_id,segment,sequence,object,found_by,found_ns"


class Reported(NamedTuple):
    """What became of a report: rows made, and places left out beyond the limit."""

    kept: int
    beyond: int


class Damage(Cuts):
    """Rules of the table ``corrupt``."""

    def report_corrupt(
        self, places: Sequence[CorruptPlace], found_by: str, now_ns: int
    ) -> Reported:
        """Enter what somebody found, but for places that are known or no longer so."""
        kept = beyond = 0
        left = (
            CORRUPT_PLACES_MAX - self._one("SELECT count(*) FROM corrupt WHERE kind!=?", _LOST)[0]
        )
        for place in places:
            _check_place(place)
            if place.kind == _PAGE and not self._is_named(place):
                continue
            if left <= 0:
                beyond += self._one(
                    "SELECT count(*)=0 FROM corrupt WHERE kind=? AND file=? AND page=? "
                    "AND object=?",
                    place.kind, place.ino, place.page, place.object,
                )[0]  # fmt: skip
                continue
            made = len(self._all(
                "INSERT INTO corrupt VALUES(?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING "
                "RETURNING 1",
                place.kind, place.ino, place.page, place.object, 1, place.log_id, place.segment,
                place.sequence, found_by, now_ns,
            ))  # fmt: skip
            kept += made
            left -= made
        return Reported(kept, beyond)

    def _is_named(self, place: CorruptPlace) -> bool:
        """Does the file's newest extent of the page name the reported record?"""
        row = self._one(
            "SELECT packed FROM extent WHERE file=? AND page<=? ORDER BY page DESC LIMIT 1",
            place.ino, place.page,
        )  # fmt: skip
        if row is None or within(self._cuts(place.ino), place.page):
            return False
        run = next(unpack_extents(row[0]))
        named = (run.log_id, run.segment, run.sequence)
        return place.page < run.page + run.pages and named == (
            place.log_id,
            place.segment,
            place.sequence,
        )

    def lose_records(self, log_id: int, first: int, found_by: str, now_ns: int) -> list[int]:
        """Records from ``first`` on of a log that is being sealed cannot be read: each file that
        its node could write is refused from now on. Returns them. To be called before the node's
        tokens are dropped."""
        rows = self._all(
            "INSERT INTO corrupt SELECT ?1,ino,0,'',?2,log_id,0,?3,?4,?5 FROM token "
            "WHERE log_id=?6 AND mode=?7 ORDER BY ino ON CONFLICT DO NOTHING RETURNING file",
            _LOST, FOREVER_PAGE, first, found_by, now_ns, log_id, _RW,
        )  # fmt: skip
        return [row[0] for row in rows]

    def _refuse_lost(self, ino: int) -> None:
        """Raise Corrupt for a file of which acknowledged writes are lost."""
        if self._is_lost(ino):
            raise Corrupt(
                f"acknowledged writes of file {ino} cannot be read from the log of the node that "
                "made them; write the file anew from a copy (overwrite it, truncate it to "
                "nothing, or delete it)"
            )

    def _is_lost(self, ino: int) -> bool:
        sql = "SELECT 1 FROM corrupt WHERE kind=? AND file=?"
        return self._one(sql, _LOST, ino) is not None

    def _heal(self, ino: int, first: int, end: int) -> None:
        """Pages ``[first, end)`` of a file got other contents, or none."""
        if not self._is_damaged(ino):
            return
        self._run(
            "DELETE FROM corrupt WHERE kind=? AND file=? AND page>=? AND page<?",
            _PAGE, ino, first, end,
        )  # fmt: skip
        if first == 0 and end == FOREVER_PAGE:
            self._run("DELETE FROM corrupt WHERE kind=? AND file=?", _LOST, ino)

    def _is_damaged(self, ino: int) -> bool:
        sql = "SELECT 1 FROM corrupt WHERE kind IN (1,2) AND file=? LIMIT 1"
        return self._one(sql, ino) is not None

    def heal_store(self, through_sequence: int) -> int:
        """A checkpoint made the authority's own objects up to a sequence needless; returns how
        many damaged ones there were."""
        return len(self._all(
            "DELETE FROM corrupt WHERE kind=? AND sequence<=? RETURNING 1",
            _STORE, through_sequence,
        ))  # fmt: skip

    def has_damaged_store(self) -> bool:
        return self._one("SELECT 1 FROM corrupt WHERE kind=? LIMIT 1", _STORE) is not None

    def corrupt_total(self) -> int:
        return int(self._one("SELECT count(*) FROM corrupt")[0])

    def list_corrupt(self) -> CorruptList:
        """Return the first LISTED_MAX places, and how many there are."""
        rows = self._all(f"SELECT {_COLUMNS} FROM corrupt ORDER BY 1,2,3 LIMIT {LISTED_MAX}")
        places = [CorruptPlace(*row) for row in rows]
        for place in places:
            if place.ino:
                place.path = self.path_of(place.ino)
        return CorruptList(places, self.corrupt_total())


def _check_place(place: CorruptPlace) -> None:
    """Raise ProtocolError for what no correct part reports."""
    numbers = (place.ino, place.page, place.log_id, place.segment, place.sequence)
    sound = (
        (place.kind == _PAGE and place.ino and not place.object)
        or (place.kind == _STORE and not place.ino and not place.page and place.object)
    )  # fmt: skip
    if not sound or max(numbers) > INT64_MAX or len(place.object) > CORRUPT_TEXT_BYTES_MAX:
        raise ProtocolError(f"a report of damage makes no sense: {place}")
