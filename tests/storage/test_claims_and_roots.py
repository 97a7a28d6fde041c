"""Claims, cluster and volume roots, attaching and the probe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from storage_harness import ROOT, ModelDisk, ModelOs, SeededEntropy, a_claim, process, run
from unsafe_views import overlay

from sofs.errors import (
    BackendRefused,
    Corrupt,
    CredentialRefused,
    FormatRefused,
    InvalidParameter,
    ObjectNameCollision,
    ReadOnlyBackend,
    StoreFailed,
)
from sofs.storage import LocalAppendStore, MemorySlotStore, attach
from sofs.storage.claims import decode_claim, encode_claim
from sofs.storage.probe import check_file_system, file_system_of, probe_append, run_probe
from sofs.storage.roots import (
    VolumeEntry,
    add_volume,
    check_credential,
    create_cluster,
    create_volume,
    list_volumes,
    open_cluster,
    open_volume,
    remove_volume,
)
from sofs.storage.slots import SlotStore

CREDENTIAL = b"c" * 32


# Claims -----------------------------------------------------------------------------------------


def test_a_claim_reads_back_and_every_flipped_byte_is_told() -> None:
    claim = replace(a_claim(7), run_id=b"r" * 16, part='co"ord\u00ef', endpoint="[::1]:7440")
    data = encode_claim(claim)
    assert decode_claim(data, "key") == claim
    for at in range(len(data) - 1):
        for flip in (1, 0x80):
            with pytest.raises(Corrupt, match="key"):
                decode_claim(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :], "key")


def test_one_of_two_claimants_wins_and_the_other_gets_its_claim() -> None:
    async def main() -> None:
        disk = ModelDisk()
        one, two = process(disk).fenced, process(disk).fenced
        assert await one.try_claim(a_claim(1)) is None
        assert await two.try_claim(a_claim(1, salt=9)) == a_claim(1)
        assert await one.try_claim(a_claim(1)) is None, "a repeated claim is our own"
        assert await two.read_claim("volume", 1) == a_claim(1)
        assert await two.read_claim("volume", 2) is None

    run(main())


def test_epochs_are_contiguous() -> None:
    async def main() -> None:
        fenced = process(ModelDisk()).fenced
        for epoch in (0, 2):
            with pytest.raises(InvalidParameter):
                await fenced.try_claim(a_claim(epoch))
        await fenced.try_claim(a_claim(1))
        await fenced.try_claim(a_claim(2))
        with pytest.raises(InvalidParameter):
            await fenced.try_claim(a_claim(4))

    run(main())


@pytest.mark.parametrize("hint", [b"", b"1\n", b"30\n", b"40\n", b"999\n", b"junk", b"-5"])
def test_the_highest_claim_is_found_whatever_the_hint_says(hint: bytes) -> None:
    async def main() -> None:
        node = process(ModelDisk())
        assert await node.fenced.highest_claim("volume") is None
        for epoch in range(1, 41):
            assert await node.fenced.try_claim(a_claim(epoch)) is None
        node.fenced.store.put_hint("claims/volume.hint", hint)
        for argument in (0, 1, 39, 40, 77):
            found = await node.fenced.highest_claim("volume", hint=argument)
            assert found == a_claim(40)
        assert await node.fenced.highest_claim("other") is None

    run(main())


def test_with_a_good_hint_the_highest_claim_costs_two_look_ups() -> None:
    async def main() -> None:
        node = process(ModelDisk())
        for epoch in range(1, 31):
            await node.fenced.try_claim(a_claim(epoch))
        before = len(node.calls.log)
        assert await node.fenced.highest_claim("volume") == a_claim(30)
        opened = [line for line in node.calls.log[before:] if line.startswith(("open", "scan"))]
        assert len(opened) == 3  # The hint, the claim, and the one above that is not there.

    run(main())


def test_a_claim_under_another_name_is_corruption() -> None:
    async def main() -> None:
        node = process(ModelDisk())
        key = "claims/volume/00000000000000000001"
        node.fenced.store.put_if_absent(key, encode_claim(a_claim(2)))
        with pytest.raises(Corrupt):
            await node.fenced.read_claim("volume", 1)

    run(main())


def test_objects_are_created_once_and_listed() -> None:
    async def main() -> None:
        fenced = process(ModelDisk()).fenced
        await fenced.put_object("checkpoints/a", b"1")
        with pytest.raises(StoreFailed):
            await fenced.put_object("checkpoints/a", b"2")
        assert await fenced.list_objects("checkpoints") == ["checkpoints/a"]
        assert await fenced.get_object("checkpoints/a") == b"1"
        await fenced.delete_object("checkpoints/a")
        assert await fenced.get_object("checkpoints/a") is None
        await fenced.probe_latency()
        assert await fenced.list_objects("probes") == []

    run(main())


# Roots ------------------------------------------------------------------------------------------


def test_a_cluster_is_created_once_and_opened_with_its_credential(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    assert open_cluster(store) is None
    root = create_cluster(store, credential=CREDENTIAL, entropy=SeededEntropy(1))
    assert create_cluster(store, credential=CREDENTIAL, entropy=SeededEntropy(2)) == root
    assert open_cluster(store) == root
    with pytest.raises(CredentialRefused):
        create_cluster(store, credential=b"wrong" * 7, entropy=SeededEntropy(2))
    check_credential(root, CREDENTIAL)
    assert CREDENTIAL.hex() not in (tmp_path / "cluster.json").read_text()
    assert "c" * 32 not in (tmp_path / "cluster.json").read_text()


def test_a_volume_root_belongs_to_one_cluster_and_one_volume(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    with pytest.raises(FormatRefused):
        open_volume(store, cluster=b"1" * 16, name="v1")
    root = create_volume(store, cluster=b"1" * 16, name="v1", entropy=SeededEntropy(1))
    assert create_volume(store, cluster=b"1" * 16, name="v1", entropy=SeededEntropy(2)) == root
    assert open_volume(store, cluster=b"1" * 16, name="v1") == root
    for cluster, name in ((b"2" * 16, "v1"), (b"1" * 16, "v2")):
        with pytest.raises(FormatRefused):
            open_volume(store, cluster=cluster, name=name)
        with pytest.raises(FormatRefused):
            create_volume(store, cluster=cluster, name=name, entropy=SeededEntropy(3))


@pytest.mark.parametrize(
    "text", ['{"format": 2, "cluster": "00"}', "{}", "not json", '{"format": 1}', "[1]"]
)
def test_a_root_of_another_format_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.json").write_text(text)
    (tmp_path / "volume.json").write_text(text)
    store = LocalAppendStore(str(tmp_path))
    with pytest.raises(FormatRefused):
        open_cluster(store)
    with pytest.raises(FormatRefused):
        open_volume(store, cluster=b"1" * 16, name="v")
    with pytest.raises(FormatRefused):
        attach(str(tmp_path), cluster=b"1" * 16)


def test_the_table_of_volumes_is_kept_by_name(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    one, two = (
        VolumeEntry("one", b"1" * 16, "file:///a"),
        VolumeEntry("two", b"2" * 16, "file:///b"),
    )
    for entry in (two, one, one):
        add_volume(store, entry)
    assert list_volumes(store) == [one, two]
    with pytest.raises(ObjectNameCollision):
        add_volume(store, VolumeEntry("one", b"3" * 16, "file:///c"))
    remove_volume(store, "one")
    assert list_volumes(store) == [two]


# Attaching --------------------------------------------------------------------------------------


def test_a_good_folder_attaches_and_the_probe_leaves_nothing(tmp_path: Path) -> None:
    store = attach(f"file://{tmp_path}/new/folder")
    assert store.kind == "append"
    assert store.list("") == []
    assert attach(str(tmp_path / "new" / "folder")).url == store.url


def test_memory_attaches_as_slots() -> None:
    store = attach("memory://attach-test")
    assert store.kind == "slots"
    assert store.list("") == []


@pytest.mark.parametrize("url", ["gs://bucket/root", "gs://bucket", "http://host/x"])
def test_a_backend_without_a_driver_of_our_own_is_refused(url: str) -> None:
    with pytest.raises(BackendRefused, match=url.split(":")[0]):
        attach(url)


def test_a_root_of_another_cluster_is_refused(tmp_path: Path) -> None:
    store = attach(str(tmp_path))
    root = create_cluster(store, credential=CREDENTIAL, entropy=SeededEntropy(1))
    assert attach(str(tmp_path), cluster=root.cluster).kind == "append"
    with pytest.raises(FormatRefused, match="another cluster"):
        attach(str(tmp_path), cluster=b"x" * 16)


def test_a_read_only_folder_is_a_typed_error(tmp_path: Path) -> None:
    folder = tmp_path / "ro"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here; injected EROFS tests the same")
    try:
        with pytest.raises(ReadOnlyBackend):
            attach(str(folder))
        with pytest.raises(ReadOnlyBackend):
            attach(str(folder / "sub"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


MOUNTS = """\
22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
30 22 0:30 / /mnt/nfs\\040share rw - nfs4 server:/x rw
31 22 0:31 / /mnt/nfs\\040share/local rw - xfs /dev/vdb rw
32 22 0:32 / /over rw - overlay overlay rw
33 22 0:33 / /over rw - tmpfs none rw
34 22 0:34 / /fuse rw - fuse.sshfs host rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "allowed"),
    [
        ("/data", "ext4", True),
        ("/mnt/nfs share/a", "nfs4", False),
        ("/mnt/nfs share/local/b", "xfs", True),
        ("/over/x", "tmpfs", True),
        ("/fuse/x", "fuse.sshfs", False),
        ("/fuses/x", "ext4", True),
    ],
)
def test_only_file_systems_of_the_list_are_append_capable(
    tmp_path: Path, path: str, kind: str, allowed: bool
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system_of(path, str(mounts)) == kind
    if allowed:
        check_file_system(path, str(mounts))
    else:
        with pytest.raises(BackendRefused, match=kind):
            check_file_system(path, str(mounts))


def test_an_overlay_over_a_good_folder_is_refused_at_attach(tmp_path: Path) -> None:
    """Two overlays of one folder both win a claim (``test_node_pair``)."""
    (tmp_path / "lower").mkdir()
    attach(str(tmp_path / "lower"))
    with (
        overlay(tmp_path / "lower", "one") as merged,
        pytest.raises(BackendRefused, match=r"is on overlay.*use one of btrfs, ext4"),
    ):
        attach(str(merged / "root"))


# The probe refuses


class GenericStore(SlotStore):
    """What one gets by trusting fsspec's ``mode="create"``."""

    def __init__(self, filesystem: object, root: str, mode: str = "create") -> None:
        super().__init__(filesystem, root, root)
        self.mode = mode

    def _create(self, path: str, data: bytes) -> bool:
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            self._fs.pipe_file(path, data, mode=self.mode)
        except FileExistsError:
            return False
        return True


@pytest.fixture
def _memory() -> Iterator[None]:
    yield
    filesystem = fsspec.filesystem("memory")
    filesystem.rm("/raw", recursive=True)


@pytest.mark.usefixtures("_memory")
def test_raw_memory_is_refused_as_its_create_races() -> None:
    with pytest.raises(BackendRefused, match="exclusive create"):
        for _ in range(200):
            run_probe(GenericStore(fsspec.filesystem("memory"), "/raw/root"))


def test_a_local_folder_through_check_then_create_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendRefused, match="exclusive create"):
        for _ in range(200):
            run_probe(GenericStore(LocalFileSystem(), str(tmp_path)))


def test_a_create_that_overwrites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendRefused, match="exclusive create"):
        run_probe(GenericStore(LocalFileSystem(), str(tmp_path), mode="overwrite"))


def refusing(**replaced: object) -> MemorySlotStore:
    kind = type("Broken", (MemorySlotStore,), replaced)
    store: MemorySlotStore = kind("memory://probe-test")
    return store


def _get_old(store: MemorySlotStore, key: str) -> bytes | None:
    return None


@pytest.mark.parametrize(
    ("replaced", "lacks"),
    [
        ({"get": lambda self, key: None}, "exclusive create|is gone"),
        ({"list": lambda self, prefix: []}, "listing lacks"),
        ({"delete": lambda self, key: None}, "deleted object is still there"),
        ({"read": lambda self, key, offset, length: b"x" * length}, "range"),
    ],
)
def test_a_backend_that_lies_is_refused_with_what_it_lacks(
    replaced: dict[str, object], lacks: str
) -> None:
    with pytest.raises((BackendRefused, OSError), match=lacks):
        run_probe(refusing(**replaced))


def test_an_append_backend_whose_guard_lies_is_refused() -> None:
    calls = ModelOs(ModelDisk())
    store = LocalAppendStore(ROOT, calls=calls)
    probe_append(store)

    def blind(name: str, folder_fd: int) -> None:
        raise FileNotFoundError(2, "cached as absent", name)

    calls.stat_at = blind
    with pytest.raises(BackendRefused, match="guard"):
        probe_append(store)


def test_the_probe_gives_the_switch_interval_back() -> None:
    before = sys.getswitchinterval()
    run_probe(MemorySlotStore("memory://probe-test"))
    assert sys.getswitchinterval() == before


def test_a_probe_leaves_no_folder(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    run_probe(store)
    probe_append(store)
    assert list((tmp_path / "probes").iterdir()) == []
