"""Open, close, and what happens through a handle or in place of one.

An open that returns has a durable record: create disposition, share modes in both directions, the
fence of disconnected handles, delete pending and the token are decided in one transaction.

The fence. A disconnected handle keeps its file: any contender whose access is more than attributes
is told FILE_NOT_AVAILABLE ("retry"), even when the share modes would agree, because the absent
client may come back with a state that the contender would break. Handles that need nothing from
others (attributes only) fence nothing.

Compound calls (``write_file``, ``read_file``) make the same checks as the open they stand for and
leave no handle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from sofs.constants import CLIENT_HANDLES_MAX, FILE_BYTES_MAX
from sofs.core.extents import unpack_extents
from sofs.core.handles import ZERO_GUID, granted_timeout_ms
from sofs.core.locks import io_conflict
from sofs.core.messages import (
    Access,
    Close,
    CreateAction,
    Disposition,
    FileInfo,
    Grant,
    InfoReply,
    Message,
    Open,
    OpenOptions,
    OpenReply,
    ReadFile,
    ReadFileReply,
    SetInfo,
    Stat,
    TokenMode,
    Truncate,
    WriteFile,
)
from sofs.core.share import (
    ACCESS_MASK,
    DELETE,
    READ,
    SHARE_MASK,
    WRITE,
    denies,
    excludes,
    needs,
)
from sofs.errors import (
    AccessDenied,
    CannotDelete,
    DeletePending,
    DirectoryNotEmpty,
    DuplicateObjectId,
    FileForcedClosed,
    FileIsADirectory,
    FileLockConflict,
    FileNotAvailable,
    InvalidParameter,
    LimitReached,
    NotADirectory,
    ObjectNameCollision,
    ObjectNameNotFound,
    ProtocolError,
    SharingViolation,
    SofsError,
)
from sofs.ids import ID_BYTES
from sofs.services.authority.blocked import Blocked, TokenRef
from sofs.services.authority.cuts import LiveDelta
from sofs.services.authority.extents import FETCH_PAGES_MAX, pages_of
from sofs.services.authority.handles import Handles, check_numbers
from sofs.services.authority.schema import PENDING_DISPOSITION
from sofs.services.authority.tables import Handle, Inode, Node
from sofs.services.authority.tokens import token_mode

READ_ONLY: Final = 1
ATTRIBUTES_MASK: Final = 1 | 2 | 4 | 32
FENCE_RETRY_MS: Final = 50
_WRITES: Final = int(Access.WRITE | Access.APPEND)
_OVERWRITES: Final = (Disposition.OVERWRITE, Disposition.OVERWRITE_IF)
_CREATES: Final = (Disposition.CREATE, Disposition.OPEN_IF, Disposition.OVERWRITE_IF)
_DISPOSITIONS: Final = {int(disposition): disposition for disposition in Disposition}
# Plain integers: an operation on two flags of an enum costs half a microsecond.
_DIRECTORY: Final = int(OpenOptions.DIRECTORY)
_DELETE_ON_CLOSE: Final = int(OpenOptions.DELETE_ON_CLOSE)
_ACCESS_DELETE: Final = int(Access.DELETE)
_WRITE_ATTRIBUTES: Final = int(Access.WRITE | Access.APPEND | Access.WRITE_ATTRIBUTES)
_OPENED: Final = int(CreateAction.OPENED)
_CREATED: Final = int(CreateAction.CREATED)
_OVERWRITTEN: Final = int(CreateAction.OVERWRITTEN)


class Opens(Handles):
    """Rules of opens and of operations on one file."""

    def open(
        self, body: Open, incarnation: bytes, now_ns: int, closed: list[int] | None = None
    ) -> OpenReply:
        """Create or open a file with a persistent handle; see ``messages.Open``.

        Blocked(detach) for an older open of the same application instance, Blocked(release) for
        one when this open is refused nevertheless, Blocked(recall) before an overwrite. ``closed``
        becomes the older handles that it closed. The reply's grant, if any, is for the asking node
        alone.
        """
        if closed is None:
            closed = []
        closed.clear()
        node = self._node(incarnation)
        disposition = _check_open(body)
        self._check_guid(body)
        return self._open_at(body, disposition, node, now_ns, closed)

    def _open_at(
        self, body: Open, disposition: Disposition, node: Node, now_ns: int, closed: list[int]
    ) -> OpenReply:
        parent, name, inode = self._resolve(body.path)
        if inode is not None:
            return self._open_existing(body, disposition, inode, node, now_ns, closed)
        directory = self._directory(parent)
        if disposition not in _CREATES:
            raise ObjectNameNotFound(body.path)
        if body.options & _DIRECTORY:
            raise InvalidParameter("directories are opened with OPEN, and created with mkdir")
        return self._open_new(body, directory, name, node, now_ns)

    def _check_guid(self, body: Open) -> None:
        guid = body.create_guid
        if not guid or guid == ZERO_GUID:
            return
        if len(guid) != ID_BYTES:
            raise InvalidParameter(f"a create GUID has {ID_BYTES} bytes, not {len(guid)}")
        row = self._one(
            "SELECT log_id FROM handle WHERE client=? AND create_guid=?", body.caller.client, guid
        )
        if row is None:
            return
        if row[0]:
            raise DuplicateObjectId("the create GUID is in use by an open handle")
        raise FileNotAvailable(
            "the handle with this create GUID is disconnected; reclaim it",
            retry_after_ms=FENCE_RETRY_MS,
        )

    def _open_existing(
        self,
        body: Open,
        disposition: Disposition,
        inode: Inode,
        node: Node,
        now_ns: int,
        closed: list[int],
    ) -> OpenReply:
        _check_existing(body, disposition, inode)
        handles = self._handles_of(inode.ino)
        older = self._older(body, handles)
        if not older:
            return self._open_beside(body, disposition, inode, handles, node, now_ns, LiveDelta())
        self._detach_first(older, FileForcedClosed.code)
        others = [row for row in handles if row not in older]
        try:
            reply = self._open_behind(body, disposition, inode, older, others, node, now_ns)
        except SofsError:
            # The older ones stay closed though this open is refused: their client has been told,
            # so nobody would come for them, and they would keep the file until their timeouts.
            released = [row.handle for row in older]
            raise Blocked(release=released, client=body.caller.client) from None
        closed.extend(row.handle for row in older)
        return reply

    def _open_behind(
        self,
        body: Open,
        disposition: Disposition,
        inode: Inode,
        older: Sequence[Handle],
        others: Sequence[Handle],
        node: Node,
        now_ns: int,
    ) -> OpenReply:
        """Close the older opens, then open what there is."""
        live = LiveDelta()
        for row in older:
            self._drop_handle(row, self._inode_of(row), now_ns, live)
        current = self._inode(inode.ino)
        if current is None:
            # The older open was the last of a file to be deleted: the name is free now.
            self._flush_live(live)
            return self._open_at(body, disposition, node, now_ns, [])
        if current.pending:
            raise DeletePending(f"{inode.name!r} is being deleted")
        return self._open_beside(body, disposition, current, others, node, now_ns, live)

    def _open_beside(
        self,
        body: Open,
        disposition: Disposition,
        inode: Inode,
        handles: Sequence[Handle],
        node: Node,
        now_ns: int,
        live: LiveDelta,
    ) -> OpenReply:
        """Open a file that is open through ``handles``, if they agree."""
        overwrite = disposition in _OVERWRITES
        need = needs(body.access) | (WRITE if overwrite else 0)
        check_fence(handles, need)
        check_shares(handles, need, denies(body.access, body.share))
        action = _OPENED
        if overwrite:
            self._recall_all(inode.ino)
            inode = self._overwrite(inode, body.attributes, now_ns, live)
            action = _OVERWRITTEN
        self._flush_live(live)
        mode = token_mode(body.access)
        _, handle, _, generation = self._take_numbers(handles=1, tokens=1 if mode else 0)
        timeout_ms = self._insert_handle(body, handle, inode.ino, node)
        grant = self._try_grant(inode, mode, node, handle, generation)
        return OpenReply(handle, 1, action, inode.info(), timeout_ms, grant)

    def _open_new(
        self, body: Open, directory: Inode, name: str, node: Node, now_ns: int
    ) -> OpenReply:
        mode = token_mode(body.access)
        ino, handle, _, generation = self._take_numbers(inos=1, handles=1, tokens=1 if mode else 0)
        info = self._create(directory, ino, name, body.attributes, 0, now_ns)
        timeout_ms = self._insert_handle(body, handle, ino, node)
        grant = self._new_file_grant(ino, mode, node, generation, info, handle)
        return OpenReply(handle, 1, _CREATED, info, timeout_ms, grant)

    @staticmethod
    def _older(body: Open, handles: Iterable[Handle]) -> list[Handle]:
        """Opens of this file that a newer client of their application instance closes."""
        if not body.app_instance:
            return []
        return [
            row
            for row in handles
            if row.app_instance == body.app_instance and row.client != body.caller.client
        ]

    def takes_over(self, body: Open) -> bool:
        """Would this open close older ones of its application instance?"""
        return bool(self.older_opens(body))

    def older_opens(self, body: Open) -> list[tuple[int, bytes]]:
        """The (handle, client) of the opens of its application instance that it would close."""
        if not body.app_instance:
            return []
        try:
            inode = self._resolve(body.path)[2]
        except SofsError:
            return []  # The open itself will say what is wrong with the name.
        older = [] if inode is None else self._older(body, self._handles_of(inode.ino))
        return [(row.handle, row.client) for row in older]

    def _create(
        self,
        directory: Inode,
        ino: int,
        name: str,
        attributes: int,
        size: int,
        now_ns: int,
        *,
        is_directory: bool = False,
    ) -> FileInfo:
        """Enter a new file or directory under a free name."""
        if directory.pending:
            raise DeletePending(f"the directory {directory.name!r} is being deleted")
        self._run(
            "INSERT INTO inode VALUES(?1,?2,?3,?4,?5,?5,?5,?5,0,?6,?7)",
            ino, int(is_directory), size, attributes, now_ns, directory.ino, name,
        )  # fmt: skip
        self._run("INSERT INTO dirent VALUES(?,?,?)", directory.ino, name, ino)
        self._touch(directory.ino, now_ns)
        return FileInfo(ino, is_directory, size, attributes, now_ns, now_ns, now_ns, now_ns, 1)

    def _insert_handle(self, body: Open, handle: int, ino: int, node: Node) -> int:
        """Enter the handle's row; return its timeout in ms."""
        caller = body.caller
        timeout_ms = granted_timeout_ms(body.timeout_ms)
        rows = self._all(
            "UPDATE client SET handles=handles+1 WHERE client=? RETURNING handles", caller.client
        )
        if rows[0][0] > CLIENT_HANDLES_MAX:
            raise LimitReached(f"the client has {CLIENT_HANDLES_MAX} open handles; close some")
        self._run(
            "INSERT INTO handle VALUES(?,?,?,?,?,?,?,?,?,?,?,1,?,?,1,x'',x'',x'')",
            handle,
            caller.client,
            body.create_guid,
            body.app_instance,
            ino,
            body.access,
            body.share,
            body.options,
            needs(body.access),
            denies(body.access, body.share),
            1 if body.options & _DELETE_ON_CLOSE else 0,
            node.log_id,
            timeout_ms,
        )
        return timeout_ms

    def _overwrite(self, inode: Inode, attributes: int, now_ns: int, live: LiveDelta) -> Inode:
        """Empty a file of which no node holds a token."""
        self._drop_pages(inode.ino, 0, live)
        self._run(
            "UPDATE inode SET size=0,attributes=?,modified=?2,changed=?2 WHERE ino=?3",
            attributes, now_ns, inode.ino,
        )  # fmt: skip
        return inode._replace(size=0, attributes=attributes, modified=now_ns, changed=now_ns)

    def close(self, body: Close, incarnation: bytes, now_ns: int) -> InfoReply:
        """Close a handle with all that the node wrote until then. ``release_token``: generation of
        the token that the node gives back along (0: it keeps it)."""
        node = self._node(incarnation)
        self.apply_commit(body.commit)
        row = self._held(body.caller, body.handle, body.generation, node)
        if body.release_token:
            check_numbers(release_token=body.release_token)
            self._run(
                "DELETE FROM token WHERE ino=? AND log_id=? AND generation=?",
                row.ino, node.log_id, body.release_token,
            )  # fmt: skip
        inode = self._inode_of(row)
        live = LiveDelta()
        self._drop_handle(row, inode, now_ns, live)
        self._flush_live(live)
        return InfoReply(inode.info(), self._writer(inode.ino, node)[0])

    # Information ------------------------------------------------------------------------------

    def stat(self, body: Stat, incarnation: bytes) -> tuple[InfoReply, TokenRef | None]:
        """Return what the tables know of a file, and the node that knows its size and time better:
        another holder of DIRECT_RW. ``held_by_asker``: the asking node is the holder."""
        node = self._node(incarnation)
        if body.handle:
            inode = self._inode_of(self._held(body.caller, body.handle, body.generation, node))
        else:
            inode = self._existing(body.path)
            if inode.pending:
                raise DeletePending(f"{inode.name!r} is being deleted")
        own, other = self._writer(inode.ino, node)
        return InfoReply(inode.info(), own), other

    def resized(self, reply: InfoReply, incarnation: bytes) -> tuple[InfoReply, TokenRef | None]:
        """Return an answer of an earlier moment with the size and time that the tables know now,
        and, as ``stat`` does, the node that knows better."""
        inode = self._inode(reply.info.ino)
        if inode is None:
            return InfoReply(reply.info), None
        info = replace(reply.info, size=inode.size, modified_ns=inode.modified)
        own, other = self._writer(inode.ino, self._node(incarnation))
        return InfoReply(info, own), other

    def _writer(self, ino: int, node: Node) -> tuple[bool, TokenRef | None]:
        """Who holds DIRECT_RW: (the asking node, another)."""
        row = self._one(
            "SELECT log_id,generation FROM token WHERE ino=? AND mode=?",
            ino, int(TokenMode.DIRECT_RW),
        )  # fmt: skip
        if row is None:
            return False, None
        if row[0] == node.log_id:
            return True, None
        return False, TokenRef(ino, self._incarnation(row[0]), row[1])

    def set_info(self, body: SetInfo, incarnation: bytes, now_ns: int) -> InfoReply:
        """Set attributes, times or delete-on-close; see ``messages.SetInfo``. A modified time is
        set when no node can overwrite it any more: Blocked(recall) before."""
        node = self._node(incarnation)
        row: Handle | None = None
        if body.handle:
            row = self._held(body.caller, body.handle, body.generation, node)
            inode = self._inode_of(row)
            changes = body.set_attributes or body.created_ns or body.modified_ns
            if (changes or body.accessed_ns) and not row.access & _WRITE_ATTRIBUTES:
                raise AccessDenied("the handle was opened without WRITE_ATTRIBUTES")
        else:
            inode = self._existing(body.path)
            if inode.pending:
                raise DeletePending(f"{inode.name!r} is being deleted")
        if body.set_attributes and body.attributes & ~ATTRIBUTES_MASK:
            raise InvalidParameter(f"attributes {body.attributes}; known bits are 1, 2, 4 and 32")
        if body.modified_ns:
            own, other = self._writer(inode.ino, node)
            if own or other:
                self._recall_all(inode.ino)
        if body.delete_on_close:
            self._set_disposition(row, inode, body.delete_on_close)
        inode = inode._replace(
            attributes=body.attributes if body.set_attributes else inode.attributes,
            created=body.created_ns or inode.created,
            modified=body.modified_ns or inode.modified,
            accessed=body.accessed_ns or inode.accessed,
            changed=now_ns,
        )
        self._run(
            "UPDATE inode SET attributes=?,created=?,modified=?,accessed=?,changed=? WHERE ino=?",
            inode.attributes, inode.created, inode.modified, inode.accessed, now_ns, inode.ino,
        )  # fmt: skip
        return InfoReply(inode.info(), self._writer(inode.ino, node)[0])

    def _set_disposition(self, row: Handle | None, inode: Inode, wish: int) -> None:
        if row is None or wish not in (1, 2):
            raise InvalidParameter("delete_on_close is 1 (set) or 2 (clear), through a handle")
        if not row.need & DELETE:
            raise AccessDenied("the handle was opened without DELETE")
        pending = inode.pending & ~PENDING_DISPOSITION
        if wish == 1:
            if inode.attributes & READ_ONLY:
                raise CannotDelete(f"{inode.name!r} is read-only")
            if not inode.parent:
                raise CannotDelete("the root directory stays")
            if not self._deletable(inode):
                raise DirectoryNotEmpty(f"{inode.name!r} is not empty")
            pending |= PENDING_DISPOSITION
        self._run("UPDATE inode SET pending=? WHERE ino=?", pending, inode.ino)

    def truncate(self, body: Truncate, incarnation: bytes, now_ns: int) -> InfoReply:
        """Set the size. A node that holds DIRECT_RW sends its unsent records along; for any other
        the tokens of the file are recalled first, its own included."""
        node = self._node(incarnation)
        self.apply_commit(body.commit)
        row = self._held(body.caller, body.handle, body.generation, node)
        if not row.access & Access.WRITE:
            raise AccessDenied("the handle was opened without WRITE")
        size = body.size
        if size > FILE_BYTES_MAX:
            raise InvalidParameter(f"size {size} is above {FILE_BYTES_MAX}")
        inode = self._inode_of(row)
        if not self._writer(inode.ino, node)[0]:
            self._recall_all(inode.ino)
        live = LiveDelta()
        if size < inode.size or not size:
            self._shrink(inode, size, body.tail, node, live)
        elif body.tail:
            raise ProtocolError("a truncate that does not shrink has no tail")
        self._flush_live(live)
        modified = body.modified_ns or now_ns
        self._run(
            "UPDATE inode SET size=?,modified=?,changed=? WHERE ino=?",
            size, modified, now_ns, inode.ino,
        )  # fmt: skip
        inode = inode._replace(size=size, modified=modified, changed=now_ns)
        return InfoReply(inode.info(), self._writer(inode.ino, node)[0])

    def _shrink(self, inode: Inode, size: int, tail: bytes, node: Node, live: LiveDelta) -> None:
        self._drop_pages(inode.ino, pages_of(size), live)
        last = size // 4096
        if tail:
            for extent in unpack_extents(tail):
                if not size % 4096 or extent.page != last or extent.pages != 1:
                    raise ProtocolError("the tail of a truncate is its zeroed last page")
            self._put_extents(inode.ino, tail, node.log_id, pages_of(size), live)
        elif size % 4096 and self._has_page(inode.ino, last):
            raise ProtocolError("a truncate inside a page brings that page zeroed behind its end")

    # Compound calls ---------------------------------------------------------------------------

    def write_file(self, body: WriteFile, incarnation: bytes, now_ns: int) -> InfoReply:
        """create + write + close in one: the file has exactly the contents of ``extents`` (in
        detached records of the asking node's log) and ``size``. CREATE, OVERWRITE or OVERWRITE_IF.
        Blocked(recall) for all tokens of an existing file."""
        node = self._node(incarnation)
        self.apply_commit(body.commit)
        if body.disposition not in (Disposition.CREATE, *_OVERWRITES):
            raise InvalidParameter("write_file takes CREATE, OVERWRITE or OVERWRITE_IF")
        if body.size > FILE_BYTES_MAX or body.attributes & ~ATTRIBUTES_MASK:
            raise InvalidParameter(f"size {body.size} or attributes {body.attributes} out of range")
        if body.extents and body.log_id != node.log_id:
            raise ProtocolError("a node names records of its own data log only")
        modified = body.modified_ns or now_ns
        live = LiveDelta()
        parent, name, inode = self._resolve(body.path)
        if inode is None:
            directory = self._directory(parent)
            if body.disposition == Disposition.OVERWRITE:
                raise ObjectNameNotFound(body.path)
            ino = self._take_numbers(inos=1)[0]
            info = self._create(directory, ino, name, body.attributes, body.size, now_ns)
        else:
            ino = inode.ino
            _check_overwritten(inode, body.disposition == Disposition.CREATE)
            handles = self._handles_of(ino)
            check_fence(handles, WRITE)
            check_shares(handles, WRITE, 0)
            if handles and io_conflict(self._locks_of(ino), 0, 0, max(body.size, 1), True):
                raise FileLockConflict(f"another handle has locked a range of {inode.name!r}")
            self._recall_all(ino)
            info = self._overwrite(inode, body.attributes, now_ns, live).info()
            info.size = body.size
        if body.extents:
            self._put_extents(ino, body.extents, node.log_id, pages_of(body.size), live)
        self._flush_live(live)
        if inode is not None or modified != now_ns:
            self._run("UPDATE inode SET size=?,modified=? WHERE ino=?", body.size, modified, ino)
        info.modified_ns = modified
        return InfoReply(info)

    def read_file(self, body: ReadFile, incarnation: bytes) -> ReadFileReply:
        """open + read + close in one: a momentary view (a grant of mode 0) of the pages from
        ``offset`` on. Without a grant the asking node holds DIRECT_RW itself and reads under it.
        Blocked(recall) while another node holds DIRECT_RW."""
        node = self._node(incarnation)
        inode = self._existing(body.path)
        if inode.directory:
            raise FileIsADirectory(f"{inode.name!r} is a directory")
        if inode.pending:
            raise DeletePending(f"{inode.name!r} is being deleted")
        handles = self._handles_of(inode.ino)
        check_fence(handles, READ)
        check_shares(handles, READ, 0)
        if handles and io_conflict(self._locks_of(inode.ino), 0, body.offset, body.length, False):
            raise FileLockConflict(f"another handle has locked a range of {inode.name!r}")
        self._refuse_lost(inode.ino)
        others, own = self._holders(inode.ino, node)
        if own is not None and own[0] == TokenMode.DIRECT_RW:
            if body.not_held:
                self._recall(inode.ino, [(node.log_id, *own)])
            return ReadFileReply(inode.info())
        self._recall(inode.ino, self._conflicting(others, int(TokenMode.DIRECT_R)))
        first = min(body.offset // 4096, pages_of(inode.size))
        end = min(
            pages_of(body.offset + body.length), pages_of(inode.size), first + FETCH_PAGES_MAX
        )
        packed, through, logs = self._packed(inode.ino, first, max(first, end))
        return ReadFileReply(
            inode.info(),
            Grant(
                inode.ino,
                info=inode.info(),
                extents=packed,
                extents_through_page=through,
                logs=logs,
            ),
        )


def _check_open(body: Open) -> Disposition:
    """Raise InvalidParameter for an open that makes no sense on any file."""
    disposition = _DISPOSITIONS.get(body.disposition)
    if disposition is None:
        raise InvalidParameter(f"disposition {body.disposition} is outside 1..5")
    access, options = body.access, body.options
    if not access or access & ~ACCESS_MASK or body.share & ~SHARE_MASK or options & ~7:
        raise InvalidParameter(
            f"access {access}, share {body.share} or options {options} has unknown bits or none"
        )
    if body.attributes & ~ATTRIBUTES_MASK:
        raise InvalidParameter(f"attributes {body.attributes}; known bits are 1, 2, 4 and 32")
    if len(body.app_instance) not in (0, ID_BYTES):
        raise InvalidParameter(f"an application instance has {ID_BYTES} bytes")
    if options & _DELETE_ON_CLOSE and not access & _ACCESS_DELETE:
        raise AccessDenied("delete-on-close needs DELETE access")
    if options & _DELETE_ON_CLOSE and body.attributes & READ_ONLY:
        raise CannotDelete("a read-only file cannot be deleted on close")
    if options & _DIRECTORY and disposition is not Disposition.OPEN:
        raise InvalidParameter("directories are opened with OPEN, and created with mkdir")
    return disposition


def _check_existing(body: Open, disposition: Disposition, inode: Inode) -> None:
    """The checks of an open against the file itself, before those against other opens."""
    if inode.pending:
        raise DeletePending(f"{inode.name!r} is being deleted")
    if disposition is Disposition.CREATE:
        raise ObjectNameCollision(f"{inode.name!r} exists")
    wants_directory = bool(body.options & _DIRECTORY)
    if inode.directory:
        if not wants_directory or body.access & _WRITES:
            raise FileIsADirectory(f"{inode.name!r} is a directory")
    elif wants_directory:
        raise NotADirectory(f"{inode.name!r} is a file")
    if inode.attributes & READ_ONLY:
        if body.options & _DELETE_ON_CLOSE:
            raise CannotDelete(f"{inode.name!r} is read-only")
        if body.access & _WRITES or disposition in _OVERWRITES:
            raise AccessDenied(f"{inode.name!r} is read-only")
    if not inode.parent and body.access & _ACCESS_DELETE:
        raise AccessDenied("the root directory stays")


def _check_overwritten(inode: Inode, must_not_exist: bool) -> None:
    if inode.pending:
        raise DeletePending(f"{inode.name!r} is being deleted")
    if must_not_exist:
        raise ObjectNameCollision(f"{inode.name!r} exists")
    if inode.directory:
        raise FileIsADirectory(f"{inode.name!r} is a directory")
    if inode.attributes & READ_ONLY:
        raise AccessDenied(f"{inode.name!r} is read-only")


def check_fence(handles: Iterable[Handle], need: int) -> None:
    """FILE_NOT_AVAILABLE when a disconnected handle keeps the file from this contender."""
    if need and any(row.need and not row.log_id for row in handles):
        raise FileNotAvailable(
            "a disconnected client's persistent handle keeps the file",
            retry_after_ms=FENCE_RETRY_MS,
        )


def check_shares(handles: Iterable[Handle], need: int, deny: int) -> None:
    if any(excludes(need, deny, row.need, row.deny) for row in handles):
        raise SharingViolation("another open of the file excludes this access or share mode")


def without_grant(reply: Message) -> Message:
    """A stored or shared answer holds no grant: a token is given to one node, once."""
    if isinstance(reply, OpenReply) and reply.grant is not None:
        return replace(reply, grant=None)
    return reply
