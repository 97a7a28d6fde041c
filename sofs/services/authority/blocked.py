"""What stands in the way of an operation and must be cleared by asking nodes, before its rules are
run again from the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class TokenRef(NamedTuple):
    """A file token that the node ``incarnation`` holds."""

    ino: int
    incarnation: bytes
    generation: int


class HandleRef(NamedTuple):
    """A handle that is connected through the node ``incarnation``."""

    handle: int
    generation: int
    incarnation: bytes


class Blocked(Exception):
    """Not an answer: recall the tokens, detach the handles (``code`` tells their client why, ""
    when it is the client itself that moved), seal the nodes, release disconnected handles for good
    (in favour of ``client``); then call the method again from the start.

    The transaction in which it is raised rolls back, so a method may raise it at any point.
    """

    def __init__(
        self,
        *,
        recall: Sequence[TokenRef] = (),
        detach: Sequence[HandleRef] = (),
        seal: Sequence[bytes] = (),
        release: Sequence[int] = (),
        code: str = "",
        client: bytes = b"",
    ) -> None:
        super().__init__(
            f"recall {list(recall)}, detach {list(detach)}, seal {list(seal)}, "
            f"release {list(release)}"
        )
        self.recall = list(recall)
        self.detach = list(detach)
        self.seal = list(seal)
        self.release = list(release)
        self.code = code
        self.client = client
