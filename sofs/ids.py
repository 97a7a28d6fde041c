"""Typed identifiers and positions.

Identifiers of 128 bits are ``bytes`` of length 16 drawn from the Entropy port; numbers are given
out by the authority of a volume and never reused. ``NewType`` keeps them apart for mypy at no cost
at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NewType

ID_BYTES: Final = 16

Incarnation = NewType("Incarnation", bytes)
"""One service object's life (R2): 16 random bytes, never reused, never continued by a restart."""
ClientId = NewType("ClientId", bytes)
"""One client process's identity: 16 random bytes, stable over its reconnects and failovers."""
CreateGuid = NewType("CreateGuid", bytes)
"""Chosen by the client for each create; the secret half of a reclaim (semantics: persistent
handles)."""
AppInstanceId = NewType("AppInstanceId", bytes)
"""Names an application across restarts of its process and host; empty when not used."""
HandleId = NewType("HandleId", int)
"""A persistent handle on one volume; given out by the authority, starts at 1."""
Ino = NewType("Ino", int)
"""A file or directory on one volume; the root directory is 1."""
LogId = NewType("LogId", int)
"""A data log on one volume, interned by the authority; extents name it; starts at 1."""
Epoch = NewType("Epoch", int)
"""Number of a claim on a role; contiguous from 1; the highest claim is the owner (R1)."""
Sequence = NewType("Sequence", int)
"""Number of a record in the history of a role; starts at 1, continues over epochs."""

NO_INCARNATION: Final = Incarnation(b"")
ROOT_INO: Final = Ino(1)


@dataclass(frozen=True, order=True, slots=True)
class Position:
    """A point in the history of a role: the record ``sequence`` as written by the owner of
    ``epoch``."""

    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.sequence}"


def short(identifier: bytes) -> str:
    """Return the first 8 hex digits of an identifier, for people; never parsed back."""
    return identifier.hex()[:8]
