"""One client's stream: who it is, what it may have in flight, and where its messages go.

A client has one session with a node. A newer stream that only says Hello (a client tries out its
addresses) changes nothing; its first request ends the older session. When a session ends without a
goodbye, its operations that are not admitted yet are dropped (the client sends them again, to
whoever serves it then), admitted writes become durable, and the authority is told that the handles
are disconnected: their timers start there.

Limits: SESSION_OPS_MAX operations and SESSION_BYTES_MAX bytes in flight, and half of that for reads
and what their answers occupy until the client has taken them; beyond them LimitExceeded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sofs.constants import MIB, PROTOCOL_VERSION, READ_BYTES_MAX, WRITE_BYTES_MAX
from sofs.core.messages import (
    Abandon,
    Failure,
    Flush,
    Hello,
    HelloReply,
    Message,
    PartState,
    Read,
    Write,
    WriteParts,
)
from sofs.errors import (
    BadNetworkName,
    LimitExceeded,
    ProtocolError,
    SofsError,
    StaleGeneration,
    Unavailable,
)
from sofs.ids import ID_BYTES
from sofs.ports.store import Buffer
from sofs.ports.stream import Envelope
from sofs.services.channel import Channel, check_hello

if TYPE_CHECKING:
    from sofs.services.node.life import Node
    from sofs.services.node.open_file import Handle

SESSION_OPS_MAX: Final = 4096
SESSION_BYTES_MAX: Final = 64 * MIB


class Session:
    """One client's stream; see the module."""

    __slots__ = (
        "alive",
        "channel",
        "client",
        "handles",
        "joined",
        "leaving",
        "n_bytes",
        "n_operations",
        "node",
        "principal",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.channel: Channel | None = None
        self.client = b""
        self.principal = ""
        self.handles: dict[int, Handle] = {}
        self.alive = True
        self.joined = False  # It was asked for something: it is the client's session now.
        self.leaving = False  # The client says goodbye: nothing more is pushed to it.
        self.n_operations = 0
        self.n_bytes = 0

    # Messages
    # ------------------------------------------------------------------------------------

    def on_message(self, channel: Channel, envelope: Envelope) -> None:
        """Take one message of the client; see ``channel.Handler``."""
        if not self.alive:
            return
        body = envelope.body
        if self.n_operations >= SESSION_OPS_MAX:
            raise LimitExceeded(
                f"{SESSION_OPS_MAX} operations of this session are in flight", retry_after_ms=5
            )
        kind = type(body)
        if not self.joined and self.client and kind is not PartState:
            self.joined = True
            self.node.sessions_changed(self)
        if kind is Write:
            self._write(envelope)
        elif kind is Read:
            self._read(envelope)
        elif not self.client:
            self._hello(channel, envelope)
        elif isinstance(body, Abandon) and not body.target_op:
            handle = self.handle(body.handle)
            self.n_operations += 1
            self.node.writes.abandon(self, envelope.call, handle, body)
        elif isinstance(body, WriteParts):
            self._write(envelope)
        elif isinstance(body, PartState):
            channel.reply(envelope.call, self.node.describe())
        elif isinstance(body, Flush):
            self._flush(envelope.call, body)
        else:
            self.n_operations += 1
            self.node.metadata.serve(self, envelope)

    def _write(self, envelope: Envelope) -> None:
        body, data = envelope.body, envelope.data
        assert isinstance(body, Write | WriteParts)
        handle = self.handles.get(body.handle) or self.handle(body.handle)
        n_bytes = len(data)
        if self.n_bytes + n_bytes > SESSION_BYTES_MAX:
            raise LimitExceeded(
                f"{SESSION_BYTES_MAX} bytes of this session are in flight", retry_after_ms=5
            )
        self.n_operations += 1
        self.n_bytes += n_bytes
        if isinstance(body, WriteParts):
            self.node.write_parts(self, envelope.call, handle, body, data)
        else:
            self.node.writes.write(self, envelope.call, handle, body, data)

    def _read(self, envelope: Envelope) -> None:
        body = envelope.body
        assert isinstance(body, Read)
        handle = self.handles.get(body.handle) or self.handle(body.handle)
        length = body.length
        channel = self.channel
        assert channel is not None
        if length <= READ_BYTES_MAX and (
            max(self.n_bytes, channel.queued_bytes) + length > SESSION_BYTES_MAX // 2
        ):
            raise LimitExceeded(
                f"{SESSION_BYTES_MAX // 2} bytes of this session are in flight", retry_after_ms=5
            )
        self.n_operations += 1
        self.n_bytes += length
        self.node.reads.read(self, envelope.call, handle, body)

    def _flush(self, call: int, body: Flush) -> None:
        handle = self.handle(body.handle)
        if handle.generation != body.generation:
            raise StaleGeneration(
                f"handle {handle.number} has generation {handle.generation}, not {body.generation}"
            )
        self.n_operations += 1
        self.node.metadata.flush(self, call, handle)

    def handle(self, number: int) -> Handle:
        """Return the session's handle, or raise why there is none."""
        if not self.client:
            raise ProtocolError("the first message of a stream must be Hello")
        handle = self.handles.get(number)
        if handle is not None:
            return handle
        known = self.node.table.handles.get(number)
        if known is not None:
            raise StaleGeneration(f"handle {number} is not connected through this session")
        raise self.node.table.gone(number)

    def _hello(self, channel: Channel, envelope: Envelope) -> None:
        node = self.node
        try:
            hello = check_hello(envelope, node.incarnation)
            self._check_client(hello)
        except SofsError as error:
            channel.fail(envelope.call, error)
            return
        self.client = hello.client
        self.principal = hello.principal
        channel.remote = hello
        channel.reply(
            envelope.call,
            HelloReply(
                protocol_version=PROTOCOL_VERSION,
                incarnation=node.incarnation,
                node=node.config.name,
                volume=node.config.volume,
                write_bytes_max=WRITE_BYTES_MAX,
                read_bytes_max=READ_BYTES_MAX,
                addresses=node.config.addresses(),
            ),
            checked=True,
        )

    def _check_client(self, hello: Hello) -> None:
        if len(hello.client) != ID_BYTES:
            raise ProtocolError(f"a client id has {ID_BYTES} bytes")
        share = self.node.config.share
        if hello.share and hello.share.lower() != share.lower():
            raise BadNetworkName(f"there is no share {hello.share!r}; this server has {share!r}")

    # Answers
    # -------------------------------------------------------------------------------------

    def answer(
        self, call: int, body: Message, data: Buffer = b"", *, checked: bool = False
    ) -> None:
        """Answer one request; dropped when the session or the node's life has ended."""
        if self.alive and call:
            channel = self.channel
            assert channel is not None
            channel.post(Envelope(call, True, body, data), checked=checked)

    def refuse(self, call: int, error: SofsError, *, checked: bool = False) -> None:
        self.answer(call, Failure(error.code, error.message, error.retry_after_ms), checked=checked)

    def finished(self, n_bytes: int) -> None:
        """One operation, of so many bytes, is answered, refused or dropped."""
        self.n_operations -= 1
        self.n_bytes -= n_bytes

    def end(self, reason: str) -> None:
        """End the stream now; nothing more is answered."""
        self.alive = False
        if self.channel is not None:
            self.channel.end(Unavailable(reason))
