"""What an authority tells of open handles, as events (``core/events.py``).

An event says what is durable. So the rules' caller hands each to the group of its transaction, and
the group tells it when the log holds it; what a life that ended had not made durable was never
told. What an event needs of a row is read before the row goes.

Many handles may change at one moment (a node with thousands of them dies while their clients wait):
the first LISTED_MAX are told one by one, and the last of these says how many there were besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from sofs.core import events as e
from sofs.core import messages as m
from sofs.errors import ObjectNameNotFound
from sofs.ports.events import Events
from sofs.ports.trace import CURRENT
from sofs.services.authority.group_log import GroupLog
from sofs.services.authority.state import AuthorityState
from sofs.services.authority.tables import Handle

LISTED_MAX: Final = 32

T = TypeVar("T")
Told = tuple[int, bytes, str, int]
"""Of a handle: its number, its client, its path, its timeout in ms."""


class HandleStory:
    """Tells what became of the handles of one volume during one life of its authority."""

    def __init__(self, events: Events, state: AuthorityState, group: GroupLog, epoch: int) -> None:
        self._events = events
        self._state = state
        self._group = group
        self._epoch = epoch

    def _later(self, tell: Callable[[], None]) -> None:
        """Tell it when the transaction under way is durable, as a part of the trace of now."""
        context = CURRENT.get()

        def told() -> None:
            token = CURRENT.set(context)
            tell()
            CURRENT.reset(token)

        self._group.when_durable(told)

    def _look(self, handles: Sequence[int]) -> list[Told]:
        """What is to be told of the first handles; those that are gone are left out."""
        rows = [self._state.handle_row(handle) for handle in handles[:LISTED_MAX]]
        return [self._told(row) for row in rows if row is not None]

    def _told(self, row: Handle) -> Told:
        try:
            path = self._state.path_of(row.ino)
        except ObjectNameNotFound:
            path = f"file {row.ino}"
        return row.handle, row.client, path, row.timeout_ms

    # Opens and closes --------------------------------------------------------------------------

    def opened(self, body: m.Open, reply: m.OpenReply, node: str) -> None:
        """An open made a handle."""
        self._later(
            lambda: self._events.emit(
                e.OPEN_ESTABLISHED,
                handle=reply.handle,
                client=body.caller.client,
                path=body.path,
                node=node,
                timeout_ms=reply.timeout_ms,
            )
        )

    def replaced(self, body: m.Open, older: Sequence[tuple[int, bytes]]) -> None:
        """A newer application instance closed older handles: (handle, client) of each."""
        gone = [(handle, client, body.path) for handle, client in older[:LISTED_MAX]]
        if gone:
            self._later(lambda: self._tell_replaced(gone, body.caller.client))

    def _tell_replaced(self, gone: Sequence[tuple[int, bytes, str]], successor: bytes) -> None:
        for handle, client, path in gone:
            self._events.emit(
                e.OPEN_REPLACED, handle=handle, client=client, path=path, successor=successor
            )

    def closed(self, body: m.Close, file: int) -> None:
        """A client closed its handle."""
        self._later(
            lambda: self._events.emit(
                e.OPEN_CLOSED, handle=body.handle, client=body.caller.client, file=file
            )
        )

    def terminated(self, client: bytes, handles: Sequence[int]) -> None:
        """A client said goodbye, with these handles open."""
        listed = handles[:LISTED_MAX]

        def tell() -> None:
            for handle, others in _with_others(listed, len(handles)):
                self._events.emit(e.OPEN_TERMINATED, handle=handle, client=client, others=others)

        if listed:
            self._later(tell)

    def closing(self, handle: int) -> Callable[[], None]:
        """An administrator is about to close a handle; call the result when it is done."""
        looked = self._look([handle])

        def tell() -> None:
            for number, client, path, _ in looked:
                self._events.emit(
                    e.OPEN_CLOSED_BY_ADMINISTRATOR, handle=number, client=client, path=path
                )

        return lambda: self._later(tell)

    # Clients that are away ---------------------------------------------------------------------

    def disconnected(self, handles: Sequence[int], node: str, reason: str) -> None:
        """Handles are connected no more; they were connected through ``node``."""
        looked = self._look(handles)

        def tell() -> None:
            for (handle, client, path, timeout_ms), others in _with_others(looked, len(handles)):
                self._events.emit(
                    e.OPEN_DISCONNECTED,
                    handle=handle,
                    client=client,
                    path=path,
                    node=node,
                    timeout_ms=timeout_ms,
                    reason=reason,
                    others=others,
                )

        if looked:
            self._later(tell)

    def fenced(self, node: str, address: str, handles: Sequence[int], records: int) -> None:
        """The data log of a node was sealed; these handles were connected through it."""
        self._later(
            lambda: self._events.emit(
                e.NODE_FENCED, node=node, address=address, handles=len(handles), records=records
            )
        )
        self.disconnected(handles, node, "its node was lost")

    def reconnected(self, results: Sequence[m.ReclaimResult], node: str) -> None:
        """Handles were reclaimed through ``node``."""
        done = {result.handle: result.generation for result in results if not result.code}
        looked = self._look(list(done))

        def tell() -> None:
            for (handle, client, path, _), others in _with_others(looked, len(done)):
                self._events.emit(
                    e.OPEN_RECONNECTED,
                    handle=handle,
                    client=client,
                    path=path,
                    node=node,
                    generation=done[handle],
                    others=others,
                )

        if looked:
            self._later(tell)

    def suspended(self, handles: Sequence[int]) -> None:
        """A new owner found these handles without a connection. Its log has them already."""
        for (handle, client, path, _), others in _with_others(self._look(handles), len(handles)):
            self._events.emit(
                e.OPEN_SUSPENDED,
                handle=handle,
                client=client,
                path=path,
                epoch=self._epoch,
                others=others,
            )

    def releasing(self, handles: Sequence[int], successor: bytes) -> Callable[[], None]:
        """Disconnected handles are about to be released because their time is over, or for a newer
        instance of their application; call the result when they were."""
        looked = self._look(handles)

        def tell() -> None:
            if successor:
                self._tell_replaced([told[:3] for told in looked], successor)
                return
            for (handle, client, path, timeout_ms), others in _with_others(looked, len(handles)):
                self._events.emit(
                    e.OPEN_TIMED_OUT,
                    handle=handle,
                    client=client,
                    path=path,
                    timeout_ms=timeout_ms,
                    others=others,
                )

        return lambda: self._later(tell) if looked else None


def _with_others(listed: Sequence[T], count: int) -> list[tuple[T, int]]:
    """Each of the listed ones with 0, the last with how many there are besides."""
    last = len(listed) - 1
    return [(one, count - len(listed) if at == last else 0) for at, one in enumerate(listed)]
