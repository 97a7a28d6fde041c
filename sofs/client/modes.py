"""Python's open modes as what an open asks of the server, and checks of arguments before
sending."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from sofs.constants import FILE_BYTES_MAX
from sofs.core.messages import Access, Disposition
from sofs.core.names import split_path
from sofs.errors import InvalidParameter
from sofs.ports.store import Buffer

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Mode:
    """``text``: the canonical spelling."""

    text: str
    access: Access
    disposition: Disposition
    readable: bool
    writable: bool
    appends: bool = False


_READ: Final = Access.READ | Access.READ_ATTRIBUTES
_WRITE: Final = Access.WRITE | Access.READ_ATTRIBUTES | Access.WRITE_ATTRIBUTES
_BOTH: Final = _READ | _WRITE
_APPEND: Final = _WRITE | Access.APPEND
_MODES: Final = {
    mode.text: mode
    for mode in (
        Mode("rb", _READ, Disposition.OPEN, True, False),
        Mode("r+b", _BOTH, Disposition.OPEN, True, True),
        Mode("wb", _WRITE, Disposition.OVERWRITE_IF, False, True),
        Mode("w+b", _BOTH, Disposition.OVERWRITE_IF, True, True),
        Mode("ab", _APPEND, Disposition.OPEN_IF, False, True, appends=True),
        Mode("a+b", _APPEND | _READ, Disposition.OPEN_IF, True, True, appends=True),
        Mode("xb", _WRITE, Disposition.CREATE, False, True),
        Mode("x+b", _BOTH, Disposition.CREATE, True, True),
    )
}


def parse_mode(text: str) -> Mode:
    """Return the mode spelled in any of Python's orders ("rb+", "r+b"); InvalidParameter for a text
    mode or an unknown one."""
    kinds = [c for c in text if c in "rwax"]
    if len(set(text)) != len(text) or len(kinds) != 1 or set(text) - set("rwaxb+"):
        raise InvalidParameter(f"mode {text!r}: use one of {', '.join(_MODES)}")
    if "b" not in text:
        raise InvalidParameter(
            f"mode {text!r}: files are opened in binary mode; add 'b', and wrap the file in "
            "io.TextIOWrapper for text"
        )
    return _MODES[f"{kinds[0]}{'+' if '+' in text else ''}b"]


def clean_path(path: PathLike) -> str:
    """Return a path in the form that is sent, "/a/b"; InvalidName says what is wrong with it."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise InvalidParameter(f"the path {text!r} must be str, not {type(text).__name__}")
    return "/" + "/".join(split_path(text))


def check_range(offset: int, n_bytes: int, what: str) -> None:
    """InvalidParameter unless ``[offset, offset + n_bytes)`` lies inside the largest file."""
    if offset < 0:
        raise InvalidParameter(f"{what}: the offset {offset} is negative")
    if n_bytes < 0:
        raise InvalidParameter(f"{what}: the length {n_bytes} is negative")
    if offset + n_bytes > FILE_BYTES_MAX:
        raise InvalidParameter(
            f"{what}: offset {offset} and length {n_bytes} end beyond the largest file size, "
            f"{FILE_BYTES_MAX}"
        )


def own_bytes(data: Buffer | object) -> bytes:
    """Return ``data`` as bytes that nobody can change while they may still be sent."""
    if type(data) is bytes:
        return data
    return bytes(memoryview(data))  # type: ignore[arg-type]  # TypeError for what is no buffer.
