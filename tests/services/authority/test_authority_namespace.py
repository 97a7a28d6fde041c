from __future__ import annotations

import pytest
from authority_harness import NOW, RWD, Client, Volume

from sofs.core import messages as m
from sofs.core.messages import Access, Disposition, OpenOptions, Share
from sofs.errors import (
    AccessDenied,
    DeletePending,
    DirectoryNotEmpty,
    FileIsADirectory,
    FileNotAvailable,
    InvalidName,
    InvalidParameter,
    InvariantViolation,
    NotADirectory,
    ObjectNameCollision,
    ObjectNameNotFound,
    SharingViolation,
)


def open_directory(client: Client, path: str, access: int = 1, share: int = 7) -> m.OpenReply:
    return client.open(path, access, share, Disposition.OPEN, OpenOptions.DIRECTORY)


def test_directories_are_made_listed_and_removed(volume: Volume, client: Client) -> None:
    client.mkdir("/d")
    client.mkdir("d/e")
    with pytest.raises(ObjectNameCollision):
        client.mkdir("/d")
    with pytest.raises(DirectoryNotEmpty):
        client.rmdir("/d")
    client.rmdir("/d/e")
    client.rmdir("/d")
    for error, call in (
        (ObjectNameNotFound, lambda: client.mkdir("/x/y")),
        (ObjectNameNotFound, lambda: client.rmdir("/x")),
        (AccessDenied, lambda: client.rmdir("/")),
        (ObjectNameCollision, lambda: client.mkdir("/")),
        (InvalidName, lambda: client.mkdir("/a//b")),
        (FileIsADirectory, lambda: client.unlink("/")),
    ):
        with pytest.raises(error):
            call()  # type: ignore[no-untyped-call]
    assert volume.state.volume() == b"v" * 16


def test_files_are_no_directories(client: Client) -> None:
    client.write_file("/f")
    client.mkdir("/d")
    for error, call in (
        (NotADirectory, lambda: client.mkdir("/f/x")),
        (NotADirectory, lambda: client.unlink("/f/x/y")),
        (NotADirectory, lambda: client.rmdir("/f")),
        (NotADirectory, lambda: client.names("/f")),
        (FileIsADirectory, lambda: client.unlink("/d")),
        (FileIsADirectory, lambda: client.write_file("/d", 1, Disposition.OVERWRITE)),
        (NotADirectory, lambda: client.rename("/d", "/f", True)),
        (FileIsADirectory, lambda: client.rename("/f", "/d", True)),
        (ObjectNameNotFound, lambda: client.stat("/nothing/x")),
        (NotADirectory, lambda: client.stat("/f/x")),
    ):
        with pytest.raises(error):
            call()  # type: ignore[no-untyped-call]


def test_long_paths_resolve(client: Client, volume: Volume) -> None:
    path = ""
    for n in range(30):
        path += f"/{n}"
        client.mkdir(path)
    ino = client.write_file(path + "/f").info.ino
    assert client.stat(path + "/f").ino == ino
    assert volume.state.path_of(ino) == path + "/f"
    with pytest.raises(NotADirectory):
        client.stat(path + "/f" + "/x" * 20)
    with pytest.raises(ObjectNameNotFound):
        client.stat("/0/1/x" + "/x" * 20)
    with pytest.raises(ObjectNameNotFound):
        volume.state.path_of(999)


def test_directory_pages_are_in_byte_order(volume: Volume, client: Client) -> None:
    names = sorted(["a", "Z", "é", "aa", "😀", "~"], key=lambda name: name.encode())
    for name in names:
        client.write_file("/" + name)
    found: list[str] = []
    after, more = "", True
    while more:
        reply = volume.run(lambda s, a=after: s.read_dir(m.ReadDir("/", a, 2)))
        found += [entry.name for entry in reply.entries]
        after, more = found[-1], reply.more
    assert found == names
    with pytest.raises(InvalidParameter):
        volume.run(lambda s: s.read_dir(m.ReadDir("/", "\ud800")))


def test_rename_moves_and_replaces(client: Client) -> None:
    f = client.write_file("/f").info
    client.mkdir("/d")
    client.rename("/f", "/d/g")
    assert client.stat("/d/g").ino == f.ino
    client.rename("/d/g", "/d/g")
    client.write_file("/f")
    with pytest.raises(ObjectNameCollision):
        client.rename("/d/g", "/f")
    client.rename("/d/g", "/f", True)
    assert client.stat("/f").ino == f.ino
    client.mkdir("/e")
    client.rename("/d", "/e", True)
    assert client.names("/") == ["e", "f"]
    client.write_file("/e/x")
    client.mkdir("/d")
    with pytest.raises(DirectoryNotEmpty):
        client.rename("/d", "/e", True)
    for path in ("/d/x", "/d/y/z"):
        with pytest.raises((InvalidParameter, ObjectNameNotFound)):
            client.rename("/d", path)
    with pytest.raises(InvalidParameter):
        client.rename("/e", "/e/below")
    with pytest.raises(AccessDenied):
        client.rename("/", "/x")
    with pytest.raises(ObjectNameCollision):
        client.rename("/d", "/")


def test_rename_respects_open_handles(client: Client, other: Client) -> None:
    client.write_file("/f")
    held = client.open("/f", 1, Share.READ)
    with pytest.raises(SharingViolation):
        other.rename("/f", "/g")
    client.close(held)
    held = client.open("/f", 1)
    other.rename("/f", "/g")
    other.write_file("/f")
    with pytest.raises(AccessDenied):
        other.rename("/f", "/g", True)
    client.close(held)
    client.send(m.SetInfo(client.caller(), "/g", set_attributes=True, attributes=1))
    with pytest.raises(AccessDenied):
        other.rename("/f", "/g", True)


def test_an_open_parent_holds_its_entries_when_it_must(client: Client, other: Client) -> None:
    client.mkdir("/d")
    client.write_file("/d/f")
    held = open_directory(client, "/d", 1, Share.ALL)
    other.rename("/d/f", "/d/g")
    client.close(held)
    for access, share in ((Access.DELETE, 7), (1, 3)):
        held = open_directory(client, "/d", access, share)
        with pytest.raises(SharingViolation):
            other.rename("/d/g", "/d/f")
        client.disconnect(held)
        with pytest.raises(FileNotAvailable):
            other.rename("/d/g", "/d/f")
        client.volume.run(lambda s, h=held: s.expire([h.handle], NOW))


def test_directories_with_open_files_below_may_be_renamed(client: Client) -> None:
    client.mkdir("/d")
    held = client.open("/d/f", RWD, 0)
    client.rename("/d", "/e")
    client.close(held)
    assert client.names("/e") == ["f"]


def test_a_pending_target_or_directory_takes_no_new_name(client: Client) -> None:
    client.mkdir("/d")
    client.write_file("/f")
    d = open_directory(client, "/d", Access.DELETE | 1)
    client.rmdir("/d")
    with pytest.raises(DeletePending):
        client.rename("/f", "/d/f")
    with pytest.raises(DeletePending):
        client.rename("/f", "/d", True)
    client.close(d)
    assert client.names("/") == ["f"]


def test_a_replayed_rename_is_answered_and_not_done_again(client: Client) -> None:
    client.acknowledges = False
    client.write_file("/a")
    body = m.Rename(client.caller(), "/a", "/b")
    client.send(body)
    client.write_file("/a")
    client.send(body)
    assert client.names("/") == ["a", "b"]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("DELETE FROM dirent", "without their name"),
        ("UPDATE inode SET parent=3 WHERE ino=2", "files that are parents"),
        ("UPDATE inode SET parent=2 WHERE ino=2", "reaches"),
        ("UPDATE inode SET size=0 WHERE ino=3", "outside its file"),
        ("UPDATE segment SET live=live+1", "live pages"),
        ("INSERT INTO token VALUES(3,2,1,99)", "beside others"),
        ("UPDATE handle SET deny=7", "needs"),
        ("UPDATE handle SET ino=77", "no file"),
        ("INSERT INTO lock VALUES(5,0,3,'0','1',1)", "locks without"),
        ("UPDATE client SET handles=5", "wrong handle counts"),
        ("UPDATE counter SET token=0", "given out"),
        ("UPDATE inode SET pending=1 WHERE ino=3", ""),
        ("UPDATE inode SET pending=1 WHERE ino=2", "nobody holds"),
        ("UPDATE extent SET page=page+1", "packed"),
        ("UPDATE datalog SET sealed=0,applied=1", "sealed or unknown"),
        ("UPDATE handle SET bitmap=x'01'", "normal form"),
    ],
)
def test_the_check_finds_damage(damage: str, complaint: str) -> None:
    volume = Volume()
    node = volume.node("a")
    volume.node("b")
    client = volume.client("one", node)
    client.mkdir("/d")
    client.write_file("/f", 2)
    client.open("/f")
    volume.check()
    volume.run(lambda s: s._run(damage))
    if complaint:
        with pytest.raises(InvariantViolation, match=complaint):
            volume.state.check()
    else:
        volume.state.check()
    volume.close()
