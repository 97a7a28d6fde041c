"""One client's stream: who it is, what it may have in flight, and where its messages go.

A client has one session with a node. A newer stream that only says Hello (a client tries out its
addresses) changes nothing; its first request ends the older session. When a session ends without a
goodbye, its operations that are not admitted yet are dropped (the client sends them again, to
whoever serves it then), admitted writes become durable, and the authority is told that the handles
are disconnected: their timers start there.

A session is of one share. When that is removed the session ends; its settings hold for what comes
after they were seen. Through a read-only share nothing is opened for writing and no name is
changed; handles that were opened before keep what they have. A handle of a share that is not
continuously available does not outlive its session: its timeout is 1 ms.

Limits: SESSION_OPS_MAX operations and SESSION_BYTES_MAX bytes in flight, and half of that for reads
and what their answers occupy until the client has taken them; beyond them LimitExceeded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from sofs.constants import (
    MIB,
    NOT_KEPT_MS,
    PROTOCOL_VERSION,
    READ_BYTES_MAX,
    WRITE_BYTES_MAX,
)
from sofs.core import events as e
from sofs.core.messages import (
    Abandon,
    Access,
    Disposition,
    Failure,
    Flush,
    Hello,
    HelloReply,
    Message,
    Mkdir,
    Open,
    OpenOptions,
    PartState,
    Read,
    ReadReply,
    Rename,
    Rmdir,
    SetInfo,
    Unlink,
    Write,
    WriteFile,
    WriteParts,
    WriteReply,
)
from sofs.core.share_table import ShareEntry, ShareTable
from sofs.core.trace import NO_CONTEXT, SpanKind, SpanStatus
from sofs.errors import (
    AccessDenied,
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
from sofs.ports.trace import end_with
from sofs.services.channel import Channel, check_hello

if TYPE_CHECKING:
    from sofs.services.node.life import Node
    from sofs.services.node.open_file import Handle
    from sofs.services.shares import ShareView

SESSION_OPS_MAX: Final = 4096
SESSION_BYTES_MAX: Final = 64 * MIB
_CHANGING: Final = (Mkdir, Rmdir, Unlink, Rename, SetInfo, WriteFile)
_READING: Final = Access.READ | Access.READ_ATTRIBUTES
_NODE: Final = int(SpanKind.NODE)  # Plain numbers: an enumeration costs each record more.
_OK: Final = int(SpanStatus.OK)


class Session:
    """One client's stream; see the module."""

    __slots__ = (
        "_arrived_ns",
        "_arriving",
        "alive",
        "channel",
        "client",
        "end_reason",
        "ended",
        "greeting",
        "handles",
        "joined",
        "leaving",
        "n_bytes",
        "n_operations",
        "node",
        "principal",
        "share",
        "spans",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.channel: Channel | None = None
        self.client = b""
        self.principal = ""
        self.share = ShareEntry("", "")
        self.greeting = False  # The answer to its Hello waits for a look at the shares.
        self.handles: dict[int, Handle] = {}
        self.alive = True
        self.end_reason = ""  # Why this node ended it, if it did.
        self.ended = False  # Its end was told.
        self.joined = False  # It was asked for something: it is the client's session now.
        self.leaving = False  # The client says goodbye: nothing more is pushed to it.
        self.n_operations = 0
        self.n_bytes = 0
        self.spans: dict[int, bytes] = {}  # Of the requests in flight, by call.
        self._arriving: Envelope | None = None  # A read that is being taken and has no span yet.
        self._arrived_ns = 0

    # Messages
    # ------------------------------------------------------------------------------------

    def on_message(self, channel: Channel, envelope: Envelope) -> None:
        """Take one message of the client; see ``channel.Handler``."""
        try:
            self._take(channel, envelope)
        except SofsError as error:
            end_with(self.node.recorder, self.trace(envelope.call), error)
            self.spans.pop(envelope.call, None)
            raise

    def _take(self, channel: Channel, envelope: Envelope) -> None:
        if not self.alive:
            return
        body = envelope.body
        if self.n_operations >= SESSION_OPS_MAX:
            raise LimitExceeded(
                f"{SESSION_OPS_MAX} operations of this session are in flight", retry_after_ms=5
            )
        kind = type(body)
        recorder = self.node.recorder
        if recorder.enabled and self.client and envelope.call and kind is not PartState:
            if kind is Read:
                self._arriving, self._arrived_ns = envelope, recorder.now()
            else:
                self._begin_span(envelope)
        if not self.joined and self.client and kind is not PartState:
            self.joined = True
            self.node.sessions_changed(self)
        if kind is Write:
            self._write(envelope)
        elif kind is Read:
            self._read(envelope)
            self.trace(envelope.call)  # Unless it was answered.
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
            self._obey_share(body)
            self.n_operations += 1
            self.node.metadata.serve(self, envelope)

    def _obey_share(self, body: Message) -> None:
        """Raise AccessDenied for what a read-only share does not do; mark what is not to last."""
        share = self.share
        if isinstance(body, Open):
            if not share.available:
                body.timeout_ms = NOT_KEPT_MS
            changing = bool(body.access & ~_READING or body.options & OpenOptions.DELETE_ON_CLOSE)
            changing = changing or body.disposition != Disposition.OPEN
        else:
            changing = isinstance(body, _CHANGING)
        if share.read_only and changing:
            raise AccessDenied(
                f"the share {share.name!r} is read-only; `sofs share change {share.name} "
                "--read-write` changes that"
            )

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
        """Answer a greeting at once, or after a look at the shares when the last one is old, or
        knows no such share: it may have been made just now."""
        if self.greeting:
            raise ProtocolError("wait for the answer to Hello")
        view = self.node.config.shares
        try:
            hello = check_hello(envelope, self.node.incarnation)
            if len(hello.client) != ID_BYTES:
                raise ProtocolError(f"a client id has {ID_BYTES} bytes")
            name = hello.share or self.node.config.share
            if view is not None and not (view.fresh and view.table.find(name)):
                self.greeting = True
                channel.serve(envelope.call, self._greet_later(channel, hello, view))
                return
            table = self.node.config.static_shares() if view is None else view.table
            reply = self._greet(channel, hello, table)
        except SofsError as error:
            channel.fail(envelope.call, error)
        else:
            channel.reply(envelope.call, reply, checked=True)

    async def _greet_later(self, channel: Channel, hello: Hello, view: ShareView) -> Message:
        try:
            return self._greet(channel, hello, await view.look())
        finally:
            self.greeting = False

    def _greet(self, channel: Channel, hello: Hello, table: ShareTable) -> HelloReply:
        """The stream is a session of its client, on the share that it names ("": the one with the
        volume's name)."""
        node = self.node
        name = hello.share or node.config.share
        share = table.find(name)
        if share is None or share.volume != node.config.share:
            reason = "there is no such share" if share is None else "it is on another volume"
            tell = node.events.emit
            tell(e.TREE_REFUSED, client=bytes(hello.client), share=name, reason=reason)
        if share is None:
            there = ", ".join(repr(s.name) for s in table.shares[:8]) or "none"
            raise BadNetworkName(
                f"there is no share {name!r}; this cluster has {there} (`sofs share ls`)"
            )
        if share.volume != node.config.share:
            raise BadNetworkName(
                f"the share {name!r} is on the volume {share.volume!r}, which this node does not "
                "serve"
            )
        self.share = share
        self.client = hello.client
        self.principal = hello.principal
        channel.remote = hello
        node.events.emit(
            e.CONNECTION_ACCEPTED,
            client=bytes(self.client),
            address=channel.peer,
            share=share.name,
        )
        return HelloReply(
            protocol_version=PROTOCOL_VERSION,
            incarnation=node.incarnation,
            node=node.config.name,
            volume=node.config.volume,
            write_bytes_max=WRITE_BYTES_MAX,
            read_bytes_max=READ_BYTES_MAX,
            addresses=node.config.addresses(),
        )

    def tell_established(self) -> None:
        """It is its client's session from now on."""
        channel = self.channel
        self.node.events.emit(
            e.SESSION_ESTABLISHED,
            client=bytes(self.client),
            principal=self.principal,
            share=self.share.name,
            address="" if channel is None else channel.peer,
        )

    def tell_ended(self) -> None:
        """It ended, for whatever reason; its handles are still known here."""
        if self.ended or not self.client:
            return
        self.ended = True
        client, channel = bytes(self.client), self.channel
        address = "" if channel is None else channel.peer
        emit = self.node.events.emit
        if self.end_reason:
            emit(e.CONNECTION_TERMINATED, client=client, address=address, reason=self.end_reason)
        else:
            end = None if channel is None or not channel.ended.done() else channel.ended.result()
            emit(e.CONNECTION_ENDED, client=client, address=address, reason=str(end or ""))
        if self.joined:
            emit(e.SESSION_ENDED, client=client, share=self.share.name, handles=len(self.handles))

    def shares_changed(self, table: ShareTable) -> bool:
        """Go by a newer table of shares; False when the session's share is gone."""
        if not self.client:
            return True
        share = table.find(self.share.name)
        if share is None or share.volume != self.share.volume:
            return False
        self.share = share
        return True

    # Spans
    # ---------------------------------------------------------------------------------------

    def trace(self, call: int) -> bytes:
        """The context of a request in flight; no bytes if it is not recorded. A read that is being
        taken gets its span now: somebody waits within it, or it waits itself."""
        arriving = self._arriving
        if arriving is not None and arriving.call == call:
            self._arriving = None
            self._begin_span(arriving, self._arrived_ns)
        return self.spans.get(call, NO_CONTEXT)

    def _begin_span(self, envelope: Envelope, began_ns: int = 0) -> None:
        body = envelope.body
        self.spans[envelope.call] = self.node.recorder.begin(
            _NODE,
            envelope.trace,
            type(body).__name__,
            getattr(body, "handle", 0),
            getattr(body, "offset", 0),
            began_ns,
        )

    def _end_span(self, call: int, body: Message, length: int) -> None:
        arriving, recorder, kind = self._arriving, self.node.recorder, type(body)
        if arriving is not None and arriving.call == call and kind is ReadReply:
            # In the turn in which it came: one record.
            self._arriving = None
            asked = cast(Read, arriving.body)
            recorder.whole(
                _NODE, arriving.trace, "Read", asked.handle, asked.offset, self._arrived_ns, length
            )
            return
        trace = self.trace(call)
        if not trace:
            return
        del self.spans[call]
        if kind is WriteReply:
            recorder.end(trace, _OK, 0, 0, self.node.log.batch_trace)
        elif kind is Failure:
            recorder.note(trace, getattr(body, "code", ""))
            recorder.end(trace, SpanStatus.ERROR, 0, length)
        else:
            recorder.end(trace, _OK, 0, length)

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
        self._end_span(call, body, len(data))

    def refuse(self, call: int, error: SofsError, *, checked: bool = False) -> None:
        self.answer(call, Failure(error.code, error.message, error.retry_after_ms), checked=checked)

    def finished(self, n_bytes: int) -> None:
        """One operation, of so many bytes, is answered, refused or dropped."""
        self.n_operations -= 1
        self.n_bytes -= n_bytes

    def lose_spans(self) -> None:
        """The session ended: what is in flight is answered to nobody."""
        self._arriving = None
        spans, self.spans = self.spans, {}
        for trace in spans.values():
            self.node.recorder.end(trace, SpanStatus.LOST)

    def end(self, reason: str) -> None:
        """End the stream now; nothing more is answered."""
        self.alive = False
        self.end_reason = self.end_reason or reason
        if self.channel is not None:
            self.channel.end(Unavailable(reason))
