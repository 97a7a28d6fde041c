"""What a client tells of its sessions, as events of the channel SMBClient (``core/events.py``).

A session that is lost and goes on elsewhere is one pair of events. A move that somebody asked for
is another: the mover tells both, and the sessions in between are not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sofs.core import events as e
from sofs.errors import SofsError
from sofs.ports.events import Events

if TYPE_CHECKING:
    from sofs.client.facts import FailoverRecord
    from sofs.client.operation import RemoteHandle
    from sofs.client.using import SessionEnd

LISTED_MAX: Final = 32  # Handles that are told one by one.


class ClientStory:
    """Tells what becomes of one client's sessions with one share."""

    def __init__(self, events: Events, share: str) -> None:
        self.events = events
        self._share = share
        self._share_lost = False

    def move_requested(self, address: str, destination: str, reason: str) -> None:
        """This client is to leave ``address``, which is well."""
        self.events.emit(e.MOVE_REQUESTED, address=address, destination=destination, reason=reason)

    def move_done(self, origin: str, address: str, handles: int, took_ms: int) -> None:
        """It is where it was to be."""
        self.events.emit(
            e.MOVE_DONE, origin=origin, address=address, handles=handles, took_ms=took_ms
        )

    def move_failed(self, destination: str, address: str, error: SofsError) -> None:
        """It is at ``address`` ("" between two), and goes on there."""
        self.events.emit(e.MOVE_FAILED, destination=destination, address=address, reason=str(error))

    def session_ended(self, address: str, node: str, end: SessionEnd) -> None:
        """The session with a node is over; in a move, that is told otherwise."""
        if not end.planned:
            why = str(end.error) if end.reason == "stream ended" else end.reason
            self.events.emit(
                e.SESSION_LOST, address=address, node=node, share=self._share, reason=why
            )

    def session_begun(self, address: str, node: str, record: FailoverRecord, took_ms: int) -> None:
        """The session goes on, with its handles reclaimed."""
        if not record.planned:
            self.events.emit(
                e.SESSION_RESTORED,
                address=address,
                node=node,
                share=self._share,
                handles=record.handles,
                handles_lost=record.handles_lost,
                took_ms=took_ms,
            )
        if self._share_lost:
            self._share_lost = False
            self.events.emit(e.SHARE_RESTORED, share=self._share, address=address)

    def share_lost(self, error: SofsError) -> None:
        """A node knows for sure that there is no such share any more."""
        if not self._share_lost:
            self._share_lost = True
            self.events.emit(e.SHARE_LOST, share=self._share, reason=str(error))

    def not_reclaimed(self, handles: Sequence[RemoteHandle], error: SofsError) -> None:
        """Handles could not be reclaimed: they are lost, with their locks."""
        listed = handles[:LISTED_MAX]
        for handle in listed:
            self.events.emit(
                e.RECLAIM_FAILED,
                handle=handle.handle,
                path=handle.path,
                reason=str(error),
                others=len(handles) - len(listed) if handle is listed[-1] else 0,
            )

    def opened(self, handle: int, path: str, kept: bool) -> None:
        """An open made a handle; ``kept``: it outlives its session."""
        if not kept:
            self.events.emit(e.OPEN_NOT_PERSISTENT, handle=handle, path=path, share=self._share)
