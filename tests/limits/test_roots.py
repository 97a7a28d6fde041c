"""Roots, roles and addresses that a part must refuse before it serves anybody."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits_rig import refused

import sofs
from sofs.actors.compose import PartConfig, create_roots, start_part
from sofs.errors import (
    BackendRefused,
    BadNetworkName,
    CredentialRefused,
    DiskFull,
    FormatRefused,
    InvalidParameter,
    ReadOnlyBackend,
    SofsError,
)
from sofs.rpc.transport import GrpcTransport
from sofs.services.leader.ask import part_state
from sofs.storage import SystemClock
from sofs.testing import LocalCluster

CREDENTIAL = "a credential of this test"


@pytest.fixture
def root(tmp_path: Path) -> str:
    path = str(tmp_path / "root")
    create_roots(path, CREDENTIAL, "share")
    return path


def config(root: str, **fields: object) -> PartConfig:
    made = PartConfig("node", "n", root, "127.0.0.1:0", CREDENTIAL, run_dir=root + "-run")
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def contents(root: str) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path(root).rglob("*")) if p.is_file()}


async def start_refused(config: PartConfig, *kinds: type[SofsError]) -> None:
    fatal: list[BaseException] = []
    with refused(*kinds):
        await start_part(config, fatal.append)
    assert not fatal


@pytest.mark.parametrize("role", ["coordinator", "node"])
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"credential": "another"}, CredentialRefused),
        ({"volume": "nosuch"}, BadNetworkName),
    ],
    ids=["credential", "volume"],
)
async def test_a_part_with_the_wrong_key_volume_or_backend_does_not_start(
    root: str, role: str, fields: dict[str, object], error: type[SofsError]
) -> None:
    before = contents(root)
    await start_refused(config(root, role=role, **fields), error)
    assert contents(root) == before


async def test_an_empty_folder_is_no_root(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    await start_refused(config(str(tmp_path / "empty")), FormatRefused)


async def test_a_file_system_that_is_not_known_to_keep_its_word_is_no_backend() -> None:
    await start_refused(config("/proc"), BackendRefused)


async def test_a_file_is_no_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with refused(BackendRefused):
            create_roots(str(path), CREDENTIAL, "share")
    assert (tmp_path / "file").read_bytes() == b"x"


async def test_a_node_does_not_join_when_the_volumes_folder_was_replaced_under_its_authority(
    root: str,
) -> None:
    """What the authority holds open is in the first folder; whoever comes now sees the second."""
    fatal: list[BaseException] = []
    owner = await start_part(config(root, role="coordinator", name="owner"), fatal.append)
    first = await start_part(config(root, name="first"), fatal.append)
    parts = [owner, first]
    try:
        await until_told(first.address, "authority=connected")
        folder = Path(root) / "volume-share"
        folder.rename(folder.with_name("moved"))
        shutil.copytree(folder.with_name("moved"), folder)
        parts.append(late := await start_part(config(root, name="late"), fatal.append))
        told = await until_told(late.address, "root_refused=BACKEND_REFUSED")
        assert "authority=away" in told
        assert any("is another folder than when this process began" in fact for fact in told)
    finally:
        for part in reversed(parts):
            await part.close()


async def until_told(address: str, start: str) -> list[str]:
    """What a part tells of itself, once one of its facts starts so."""
    clock = SystemClock()
    transport = GrpcTransport(CREDENTIAL, clock)
    try:
        for _ in range(1_000):
            facts = (await part_state(clock, transport, address)).facts
            if any(fact.startswith(start) for fact in facts):
                return facts
            await asyncio.sleep(0.01)
    finally:
        await transport.close()
    raise AssertionError(f"never {start}: {facts}")


async def test_a_role_that_does_not_exist_is_refused(root: str) -> None:
    await start_refused(config(root, role="nosuch"), InvalidParameter)


@pytest.mark.parametrize("role", ["coordinator", "node", "witness"])
@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:1", "nonsense", "127.0.0.1"]
)
async def test_no_part_listens_outside_the_loopback(root: str, role: str, address: str) -> None:
    await start_refused(config(root, role=role, address=address), InvalidParameter)


def test_no_client_connects_outside_the_loopback() -> None:
    with pytest.raises(SofsError, match="loopback"):
        sofs.connect("sofs://192.0.2.1:7440/share", credential="x" * 43, connect_timeout_ms=2_000)


def test_a_damaged_cluster_file_is_refused_and_left_as_it_is(root: str) -> None:
    path = Path(root) / "cluster.json"
    for text in ("", "{", "[]", '{"format": 999}'):
        path.write_text(text)
        with refused(FormatRefused):
            create_roots(root, CREDENTIAL, "share")
        assert path.read_text() == text


def test_another_clusters_root_is_refused_while_its_owner_goes_on(tmp_path: Path) -> None:
    """Two clusters on one folder: the second has another credential."""
    root = tmp_path / "root"
    with LocalCluster(root, nodes=1, witness=False) as first:
        with sofs.connect(first.url, credential=first.credential) as share:
            share.write_file("/mine", b"first")
            second = LocalCluster(root, nodes=1, witness=False)
            try:
                with refused(CredentialRefused):
                    second.start()
                assert all(part.process is None for part in second.parts.values())
            finally:
                second.close()
            share.write_file("/mine2", b"still")
            assert share.read_file("/mine") == b"first"
            assert not share.failovers()


# Folders that take nothing


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    yield from mounted(tmp_path / "small", "2m")


def mounted(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this test needs to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until nothing more fits; returns the file to delete."""
    ballast = os.open(folder / "ballast", os.O_CREAT | os.O_WRONLY)
    try:
        for piece in (1 << 20, 1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    os.write(ballast, bytes(piece))
    finally:
        os.close(ballast)
    return folder / "ballast"


def test_a_full_disk_takes_no_root(small_disk: Path) -> None:
    fill(small_disk)
    with refused(DiskFull):
        create_roots(str(small_disk / "root"), CREDENTIAL, "share")


async def test_a_disk_without_room_for_a_log_takes_no_node(small_disk: Path) -> None:
    create_roots(str(small_disk / "root"), CREDENTIAL, "share")
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    await start_refused(config(str(small_disk / "root")), DiskFull)


@pytest.fixture
def read_only_root(small_disk: Path) -> str:
    create_roots(str(small_disk / "root"), CREDENTIAL, "share")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    return str(small_disk / "root")


async def test_a_read_only_folder_is_refused(read_only_root: str) -> None:
    with refused(ReadOnlyBackend):
        create_roots(read_only_root, CREDENTIAL, "share")
    with refused(ReadOnlyBackend):
        create_roots(read_only_root + "-new", CREDENTIAL, "share")
    await start_refused(config(read_only_root), ReadOnlyBackend)
