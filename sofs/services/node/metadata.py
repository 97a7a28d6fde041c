"""Everything that is no plain read or write: it goes to the authority, in the client's name.

The node speaks for the session's client and principal, whatever the message says. What the answers
bring for the node alone (grants) is installed inside the channel's reader and taken out. Each
request runs as a task of the node's life, not of the client's stream: what the authority did must
be taken in even if the client has gone meanwhile.

Order against writes. A close waits for the handle's earlier operations and until the authority has
their records; so does an unlock (it only needs them durable). A truncate is an operation of the
file's queue: it holds the file, drained and settled, until the authority's transaction is done;
then the file's state is taken anew, since the answer may be a stored one of long ago. A lock is
answered when every write that was admitted before this node knew of it is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from sofs.constants import (
    BLOCK_BYTES,
    DEADLINE_DEFAULT_MS,
    FILE_BYTES_MAX,
    READ_BYTES_MAX,
    WRITE_BYTES_MAX,
)
from sofs.core.extent_map import ExtentMap
from sofs.core.extents import pack_extent
from sofs.core.locks import io_conflict
from sofs.core.messages import (
    Abandon,
    Access,
    BoundHandle,
    Caller,
    ChangeLocks,
    Close,
    Commit,
    Disconnected,
    Done,
    EndClient,
    FileInfo,
    GetInterfaceList,
    HeldLock,
    InfoReply,
    InterfaceList,
    Lock,
    LockRange,
    LocksChanged,
    Message,
    Mkdir,
    Open,
    OpenReply,
    ReadDir,
    ReadFile,
    ReadFileReply,
    Reclaim,
    ReclaimItem,
    ReclaimReply,
    ReclaimResult,
    Rename,
    Rmdir,
    SetInfo,
    Stat,
    Truncate,
    Unlink,
    Unlock,
    WriteFile,
)
from sofs.core.witness import MAY_WITNESS
from sofs.errors import (
    FileClosed,
    FileNotAvailable,
    InvalidParameter,
    MessageTooLarge,
    NotSupported,
    ObjectNameNotFound,
    ProtocolError,
    SofsError,
    StaleGeneration,
    Unavailable,
)
from sofs.ports.store import Buffer
from sofs.ports.stream import Envelope
from sofs.ports.trace import CURRENT
from sofs.services.channel import expect
from sofs.services.node.open_file import RW, Handle, OpenFile, check_handle, leaving
from sofs.services.node.session import Session
from sofs.services.node.truncate import TruncateOp

if TYPE_CHECKING:
    from sofs.services.node.life import Node

READ_FILE_ROUNDS_MAX: Final = 16
STAT_ROUNDS_MAX: Final = 16
Reply = Message | tuple[Message, Buffer]
Work = Callable[[], Coroutine[Any, Any, Reply]]
_PLAIN: Final = (Mkdir, Rmdir, Unlink, Rename, ReadDir, Abandon)


class Metadata:
    """Forwards requests of sessions; see the module."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._link = node.link
        self._table = node.table
        self._commits = node.commits
        self._handlers: dict[
            type[Message], Callable[[Session, Any, Buffer], Coroutine[Any, Any, Reply]]
        ] = {
            Open: self._open,
            Reclaim: self._reclaim,
            Lock: self._lock,
            Unlock: self._unlock,
            ChangeLocks: self._change_locks,
            Stat: self._stat,
            SetInfo: self._stat,
            WriteFile: self._write_file,
            ReadFile: self._read_file,
            EndClient: self._end_client,
            GetInterfaceList: self._interfaces,
        }
        for kind in _PLAIN:
            self._handlers[kind] = self._forward

    def serve(self, session: Session, envelope: Envelope) -> None:
        """Take one request of a session, which counted it already."""
        body = envelope.body
        caller = getattr(body, "caller", None)
        if isinstance(caller, Caller):
            caller.client = session.client
            caller.principal = session.principal
        if isinstance(body, Truncate):
            self._truncate(session, envelope.call, body)
            return
        try:
            work = self._begin(session, body, envelope.data)
        except SofsError as error:
            session.refuse(envelope.call, error)
            session.finished(0)
            return
        self._node.tasks.spawn(self._run(session, envelope.call, work), type(body).__name__)

    def _begin(self, session: Session, body: Message, data: Buffer) -> Work:
        if isinstance(body, Close):
            return self._begin_close(session, body)
        handler = self._handlers.get(type(body))
        if handler is None:
            raise NotSupported(f"the file service has no {type(body).__name__}")
        return lambda: handler(session, body, data)

    async def _run(self, session: Session, call: int, work: Work) -> None:
        CURRENT.set(session.trace(call))
        try:
            reply = await work()
        except SofsError as error:
            session.refuse(call, error)
        else:
            body, data = reply if isinstance(reply, tuple) else (reply, b"")
            session.answer(call, body, data, checked=True)
        finally:
            session.finished(0)

    async def _forward(self, session: Session, body: Message, data: Buffer) -> Message:
        return await self._link.call(lambda: body)

    # Handles
    # -------------------------------------------------------------------------------------

    async def _open(self, session: Session, body: Open, data: Buffer) -> Message:
        def opened(message: Message) -> None:
            reply = expect((message, b""), OpenReply)
            self._bind(session, reply.handle, reply.generation, reply.info.ino, body.access)
            if reply.grant is not None:
                self._table.install(reply.grant)
                reply.grant = None
            self._overlay_info(reply.info)

        message = await self._link.call(lambda: _for_living(session, body), opened)
        reply = expect((message, b""), OpenReply)
        file = self._table.files.get(reply.info.ino)
        if file is not None and not file.mode:
            await self._ask_size(body.caller, reply)
        return reply

    async def _ask_size(self, caller: Caller, reply: OpenReply) -> None:
        """No token came with the handle: another node has it, and may know of newer writes than the
        authority, who asks it. The file is open in any case."""
        stat = Stat(handle=reply.handle, generation=reply.generation, caller=caller)
        with contextlib.suppress(SofsError):
            answer = expect((await self._link.call(lambda: stat), b""), InfoReply)
            self._overlay(answer)
            reply.info.size = answer.info.size
            reply.info.modified_ns = answer.info.modified_ns

    def _bind(
        self, session: Session, number: int, generation: int, ino: int, access: int
    ) -> Handle:
        """The handle is connected through this session from now on; without a session (it ended
        meanwhile) the authority is told at once. An answer that a newer one has overtaken says
        nothing any more."""
        alive = session if session.alive else None
        handle = self._table.handles.get(number)
        if handle is not None and handle.generation > generation:
            return handle
        if handle is None:
            handle = Handle(number, generation, self._table.file(ino), access, alive)
            self._table.add_handle(handle)
        else:
            if handle.session is not None:
                handle.session.handles.pop(number, None)
            handle.generation = generation
            handle.session = alive
            handle.closing = handle.leaving = ""
        if alive is not None:
            alive.handles[number] = handle
        else:
            self._node.tasks.spawn(self.report_disconnected([handle]), "disconnected")
        return handle

    def _begin_close(self, session: Session, body: Close) -> Work:
        """From now on the handle takes no new operations."""
        handle = session.handles.get(body.handle)
        body.release_token, body.commit = 0, Commit()
        if handle is None or handle.generation != body.generation:
            # A copy of a close that was answered, or of an older life: the authority knows.
            return lambda: self._forward(session, body, b"")
        if handle.leaving:
            raise leaving(handle)
        handle.leaving = FileClosed.code
        return lambda: self._close(body, handle)

    async def _close(self, body: Close, handle: Handle) -> Message:
        file = handle.file
        try:
            await handle.quiet()
            await self._commits.settle(file.last_sequence)
            reply = await self._link.call(lambda: self._release(body, handle))
        except (FileClosed, StaleGeneration) as error:
            if handle.generation == body.generation:  # Else it was reclaimed meanwhile.
                self._table.remove_handle(handle, error.code)
            raise
        except SofsError:
            handle.leaving = ""
            raise
        self._table.remove_handle(handle, FileClosed.code)
        self._overlay(reply)
        return reply

    def _release(self, body: Close, handle: Handle) -> Close:
        """Give the token back along with the last handle of a file. From this moment it is gone
        here, whatever becomes of the message."""
        file = handle.file
        if (
            file.mode
            and len(file.handles) == 1
            and file.quiescent
            and file.last_sequence <= self._commits.applied_sequence
        ):
            body.release_token = file.generation
            self._table.drop_token(file)
        return body

    async def _reclaim(self, session: Session, body: Reclaim, data: Buffer) -> Message:
        """Handles that are bound here already (their session was replaced) are drained first. What
        was opened through a share that is not continuously available is not taken up again."""
        gone: list[ReclaimItem] = []
        if not session.share.available:
            gone, body.handles = body.handles, []
        known = [
            handle
            for item in body.handles
            if (handle := self._table.handles.get(item.handle)) is not None
        ]
        for handle in known:
            handle.reclaiming += 1
        try:
            for handle in known:
                if handle.session is not session:
                    await self._landed(handle)
            answer = await self._link.call(
                lambda: _for_living(session, body), lambda m: self._reclaimed(session, m)
            )
            if gone:
                reply = expect((answer, b""), ReclaimReply)
                reply.results += [
                    ReclaimResult(item.handle, ObjectNameNotFound.code) for item in gone
                ]
            return answer
        finally:
            for handle in known:
                handle.reclaiming -= 1
            lost = [h for h in known if h.session is None and not h.reclaiming]
            if lost:
                self._node.tasks.spawn(self.report_disconnected(lost), "disconnected")

    def _reclaimed(self, session: Session, message: Message) -> None:
        reply = expect((message, b""), ReclaimReply)
        for result in reply.results:
            if not result.code:
                self._bind(
                    session, result.handle, result.generation, result.info.ino, _access(result)
                )
        for grant in reply.grants:
            self._table.install(grant)
        reply.grants = []

    async def _landed(self, handle: Handle) -> None:
        """Return when no operation of the handle is under way. Those that only wait do not count:
        their session is gone, so they are never admitted."""
        while handle.in_flight:
            await self._node.log.durable(handle.file.pending[-1].sequence)

    async def report_disconnected(self, handles: list[Handle]) -> None:
        """Tell the authority that these handles' sessions ended, then forget them. Handles that a
        client took up again meanwhile are left alone."""

        def away() -> list[Handle]:
            return [
                handle
                for handle in handles
                if handle.session is None
                and not handle.reclaiming
                and self._table.handles.get(handle.number) is handle
            ]

        told: list[BoundHandle] = []
        ever: dict[int, int] = {}  # Generations that any copy told: each may have taken effect.

        def build() -> Message:
            told[:] = [BoundHandle(h.number, h.generation) for h in away()]
            ever.update((item.handle, item.generation) for item in told)
            return Disconnected(list(told))

        for handle in handles:
            await self._landed(handle)
        if not away():
            return
        await self._link.call(build, own=True)
        self._end_told(ever)
        forget = {item.handle: item.generation for item in told}
        for handle in handles:
            await self._commits.settle(handle.file.last_sequence)
            gone = handle in away() and forget.get(handle.number) == handle.generation
            if gone and not handle.in_flight:  # Else a later report waits for what is in flight.
                self._table.remove_handle(handle, StaleGeneration.code)

    def _end_told(self, told: dict[int, int]) -> None:
        """A handle that was told as disconnected may have a session again under the same generation
        (a copy of its open was answered): the authority counts it as away, so its client has to
        reclaim it."""
        for number, generation in told.items():
            handle = self._table.handles.get(number)
            if handle is None or handle.generation != generation or handle.session is None:
                continue
            self._node.end_session(handle.session, "a handle was told as disconnected; reclaim it")

    async def _end_client(self, session: Session, body: EndClient, data: Buffer) -> Message:
        """The authority has this node let go of the client's handles first (``Detach``)."""
        session.leaving = True
        return await self._link.call(lambda: body)

    # Locks and flush
    # -----------------------------------------------------------------------------

    def _own(self, session: Session, number: int, generation: int) -> Handle:
        handle = session.handle(number)
        if handle.leaving:
            raise leaving(handle)
        check_handle(handle, generation)
        return handle

    async def _lock(self, session: Session, body: Lock, data: Buffer) -> Message:
        handle = self._own(session, body.handle, body.generation)
        file = handle.file

        def locked(message: Message) -> None:
            expect((message, b""), Done)
            _note_locks(handle, body.ranges)

        reply = await self._link.call(lambda: body, locked)
        if file.pending:
            await self._node.log.durable(file.pending[-1].sequence)
        return reply

    async def _change_locks(
        self, session: Session, body: ChangeLocks, data: Buffer
    ) -> tuple[Message, Buffer]:
        """As ``_unlock`` and ``_lock``. Size and data are added behind the grant, so they are of a
        moment at which the locks were held, if this node may read without asking."""
        handle = self._own(session, body.handle, body.generation)
        file = handle.file
        if body.read_length > WRITE_BYTES_MAX or body.read_offset > FILE_BYTES_MAX:
            raise InvalidParameter(f"a change of locks brings at most {WRITE_BYTES_MAX} bytes")
        if body.drop:
            await handle.quiet()

        def changed(message: Message) -> None:
            expect((message, b""), LocksChanged)
            _note_locks(handle, body.take)

        message = await self._link.call(lambda: body, changed)
        reply = expect((message, b""), LocksChanged)
        if body.take and file.pending:
            await self._node.log.durable(file.pending[-1].sequence)
        if not body.take or not handle.access & Access.READ or not file.mode:
            return reply, b""
        size = file.size
        found = await self._read_held(handle, body.read_offset, body.read_length)
        if found is None:
            return reply, b""
        reply.known, reply.size = True, size
        return reply, found

    async def _read_held(self, handle: Handle, offset: int, length: int) -> Buffer | None:
        """Read under the token that is here, as a read through the handle would; None if that
        needs the authority."""
        file = handle.file
        length = max(0, min(length, file.size - offset))
        if not length:
            return b""
        if io_conflict(file.locks, handle.number, offset, length, False):
            return None
        first = offset // BLOCK_BYTES
        end = -(-(offset + length) // BLOCK_BYTES)
        if file.map.missing(first, end) is not None:
            return None
        runs = file.map.runs(first, end)
        whole: Buffer | None = self._node.reads.gather_cached(runs)
        if whole is None:
            file.readers += 1
            try:
                whole = await self._node.reads.gather(file.ino, runs)
            except SofsError:
                return None  # The read that follows says what is wrong.
            finally:
                file.read_done()
        skip = offset - first * BLOCK_BYTES
        return memoryview(whole)[skip : skip + length]

    async def _unlock(self, session: Session, body: Unlock, data: Buffer) -> Message:
        """The lock stays in this node's table: before it refuses for a lock, a node asks for the
        newest table, and a copy of an unlock must not take a later lock away here."""
        handle = self._own(session, body.handle, body.generation)
        await handle.quiet()
        return await self._link.call(lambda: body)

    def flush(self, session: Session, call: int, handle: Handle) -> None:
        """Answer when the handle's earlier operations are done."""
        if handle.is_quiet:
            session.answer(call, Done())
            session.finished(0)
            return

        async def flushed() -> Message:
            await handle.quiet()
            return Done()

        self._node.tasks.spawn(self._run(session, call, flushed), "flush")

    # Information
    # ---------------------------------------------------------------------------------

    async def _interfaces(self, session: Session, body: GetInterfaceList, data: Buffer) -> Message:
        """A node watches nobody: it lists what is configured. While nobody else could witness, the
        call does not return: not before its session ends, as a node's access point is given with
        its life."""
        config = self._node.config
        interfaces = config.interfaces()
        if not any(interface.flags & MAY_WITNESS for interface in interfaces):
            assert session.channel is not None
            await asyncio.shield(session.channel.ended)
            raise Unavailable("the session ended")
        return InterfaceList(interfaces, config.access_point)

    async def _stat(self, session: Session, body: Message, data: Buffer) -> Message:
        """The authority may answer that we hold DIRECT_RW, and have it back before the answer is
        here: then it spoke of a file without our newest records, and is asked again, unless we held
        nothing any more when it was asked: what we give back is with the authority by then."""
        ino = 0
        for _ in range(STAT_ROUNDS_MAX):
            held = True

            def build(ino: int = ino) -> Message:
                nonlocal held
                held = not ino or self._writes(ino) is not None
                return body

            reply = await self._link.call(build)
            if not self._overlay(reply) or not held:
                return reply
            assert isinstance(reply, InfoReply)
            ino = reply.info.ino
        raise FileNotAvailable("the file came and went all the time", retry_after_ms=20)

    def _writes(self, ino: int) -> OpenFile | None:
        """The file, if this node holds its DIRECT_RW."""
        file = self._table.files.get(ino)
        return file if file is not None and file.mode == RW else None

    def _overlay(self, reply: Message) -> bool:
        """The holder of DIRECT_RW knows size and time better than the authority. True: we were the
        holder when it answered, and are no more."""
        if not isinstance(reply, InfoReply) or not reply.held_by_asker:
            return False
        reply.held_by_asker = False
        return not self._overlay_info(reply.info)

    def _overlay_info(self, info: FileInfo) -> bool:
        file = self._writes(info.ino)
        if file is None:
            return False
        info.size = file.size
        info.modified_ns = max(info.modified_ns, file.modified_ns)
        return True

    def _truncate(self, session: Session, call: int, body: Truncate) -> None:
        try:
            handle = self._own(session, body.handle, body.generation)
            if body.size > FILE_BYTES_MAX:
                raise InvalidParameter(f"a file ends at {FILE_BYTES_MAX} bytes")
        except SofsError as error:
            session.refuse(call, error)
            session.finished(0)
            return
        body.commit, body.tail = Commit(), b""  # The node's to fill, whatever the client sent.
        handle.busy += 1
        handle.file.submit(TruncateOp(self._node, session, call, handle, body))

    # Whole files
    # ---------------------------------------------------------------------------------

    async def _write_file(self, session: Session, body: WriteFile, data: Buffer) -> Message:
        """One detached record, durable, then one transaction that names it."""
        length = len(data)
        if length > WRITE_BYTES_MAX:
            raise MessageTooLarge(
                f"write_file takes at most {WRITE_BYTES_MAX} bytes; open the file and write parts"
            )
        node = self._node
        body.commit = Commit()
        await self._link.live(DEADLINE_DEFAULT_MS)
        body.size = length
        body.modified_ns = node.clock.wall_ns()
        body.log_id = self._link.log_id
        body.extents = b""
        if length:
            await node.log.room(length + BLOCK_BYTES)
            placement = node.writes.append_detached(0, _whole_blocks(data), length)
            body.extents = pack_extent(
                0,
                body.log_id,
                placement.segment,
                placement.sequence,
                placement.payload_offset,
                placement.sums,
            )
            with node.commits.naming(placement):
                await node.log.durable(placement.sequence)
                node.recorder.link(CURRENT.get(), node.log.batch_trace)
                return await self._link.call(lambda: body)
        return await self._link.call(lambda: body)

    async def _read_file(
        self, session: Session, body: ReadFile, data: Buffer
    ) -> tuple[Message, Buffer]:
        """A momentary view from the authority, or this node's own map when it holds the token."""
        if body.length > READ_BYTES_MAX:
            raise MessageTooLarge(f"a read takes at most {READ_BYTES_MAX} bytes; split it")
        if body.offset > FILE_BYTES_MAX:
            raise InvalidParameter(f"a file ends at {FILE_BYTES_MAX} bytes")
        body.not_held = False
        for _ in range(READ_FILE_ROUNDS_MAX):
            message = await self._link.call(lambda: body)
            reply = expect((message, b""), ReadFileReply)
            grant, reply.grant = reply.grant, None
            if grant is not None:
                self._table.learn_logs(grant.logs)
                view = ExtentMap()
                view.reset(grant.extents_through_page, 0)
                view.insert_packed(grant.extents)
                length = max(0, min(body.length, reply.info.size - body.offset))
                found = await self._node.reads.read_range(reply.info.ino, view, body.offset, length)
                return reply, found
            file = self._table.files.get(reply.info.ino)
            if file is not None and file.mode:
                own = await self._read_own(file, body, reply)
                if own is not None:
                    return reply, own
            # The token may be on its way. If it went astray, nobody else here may ask for it.
            body.not_held = file is None or not (file.mode or file.acquiring)
        raise FileNotAvailable("the file moved between nodes all the time", retry_after_ms=20)

    async def _read_own(
        self, file: OpenFile, body: ReadFile, reply: ReadFileReply
    ) -> Buffer | None:
        """Read under the token that this node holds; None when it has gone meanwhile."""
        while file.mode:
            length = max(0, min(body.length, file.size - body.offset))
            first = body.offset // BLOCK_BYTES
            end = max(first + 1, -(-(body.offset + length) // BLOCK_BYTES))
            missing = file.map.missing(first, end)
            if missing is not None:
                await self._table.fetch(file, missing)
                continue
            reply.info.size = file.size
            reply.info.modified_ns = max(reply.info.modified_ns, file.modified_ns)
            runs = file.map.runs(first, end)
            file.readers += 1
            try:
                whole = await self._node.reads.gather(file.ino, runs)
            finally:
                file.read_done()
            skip = body.offset - first * BLOCK_BYTES
            return memoryview(whole)[skip : skip + length]
        return None


def _for_living(session: Session, body: Message) -> Message:
    """``body``, to be sent in the session's name. What takes handles is never sent for a session
    that ended: its client may have them elsewhere by now."""
    if not session.alive:
        raise StaleGeneration("the session that asked for this has ended")
    return body


def _note_locks(handle: Handle, ranges: Sequence[LockRange]) -> None:
    """The authority gave the handle these locks. What is in the table already stays once: a lock
    that was taken, given back and taken again is the same entry."""
    file = handle.file
    new = [HeldLock(handle.number, item.offset, item.length, item.exclusive) for item in ranges]
    file.locks = [*file.locks, *(lock for lock in new if lock not in file.locks)]


def _access(result: ReclaimResult) -> int:
    """What a reclaimed handle may do: as it was opened."""
    if not result.access:
        raise ProtocolError("the authority reclaimed a handle without saying its access")
    return result.access


def _whole_blocks(data: Buffer) -> list[Buffer]:
    """Return ``data`` with zeros up to the next whole block, as payload buffers."""
    view = memoryview(data)
    whole = len(view) & ~(BLOCK_BYTES - 1)
    payload: list[Buffer] = [view[:whole]] if whole else []
    if whole < len(view):
        payload.append(bytes(view[whole:]).ljust(BLOCK_BYTES, b"\0"))
    return payload
