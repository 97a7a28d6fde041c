"""File tokens: which node may serve which file by itself, and what it needs for that.

DIRECT_RW is given to a sole holder, DIRECT_R to any number. A token is a row: it is in the log
before the node hears of it (R9) and leaves the table only by the node's own answer
(``token_returned``), by the seal of its data log, or with the file. A token given anew has a new
generation; what a node wrote under an older one than it holds does not count (``commits.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sofs.core.messages import (
    Commit,
    ExtentsReply,
    FetchExtents,
    FileInfo,
    Grant,
    HeldLock,
    TokenMode,
    Window,
)
from sofs.errors import FileIsADirectory, InvalidParameter, ObjectNameNotFound, StaleGeneration
from sofs.services.authority.blocked import Blocked, TokenRef
from sofs.services.authority.commits import Commits
from sofs.services.authority.extents import EXTENT_PAGES_FIRST, FETCH_PAGES_MAX
from sofs.services.authority.tables import FOREVER_PAGE, INT64_MAX, Inode, Node

_R: Final = int(TokenMode.DIRECT_R)
_RW: Final = int(TokenMode.DIRECT_RW)


class Tokens(Commits):
    """Rules of the table ``token``."""

    def acquire_token(self, ino: int, mode: int, incarnation: bytes) -> Grant:
        """Give the node a token of ``mode`` with a new generation, or raise Blocked with all that
        must be recalled first. Whatever the node held of this file it no longer holds: it asks only
        when it has nothing unsent of it."""
        node = self._node(incarnation)
        if mode not in (_R, _RW):
            raise InvalidParameter(f"token mode {mode}; ask for 1 (read) or 2 (read and write)")
        inode = self._inode(ino)
        if inode is None:
            raise ObjectNameNotFound(f"file {ino} is gone")
        if inode.directory:
            raise FileIsADirectory(f"{inode.name!r} has no data to hold a token of")
        self._refuse_lost(ino)
        others, own = self._holders(ino, node)
        wanted = max(mode, own[0]) if own else mode
        self._recall(ino, self._conflicting(others, wanted))
        return self._grant(inode, wanted, node)

    def fetch_extents(self, body: FetchExtents, incarnation: bytes) -> ExtentsReply:
        """Return the runs of pages under a token that the node holds; else StaleGeneration."""
        node = self._node(incarnation)
        if body.pages > FETCH_PAGES_MAX or body.first_page > FOREVER_PAGE:
            raise InvalidParameter(f"at most {FETCH_PAGES_MAX} pages of extents at once")
        if body.ino > INT64_MAX:
            raise StaleGeneration("no such file")
        row = self._one(
            "SELECT generation FROM token WHERE ino=? AND log_id=?", body.ino, node.log_id
        )
        if row is None or row[0] != body.generation:
            raise StaleGeneration(f"token {body.generation} of file {body.ino} is not held")
        packed, _, logs = self._packed(body.ino, body.first_page, body.first_page + body.pages)
        return ExtentsReply(packed, logs)

    def token_returned(self, ino: int, incarnation: bytes, generation: int, commit: Commit) -> None:
        """The node's own answer to a recall: apply what it sent, free the token. Harmless when the
        node was sealed meanwhile or holds a newer generation."""
        row = self._one(
            "SELECT log_id FROM datalog WHERE incarnation=? AND sealed IS NULL", incarnation
        )
        if row is None:
            return
        self.apply_commit(commit)
        self._run(
            "DELETE FROM token WHERE ino=? AND log_id=? AND generation=?", ino, row[0], generation
        )

    def tokens_of(self, ino: int) -> list[TokenRef]:
        """Return all tokens of a file."""
        return [
            TokenRef(*row)
            for row in self._all(
                "SELECT t.ino,d.incarnation,t.generation FROM token t JOIN datalog d USING(log_id) "
                "WHERE t.ino=? ORDER BY log_id",
                ino,
            )
        ]

    # ------------------------------------------------------------------------------------------

    def _holders(
        self, ino: int, node: Node
    ) -> tuple[list[tuple[int, int, int]], tuple[int, int] | None]:
        """Return others' (log id, mode, generation) and the node's own (mode, generation)."""
        others: list[tuple[int, int, int]] = []
        own: tuple[int, int] | None = None
        for row in self._all("SELECT log_id,mode,generation FROM token WHERE ino=?", ino):
            if row[0] == node.log_id:
                own = (row[1], row[2])
            else:
                others.append(row)
        return others, own

    @staticmethod
    def _conflicting(
        others: Sequence[tuple[int, int, int]], wanted: int
    ) -> list[tuple[int, int, int]]:
        return [row for row in others if wanted == _RW or row[1] == _RW]

    def _recall(self, ino: int, rows: Sequence[tuple[int, int, int]]) -> None:
        """Raise Blocked unless ``rows`` is empty."""
        if rows:
            raise Blocked(recall=[TokenRef(ino, self._incarnation(row[0]), row[2]) for row in rows])

    def _recall_all(self, ino: int) -> None:
        """Raise Blocked while any node holds a token of the file."""
        tokens = self.tokens_of(ino)
        if tokens:
            raise Blocked(recall=tokens)

    def _grant(self, inode: Inode, mode: int, node: Node, generation: int = 0) -> Grant:
        """Enter a token with a new generation and return all that goes with it."""
        generation = generation or self._take_numbers(tokens=1)[3]
        self._put_token(inode.ino, node.log_id, mode, generation)
        packed, through, logs = self._packed(inode.ino, 0, EXTENT_PAGES_FIRST)
        return Grant(
            inode.ino,
            generation,
            mode,
            inode.info(),
            self._locks_of(inode.ino),
            self._windows_of(inode.ino, node.log_id),
            packed,
            through,
            logs,
        )

    def _put_token(self, ino: int, log_id: int, mode: int, generation: int) -> None:
        self._run("INSERT OR REPLACE INTO token VALUES(?,?,?,?)", ino, log_id, mode, generation)

    def _try_grant(
        self, inode: Inode, wanted: int, node: Node, handle: int, generation: int = 0
    ) -> Grant | None:
        """Grant along with an open or a reclaim when nobody has to be asked for it, else None (the
        node acquires the token when it needs it).

        When the node holds a sufficient token already, the grant has *that* generation and brings
        only the window of ``handle``: the node keeps its map, size and locks.
        """
        if wanted == TokenMode.NONE or inode.directory or self._is_lost(inode.ino):
            return None
        others, own = self._holders(inode.ino, node)
        if own is not None and own[0] >= wanted:
            windows = [w for w in self._windows_of(inode.ino, node.log_id) if w.handle == handle]
            return Grant(inode.ino, own[1], own[0], inode.info(), windows=windows)
        if self._conflicting(others, wanted):
            return None
        return self._grant(inode, wanted, node, generation)

    def _new_file_grant(
        self, ino: int, mode: int, node: Node, generation: int, info: FileInfo, handle: int
    ) -> Grant | None:
        """The grant of a file that was created in this transaction: nobody else can hold it."""
        if mode == TokenMode.NONE:
            return None
        self._put_token(ino, node.log_id, mode, generation)
        return Grant(
            ino,
            generation,
            mode,
            info,
            windows=[Window(handle=handle, generation=1)],
            extents_through_page=FOREVER_PAGE,
        )

    def _locks_of(self, ino: int) -> list[HeldLock]:
        return [
            HeldLock(handle, int(first), int(length), bool(exclusive))
            for handle, first, length, exclusive in self._all(
                "SELECT handle,first,length,exclusive FROM lock WHERE ino=? ORDER BY handle,n", ino
            )
        ]


def token_mode(access: int) -> int:
    """Return the token mode that an open with ``access`` will need for its data operations."""
    if access & 6:  # WRITE or APPEND
        return _RW
    return _R if access & 1 else 0
