"""A test double of the peer: one in-memory volume served by several honest nodes.

``MiniVolume`` is what a cluster agrees on: names, open handles with their windows, stored results
of mutations. ``MiniNode`` serves it at one address and obeys the rules that the client relies on:
an operation of a handle is executed only at the node and generation the handle is bound to, and
once; a mutation with a stored result is answered from it. ``script`` lets a test lose, drop or
refuse single requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sofs.core import locks
from sofs.core import messages as m
from sofs.core.window import (
    BeyondWindow,
    Completed,
    Forgotten,
    OpWindow,
    WasAbandoned,
)
from sofs.errors import (
    Abandoned,
    AccessDenied,
    DeletePending,
    DirectoryNotEmpty,
    Expired,
    FileClosed,
    FileIsADirectory,
    FileLockConflict,
    FileNotAvailable,
    LimitExceeded,
    LockNotGranted,
    NotADirectory,
    NotSupported,
    ObjectNameCollision,
    ObjectNameNotFound,
    RangeNotLocked,
    SharingViolation,
    SofsError,
    StaleGeneration,
)
from sofs.ports.stream import Envelope, Listener, Stream, Transport
from sofs.services.channel import Channel, check_hello
from sofs.sim.local_transport import LocalHub
from sofs.storage.runtime import SystemClock

LOSE = "lose"  # Execute it, send no answer.
DROP = "drop"  # Neither.
Script = Callable[[m.Message], str | SofsError | None]


@dataclass
class MiniFile:
    ino: int
    data: bytearray = field(default_factory=bytearray)
    directory: bool = False
    locks: list[m.HeldLock] = field(default_factory=list)
    modified_ns: int = 0
    attributes: int = 0
    unlinked: bool = False
    delete_on_close: bool = False

    def info(self) -> m.FileInfo:
        return m.FileInfo(
            ino=self.ino,
            is_directory=self.directory,
            size=len(self.data),
            attributes=self.attributes,
            modified_ns=self.modified_ns,
            links=1,
        )


@dataclass
class MiniHandle:
    number: int
    client: bytes
    principal: str
    guid: bytes
    node: str
    path: str
    file: MiniFile
    access: int
    share: int
    generation: int = 1
    delete_on_close: bool = False
    window: OpWindow = field(default_factory=OpWindow)


class MiniVolume:
    """What the cluster agrees on."""

    def __init__(self) -> None:
        self.files: dict[str, MiniFile] = {"/": MiniFile(1, directory=True)}
        self.handles: dict[int, MiniHandle] = {}
        self.results: dict[tuple[bytes, int], m.Message | SofsError] = {}
        self.executed: list[tuple[int, int]] = []  # (handle, op sequence) of every write executed.
        self.mutations: list[tuple[str, int]] = []  # (name, op id) of every mutation executed.
        self.ended: list[bytes] = []
        self.clients: list[bytes] = []  # Known by their first operation, which has op id 1.
        self._next_ino = 2
        self._next_handle = 1
        self.changed = asyncio.Condition()

    def find(self, path: str) -> MiniFile:
        found = self.files.get(path)
        if found is None:
            parent = path.rpartition("/")[0] or "/"
            if parent != path and parent in self.files and not self.files[parent].directory:
                raise NotADirectory(parent)
            raise ObjectNameNotFound(path)
        return found

    def create(self, path: str, *, directory: bool = False) -> MiniFile:
        parent = path.rpartition("/")[0] or "/"
        if not self.find(parent).directory:
            raise NotADirectory(parent)
        self._next_ino += 1
        self.files[path] = MiniFile(self._next_ino, directory=directory)
        return self.files[path]

    def open(self, body: m.Open, node: str) -> m.OpenReply:
        file = self.files.get(body.path)
        action = m.CreateAction.OPENED
        if file is not None:
            if body.disposition == m.Disposition.CREATE:
                raise ObjectNameCollision(body.path)
            if file.directory:
                raise FileIsADirectory(body.path)
            if file.delete_on_close:
                raise DeletePending(body.path)
            for other in self.handles.values():
                if other.file is file and _excluded(other, body):
                    raise SharingViolation(body.path)
            if body.disposition in (m.Disposition.OVERWRITE, m.Disposition.OVERWRITE_IF):
                del file.data[:]
                action = m.CreateAction.OVERWRITTEN
        elif body.disposition in (m.Disposition.OPEN, m.Disposition.OVERWRITE):
            file = self.find(body.path)
        else:
            file = self.create(body.path)
            action = m.CreateAction.CREATED
        number = self._next_handle
        self._next_handle += 1
        self.handles[number] = MiniHandle(
            number,
            body.caller.client,
            body.caller.principal,
            body.create_guid,
            node,
            body.path,
            file,
            body.access,
            body.share,
            delete_on_close=bool(body.options & m.OpenOptions.DELETE_ON_CLOSE),
        )
        return m.OpenReply(number, 1, int(action), file.info(), body.timeout_ms or 60_000)

    def drop_handle(self, handle: MiniHandle) -> None:
        self.handles.pop(handle.number, None)
        file = handle.file
        file.locks = [lock for lock in file.locks if lock.handle != handle.number]
        file.delete_on_close = file.delete_on_close or handle.delete_on_close
        if file.delete_on_close and all(h.file is not file for h in self.handles.values()):
            for path in [p for p, f in self.files.items() if f is file]:
                del self.files[path]


def _excluded(other: MiniHandle, body: m.Open) -> bool:
    def wants(access: int) -> int:
        share = 0
        share |= m.Share.READ if access & m.Access.READ else 0
        share |= m.Share.WRITE if access & (m.Access.WRITE | m.Access.APPEND) else 0
        share |= m.Share.DELETE if access & m.Access.DELETE else 0
        return share

    return bool(wants(body.access) & ~other.share or wants(other.access) & ~body.share)


class MiniNode:
    """One node of the double."""

    def __init__(self, hub: LocalHub, volume: MiniVolume, name: str, address: str) -> None:
        self.hub, self.volume, self.name, self.address = hub, volume, name, address
        self.script: Script = lambda body: None
        self.seen: list[m.Message] = []
        self.channels: list[Channel] = []
        self.crashes: list[BaseException] = []
        self.peers: list[MiniNode] = []
        self.hints: list[str] = []  # Addresses that HelloReply names.
        self.postponed: dict[int, int] = {}  # handle -> how many reclaims say "not yet".
        self.registered: asyncio.Event = asyncio.Event()
        self._notify: list[tuple[Channel, int]] = []
        self.outcomes: list[m.MoveOutcome] = []
        self.listener: Listener | None = None
        self._clock = SystemClock()
        self.incarnation = name.encode().ljust(16, b".")
        self.mute_witness = False  # Registrations are heard and not answered.
        self.gate: asyncio.Event | None = None  # Requests wait for it while it is there.

    async def start(self, transport: Transport | None = None) -> None:
        """Listen on the hub, or on a real transport (then the address becomes the bound one)."""
        listener = await (transport or self.hub.transport()).listen(self.address, self.accept)
        self.address = listener.address
        self.listener = listener

    def kill(self) -> None:
        self.hub.cut(self.address)

    def notify(self, notification: m.Notification) -> None:
        """As a witness: answer all outstanding AsyncNotify."""
        waiting, self._notify = self._notify, []
        for channel, call in waiting:
            channel.reply(call, notification)

    async def accept(self, service: str, stream: Stream) -> None:
        serve = {"file": self._on_file, "witness": self._on_witness}[service]
        channel = Channel(
            stream, self._clock, serve, name=f"{self.name}-{service}", on_crash=self.crashes.append
        )
        self.channels.append(channel)
        channel.start()
        try:
            await channel.ended
        finally:
            await channel.close()

    # Witness

    def _on_witness(self, channel: Channel, envelope: Envelope) -> None:
        body = envelope.body
        if isinstance(body, m.Hello):
            self._welcome(channel, envelope)
        elif isinstance(body, m.RegisterWitness):
            self.seen.append(body)
            if self.mute_witness:
                return
            channel.reply(envelope.call, m.RegisterWitnessReply(b"context"))
            self.registered.set()
        elif isinstance(body, m.AsyncNotify):
            self._notify.append((channel, envelope.call))
        elif isinstance(body, m.MoveOutcome):
            self.outcomes.append(body)
            channel.reply(envelope.call, m.Done())
        else:
            raise NotSupported(type(body).__name__)

    def _welcome(self, channel: Channel, envelope: Envelope) -> None:
        channel.remote = check_hello(envelope, self.incarnation)
        channel.reply(
            envelope.call,
            m.HelloReply(1, self.incarnation, self.name, b"v" * 16, 1 << 20, 4 << 20, self.hints),
        )

    # Files

    def _on_file(self, channel: Channel, envelope: Envelope) -> None:
        if channel.remote is None:
            self._welcome(channel, envelope)
        elif isinstance(envelope.body, m.GetInterfaceList):
            channel.reply(envelope.call, self._interfaces())
        elif self.gate is None:
            self._perform(channel, envelope)
        else:
            channel.serve(0, self._behind_gate(channel, envelope))

    async def _behind_gate(self, channel: Channel, envelope: Envelope) -> m.Message:
        while self.gate is not None:
            await self.gate.wait()
        self._perform(channel, envelope)
        return m.Done()

    def _interfaces(self) -> m.InterfaceList:
        found = []
        for node in [self, *self.peers]:
            host, _, port = node.address.rpartition(":")
            found.append(m.Interface(node.name, 0x20000, 1, host, "", 1 | 4, int(port)))
        return m.InterfaceList(found)

    def _perform(self, channel: Channel, envelope: Envelope) -> None:
        body = envelope.body
        self.seen.append(body)
        verdict = self.script(body)
        if isinstance(verdict, SofsError):
            raise verdict
        if verdict == DROP:
            return
        if isinstance(body, m.Lock) and body.wait_ms:
            channel.serve(envelope.call, self._lock_when_free(channel, body))
            return
        try:
            reply, data = self._execute(channel, body, bytes(envelope.data))
        except SofsError:
            if verdict == LOSE:
                return
            raise
        if verdict != LOSE:
            channel.reply(envelope.call, reply, data)

    async def _lock_when_free(self, channel: Channel, body: m.Lock) -> m.Message:
        until = self._clock.monotonic_ms() + body.wait_ms
        while True:
            try:
                return self._execute(channel, body, b"")[0]
            except LockNotGranted:
                if self._clock.monotonic_ms() >= until:
                    raise
            await self._clock.sleep_ms(10)

    def _execute(self, channel: Channel, body: m.Message, data: bytes) -> tuple[m.Message, bytes]:
        volume = self.volume
        caller = getattr(body, "caller", None)
        remote = channel.remote
        assert isinstance(remote, m.Hello)
        if caller is not None:
            caller.client, caller.principal = remote.client, remote.principal
        match body:
            case m.Write() | m.WriteParts():
                write = self._write if isinstance(body, m.Write) else self._write_parts
                return write(body, data), b""
            case m.Read():
                return self._read(body)
            case m.Stat(handle=0):
                return m.InfoReply(volume.find(body.path).info()), b""
            case m.Stat():
                return m.InfoReply(self._bound(body.handle, body.generation).file.info()), b""
            case m.ReadDir():
                return self._read_dir(body), b""
            case m.ReadFile():
                file = volume.find(body.path)
                piece = bytes(file.data[body.offset : body.offset + body.length])
                return m.ReadFileReply(file.info()), piece
        assert caller is not None, type(body).__name__
        self._admit(caller)
        key = (caller.client, caller.op_id)
        for old in [k for k in volume.results if k[0] == key[0] and k[1] < caller.acked_below]:
            del volume.results[old]
        stored = volume.results.get(key)
        if stored is None:
            if caller.op_id < caller.acked_below:
                raise Expired("acknowledged before")
            stored = self._recorded(body, caller.op_id, data)
            volume.results[key] = stored
        elif isinstance(stored, m.OpenReply) and stored.handle in volume.handles:
            handle = volume.handles[stored.handle]  # A replayed open binds here, as a reclaim does.
            if handle.node != self.name:
                handle.node, handle.generation = self.name, handle.generation + 1
            stored = replace(stored, generation=handle.generation)
        if isinstance(stored, SofsError):
            raise stored
        return stored, b""

    def _admit(self, caller: m.Caller) -> None:
        if caller.client not in self.volume.clients:
            if caller.op_id != 1:
                raise Expired("this client is not known")
            self.volume.clients.append(caller.client)

    def _recorded(self, body: m.Message, op_id: int, data: bytes) -> m.Message:
        reply = self._mutate(body, data)
        if not isinstance(body, m.Reclaim):
            self.volume.mutations.append((type(body).__name__, op_id))
        return reply

    def _bound(self, number: int, generation: int) -> MiniHandle:
        handle = self.volume.handles.get(number)
        if handle is None:
            raise FileClosed(f"handle {number} is not open")
        if handle.node != self.name or handle.generation != generation:
            raise StaleGeneration(f"handle {number} moved")
        return handle

    def _write(self, body: m.Write, data: bytes) -> m.Message:
        handle = self._bound(body.handle, body.generation)
        if not handle.access & (m.Access.WRITE | m.Access.APPEND):
            raise AccessDenied("not open for writing")
        window = handle.window
        window.ack_below(body.acked_below)
        match window.judge(body.op_sequence):
            case Completed(offset):
                return m.WriteReply(body.offset if offset is None else offset)
            case Forgotten():
                if body.append:
                    raise Expired("forgotten append")
                return m.WriteReply(body.offset)
            case WasAbandoned():
                raise Abandoned("settled")
            case BeyondWindow():
                raise LimitExceeded("beyond the window")
        file = handle.file
        offset = len(file.data) if body.append else body.offset
        if locks.io_conflict(file.locks, handle.number, offset, len(data), True):
            raise FileLockConflict("locked")
        if offset > len(file.data):
            file.data.extend(bytes(offset - len(file.data)))
        file.data[offset : offset + len(data)] = data
        window.complete(body.op_sequence, offset if body.append else None)
        self.volume.executed.append((handle.number, body.op_sequence))
        return m.WriteReply(offset)

    def _write_parts(self, body: m.WriteParts, data: bytes) -> m.Message:
        """The first range as a write; if it was executed, the others too."""
        before = len(self.volume.executed)
        first, at = body.parts[0], body.parts[0].length
        one = m.Write(
            body.handle, body.generation, body.op_sequence, body.acked_below, first.offset
        )
        reply = self._write(one, data[:at])
        if len(self.volume.executed) > before:
            held = self.volume.handles[body.handle].file.data
            for part in body.parts[1:]:
                held.extend(bytes(max(0, part.offset - len(held))))
                held[part.offset : part.offset + part.length] = data[at : at + part.length]
                at += part.length
        return reply

    def _read(self, body: m.Read) -> tuple[m.Message, bytes]:
        handle = self._bound(body.handle, body.generation)
        file = handle.file
        if locks.io_conflict(file.locks, handle.number, body.offset, body.length, False):
            raise FileLockConflict("locked")
        piece = bytes(file.data[body.offset : body.offset + body.length])
        return m.ReadReply(len(file.data)), piece

    def _read_dir(self, body: m.ReadDir) -> m.Message:
        if not self.volume.find(body.path).directory:
            raise NotADirectory(body.path)
        prefix = body.path.rstrip("/") + "/"
        names = sorted(
            (p[len(prefix) :] for p in self.volume.files if p.startswith(prefix) and p != "/"),
            key=str.encode,
        )
        names = [n for n in names if n and "/" not in n and n.encode() > body.after.encode()]
        page = names[: body.entries_max]
        entries = []
        for name in page:
            file = self.volume.files[prefix + name]
            entries.append(m.DirectoryEntry(name, file.ino, file.directory, len(file.data)))
        return m.ReadDirReply(entries, len(names) > len(page))

    def _mutate(self, body: m.Message, data: bytes) -> m.Message:
        volume = self.volume
        match body:
            case m.Open():
                return volume.open(body, self.name)
            case m.Reclaim():
                return self._reclaim(body)
            case m.Abandon():
                return self._abandon(body)
            case m.Close():
                handle = self._bound(body.handle, body.generation)
                volume.drop_handle(handle)
                return m.InfoReply(handle.file.info())
            case m.Truncate():
                file = self._bound(body.handle, body.generation).file
                del file.data[body.size :]
                file.data.extend(bytes(body.size - len(file.data)))
                return m.InfoReply(file.info())
            case m.Lock() | m.Unlock() | m.ChangeLocks():
                return self._mutate_locks(body)
            case m.EndClient():
                for handle in list(volume.handles.values()):
                    if handle.client == body.caller.client:
                        volume.drop_handle(handle)
                volume.ended.append(body.caller.client)
                return m.Done()
        return self._mutate_names(body, data)

    def _mutate_locks(self, body: m.Lock | m.Unlock | m.ChangeLocks) -> m.Message:
        match body:
            case m.Lock():
                handle = self._bound(body.handle, body.generation)
                for item in body.ranges:
                    if locks.lock_conflict(handle.file.locks, handle.number, item):
                        raise LockNotGranted("held")
                for item in body.ranges:
                    handle.file.locks.append(
                        m.HeldLock(handle.number, item.offset, item.length, item.exclusive)
                    )
                return m.Done()
            case m.Unlock():
                handle = self._bound(body.handle, body.generation)
                gone = {(r.offset, r.length) for r in body.ranges}
                handle.file.locks = [
                    lock
                    for lock in handle.file.locks
                    if lock.handle != handle.number or (lock.offset, lock.length) not in gone
                ]
                return m.Done()
        return self._change_locks(body)

    def _change_locks(self, body: m.ChangeLocks) -> m.LocksChanged:
        handle = self._bound(body.handle, body.generation)
        held = list(handle.file.locks)
        for item in body.drop:
            index = locks.unlock_index(held, handle.number, item)
            if index is None:
                raise RangeNotLocked("not held")
            del held[index]
        for item in [*body.test, *body.take]:
            if locks.lock_conflict(held, handle.number, item):
                raise LockNotGranted("held")
            if item in body.take:
                held.append(m.HeldLock(handle.number, item.offset, item.length, item.exclusive))
        handle.file.locks = held
        return m.LocksChanged(bool(body.take), len(handle.file.data), bool(body.beside))

    def _mutate_names(self, body: m.Message, data: bytes) -> m.Message:
        volume = self.volume
        match body:
            case m.WriteFile():
                if body.path in volume.files and body.disposition == m.Disposition.CREATE:
                    raise ObjectNameCollision(body.path)
                file = volume.files.get(body.path) or volume.create(body.path)
                file.data[:] = data
                return m.InfoReply(file.info())
            case m.Mkdir():
                if body.path in volume.files:
                    raise ObjectNameCollision(body.path)
                return m.InfoReply(volume.create(body.path, directory=True).info())
            case m.Rmdir():
                if not volume.find(body.path).directory:
                    raise NotADirectory(body.path)
                if any(p.startswith(body.path + "/") for p in volume.files):
                    raise DirectoryNotEmpty(body.path)
                del volume.files[body.path]
                return m.Done()
            case m.Unlink():
                if volume.find(body.path).directory:
                    raise FileIsADirectory(body.path)
                del volume.files[body.path]
                return m.Done()
            case m.Rename():
                volume.find(body.source)
                if body.target in volume.files and not body.replace:
                    raise ObjectNameCollision(body.target)
                volume.files[body.target] = volume.files.pop(body.source)
                return m.Done()
        return self._set_info(body)

    def _set_info(self, body: m.Message) -> m.Message:
        if not isinstance(body, m.SetInfo):
            raise NotSupported(type(body).__name__)
        if body.handle:
            file = self._bound(body.handle, body.generation).file
        else:
            file = self.volume.find(body.path)
        if body.set_attributes:
            file.attributes = body.attributes
        file.modified_ns = body.modified_ns or file.modified_ns
        return m.InfoReply(file.info())

    def _reclaim(self, body: m.Reclaim) -> m.Message:
        results = []
        for item in body.handles:
            handle = self.volume.handles.get(item.handle)
            if self.postponed.get(item.handle, 0):
                self.postponed[item.handle] -= 1
                results.append(m.ReclaimResult(item.handle, FileNotAvailable.code))
            elif handle is None or handle.guid != item.create_guid:
                results.append(m.ReclaimResult(item.handle, ObjectNameNotFound.code))
            elif handle.principal != body.caller.principal:
                results.append(m.ReclaimResult(item.handle, AccessDenied.code))
            else:
                handle.node = self.name
                handle.generation += 1
                results.append(
                    m.ReclaimResult(
                        item.handle,
                        "",
                        handle.generation,
                        handle.file.info(),
                        handle.window.watermark,
                    )
                )
        return m.ReclaimReply(results)

    def _abandon(self, body: m.Abandon) -> m.Message:
        if not body.target_op:
            handle = self._bound(body.handle, body.generation)
            match handle.window.judge(body.op_sequence):
                case Completed(offset):
                    return m.AbandonReply(True, offset or 0)
                case Forgotten():
                    return m.AbandonReply(True)
                case WasAbandoned():
                    return m.AbandonReply(False)
            handle.window.abandon(body.op_sequence)
            return m.AbandonReply(False)
        key = (body.caller.client, body.target_op)
        stored = self.volume.results.get(key)
        if stored is None:
            self.volume.results[key] = Abandoned("settled")
            return m.AbandonReply(False)
        return m.AbandonReply(not isinstance(stored, SofsError))
