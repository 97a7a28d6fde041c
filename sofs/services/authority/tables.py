"""The ground that all rules of the authority stand on: clients and exactly-once results, names,
inodes, handles, nodes.

``Tables`` is the first of a chain of classes, each adding one subject's rules: ``Tables`` <
``Extents`` < ``Commits`` < ``Tokens`` < ``Handles`` < ``Opens`` < ``Namespace`` < ``Locks`` <
``AuthorityState``. All methods are synchronous and run inside one transaction of the caller; a
method that raises leaves nothing behind, because the transaction rolls back. Nothing is cached in
Python objects: what is in the tables is all there is, so a rollback, a follower and a checkpoint
cannot disagree with it.

Every integer that a client chooses is checked before it becomes an SQL parameter: SQLite's integers
are signed and 64 bits wide, the wire's are not.
"""

from __future__ import annotations

from struct import pack, unpack
from typing import Any, Final, NamedTuple

from sofs.constants import CLIENT_RESULTS_MAX, CLIENTS_MAX
from sofs.core.messages import AppendResult, Caller, Failure, FileInfo, Message, Window
from sofs.core.names import split_path
from sofs.errors import (
    Abandoned,
    AccessDenied,
    Expired,
    FileClosed,
    InvalidParameter,
    LimitExceeded,
    NotADirectory,
    ObjectNameNotFound,
    StaleGeneration,
    WrongIncarnation,
    invariant,
)
from sofs.ids import ID_BYTES, ROOT_INO
from sofs.ports.codec import MessageCodec
from sofs.ports.state import StateDatabase

INT64_MAX: Final = 2**63 - 1
OP_ID_MAX: Final = 2**62
PATH_STEP: Final = 12  # Names resolved by one statement.
FOREVER_PAGE: Final = 2**52  # "All pages there are": beyond any file's end.
RESULTS_DROPPED_AT_ONCE: Final = 16  # Answers that a client has, kept until there are as many.


class Inode(NamedTuple):
    """A row of ``inode``."""

    ino: int
    directory: int
    size: int
    attributes: int
    created: int
    modified: int
    accessed: int
    changed: int
    pending: int
    parent: int
    name: str

    def info(self) -> FileInfo:
        return FileInfo(
            self.ino,
            bool(self.directory),
            self.size,
            self.attributes,
            self.created,
            self.modified,
            self.accessed,
            self.changed,
            1,
        )


class Handle(NamedTuple):
    """A row of ``handle`` without its window."""

    handle: int
    client: bytes
    create_guid: bytes
    app_instance: bytes
    ino: int
    access: int
    share: int
    options: int
    need: int
    deny: int
    delete_on_close: int
    generation: int
    log_id: int
    timeout_ms: int


class Node(NamedTuple):
    """A row of ``datalog``; ``sealed`` is None while the node lives."""

    log_id: int
    incarnation: bytes
    nonce: bytes
    node: str
    endpoint: str
    sealed: int | None
    applied: int


_INODE: Final = (
    "i.ino,i.directory,i.size,i.attributes,i.created,i.modified,i.accessed,i.changed,"
    "i.pending,i.parent,i.name"
)
_SELECT_INODE: Final = f"SELECT {_INODE} FROM inode i WHERE i.ino=?"
_HANDLE: Final = (
    "handle,client,create_guid,app_instance,ino,access,share,options,need,deny,"
    "delete_on_close,generation,log_id,timeout_ms"
)
_SELECT_HANDLE: Final = f"SELECT {_HANDLE} FROM handle WHERE handle=?"
_SELECT_HANDLES_OF_INO: Final = f"SELECT {_HANDLE} FROM handle WHERE ino=?"
_NODE: Final = "log_id,incarnation,nonce,node,endpoint,sealed,applied"
WINDOW_COLUMNS: Final = "watermark,bitmap,results,abandoned"


def _resolve_sql(parents: int) -> str:
    """The statement that resolves ``parents`` directory names from ?1, then looks up one more."""
    step = "?1"
    for n in range(parents):
        step = f"(SELECT ino FROM dirent WHERE parent={step} AND name=?{n + 2})"
    return (
        f"WITH p(ino) AS (SELECT {step}) SELECT p.ino,{_INODE} FROM p "
        f"LEFT JOIN dirent d ON d.parent=p.ino AND d.name=?{parents + 2} "
        "LEFT JOIN inode i ON i.ino=d.ino"
    )


_RESOLVE: Final = tuple(_resolve_sql(parents) for parents in range(PATH_STEP))


def window_columns(window: Window) -> tuple[int, bytes, bytes, bytes]:
    """Return a window as its columns."""
    flat = [part for kept in window.results for part in (kept.op_sequence, kept.offset)]
    return (
        window.watermark,
        window.bitmap,
        pack(f"<{len(flat)}Q", *flat) if flat else b"",
        pack(f"<{len(window.abandoned)}Q", *window.abandoned) if window.abandoned else b"",
    )


def window_message(
    handle: int, generation: int, watermark: int, bitmap: bytes, results: bytes, abandoned: bytes
) -> Window:
    """Build the window message from the columns."""
    kept: list[AppendResult] = []
    if results:
        flat = unpack(f"<{len(results) // 8}Q", results)
        kept = [AppendResult(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
    gone = list(unpack(f"<{len(abandoned) // 8}Q", abandoned)) if abandoned else []
    return Window(handle, generation, watermark, bitmap, kept, gone)


class Tables:
    """Rows and the rules of clients; see the module."""

    def __init__(self, database: StateDatabase, codec: MessageCodec) -> None:
        self._db = database
        self._codec = codec

    # Statements -------------------------------------------------------------------------------

    def _one(self, sql: str, *parameters: Any) -> Any:
        return self._db.one(sql, parameters)

    def _all(self, sql: str, *parameters: Any) -> list[Any]:
        return list(self._db.execute(sql, parameters))

    def _run(self, sql: str, *parameters: Any) -> None:
        for _ in self._db.execute(sql, parameters):
            pass

    # The volume -------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Has the volume never been formatted?"""
        return self._one("SELECT 1 FROM counter") is None

    def format(self, volume: bytes, now_ns: int) -> None:
        """Write a new volume's first rows: its uuid, the counters and the root directory."""
        invariant(self.is_empty(), "a volume is formatted once")
        self._run("INSERT INTO meta VALUES('volume',?)", volume)
        self._run("INSERT INTO counter VALUES(1,?,0,0,0)", int(ROOT_INO))
        self._run(
            "INSERT INTO inode VALUES(?,1,0,0,?,?,?,?,0,0,'')",
            int(ROOT_INO), now_ns, now_ns, now_ns, now_ns,
        )  # fmt: skip

    def volume(self) -> bytes:
        """Return the volume's uuid."""
        row = self._one("SELECT value FROM meta WHERE name='volume'")
        invariant(row is not None, "the volume was never formatted")
        return bytes(row[0])

    def _take_numbers(
        self, inos: int = 0, handles: int = 0, logs: int = 0, tokens: int = 0
    ) -> tuple[int, int, int, int]:
        """Take that many numbers of each kind; return the last of each."""
        rows = self._all(
            "UPDATE counter SET ino=ino+?,handle=handle+?,log=log+?,token=token+? WHERE id=1 "
            "RETURNING ino,handle,log,token",
            inos, handles, logs, tokens,
        )  # fmt: skip
        ino, handle, log, token = rows[0]
        return ino, handle, log, token

    # Clients and exactly-once results ---------------------------------------------------------

    def knows_client(self, client: bytes) -> bool:
        return self._one("SELECT 1 FROM client WHERE client=?", client) is not None

    def register_client(self, client: bytes, principal: str) -> bool:
        """Make the client known; return whether it is new. Again is harmless; for another principal
        AccessDenied; LimitExceeded beyond CLIENTS_MAX."""
        if len(client) != ID_BYTES:
            raise InvalidParameter(f"a client id has {ID_BYTES} bytes, not {len(client)}")
        row = self._one("SELECT principal FROM client WHERE client=?", client)
        if row is not None:
            if row[0] != principal:
                raise AccessDenied("the client id belongs to another principal")
            return False
        if self._one("SELECT count(*) FROM client")[0] >= CLIENTS_MAX:
            raise LimitExceeded(
                f"the volume has {CLIENTS_MAX} clients; end one, or use another volume",
                retry_after_ms=1000,
            )
        self._run("INSERT INTO client VALUES(?,?,0,0)", client, principal)
        return True

    def recall_result(self, caller: Caller) -> Message | None:
        """Return the stored answer of this operation, or None when it is to be executed.

        Expired for a client or op id whose record is gone (never executed as new), AccessDenied for
        another principal, Abandoned for an operation settled as never to be executed, LimitExceeded
        when CLIENT_RESULTS_MAX older operations are not yet acknowledged.
        """
        op_id = caller.op_id
        if not 0 < op_id <= OP_ID_MAX or caller.acked_below > OP_ID_MAX:
            raise InvalidParameter(f"op id {op_id} is outside 1..2**62")
        row = self._one(
            "SELECT c.principal,c.acked,r.reply FROM client c "
            "LEFT JOIN result r ON r.client=c.client AND r.op_id=?2 WHERE c.client=?1",
            caller.client, op_id,
        )  # fmt: skip
        if row is None:
            raise Expired("this client's record was dropped; connect again as a new client")
        principal, acked, stored = row
        if principal != caller.principal:
            raise AccessDenied("the client id belongs to another principal")
        if stored is not None:
            reply = self._codec.decode(stored)
            if isinstance(reply, Failure):
                raise Abandoned("the operation was settled as never to be executed")
            return reply
        if op_id < max(acked, caller.acked_below):
            raise Expired(f"operation {op_id} was acknowledged by the client; its answer is gone")
        if op_id >= max(acked, caller.acked_below) + CLIENT_RESULTS_MAX:
            raise LimitExceeded(
                f"more than {CLIENT_RESULTS_MAX} operations of this client are unacknowledged",
                retry_after_ms=10,
            )
        return None

    def store_result(self, caller: Caller, reply: Message) -> None:
        """Store the answer in the transaction of its effect; drop those that the client has."""
        self._store(caller, caller.op_id, reply)

    def _store(self, caller: Caller, op_id: int, reply: Message) -> None:
        # What the client has is dropped some operations late, many at a time: a row less to change
        # for each, and who asks again in between gets the answer that is still there.
        acked = caller.acked_below
        rows = self._all(
            "UPDATE client SET acked=?2 WHERE client=?1 AND acked<=?2-?3 RETURNING 1",
            caller.client, acked, RESULTS_DROPPED_AT_ONCE,
        )  # fmt: skip
        if rows:
            self._run("DELETE FROM result WHERE client=? AND op_id<?", caller.client, acked)
        self._run(
            "INSERT OR REPLACE INTO result VALUES(?,?,?)",
            caller.client, op_id, self._codec.encode(reply),
        )  # fmt: skip

    def forget_client(self, client: bytes) -> bool:
        """Drop an idle client and its results; False (and nothing done) while it has handles. The
        caller knows that it has no session and was idle for CLIENT_KEEP_MS."""
        row = self._one("SELECT handles FROM client WHERE client=?", client)
        if row is None or row[0]:
            return False
        self._run("DELETE FROM result WHERE client=?", client)
        self._run("DELETE FROM client WHERE client=?", client)
        return True

    def ended_clients(self) -> list[bytes]:
        """Clients that said goodbye."""
        return [row[0] for row in self._all("SELECT client FROM client WHERE acked=?", OP_ID_MAX)]

    def clients_without_handles(self) -> list[bytes]:
        """Clients whose row may be dropped once they were idle long enough."""
        return [row[0] for row in self._all("SELECT client FROM client WHERE handles=0")]

    # Nodes ------------------------------------------------------------------------------------

    def _node(self, incarnation: bytes) -> Node:
        """Return the live node; WrongIncarnation when it is unknown or sealed."""
        row = self._one(
            f"SELECT {_NODE} FROM datalog WHERE incarnation=? AND sealed IS NULL", incarnation
        )
        if row is None:
            raise WrongIncarnation("the node is not registered, or its data log is sealed")
        return Node(*row)

    def _node_by_log(self, log_id: int) -> Node | None:
        if log_id > INT64_MAX:
            return None
        row = self._one(f"SELECT {_NODE} FROM datalog WHERE log_id=?", log_id)
        return None if row is None else Node(*row)

    def _incarnation(self, log_id: int) -> bytes:
        row = self._one("SELECT incarnation FROM datalog WHERE log_id=?", log_id)
        invariant(row is not None, f"log {log_id} has no row")
        return bytes(row[0])

    # Names and inodes -------------------------------------------------------------------------

    def _inode(self, ino: int) -> Inode | None:
        if ino > INT64_MAX:
            return None
        row = self._one(_SELECT_INODE, ino)
        return None if row is None else Inode(*row)

    def _resolve(self, path: str) -> tuple[int, str, Inode | None]:
        """Return (parent directory, last name, inode or None when the name is free).

        The root is (0, "", its inode). ObjectNameNotFound or NotADirectory when the way to the name
        does not exist.
        """
        names = split_path(path)
        if not names:
            root = self._inode(ROOT_INO)
            invariant(root is not None, "the root directory exists")
            return 0, "", root
        at = int(ROOT_INO)
        rest = names
        while len(rest) > PATH_STEP:
            step, rest = rest[:PATH_STEP], rest[PATH_STEP:]
            row = self._one(_RESOLVE[PATH_STEP - 1], at, *step)
            if row is None or row[1] is None:
                raise self._no_way(names)
            at = row[1]
        row = self._one(_RESOLVE[len(rest) - 1], at, *rest)
        if row is None or row[0] is None:
            raise self._no_way(names)
        if row[1] is None:
            return row[0], names[-1], None
        return row[0], names[-1], Inode(*row[1:])

    def _existing(self, path: str) -> Inode:
        """Return the inode of a path; ObjectNameNotFound when the name is free."""
        parent, _, inode = self._resolve(path)
        if inode is None:
            self._directory(parent)
            raise ObjectNameNotFound(path)
        return inode

    def _directory(self, ino: int) -> Inode:
        """Return the inode of a directory in which a name is about to be made or missed."""
        inode = self._inode(ino)
        invariant(inode is not None, f"the directory {ino} of a path has an inode")
        assert inode is not None
        if not inode.directory:
            raise NotADirectory(f"{inode.name!r} is a file")
        return inode

    def _no_way(self, names: list[str]) -> Exception:
        """Say why the way to a name does not exist."""
        at = int(ROOT_INO)
        for name in names[:-1]:
            row = self._one("SELECT ino FROM dirent WHERE parent=? AND name=?", at, name)
            if row is None:
                break
            at = row[0]
        inode = self._inode(at)
        if inode is not None and not inode.directory:
            return NotADirectory(f"{inode.name!r} is a file")
        return ObjectNameNotFound("/" + "/".join(names))

    def path_of(self, ino: int) -> str:
        """Return the path of a file or directory, for people; ObjectNameNotFound when it is
        gone."""
        names: list[str] = []
        while ino != ROOT_INO:
            inode = self._inode(ino)
            if inode is None:
                raise ObjectNameNotFound(f"file {ino} is gone")
            names.append(inode.name)
            ino = inode.parent
        return "/" + "/".join(reversed(names))

    def _touch(self, ino: int, now_ns: int) -> None:
        """A directory's contents changed."""
        self._run("UPDATE inode SET modified=?,changed=? WHERE ino=?", now_ns, now_ns, ino)

    # Handles ----------------------------------------------------------------------------------

    def _handle_row(self, handle: int) -> Handle | None:
        if handle > INT64_MAX:
            return None
        row = self._one(_SELECT_HANDLE, handle)
        return None if row is None else Handle(*row)

    def handle_row(self, handle: int) -> Handle | None:
        """Return a handle's row, for people; None when it is not open."""
        return self._handle_row(handle)

    def _handles_of(self, ino: int) -> list[Handle]:
        return [Handle(*row) for row in self._all(_SELECT_HANDLES_OF_INO, ino)]

    def _held(self, caller: Caller, handle: int, generation: int, node: Node) -> Handle:
        """Return the caller's handle, connected through ``node`` in ``generation``.

        FileClosed when there is none (or it is another client's), StaleGeneration when the client
        has to reclaim it first.
        """
        row = self._handle_row(handle)
        if row is None or row.client != caller.client:
            raise FileClosed(f"handle {handle} is not open")
        if row.generation != generation or row.log_id != node.log_id:
            raise StaleGeneration(f"handle {handle} is not connected through this node; reclaim it")
        return row

    def handle_ino(self, handle: int) -> int:
        """Return the file of a handle; FileClosed when there is none."""
        row = self._handle_row(handle)
        if row is None:
            raise FileClosed(f"handle {handle} is not open")
        return row.ino

    def size_by_handle(self, handle: int) -> int:
        """Return the size of a handle's file without the holder's newest records; 0 when it is
        gone."""
        row = self._handle_row(handle)
        inode = None if row is None else self._inode(row.ino)
        return 0 if inode is None else inode.size

    def handle_node(self, handle: int) -> bytes:
        """Return the incarnation through which a handle is connected, b"" when it is gone or
        disconnected."""
        row = self._handle_row(handle)
        if row is None or not row.log_id:
            return b""
        return self._incarnation(row.log_id)

    def _windows_of(self, ino: int, log_id: int) -> list[Window]:
        """Return the windows of the handles on a file that are connected through a node."""
        return [
            window_message(*row)
            for row in self._all(
                f"SELECT handle,generation,{WINDOW_COLUMNS} FROM handle WHERE ino=? AND +log_id=?",
                ino, log_id,
            )
        ]  # fmt: skip

    def _set_window(self, handle: int, window: Window) -> None:
        self._run(
            "UPDATE handle SET watermark=?,bitmap=?,results=?,abandoned=? WHERE handle=?",
            *window_columns(window), handle,
        )  # fmt: skip
