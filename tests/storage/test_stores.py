"""The drivers: both conform, and the local one maps the system's refusals to typed errors."""

from __future__ import annotations

import errno
import os
from itertools import count
from pathlib import Path

import fsspec
import pytest
from storage_harness import ROOT, ModelDisk, ModelOs
from store_conformance import StoreConformance

from sofs.errors import DiskFull, ReadOnlyBackend, StoreFailed, StoreUnknown
from sofs.ports.store import Lost, Store, Won
from sofs.storage import LocalAppendStore, MemorySlotStore
from sofs.storage.oscalls import OsCalls

_NAMES = count()


class TestLocalAppendStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self) -> Store:
        return LocalAppendStore(f"file://{self.folder}")

    def again(self, store: Store) -> Store:
        return LocalAppendStore(str(self.folder))


class TestMemorySlotStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _clean(self) -> object:
        yield
        filesystem = fsspec.filesystem("memory")
        for path in filesystem.find("/conformance"):
            filesystem.rm_file(path)

    def make(self) -> Store:
        return MemorySlotStore(f"memory://conformance/{next(_NAMES)}")

    def again(self, store: Store) -> Store:
        return MemorySlotStore(store.url)


# The local driver -------------------------------------------------------------------------------


def model(fail_name: str = "", number: int = 0) -> tuple[ModelOs, LocalAppendStore]:
    calls = ModelOs(ModelDisk())
    calls.fail = lambda name, path: OSError(number, "no") if name == fail_name else None
    return calls, LocalAppendStore(ROOT, calls=calls)


@pytest.mark.parametrize(
    ("call", "number", "expected"),
    [
        ("open", errno.EROFS, ReadOnlyBackend),
        ("open", errno.EACCES, ReadOnlyBackend),
        ("pwritev", errno.ENOSPC, DiskFull),
        ("pwritev", errno.EDQUOT, DiskFull),
        ("pwritev", errno.EIO, StoreFailed),
        ("link", errno.ENOSPC, DiskFull),
        ("link", errno.EIO, StoreUnknown),
        ("link", errno.ESTALE, StoreUnknown),
        ("mkdir", errno.EROFS, ReadOnlyBackend),
    ],
)
def test_a_create_that_the_system_refuses_is_typed_and_names_the_key(
    call: str, number: int, expected: type[Exception]
) -> None:
    calls, store = model(call, number)
    with pytest.raises(expected, match="folder/key") as caught:
        store.put_if_absent("folder/key", b"data")
    assert type(caught.value) is expected
    calls.fail = None
    assert store.list("") == []
    assert store.put_if_absent("folder/key", b"other") == Won()


def test_a_folder_sync_that_fails_after_the_link_leaves_the_outcome_open() -> None:
    calls, store = model()
    store.put_if_absent("folder/other", b"")
    synced = []

    def fail(name: str, path: str) -> OSError | None:
        synced.append(name == "fsync" and path.endswith("/folder"))
        return OSError(errno.EIO, "no") if synced[-1] else None

    calls.fail = fail
    with pytest.raises(StoreUnknown, match="folder/key"):
        store.put_if_absent("folder/key", b"data")
    calls.fail = None
    assert store.put_if_absent("folder/key", b"data") == Won()
    assert store.put_if_absent("folder/key", b"else") == Lost(b"data")


def test_an_existing_object_that_cannot_be_read_leaves_the_outcome_open() -> None:
    calls, store = model()
    store.put_if_absent("key", b"data")
    calls.fail = lambda name, path: OSError(errno.EIO, "no") if name == "pread" else None
    with pytest.raises(StoreUnknown, match="key"):
        store.put_if_absent("key", b"data")


def test_a_segment_name_is_given_out_once(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    store.create_segment("logs/a/1/0", zero_fill_bytes=0).close()
    with pytest.raises(StoreFailed, match="logs/a/1/0"):
        store.create_segment("logs/a/1/0", zero_fill_bytes=0)


def test_a_segment_is_zero_filled_reserved_trimmed_and_read(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    segment = store.create_segment("logs/s", zero_fill_bytes=3_000_000)
    path = tmp_path / "logs" / "s"
    assert path.stat().st_size == 3_000_000
    assert path.stat().st_blocks * 512 >= 3_000_000
    segment.write(4096, [b"ab"] * 1500)  # More buffers than one call takes.
    segment.sync()
    segment.reserve(4_000_000)
    assert path.stat().st_size == 4_000_000
    reader = store.open_segment("logs/s")
    assert reader.read(4095, 4) == b"\0aba"
    reader.sync_and_drop()
    assert reader.read(4096, 3000) == b"ab" * 1500
    assert reader.read_cached(4096, 4) in (b"abab", None)
    assert reader.next_data(0) == 0
    segment.trim(8192)
    assert reader.size() == 8192
    store.delete("logs/s")
    assert reader.read(4096, 2) == b"ab"
    reader.will_need(0, 4096)
    reader.close()
    segment.close()


def test_reserved_space_that_was_never_written_is_known_without_reading(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    segment = store.create_segment("logs/s", zero_fill_bytes=0)
    segment.reserve(1 << 20)
    segment.write(0, [b"x" * 4096])
    segment.sync()
    segment.close()
    reader = store.open_segment("logs/s")
    reader.sync_and_drop()
    assert reader.next_data(100) == 100
    assert reader.next_data(500_000) in (500_000, 1 << 20)
    reader.close()


def test_a_failed_preparation_leaves_no_name() -> None:
    calls, store = model("pwritev", errno.ENOSPC)
    with pytest.raises(DiskFull, match="logs/s"):
        store.create_segment("logs/s", zero_fill_bytes=4096)
    calls.fail = None
    assert store.list("") == []
    store.create_segment("logs/s", zero_fill_bytes=4096).close()


def test_a_guard_says_absent_only_when_the_name_is_not_there(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    guard = store.open_guard("claims/volume")
    assert guard.absent("00000000000000000001")
    store.put_if_absent("claims/volume/00000000000000000001", b"x")
    assert not guard.absent("00000000000000000001")
    guard.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOTCONN])
def test_a_guard_never_takes_an_error_for_absent(number: int) -> None:
    calls, store = model()
    guard = store.open_guard("claims/volume")
    calls.fail = lambda name, path: OSError(number, "no") if name == "stat_at" else None
    with pytest.raises(StoreUnknown, match="claims/volume"):
        guard.absent("1")


def test_a_guard_of_a_removed_folder_knows_nothing(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    guard = store.open_guard("claims/volume")
    (tmp_path / "claims" / "volume").rmdir()
    (tmp_path / "claims" / "volume").mkdir()
    with pytest.raises(StoreUnknown, match="removed"):
        guard.absent("1")
    guard.close()


def test_a_dangling_link_is_a_name(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    guard = store.open_guard("claims/volume")
    os.symlink("nowhere", tmp_path / "claims" / "volume" / "2")
    assert not guard.absent("2")
    guard.close()


def test_old_temporary_names_are_cleaned_and_fresh_ones_stay(tmp_path: Path) -> None:
    store = LocalAppendStore(str(tmp_path))
    store.put_if_absent("folder/key", b"x")
    old, fresh = tmp_path / "folder" / ".key.aa.tmp", tmp_path / "folder" / ".key.bb.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert store.clean_temporaries() == 1
    assert [path.name for path in (tmp_path / "folder").iterdir() if path.name[0] == "."] == [
        fresh.name
    ]
    assert store.get("folder/key") == b"x"
    assert store.list("") == ["folder/key"]


def test_a_folder_that_vanishes_while_old_names_are_cleaned_is_passed_over(tmp_path: Path) -> None:
    class Vanishing(OsCalls):
        def scan(self, path: str) -> list[tuple[str, bool]]:
            found = super().scan(path)
            if (tmp_path / "probes").exists():  # Of another process, which ends just now.
                (tmp_path / "probes").rmdir()
            return found

    store = LocalAppendStore(str(tmp_path), calls=Vanishing())
    (tmp_path / "probes").mkdir()
    (tmp_path / ".key.aa.tmp").write_bytes(b"half")
    os.utime(tmp_path / ".key.aa.tmp", (1, 1))
    assert store.clean_temporaries() == 1


def test_a_create_whose_temporary_name_was_cleaned_fails_before_any_effect() -> None:
    calls, store = model()
    link = calls.link

    def cleaned(source: str, target: str) -> None:
        calls.unlink(source)
        link(source, target)

    calls.link = cleaned
    with pytest.raises(StoreFailed, match="key"):
        store.put_if_absent("key", b"x")
    calls.link = link
    assert store.get("key") is None


def test_every_system_call_of_the_driver_goes_through_one_object(tmp_path: Path) -> None:
    used: list[str] = []

    class Recording(OsCalls):
        def __getattribute__(self, name: str) -> object:
            used.append(name)
            return super().__getattribute__(name)

    store = LocalAppendStore(str(tmp_path), calls=Recording())
    store.put_if_absent("a/b", b"x")
    assert used.index("fsync") < used.index("link") < len(used) - used[::-1].index("fsync")
