"""Messages as bytes, for what is stored (results of operations): the wire form of one message
body."""

from __future__ import annotations

from typing import Protocol

from sofs.core.messages import Message


class MessageCodec(Protocol):
    def encode(self, body: Message) -> bytes:
        """Return the message with its tag as bytes; decode gives an equal message back."""
        ...

    def decode(self, data: bytes) -> Message:
        """Raises ProtocolError for bytes that are no message."""
        ...
