"""Views of a folder that lie, each in one way: what the probes of R11 stand against."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sofs.storage.oscalls import OsCalls


class OtherHost(OsCalls):
    """The same folder, or another one, as a process on another machine sees it."""

    def host(self) -> str:
        return "another machine"


class CachedAbsence(OsCalls):
    """A client of a network file system: a name that was absent once stays absent for a while."""

    def __init__(self) -> None:
        self._absent: set[str] = set()

    def stat_at(self, name: str, folder_fd: int) -> None:
        if name in self._absent:
            raise FileNotFoundError(2, "cached as absent", name)
        try:
            super().stat_at(name, folder_fd)
        except FileNotFoundError:
            self._absent.add(name)
            raise


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs; skips where that is not permitted."""
    folder.mkdir()
    _mount("tmpfs", options, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def overlay(lower: Path, name: str) -> Iterator[Path]:
    """Mount a private overlay over ``lower``; skips where that is not permitted."""
    # The upper layer may not be on an overlay itself, as the disk of a container often is.
    with tmpfs(lower.parent / f"overlay-{name}", "size=32m") as base:
        for part in ("upper", "work", "merged"):
            (base / part).mkdir()
        options = f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work"
        _mount("overlay", options, base / "merged")
        try:
            yield base / "merged"
        finally:
            subprocess.run(["umount", "-l", str(base / "merged")], check=True)


def _mount(kind: str, options: str, folder: Path) -> None:
    command = ["mount", "-t", kind, "-o", options, "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a {kind} cannot be mounted here: {done.stderr.strip()}")


def fill(folder: Path) -> None:
    """Take all space of the folder's file system."""
    with (folder / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)) == 4096:
            continue


def copy_of(root: Path, name: str) -> Path:
    """A copy of a volume's folder, with the same uuids and claims."""
    target = root.parent / name
    shutil.copytree(root, target, ignore=lambda folder, names: [n for n in names if n[0] == "."])
    assert os.listdir(target)
    return target
