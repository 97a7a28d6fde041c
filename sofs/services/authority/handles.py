"""Open handles over the lives of nodes and clients: connected, disconnected, reclaimed, released.

A handle is connected through one node incarnation (``log_id``) or through none. It becomes
disconnected when its node says so, omits it on registration, lets go of it (``detached``) or is
sealed. From then on it only waits: its locks and share mode hold, nobody can write through it, and
its client reclaims it (generation + 1) through any node, or it expires.

Release only what is drained: every method here that releases what a handle holds demands that the
handle is disconnected, and raises Blocked(detach) otherwise. A node reports a handle as
disconnected or detached only after its last admitted operation was answered or failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sofs.constants import CLIENT_RESULTS_MAX
from sofs.core.handles import reclaim_refusal
from sofs.core.messages import (
    AbandonReply,
    BoundHandle,
    Caller,
    Commit,
    Failure,
    Grant,
    HandleInfo,
    ReclaimItem,
    ReclaimReply,
    ReclaimResult,
    RegisterNode,
    RegisterNodeReply,
)
from sofs.core.window import Completed, Forgotten, Fresh, OpWindow
from sofs.errors import (
    Abandoned,
    AccessDenied,
    ClosedByAdministrator,
    Expired,
    FileClosed,
    InvalidParameter,
    ObjectNameNotFound,
    ProtocolError,
    WrongIncarnation,
    invariant,
)
from sofs.ids import ID_BYTES
from sofs.services.authority.blocked import Blocked, HandleRef
from sofs.services.authority.cuts import LiveDelta
from sofs.services.authority.schema import PENDING_FINAL
from sofs.services.authority.tables import (
    INT64_MAX,
    OP_ID_MAX,
    WINDOW_COLUMNS,
    Handle,
    Inode,
    window_message,
)
from sofs.services.authority.tokens import Tokens, token_mode

END_HANDLES_MAX = 512  # Closed in one transaction when a client ends.
RECLAIM_EXTENT_BYTES_MAX = 2 * 1024 * 1024  # Extents in one reclaim reply; the rest on demand.


class Handles(Tokens):
    """Rules of nodes and of handles without names."""

    # Nodes ------------------------------------------------------------------------------------

    def handles_total(self) -> int:
        """How many handles are kept, of clients that are away too."""
        return int(self._one("SELECT count(*) FROM handle")[0])

    def register_node(self, body: RegisterNode) -> RegisterNodeReply:
        """Make a node incarnation known, or take its report of connected handles at a new
        authority. Handles it omits are disconnected from now on. ``epoch`` and ``incarnation`` of
        the reply are left to the caller. WrongIncarnation when its log is sealed."""
        if len(body.incarnation) != ID_BYTES or not body.nonce:
            raise ProtocolError("a node registers with its incarnation and its log's nonce")
        row = self._one(
            "SELECT log_id,nonce,sealed,applied FROM datalog WHERE incarnation=?",
            body.incarnation,
        )
        if row is None:
            log_id, applied = self._take_numbers(logs=1)[2], 0
            self._run(
                "INSERT INTO datalog VALUES(?,?,?,?,?,NULL,0)",
                log_id, body.incarnation, body.nonce, body.node, body.endpoint,
            )  # fmt: skip
        else:
            log_id, nonce, sealed, applied = row
            if sealed is not None:
                raise WrongIncarnation("this incarnation's data log is sealed; start a new one")
            if nonce != body.nonce:
                raise ProtocolError("the node's data log has another nonce than it registered with")
            self._run(
                "UPDATE datalog SET node=?,endpoint=? WHERE log_id=? AND (node!=?1 OR "
                "endpoint!=?2)",
                body.node, body.endpoint, log_id,
            )  # fmt: skip
        bound = dict(self._all("SELECT handle,generation FROM handle WHERE log_id=?", log_id))
        lost: list[int] = []
        for reported in body.handles:
            if bound.get(reported.handle) == reported.generation:
                del bound[reported.handle]
            else:
                lost.append(reported.handle)
        self._disconnect(bound)
        tokens = [
            Grant(ino, generation, mode, locks=self._locks_of(ino))
            for ino, generation, mode in self._all(
                "SELECT ino,generation,mode FROM token WHERE log_id=? ORDER BY ino", log_id
            )
        ]
        return RegisterNodeReply(
            log_id=log_id, applied_sequence=applied, lost_handles=lost, tokens=tokens
        )

    def seal_node(self, incarnation: bytes, sealed_sequence: int) -> list[int]:
        """The node's data log is sealed at ``sealed_sequence`` and its tail replayed: its tokens
        are free, its handles disconnected. Returns those; [] when it was sealed before."""
        row = self._one(
            "SELECT log_id,sealed,applied FROM datalog WHERE incarnation=?", incarnation
        )
        invariant(row is not None, "only a registered node is sealed")
        log_id, sealed, applied = row
        if sealed is not None:
            return []
        invariant(sealed_sequence >= applied, "a log is sealed at or after what was applied of it")
        orphans = self.handles_of_node(incarnation)
        self._run("UPDATE handle SET log_id=0 WHERE log_id=?", log_id)
        self._run("DELETE FROM token WHERE log_id=?", log_id)
        self._run("UPDATE datalog SET sealed=? WHERE log_id=?", sealed_sequence, log_id)
        return orphans

    def live_nodes(self) -> list[bytes]:
        """Return the incarnations whose data logs are not sealed."""
        return [
            row[0]
            for row in self._all(
                "SELECT incarnation FROM datalog WHERE sealed IS NULL ORDER BY log_id"
            )
        ]

    def is_live_node(self, incarnation: bytes) -> bool:
        sql = "SELECT 1 FROM datalog WHERE incarnation=? AND sealed IS NULL"
        return self._one(sql, incarnation) is not None

    def node_endpoint(self, incarnation: bytes) -> str | None:
        row = self._one("SELECT endpoint FROM datalog WHERE incarnation=?", incarnation)
        return None if row is None else str(row[0])

    def node_name(self, incarnation: bytes) -> str | None:
        row = self._one("SELECT node FROM datalog WHERE incarnation=?", incarnation)
        return None if row is None else str(row[0])

    def log_of(self, incarnation: bytes) -> tuple[int, int] | None:
        """Return (log id, applied sequence) of a node's data log, or None when it is unknown."""
        row = self._one("SELECT log_id,applied FROM datalog WHERE incarnation=?", incarnation)
        return None if row is None else (int(row[0]), int(row[1]))

    def handles_of_node(self, incarnation: bytes) -> list[int]:
        """Return the handles that are connected through a node."""
        return [
            row[0]
            for row in self._all(
                "SELECT handle FROM handle WHERE log_id="
                "(SELECT log_id FROM datalog WHERE incarnation=?) ORDER BY handle",
                incarnation,
            )
        ]

    def bound_handles(self) -> list[tuple[int, int, bytes]]:
        """Return (handle, ino, incarnation) of every connected handle, for the resume gate."""
        return self._all(
            "SELECT h.handle,h.ino,d.incarnation FROM handle h JOIN datalog d USING(log_id) "
            "ORDER BY h.handle"
        )

    # Disconnected handles ---------------------------------------------------------------------

    def disconnected_handles(self) -> list[tuple[int, int]]:
        """Return (handle, timeout in ms) of every disconnected handle."""
        return self._all("SELECT handle,timeout_ms FROM handle WHERE log_id=0 ORDER BY handle")

    def disconnected_inos(self) -> list[tuple[int, int]]:
        """Return (handle, ino) of every disconnected handle, for the resume gate."""
        return self._all("SELECT handle,ino FROM handle WHERE log_id=0 ORDER BY handle")

    def disconnect(
        self, handles: Sequence[int] | Sequence[BoundHandle], incarnation: bytes
    ) -> list[int]:
        """The node drained these handles since their sessions ended. Those that are (in the given
        generation) no longer connected through it are left alone. Returns the others: their timers
        start."""
        node = self._node(incarnation)
        done: list[int] = []
        for item in handles:
            handle = item if isinstance(item, int) else item.handle
            row = self._handle_row(handle)
            if row is None or row.log_id != node.log_id:
                continue
            if not isinstance(item, int) and row.generation != item.generation:
                continue
            done.append(handle)
        self._disconnect(done)
        return done

    def detached(
        self,
        handles: Sequence[int] | Sequence[BoundHandle],
        incarnation: bytes,
        commit: Commit,
    ) -> list[int]:
        """The node's own answer to Detach: apply what it sent; the handles are disconnected.
        Returns them. Harmless when the node was sealed meanwhile."""
        if not self.is_live_node(incarnation):
            return []
        self.apply_commit(commit)
        return self.disconnect(handles, incarnation)

    def _disconnect(self, handles: Iterable[int]) -> None:
        for handle in handles:
            self._run("UPDATE handle SET log_id=0 WHERE handle=?", handle)

    def expire(self, handles: Sequence[int], now_ns: int) -> list[int]:
        """Release those of the handles that are disconnected: locks and share modes are dropped,
        delete-on-close is carried out. Returns them."""
        live = LiveDelta()
        done: list[int] = []
        for handle in handles:
            row = self._handle_row(handle)
            if row is not None and row.log_id == 0:
                self._drop_handle(row, self._inode_of(row), now_ns, live)
                done.append(handle)
        self._flush_live(live)
        return done

    def list_handles(self, after: int, rows_max: int) -> list[HandleInfo]:
        """Return up to ``rows_max`` handles above ``after``, by number, for people."""
        paths: dict[int, str] = {}
        found = []
        for row in self._all(
            "SELECT h.handle,h.client,c.principal,h.ino,h.access,h.share,ifnull(d.node,''),"
            "h.generation,h.timeout_ms,(SELECT count(*) FROM lock l WHERE l.handle=h.handle),"
            "h.delete_on_close FROM handle h LEFT JOIN client c USING(client) "
            "LEFT JOIN datalog d ON d.log_id=h.log_id WHERE h.handle>? ORDER BY h.handle LIMIT ?",
            after, rows_max,
        ):  # fmt: skip
            handle, client, principal, ino, *rest, delete_on_close = row
            if ino not in paths:
                paths[ino] = self.path_of(ino)
            info = HandleInfo(handle, client, principal, paths[ino], ino, *rest)
            info.delete_on_close = bool(delete_on_close)
            found.append(info)
        return found

    def force_close(self, handle: int, now_ns: int) -> None:
        """Close a handle by an administrator's wish; Blocked(detach) while it is connected."""
        row = self._handle_row(handle)
        if row is None:
            raise FileClosed(f"handle {handle} is not open")
        self._detach_first([row], ClosedByAdministrator.code)
        self.expire([handle], now_ns)

    def _detach_first(self, rows: Iterable[Handle], code: str) -> None:
        """Raise Blocked(detach) while any of the handles is connected."""
        connected = [
            HandleRef(row.handle, row.generation, self._incarnation(row.log_id))
            for row in rows
            if row.log_id
        ]
        if connected:
            raise Blocked(detach=connected, code=code)

    # Clients ----------------------------------------------------------------------------------

    def reclaim(
        self, caller: Caller, items: Sequence[ReclaimItem], incarnation: bytes
    ) -> ReclaimReply:
        """Connect the caller's handles through the asking node, each with the next generation.

        A handle that is still connected through another node is Blocked(detach). Tokens that nobody
        has to be asked for are granted along. Again is harmless: the newest generation counts.
        """
        node = self._node(incarnation)
        rows: list[tuple[ReclaimItem, Handle | None, str]] = []
        for item in items:
            row = self._claimed_handle(caller.client, item)
            code = ObjectNameNotFound.code
            if row is not None:
                code = reclaim_refusal(
                    guid=row.create_guid,
                    principal=self._principal(row.client),
                    same_client=row.client == caller.client,
                    claimed_guid=item.create_guid,
                    claimed_by=caller.principal,
                )
            rows.append((item, row, code))
        self._detach_first(
            [row for _, row, code in rows if row and not code and row.log_id != node.log_id], ""
        )
        reply = ReclaimReply()
        extent_bytes = 0
        for item, row, code in rows:
            if code or row is None:
                reply.results.append(ReclaimResult(item.handle, code))
                continue
            again = self._one(
                "UPDATE handle SET generation=generation+1,log_id=? WHERE handle=? "
                "RETURNING generation,watermark",
                node.log_id, row.handle,
            )  # fmt: skip
            inode = self._inode_of(row)
            reply.results.append(
                ReclaimResult(row.handle, "", again[0], inode.info(), again[1], row.access)
            )
            if extent_bytes < RECLAIM_EXTENT_BYTES_MAX:
                grant = self._try_grant(inode, token_mode(row.access), node, row.handle)
                if grant is not None:
                    extent_bytes += len(grant.extents)
                    reply.grants.append(grant)
        return reply

    def _claimed_handle(self, client: bytes, item: ReclaimItem) -> Handle | None:
        """Look a handle up by its number, else by the client's create GUID."""
        row = self._handle_row(item.handle)
        if row is None and item.create_guid:
            found = self._one(
                "SELECT handle FROM handle WHERE client=? AND create_guid=?",
                client, item.create_guid,
            )  # fmt: skip
            row = None if found is None else self._handle_row(found[0])
        return row

    def _principal(self, client: bytes) -> str:
        row = self._one("SELECT principal FROM client WHERE client=?", client)
        invariant(row is not None, "a handle's client has a row")
        return str(row[0])

    def end_client(self, caller: Caller, now_ns: int) -> list[int]:
        """Close up to END_HANDLES_MAX handles of the client and return them; as many as that: call
        again. With the last, drop its results. Blocked(detach) while any of them is connected.
        Expired when it is unknown already, AccessDenied for another principal's.

        The row stays for a while, with every op id acknowledged: a late copy of an operation on a
        forgotten connection finds EXPIRED, and is not taken for a new client's first."""
        if not self.knows_client(caller.client):
            raise Expired("this client is not known")
        if self._principal(caller.client) != caller.principal:
            raise AccessDenied("the client id belongs to another principal")
        handles = [
            row[0]
            for row in self._all(
                "SELECT handle FROM handle WHERE client=? ORDER BY handle LIMIT ?",
                caller.client,
                END_HANDLES_MAX,
            )
        ]
        rows = [row for row in map(self._handle_row, handles) if row is not None]
        self._detach_first(rows, FileClosed.code)
        self.expire(handles, now_ns)
        if len(handles) < END_HANDLES_MAX:
            self._run("DELETE FROM result WHERE client=?", caller.client)
            self._run("UPDATE client SET acked=? WHERE client=?", OP_ID_MAX, caller.client)
        return handles

    def abandon(self, caller: Caller, target_op: int) -> AbandonReply:
        """Settle an operation of the caller: it has happened (True), or from now on it never will.
        Expired when the client has acknowledged its answer before."""
        if not 0 < target_op <= OP_ID_MAX or target_op == caller.op_id:
            raise InvalidParameter(f"operation {target_op} is none that could be abandoned")
        row = self._one(
            "SELECT c.acked,r.reply FROM client c LEFT JOIN result r "
            "ON r.client=c.client AND r.op_id=?2 WHERE c.client=?1",
            caller.client, target_op,
        )  # fmt: skip
        if row is None or target_op < max(row[0], caller.acked_below):
            raise Expired(f"operation {target_op} was acknowledged; its answer is gone")
        if target_op >= max(row[0], caller.acked_below) + CLIENT_RESULTS_MAX:
            raise InvalidParameter(f"operation {target_op} is too far ahead to exist")
        if row[1] is not None:
            return AbandonReply(not isinstance(self._codec.decode(row[1]), Failure))
        self._store(caller, target_op, Failure(Abandoned.code))
        return AbandonReply(False)

    def abandon_write(
        self, caller: Caller, handle: int, generation: int, op_sequence: int, incarnation: bytes
    ) -> AbandonReply:
        """Settle a data operation of a handle whose window no node has in memory: all tokens of the
        file are recalled first, so that the stored window is the whole truth."""
        node = self._node(incarnation)
        row = self._held(caller, handle, generation, node)
        self._recall_all(row.ino)
        columns = self._one(f"SELECT {WINDOW_COLUMNS} FROM handle WHERE handle=?", handle)
        window = OpWindow.from_message(window_message(handle, generation, *columns))
        verdict = window.judge(op_sequence)
        if isinstance(verdict, Completed):
            return AbandonReply(True, verdict.offset or 0)
        if isinstance(verdict, Forgotten):
            raise Expired(f"operation {op_sequence} was acknowledged; its answer is gone")
        if isinstance(verdict, Fresh):
            window.abandon(op_sequence)
            self._set_window(handle, window.to_message(handle, generation))
        return AbandonReply(False)

    # Dropping ---------------------------------------------------------------------------------

    def _inode_of(self, row: Handle) -> Inode:
        inode = self._inode(row.ino)
        invariant(inode is not None, f"handle {row.handle} has an inode")
        assert inode is not None
        return inode

    def _drop_handle(self, row: Handle, inode: Inode, now_ns: int, live: LiveDelta) -> None:
        """Delete a handle with what it holds; the last one of a file that is to be deleted takes
        the file along."""
        self._run("DELETE FROM handle WHERE handle=?", row.handle)
        self._run("DELETE FROM lock WHERE handle=?", row.handle)
        self._run("UPDATE client SET handles=handles-1 WHERE client=?", row.client)
        pending = inode.pending
        if row.delete_on_close and not pending & PENDING_FINAL and self._deletable(inode):
            pending |= PENDING_FINAL
            self._run("UPDATE inode SET pending=? WHERE ino=?", pending, inode.ino)
        if pending and self._one("SELECT 1 FROM handle WHERE ino=?", inode.ino) is None:
            self._remove_inode(inode, now_ns, live)

    def _deletable(self, inode: Inode) -> bool:
        if not inode.directory:
            return True
        return self._one("SELECT 1 FROM dirent WHERE parent=? LIMIT 1", inode.ino) is None

    def _remove_inode(self, inode: Inode, now_ns: int, live: LiveDelta) -> None:
        """Delete a file (or empty directory) with its name, pages and tokens. Nodes that hold a
        token of it are not asked: the number is never used again, and what they send is ignored."""
        self._run("DELETE FROM dirent WHERE parent=? AND name=?", inode.parent, inode.name)
        self._run("DELETE FROM inode WHERE ino=?", inode.ino)
        if not inode.directory:
            self._drop_pages(inode.ino, 0, live)
            self._run("DELETE FROM token WHERE ino=?", inode.ino)
        self._touch(inode.parent, now_ns)


def check_numbers(**numbers: int) -> None:
    """Raise InvalidParameter for a number that no table can hold."""
    for name, value in numbers.items():
        if not 0 <= value <= INT64_MAX:
            raise InvalidParameter(f"{name} {value} is outside 0..2**63-1")
