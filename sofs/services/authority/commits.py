"""What nodes wrote comes into the tables: by commit batches while they live, by tail replay once
they are sealed.

Theory. A data log is a sequence of records; ``datalog.applied`` says how far its effects are in the
tables. A commit carries a whole prefix and is applied only when it starts exactly there, so that
applying it twice changes nothing (a batch at or below ``applied`` is ignored) and none can be left
out (a gap is a ProtocolError). Tail replay takes the records above ``applied``, once. Extents,
sizes and completed windows of the same records change in the same transaction: that is exactly once
for data.

Which records of a tail count. Those whose token generation is the one that the log's owner holds:
what it wrote under a token that it gave back was in the commit that came with the token, and a
write after that was never acknowledged. A *handle's* generation does not decide about extents: an
acknowledged write stays, even if its handle was reclaimed elsewhere or released before its node
died. It decides about windows only: they are merged, since settled operations stay settled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sofs.constants import BLOCK_BYTES, FILE_BYTES_MAX, UNSENT_RECORDS_MAX, WINDOW_OPS_MAX
from sofs.core.extents import pack_extent
from sofs.core.messages import Commit, FileCommit, TokenMode, Window
from sofs.core.record import FLAG_DETACHED, DataHeader, DataOp
from sofs.core.window import OP_SEQUENCE_MAX, OpWindow
from sofs.errors import Fenced, ProtocolError, invariant
from sofs.services.authority.cuts import LiveDelta
from sofs.services.authority.extents import Extents, pages_of
from sofs.services.authority.tables import (
    INT64_MAX,
    WINDOW_COLUMNS,
    Node,
    window_message,
)

WINDOW_BYTES_MAX: Final = (WINDOW_OPS_MAX + UNSENT_RECORDS_MAX) // 8  # A window's bitmap.
TailRecord = tuple[DataHeader, int, int, int, Sequence[int]]
"""Header, sequence, segment, payload offset, block sums."""


class _TailFile:
    """What a tail did to one file. ``extents``: packed, by pages; a newer run of exactly the same
    pages takes the older one's place at the end, so that each is entered once."""

    __slots__ = ("extents", "mode", "modified", "size", "token_generation")

    def __init__(self, size: int, modified: int, mode: int, token_generation: int) -> None:
        self.size = size
        self.modified = modified
        self.mode = mode
        self.extents: dict[int, bytes] = {}
        self.token_generation = token_generation


class Commits(Extents):
    """Rules of commits and tail replay."""

    def apply_commit(self, commit: Commit) -> None:
        """Apply a batch (see ``messages.Commit``); nothing for the default (0, 0).

        Fenced when the log is sealed; ProtocolError for a gap, or what no correct node sends.
        """
        through = commit.through_sequence
        if not commit.log_id and not through:
            return
        node = self._node_by_log(commit.log_id)
        if node is None:
            raise ProtocolError(f"a commit of the unknown data log {commit.log_id}")
        if node.applied >= through:
            return
        if node.sealed is not None:
            raise Fenced(f"data log {commit.log_id} is sealed; start a new incarnation")
        if node.applied != commit.after_sequence or through > INT64_MAX:
            raise ProtocolError(
                f"commit {commit.after_sequence}..{through} of log {node.log_id} does not follow "
                f"{node.applied}"
            )
        live = LiveDelta()
        for file in commit.files:
            self._commit_file(node, file, live)
        self._flush_live(live)
        self._run("UPDATE datalog SET applied=? WHERE log_id=?", through, node.log_id)

    def _commit_file(self, node: Node, file: FileCommit, live: LiveDelta) -> None:
        if file.size > FILE_BYTES_MAX or file.ino > INT64_MAX:
            raise ProtocolError(f"file {file.ino} with {file.size} bytes is beyond the limits")
        row = self._one(
            "SELECT i.size,t.mode,t.generation FROM inode i "
            "LEFT JOIN token t ON t.ino=i.ino AND t.log_id=?2 WHERE i.ino=?1",
            file.ino, node.log_id,
        )  # fmt: skip
        if row is not None and file.extents:
            size, mode, generation = row
            if mode != TokenMode.DIRECT_RW or generation != file.token_generation:
                raise ProtocolError(
                    f"records of file {file.ino} under token {file.token_generation}, which log "
                    f"{node.log_id} does not hold for writing"
                )
            if file.size < size:
                raise ProtocolError(f"a commit shrinks file {file.ino} to {file.size} bytes")
            self._put_extents(file.ino, file.extents, node.log_id, pages_of(file.size), live)
            self._run(
                "UPDATE inode SET size=?,modified=?,changed=?2 WHERE ino=?3",
                file.size, file.modified_ns, file.ino,
            )  # fmt: skip
        for window in file.windows:
            self._commit_window(node.log_id, window)

    def _commit_window(self, log_id: int, window: Window) -> None:
        """Take over a window: as it is from the node that serves the handle, merged from one that
        served an earlier generation."""
        in_range = window.handle <= INT64_MAX and 0 < window.watermark <= OP_SEQUENCE_MAX
        if not in_range or len(window.bitmap) > WINDOW_BYTES_MAX:
            raise ProtocolError(f"a window of handle {window.handle} is beyond the limits")
        row = self._one(
            f"SELECT generation,log_id,{WINDOW_COLUMNS} FROM handle WHERE handle=?", window.handle
        )
        if row is None or window.generation > row[0]:
            return
        if window.generation == row[0] and log_id == row[1]:
            self._set_window(window.handle, window)
            return
        merged = OpWindow.from_message(window_message(window.handle, *row[:1], *row[2:]))
        merged.merge(OpWindow.from_message(window))
        self._set_window(window.handle, merged.to_message(window.handle, row[0]))

    def replay_tail(self, log_id: int, records: Iterable[TailRecord]) -> int:
        """Apply the records of a sealed log above its applied sequence; return how many took
        effect. The caller seals the node (``seal_node``) in the same transaction."""
        node = self._node_by_log(log_id)
        invariant(node is not None and node.sealed is None, "a tail is replayed before the seal")
        assert node is not None
        live = LiveDelta()
        files: dict[int, _TailFile | None] = {}
        windows: dict[int, tuple[int, OpWindow] | None] = {}
        n_applied, applied = 0, node.applied
        for header, sequence, segment, offset, sums in records:
            if sequence <= applied:
                continue
            applied = sequence
            if header.flags & FLAG_DETACHED:
                continue
            if header.file not in files:
                files[header.file] = self._tail_file(header.file, log_id)
            file = files[header.file]
            if file is None or file.token_generation != header.token_generation:
                continue
            if header.op is not DataOp.ABANDON:
                if file.mode != TokenMode.DIRECT_RW:
                    continue
                if sums:
                    file.size = max(file.size, header.end)
                    file.modified = header.mtime_ns
                    for page, at, pages in header.runs(len(sums)):
                        file.extents.pop(page << 10 | pages, None)
                        file.extents[page << 10 | pages] = pack_extent(
                            page,
                            log_id,
                            segment,
                            sequence,
                            offset + at * BLOCK_BYTES,
                            sums[at : at + pages],
                        )
            n_applied += 1
            self._tail_window(windows, header)
        for ino, file in files.items():
            if file is not None and file.extents:
                packed = b"".join(file.extents.values())
                self._put_extents(ino, packed, log_id, pages_of(file.size), live)
                self._run(
                    "UPDATE inode SET size=?,modified=?,changed=?2 WHERE ino=?3",
                    file.size, file.modified, ino,
                )  # fmt: skip
        for handle, known in windows.items():
            if known is not None:
                self._set_window(handle, known[1].to_message(handle, 0))
        self._flush_live(live)
        self._run("UPDATE datalog SET applied=? WHERE log_id=?", applied, log_id)
        return n_applied

    def _tail_file(self, ino: int, log_id: int) -> _TailFile | None:
        """The file of a tail's record, or None when it is gone or the log's owner has no token."""
        row = self._one(
            "SELECT i.size,i.modified,t.mode,t.generation FROM inode i JOIN token t "
            "ON t.ino=i.ino AND t.log_id=?2 WHERE i.ino=?1",
            ino, log_id,
        )  # fmt: skip
        return None if row is None else _TailFile(*row)

    def _tail_window(
        self, windows: dict[int, tuple[int, OpWindow] | None], header: DataHeader
    ) -> None:
        """Settle a record's operation in its handle's window, if the handle is still there."""
        handle = header.handle
        if handle not in windows:
            row = self._one(
                f"SELECT generation,{WINDOW_COLUMNS} FROM handle WHERE handle=?", handle
            )
            windows[handle] = (
                None
                if row is None
                else (row[0], OpWindow.from_message(window_message(handle, *row)))
            )
        known = windows[handle]
        if known is None or header.generation > known[0]:
            return
        if header.op is DataOp.ABANDON:
            known[1].abandon(header.op_sequence)
        else:
            append = header.op is DataOp.APPEND
            known[1].complete(header.op_sequence, header.resulting_offset if append else None)


def logged_bytes(commit: Commit) -> int:
    """About what a commit takes in the log: new runs, the older ones that they replace, windows."""
    return sum(3 * len(file.extents) + 512 * (1 + len(file.windows)) for file in commit.files)
