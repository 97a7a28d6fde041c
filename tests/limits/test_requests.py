"""Requests that no honest client sends, over a real stream: each is refused with a typed, definite
error, changes nothing, and disturbs nobody else on the same node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from limits_rig import RawClient, raw_clients, refused

from sofs.constants import (
    FILE_BYTES_MAX,
    LOCK_WAIT_MS_MAX,
    READ_BYTES_MAX,
    WINDOW_OPS_MAX,
    WRITE_BYTES_MAX,
)
from sofs.core import messages as m
from sofs.core.messages import InfoReply
from sofs.errors import (
    AccessDenied,
    BadNetworkName,
    CredentialRefused,
    DuplicateObjectId,
    Expired,
    FileClosed,
    InvalidName,
    InvalidParameter,
    LimitExceeded,
    MessageTooLarge,
    NotSupported,
    ProtocolError,
    ProtocolVersion,
    StaleGeneration,
    Unavailable,
    WrongIncarnation,
)
from sofs.ports.stream import Envelope
from sofs.rpc.transport import GrpcTransport
from sofs.services.channel import Channel, expect
from sofs.storage import SystemClock
from sofs.testing import LocalCluster

pytestmark = pytest.mark.usefixtures("unharmed")

CONTENTS = b"what was written"
HUGE = [2**63 - 1, 2**63, 2**64 - 1]


class Room:
    """Two clients of one node; ``mine`` is the handle of the first, ``theirs`` of the other."""

    def __init__(self, clients: list[RawClient]) -> None:
        self.one, self.two = clients
        self.mine = m.OpenReply()
        self.theirs = m.OpenReply()
        self.next_write = 1

    async def fill(self, path: str) -> None:
        self.mine = await self.one.open(path)
        self.theirs = await self.two.open(path + "-theirs")
        await self.one.call(m.Truncate(self.one.caller(), *self.of(self.mine), 0))
        await self.write(CONTENTS)

    @staticmethod
    def of(opened: m.OpenReply) -> tuple[int, int]:
        return opened.handle, opened.generation

    async def write(self, data: bytes, offset: int = 0, **fields: Any) -> m.Message:
        body = m.Write(*self.of(self.mine), self.next_write, 0, offset)
        for name, value in fields.items():
            setattr(body, name, value)
        reply = await self.one.call(body, data)
        self.next_write += 1
        return reply

    async def unchanged(self) -> None:
        """The file is as it was, by path, by handle, and through the other client."""
        assert await self.one.read(self.mine, 0, 100) == CONTENTS
        info = expect((await self.two.call(m.Stat("/" + "room")), b""), InfoReply).info
        assert info.size == len(CONTENTS)


@pytest.fixture
async def room(cluster: LocalCluster) -> AsyncIterator[Room]:
    async with raw_clients(cluster, 2) as clients:
        made = Room(clients)
        await made.fill("/room")
        yield made
        await made.unchanged()
        for client in clients:
            await client.call(m.EndClient(client.caller()))


Make = Callable[[RawClient, int, int], tuple[m.Message, bytes]]
BY_HANDLE: dict[str, Make] = {
    "read": lambda c, h, g: (m.Read(h, g, 0, 10), b""),
    "write": lambda c, h, g: (m.Write(h, g, 1, 0, 0), b"stolen"),
    "append": lambda c, h, g: (m.Write(h, g, 1, 0, 0, True), b"stolen"),
    "close": lambda c, h, g: (m.Close(c.caller(), h, g), b""),
    "truncate": lambda c, h, g: (m.Truncate(c.caller(), h, g, 0), b""),
    "lock": lambda c, h, g: (m.Lock(c.caller(), h, g, [m.LockRange(0, 1, True)]), b""),
    "unlock": lambda c, h, g: (m.Unlock(c.caller(), h, g, [m.LockRange(0, 1)]), b""),
    "stat": lambda c, h, g: (m.Stat("", h, g), b""),
    "set_info": lambda c, h, g: (m.SetInfo(c.caller(), "", h, g, True, 1), b""),
    "delete": lambda c, h, g: (m.SetInfo(c.caller(), "", h, g, delete_on_close=1), b""),
    "flush": lambda c, h, g: (m.Flush(h, g), b""),
    "abandon": lambda c, h, g: (m.Abandon(c.caller(), 0, h, g, 1), b""),
}


# Handles


@pytest.mark.parametrize("operation", BY_HANDLE)
async def test_a_handle_of_another_client_of_nobody_or_of_another_generation_is_refused(
    room: Room, operation: str
) -> None:
    make = BY_HANDLE[operation]
    handle, generation = room.of(room.mine)
    with refused(FileClosed, StaleGeneration):
        await room.two.call(*make(room.two, handle, generation))
    for number in (0, 10**6, *HUGE):
        if number or operation not in ("stat", "set_info", "delete"):  # Else it goes by path.
            with refused(FileClosed):
                await room.two.call(*make(room.two, number, 1))
    for other in (generation - 1, generation + 1, generation + 2**63):
        with refused(StaleGeneration):
            await room.one.call(*make(room.one, handle, other))


@pytest.mark.parametrize("guid", [b"", bytes(16), b"x" * 16, b"x" * 1000])
async def test_a_reclaim_without_the_secret_takes_no_handle(room: Room, guid: bytes) -> None:
    body = m.Reclaim(room.two.caller(), [m.ReclaimItem(room.mine.handle, guid)])
    reply = expect((await room.two.call(body), b""), m.ReclaimReply)
    assert [r.code for r in reply.results] == ["OBJECT_NAME_NOT_FOUND"]


async def test_a_client_cannot_speak_for_another(room: Room) -> None:
    """``caller`` is the node's to fill in: the claimed client's op id stays free."""
    claimed = m.Caller(client=room.one.client, principal="root", op_id=room.two.next_op)
    room.two.next_op += 1
    await room.two.call(m.Mkdir(claimed, "/spoofed"))
    own = m.Caller(client=room.two.client, op_id=room.one.next_op)
    room.one.next_op += 1
    await room.one.call(m.Rmdir(own, "/spoofed"))
    assert "spoofed" not in await names(room.one)


async def test_another_principal_cannot_take_over_a_client_id(
    cluster: LocalCluster, room: Room
) -> None:
    thief = RawClient(room.one.transport)
    thief.client = room.one.client
    await thief.connect(cluster.addresses[1], principal="thief")
    thief.next_op = 1000
    with refused(AccessDenied, Expired):
        await thief.call(m.Mkdir(thief.caller(), "/stolen"))
    await thief.close()


# Numbers


@pytest.mark.parametrize("number", HUGE)
async def test_a_number_beyond_its_range_is_refused(room: Room, number: int) -> None:
    one, (handle, generation) = room.one, room.of(room.mine)
    ranges = [m.LockRange(number, 2**64 - 1, True)]
    for body in (
        m.Truncate(one.caller(), handle, generation, number),
        m.Lock(one.caller(), handle, generation, ranges),
        m.Lock(one.caller(), handle, generation, [m.LockRange(0, 1, True)], number),
        m.Unlock(one.caller(), handle, generation, ranges),
        m.Read(handle, generation, number, 10),
        m.ReadFile("/room", number, 10),
        m.Abandon(one.caller(), target_op=number),
        m.Abandon(one.caller(), 0, handle, generation, number),
        m.Mkdir(m.Caller(op_id=number), "/numbers"),
        m.Mkdir(m.Caller(op_id=one.next_op, acked_below=number), "/numbers"),
        m.SetInfo(one.caller(), "/room", set_attributes=True, attributes=number),
        m.SetInfo(one.caller(), "/room", delete_on_close=number),
        m.WriteFile(one.caller(), "/numbers", number),
        m.WriteFile(one.caller(), "/numbers", int(m.Disposition.CREATE), number),
    ):
        with refused(InvalidParameter):
            await one.call(body)
    for fields in ("access", "share", "disposition", "options", "attributes"):
        with refused(InvalidParameter):
            await one.open("/numbers", **{fields: number})
    assert "numbers" not in await names(one)


async def names(client: RawClient) -> list[str]:
    reply = await client.call(m.ReadDir("/", caller=client.caller()))
    return [entry.name for entry in expect((reply, b""), m.ReadDirReply).entries]


@pytest.mark.parametrize("number", HUGE)
async def test_a_write_with_a_number_beyond_its_range_is_refused(room: Room, number: int) -> None:
    for fields in ({"offset": number}, {"op_sequence": number}, {"acked_below": number}):
        with refused(InvalidParameter):
            await room.write(b"lost", **fields)


@pytest.mark.parametrize("offset", [FILE_BYTES_MAX, FILE_BYTES_MAX - 3])
async def test_a_write_beyond_the_largest_file_is_refused(room: Room, offset: int) -> None:
    with refused(InvalidParameter):
        await room.write(b"lost", offset)


@pytest.mark.parametrize("length", [READ_BYTES_MAX + 1, *HUGE])
async def test_a_read_over_the_limit_is_refused(room: Room, length: int) -> None:
    with refused(MessageTooLarge):
        await room.one.call(m.Read(*room.of(room.mine), 0, length))
    with refused(MessageTooLarge):
        await room.one.call(m.ReadFile("/room", 0, length))


async def test_a_write_over_the_limit_is_refused_and_writes_nothing(room: Room) -> None:
    for n_bytes in (WRITE_BYTES_MAX + 1, 4 * WRITE_BYTES_MAX):
        with refused(MessageTooLarge):
            await room.write(bytes(n_bytes))
        with refused(MessageTooLarge):
            body = m.WriteFile(room.one.caller(), "/large", int(m.Disposition.CREATE))
            await room.one.call(body, bytes(n_bytes))
    assert "large" not in await names(room.one)


async def test_a_request_over_the_message_limit_is_refused_before_it_is_sent(room: Room) -> None:
    with refused(MessageTooLarge):
        await room.one.call(m.Write(*room.of(room.mine), room.next_write), bytes(5 << 20))


async def test_a_write_too_far_ahead_is_refused_and_those_in_range_go_on(room: Room) -> None:
    with refused(LimitExceeded):
        await room.write(b"lost", op_sequence=room.next_write + 2 * WINDOW_OPS_MAX)
    await room.write(CONTENTS)


async def test_an_operation_id_of_zero_is_refused(room: Room) -> None:
    with refused(InvalidParameter):
        await room.one.call(m.Mkdir(m.Caller(op_id=0), "/zero"))
    assert "zero" not in await names(room.one)


async def test_an_operation_too_far_ahead_of_what_is_acknowledged_is_refused(room: Room) -> None:
    with refused(LimitExceeded):
        await room.one.call(m.Mkdir(m.Caller(op_id=10**6), "/ahead"))
    assert "ahead" not in await names(room.one)


async def test_a_lock_that_would_wait_too_long_is_refused(room: Room) -> None:
    ranges = [m.LockRange(0, 1, True)]
    with refused(InvalidParameter):
        body = m.Lock(room.one.caller(), *room.of(room.mine), ranges, LOCK_WAIT_MS_MAX + 1)
        await room.one.call(body)


@pytest.mark.parametrize("guid", [b"short", b"x" * 17, b"x" * 100_000])
async def test_a_create_guid_of_another_size_is_refused(room: Room, guid: bytes) -> None:
    with refused(InvalidParameter):
        await room.one.open("/guid", create_guid=guid)
    with refused(InvalidParameter):
        await room.one.open("/guid", app_instance=guid)
    assert "guid" not in await names(room.one)


async def test_a_create_guid_in_use_is_refused(room: Room) -> None:
    await room.one.open("/room", create_guid=b"G" * 16)
    with refused(DuplicateObjectId):
        await room.one.open("/guid", create_guid=b"G" * 16)
    assert "guid" not in await names(room.one)


@pytest.mark.parametrize("path", [".", "..", "/a\0b", "/" + "x" * 256, "/" + "y/" * 3000, "//"])
async def test_the_server_checks_names_itself(room: Room, path: str) -> None:
    before = await names(room.one)
    caller = room.one.caller
    for body in (
        m.Mkdir(caller(), path),
        m.Rmdir(caller(), path),
        m.Unlink(caller(), path),
        m.Rename(caller(), "/room", path),
        m.Rename(caller(), path, "/elsewhere"),
        m.Stat(path, caller=caller()),
        m.SetInfo(caller(), path, modified_ns=1),
        m.ReadDir(path, caller=caller()),
        m.ReadFile(path, 0, 10),
        m.WriteFile(caller(), path, int(m.Disposition.CREATE)),
    ):
        with refused(InvalidName):
            await room.one.call(body)
    with refused(InvalidName):
        await room.one.open(path)
    assert await names(room.one) == before


async def test_a_directory_page_that_begins_with_no_name_does_no_harm(room: Room) -> None:
    for after in ("", "\uffff" * 1000, "/", "..", "\0"):
        await room.one.call(m.ReadDir("/", after, 2**64 - 1, room.one.caller()))


# Messages of other services, and of nobody


@pytest.mark.parametrize(
    "body",
    [
        m.RegisterNode("evil", b"i" * 16, "127.0.0.1:1", b"n" * 16),
        m.AcquireToken(2, 2),
        m.FetchExtents(2, 1, 0, 1),
        m.CommitRecords(),
        m.Disconnected([m.BoundHandle(1, 1)]),
        m.Recall(2, 1),
        m.Detach([m.BoundHandle(1, 1)]),
        m.LockUpdate(2, 1),
        m.Follow(),
        m.HandBack(),
        m.RegisterWitness(),
        m.ClusterStatus(),
        m.OpenReply(),
        m.Done(),
        m.Failure("NO_SUCH_CODE", "text"),
        m.HandleClosed(1, "FILE_FORCED_CLOSED"),
        m.HelloReply(),
        m.Hello(1, client=b"q" * 16),
    ],
    ids=lambda body: type(body).__name__,
)
async def test_what_is_no_request_of_a_client_is_not_supported(room: Room, body: m.Message) -> None:
    with refused(NotSupported):
        await room.one.call(body)
    for message in (body, m.Mkdir()):
        assert room.one.channel is not None
        room.one.channel.notify(message)  # Wants no answer, gets none, does nothing.
    assert "" not in await names(room.one)


async def test_a_reply_to_no_question_is_ignored(room: Room) -> None:
    assert room.one.channel is not None
    for call in (0, 1, 10**9, 2**64 - 1):
        room.one.channel.post(Envelope(call, True, m.OpenReply()))


# Greetings


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"share": "nosuch"}, BadNetworkName),
        ({"target": b"another incarnation"}, WrongIncarnation),
        ({"client": b""}, ProtocolError),
        ({"client": b"short"}, ProtocolError),
        ({"client": b"x" * 1000}, ProtocolError),
    ],
)
async def test_a_greeting_that_does_not_fit_is_refused(
    cluster: LocalCluster, room: Room, fields: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await RawClient(room.one.transport).connect(cluster.addresses[0], **fields)


@pytest.mark.parametrize("version", [0, 2, 2**63])
async def test_another_protocol_version_is_refused_with_both_named(
    cluster: LocalCluster, room: Room, version: int
) -> None:
    stream = await room.one.transport.connect(cluster.addresses[0], "file", timeout_ms=10_000)
    channel = Channel(
        stream, SystemClock(), lambda c, e: None, name="raw", on_crash=room.one.crashes.append
    )
    channel.start()
    with refused(ProtocolVersion):
        await channel.call(m.Hello(version, client=b"v" * 16))
    with pytest.raises(ProtocolError):  # And it is still nobody's session.
        await channel.call(m.Read(*room.of(room.mine), 0, 10))
    await channel.close()


@pytest.mark.parametrize("body", [m.Mkdir(path="/early"), m.Write(1, 1, 1), m.Read(1, 1, 0, 1)])
async def test_nothing_is_done_before_the_greeting(
    cluster: LocalCluster, room: Room, body: m.Message
) -> None:
    stream = await room.one.transport.connect(cluster.addresses[0], "file", timeout_ms=10_000)
    channel = Channel(
        stream, SystemClock(), lambda c, e: None, name="raw", on_crash=room.one.crashes.append
    )
    channel.start()
    with pytest.raises(ProtocolError):
        await channel.call(body)
    await channel.close()
    assert "early" not in await names(room.one)


@pytest.mark.parametrize("credential", ["wrong", "x"])
async def test_no_service_talks_to_somebody_without_the_credential(
    cluster: LocalCluster, room: Room, credential: str
) -> None:
    transport = GrpcTransport(credential, SystemClock())
    for service in ("file", "volume", "resume_key", "witness", "dns", "cluster"):
        with refused(CredentialRefused):
            await transport.connect(cluster.addresses[0], service, timeout_ms=10_000)
    await transport.close()


async def test_a_node_only_greets_and_describes_itself_on_other_services(
    cluster: LocalCluster, room: Room
) -> None:
    for service in ("volume", "resume_key", "witness", "dns", "cluster"):
        other = await RawClient(room.one.transport).connect(cluster.addresses[0], service)
        await other.call(m.PartState())
        for body in (m.Mkdir(other.caller(), "/other"), m.RegisterNode(), m.Read(1, 1, 0, 1)):
            with refused(NotSupported):
                await other.call(body)
        await other.close()
    assert "other" not in await names(room.one)


# Clients that are forgotten, gone, or too many


async def test_an_operation_of_a_client_that_the_volume_does_not_know_is_never_executed(
    cluster: LocalCluster, room: Room
) -> None:
    stranger = await RawClient(room.one.transport).connect(cluster.addresses[0])
    stranger.next_op = 7
    for _ in range(2):
        with refused(Expired):
            await stranger.call(m.Mkdir(m.Caller(op_id=7), "/expired"))
    assert "expired" not in await names(room.one)
    await stranger.close()


async def test_a_client_that_said_goodbye_is_a_stranger(cluster: LocalCluster, room: Room) -> None:
    leaver = await RawClient(room.one.transport).connect(cluster.addresses[0])
    opened = await leaver.open("/left")
    await leaver.call(m.EndClient(leaver.caller()))
    with refused(Expired):
        await leaver.call(m.Mkdir(leaver.caller(), "/after"))
    with refused(FileClosed):
        await leaver.call(m.Write(opened.handle, opened.generation, 1), b"late")
    assert "after" not in await names(room.one)
    await leaver.close()


async def test_an_answered_operation_is_answered_again_and_not_executed_again(room: Room) -> None:
    again = m.Caller(op_id=room.one.next_op)
    room.one.next_op += 1
    first = await room.one.call(m.Mkdir(again, "/once"))
    await room.one.call(m.Rmdir(room.one.caller(), "/once"))
    assert await room.one.call(m.Mkdir(again, "/once")) == first
    assert "once" not in await names(room.one)


async def test_a_newer_stream_of_a_client_ends_the_older_one_when_it_is_used(
    cluster: LocalCluster, room: Room
) -> None:
    older = await RawClient(room.one.transport).connect(cluster.addresses[0])
    opened = await older.open("/moved")
    newer = RawClient(room.one.transport)
    newer.client, newer.next_op = older.client, older.next_op
    await newer.connect(cluster.addresses[0])
    await newer.call(m.Mkdir(newer.caller(), "/moved-on"))
    assert older.channel is not None
    await older.channel.ended
    with pytest.raises(Unavailable):
        await older.call(m.Read(*room.of(opened), 0, 1))
    await newer.call(m.EndClient(newer.caller()))
    await older.close()
    await newer.close()


async def test_a_flood_of_requests_is_answered_or_refused_one_by_one(room: Room) -> None:
    two = room.two
    assert two.channel is not None
    futures = [two.channel.begin(m.Read(*room.of(room.theirs), 0, 4096)) for _ in range(4000)]
    replies = [envelope.body for envelope in await asyncio.gather(*futures)]
    codes = {reply.code for reply in replies if isinstance(reply, m.Failure)}
    assert codes <= {LimitExceeded.code}
    assert any(isinstance(reply, m.ReadReply) for reply in replies)
