"""The asynchronous SDK: ``async with connect("sofs://host/share") as share``.

Everything here is a thin layer over ``session.ClientCore``: arguments are checked before anything
is sent, large reads and writes go in pieces of PIECE_BYTES with PIECES_MAX of them in flight (each
piece is atomic, the whole is not), and each call is one operation with its own deadline.

The failover of a node shows as a longer call. What may reach the application: the errors of the
operation itself (a refusal is definite: no copy of the call takes effect later); HandleLost and
AccessDenied of a handle that could not be reclaimed. Its writes in flight may have taken effect
although the class of HandleLost says ``definite``, which is about the handle: the message says so,
and nobody can settle them any more, so read the file again. Also
DeadlineExceeded (surely no effect); OutcomeUnknown, whose ``token`` goes to ``share.settle``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sofs.client import limits
from sofs.client.dialing import Resolver
from sofs.client.facts import ClusterFacts, FailoverRecord
from sofs.client.file import AsyncFile, info_of
from sofs.client.modes import PathLike, clean_path, own_bytes, parse_mode
from sofs.client.operation import (
    Kind,
    Settled,
    SettleToken,
)
from sofs.client.session import ClientCore
from sofs.client.url import ShareUrl, join_host, parse_url
from sofs.constants import (
    CLIENT_HANDLES_MAX,
    DEADLINE_DEFAULT_MS,
    DIRECTORY_PAGE_ENTRIES_MAX,
    NOT_KEPT_MS,
    READ_BYTES_MAX,
    WRITE_BYTES_MAX,
)
from sofs.core.messages import (
    Access,
    DirectoryEntry,
    Disposition,
    Done,
    FileInfo,
    InfoReply,
    Message,
    Mkdir,
    Open,
    OpenOptions,
    OpenReply,
    ReadDir,
    ReadDirReply,
    ReadFile,
    ReadFileReply,
    Rename,
    Rmdir,
    SetInfo,
    Share,
    Stat,
    Unlink,
    WriteFile,
)
from sofs.errors import (
    FileClosed,
    InvalidParameter,
    LimitExceeded,
    NotADirectory,
    ObjectNameNotFound,
    SofsError,
)
from sofs.ids import ID_BYTES
from sofs.ports.runtime import Clock, Entropy
from sofs.ports.store import Buffer
from sofs.ports.stream import Envelope, Transport

if TYPE_CHECKING:
    from sofs.client.trees import WalkStep


class AsyncShare:
    """A connected share. Made by ``connect``."""

    def __init__(self, core: ClientCore, url: ShareUrl) -> None:
        self.core = core
        self._flight = core.flight
        self.url = url

    @property
    def name(self) -> str:
        return self.url.share

    @property
    def client_id(self) -> bytes:
        return self.core.client_id

    async def __aenter__(self) -> AsyncShare:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
            return
        try:
            await self.close(timeout_ms=limits.GOODBYE_MS_MAX)
        except SofsError as second:
            error.add_note(f"closing the share failed too: {second}")

    async def close(self, *, timeout_ms: int | None = None) -> None:
        """Close all handles at the servers and end; see ``ClientCore.close``."""
        await self.core.close(timeout_ms)

    def facts(self) -> ClusterFacts:
        """The node in use, the warm one, the witness, and the failovers so far."""
        return self.core.facts()

    def failovers(self) -> list[FailoverRecord]:
        return list(self.core.facts().failovers)

    async def move(self, address: str) -> None:
        """Use the node at ``address`` from now on, without an error or a long pause for anybody;
        raises Unavailable when the client stays where it is."""
        await self.core.move(address)

    def leave(self) -> None:
        """Leave the node in use at once, as if it had failed."""
        self.core.leave()

    async def settle(self, token: object, *, timeout_ms: int | None = None) -> Settled:
        """Say what became of the operation of an OutcomeUnknown: ``error.token``. Afterwards it has
        taken effect or never will. Raises DeadlineExceeded (ask again), or why nobody can know."""
        if not isinstance(token, SettleToken):
            raise InvalidParameter("settle takes the token of an OutcomeUnknown")
        return await self.core.settle(token, timeout_ms)

    # Files

    async def open(
        self,
        path: PathLike,
        mode: str = "rb",
        *,
        share: Share = Share.ALL,
        delete_on_close: bool = False,
        deletable: bool = False,
        app_instance: bytes = b"",
        timeout_ms: int = 0,
        attributes: int = 0,
        deadline_ms: int | None = None,
    ) -> AsyncFile:
        """Open a file with a persistent handle.

        ``share``: what others may do meanwhile (Share.NONE: nothing). ``deletable``: ask for DELETE
        access, so that ``set_info(delete_on_close=True)`` may come later. ``app_instance``: 16
        bytes; a newer open of the same instance closes an older one. ``timeout_ms``: how long the
        handle outlives its client (0: the server's default). Raises ObjectNameNotFound,
        ObjectNameCollision ("x"), SharingViolation, DeletePending, AccessDenied, ...
        """
        parsed = parse_mode(mode)
        if app_instance and len(app_instance) != ID_BYTES:
            raise InvalidParameter(f"app_instance must have {ID_BYTES} bytes")
        if len(self._flight.handles) >= CLIENT_HANDLES_MAX:
            raise LimitExceeded(f"{CLIENT_HANDLES_MAX} files are open; close some")
        body = Open(
            caller=self._flight.caller(),
            path=clean_path(path),
            access=int(parsed.access | (Access.DELETE if delete_on_close or deletable else 0)),
            share=int(share),
            disposition=int(parsed.disposition),
            options=int(OpenOptions.DELETE_ON_CLOSE if delete_on_close else OpenOptions.NONE),
            create_guid=self.core.entropy.token(ID_BYTES),
            app_instance=app_instance,
            timeout_ms=timeout_ms,
            attributes=attributes,
        )
        reply = (await self._mutate(body, OpenReply, deadline_ms)).body
        assert isinstance(reply, OpenReply)
        handle = self._flight.handles.get(reply.handle)
        if handle is None:  # Lost again between the answer and this moment.
            raise FileClosed(f"{body.path}: the server closed the handle at once; open it again")
        self.core.story.opened(reply.handle, body.path, reply.timeout_ms > NOT_KEPT_MS)
        return AsyncFile(self.core, handle, parsed, reply.info, reply.timeout_ms)

    async def read_file(self, path: PathLike, *, deadline_ms: int | None = None) -> bytes:
        """Return a whole file: one call up to 4 MiB, an open file's reads beyond."""
        cleaned = clean_path(path)
        body = ReadFile(path=cleaned, offset=0, length=READ_BYTES_MAX)
        envelope = await self._query(body, ReadFileReply, deadline_ms, n_bytes=READ_BYTES_MAX)
        reply = envelope.body
        assert isinstance(reply, ReadFileReply)
        if reply.info.size <= len(envelope.data):
            return bytes(envelope.data)
        async with await self.open(cleaned, "rb", deadline_ms=deadline_ms) as file:
            return await file.readall(deadline_ms=deadline_ms)

    async def write_file(
        self,
        path: PathLike,
        data: Buffer,
        *,
        exclusive: bool = False,
        deadline_ms: int | None = None,
    ) -> FileInfo:
        """Create or overwrite a whole file. Atomic up to 1 MiB; beyond, an open file is written in
        pieces. ``exclusive``: ObjectNameCollision if it exists."""
        owned = own_bytes(data)
        cleaned = clean_path(path)
        if len(owned) > WRITE_BYTES_MAX:
            mode = "xb" if exclusive else "wb"
            async with await self.open(cleaned, mode, deadline_ms=deadline_ms) as file:
                await file.pwrite(owned, 0, deadline_ms=deadline_ms)
                return await file.stat(deadline_ms=deadline_ms)
        disposition = Disposition.CREATE if exclusive else Disposition.OVERWRITE_IF
        body = WriteFile(
            caller=self._flight.caller(),
            path=cleaned,
            disposition=int(disposition),
            size=len(owned),
        )
        envelope = await self._flight.call(
            body,
            InfoReply,
            Kind.METADATA,
            data=owned,
            n_bytes=len(owned),
            deadline_ms=self.core.deadline(deadline_ms),
        )
        return info_of(envelope)

    # Names

    async def stat(self, path: PathLike, *, deadline_ms: int | None = None) -> FileInfo:
        body = Stat(path=clean_path(path))
        return info_of(await self._query(body, InfoReply, deadline_ms))

    async def exists(self, path: PathLike) -> bool:
        try:
            await self.stat(path)
        except (ObjectNameNotFound, NotADirectory):
            return False
        return True

    async def scandir(self, path: PathLike = "/") -> AsyncGenerator[DirectoryEntry, None]:
        """Yield the entries of a directory in byte order of their names, page by page. Sizes are
        hints: a file that is being written shows its own late."""
        after = ""
        while True:
            page = await self.list_page(path, after)
            for entry in page.entries:
                yield entry
            if not page.more or not page.entries:
                return
            after = page.entries[-1].name

    async def list_page(
        self, path: PathLike, after: str = "", *, deadline_ms: int | None = None
    ) -> ReadDirReply:
        """One page of a directory: the entries behind the name ``after``."""
        body = ReadDir(path=clean_path(path), after=after, entries_max=DIRECTORY_PAGE_ENTRIES_MAX)
        reply = (await self._query(body, ReadDirReply, deadline_ms)).body
        assert isinstance(reply, ReadDirReply)
        return reply

    async def listdir(self, path: PathLike = "/") -> list[str]:
        return [entry.name async for entry in self.scandir(path)]

    async def mkdir(self, path: PathLike, *, deadline_ms: int | None = None) -> FileInfo:
        body = Mkdir(caller=self._flight.caller(), path=clean_path(path))
        return info_of(await self._mutate(body, InfoReply, deadline_ms))

    async def makedirs(self, path: PathLike, *, exist_ok: bool = False) -> None:
        """Create a directory and its missing parents."""
        from sofs.client import trees

        await trees.makedirs(self, path, exist_ok=exist_ok)

    async def rmdir(self, path: PathLike, *, deadline_ms: int | None = None) -> None:
        body = Rmdir(caller=self._flight.caller(), path=clean_path(path))
        await self._mutate(body, Done, deadline_ms)

    async def unlink(self, path: PathLike, *, deadline_ms: int | None = None) -> None:
        """Delete a file; an open one goes at its last close."""
        body = Unlink(caller=self._flight.caller(), path=clean_path(path))
        await self._mutate(body, Done, deadline_ms)

    async def rename(
        self, source: PathLike, target: PathLike, *, deadline_ms: int | None = None
    ) -> None:
        """Rename atomically; ObjectNameCollision if the target exists."""
        await self._rename(source, target, False, deadline_ms)

    async def replace(
        self, source: PathLike, target: PathLike, *, deadline_ms: int | None = None
    ) -> None:
        """Rename atomically over what is there."""
        await self._rename(source, target, True, deadline_ms)

    async def _rename(
        self, source: PathLike, target: PathLike, replace: bool, deadline_ms: int | None
    ) -> None:
        body = Rename(
            caller=self._flight.caller(),
            source=clean_path(source),
            target=clean_path(target),
            replace=replace,
        )
        await self._mutate(body, Done, deadline_ms)

    async def set_times(
        self,
        path: PathLike,
        *,
        created_ns: int = 0,
        modified_ns: int = 0,
        accessed_ns: int = 0,
        deadline_ms: int | None = None,
    ) -> FileInfo:
        """Set times, in nanoseconds since the epoch; 0 leaves one as it is."""
        body = SetInfo(
            caller=self._flight.caller(),
            path=clean_path(path),
            created_ns=created_ns,
            modified_ns=modified_ns,
            accessed_ns=accessed_ns,
        )
        return info_of(await self._mutate(body, InfoReply, deadline_ms))

    async def set_attributes(
        self, path: PathLike, attributes: int, *, deadline_ms: int | None = None
    ) -> FileInfo:
        """Set the attribute bits: 1 read-only, 2 hidden, 4 system, 32 archive."""
        body = SetInfo(
            caller=self._flight.caller(),
            path=clean_path(path),
            set_attributes=True,
            attributes=attributes,
        )
        return info_of(await self._mutate(body, InfoReply, deadline_ms))

    def walk(self, top: PathLike = "/") -> AsyncGenerator[WalkStep, None]:
        """Yield (directory, its directories, its files) from the top down."""
        from sofs.client import trees

        return trees.walk(self, top)

    async def rmtree(self, path: PathLike) -> None:
        """Delete a directory with all that is in it; stops at the first error."""
        from sofs.client import trees

        await trees.rmtree(self, path)

    async def _mutate(
        self, body: Message, expects: type[Message], limit_ms: int | None
    ) -> Envelope:
        return await self._flight.call(
            body, expects, Kind.METADATA, deadline_ms=self.core.deadline(limit_ms)
        )

    async def _query(
        self, body: Message, expects: type[Message], limit_ms: int | None, n_bytes: int = 0
    ) -> Envelope:
        return await self._flight.call(
            body,
            expects,
            Kind.QUERY,
            deadline_ms=self.core.deadline(limit_ms),
            n_bytes=n_bytes,
        )


class Connecting:
    """What ``connect`` returns: await it, or use it in ``async with``."""

    def __init__(self, make: Callable[[], AsyncShare], timeout_ms: int | None) -> None:
        self._make = make
        self._timeout_ms = timeout_ms
        self._share: AsyncShare | None = None

    async def _connect(self) -> AsyncShare:
        share = self._make()
        await share.core.start(self._timeout_ms)
        return share

    def __await__(self) -> Generator[Any, None, AsyncShare]:
        return self._connect().__await__()

    async def __aenter__(self) -> AsyncShare:
        self._share = await self._connect()
        return self._share

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._share is not None
        await self._share.__aexit__(kind, error, traceback)


def connect(
    url: str,
    *,
    credential: str | None = None,
    principal: str = "",
    deadline_ms: int = DEADLINE_DEFAULT_MS,
    connect_timeout_ms: int | None = None,
    client_id: bytes = b"",
    resolver: Resolver | None = None,
    warm: bool = True,
    witness: bool = True,
    transport: Transport | None = None,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
) -> Connecting:
    """Connect to a share: ``sofs://host[:port][,host2...]/share``, or by its access point's name
    ``sofs://name/share?dns=host:port``, which that DNS server is asked for. Clients spread over the
    hosts; one that is to begin at one of them says so with ``?start=host:port``.

    ``credential``: the cluster's, or the path of its file; else SOFS_CREDENTIAL says.
    ``deadline_ms``: how long an operation may take, failovers included. ``resolver``: an async
    callable that returns addresses, instead of those of the URL. ``warm``, ``witness``: keep a
    standby stream, register with a witness. The last three replace the real network, clocks and
    chance.

    Raises InvalidParameter for a bad URL at once; when awaited CredentialRefused, BadNetworkName,
    ProtocolVersion, or DeadlineExceeded.
    """
    from sofs.client.runtime import system_runtime

    parsed = parse_url(url)
    runtime = system_runtime(credential, parsed, transport, clock, entropy)

    def make() -> AsyncShare:
        made, release = runtime.transport()
        core = ClientCore(
            made,
            runtime.clock,
            runtime.entropy,
            resolver or runtime.addresses,
            share=parsed.share,
            start=join_host(*parsed.start) if parsed.start else "",
            principal=principal,
            client_id=client_id,
            deadline_ms=deadline_ms,
            warm=warm,
            witness=witness,
            release=release,
            recorder=runtime.recorder,
            events=runtime.events,
        )
        return AsyncShare(core, parsed)

    return Connecting(make, connect_timeout_ms)
