"""The disk fills up under a running cluster: what does not fit is refused for certain, what was
acknowledged stays, and freed space is used without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits_rig import RawClient, refused, starts

import sofs
from sofs.client.aio import connect
from sofs.core import messages as m
from sofs.errors import DiskFull
from sofs.rpc.transport import GrpcTransport
from sofs.services.channel import expect
from sofs.storage import SystemClock
from sofs.storage.ballast import BALLAST_BYTES
from sofs.testing import LocalCluster

PIECE = 256 * 1024
NAMES_MAX = 12_000  # Of 250 bytes: more than the first segment of the authority's log can take.
AT_ONCE = 256


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this test needs to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Nothing more fits on the disk inside the block."""
    path = disk / "ballast"
    ballast = os.open(path, os.O_CREAT | os.O_WRONLY)
    for piece in (1 << 20, 1 << 16, 1 << 12):
        with contextlib.suppress(OSError):
            while True:
                os.write(ballast, bytes(piece))
    os.close(ballast)
    try:
        yield
    finally:
        path.unlink()


def block(number: int) -> bytes:
    return bytes([number % 251]) * PIECE


def write_until_full(file: sofs.File, first: int = 0) -> int:
    """Write pieces from number ``first`` on until one is refused; returns the refused one's."""
    for number in itertools.count(first):
        assert number < 400, "the disk never filled up"
        try:
            file.pwrite(block(number), number * PIECE)
        except DiskFull:
            return number
    raise AssertionError


async def make_until_full(cluster: LocalCluster, folder: str) -> list[str]:
    """Make directories, many at once, until one is refused; returns those acknowledged."""
    made: list[str] = []
    share = await connect(cluster.url, credential=cluster.credential, witness=False)

    async def make(number: int) -> bool:
        name = f"{number:06}-" + "x" * 240
        try:
            await share.mkdir(f"{folder}/{name}")
        except DiskFull:
            return False
        made.append(name)
        return True

    for first in range(0, NAMES_MAX, AT_ONCE):
        if not all(await asyncio.gather(*(make(first + i) for i in range(AT_ONCE)))):
            break
    else:
        raise AssertionError(f"{len(made)} directories fitted on a full disk")
    await share.close()  # The goodbye is a record too, and gets its place.
    return made


def test_a_full_disk_refuses_writes_for_certain_loses_nothing_and_recovers(disk: Path) -> None:
    with LocalCluster(disk / "root", nodes=2, witness=False) as cluster:
        share = sofs.connect(cluster.url, credential=cluster.credential, witness=False)
        share.mkdir("/names")
        file = share.open("/data", "x+b")
        share.write_file("/cut", block(3) * 2)
        cut = share.open("/cut", "r+b")
        other = sofs.connect(cluster.url, credential=cluster.credential, witness=False)
        held = other.open("/data", "rb")
        before = starts(cluster)
        with full(disk):
            written = write_until_full(file)
            assert file.stat().size == written * PIECE
            for operation in (
                lambda: file.pwrite(block(0), written * PIECE),
                lambda: file.append(block(0)),
                lambda: share.write_file("/whole", block(0)),
            ):
                with refused(DiskFull):
                    operation()
            assert file.stat().size == written * PIECE
            assert not share.exists("/whole")
            for number in range(written):
                assert file.pread(PIECE, number * PIECE) == block(number)
            names = asyncio.run(make_until_full(cluster, "/names"))
            with refused(DiskFull):
                for number in range(AT_ONCE):
                    share.mkdir(f"/names/more-{number}-" + "y" * 240)
                    names.append(f"more-{number}-" + "y" * 240)
            assert sorted(share.listdir("/names")) == sorted(names)
            assert file.pread(PIECE, 0) == block(0)
            for name in names[:100]:
                share.rmdir(f"/names/{name}")
            del names[:100]
            with refused(DiskFull):
                cut.truncate(100 * PIECE)
            cut.truncate(PIECE)
            cut.truncate(0)
            assert cut.stat().size == 0
            cut.close()
            held.close()
            other.close()
            with refused(DiskFull):
                share.mkdir("/names/" + "z" * 240)
        print(f"\nwhile full: {written} writes and {len(names)} directories were acknowledged")
        file.append(b"after")
        share.write_file("/whole", block(7))
        share.mkdir("/names/after")
        assert starts(cluster) == before, cluster.last_words()
        share.close()
        cluster.kill_all()
        cluster.revive()
        with sofs.connect(cluster.url, credential=cluster.credential, witness=False) as share:
            assert sorted(share.listdir("/names")) == sorted([*names, "after"])
            assert share.read_file("/whole") == block(7)
            data = share.read_file("/data")
            assert data == b"".join(map(block, range(written))) + b"after"


def ballasts(disk: Path) -> list[Path]:
    return sorted((disk / "root/volume-share/ballast").glob("*"))


def have_ballast(cluster: LocalCluster, disk: Path) -> None:
    """Wait until every part has its ballast; the test's own timeout is the limit."""
    while [path.name for path in ballasts(disk)] != sorted(cluster.parts) or not all(
        path.stat().st_size == BALLAST_BYTES for path in ballasts(disk)
    ):
        time.sleep(0.01)


def test_a_node_that_dies_on_a_full_disk_is_sealed_and_starts_again(disk: Path) -> None:
    with LocalCluster(disk / "root", nodes=2, witness=False) as cluster:
        have_ballast(cluster, disk)
        url = cluster.url_from("node-1")
        with sofs.connect(url, credential=cluster.credential, witness=False) as share:
            file = share.open("/data", "x+b")
            gone = share.open("/gone", "x+b")
            with full(disk):
                written = write_until_full(file)
                cluster.kill("node-1")
                for number in range(written):
                    assert file.pread(PIECE, number * PIECE) == block(number)
                written = write_until_full(file, written)  # In what the other node had prepared.
                gone.close()
                share.unlink("/gone")
                cluster.wait_ready()
                while cluster.facts("node-1").get("authority") != "connected":
                    time.sleep(0.01)
            file.pwrite(b"after", 0)
            assert file.pread(5, 0) == b"after"
            have_ballast(cluster, disk)
            file.close()


def test_everything_that_dies_on_a_full_disk_starts_again(disk: Path) -> None:
    with LocalCluster(disk / "root", nodes=1, witness=False) as cluster:
        have_ballast(cluster, disk)
        access = {"credential": cluster.credential, "witness": False}
        with sofs.connect(cluster.url, **access) as share:
            file = share.open("/data", "x+b")
            share.write_file("/gone", b"x")
            with full(disk):
                written = write_until_full(file)
                cluster.kill_all()
                cluster.revive()
                with sofs.connect(cluster.url, **access) as newcomer:
                    # Who wants to make space may come.
                    newcomer.unlink("/gone")
                    with refused(DiskFull):
                        newcomer.mkdir("/new")
                for number in range(written):
                    assert file.pread(PIECE, number * PIECE) == block(number)
            share.mkdir("/new")
            file.append(b"after")
            file.close()
            have_ballast(cluster, disk)


def test_a_volume_is_taken_over_on_a_full_disk(disk: Path) -> None:
    with LocalCluster(disk / "root", nodes=1, witness=False) as cluster:
        have_ballast(cluster, disk)
        with sofs.connect(cluster.url, credential=cluster.credential, witness=False) as share:
            share.write_file("/before", b"x")
            owner, follower = roles(cluster)
            with full(disk):
                cluster.freeze(owner)
                try:
                    wait_for_log(cluster, follower, "owns epoch 2")
                    assert share.read_file("/before") == b"x"
                    share.unlink("/before")
                    with refused(DiskFull):
                        share.mkdir("/more")
                finally:
                    cluster.thaw(owner)
            share.mkdir("/more")
            have_ballast(cluster, disk)


def test_nobody_takes_a_volume_over_that_he_has_no_room_to_serve(disk: Path) -> None:
    """The coordinator is silent for a while: a follower that fenced it now could not go on."""
    with LocalCluster(disk / "root", nodes=1, witness=False) as cluster:
        cluster.wait_ready()
        with sofs.connect(cluster.url, credential=cluster.credential, witness=False) as share:
            share.write_file("/before", b"x")
            owner, follower = roles(cluster)
            have_ballast(cluster, disk)
            for ballast in ballasts(disk):
                ballast.unlink()
            with full(disk):
                cluster.freeze(owner)
                try:
                    wait_for_log(cluster, follower, "claims nothing: DISK_FULL")
                finally:
                    cluster.thaw(owner)
                share.mkdir("/meanwhile")
                assert share.read_file("/before") == b"x"
            assert roles(cluster) == (owner, follower)
            share.write_file("/after", b"y")
        assert set(starts(cluster).values()) == {1}, cluster.last_words()


def roles(cluster: LocalCluster) -> tuple[str, str]:
    """The names of the authority that is active and of the one that follows."""

    async def ask() -> dict[str, str]:
        transport = GrpcTransport(cluster.credential, SystemClock())
        found = {}
        for name in ("coordinator", "resume-key"):
            part = await RawClient(transport).connect(cluster.parts[name].address, "cluster")
            state = expect((await part.call(m.PartState()), b""), m.PartStateReply)
            found[state.state] = name
            await part.close()
        await transport.close()
        return found

    found: dict[str, str] = {}
    while set(found) != {"active", "following"}:
        found = asyncio.run(ask())
    return found["active"], found["following"]


def wait_for_log(cluster: LocalCluster, name: str, words: str) -> None:
    """Wait until a part's log holds ``words``; the test's own timeout is the limit."""
    path = cluster.run_dir / "log" / f"{name}.log"
    while not path.exists() or words not in path.read_text():
        time.sleep(0.01)
