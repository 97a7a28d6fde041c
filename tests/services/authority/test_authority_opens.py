from __future__ import annotations

import itertools

import pytest
from authority_harness import NOW, RW, RWD, Client, Volume

from sofs.core import messages as m
from sofs.core.messages import Access, Disposition, LockRange, OpenOptions, Share
from sofs.core.share import denies, excludes, needs
from sofs.errors import (
    AccessDenied,
    CannotDelete,
    DeletePending,
    DirectoryNotEmpty,
    DuplicateObjectId,
    FileClosed,
    FileIsADirectory,
    FileLockConflict,
    FileNotAvailable,
    InvalidParameter,
    NotADirectory,
    ObjectNameCollision,
    ObjectNameNotFound,
    ProtocolError,
    SharingViolation,
    StaleGeneration,
    WrongIncarnation,
)
from sofs.services.authority.blocked import Blocked

READ = Access.READ
STAT = Access.READ_ATTRIBUTES
DELETE_ON_CLOSE = OpenOptions.DELETE_ON_CLOSE


def test_dispositions_on_a_missing_and_an_existing_name(client: Client) -> None:
    for disposition in (Disposition.OPEN, Disposition.OVERWRITE):
        with pytest.raises(ObjectNameNotFound):
            client.open("/f", disposition=disposition)
    for n, disposition in enumerate(
        (Disposition.CREATE, Disposition.OPEN_IF, Disposition.OVERWRITE_IF)
    ):
        reply = client.open(f"/f{n}", disposition=disposition)
        assert reply.action == m.CreateAction.CREATED
    with pytest.raises(ObjectNameCollision):
        client.open("/f0", disposition=Disposition.CREATE)
    assert client.open("/f0").action == m.CreateAction.OPENED
    assert client.open("/f0", disposition=Disposition.OVERWRITE).action == 3
    assert client.open("/f1", disposition=Disposition.OVERWRITE_IF).action == 3


def test_opens_that_make_no_sense_are_refused(client: Client) -> None:
    client.mkdir("/d")
    client.write_file("/f")
    bad: list[tuple[type[Exception], str, dict[str, int]]] = [
        (InvalidParameter, "/x", {"access": 0}),
        (InvalidParameter, "/x", {"access": 64}),
        (InvalidParameter, "/x", {"share": 8}),
        (InvalidParameter, "/x", {"options": 8}),
        (InvalidParameter, "/x", {"attributes": 16}),
        (InvalidParameter, "/x", {"disposition": 9}),
        (InvalidParameter, "/x", {"create_guid": b"short"}),  # type: ignore[dict-item]
        (InvalidParameter, "/x", {"app_instance": b"short"}),  # type: ignore[dict-item]
        (AccessDenied, "/x", {"options": DELETE_ON_CLOSE}),
        (FileIsADirectory, "/d", {}),
        (FileIsADirectory, "/d", {"options": 2, "disposition": 1}),
        (NotADirectory, "/f", {"options": 2, "disposition": 1}),
        (NotADirectory, "/f/x", {}),
        (ObjectNameNotFound, "/nothing/x", {}),
        (AccessDenied, "/", {"access": Access.DELETE, "options": 2, "disposition": 1}),
    ]
    for error, path, more in bad:
        with pytest.raises(error):
            client.open(path, **more)  # type: ignore[arg-type]
    assert client.names("/") == ["d", "f"]


def test_an_unregistered_or_sealed_node_gets_no_open(volume: Volume, client: Client) -> None:
    open_ = m.Open(client.caller(), "/f", RW, 7, Disposition.CREATE)
    with pytest.raises(WrongIncarnation):
        volume.run(lambda s: s.open(open_, b"x" * 16, NOW))
    volume.run(lambda s: s.seal_node(client.node.incarnation, 0))
    with pytest.raises(WrongIncarnation):
        volume.run(lambda s: s.open(open_, client.node.incarnation, NOW))


def test_share_modes_exclude_in_both_directions(client: Client, other: Client) -> None:
    client.close(client.open("/f"))
    accesses = [READ, Access.WRITE, Access.APPEND, Access.DELETE, RW, RWD, STAT]
    for first, second in itertools.product(accesses, accesses):
        for share in range(8):
            for mine, theirs in ((share, 7), (7, share)):
                held = client.open("/f", first, mine)
                expected = excludes(
                    needs(first), denies(first, mine), needs(second), denies(second, theirs)
                )
                try:
                    other.close(other.open("/f", second, theirs))
                    refused = False
                except SharingViolation:
                    refused = True
                assert refused == expected
                client.close(held)


def test_a_stat_open_with_share_none_blocks_nobody(client: Client, other: Client) -> None:
    held = client.open("/f", STAT, Share.NONE)
    other.open("/f", RWD, Share.NONE)
    assert client.open("/f", STAT, Share.NONE).handle > held.handle


def test_a_replayed_open_gives_its_first_answer_and_one_handle(
    volume: Volume, client: Client
) -> None:
    body = m.Open(client.caller(), "/f", RW, 7, Disposition.CREATE, 0, client.guid())
    first = client.send(body)
    again = client.send(body)
    assert first.grant is not None
    first.grant = None
    assert again == first
    assert volume.database.one("SELECT count(*) FROM handle")[0] == 1


def test_a_create_guid_names_one_open(client: Client, other: Client) -> None:
    guid = client.guid()
    held = client.open("/f", create_guid=guid)
    with pytest.raises(DuplicateObjectId):
        client.open("/f", create_guid=guid)
    other.open("/f", create_guid=guid)  # Another client's GUIDs are its own.
    client.disconnect(held)
    with pytest.raises(FileNotAvailable):
        client.open("/g", create_guid=guid)
    for _ in range(2):
        client.open("/h", create_guid=bytes(16))


def test_the_sole_opener_gets_the_token_at_once(client: Client, other: Client) -> None:
    created = client.open("/f")
    assert created.grant is not None
    assert created.grant.mode == m.TokenMode.DIRECT_RW
    assert [w.handle for w in created.grant.windows] == [created.handle]
    assert other.open("/f", READ).grant is None
    again = client.open("/f", READ)
    assert again.grant is not None
    assert again.grant.generation == created.grant.generation
    assert [w.handle for w in again.grant.windows] == [again.handle]
    assert client.open("/g", STAT).grant is None
    assert client.open("/g", Access.DELETE).grant is None


def test_a_reader_is_upgraded_when_it_is_alone(client: Client) -> None:
    client.write_file("/f", 3)
    reader = client.open("/f", READ)
    writer = client.open("/f")
    assert reader.grant is not None
    assert writer.grant is not None
    assert (reader.grant.mode, writer.grant.mode) == (1, 2)
    assert writer.grant.generation > reader.grant.generation
    assert writer.grant.extents == reader.grant.extents != b""
    assert writer.grant.extents_through_page > 2**40
    assert [log.log_id for log in writer.grant.logs] == [client.node.log_id]


def test_overwrite_takes_all_tokens_back_first_even_the_askers(
    volume: Volume, client: Client, other: Client
) -> None:
    client.write_file("/f", 3)
    held = client.open("/f", READ)
    other.open("/f", READ)
    body = m.Open(client.caller(), "/f", RW, 7, Disposition.OVERWRITE, 0, client.guid())
    with pytest.raises(Blocked) as blocked:
        volume.run(lambda s: s.open(body, client.node.incarnation, NOW))
    assert {t.incarnation for t in blocked.value.recall} == set(volume.nodes)
    reply = client.send(body)
    assert reply.info.size == 0
    assert reply.grant is not None
    assert reply.grant.extents == b""
    assert client.close(held).info.size == 0


def test_read_only_files(client: Client) -> None:
    client.open("/f", attributes=1)  # The creator may write.
    for access in (Access.WRITE, Access.APPEND):
        with pytest.raises(AccessDenied):
            client.open("/f", access)
    with pytest.raises(AccessDenied):
        client.open("/f", READ, disposition=Disposition.OVERWRITE)
    with pytest.raises(CannotDelete):
        client.open("/f", READ | Access.DELETE, options=DELETE_ON_CLOSE)
    with pytest.raises(CannotDelete):
        client.open("/new", RWD, options=DELETE_ON_CLOSE, attributes=1)
    client.open("/f", READ | Access.DELETE)
    with pytest.raises(CannotDelete):
        client.unlink("/f")
    with pytest.raises(AccessDenied):
        client.write_file("/f", 1, Disposition.OVERWRITE)


def test_handle_operations_need_the_right_client_node_and_generation(
    volume: Volume, client: Client, other: Client
) -> None:
    held = client.open("/f")
    for caller, handle in ((other, held.handle), (client, 99), (client, 2**64 - 1)):
        with pytest.raises(FileClosed):
            caller.send(m.Close(caller.caller(), handle, 1))
    with pytest.raises(StaleGeneration):
        client.send(m.Close(client.caller(), held.handle, 2))
    client.disconnect(held)
    with pytest.raises(StaleGeneration):
        client.close(held)


# Closing, deleting -----------------------------------------------------------------------------


def test_a_close_is_once_and_the_handle_is_gone(volume: Volume, client: Client) -> None:
    held = client.open("/f")
    body = m.Close(client.caller(), held.handle, 1, m.Commit(), held.grant.generation)  # type: ignore[union-attr]
    assert client.send(body) == client.send(body)
    assert volume.state.tokens_of(held.info.ino) == []
    with pytest.raises(FileClosed):
        client.close(held)
    assert client.names("/") == ["f"]


def test_delete_on_close_deletes_at_the_last_close(client: Client, other: Client) -> None:
    a = client.open("/f", RWD, options=DELETE_ON_CLOSE)
    b = other.open("/f", READ)
    client.close(a)
    with pytest.raises(DeletePending):
        client.open("/f", READ)
    with pytest.raises(DeletePending):
        client.stat("/f")
    other.close(b)
    assert client.names("/") == []


def test_two_delete_on_close_handles_delete_once(volume: Volume, client: Client) -> None:
    a = client.open("/f", RWD, options=DELETE_ON_CLOSE)
    b = client.open("/f", RWD, options=DELETE_ON_CLOSE)
    client.disconnect(a)
    volume.run(lambda s: s.expire([a.handle], NOW))
    assert client.names("/") == ["f"]
    client.close(b)
    assert client.names("/") == []


def test_disposition_is_set_and_cleared_through_a_handle(client: Client, other: Client) -> None:
    a = client.open("/f", RWD)

    def disposition(wish: int, reply: m.OpenReply = a) -> None:
        client.send(
            m.SetInfo(client.caller(), "", reply.handle, reply.generation, delete_on_close=wish)
        )

    disposition(1)
    with pytest.raises(DeletePending):
        other.open("/f", READ)
    disposition(2)
    b = other.open("/f", READ)
    with pytest.raises(AccessDenied):
        other.send(m.SetInfo(other.caller(), "", b.handle, 1, delete_on_close=1))
    other.unlink("/f")
    disposition(2)  # Does not take an unlink back.
    client.close(a)
    other.close(b)
    assert client.names("/") == []


def test_unlink_of_an_open_file_waits_for_the_last_close(client: Client, other: Client) -> None:
    a = client.open("/f", RW, Share.READ | Share.WRITE)
    with pytest.raises(SharingViolation):
        other.unlink("/f")
    client.close(a)
    a = client.open("/f")
    other.unlink("/f")
    assert client.names("/") == ["f"]
    for again in (lambda: other.unlink("/f"), lambda: other.open("/f"),
                  lambda: other.rename("/f", "/g"), lambda: other.write_file("/f")):  # fmt: skip
        with pytest.raises(DeletePending):
            again()
    client.close(a)
    assert client.names("/") == []
    assert other.open("/f").action == m.CreateAction.CREATED


def test_a_replayed_delete_does_not_delete_the_next_file(client: Client) -> None:
    client.acknowledges = False
    client.write_file("/f")
    body = m.Unlink(client.caller(), "/f")
    client.send(body)
    client.write_file("/f")
    client.send(body)
    assert client.names("/") == ["f"]


def test_a_byte_range_locked_file_can_be_deleted_and_overwritten_by_open(
    client: Client, other: Client
) -> None:
    a = client.open("/f")
    client.lock(a, LockRange(0, 10, True))
    assert other.open("/f", disposition=Disposition.OVERWRITE).info.size == 0
    other.unlink("/f")


def test_directories_open_and_delete(client: Client, other: Client) -> None:
    client.mkdir("/d")
    d = client.open("/d", READ | Access.DELETE, 0, Disposition.OPEN, OpenOptions.DIRECTORY)
    assert d.grant is None
    with pytest.raises(SharingViolation):
        other.rmdir("/d")
    with pytest.raises(SharingViolation):
        other.open("/d", READ, 7, Disposition.OPEN, OpenOptions.DIRECTORY)
    client.write_file("/d/f")
    with pytest.raises(DirectoryNotEmpty):
        client.send(m.SetInfo(client.caller(), "", d.handle, 1, delete_on_close=1))
    client.unlink("/d/f")
    client.send(m.SetInfo(client.caller(), "", d.handle, 1, delete_on_close=1))
    with pytest.raises(DeletePending):
        client.write_file("/d/f")
    with pytest.raises(DeletePending):
        client.mkdir("/d")
    client.close(d)
    assert client.names("/") == []


def test_a_directory_with_entries_outlives_delete_on_close(client: Client) -> None:
    client.mkdir("/d")
    d = client.open("/d", READ | Access.DELETE, 7, Disposition.OPEN,
                    OpenOptions.DIRECTORY | DELETE_ON_CLOSE)  # fmt: skip
    client.write_file("/d/f")
    client.close(d)
    assert client.names("/d") == ["f"]


def test_times_and_attributes(volume: Volume, client: Client, other: Client) -> None:
    client.write_file("/f")
    info = client.send(
        m.SetInfo(client.caller(), "/f", 0, 0, True, 2, -5, 7, 9)
    ).info  # fmt: skip
    assert (info.attributes, info.created_ns, info.modified_ns, info.accessed_ns) == (2, -5, 7, 9)
    assert client.stat("/f") == info
    with pytest.raises(InvalidParameter):
        client.send(m.SetInfo(client.caller(), "/f", 0, 0, True, 16))
    with pytest.raises(InvalidParameter):
        client.send(m.SetInfo(client.caller(), "/f", delete_on_close=1))
    held = client.open("/f", READ)
    with pytest.raises(AccessDenied):
        client.send(m.SetInfo(client.caller(), "", held.handle, 1, modified_ns=1))
    writer = other.open("/f", Access.WRITE)
    volume.run(lambda s: s.token_returned(*s.tokens_of(held.info.ino)[0], m.Commit()))
    volume.run(lambda s: s.acquire_token(held.info.ino, m.TokenMode.DIRECT_RW,
                                         other.node.incarnation))  # fmt: skip
    other.send(m.SetInfo(other.caller(), "", writer.handle, 1, modified_ns=1))
    assert volume.recalled[-1].incarnation == other.node.incarnation


# Sharing the file with absent clients ---------------------------------------------------------


def test_a_disconnected_handle_fences_its_file_even_for_compatible_opens(
    client: Client, other: Client
) -> None:
    guid = client.guid()
    held = client.open("/f", READ, 7, create_guid=guid)
    client.disconnect(held)
    contenders = [
        lambda: other.open("/f", READ, 7),
        lambda: other.open("/f", RW, 0, Disposition.OVERWRITE),
        lambda: other.open("/f", STAT, 7, Disposition.OVERWRITE),
        lambda: client.open("/f", READ, 7),  # Its own orphan fences it too.
        lambda: other.unlink("/f"),
        lambda: other.rename("/f", "/g"),
        lambda: other.write_file("/f", 1, Disposition.OVERWRITE_IF),
        lambda: other.volume.run(
            lambda s: s.read_file(m.ReadFile("/f", 0, 1), other.node.incarnation)
        ),
    ]
    for contend in contenders:
        with pytest.raises(FileNotAvailable):
            contend()
    other.close(other.open("/f", STAT))
    assert other.stat("/f").ino == held.info.ino
    assert client.reclaim(held, guid).code == ""
    other.open("/f", READ)


def test_rename_onto_a_fenced_or_open_file_is_refused(client: Client, other: Client) -> None:
    held = client.open("/f")
    other.write_file("/g")
    with pytest.raises(AccessDenied):
        other.rename("/g", "/f", True)
    client.disconnect(held)
    with pytest.raises(FileNotAvailable):
        other.rename("/g", "/f", True)


def test_an_absent_stat_open_fences_nothing(client: Client, other: Client) -> None:
    held = client.open("/f", STAT, 0)
    client.disconnect(held)
    other.open("/f", RWD, 0)


def test_a_newer_application_instance_takes_the_file_over(
    volume: Volume, client: Client, other: Client
) -> None:
    app = b"i" * 16
    old = client.open("/f", RW, 0, app_instance=app)
    client.lock(old, LockRange(0, 1, True))
    body = m.Open(other.caller(), "/f", RW, 0, 1, 0, other.guid(), app)
    with pytest.raises(Blocked) as blocked:
        volume.run(lambda s: s.open(body, other.node.incarnation, NOW))
    assert [(h.handle, h.incarnation) for h in blocked.value.detach] == [
        (old.handle, client.node.incarnation)
    ]
    assert blocked.value.code == "FILE_FORCED_CLOSED"
    new = other.send(body)
    assert new.handle != old.handle
    with pytest.raises(FileClosed):
        client.close(old)
    client.open("/g", RW, 0, app_instance=app)
    with pytest.raises(SharingViolation):  # The same client does not take over from itself.
        client.open("/g", RW, 0, app_instance=app)


def test_a_take_over_of_a_file_that_dies_with_its_old_open_creates_anew(
    client: Client, other: Client
) -> None:
    app = b"i" * 16
    old = client.open("/f", RWD, 0, options=DELETE_ON_CLOSE, app_instance=app)
    new = other.open("/f", RWD, 0, app_instance=app)
    assert new.action == m.CreateAction.CREATED
    assert new.info.ino != old.info.ino


# Compound calls -------------------------------------------------------------------------------


def test_write_file_replaces_contents_and_leaves_no_handle(
    volume: Volume, client: Client, other: Client
) -> None:
    client.write_file("/f", 5)
    with pytest.raises(ObjectNameCollision):
        client.write_file("/f", 1)
    with pytest.raises(ObjectNameNotFound):
        client.write_file("/g", 1, Disposition.OVERWRITE)
    with pytest.raises(InvalidParameter):
        client.write_file("/f", 1, Disposition.OPEN)
    assert other.write_file("/f", 2, Disposition.OVERWRITE_IF).info.size == 8192
    assert volume.database.one("SELECT count(*) FROM handle")[0] == 0
    assert volume.state.live_pages(client.node.log_id) == {0: 0}
    assert other.write_file("/f", 0, Disposition.OVERWRITE).info.size == 0


def test_write_file_needs_the_share_mode_of_open_handles(client: Client, other: Client) -> None:
    held = client.open("/f", READ, Share.READ)
    with pytest.raises(SharingViolation):
        other.write_file("/f", 1, Disposition.OVERWRITE)
    client.close(held)
    held = client.open("/f")
    client.lock(held, LockRange(0, 1))
    with pytest.raises(FileLockConflict):
        other.write_file("/f", 1, Disposition.OVERWRITE)
    client.unlock(held, LockRange(0, 1))
    other.write_file("/f", 1, Disposition.OVERWRITE)


def test_write_file_names_records_of_its_own_log_only(client: Client, other: Client) -> None:
    packed = other.node.extent(0)
    body = m.WriteFile(client.caller(), "/f", 2, 0, 4096, packed, other.node.log_id)
    with pytest.raises(ProtocolError):
        client.send(body)
    body.log_id = client.node.log_id
    with pytest.raises(ProtocolError):
        client.send(body)


def test_read_file_is_a_momentary_view(volume: Volume, client: Client, other: Client) -> None:
    client.write_file("/f", 5)

    def view(who: Client, offset: int = 0, length: int = 1 << 20) -> m.ReadFileReply:
        reply = volume.run(
            lambda s: s.read_file(m.ReadFile("/f", offset, length), who.node.incarnation)
        )
        assert isinstance(reply, m.ReadFileReply)
        return reply

    whole = view(other)
    assert whole.grant is not None
    assert (whole.grant.mode, whole.info.size) == (0, 5 * 4096)
    part = view(other, 4096, 4097)
    assert part.grant is not None
    assert len(part.grant.extents) == 32 + 2 * 8
    assert view(other, 1 << 60).grant is not None
    held = client.open("/f", RW)
    with pytest.raises(Blocked):
        view(other)
    assert view(client).grant is None  # The asking node itself knows better.
    client.lock(held, LockRange(0, 1, True))
    with pytest.raises(FileLockConflict):
        view(client)
    client.unlock(held, LockRange(0, 1))
    client.close(held)
    reader = other.open("/f", READ, Share.NONE)
    with pytest.raises(SharingViolation):
        view(client)
    other.close(reader)


# Truncate -------------------------------------------------------------------------------------


def test_truncate_shrinks_with_a_zeroed_tail_and_grows_with_nothing(
    volume: Volume, client: Client
) -> None:
    client.write_file("/f", 5)
    held = client.open("/f")

    def truncate(size: int, tail: bytes = b"") -> m.FileInfo:
        reply = client.send(m.Truncate(client.caller(), held.handle, 1, size, m.Commit(), tail, 77))
        assert isinstance(reply, m.InfoReply)
        assert reply.held_by_asker
        return reply.info

    assert truncate(3 * 4096).size == 3 * 4096
    with pytest.raises(ProtocolError):
        truncate(5000)
    with pytest.raises(ProtocolError):
        truncate(5000, client.node.extent(0))
    with pytest.raises(ProtocolError):
        truncate(1 << 40, client.node.extent(0))
    assert truncate(5000, client.node.extent(1)).modified_ns == 77
    assert truncate(1 << 40).size == 1 << 40
    assert sum(volume.state.live_pages(client.node.log_id).values()) == 2
    with pytest.raises(InvalidParameter):
        truncate(2**63 - 1)
    assert truncate(0).size == 0
    assert sum(volume.state.live_pages(client.node.log_id).values()) == 0


def test_truncate_by_a_node_without_the_token_takes_all_tokens_back(
    volume: Volume, client: Client, other: Client
) -> None:
    held = client.open("/f")
    theirs = other.open("/f")
    assert other.send(m.Truncate(other.caller(), theirs.handle, 1, 10)).info.size == 10
    assert [t.incarnation for t in volume.recalled] == [client.node.incarnation]
    read_only = client.open("/f", READ)
    with pytest.raises(AccessDenied):
        client.send(m.Truncate(client.caller(), read_only.handle, 1, 0))
    client.close(held)
