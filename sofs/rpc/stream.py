"""One side of a stream of frames over one gRPC call.

The stream has one *pump*, a coroutine that reads the call into a short inbox. It notices the end of
the stream also while nobody receives, and makes ``receive`` safe to cancel (cancelling a read of
grpc.aio ends the call). The first thing that ends a stream is the reason it ended; from then on all
pending and later calls of this side raise, and the call itself is ended, so that the other side's
do too.

Two coroutines writing one grpc.aio call raise in a task that nobody awaits, and the peer hangs for
ever; so a second sender is an invariant violation here, before gRPC sees it. A send to a peer that
reads nothing waits inside gRPC; the end of the stream takes the sender out of it by cancelling its
task for that moment, the way ``asyncio.timeout`` does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from grpc.aio import EOF, AioRpcError, InternalError, UsageError

from sofs.errors import SofsError, Unavailable, invariant
from sofs.ports.stream import Envelope
from sofs.rpc.frames import decode, encode
from sofs.rpc.status import error_of_status

INBOX_FRAMES_MAX: Final = (
    4  # Read ahead of receive(); beyond it gRPC's flow control holds the peer.
)

# What grpc.aio raises from a read or write of a call that is over, besides AioRpcError.
LOST: Final = (UsageError, InternalError, asyncio.InvalidStateError)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class GrpcStream:
    """One side of a stream. ``read`` and ``write`` are those of the gRPC call; the pump is run by
    the side that made the stream."""

    def __init__(
        self,
        peer: str,
        read: Callable[[], Awaitable[Any]],
        write: Callable[[bytes], Awaitable[None]],
        on_end: Callable[[], object],
    ) -> None:
        self._peer = peer
        self._read = read
        self._write = write
        self._on_end = on_end  # Called once, when the stream ends; ends the call and the pump.
        self._inbox: deque[bytes] = deque()
        self._receiver: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._sender: asyncio.Task[Any] | None = None
        self._sender_cut = False
        self._end: SofsError | None = None
        self._end_told = False

    @property
    def peer(self) -> str:
        """The other side's address, for people."""
        return self._peer

    @property
    def end_reason(self) -> SofsError | None:
        """Why the stream ended; None while it stands."""
        return self._end

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        """Send one frame; see ``ports.stream.Stream``. Raises InvalidParameter too (definite: a
        field does not fit the wire). Cancelling it ends the stream: a frame may be sent in part."""
        data = encode(envelopes)
        if self._end is not None:
            raise self._unavailable()
        invariant(self._sender is None, f"two coroutines send on the stream to {self._peer}")
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        self._sender = task
        try:
            await self._write(data)
        except asyncio.CancelledError:
            if self._sender_cut:
                self._sender_cut = False
                if task.uncancel() <= before:
                    raise self._unavailable() from None
            elif task.cancelling() <= before:  # The call was cancelled, not this task.
                self.end(Unavailable(f"the stream to {self._peer} was cancelled"))
                raise self._unavailable() from None
            self.end(Unavailable(f"a send to {self._peer} was cancelled: the stream is unusable"))
            raise
        except AioRpcError as error:
            self.end(error_of_status(error.code(), error.details() or "", self._peer))
            raise self._unavailable() from error
        except LOST as error:
            self.end(Unavailable(f"the stream to {self._peer} is lost: {error}"))
            raise self._unavailable() from error
        finally:
            self._sender = None

    async def receive(self) -> list[Envelope]:
        """Return the next frame's messages; see ``ports.stream.Stream``. Also: ProtocolVersion.
        May be cancelled and called again. Frames that arrived before the peer ended the stream are
        delivered first; the error that ended it is raised once, later calls raise Unavailable."""
        while not self._inbox:
            if self._end is not None:
                raise self._told()
            invariant(self._receiver is None, f"two coroutines receive from {self._peer}")
            self._receiver = asyncio.get_running_loop().create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        data = self._inbox.popleft()
        _wake(self._room)
        try:
            return decode(data)
        except SofsError as error:
            self._inbox.clear()
            self.end(error)
            self._end_told = True
            raise

    def close(self) -> None:
        """End the stream now; what arrived and was not received is dropped."""
        self._inbox.clear()
        self.end(Unavailable(f"the stream to {self._peer} was closed on this side"))
        self._end_told = True

    def end(self, reason: SofsError) -> None:
        """End the stream because of ``reason``, unless it ended before."""
        if self._end is not None:
            return
        self._end = reason
        _wake(self._receiver)
        _wake(self._room)
        if self._sender is not None and self._sender is not asyncio.current_task():
            # The write may wait for a peer that never reads; take the sender out of it.
            self._sender_cut = True
            self._sender.cancel()
        self._on_end()

    async def pump(self) -> None:
        """Read the call into the inbox until the stream ends. Ends the stream itself when the peer
        or the connection did, or when it is cancelled."""
        try:
            while self._end is None:
                data = await self._read()
                if data is EOF:
                    self.end(Unavailable(f"{self._peer} ended the stream"))
                    return
                if self._end is None:
                    self._inbox.append(data)
                    _wake(self._receiver)
                while len(self._inbox) >= INBOX_FRAMES_MAX and self._end is None:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
        except AioRpcError as error:
            self.end(error_of_status(error.code(), error.details() or "", self._peer))
        except LOST as error:
            self.end(Unavailable(f"the stream to {self._peer} is lost: {error}"))
        finally:
            self.end(Unavailable(f"{self._peer} is gone"))  # Cancelled by gRPC, or a defect here.

    def _unavailable(self) -> Unavailable:
        reason = self._end
        assert reason is not None
        return Unavailable(reason.message if isinstance(reason, Unavailable) else str(reason))

    def _told(self) -> SofsError:
        reason = self._end
        assert reason is not None
        if self._end_told:
            return self._unavailable()
        self._end_told = True
        return reason
