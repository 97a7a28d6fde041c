"""What a file system of SOFS must answer, in plain Python: the model of the state machine.

It knows no nodes and no failures: to an application there are none. An operation returns what the
product must return, or raises ``Refused`` with the exact code, and then has changed nothing. The
order in which reasons are looked at is part of the contract: names first, then the file itself,
then absent clients, then other opens, then locks.

The rules are written anew from the documents (MS-FSA's share modes and byte-range locks, and the
docstrings of ``sofs/core``), not called from the product: else a bug would stand on both sides.

One thing is not simple: a client that died without a goodbye. Its handles keep what they hold
until their timeout. ``Refused(FENCED)`` says that such a handle keeps the file from whoever asks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sofs.client.file import AsyncFile
from sofs.core.messages import FileInfo

FENCED: Final = "FILE_NOT_AVAILABLE"
UNSUPPORTED: Final = "unsupported"  # What the mode of a file forbids: no code of the wire.
READ_ONLY: Final = 1
READ, WRITE, DELETE = "rwd"  # What an open needs, and what it shares.
WHOLE: Final = 4 << 20  # A read of a whole file asks for so much.

Range = tuple[int, int, bool]  # Offset, length, exclusive.


class Refused(Exception):
    """The operation must be refused with ``code``."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Mode:
    """What a mode of ``open`` means."""

    reads: bool
    writes: bool
    must_exist: bool = False
    must_not_exist: bool = False
    empties: bool = False
    appends: bool = False


MODES: Final = {
    "rb": Mode(True, False, must_exist=True),
    "r+b": Mode(True, True, must_exist=True),
    "wb": Mode(False, True, empties=True),
    "w+b": Mode(True, True, empties=True),
    "ab": Mode(False, True, appends=True),
    "a+b": Mode(True, True, appends=True),
    "xb": Mode(False, True, must_not_exist=True),
    "x+b": Mode(True, True, must_not_exist=True),
}


@dataclass(eq=False)
class Inode:
    """A file or directory. ``times``: those that somebody set and nothing has changed since."""

    directory: bool
    parent: Inode | None
    name: str
    data: bytearray = field(default_factory=bytearray)
    children: dict[str, Inode] = field(default_factory=dict)
    attributes: int = 0
    final: bool = False  # Deleted: it goes with its last handle.
    disposition: bool = False  # The same, but it may be taken back.
    handles: list[Handle] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    ino: int = 0  # As the product called it when it first told.

    @property
    def pending(self) -> bool:
        return self.final or self.disposition

    @property
    def path(self) -> str:
        if self.parent is None:
            return "/"
        return f"{self.parent.path.rstrip('/')}/{self.name}"

    def __repr__(self) -> str:
        return f"<{self.path}>"


@dataclass(eq=False)
class Handle:
    """An open file. ``life``: which life of which client has it. ``dead``: that life ended without
    a goodbye. ``taken``: a newer application instance closed it; its client will hear of it."""

    life: int
    inode: Inode
    mode: Mode
    shares: str
    needs: str
    delete_on_close: bool
    app: int
    locks: list[Range] = field(default_factory=list)
    dead: bool = False
    taken: bool = False

    @property
    def denies(self) -> str:
        return "".join(c for c in "rwd" if c not in self.shares) if self.needs else ""


class Model:
    """See the module. Paths are absolute; ``life`` numbers the lives of clients."""

    def __init__(self) -> None:
        self.root = Inode(True, None, "")

    # Names ------------------------------------------------------------------------------------

    def resolve(self, path: str) -> tuple[Inode | None, str, Inode | None]:
        """Return (parent, last name, what has the name or None)."""
        names = [name for name in path.split("/") if name]
        if not names:
            return None, "", self.root
        at = self.root
        for name in names[:-1]:
            self._must_be_directory(at)
            if name not in at.children:
                raise Refused("OBJECT_NAME_NOT_FOUND")
            at = at.children[name]
        self._must_be_directory(at)
        return at, names[-1], at.children.get(names[-1])

    @staticmethod
    def _must_be_directory(inode: Inode) -> None:
        if not inode.directory:
            raise Refused("NOT_A_DIRECTORY")

    def existing(self, path: str) -> Inode:
        found = self.resolve(path)[2]
        if found is None:
            raise Refused("OBJECT_NAME_NOT_FOUND")
        return found

    def _unless_pending(self, inode: Inode) -> None:
        if inode.pending:
            raise Refused("DELETE_PENDING")

    def _create(self, parent: Inode, name: str, *, directory: bool = False) -> Inode:
        made = Inode(directory, parent, name)
        parent.children[name] = made
        self._changed(parent)
        return made

    def _remove(self, inode: Inode) -> None:
        assert inode.parent is not None
        del inode.parent.children[inode.name]
        self._changed(inode.parent)

    @staticmethod
    def _changed(inode: Inode) -> None:
        inode.times.pop("modified", None)

    def mkdir(self, path: str) -> Inode:
        parent, name, inode = self.resolve(path)
        if inode is not None:
            self._unless_pending(inode)
            raise Refused("OBJECT_NAME_COLLISION")
        assert parent is not None
        return self._create(parent, name, directory=True)

    def rmdir(self, path: str) -> None:
        inode = self.existing(path)
        self._must_be_directory(inode)
        if inode is self.root:
            raise Refused("ACCESS_DENIED")
        if inode.children:
            raise Refused("DIRECTORY_NOT_EMPTY")
        self._delete(inode)

    def unlink(self, path: str) -> None:
        inode = self.existing(path)
        if inode.directory:
            raise Refused("FILE_IS_A_DIRECTORY")
        self._delete(inode)

    def _delete(self, inode: Inode) -> None:
        self._unless_pending(inode)
        if inode.attributes & READ_ONLY:
            raise Refused("CANNOT_DELETE")
        self._against_others(inode, DELETE, "")
        if inode.handles:
            inode.final = True
        else:
            self._remove(inode)

    def rename(self, source: str, target: str, replace: bool) -> None:
        moved = self.existing(source)
        if moved is self.root:
            raise Refused("ACCESS_DENIED")
        self._unless_pending(moved)
        self._against_others(moved, DELETE, "")
        parent, name, there = self.resolve(target)
        if there is moved:
            return
        if parent is None:
            raise Refused("OBJECT_NAME_COLLISION")
        above: Inode | None = parent if moved.directory else None
        while above is not None:
            if above is moved:
                raise Refused("INVALID_PARAMETER")
            above = above.parent
        if there is not None:
            self._replaceable(moved, there, replace)
            self._remove(there)
        assert moved.parent is not None
        del moved.parent.children[moved.name]
        self._changed(moved.parent)
        self._changed(parent)
        moved.parent, moved.name = parent, name
        parent.children[name] = moved

    def _replaceable(self, moved: Inode, there: Inode, replace: bool) -> None:
        self._unless_pending(there)
        if not replace:
            raise Refused("OBJECT_NAME_COLLISION")
        if there.directory and not moved.directory:
            raise Refused("FILE_IS_A_DIRECTORY")
        if moved.directory:
            self._must_be_directory(there)
        if there.children:
            raise Refused("DIRECTORY_NOT_EMPTY")
        if there.attributes & READ_ONLY:
            raise Refused("ACCESS_DENIED")
        self._fence(there, DELETE)
        if there.handles:
            raise Refused("ACCESS_DENIED")

    def listdir(self, path: str) -> list[str]:
        inode = self.existing(path)
        self._must_be_directory(inode)
        return sorted(inode.children, key=str.encode)

    def read_page(self, path: str, after: str, entries_max: int) -> tuple[list[str], bool]:
        names = [n for n in self.listdir(path) if n.encode() > after.encode()]
        return names[:entries_max], len(names) > entries_max

    def stat(self, path: str) -> Inode:
        inode = self.existing(path)
        self._unless_pending(inode)
        return inode

    def set_times(self, path: str, times: dict[str, int]) -> Inode:
        inode = self.stat(path)
        inode.times.update(times)
        return inode

    def set_attributes(self, path: str, attributes: int) -> Inode:
        inode = self.stat(path)
        inode.attributes = attributes
        return inode

    def tree(self) -> Iterator[Inode]:
        """Everything below the root, in no special order."""
        waiting = [self.root]
        while waiting:
            inode = waiting.pop()
            waiting.extend(inode.children.values())
            if inode is not self.root:
                yield inode

    def held(self) -> tuple[list[int], list[tuple[int, int, int, bool]]]:
        """The files of all handles, and all locks, each in order."""
        handles = [handle for inode in self.tree() for handle in inode.handles]
        return (
            sorted(handle.inode.ino for handle in handles),
            sorted((handle.inode.ino, *lock) for handle in handles for lock in handle.locks),
        )

    # Opens ------------------------------------------------------------------------------------

    @staticmethod
    def _fence(inode: Inode, needs: str) -> None:
        if needs and any(h.dead and h.needs for h in inode.handles):
            raise Refused(FENCED)

    def _against_others(self, inode: Inode, needs: str, denies: str) -> None:
        """Share modes in both directions, behind the fence of absent clients."""
        self._fence(inode, needs)
        for other in inode.handles:
            if set(needs) & set(other.denies) or set(other.needs) & set(denies):
                raise Refused("SHARING_VIOLATION")

    def open(
        self,
        life: int,
        path: str,
        mode_text: str,
        shares: str = "rwd",
        *,
        delete_on_close: bool = False,
        deletable: bool = False,
        app: int = 0,
    ) -> Handle:
        """``app``: number of an application instance; 0: none."""
        mode = MODES[mode_text]
        needs = READ * mode.reads + WRITE * mode.writes + DELETE * (delete_on_close or deletable)
        parent, name, inode = self.resolve(path)
        if inode is not None:
            self._openable(inode, mode, delete_on_close)
            if app and self._take_over(inode, life, app):
                # What was taken over is closed, whatever becomes of this open.
                return self.open(
                    life, path, mode_text, shares,
                    delete_on_close=delete_on_close, deletable=deletable, app=app,
                )  # fmt: skip
        made = Handle(life, inode or self.root, mode, shares, needs, delete_on_close, app)
        if inode is None:
            if mode.must_exist:
                raise Refused("OBJECT_NAME_NOT_FOUND")
            assert parent is not None
            made.inode = inode = self._create(parent, name)
        else:
            self._against_others(inode, needs, made.denies)
            if mode.empties:
                self._empty(inode)
        inode.handles.append(made)
        return made

    def _openable(self, inode: Inode, mode: Mode, delete_on_close: bool) -> None:
        self._unless_pending(inode)
        if mode.must_not_exist:
            raise Refused("OBJECT_NAME_COLLISION")
        if inode.directory:
            raise Refused("FILE_IS_A_DIRECTORY")
        if inode.attributes & READ_ONLY:
            if delete_on_close:
                raise Refused("CANNOT_DELETE")
            if mode.writes:
                raise Refused("ACCESS_DENIED")

    def takes_over(self, life: int, path: str, app: int) -> bool:
        """Whether an open would find handles of older instances of its application."""
        try:
            inode = self.resolve(path)[2]
        except Refused:
            return False
        return inode is not None and bool(self._older(inode, life, app))

    @staticmethod
    def _older(inode: Inode, life: int, app: int) -> list[Handle]:
        return [h for h in inode.handles if app and h.app == app and h.life != life]

    def _take_over(self, inode: Inode, life: int, app: int) -> bool:
        older = self._older(inode, life, app)
        for handle in older:
            self._drop(handle)
            handle.taken = True
        return bool(older)

    def _empty(self, inode: Inode) -> None:
        inode.data.clear()
        inode.attributes = 0
        self._changed(inode)

    def close(self, handle: Handle) -> None:
        self._alive(handle)
        self._drop(handle)

    def _drop(self, handle: Handle) -> None:
        inode = handle.inode
        inode.handles.remove(handle)
        handle.locks.clear()
        inode.final = inode.final or handle.delete_on_close
        if inode.pending and not inode.handles:
            self._remove(inode)

    @staticmethod
    def _alive(handle: Handle) -> None:
        if handle.taken:
            raise Refused("FILE_FORCED_CLOSED")

    def leave(self, handles: Sequence[Handle]) -> None:
        """A client says goodbye: all that it has open is closed."""
        for handle in handles:
            if not handle.taken:
                self._drop(handle)

    def expire(self, handles: Sequence[Handle]) -> None:
        """The timeouts of these dead handles have passed."""
        self.leave(handles)

    # Files by path ----------------------------------------------------------------------------

    def read_file(self, path: str) -> bytes:
        inode = self.existing(path)
        if inode.directory:
            raise Refused("FILE_IS_A_DIRECTORY")
        self._unless_pending(inode)
        self._against_others(inode, READ, "")
        self._free_for(None, inode, 0, WHOLE, writes=False)
        return bytes(inode.data)

    def write_file(self, path: str, data: bytes, exclusive: bool) -> Inode:
        parent, name, inode = self.resolve(path)
        if inode is None:
            assert parent is not None
            inode = self._create(parent, name)
        else:
            self._unless_pending(inode)
            if exclusive:
                raise Refused("OBJECT_NAME_COLLISION")
            if inode.directory:
                raise Refused("FILE_IS_A_DIRECTORY")
            if inode.attributes & READ_ONLY:
                raise Refused("ACCESS_DENIED")
            self._against_others(inode, WRITE, "")
            self._free_for(None, inode, 0, max(len(data), 1), writes=True)
            self._empty(inode)
        inode.data[:] = data
        return inode

    # Data -------------------------------------------------------------------------------------

    def pread(self, handle: Handle, size: int, offset: int) -> bytes:
        if not handle.mode.reads:
            raise Refused(UNSUPPORTED)
        self._alive(handle)
        self._free_for(handle, handle.inode, offset, size, writes=False)
        return bytes(handle.inode.data[offset : offset + size])

    def pwrite(self, handle: Handle, data: bytes, offset: int) -> int:
        self._writable(handle)
        self._free_for(handle, handle.inode, offset, len(data), writes=True)
        self._put(handle.inode, data, offset)
        return len(data)

    def append(self, handle: Handle, data: bytes) -> int:
        """Returns where it landed."""
        self._writable(handle)
        offset = len(handle.inode.data)
        self._free_for(handle, handle.inode, offset, len(data), writes=True)
        self._put(handle.inode, data, offset)
        return offset

    def truncate(self, handle: Handle, size: int) -> int:
        self._writable(handle)
        data = handle.inode.data
        del data[size:]
        data.extend(bytes(size - len(data)))
        self._changed(handle.inode)
        return size

    def _writable(self, handle: Handle) -> None:
        if not handle.mode.writes:
            raise Refused(UNSUPPORTED)
        self._alive(handle)

    def _put(self, inode: Inode, data: bytes, offset: int) -> None:
        inode.data.extend(bytes(max(0, offset - len(inode.data))))
        inode.data[offset : offset + len(data)] = data
        self._changed(inode)

    def stat_handle(self, handle: Handle) -> Inode:
        self._alive(handle)
        return handle.inode

    def set_delete_on_close(self, handle: Handle, wish: bool) -> Inode:
        self._alive(handle)
        inode = handle.inode
        if DELETE not in handle.needs:
            raise Refused("ACCESS_DENIED")
        if wish and inode.attributes & READ_ONLY:
            raise Refused("CANNOT_DELETE")
        inode.disposition = wish
        return inode

    # Locks ------------------------------------------------------------------------------------

    def _free_for(
        self, handle: Handle | None, inode: Inode, offset: int, length: int, *, writes: bool
    ) -> None:
        """An exclusive lock keeps all others out; a shared one keeps everybody from writing."""
        for other in inode.handles:
            for at, n, exclusive in other.locks:
                if not _overlap(offset, length, at, n):
                    continue
                if (other is handle and writes and not exclusive) or (
                    other is not handle and (writes or exclusive)
                ):
                    raise Refused("FILE_LOCK_CONFLICT")

    def lock(self, handle: Handle, ranges: Sequence[Range]) -> None:
        """All or none."""
        self.change_locks(handle, (), (), ranges)

    def unlock(self, handle: Handle, ranges: Sequence[tuple[int, int]]) -> None:
        """All or none, each exactly one held range; of two the exclusive one goes first."""
        self.change_locks(handle, ranges, (), ())

    def change_locks(
        self,
        handle: Handle,
        drop: Sequence[tuple[int, int]],
        test: Sequence[Range],
        take: Sequence[Range],
    ) -> None:
        """In this order, all or nothing. What is tested has to be free, and is not kept."""
        self._alive(handle)
        mine = list(handle.locks)
        for offset, length in drop:
            exact = [lock for lock in mine if lock[:2] == (offset, length)]
            if not exact:
                raise Refused("RANGE_NOT_LOCKED")
            mine.remove(next((lock for lock in exact if lock[2]), exact[0]))
        others = [lock for h in handle.inode.handles if h is not handle for lock in h.locks]
        for wanted in test:
            self._grantable(wanted, mine, others)
        for wanted in take:
            self._grantable(wanted, mine, others)
            mine.append(wanted)
        handle.locks = mine

    @staticmethod
    def _grantable(wanted: Range, mine: Sequence[Range], others: Sequence[Range]) -> None:
        """A shared lock may lie upon an exclusive one of the same handle; else the usual."""
        offset, length, exclusive = wanted
        for held, own in [*((lock, True) for lock in mine), *((lock, False) for lock in others)]:
            excludes = exclusive or (held[2] and not own)
            if excludes and _overlap(offset, length, held[0], held[1]):
                raise Refused("LOCK_NOT_GRANTED")

    # Absent clients ---------------------------------------------------------------------------

    def kept(self, paths: Sequence[str]) -> bool:
        """Whether a dead client's handle keeps anything that the paths name."""
        for path in paths:
            try:
                inode = self.resolve(path)[2]
            except Refused:
                continue
            if inode is not None and any(h.dead for h in inode.handles):
                return True
        return False


def _overlap(offset: int, length: int, at: int, n: int) -> bool:
    """Ranges that share a byte; an empty one overlaps what lies strictly around it."""
    return offset < at + n and at < offset + length


def serial_bytes(numbers: Iterator[int], length: int) -> bytes:
    """Data that no other write has, as far as its length allows."""
    piece = f"{next(numbers):07d};".encode()
    return bytes(itertools.islice(itertools.cycle(piece), length))


def same_info(info: FileInfo, inode: Inode) -> None:
    """What was told of a file is what the model knows of it."""
    assert info.is_directory == inode.directory
    assert info.size == len(inode.data), f"{info.size} bytes, not {len(inode.data)}"
    assert info.attributes == inode.attributes
    assert info.ino == inode.ino or not inode.ino, "it is another file"
    inode.ino = info.ino
    found = {
        "modified": info.modified_ns,
        "created": info.created_ns,
        "accessed": info.accessed_ns,
    }
    for name, at in inode.times.items():
        assert found[name] == at, f"{name}: {found[name]}, not {at}"


def equal(found: Any, wanted: Any) -> None:
    assert found == wanted, f"{found!r}, not {wanted!r}"


@dataclass(eq=False)
class Opened:
    """An open file on both sides."""

    handle: Handle
    file: AsyncFile
    client: int
