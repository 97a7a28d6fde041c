"""Whole directory trees, made of single calls: none of this is atomic."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from sofs.client.modes import PathLike, clean_path
from sofs.core.names import split_path
from sofs.errors import NotADirectory, ObjectNameCollision, ObjectNameNotFound

if TYPE_CHECKING:
    from sofs.client.aio import AsyncShare

WalkStep = tuple[str, list[str], list[str]]


def join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"


async def makedirs(share: AsyncShare, path: PathLike, *, exist_ok: bool) -> None:
    """Create ``path`` and its missing parents, from the deepest existing one down."""
    names = split_path(clean_path(path))
    for depth in range(1, len(names) + 1):
        part = "/" + "/".join(names[:depth])
        last = depth == len(names)
        try:
            if not last and (await share.stat(part)).is_directory:
                continue
        except ObjectNameNotFound:
            pass
        try:
            await share.mkdir(part)
        except ObjectNameCollision:
            if last and not exist_ok:
                raise
            if not (await share.stat(part)).is_directory:
                if last:
                    raise
                raise NotADirectory(f"{part} is a file; remove or rename it") from None


async def walk(share: AsyncShare, top: PathLike) -> AsyncGenerator[WalkStep, None]:
    """Yield (directory, directories, files) from the top down; names the caller removes from the
    list of directories are not entered."""
    waiting = [clean_path(top)]
    while waiting:
        directory = waiting.pop()
        directories: list[str] = []
        files: list[str] = []
        async for entry in share.scandir(directory):
            (directories if entry.is_directory else files).append(entry.name)
        yield directory, directories, files
        waiting.extend(join(directory, name) for name in reversed(directories))


async def rmtree(share: AsyncShare, path: PathLike) -> None:
    """Delete everything below ``path`` and itself."""
    found: list[str] = []
    async for directory, _, files in walk(share, path):
        found.append(directory)
        for name in files:
            await share.unlink(join(directory, name))
    for directory in reversed(found):
        if directory != "/":
            await share.rmdir(directory)
