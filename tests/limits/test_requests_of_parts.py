"""Requests to the volume's authority that no node sends: it checks them itself, since a node may be
of another version, or mistaken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from limits_rig import RawClient, refused

from sofs.core import messages as m
from sofs.errors import (
    AccessDenied,
    FileClosed,
    FileIsADirectory,
    FileNotAvailable,
    InvalidParameter,
    ObjectNameNotFound,
    ProtocolError,
    SofsError,
    Unavailable,
)
from sofs.rpc.transport import GrpcTransport
from sofs.services.channel import expect
from sofs.storage import SystemClock
from sofs.testing import LocalCluster

pytestmark = pytest.mark.usefixtures("unharmed")

SELF = b"e" * 16
CLIENT = b"c" * 16
REFUSALS = (
    AccessDenied,
    FileClosed,
    FileIsADirectory,
    InvalidParameter,
    ObjectNameNotFound,
    ProtocolError,
)


@pytest.fixture
async def stranger(cluster: LocalCluster) -> AsyncIterator[RawClient]:
    """A stream to the active authority, from a node it does not know."""
    transport = GrpcTransport(cluster.credential, SystemClock())
    found = None
    for name in ("coordinator", "resume-key"):
        try:
            client = RawClient(transport)
            address = cluster.parts[name].address
            found = await client.connect(address, "volume", sender=SELF)
        except (FileNotAvailable, Unavailable):
            continue  # The follower says that it does not serve.
    assert found is not None
    yield found
    await found.close()
    assert not found.crashes
    await transport.close()


def caller(op_id: int = 1) -> m.Caller:
    return m.Caller(CLIENT, "p", op_id)


def bad_requests(number: int) -> Iterator[m.Message]:
    files = [m.FileCommit(number, number, number, 0, b"junk", [m.Window(number, number, number)])]
    yield m.AcquireToken(number, 2)
    yield m.AcquireToken(1, 2)
    yield m.AcquireToken(2, number)
    yield m.FetchExtents(number, number, number, number)
    yield m.FetchExtents(2, 1, 0, number)
    yield m.CommitRecords(m.Commit(number, 0, 1))
    yield m.CommitRecords(m.Commit(1, 0, number, files))
    yield m.Close(caller(number), number, number, m.Commit(number, number, number), number)
    yield m.Truncate(caller(), number, number, number, m.Commit(), b"junk", 2**62)
    yield m.WriteFile(caller(), "/junk", 2, 0, number, b"junk", number)
    yield m.WriteFile(caller(), "/junk", 2, 0, 5, b"junk", 1)
    yield m.Open(caller(), "/junk", number, number, number, number)
    yield m.Lock(m.Caller(b"short", "p", 1), number, number, [m.LockRange(1, 1, True)])
    yield m.Mkdir(m.Caller(b"", "", 1), "/junk")
    yield m.Mkdir(m.Caller(CLIENT + b"x", "", 1), "/junk")
    yield m.ReadFile("/", number, number)
    yield m.CheckpointTaken(m.CheckpointInfo("../../etc/passwd", number, number, number))


async def test_who_is_not_registered_is_refused_everything(stranger: RawClient) -> None:
    for body in bad_requests(2**63):
        with refused(ProtocolError, definite=False):
            await stranger.call(body)


async def test_a_node_registers_itself_and_says_how_its_log_is_read(stranger: RawClient) -> None:
    for body in (
        m.RegisterNode("evil", b"i" * 16, "127.0.0.1:1", b"n" * 16),
        m.RegisterNode("evil", SELF, "127.0.0.1:1", b""),
        m.RegisterNode("evil", b"", "127.0.0.1:1", b"n" * 16),
    ):
        with refused(ProtocolError, definite=False):
            await stranger.call(body)


async def test_a_registered_node_is_not_believed_either(stranger: RawClient) -> None:
    await stranger.call(m.RegisterNode("evil", SELF, "127.0.0.1:1", b"n" * 16))
    for number in (10**6, 2**63 - 1, 2**63, 2**64 - 1):
        for body in bad_requests(number):
            with pytest.raises(REFUSALS):
                await stranger.call(body)
        await stranger.call(m.Disconnected([m.BoundHandle(number, number)]))  # Of nobody: nothing.
    reply = await stranger.call(m.ReadDir("/"))
    assert "junk" not in [e.name for e in expect((reply, b""), m.ReadDirReply).entries]


async def test_a_handover_to_nobody_is_not_made(stranger: RawClient) -> None:
    for incarnation in (b"", b"zz", SELF):
        reply = expect((await stranger.call(m.HandBack(incarnation)), b""), m.HandBackReply)
        assert not reply.accepted


async def test_a_follower_who_claims_the_impossible_reads_from_the_store(
    stranger: RawClient,
) -> None:
    for number in (10**6, 2**63, 2**64 - 1):
        body = m.Follow(b"f" * 16, "resume-key", "127.0.0.1:1", number, number)
        reply = expect((await stranger.call(body), b""), m.FollowReply)
        assert reply.from_store


async def test_another_principal_neither_ends_nor_uses_a_client(stranger: RawClient) -> None:
    await stranger.call(m.RegisterNode("evil", SELF, "127.0.0.1:1", b"n" * 16))
    owner = m.Caller(b"o" * 16, "owner", 1)
    thief = m.Caller(b"o" * 16, "thief", 2)
    opened = m.Open(owner, "/owned", 3, 7, int(m.Disposition.CREATE), create_guid=b"g" * 16)
    handle = expect((await stranger.call(opened), b""), m.OpenReply).handle
    for body in (
        m.Mkdir(thief, "/junk"),
        m.Unlink(thief, "/owned"),
        m.SetInfo(thief, "", handle, 1, delete_on_close=1),
        m.Close(thief, handle, 1),
        m.EndClient(thief),
    ):
        with pytest.raises((AccessDenied, FileClosed)):
            await stranger.call(body)
    await stranger.call(m.Stat("", handle, 1, owner))
    await stranger.call(m.Close(m.Caller(b"o" * 16, "owner", 2), handle, 1))
    await stranger.call(m.Unlink(m.Caller(b"o" * 16, "owner", 3), "/owned"))
    await stranger.call(m.EndClient(m.Caller(b"o" * 16, "owner", 4)))


def test_the_errors_of_this_module_are_of_the_tree() -> None:
    assert all(issubclass(kind, SofsError) for kind in REFUSALS)
