"""Attaching to a root: the right driver for a URL, and a probe that fails closed (R11).

The probe does, with names of its own, what the protocols stand on: it creates one key twice, lets
RACE_THREADS threads create one key at the same time several times over, reads and lists what
was written, and deletes it. A backend that does any of it wrongly is refused with the name of what
it lacks. A probe can only refuse, never prove: so append roots must also be on a file system of
the allow-list, where the claim check (a look-up in a folder) is known to be coherent. Network and
FUSE file systems cache absent names, and private overlays give each mount its own answer.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sofs.errors import BackendRefused, FormatRefused, ReadOnlyBackend, SofsError, StoreFailed
from sofs.ports.store import AppendStore, Store, Won
from sofs.storage.ballast import Ballast
from sofs.storage.local import LocalAppendStore
from sofs.storage.oscalls import OsCalls, store_error
from sofs.storage.roots import CLUSTER_KEY, VOLUME_KEY, decode_root
from sofs.storage.slots import MemorySlotStore

APPEND_FILE_SYSTEMS: Final = frozenset({"ext4", "xfs", "btrfs", "tmpfs"})
RACE_THREADS: Final = 8
RACE_ROUNDS: Final = 6
RACE_ROUNDS_REMOTE: Final = 2
_RACE_SWITCH_S: Final = 1e-6
_MOUNTS: Final = "/proc/self/mountinfo"

Chance = Callable[[int], bytes]
Together = Callable[[Sequence[Callable[[], None]]], None]


def attach(
    url: str,
    *,
    cluster: bytes | None = None,
    probe: bool = True,
    make: bool = True,
    ballast: str = "",
    calls: OsCalls | None = None,
) -> Store:
    """Return the probed Store of ``url`` (a path, ``file://``, ``memory://`` or ``s3://``).
    Blocks.

    ``cluster``: uuid that the root must belong to, unless it is fresh. A folder that does not
    exist is created, unless ``make`` is false: then it is BackendRefused. ``ballast``: the part
    whose ballast the probe may use up on a full disk.

    Raises BackendRefused (naming what the backend lacks), ReadOnlyBackend, DiskFull, FormatRefused
    (the root belongs to another cluster or format), StoreFailed.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "memory":
        store: Store = MemorySlotStore(url)
    elif separator and scheme == "s3":
        from sofs.storage.s3 import S3SlotStore  # Its libraries take a second to import.

        store = S3SlotStore(url)
    elif not separator or scheme in ("file", "local"):
        local = LocalAppendStore(url, calls=calls)
        if make:
            _make_root(local)
        elif not Path(local.root).is_dir():
            raise BackendRefused(f"there is no folder {local.root}; name a cluster's root")
        check_file_system(local.root)  # Also without the probe: it needs no space.
        store = local
    else:
        raise BackendRefused(
            f"there is no driver of our own for {scheme}://, and fsspec's generic calls cannot "
            "create exclusively; use s3://, or a local path or file:// on ext4, xfs, btrfs or tmpfs"
        )
    if cluster is not None:
        check_cluster(store, cluster)
    if probe and isinstance(store, LocalAppendStore) and ballast:
        local = store
        Ballast(local, ballast).relieve(lambda: _probe_all(local))
    elif probe:
        _probe_all(store)
    return store


def _probe_all(store: Store) -> None:
    run_probe(store, races=_races(store))
    if isinstance(store, LocalAppendStore):
        probe_append(store)
        store.clean_temporaries()


def _make_root(store: LocalAppendStore) -> None:
    try:
        Path(store.root).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise BackendRefused(
            f"the root {store.url} is, or is below, a file; give a folder"
        ) from error
    except OSError as error:
        raise store_error(error, "create the root", store.url) from error


def check_writable(store: Store) -> None:
    """Raise ReadOnlyBackend for a folder that this process may not write to. It takes no space."""
    if isinstance(store, LocalAppendStore) and not os.access(store.root, os.W_OK):
        raise ReadOnlyBackend(
            f"{store.url} cannot be written to; mount it writable or fix its permissions"
        )


def check_cluster(store: Store, cluster: bytes) -> None:
    """Raise FormatRefused when the root belongs to another cluster."""
    for key in (CLUSTER_KEY, VOLUME_KEY):
        data = store.get(key)
        if data is not None and decode_root(data, key).cluster != cluster:
            raise FormatRefused(
                f"{store.url} belongs to another cluster (see {key}); use a root of its own"
            )


def file_system_of(path: str, mounts: str = _MOUNTS) -> str:
    """Return the type of the file system that ``path`` lies on, from the mount table."""
    real = os.path.realpath(path)
    best, found = "", "unknown"
    try:
        lines = Path(mounts).read_text().splitlines()
    except OSError as error:
        raise BackendRefused(f"the mount table {mounts} cannot be read: {error}") from error
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(
            best
        ):  # Of two mounts at one point the later one is on top.
            best, found = point, right.split()[0]
    return found


def check_file_system(path: str, mounts: str = _MOUNTS) -> None:
    """Raise BackendRefused unless ``path`` is on a file system known to be coherent."""
    kind = file_system_of(path, mounts)
    if kind not in APPEND_FILE_SYSTEMS:
        raise BackendRefused(
            f"{path} is on {kind}, which is not known to show a new name to all at once; "
            f"use one of {', '.join(sorted(APPEND_FILE_SYSTEMS))}"
        )


def _races(store: Store) -> int:
    """How many rounds of racing creates to run. Whether a service decides them well does not depend
    on who asks, and they take seconds there: so only until a root was made on it. What a folder
    does may depend on how this host mounts it."""
    if not getattr(store, "remote", False):
        return RACE_ROUNDS
    known = any(store.get(key) is not None for key in (CLUSTER_KEY, VOLUME_KEY))
    return 0 if known else RACE_ROUNDS_REMOTE


def run_probe(
    store: Store,
    *,
    races: int = RACE_ROUNDS,
    chance: Chance = os.urandom,
    together: Together | None = None,
) -> None:
    """Probe what every Store needs. Raises BackendRefused naming the first thing that it lacks.
    ``chance`` and ``together`` (which runs all calls at the same time) are replaced by the
    simulator."""
    folder = f"probes/{chance(8).hex()}"
    threads = partial(_on_threads, quick=not getattr(store, "remote", False))
    try:
        _probe_create(store, f"{folder}/twice", chance)
        for index in range(races):
            _probe_race(store, f"{folder}/race-{index}", chance, together or threads)
        _probe_visible(store, folder, chance)
        _probe_delete(store, folder)
    finally:
        _clean(store, folder)


def _clean(store: Store, folder: str) -> None:
    try:
        for key in store.list(folder):
            store.delete(key)
        if isinstance(store, LocalAppendStore):
            with contextlib.suppress(OSError):  # Of a store in memory, or somebody looks into it.
                Path(store.root, folder).rmdir()
    except SofsError:
        return  # The probe's own error matters more; its names are under probes/ and harmless.


def _need(condition: bool, store: Store, what: str) -> None:
    if not condition:
        raise BackendRefused(f"{store.url}: {what}; use a backend that can")


def _probe_create(store: Store, key: str, chance: Chance) -> None:
    first, second = chance(16), chance(16)
    _need(store.get(key) is None, store, "a name that nobody created is there")
    _need(isinstance(store.put_if_absent(key, first), Won), store, "a fresh name is not free")
    outcome = store.put_if_absent(key, second)
    _need(not isinstance(outcome, Won), store, "it lacks exclusive create: the second one won too")
    _need(
        store.get(key) == first, store, "it lacks exclusive create: the second overwrote the first"
    )
    _need(
        isinstance(store.put_if_absent(key, first), Won),
        store,
        "a repeated create does not recognise its own object",
    )


def _probe_race(store: Store, key: str, chance: Chance, together: Together) -> None:
    tokens = [chance(16) for _ in range(RACE_THREADS)]
    won: list[bytes] = []
    errors: list[BaseException] = []

    def race(token: bytes) -> None:
        try:
            if isinstance(store.put_if_absent(key, token), Won):
                won.append(token)
        except Exception as error:
            errors.append(error)

    together([partial(race, token) for token in tokens])
    if errors:
        raise errors[0]
    _need(
        len(won) == 1, store, f"it lacks exclusive create: {len(won)} of {RACE_THREADS} threads won"
    )
    _need(
        store.get(key) == won[0], store, "it lacks exclusive create: the object is not the winner's"
    )


def _on_threads(calls: Sequence[Callable[[], None]], *, quick: bool) -> None:
    """Run the calls at the same time, each on a thread. ``quick``: switch between them often."""
    barrier = threading.Barrier(len(calls))

    def begin(call: Callable[[], None]) -> None:
        barrier.wait()
        call()

    threads = [threading.Thread(target=begin, args=(call,)) for call in calls]
    interval = sys.getswitchinterval()
    if quick:
        sys.setswitchinterval(_RACE_SWITCH_S)  # Else a create of one process looks atomic by luck.
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def _probe_visible(store: Store, folder: str, chance: Chance) -> None:
    key, data = f"{folder}/read", chance(4096)
    store.put_if_absent(key, data)
    _need(store.get(key) == data, store, "it does not return what was written")
    _need(
        store.read(key, 100, 50) == data[100:150], store, "it does not return the range asked for"
    )
    _need(store.read(key, 4000, 500) == data[4000:], store, "it reads beyond an object's end")
    _need(key in store.list(folder), store, "a listing lacks what was written before it")


def _probe_delete(store: Store, folder: str) -> None:
    key = f"{folder}/read"
    store.delete(key)
    store.delete(key)
    _need(store.get(key) is None, store, "a deleted object is still there")
    _need(key not in store.list(folder), store, "a listing shows what was deleted before it")


def probe_append(store: AppendStore, *, chance: Chance = os.urandom) -> None:
    """Probe segments and guards. Raises BackendRefused naming the first thing that fails."""
    folder = f"probes/{chance(8).hex()}"
    try:
        guard = store.open_guard(folder)
        try:
            _need(guard.absent("name"), store, "a guard sees a name that nobody created")
            store.put_if_absent(f"{folder}/name", chance(16))
            _need(not guard.absent("name"), store, "a guard does not see a name that was created")
        finally:
            guard.close()
        segment = store.create_segment(f"{folder}/segment", zero_fill_bytes=8192)
        try:
            segment.write(4096, [b"so", b"fs"])
            segment.sync()
        finally:
            segment.close()
        reader = store.open_segment(f"{folder}/segment")
        try:
            reader.sync_and_drop()
            got = reader.read(4094, 8)
            _need(got == b"\0\0sofs\0\0", store, "a segment does not return what was written")
        finally:
            reader.close()
        _refuses_second_segment(store, f"{folder}/segment")
    finally:
        _clean(store, folder)


def _refuses_second_segment(store: AppendStore, key: str) -> None:
    try:
        store.create_segment(key, zero_fill_bytes=0).close()
    except StoreFailed:
        return
    raise BackendRefused(
        f"{store.url}: a segment's name was given out twice; use a backend that can"
    )
