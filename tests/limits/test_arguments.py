"""Bad arguments to the SDK: refused with a typed, definite error, before or by the server, and
nothing is half done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from limits_rig import refused

import sofs
from sofs.constants import (
    FILE_BYTES_MAX,
    HANDLE_LOCKS_MAX,
    LOCK_RANGES_MAX,
    NAME_BYTES_MAX,
    PATH_BYTES_MAX,
)
from sofs.core.messages import LockRange
from sofs.errors import (
    AccessDenied,
    BadNetworkName,
    CredentialRefused,
    FileClosed,
    FileIsADirectory,
    InvalidName,
    InvalidParameter,
    LimitReached,
    NotADirectory,
    ObjectNameCollision,
    ObjectNameNotFound,
    RangeNotLocked,
    Unavailable,
)
from sofs.testing import LocalCluster

pytestmark = pytest.mark.usefixtures("unharmed")

BAD_NAMES = {
    "dot": ".",
    "dot-dot": "..",
    "dot-dot inside": "/a/../b",
    "NUL": "/a\0b",
    "a name too long": "/" + "x" * (NAME_BYTES_MAX + 1),
    "a name too long in UTF-8": "/" + "\u00e9" * (NAME_BYTES_MAX // 2 + 1),
    "a path too long": "/" + "/".join(["d" * 200] * (PATH_BYTES_MAX // 200 + 1)),
    "a lone surrogate": "/\udc80",
    "an empty name first": "//a",
    "an empty name inside": "/a//b",
    "an empty name last": "/a/",
}
OPERATIONS: dict[str, Callable[[sofs.Share, str], Any]] = {
    "open": lambda share, path: share.open(path, "x+b"),
    "mkdir": lambda share, path: share.mkdir(path),
    "makedirs": lambda share, path: share.makedirs(path),
    "rmdir": lambda share, path: share.rmdir(path),
    "stat": lambda share, path: share.stat(path),
    "unlink": lambda share, path: share.unlink(path),
    "rename from": lambda share, path: share.rename(path, "/fine"),
    "rename to": lambda share, path: share.rename("/there", path),
    "replace": lambda share, path: share.replace("/there", path),
    "listdir": lambda share, path: share.listdir(path),
    "write_file": lambda share, path: share.write_file(path, b"x"),
    "read_file": lambda share, path: share.read_file(path),
    "set_times": lambda share, path: share.set_times(path, modified_ns=1),
    "set_attributes": lambda share, path: share.set_attributes(path, 2),
}
BEYOND = [FILE_BYTES_MAX, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**100]


@pytest.fixture
def there(share: sofs.Share) -> str:
    share.write_file("/there", b"0123456789")
    return "/there"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bad_name_is_refused_by_every_operation(share: sofs.Share, operation: str) -> None:
    share.write_file("/there", b"kept")
    names = share.listdir("/")
    for path in BAD_NAMES.values():
        with refused(InvalidName):
            OPERATIONS[operation](share, path)
    assert share.listdir("/") == names
    assert share.read_file("/there") == b"kept"


@pytest.mark.parametrize("path", [b"/bytes", 7, None])
def test_a_path_that_is_no_text_is_refused(share: sofs.Share, path: Any) -> None:
    with pytest.raises((InvalidParameter, TypeError)):
        share.open(path, "rb")


def test_the_longest_name_and_path_are_usable(share: sofs.Share) -> None:
    longest = "\u00e9" * (NAME_BYTES_MAX // 2) + "x"
    assert len(longest.encode()) == NAME_BYTES_MAX
    folder = "/deep"
    while len(folder) + 201 <= PATH_BYTES_MAX - 100:
        folder += "/" + "d" * 200
    folder += "/" + "e" * 80
    path = folder + "/" + "f" * (PATH_BYTES_MAX - len(folder) - 1)
    assert len(path) == PATH_BYTES_MAX
    share.makedirs(folder)
    for name in ("/" + longest, path):
        share.write_file(name, b"x")
        assert share.read_file(name) == b"x"
        share.unlink(name)
    share.rmtree("/deep")
    assert longest not in share.listdir("/")


@pytest.mark.parametrize("path", ["", "/"])
def test_the_root_directory_is_no_file_and_stays(share: sofs.Share, path: str) -> None:
    share.write_file("/there", b"kept")
    for kinds, operation in {
        (ObjectNameCollision, FileIsADirectory): lambda: share.open(path, "x+b"),
        (FileIsADirectory,): lambda: share.write_file(path, b"x"),
        (FileIsADirectory, AccessDenied): lambda: share.unlink(path),
        (AccessDenied,): lambda: share.rmdir(path),
        (ObjectNameCollision,): lambda: share.rename("/there", path),
    }.items():
        with pytest.raises(kinds):
            operation()
    with pytest.raises(AccessDenied):
        share.rename(path, "/elsewhere")
    assert share.read_file("/there") == b"kept"


def test_a_path_through_a_file_or_through_nothing_is_refused(share: sofs.Share, there: str) -> None:
    for name, operation in OPERATIONS.items():
        if name in ("makedirs", "rename to", "replace"):
            continue
        with pytest.raises((NotADirectory, ObjectNameNotFound)):
            operation(share, "/there/below")
        with pytest.raises(ObjectNameNotFound):
            operation(share, "/nowhere/below")
    assert share.read_file(there) == b"0123456789"


@pytest.mark.parametrize("offset", [-1, -(2**70), *BEYOND])
def test_an_offset_outside_a_file_is_refused(share: sofs.Share, there: str, offset: int) -> None:
    with share.open(there, "r+b") as file:
        for operation in (
            lambda: file.pread(5000, offset),
            lambda: file.pwrite(b"x" * 5000, offset),
            lambda: file.truncate(offset + 1 if offset > 0 else offset),
            lambda: file.lock(offset, 1),
            lambda: file.unlock(offset, 1),
        ):
            with refused(InvalidParameter, RangeNotLocked):
                operation()
        assert file.stat().size == 10
        assert file.pread(99, 0) == b"0123456789"


@pytest.mark.parametrize("length", [-1, 2**63, 2**64, 2**100])
def test_a_length_that_is_none_is_refused(share: sofs.Share, there: str, length: int) -> None:
    with share.open(there, "r+b") as file:
        for operation in (lambda: file.pread(length, 0), lambda: file.lock(0, length)):
            with refused(InvalidParameter):
                operation()


def test_a_huge_read_returns_what_there_is(share: sofs.Share, there: str) -> None:
    with share.open(there, "rb") as file:
        assert file.pread(2**40, 0) == b"0123456789"
        assert file.pread(2**40, 2**40) == b""


def test_a_file_may_end_at_the_largest_size_and_holds_only_what_was_written(
    share: sofs.Share,
) -> None:
    with share.open("/sparse", "x+b", delete_on_close=True) as file:
        file.pwrite(b"end", FILE_BYTES_MAX - 3)
        assert file.stat().size == FILE_BYTES_MAX
        assert file.pread(3, FILE_BYTES_MAX - 3) == b"end"
        assert file.pread(10, 0) == bytes(10)
        with refused(InvalidParameter):
            file.append(b"x")
        assert file.stat().size == FILE_BYTES_MAX


@pytest.mark.parametrize("value", [-1, 2**32, 2**63, 2**64, 2**100, 1 << 20])
def test_attributes_and_times_that_do_not_fit_are_refused(
    share: sofs.Share, there: str, value: int
) -> None:
    before = share.stat(there)
    with refused(InvalidParameter):
        share.set_attributes(there, value)
    if value >= 2**63:
        with refused(InvalidParameter):
            share.set_times(there, modified_ns=value)
        with refused(InvalidParameter):
            share.set_times(there, modified_ns=-value - 1)
    assert share.stat(there) == before


@pytest.mark.parametrize("mode", ["", "r", "zz", "rwb", "rb++", "r+", "br+x"])
def test_a_mode_that_is_none_is_refused(share: sofs.Share, there: str, mode: str) -> None:
    with refused(InvalidParameter):
        share.open(there, mode)


def test_a_handle_timeout_that_does_not_fit_is_refused(share: sofs.Share, there: str) -> None:
    for timeout_ms in (-1, 2**64, 2**100):
        with refused(InvalidParameter):
            share.open(there, "rb", timeout_ms=timeout_ms)


def test_more_lock_ranges_than_a_request_takes_are_refused_and_none_is_locked(
    share: sofs.Share, there: str
) -> None:
    with share.open(there, "r+b") as file, share.open(there, "r+b") as other:
        ranges = [LockRange(i * 10, 1, True) for i in range(LOCK_RANGES_MAX + 1)]
        with refused(InvalidParameter):
            file.lock_ranges(ranges)
        with refused(InvalidParameter):
            file.lock_ranges([])
        other.lock_ranges(ranges[:-1], wait=False)


def test_more_locks_than_a_handle_holds_are_refused_and_the_held_ones_stay(
    share: sofs.Share, there: str
) -> None:
    with share.open(there, "r+b") as file:
        for first in range(0, HANDLE_LOCKS_MAX, LOCK_RANGES_MAX):
            ranges = [LockRange(first + i, 1, True) for i in range(LOCK_RANGES_MAX)]
            file.lock_ranges(ranges, wait=False)
        with refused(LimitReached):
            file.lock(2**40, 1, wait=False, deadline_ms=500)
        file.unlock(0, 1)
        file.lock(2**40, 1, wait=False)


def test_a_closed_file_and_a_closed_share_refuse_everything(cluster: LocalCluster) -> None:
    share = sofs.connect(cluster.url, credential=cluster.credential, witness=False)
    file = share.open("/closed", "w+b")
    file.write(b"x")
    file.close()
    for operation in (
        lambda: file.pread(1, 0),
        lambda: file.pwrite(b"y", 0),
        lambda: file.truncate(0),
        lambda: file.lock(0, 1),
        lambda: file.stat(),
    ):
        with pytest.raises(FileClosed):
            operation()
    share.close()
    with pytest.raises((FileClosed, Unavailable), match="closed"):
        share.read_file("/closed")


def test_writing_through_a_handle_for_reading_is_refused(share: sofs.Share, there: str) -> None:
    with share.open(there, "rb") as file:
        for operation in (lambda: file.pwrite(b"x", 0), lambda: file.truncate(0)):
            with pytest.raises((AccessDenied, OSError)):
                operation()
    assert share.read_file(there) == b"0123456789"


def test_an_unknown_share_is_refused_with_the_name_of_the_one_there_is(
    cluster: LocalCluster,
) -> None:
    url = cluster.url.rpartition("/")[0] + "/nosuch"
    with refused(BadNetworkName):
        sofs.connect(url, credential=cluster.credential, connect_timeout_ms=10_000)
    with pytest.raises(BadNetworkName, match="'share'"):
        sofs.connect(url, credential=cluster.credential, connect_timeout_ms=10_000)


@pytest.mark.parametrize("credential", ["wrong", "x" * 43, "not printable\n", "\u00e9"])
def test_a_wrong_credential_is_refused_at_once(cluster: LocalCluster, credential: str) -> None:
    with pytest.raises((CredentialRefused, InvalidParameter)):
        sofs.connect(cluster.url, credential=credential, connect_timeout_ms=10_000)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1/share",
        "sofs://127.0.0.1:7440",
        "sofs://127.0.0.1:7440/",
        "sofs:///share",
        "sofs://127.0.0.1:99999/share",
        "sofs://127.0.0.1:x/share",
        "sofs://user@127.0.0.1/share",
        "sofs://127.0.0.1/a/b",
        "sofs://127.0.0.1/a%00b",
    ],
)
def test_a_bad_url_is_refused(url: str) -> None:
    with refused(InvalidParameter):
        sofs.connect(url, credential="x")
