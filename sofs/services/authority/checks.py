"""Every invariant of the tables, checked from outside: for tests and the simulator, not service.

What is checked does not use the code that keeps it so: plain queries over whole tables.
"""

from __future__ import annotations

from sofs.core.extents import unpack_extents
from sofs.core.messages import TokenMode
from sofs.core.share import denies, excludes, needs
from sofs.core.window import OpWindow
from sofs.errors import InvariantViolation
from sofs.ids import ROOT_INO
from sofs.services.authority.extents import pages_of
from sofs.services.authority.lock_rules import Locks
from sofs.services.authority.tables import WINDOW_COLUMNS, window_message


class Checks(Locks):
    """``check`` looks at everything, so it costs as much as the volume is large."""

    def check(self) -> None:
        """Raise InvariantViolation with every broken invariant of the database."""
        broken = [
            *self._check_tree(),
            *self._check_extents(),
            *self._check_tokens(),
            *self._check_handles(),
            *self._check_locks(),
            *self._check_clients(),
            *self._check_numbers(),
            *self._check_damage(),
        ]
        if broken:
            raise InvariantViolation("; ".join(broken))

    def _none(self, what: str, sql: str) -> list[str]:
        rows = self._all(sql + " LIMIT 5")
        return [f"{what}: {rows}"] if rows else []

    def _check_tree(self) -> list[str]:
        reached = self._one(
            "WITH RECURSIVE t(ino) AS (VALUES(1) UNION ALL SELECT i.ino FROM t JOIN inode i "
            "ON i.parent=t.ino) SELECT count(*),count(DISTINCT ino) FROM t"
        )
        total = self._one("SELECT count(*) FROM inode")[0]
        broken = []
        if tuple(reached) != (total, total):
            broken.append(f"the tree reaches {reached} of {total} inodes")
        return [
            *broken,
            *self._none(
                "names without inode",
                "SELECT * FROM dirent WHERE ino NOT IN (SELECT ino FROM inode)",
            ),
            *self._none(
                "inodes without their name",
                "SELECT i.ino,i.name FROM inode i LEFT JOIN dirent d ON d.parent=i.parent AND "
                f"d.name=i.name AND d.ino=i.ino WHERE d.ino IS NULL AND i.ino!={int(ROOT_INO)}",
            ),
            *self._none(
                "inodes with several names",
                "SELECT ino,count(*) FROM dirent GROUP BY ino HAVING count(*)>1",
            ),
            *self._none(
                "files that are parents",
                "SELECT p.ino FROM inode p JOIN inode i ON i.parent=p.ino WHERE NOT p.directory",
            ),
            *self._none(
                "deleted files that nobody holds",
                "SELECT ino FROM inode WHERE pending AND ino NOT IN (SELECT ino FROM handle)",
            ),
            *self._none(
                "deleted directories with entries",
                "SELECT p.ino FROM inode p JOIN inode i ON i.parent=p.ino WHERE p.pending",
            ),
            *self._none(
                "directories with a size", "SELECT ino FROM inode WHERE directory AND size"
            ),
        ]

    def _check_extents(self) -> list[str]:
        broken: list[str] = []
        live: dict[tuple[int, int], int] = {}
        sizes = dict(self._all("SELECT ino,size FROM inode WHERE NOT directory"))
        last = (0, 0)
        cuts = self._all_cuts()
        for file, page, pages, log_id, segment, packed in self._all(
            "SELECT * FROM extent ORDER BY file,page"
        ):
            runs = list(unpack_extents(packed))
            named = [(r.page, r.pages, r.log_id, r.segment) for r in runs]
            if named != [(page, pages, log_id, segment)]:
                broken.append(f"extent {file}:{page} is packed as {named}")
            ends = [high for low, high in cuts.get(file, []) if low <= page < high]
            if ends and page + pages > ends[0]:
                broken.append(f"extent {file}:{page}+{pages} reaches out of a cut range")
            elif not ends and (file not in sizes or page + pages > pages_of(sizes[file])):
                broken.append(f"extent {file}:{page}+{pages} is outside its file")
            if (file, page) < last:
                broken.append(f"extent {file}:{page} overlaps the one before")
            last = (file, page + pages)
            live[(log_id, segment)] = live.get((log_id, segment), 0) + pages
        counted = {(a, b): n for a, b, n in self._all("SELECT * FROM segment") if n}
        if counted != live:
            broken.append(f"live pages are {live}, counted as {counted}")
        return broken + self._none(
            "extents of unknown logs",
            "SELECT DISTINCT log_id FROM extent WHERE log_id NOT IN (SELECT log_id FROM datalog)",
        )

    def _check_tokens(self) -> list[str]:
        writer = int(TokenMode.DIRECT_RW)
        return [
            *self._none(
                "a writer's token beside others",
                "SELECT ino,count(*) FROM token GROUP BY ino "
                f"HAVING count(*)>1 AND max(mode)={writer}",
            ),
            *self._none(
                "tokens of sealed or unknown nodes",
                "SELECT * FROM token WHERE log_id NOT IN "
                "(SELECT log_id FROM datalog WHERE sealed IS NULL)",
            ),
            *self._none(
                "tokens of no file",
                "SELECT * FROM token WHERE mode NOT IN (1,2) OR ino NOT IN "
                "(SELECT ino FROM inode WHERE NOT directory)",
            ),
            *self._none(
                "token generations given twice",
                "SELECT generation,count(*) FROM token GROUP BY 1 HAVING count(*)>1",
            ),
        ]

    def _check_handles(self) -> list[str]:
        broken: list[str] = []
        opens: dict[int, list[tuple[int, int, int]]] = {}
        for handle, ino, access, share, need, deny in self._all(
            "SELECT handle,ino,access,share,need,deny FROM handle"
        ):
            if (need, deny) != (needs(access), denies(access, share)):
                broken.append(f"handle {handle} needs {need} and denies {deny}")
            for other, other_need, other_deny in opens.get(ino, []):
                if excludes(need, deny, other_need, other_deny):
                    broken.append(f"handles {other} and {handle} exclude each other")
            opens.setdefault(ino, []).append((handle, need, deny))
        for row in self._all(f"SELECT handle,generation,{WINDOW_COLUMNS} FROM handle"):
            message = window_message(*row)
            if OpWindow.from_message(message).to_message(row[0], row[1]) != message:
                broken.append(f"the window of handle {row[0]} is not in its normal form")
        return [
            *broken,
            *self._none(
                "handles of no file",
                "SELECT handle FROM handle WHERE ino NOT IN (SELECT ino FROM inode)",
            ),
            *self._none(
                "handles of sealed or unknown nodes",
                "SELECT handle,log_id FROM handle WHERE log_id AND log_id NOT IN "
                "(SELECT log_id FROM datalog WHERE sealed IS NULL)",
            ),
            *self._none(
                "create GUIDs used twice",
                "SELECT client,create_guid FROM handle WHERE length(create_guid)=16 AND "
                "create_guid!=zeroblob(16) GROUP BY 1,2 HAVING count(*)>1",
            ),
        ]

    def _check_locks(self) -> list[str]:
        broken = self._none(
            "locks without their handle",
            "SELECT l.handle,l.n FROM lock l LEFT JOIN handle h USING(handle) "
            "WHERE h.ino IS NULL OR h.ino!=l.ino",
        )
        for (ino,) in self._all("SELECT DISTINCT ino FROM lock"):
            held = self._locks_of(ino)
            for i, one in enumerate(held):
                for two in held[i + 1 :]:
                    overlap = (
                        one.offset < two.offset + two.length
                        and two.offset < one.offset + one.length
                    )
                    stacked = one.handle == two.handle and not (one.exclusive and two.exclusive)
                    if overlap and (one.exclusive or two.exclusive) and not stacked:
                        broken.append(f"locks {one} and {two} exclude each other")
        return broken

    def _check_clients(self) -> list[str]:
        return [
            *self._none(
                "handles of unknown clients",
                "SELECT handle FROM handle WHERE client NOT IN (SELECT client FROM client)",
            ),
            *self._none(
                "wrong handle counts",
                "SELECT c.handles,(SELECT count(*) FROM handle h WHERE h.client=c.client) n "
                "FROM client c WHERE c.handles!=n",
            ),
            *self._none(
                "results of nobody, or acknowledged",
                "SELECT r.op_id,c.acked FROM result r LEFT JOIN client c USING(client) "
                "WHERE c.acked IS NULL OR r.op_id<c.acked",
            ),
        ]

    def _check_damage(self) -> list[str]:
        broken = self._none(
            "damage of no file",
            "SELECT kind,file FROM corrupt WHERE kind IN (1,2) AND file NOT IN "
            "(SELECT ino FROM inode WHERE NOT directory)",
        )
        broken += self._none(
            "tokens of a file with lost writes",
            "SELECT t.* FROM token t JOIN corrupt c ON c.file=t.ino WHERE c.kind=2",
        )
        for file, page, log_id, sequence in self._all(
            "SELECT file,page,log_id,sequence FROM corrupt WHERE kind=1"
        ):
            packed = self._packed(file, page, page + 1)[0]
            named = [(run.page, run.log_id, run.sequence) for run in unpack_extents(packed)]
            if named != [(page, log_id, sequence)]:
                broken.append(f"page {page} of file {file} is damaged in {log_id}:{sequence}")
        return broken

    def _check_numbers(self) -> list[str]:
        row = self._one("SELECT ino,handle,log,token FROM counter")
        used = self._one(
            "SELECT (SELECT max(ino) FROM inode),(SELECT ifnull(max(handle),0) FROM handle),"
            "(SELECT ifnull(max(log_id),0) FROM datalog),"
            "(SELECT ifnull(max(generation),0) FROM token)"
        )
        if any(u > r for u, r in zip(used, row, strict=True)):
            return [f"numbers {used} are in use, but only {row} were given out"]
        return self._none(
            "applied beyond the seal", "SELECT log_id FROM datalog WHERE applied>sealed"
        )
