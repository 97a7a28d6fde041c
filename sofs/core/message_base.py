"""What makes a dataclass a message: the base class, and the table of messages by their tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar


class Message:
    """Base of all messages that may stand in an envelope."""

    __slots__ = ()


M = TypeVar("M", bound=type)
MESSAGES: dict[int, type[Message]] = {}


def message(tag: int) -> Callable[[M], M]:
    """Register a message under its field number in ``Envelope.body``."""

    def register(cls: M) -> M:
        if tag in MESSAGES or tag < 16:
            raise TypeError(f"message tag {tag} is taken or reserved")
        MESSAGES[tag] = cls
        return cls

    return register
