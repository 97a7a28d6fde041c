"""Byte-range locks in the tables: granted all or none, checked against every handle of the file.

A new lock is in the table first; the caller then tells every other token holder and answers the
client when they all know it (or are sealed): from the answer on, nobody reads or writes against it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sofs.constants import HANDLE_LOCKS_MAX
from sofs.core.locks import check_ranges, lock_conflict, unlock_index
from sofs.core.messages import (
    Access,
    Caller,
    ChangeLocks,
    Done,
    HeldLock,
    Lock,
    LockRange,
    LocksChanged,
    TokenMode,
    Unlock,
)
from sofs.errors import AccessDenied, LimitReached, LockNotGranted, RangeNotLocked, SofsError
from sofs.services.authority.blocked import TokenRef
from sofs.services.authority.namespace import Namespace
from sofs.services.authority.tables import Handle

_DATA = int(Access.READ | Access.WRITE | Access.APPEND)


class Locks(Namespace):
    """Rules of the table ``lock``."""

    def lock(self, body: Lock, incarnation: bytes) -> Done:
        """Take all ranges or none; LockNotGranted names the first that another lock excludes."""
        node = self._node(incarnation)
        row = self._held(body.caller, body.handle, body.generation, node)
        check_ranges(body.ranges)
        if not row.access & _DATA:
            raise AccessDenied("a lock needs a handle with READ, WRITE or APPEND access")
        held = self._locks_of(row.ino)
        self._add(row, held, body.ranges)
        return Done()

    def _add(self, row: Handle, held: list[HeldLock], ranges: Sequence[LockRange]) -> None:
        taken = self._one("SELECT count(*),max(n) FROM lock WHERE handle=?", row.handle)
        if taken[0] + len(ranges) > HANDLE_LOCKS_MAX:
            raise LimitReached(f"a handle holds at most {HANDLE_LOCKS_MAX} locks; unlock some")
        n = 0 if taken[1] is None else taken[1] + 1
        for wanted in ranges:
            _refuse_conflict(held, row.handle, wanted)
            held.append(HeldLock(row.handle, wanted.offset, wanted.length, wanted.exclusive))
            self._run(
                "INSERT INTO lock VALUES(?,?,?,?,?,?)",
                row.handle, n, row.ino, str(wanted.offset), str(wanted.length),
                int(wanted.exclusive),
            )  # fmt: skip
            n += 1

    def unlock(self, body: Unlock, incarnation: bytes) -> Done:
        """Drop locks that match the ranges exactly; RangeNotLocked (and none dropped) otherwise."""
        node = self._node(incarnation)
        row = self._held(body.caller, body.handle, body.generation, node)
        check_ranges(body.ranges)
        self._drop(row, body.ranges)
        return Done()

    def _drop(self, row: Handle, ranges: Sequence[LockRange]) -> None:
        rows = self._all(
            "SELECT n,first,length,exclusive FROM lock WHERE handle=? ORDER BY n", row.handle
        )
        held = [HeldLock(row.handle, int(f), int(length), bool(x)) for _, f, length, x in rows]
        numbers = [n for n, *_ in rows]
        for wanted in ranges:
            index = unlock_index(held, row.handle, wanted)
            if index is None:
                raise RangeNotLocked(
                    f"this handle holds no lock at {wanted.offset} of {wanted.length} bytes"
                )
            del held[index]
            self._run("DELETE FROM lock WHERE handle=? AND n=?", row.handle, numbers.pop(index))

    def change_locks(self, body: ChangeLocks, incarnation: bytes) -> LocksChanged:
        """Drop, test and take, in this order, all or nothing; see ``messages.ChangeLocks``."""
        node = self._node(incarnation)
        row = self._held(body.caller, body.handle, body.generation, node)
        check_ranges([*body.drop, *body.test, *body.take])
        if body.drop:
            self._drop(row, body.drop)
        if body.test or body.take:
            if not row.access & _DATA:
                raise AccessDenied("a lock needs a handle with READ, WRITE or APPEND access")
            held = self._locks_of(row.ino)
            for wanted in body.test:
                _refuse_conflict(held, row.handle, wanted)
            self._add(row, held, body.take)
        return LocksChanged(nothing_beside=bool(body.beside) and self._nothing_at(body.beside))

    def _nothing_at(self, path: str) -> bool:
        """Is there surely no file of that name, or an empty one? A node that may write to it could
        know more."""
        try:
            inode = self._resolve(path)[2]
        except SofsError:
            return False  # The name makes no sense; whoever uses it will hear why.
        if inode is None:
            return True
        if inode.directory or inode.size or inode.pending:
            return False
        sql = "SELECT 1 FROM token WHERE ino=? AND mode=?"
        return self._one(sql, inode.ino, int(TokenMode.DIRECT_RW)) is None

    def locks_of_handle(self, handle: int) -> list[HeldLock]:
        """Return a handle's locks in the order of taking, to be put back by ``put_back_locks``."""
        rows = self._all(
            "SELECT first,length,exclusive FROM lock WHERE handle=? ORDER BY n", handle
        )
        return [HeldLock(handle, int(f), int(length), bool(x)) for f, length, x in rows]

    def put_back_locks(self, caller: Caller, handle: int, before: Sequence[HeldLock]) -> None:
        """Undo a change of a handle's locks that nobody was told of: they are as ``before``, and
        its stored answer is gone, so that the operation never happened. A handle that is gone by
        now has no locks to put back."""
        self._run("DELETE FROM result WHERE client=? AND op_id=?", caller.client, caller.op_id)
        self._run("DELETE FROM lock WHERE handle=?", handle)
        row = self._handle_row(handle)
        if row is None:
            return
        for n, lock in enumerate(before):
            self._run(
                "INSERT INTO lock VALUES(?,?,?,?,?,?)",
                handle, n, row.ino, str(lock.offset), str(lock.length), int(lock.exclusive),
            )  # fmt: skip

    def holds_locks(self, handle: int) -> bool:
        """Does the handle hold any lock?"""
        return self._one("SELECT 1 FROM lock WHERE handle=? LIMIT 1", handle) is not None

    def locks_free(
        self, ino: int, handle: int, drop: Sequence[LockRange], wanted: Sequence[LockRange]
    ) -> bool:
        """Would a change have its locks, as the table is now?"""
        held = self._locks_of(ino)
        for each in drop:
            index = unlock_index(held, handle, each)
            if index is None:
                return True  # The rules say what is wrong.
            del held[index]
        return all(lock_conflict(held, handle, each) is None for each in wanted)

    def lock_table(self, ino: int, incarnation: bytes) -> tuple[list[TokenRef], list[HeldLock]]:
        """Return the file's tokens of all nodes but the asking one, and its lock table."""
        tokens = [token for token in self.tokens_of(ino) if token.incarnation != incarnation]
        return tokens, self._locks_of(ino)


def _refuse_conflict(held: Sequence[HeldLock], handle: int, wanted: LockRange) -> None:
    against = lock_conflict(held, handle, wanted)
    if against is not None:
        raise LockNotGranted(
            f"range at {wanted.offset} of {wanted.length} bytes is locked by another lock at "
            f"{against.offset} of {against.length} bytes"
        )
