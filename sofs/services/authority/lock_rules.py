"""Byte-range locks in the tables: granted all or none, checked against every handle of the file.

A new lock is in the table first; the caller then tells every other token holder and answers the
client when they all know it (or are sealed): from the answer on, nobody reads or writes against it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sofs.constants import HANDLE_LOCKS_MAX
from sofs.core.locks import check_ranges, lock_conflict, unlock_index
from sofs.core.messages import Access, Done, HeldLock, Lock, LockRange, Unlock
from sofs.errors import AccessDenied, LimitReached, LockNotGranted, RangeNotLocked
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
            against = lock_conflict(held, row.handle, wanted)
            if against is not None:
                raise LockNotGranted(
                    f"range at {wanted.offset} of {wanted.length} bytes is locked by another lock "
                    f"at {against.offset} of {against.length} bytes"
                )
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
        rows = self._all(
            "SELECT n,first,length,exclusive FROM lock WHERE handle=? ORDER BY n", row.handle
        )
        held = [HeldLock(row.handle, int(f), int(length), bool(x)) for _, f, length, x in rows]
        numbers = [n for n, *_ in rows]
        for wanted in body.ranges:
            index = unlock_index(held, row.handle, wanted)
            if index is None:
                raise RangeNotLocked(
                    f"this handle holds no lock at {wanted.offset} of {wanted.length} bytes"
                )
            del held[index]
            self._run("DELETE FROM lock WHERE handle=? AND n=?", row.handle, numbers.pop(index))
        return Done()

    def lock_table(self, ino: int, incarnation: bytes) -> tuple[list[TokenRef], list[HeldLock]]:
        """Return the file's tokens of all nodes but the asking one, and its lock table."""
        tokens = [token for token in self.tokens_of(ino) if token.incarnation != incarnation]
        return tokens, self._locks_of(ino)
