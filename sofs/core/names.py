"""Names and paths of a volume: what is valid, and how a path is taken apart.

A path is a list of names joined by "/"; a leading "/" changes nothing ("/a/b" and "a/b" are the
same file); "" and "/" are the root. A name is any UTF-8 text of 1 to NAME_BYTES_MAX bytes without
NUL and "/", except "." and "..": the server resolves no dots, since a client that resolved them
differently would touch another file. Names differ when their bytes differ; no case folding, no
normalization.
"""

from __future__ import annotations

from sofs.constants import NAME_BYTES_MAX, PATH_BYTES_MAX
from sofs.errors import InvalidName


def split_path(path: str) -> list[str]:
    """Return the names of a path, [] for the root; InvalidName says which name is bad and why."""
    n_bytes = len(path) if path.isascii() else _utf8_bytes(path)
    if n_bytes > PATH_BYTES_MAX:
        raise InvalidName(f"the path has {n_bytes} bytes; at most {PATH_BYTES_MAX} are allowed")
    if "\0" in path:
        raise InvalidName(f"the path {path!r} holds a NUL")
    names = path.split("/")
    if not names[0]:
        del names[0]
    if not names or names == [""]:
        return []
    for name in names:
        if len(name) * 4 > NAME_BYTES_MAX or name in ("", ".", ".."):
            _check(name, path)
    return names


def _check(name: str, path: str) -> None:
    if not name:
        raise InvalidName(f"the path {path!r} holds an empty name")
    if name in (".", ".."):
        raise InvalidName(f"the path {path!r} holds {name!r}; resolve it before the call")
    if _utf8_bytes(name) > NAME_BYTES_MAX:
        raise InvalidName(f"the name {name[:40]!r}... is longer than {NAME_BYTES_MAX} bytes")


def _utf8_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InvalidName(f"{text[:40]!r} is not UTF-8 (it holds a lone surrogate)") from None
