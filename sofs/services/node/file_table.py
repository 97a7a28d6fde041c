"""The files, handles and tokens of one node life.

Tokens. ``acquire`` asks for a token when an operation needs one. The authority gives each a new
generation, and asking forfeits what the node held of the file; so the file is drained and settled
before. A grant is installed only if its generation is above all that this node ever gave up of the
file (``_floors``): an answer that was overtaken by a recall, a release or a newer registration
changes nothing. Grants that come along with an open or a reclaim, under the generation that the
node holds already, bring only the window of the new handle.

Registration. A new authority names the tokens that the node holds; any other is dropped. It cannot
have records that are not durable, because an authority frees a token only by the node's own answer
or its seal; if it has, this life ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sofs.constants import BLOCK_BYTES
from sofs.core.messages import (
    AcquireToken,
    BoundHandle,
    ExtentsReply,
    FetchExtents,
    Grant,
    LogInfo,
    Message,
    RegisterNodeReply,
    TokenReply,
    Window,
)
from sofs.core.window import OpWindow
from sofs.errors import (
    FileClosed,
    ProtocolError,
    SofsError,
    StaleGeneration,
    error_from_code,
)
from sofs.services.channel import expect
from sofs.services.node.commits import Commits
from sofs.services.node.link import AuthorityLink
from sofs.services.node.open_file import RW, Handle, OpenFile
from sofs.services.tasks import Tasks

FETCH_CHUNKS_MAX: Final = 16  # Chunks of a map that one FetchExtents brings (64 MiB of a file).
GONE_MAX: Final = 16_384  # Handles that left, kept to say why.
FLOORS_MAX: Final = 65_536  # Files whose given-up generation is remembered.


class FileTable:
    """See the module."""

    def __init__(
        self,
        link: AuthorityLink,
        commits: Commits,
        tasks: Tasks,
        own: LogInfo,
        end: Callable[[BaseException], None],
    ) -> None:
        self._link = link
        self._commits = commits
        self._tasks = tasks
        self._end = end
        self.files: dict[int, OpenFile] = {}
        self.handles: dict[int, Handle] = {}
        self._own = own
        self._logs: dict[int, tuple[str, bytes]] = {}
        self._floors: dict[int, int] = {}
        self._gone: dict[int, str] = {}

    # Logs
    # ----------------------------------------------------------------------------------------

    def learn_logs(self, logs: list[LogInfo]) -> None:
        for info in logs:
            self._logs[info.log_id] = (f"node-{info.incarnation.hex()}", info.nonce)

    def log(self, log_id: int) -> tuple[str, bytes]:
        """Return (role, nonce) of a data log that an extent names."""
        found = self._logs.get(log_id)
        if found is None:
            if log_id == self._link.log_id:
                found = (f"node-{self._own.incarnation.hex()}", self._own.nonce)
                self._logs[log_id] = found
            else:
                raise ProtocolError(f"an extent names log {log_id}, of which nothing was told")
        return found

    # Handles
    # -------------------------------------------------------------------------------------

    def file(self, ino: int) -> OpenFile:
        found = self.files.get(ino)
        if found is None:
            found = self.files[ino] = OpenFile(ino, self._tasks)
        return found

    def add_handle(self, handle: Handle) -> None:
        self.handles[handle.number] = handle
        handle.file.handles[handle.number] = handle
        self._gone.pop(handle.number, None)

    def remove_handle(self, handle: Handle, code: str) -> None:
        """Forget a handle; later operations on it are answered with ``code``."""
        if self.handles.get(handle.number) is not handle:
            return
        del self.handles[handle.number]
        handle.leaving = handle.closing = code
        handle.file.handles.pop(handle.number, None)
        if handle.session is not None:
            handle.session.handles.pop(handle.number, None)
            handle.session = None
        self._gone[handle.number] = code
        while len(self._gone) > GONE_MAX:
            del self._gone[next(iter(self._gone))]
        file = handle.file
        if not file.handles and self._is_idle(file):
            file.map.forget()  # It is fetched again when the file is opened again under this token.
        self.forget_idle(file)

    def gone(self, number: int) -> SofsError:
        """Why a handle is not here."""
        code = self._gone.get(number, FileClosed.code)
        return error_from_code(code, f"handle {number} is not open through this node")

    def forget_idle(self, file: OpenFile) -> None:
        """Drop a file's state when nothing here needs it: no handle, no token, nothing unsent."""
        if (
            not file.handles
            and not file.mode
            and self._is_idle(file)
            and self.files.get(file.ino) is file
        ):
            del self.files[file.ino]

    def _is_idle(self, file: OpenFile) -> bool:
        return file.quiescent and file.last_sequence <= self._commits.applied_sequence

    def bound_handles(self) -> list[BoundHandle]:
        """The handles that are connected through this node: their clients have a session."""
        return [
            BoundHandle(handle.number, handle.generation)
            for handle in self.handles.values()
            if handle.session is not None or handle.reclaiming
        ]

    # Tokens
    # --------------------------------------------------------------------------------------

    def drop_token(self, file: OpenFile) -> None:
        """Forget the token and all that came with it. The file is drained and settled."""
        if file.pending:
            raise ProtocolError(f"file {file.ino} lost its token with records under way")
        if file.mode:
            self.refuse_grants(file.ino, file.generation)
        file.mode = 0
        file.map.forget()
        for handle in file.handles.values():
            handle.window = None

    def refuse_grants(self, ino: int, generation: int) -> None:
        """No grant of the file up to ``generation`` counts any more."""
        floors = self._floors
        if floors.get(ino, 0) < generation:
            floors.pop(ino, None)
            floors[ino] = generation
            if len(floors) > FLOORS_MAX:
                # A call that waited while so many other files came and went is over for long.
                del floors[next(iter(floors))]

    async def settle(self, file: OpenFile) -> None:
        """Return when the authority has every record of the file; nothing is being admitted."""
        await self._commits.settle(file.last_sequence)

    async def acquire(self, file: OpenFile, mode: int) -> None:
        """Get a token of ``mode`` with a fresh map, size, lock table and windows. Only for one who
        keeps operations of the file from being admitted."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        file.acquiring = done
        try:
            await file.drained()
            await self.settle(file)
            self.drop_token(file)
            await self._link.call(lambda: AcquireToken(file.ino, mode), self._token_granted)
        finally:
            file.acquiring = None
            if not done.done():
                done.set_result(None)

    def _token_granted(self, body: Message) -> None:
        self.install(expect((body, b""), TokenReply).grant)

    def install(self, grant: Grant) -> None:
        """Take a grant; called inside the channel's reader, in the order of the stream."""
        if grant.generation <= self._floors.get(grant.ino, 0):
            return
        file = self.file(grant.ino)
        self.learn_logs(grant.logs)
        if file.mode and grant.generation == file.generation:
            for window in grant.windows:
                self._take_window(file, window)
            return
        if grant.generation <= file.generation or not grant.extents_through_page:
            return  # An older token, or the mere window of one that never arrived.
        if file.pending:
            self._end(ProtocolError(f"file {file.ino} got a new token with records under way"))
            return
        file.mode = grant.mode
        file.generation = grant.generation
        file.size = file.size_pending = grant.info.size
        file.modified_ns = grant.info.modified_ns
        file.locks = grant.locks
        file.map.reset(grant.extents_through_page, -(-grant.info.size // BLOCK_BYTES))
        file.map.insert_packed(grant.extents)
        for handle in file.handles.values():
            handle.window = None
        for window in grant.windows:
            self._take_window(file, window)

    def _take_window(self, file: OpenFile, window: Window) -> None:
        """A window of a handle that is new under this token. Ours of the same token is newer."""
        handle = file.handles.get(window.handle)
        if handle is not None and handle.window is None:
            handle.window = OpWindow.from_message(window)
            handle.acked = 0

    def registered(self, reply: RegisterNodeReply) -> None:
        """An authority took us: keep the tokens it names, with its lock tables; drop the rest."""
        if reply.applied_sequence < self._commits.applied_sequence:
            self._end(
                ProtocolError(
                    f"the authority has records up to {reply.applied_sequence} and confirmed "
                    f"{self._commits.applied_sequence} before"
                )
            )
            return
        named = {grant.ino: grant for grant in reply.tokens}
        for file in list(self.files.values()):
            if not file.mode:
                continue
            grant = named.get(file.ino)
            if grant is not None and grant.generation == file.generation:
                file.locks = grant.locks
            elif file.handles and (file.pending or file.last_sequence > reply.applied_sequence):
                self._end(ProtocolError(f"the authority took file {file.ino} away unasked"))
                return
            else:
                self.drop_token(file)
        for number in reply.lost_handles:
            handle = self.handles.get(number)
            if handle is None or handle.reclaiming:
                continue
            if handle.in_flight:
                # What is appended must land before it is forgotten, else a copy could be appended
                # again: the session's end does both in order.
                handle.leaving = handle.closing = StaleGeneration.code
                if handle.session is not None:
                    handle.session.end("the authority has a handle elsewhere; reclaim it")
                continue
            self.remove_handle(handle, StaleGeneration.code)

    # The map
    # -------------------------------------------------------------------------------------

    async def fetch(self, file: OpenFile, first_page: int) -> None:
        """Fetch the unknown chunks of a file's map from the one at ``first_page`` on."""
        pages = file.map.unknown_run(first_page, FETCH_CHUNKS_MAX)
        generation, version = file.generation, file.map.version

        def fetched(body: Message) -> None:
            reply = expect((body, b""), ExtentsReply)
            self.learn_logs(reply.logs)
            if file.generation == generation and file.map.version == version and file.mode:
                file.map.fill(reply.extents, first_page, pages)

        request = FetchExtents(file.ino, generation, first_page, pages)
        try:
            await self._link.call(lambda: request, fetched)
        except StaleGeneration:
            if not file.mode or file.generation != generation:
                return
            if file.mode == RW and (file.handles or file.pending):
                self._end(
                    ProtocolError(f"the authority disowns token {generation} of file {file.ino}")
                )
            else:
                # A newer token replaced it whose grant never came, or the file is gone: whoever
                # reads on asks for a new one.
                self.drop_token(file)
