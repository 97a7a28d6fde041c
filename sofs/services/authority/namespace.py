"""Directories, names, and moving them: mkdir, rmdir, unlink, rename, read_dir.

Handles name inodes, not paths: a directory may be renamed while files below it are open. A file
that is open and unlinked keeps its name, in state DELETE_PENDING, until its last handle closes.
Everything here is one transaction with its stored answer: after a crash there is exactly one name,
and the answer that a replay gets agrees with it.
"""

from __future__ import annotations

from sofs.constants import DIRECTORY_PAGE_ENTRIES_MAX
from sofs.core.messages import (
    DirectoryEntry,
    Done,
    InfoReply,
    Message,
    Mkdir,
    ReadDir,
    ReadDirReply,
    Rename,
    Rmdir,
    Unlink,
)
from sofs.core.share import DELETE
from sofs.errors import (
    AccessDenied,
    CannotDelete,
    DeletePending,
    DirectoryNotEmpty,
    FileIsADirectory,
    FileNotAvailable,
    InvalidParameter,
    NotADirectory,
    ObjectNameCollision,
    SharingViolation,
    SofsError,
    invariant,
)
from sofs.services.authority.cuts import LiveDelta
from sofs.services.authority.opens import (
    FENCE_RETRY_MS,
    READ_ONLY,
    Opens,
    check_fence,
    check_shares,
)
from sofs.services.authority.schema import PENDING_FINAL
from sofs.services.authority.tables import Handle, Inode


class Namespace(Opens):
    """Rules of directories and names."""

    def mkdir(self, body: Mkdir, now_ns: int) -> InfoReply:
        """Make a directory."""
        parent, name, inode = self._resolve(body.path)
        if inode is not None:
            if inode.pending:
                raise DeletePending(f"{inode.name!r} is being deleted")
            raise ObjectNameCollision(f"{body.path!r} exists")
        directory = self._directory(parent)
        ino = self._take_numbers(inos=1)[0]
        return InfoReply(self._create(directory, ino, name, 0, 0, now_ns, is_directory=True))

    def rmdir(self, body: Rmdir, now_ns: int) -> Done:
        """Remove an empty directory; SharingViolation while it is open without shared delete."""
        inode = self._existing(body.path)
        if not inode.directory:
            raise NotADirectory(f"{inode.name!r} is a file; unlink removes files")
        if not inode.parent:
            raise AccessDenied("the root directory stays")
        if not self._deletable(inode):
            raise DirectoryNotEmpty(f"{inode.name!r} is not empty")
        self._delete(inode, now_ns)
        return Done()

    def unlink(self, body: Unlink, now_ns: int) -> Done:
        """Remove a file; while it is open its name stays, DELETE_PENDING, until the last close."""
        inode = self._existing(body.path)
        if inode.directory:
            raise FileIsADirectory(f"{inode.name!r} is a directory; rmdir removes directories")
        self._delete(inode, now_ns)
        return Done()

    def _delete(self, inode: Inode, now_ns: int) -> None:
        if inode.pending:
            raise DeletePending(f"{inode.name!r} is being deleted already")
        if inode.attributes & READ_ONLY:
            raise CannotDelete(f"{inode.name!r} is read-only; clear the attribute first")
        handles = self._handles_of(inode.ino)
        check_fence(handles, DELETE)
        check_shares(handles, DELETE, 0)
        if handles:
            self._run("UPDATE inode SET pending=? WHERE ino=?", PENDING_FINAL, inode.ino)
            return
        live = LiveDelta()
        self._remove_inode(inode, now_ns, live)
        self._flush_live(live)

    def rename(self, body: Rename, now_ns: int) -> Done:
        """Move a file or directory to another name, atomically; see ``messages.Rename``."""
        source = self._existing(body.source)
        if not source.parent:
            raise AccessDenied("the root directory stays where it is")
        if source.pending:
            raise DeletePending(f"{source.name!r} is being deleted")
        handles = self._handles_of(source.ino)
        check_fence(handles, DELETE)
        check_shares(handles, DELETE, 0)
        self._check_parent_open(source.parent)
        parent, name, target = self._resolve(body.target)
        if target is not None and target.ino == source.ino:
            return Done()
        if not name:
            raise ObjectNameCollision("the root directory exists")
        directory = self._directory(parent)
        if directory.pending:
            raise DeletePending(f"the directory {directory.name!r} is being deleted")
        if source.directory:
            self._check_no_cycle(source, directory)
        if target is not None:
            self._replace(source, target, body.replace, now_ns)
        self._run("DELETE FROM dirent WHERE parent=? AND name=?", source.parent, source.name)
        self._run("INSERT INTO dirent VALUES(?,?,?)", parent, name, source.ino)
        self._run(
            "UPDATE inode SET parent=?,name=?,changed=? WHERE ino=?",
            parent, name, now_ns, source.ino,
        )  # fmt: skip
        self._touch(parent, now_ns)
        if parent != source.parent:
            self._touch(source.parent, now_ns)
        return Done()

    def _check_parent_open(self, parent: int) -> None:
        """A directory that is open for DELETE, or without sharing it, holds its entries still."""
        row = self._one(
            "SELECT log_id FROM handle WHERE ino=? AND (need|deny)&? LIMIT 1", parent, DELETE
        )
        if row is None:
            return
        if not row[0]:
            raise FileNotAvailable(
                "a disconnected client's persistent handle keeps the directory",
                retry_after_ms=FENCE_RETRY_MS,
            )
        raise SharingViolation("an open of the directory excludes renames in it")

    def _check_no_cycle(self, source: Inode, directory: Inode) -> None:
        at = directory
        while at.parent:
            if at.ino == source.ino:
                raise InvalidParameter("a directory cannot be moved below itself")
            above = self._inode(at.parent)
            invariant(above is not None, f"directory {at.ino} has a parent")
            assert above is not None
            at = above

    def _replace(self, source: Inode, target: Inode, replace: bool, now_ns: int) -> None:
        """Make the target's name free, if it may be replaced."""
        if target.pending:
            raise DeletePending(f"{target.name!r} is being deleted")
        if not replace:
            raise ObjectNameCollision(f"{target.name!r} exists")
        if target.directory and not source.directory:
            raise FileIsADirectory(f"{target.name!r} is a directory")
        if source.directory and not target.directory:
            raise NotADirectory(f"{target.name!r} is a file")
        if not self._deletable(target):
            raise DirectoryNotEmpty(f"{target.name!r} is not empty")
        if target.attributes & READ_ONLY:
            raise AccessDenied(f"{target.name!r} is read-only")
        handles: list[Handle] = self._handles_of(target.ino)
        check_fence(handles, DELETE)
        if handles:
            raise AccessDenied(f"{target.name!r} is open and cannot be replaced")
        live = LiveDelta()
        self._remove_inode(target, now_ns, live)
        self._flush_live(live)

    def read_dir(self, body: ReadDir) -> ReadDirReply:
        """Return up to ``entries_max`` (0: as many as fit) entries after ``after``, in byte order
        of their UTF-8 names."""
        inode = self._existing(body.path)
        if not inode.directory:
            raise NotADirectory(f"{inode.name!r} is a file")
        limit = min(body.entries_max or DIRECTORY_PAGE_ENTRIES_MAX, DIRECTORY_PAGE_ENTRIES_MAX)
        try:
            body.after.encode()
        except UnicodeEncodeError:
            raise InvalidParameter("`after` is no name: it holds a lone surrogate") from None
        rows = self._all(
            "SELECT d.name,i.ino,i.directory,i.size,i.modified FROM dirent d "
            "JOIN inode i ON i.ino=d.ino WHERE d.parent=? AND d.name>? ORDER BY d.name LIMIT ?",
            inode.ino, body.after, limit + 1,
        )  # fmt: skip
        entries = [
            DirectoryEntry(name, ino, bool(directory), size, modified)
            for name, ino, directory, size, modified in rows[:limit]
        ]
        return ReadDirReply(entries, len(rows) > limit)

    def touched(self, body: Message) -> list[int]:
        """Return the existing files that a create, open, rename or delete is about, as far as their
        names resolve now; for the resume gate."""
        inos: list[int] = []
        for path in (getattr(body, field, "") for field in ("path", "source", "target")):
            if path:
                try:
                    inode = self._resolve(path)[2]
                except SofsError:
                    continue  # The operation itself will say what is wrong with the name.
                if inode is not None:
                    inos.append(inode.ino)
        return inos
