from __future__ import annotations

import itertools

import pytest
from authority_harness import NOW, RW, RWD, Client, Node, Volume

from sofs.constants import CLIENT_RESULTS_MAX, HANDLE_LOCKS_MAX
from sofs.core import messages as m
from sofs.core.messages import Access, Disposition, LockRange, OpenOptions, Share
from sofs.core.record import DataOp
from sofs.errors import (
    Abandoned,
    AccessDenied,
    Expired,
    FileClosed,
    FileNotAvailable,
    InvalidParameter,
    LimitExceeded,
    LockNotGranted,
    ProtocolError,
    RangeNotLocked,
    StaleGeneration,
    WrongIncarnation,
)
from sofs.services.authority import opens, tables
from sofs.services.authority.blocked import Blocked

X, S = True, False


# Reclaim --------------------------------------------------------------------------------------


def test_every_share_mode_is_granted_persistent_and_reclaimed(client: Client, node: Node) -> None:
    for n, (access, share) in enumerate(itertools.product((1, 3, 8, 11, 16), range(8))):
        guid = client.guid()
        held = client.open(f"/f{n}", access, share, create_guid=guid)
        client.disconnect(held)
        result = client.reclaim(held, guid)
        assert (result.code, result.generation, result.info.ino) == ("", 2, held.info.ino)
        assert result.access == access


def test_a_reclaimed_handle_keeps_access_locks_and_share_mode(
    volume: Volume, client: Client, other: Client
) -> None:
    guid = client.guid()
    held = client.open("/f", RW, Share.READ, create_guid=guid)
    client.lock(held, LockRange(0, 10, X))
    client.disconnect(held)
    third = volume.node("c")
    assert client.reclaim(held, guid, third).code == ""
    assert volume.state.handle_node(held.handle) == third.incarnation
    with pytest.raises(opens.SharingViolation):
        other.open("/f", RW)
    theirs = other.open("/f", Access.READ, 7)
    with pytest.raises(LockNotGranted):
        other.lock(theirs, LockRange(5, 1))
    client.unlock(held, LockRange(0, 10))


def test_reclaims_are_refused_in_order(volume: Volume, client: Client, other: Client) -> None:
    guid = client.guid()
    held = client.open("/f", create_guid=guid)
    client.disconnect(held)

    def code(who: Client, handle: int, its_guid: bytes, principal: str = "alice") -> str:
        caller = m.Caller(who.id, principal, 1)
        items = [m.ReclaimItem(handle, its_guid)]
        reply = volume.run(lambda s: s.reclaim(caller, items, who.node.incarnation))
        return str(reply.results[0].code)

    assert code(client, held.handle, b"x" * 16) == "OBJECT_NAME_NOT_FOUND"
    assert code(client, held.handle, bytes(16)) == "OBJECT_NAME_NOT_FOUND"
    assert code(client, held.handle, b"") == "OBJECT_NAME_NOT_FOUND"
    assert code(client, 77, b"x" * 16) == "OBJECT_NAME_NOT_FOUND"
    assert code(client, held.handle, b"x" * 16, "mallory") == "OBJECT_NAME_NOT_FOUND"
    assert code(client, held.handle, guid, "mallory") == "ACCESS_DENIED"
    assert code(other, held.handle, guid) == "OBJECT_NAME_NOT_FOUND"
    assert code(client, 0, guid) == ""  # By the GUID alone.
    assert code(client, held.handle, guid) == ""  # Again, through the same node.


def test_a_reclaim_while_connected_elsewhere_detaches_there_first(
    volume: Volume, client: Client, other_node: Node
) -> None:
    guid = client.guid()
    held = client.open("/f", create_guid=guid)
    old = client.node.incarnation
    items = [m.ReclaimItem(held.handle, guid)]
    with pytest.raises(Blocked) as blocked:
        volume.run(lambda s: s.reclaim(client.caller(), items, other_node.incarnation))
    assert blocked.value.detach == [(held.handle, 1, old)]
    assert volume.state.handle_node(held.handle) == old
    assert client.reclaim(held, guid, other_node).generation == 2
    with pytest.raises(StaleGeneration):
        volume.run(lambda s: s.close(m.Close(client.caller(), held.handle, 1), old, NOW))


def test_a_reclaim_brings_the_token_when_nobody_must_be_asked(
    volume: Volume, client: Client, other: Client, other_node: Node
) -> None:
    guid = client.guid()
    client.write_file("/f", 3)
    held = client.open("/f", create_guid=guid)
    items = [m.ReclaimItem(held.handle, guid)]
    client.disconnect(held)
    blocked_by = volume.run(lambda s: s.reclaim(client.caller(), items, other_node.incarnation))
    assert blocked_by.grants == []  # The first node still holds DIRECT_RW.
    volume.run(lambda s: s.seal_node(client.node.incarnation, client.node.sequence))
    reply = volume.run(lambda s: s.reclaim(client.caller(), items, other_node.incarnation))
    assert [(g.mode, [w.generation for w in g.windows]) for g in reply.grants] == [(2, [3])]


def test_reclaim_after_close_expiry_or_force_close_finds_nothing(
    volume: Volume, client: Client
) -> None:
    guids = [client.guid() for _ in range(3)]
    held = [client.open(f"/f{n}", create_guid=guid) for n, guid in enumerate(guids)]
    client.close(held[0])
    client.disconnect(held[1])
    assert volume.run(lambda s: s.expire([h.handle for h in held], NOW)) == [held[1].handle]
    volume.clear(lambda: volume.run(lambda s: s.force_close(held[2].handle, NOW)))
    for reply, guid in zip(held, guids, strict=True):
        assert client.reclaim(reply, guid).code == "OBJECT_NAME_NOT_FOUND"
    with pytest.raises(FileClosed):
        volume.run(lambda s: s.force_close(held[2].handle, NOW))
    client.open("/f1", RWD, 0)


def test_delete_on_close_survives_reclaim_and_is_done_by_expiry(
    volume: Volume, client: Client
) -> None:
    guid = client.guid()
    held = client.open("/f", RWD, options=OpenOptions.DELETE_ON_CLOSE, create_guid=guid)
    client.disconnect(held)
    client.reclaim(held, guid)
    assert client.names("/") == ["f"]
    client.close(held)
    assert client.names("/") == []
    held = client.open("/f", RWD, options=OpenOptions.DELETE_ON_CLOSE)
    client.disconnect(held)
    volume.run(lambda s: s.expire([held.handle], NOW))
    assert client.names("/") == []


def test_a_directory_handle_fences_and_is_reclaimed(client: Client, other: Client) -> None:
    client.mkdir("/d")
    guid = client.guid()
    held = client.open("/d", 1, 0, Disposition.OPEN, OpenOptions.DIRECTORY, create_guid=guid)
    client.disconnect(held)
    with pytest.raises(FileNotAvailable):
        other.open("/d", 1, 7, Disposition.OPEN, OpenOptions.DIRECTORY)
    assert client.reclaim(held, guid).code == ""
    client.close(held)
    other.rmdir("/d")


def test_timeouts_are_stored_as_granted(volume: Volume, client: Client) -> None:
    replies = [client.open(f"/{ms}", timeout_ms=ms) for ms in (0, 5, 2**32 - 1)]
    assert [reply.timeout_ms for reply in replies] == [60_000, 5, 300_000]
    client.disconnect(*replies)
    assert volume.state.disconnected_handles() == [
        (reply.handle, reply.timeout_ms) for reply in replies
    ]


# Nodes ----------------------------------------------------------------------------------------


def register(volume: Volume, node: Node, *handles: m.BoundHandle) -> m.RegisterNodeReply:
    nonce = b"nonce-" + node.incarnation.rstrip(b"-")
    body = m.RegisterNode("n", node.incarnation, "n:2", nonce, list(handles))
    reply = volume.run(lambda s: s.register_node(body))
    assert isinstance(reply, m.RegisterNodeReply)
    return reply


def test_a_node_that_registers_again_keeps_what_it_reports(
    volume: Volume, client: Client, node: Node
) -> None:
    kept, omitted, stale = (client.open(f"/{n}") for n in range(3))
    node.extent(0)
    volume.run(lambda s: s.apply_commit(node.commit()))
    reply = register(
        volume, node, m.BoundHandle(kept.handle, 1), m.BoundHandle(stale.handle, 7),
        m.BoundHandle(99, 1),
    )  # fmt: skip
    assert (reply.log_id, reply.applied_sequence) == (node.log_id, 1)
    assert reply.lost_handles == [stale.handle, 99]
    assert [h for h, _ in volume.state.disconnected_handles()] == [omitted.handle, stale.handle]
    assert [(h, i) for h, _, i in volume.state.bound_handles()] == [(kept.handle, node.incarnation)]
    assert [(t.ino, t.mode) for t in reply.tokens] == [
        (h.info.ino, 2) for h in (kept, omitted, stale)
    ]
    assert volume.state.node_endpoint(node.incarnation) == "n:2"
    assert volume.state.node_name(node.incarnation) == "n"


def test_a_sealed_node_is_out_for_good(volume: Volume, client: Client, node: Node) -> None:
    held = client.open("/f")
    client.lock(held, LockRange(0, 1))
    assert volume.run(lambda s: s.seal_node(node.incarnation, 5)) == [held.handle]
    assert volume.run(lambda s: s.seal_node(node.incarnation, 5)) == []
    assert volume.state.live_nodes() == []
    assert volume.state.tokens_of(held.info.ino) == []
    assert len(volume.state.lock_table(held.info.ino, b"")[1]) == 1
    with pytest.raises(WrongIncarnation):
        register(volume, node)
    with pytest.raises(WrongIncarnation):
        volume.run(lambda s: s.disconnect([held.handle], node.incarnation))
    late = m.Commit(node.log_id, 0, 1)
    volume.run(lambda s: s.detached([held.handle], node.incarnation, late))
    volume.run(lambda s: s.token_returned(held.info.ino, node.incarnation, 1, late))


def test_a_node_with_another_nonce_is_refused(volume: Volume, node: Node) -> None:
    body = m.RegisterNode("a", node.incarnation, "", b"other")
    with pytest.raises(ProtocolError):
        volume.run(lambda s: s.register_node(body))
    with pytest.raises(ProtocolError):
        volume.run(lambda s: s.register_node(m.RegisterNode("a", b"short", "", b"n")))


def test_disconnect_leaves_alone_what_has_moved_on(
    volume: Volume, client: Client, other_node: Node
) -> None:
    guid = client.guid()
    held = client.open("/f", create_guid=guid)
    old = client.node.incarnation
    client.reclaim(held, guid, other_node)
    assert volume.run(lambda s: s.disconnect([held.handle], old)) == []
    stale = [m.BoundHandle(held.handle, 1)]
    assert volume.run(lambda s: s.disconnect(stale, other_node.incarnation)) == []
    assert volume.run(lambda s: s.disconnect([held.handle], other_node.incarnation)) == [
        held.handle
    ]


# Tokens ---------------------------------------------------------------------------------------


def acquire(volume: Volume, ino: int, mode: int, node: Node) -> m.Grant:
    grant = volume.run(lambda s: s.acquire_token(ino, mode, node.incarnation))
    assert isinstance(grant, m.Grant)
    return grant


def test_a_writer_is_alone_and_readers_are_many(
    volume: Volume, client: Client, node: Node, other_node: Node
) -> None:
    ino = client.write_file("/f", 3).info.ino
    third = volume.node("c")
    readers = [acquire(volume, ino, 1, n) for n in (node, other_node)]
    with pytest.raises(Blocked) as blocked:
        acquire(volume, ino, 2, third)
    assert [t.generation for t in blocked.value.recall] == [g.generation for g in readers]
    for token in blocked.value.recall:
        volume.run(lambda s, t=token: s.token_returned(*t, m.Commit()))
    writer = acquire(volume, ino, 2, third)
    assert writer.generation > readers[1].generation
    for mode in (1, 2):
        with pytest.raises(Blocked):
            acquire(volume, ino, mode, node)
    again = acquire(volume, ino, 1, third)
    assert (again.mode, again.generation) == (2, writer.generation + 1)
    volume.run(lambda s: s.token_returned(ino, third.incarnation, writer.generation, m.Commit()))
    assert len(volume.state.tokens_of(ino)) == 1  # An answer to an older recall frees nothing.


def test_tokens_are_for_files_that_exist(volume: Volume, client: Client, node: Node) -> None:
    with pytest.raises(opens.ObjectNameNotFound):
        acquire(volume, 2**63, 1, node)
    with pytest.raises(opens.FileIsADirectory):
        acquire(volume, 1, 1, node)
    with pytest.raises(InvalidParameter):
        acquire(volume, client.write_file("/f").info.ino, 0, node)


def test_extents_come_by_chunk(volume: Volume, client: Client, node: Node) -> None:
    ino = client.write_file("/f", 200).info.ino
    held = client.open("/f")
    assert held.grant is not None
    token = held.grant.generation
    for page in range(200, 4200, 200):
        packed = node.extent(page, 200)
        file = m.FileCommit(ino, token, 4096 * (page + 200), NOW, packed)
        volume.run(lambda s, f=file: s.apply_commit(node.commit(f)))
    grant = acquire(volume, ino, 2, node)
    assert grant.extents_through_page == 4096
    assert len(grant.extents) == 21 * 32 + 4096 * 8

    def fetch(first: int, pages: int, generation: int = grant.generation) -> m.ExtentsReply:
        body = m.FetchExtents(ino, generation, first, pages)
        reply = volume.run(lambda s: s.fetch_extents(body, node.incarnation))
        assert isinstance(reply, m.ExtentsReply)
        return reply

    rest = fetch(4096, 65_536)
    assert len(rest.extents) == 32 + (4200 - 4096) * 8
    assert [log.log_id for log in rest.logs] == [node.log_id]
    assert fetch(9999, 10).extents == b""
    with pytest.raises(StaleGeneration):
        fetch(0, 10, token)
    with pytest.raises(InvalidParameter):
        fetch(0, 65_537)
    with pytest.raises(StaleGeneration):
        volume.run(lambda s: s.fetch_extents(m.FetchExtents(2**64 - 1), node.incarnation))


# Locks ----------------------------------------------------------------------------------------


def test_locks_are_taken_all_or_none_and_seen_by_every_node(
    volume: Volume, client: Client, other: Client
) -> None:
    a, b = client.open("/f"), other.open("/f")
    acquire(volume, a.info.ino, 2, client.node)
    client.lock(a, LockRange(0, 10, X), LockRange(20, 10, S))
    tokens, table = volume.state.lock_table(a.info.ino, other.node.incarnation)
    assert [t.incarnation for t in tokens] == [client.node.incarnation]
    assert table == [m.HeldLock(a.handle, 0, 10, X), m.HeldLock(a.handle, 20, 10, S)]
    assert volume.state.lock_table(a.info.ino, client.node.incarnation)[0] == []
    with pytest.raises(LockNotGranted):
        other.lock(b, LockRange(100, 1, X), LockRange(5, 1, S))
    with pytest.raises(LockNotGranted):
        other.lock(b, LockRange(100, 5, X), LockRange(104, 5, X))
    other.lock(b, LockRange(20, 10, S))
    assert len(volume.state.lock_table(a.info.ino, b"")[1]) == 3
    client.lock(a, LockRange(0, 10, S))  # Stacks on its own exclusive lock.


def test_a_replayed_lock_is_one_lock(volume: Volume, client: Client) -> None:
    held = client.open("/f")
    body = m.Lock(client.caller(), held.handle, 1, [LockRange(0, 1, S)])
    for _ in range(3):
        client.send(body)
    assert len(volume.state.lock_table(held.info.ino, b"")[1]) == 1
    body = m.Unlock(client.caller(), held.handle, 1, [LockRange(0, 1)])  # type: ignore[assignment]
    for _ in range(3):
        client.send(body)
    with pytest.raises(RangeNotLocked):
        client.unlock(held, LockRange(0, 1))


def test_unlock_is_exact_and_all_or_none(volume: Volume, client: Client) -> None:
    held = client.open("/f")
    client.lock(held, LockRange(0, 10, S), LockRange(0, 10, S), LockRange(2**64 - 1, 1, X))
    for ranges in ([LockRange(0, 9)], [LockRange(0, 10), LockRange(5, 5)], [LockRange(0, 10)] * 3):
        with pytest.raises(RangeNotLocked):
            client.unlock(held, *ranges)
    assert len(volume.state.lock_table(held.info.ino, b"")[1]) == 3
    client.unlock(held, LockRange(2**64 - 1, 1))
    client.unlock(held, LockRange(0, 10))
    client.unlock(held, LockRange(0, 10))
    assert volume.state.lock_table(held.info.ino, b"")[1] == []


def test_locks_need_data_access_and_have_a_limit(client: Client) -> None:
    with pytest.raises(AccessDenied):
        client.lock(client.open("/f", Access.READ_ATTRIBUTES), LockRange(0, 1))
    held = client.open("/f")
    for n in range(HANDLE_LOCKS_MAX // 64):
        client.lock(held, *(LockRange(64 * n + i, 1, X) for i in range(64)))
    with pytest.raises(LimitExceeded):
        client.lock(held, LockRange(1 << 40, 1))


def test_close_drops_locks(client: Client, other: Client) -> None:
    a, b = client.open("/f"), other.open("/f")
    client.lock(a, LockRange(0, 1, X))
    client.close(a)
    other.lock(b, LockRange(0, 1, X))


# Clients and exactly once ---------------------------------------------------------------------


def test_clients_are_registered_once_and_belong_to_their_principal(
    volume: Volume, client: Client
) -> None:
    assert not volume.run(lambda s: s.register_client(client.id, "alice"))
    with pytest.raises(AccessDenied):
        volume.run(lambda s: s.register_client(client.id, "mallory"))
    with pytest.raises(AccessDenied):
        volume.run(lambda s: s.recall_result(m.Caller(client.id, "mallory", 1)))
    with pytest.raises(InvalidParameter):
        volume.run(lambda s: s.register_client(b"short", "alice"))
    with pytest.raises(Expired):
        volume.run(lambda s: s.recall_result(m.Caller(b"?" * 16, "alice", 1)))


def test_the_number_of_clients_is_limited(
    volume: Volume, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CLIENTS_MAX", 1)
    with pytest.raises(LimitExceeded):
        volume.run(lambda s: s.register_client(b"2" * 16, "alice"))


def test_the_number_of_handles_is_limited(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opens, "CLIENT_HANDLES_MAX", 1)
    held = client.open("/f")
    with pytest.raises(LimitExceeded):
        client.open("/f")
    client.close(held)
    client.open("/f")


def test_answers_are_kept_until_acknowledged_and_then_expired(
    volume: Volume, client: Client
) -> None:
    client.acknowledges = False
    body = m.Mkdir(client.caller(), "/d")
    first = client.send(body)
    assert client.send(body) == first
    client.acknowledges = True
    for n in range(tables.RESULTS_DROPPED_AT_ONCE - 2):
        client.mkdir(f"/e{n}")
        assert client.send(body) == first, "still there"
    client.mkdir("/last")
    with pytest.raises(Expired):
        client.send(body)
    kept = volume.database.execute("SELECT count(*) FROM result")
    assert list(kept) == [(1,)], "only that of the last one"
    for op_id in (0, 2**62 + 1):
        with pytest.raises(InvalidParameter):
            volume.run(lambda s, o=op_id: s.recall_result(m.Caller(client.id, "alice", o)))


def test_unacknowledged_operations_are_limited(volume: Volume, client: Client) -> None:
    client.mkdir("/d")
    far = m.Caller(client.id, "alice", CLIENT_RESULTS_MAX + 1, 0)
    with pytest.raises(LimitExceeded):
        volume.run(lambda s: s.recall_result(far))
    far.acked_below = 2
    assert volume.run(lambda s: s.recall_result(far)) is None
    # The volume notes what is acknowledged later; who settles goes by what the caller says.
    settling = m.Caller(client.id, "alice", 3, 2)
    assert volume.run(lambda s: s.abandon(settling, far.op_id - 1)) == m.AbandonReply(False)
    with pytest.raises(InvalidParameter):
        volume.run(lambda s: s.abandon(settling, far.op_id + 1))
    far.acked_below = far.op_id + 1  # Nobody has an answer that he asks for.
    with pytest.raises(Expired):
        volume.run(lambda s: s.recall_result(far))


def test_refusals_leave_no_record(volume: Volume, client: Client, other: Client) -> None:
    body = m.Unlink(client.caller(), "/f")
    with pytest.raises(opens.ObjectNameNotFound):
        client.send(body)
    other.write_file("/f")
    client.send(body)
    assert client.names("/") == []


def test_an_abandoned_operation_never_happens(volume: Volume, client: Client) -> None:
    client.acknowledges = False
    lost, done = m.Mkdir(client.caller(), "/lost"), m.Mkdir(client.caller(), "/done")
    client.send(done)

    def abandon(target: int) -> bool:
        caller = client.caller()
        reply = volume.once(caller, lambda s: s.abandon(caller, target))
        assert isinstance(reply, m.AbandonReply)
        return reply.executed

    assert not abandon(lost.caller.op_id)
    assert not abandon(lost.caller.op_id)
    assert abandon(done.caller.op_id)
    with pytest.raises(Abandoned):
        client.send(lost)
    assert client.names("/") == ["done"]
    for target in (0, 2**62 + 1, client.op_id + 3, 5000):
        with pytest.raises(InvalidParameter):
            abandon(target)
    client.acknowledges = True
    client.mkdir("/e")
    with pytest.raises(Expired):
        abandon(1)


def test_a_write_is_abandoned_in_the_stored_window(
    volume: Volume, client: Client, node: Node, other: Client
) -> None:
    held = client.open("/f")
    ino = held.info.ino
    assert held.grant is not None
    packed = node.extent(0)
    window = m.Window(held.handle, 1, 2, results=[m.AppendResult(1, 512)])
    file = m.FileCommit(ino, held.grant.generation, 4096, NOW, packed, [window])
    volume.run(lambda s: s.apply_commit(node.commit(file)))

    def abandon(op_sequence: int) -> m.AbandonReply:
        reply = volume.clear(
            lambda: volume.run(
                lambda s: s.abandon_write(
                    client.caller(), held.handle, 1, op_sequence, node.incarnation
                )
            )
        )
        assert isinstance(reply, m.AbandonReply)
        return reply

    assert abandon(1) == m.AbandonReply(True, 512)
    assert len(volume.recalled) == 1
    assert abandon(2) == abandon(2) == m.AbandonReply(False)
    grant = acquire(volume, ino, 2, node)
    assert (grant.windows[0].watermark, grant.windows[0].abandoned) == (3, [2])


def test_ending_a_client_closes_all_it_has(volume: Volume, client: Client, other: Client) -> None:
    client.open("/f", RWD, options=OpenOptions.DELETE_ON_CLOSE)
    client.open("/g")
    volume.clear(lambda: volume.run(lambda s: s.end_client(client.caller(), NOW)))
    assert other.names("/") == ["g"]
    assert volume.state.ended_clients() == [client.id]
    with pytest.raises(Expired):
        client.mkdir("/d")
    first = m.Caller(client=client.id, principal=client.caller().principal, op_id=1)
    with pytest.raises(Expired):  # A late copy of its first operation is not a new client's.
        volume.run(lambda s: s.recall_result(first))


def test_idle_clients_can_be_forgotten_but_not_while_they_hold_files(
    volume: Volume, client: Client
) -> None:
    held = client.open("/f")
    assert volume.state.clients_without_handles() == []
    assert not volume.run(lambda s: s.forget_client(client.id))
    client.close(held)
    assert volume.state.clients_without_handles() == [client.id]
    assert volume.run(lambda s: s.forget_client(client.id))


# Commits and tails ----------------------------------------------------------------------------


def test_a_commit_is_applied_once_and_in_order(volume: Volume, client: Client, node: Node) -> None:
    held = client.open("/f")
    assert held.grant is not None
    ino, token = held.info.ino, held.grant.generation
    window = m.Window(held.handle, 1, 3)
    packed = node.extent(0, 2) + node.extent(1)
    commit = node.commit(m.FileCommit(ino, token, 8192, NOW + 1, packed, [window]))
    for _ in range(2):
        volume.run(lambda s: s.apply_commit(commit))
    assert client.stat("/f").size == 8192
    assert volume.state.log_of(node.incarnation) == (node.log_id, 2)
    assert sum(volume.state.live_pages(node.log_id).values()) == 2
    for bad in (m.Commit(node.log_id, 1, 5), m.Commit(node.log_id, 3, 5), m.Commit(99, 0, 5)):
        with pytest.raises(ProtocolError):
            volume.run(lambda s, c=bad: s.apply_commit(c))
    volume.run(lambda s: s.apply_commit(m.Commit()))


def test_a_commit_without_the_token_or_beyond_the_file_is_refused(
    volume: Volume, client: Client, node: Node, other: Client
) -> None:
    held = client.open("/f")
    assert held.grant is not None
    ino, token = held.info.ino, held.grant.generation
    packed = node.extent(0)
    bad = [
        m.FileCommit(ino, token + 1, 4096, NOW, packed),
        m.FileCommit(ino, token, 0, NOW, packed),
        m.FileCommit(ino, token, 2**63 - 1, NOW, packed),
        m.FileCommit(ino, token, 4096, NOW, packed[:-1]),
        m.FileCommit(ino, token, 4096, NOW, packed[:10]),
        m.FileCommit(ino, token, 4096, NOW, other.node.extent(0)),
        m.FileCommit(ino, token, 4096, NOW, b"", [m.Window(2**63)]),
        m.FileCommit(ino, token, 4096, NOW, b"", [m.Window(held.handle, 1, 0)]),
        m.FileCommit(ino, token, 4096, NOW, b"", [m.Window(held.handle, 1, 1, bytes(9999))]),
    ]
    for file in bad:
        with pytest.raises(ProtocolError):
            volume.run(lambda s, f=file: s.apply_commit(m.Commit(node.log_id, 0, 1, [f])))
    good = m.FileCommit(ino, token, 4096, NOW, packed)
    volume.run(lambda s: s.apply_commit(m.Commit(node.log_id, 0, 1, [good])))
    smaller = m.FileCommit(ino, token, 0, NOW, node.extent(0))
    with pytest.raises(ProtocolError):
        volume.run(lambda s: s.apply_commit(m.Commit(node.log_id, 1, 2, [smaller])))


def test_a_commit_for_a_file_that_is_gone_advances_the_log(
    volume: Volume, client: Client, node: Node
) -> None:
    held = client.open("/f")
    other = client.open("/g")
    assert held.grant is not None
    client.unlink("/f")
    client.close(held)
    windows = [m.Window(held.handle, 1, 2), m.Window(other.handle, 1, 2)]
    file = m.FileCommit(held.info.ino, held.grant.generation, 4096, NOW, node.extent(0), windows)
    volume.run(lambda s: s.apply_commit(node.commit(file)))
    assert volume.state.log_of(node.incarnation) == (node.log_id, 1)
    assert volume.state.live_pages(node.log_id) == {}
    assert acquire(volume, other.info.ino, 2, node).windows[0].watermark == 2


def test_a_sealed_log_takes_no_commit(volume: Volume, node: Node) -> None:
    volume.run(lambda s: s.seal_node(node.incarnation, 5))
    with pytest.raises(opens_error("FENCED")):
        volume.run(lambda s: s.apply_commit(m.Commit(node.log_id, 0, 5)))


def opens_error(code: str) -> type[Exception]:
    from sofs.errors import all_errors

    return all_errors()[code]


def test_a_window_of_an_earlier_generation_is_merged(
    volume: Volume, client: Client, node: Node, other_node: Node
) -> None:
    guid = client.guid()
    held = client.open("/f", create_guid=guid)
    assert held.grant is not None
    token = held.grant.generation
    ino = held.info.ino
    client.disconnect(held)
    client.reclaim(held, guid, other_node)
    window = m.Window(held.handle, 1, 4, results=[m.AppendResult(3, 9)])
    file = m.FileCommit(ino, token, 4096, NOW, node.extent(0), [window])
    future = m.FileCommit(ino, token, 4096, NOW, b"", [m.Window(held.handle, 9, 50)])
    commit = node.commit(file, future)
    volume.run(lambda s: s.token_returned(ino, node.incarnation, token, commit))
    grant = acquire(volume, ino, 2, other_node)
    assert [(w.generation, w.watermark, w.results) for w in grant.windows] == [
        (2, 4, [m.AppendResult(3, 9)])
    ]


def test_replaying_a_tail_equals_committing_it(client: Client) -> None:
    outcomes = []
    for replay in (False, True):
        volume = Volume()
        node = volume.node("a")
        user = volume.client("one", node)
        held = user.open("/f")
        assert held.grant is not None
        ino, token = held.info.ino, held.grant.generation
        records = [
            node.record(ino, page, 2, handle=held.handle, op_sequence=n + 1, token=token)
            for n, page in enumerate((0, 5, 1, 4, 0))
        ]
        if replay:
            assert volume.run(lambda s, r=records: s.replay_tail(1, r)) == 5
        else:
            packed = b"".join(
                m_extent(header.first_page, sequence, segment, offset, sums)
                for header, sequence, segment, offset, sums in records
            )
            window = m.Window(held.handle, 1, 6)
            file = m.FileCommit(ino, token, 7 * 4096, records[-1][0].mtime_ns, packed, [window])
            commit = node.commit(file)
            volume.run(lambda s, c=commit: s.apply_commit(c))
        grant = acquire(volume, ino, 2, node)
        outcomes.append((grant, volume.state.live_pages(1), volume.state.log_of(node.incarnation)))
        volume.check()
        volume.close()
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0].info.size == 7 * 4096


def m_extent(page: int, sequence: int, segment: int, offset: int, sums: list[int]) -> bytes:
    from sofs.core.extents import pack_extent

    return pack_extent(page, 1, segment, sequence, offset, sums)


def test_a_tail_takes_only_what_counts(
    volume: Volume, client: Client, node: Node, other_node: Node
) -> None:
    held = client.open("/f")
    gone = client.open("/gone")
    reader = client.open("/r", 1)
    assert held.grant is not None
    assert gone.grant is not None
    assert reader.grant is not None
    ino, token = held.info.ino, held.grant.generation
    records = [node.record(ino, 0, handle=held.handle, token=token)]
    file = m.FileCommit(ino, token, 4096, NOW, m_extent(0, 1, 0, 4096, [1]))
    volume.run(lambda s: s.apply_commit(node.commit(file)))
    client.unlink("/gone")
    client.close(gone)
    records += [
        node.record(ino, 9, handle=held.handle, op_sequence=2, token=token - 1),  # Older token.
        node.record(ino, 8, handle=held.handle, op_sequence=3, token=token, flags=1),  # Detached.
        node.record(gone.info.ino, 0, token=gone.grant.generation),
        node.record(reader.info.ino, 0, handle=reader.handle, token=reader.grant.generation),
        node.record(ino, 1, handle=99, op_sequence=1, token=token),  # Its handle is gone: it stays.
        node.record(ino, 2, handle=held.handle, op_sequence=4, token=token, op=DataOp.APPEND),
        node.record(ino, 0, handle=held.handle, op_sequence=5, token=token, op=DataOp.ABANDON),
        node.record(ino, 2, handle=held.handle, generation=2, op_sequence=6, token=token, length=5),
        node.record(999, 0, token=token),
    ]

    def seal() -> int:
        def rules(state):  # type: ignore[no-untyped-def]
            n_applied = state.replay_tail(node.log_id, records)
            state.seal_node(node.incarnation, node.sequence)
            return n_applied

        return int(volume.run(rules))

    assert seal() == 4
    grant = acquire(volume, ino, 2, other_node)
    assert grant.info.size == 3 * 4096
    guid = client.id[:8] + (1).to_bytes(8, "big")
    client.reclaim(held, guid, other_node)
    window = acquire(volume, ino, 2, other_node).windows[0]
    assert (window.watermark, window.bitmap, window.abandoned) == (1, b"\x18", [5])
    assert window.results == [m.AppendResult(4, 8192)]
    assert volume.state.log_of(node.incarnation) == (node.log_id, node.sequence)


def test_segments_without_live_pages_are_found_once_the_log_is_sealed(
    volume: Volume, client: Client, node: Node, other: Client
) -> None:
    for _ in range(8):
        node.extent(0)
    client.write_file("/f", 4)
    client.write_file("/g", 4)
    assert volume.state.live_pages(node.log_id) == {1: 8}
    other.write_file("/f", 1, Disposition.OVERWRITE)
    other.unlink("/g")
    assert volume.state.dead_below(99, {}) == {}
    volume.run(lambda s: s.seal_node(node.incarnation, node.sequence))
    assert volume.state.dead_below(99, {}) == {node.log_id: (node.incarnation, 99, True)}
