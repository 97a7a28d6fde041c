"""What a life keeps in mind of its own log."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from sofs.core.entries import CheckpointRef, Lineage
from sofs.ids import Epoch, Incarnation, Position
from sofs.ports.log import Claim
from sofs.services.authority.checkpoints import Checkpoints


class _Fenced:
    """Remembers what was deleted of the own log."""

    def __init__(self) -> None:
        self.below: list[int] = []

    async def list_objects(self, prefix: str) -> list[str]:
        return []

    async def delete_segments(self, claim: Claim, *, below_segment: int, keep_first: bool) -> int:
        self.below.append(below_segment)
        return 0


class _Group:
    async def write(self, entry: object) -> None:
        return


def test_segments_that_a_checkpoint_covers_are_forgotten() -> None:
    """On slots each batch is one: a life of days has millions."""
    fenced = _Fenced()
    env: Any = SimpleNamespace(fenced=fenced)
    claim = Claim("volume", Epoch(1), Incarnation(b"i" * 16), b"n" * 16, "a:1")
    group: Any = _Group()
    nothing: Any = None
    made = Checkpoints(env, claim, Lineage(None, ()), nothing, group, nothing)

    async def life() -> None:
        for sequence in range(1, 1_001):
            made.logged(sequence, sequence - 1)
            if sequence % 100 == 0:
                position = Position(1, sequence)
                await made.name(CheckpointRef(f"checkpoints/{sequence:06d}", position, 0, 0, 1))
        for sequence in range(1_001, 1_011):
            made.logged(sequence, sequence - 1)

    asyncio.run(life())
    assert fenced.below == [99 + 100 * n for n in range(10)]
    assert len(made._segments) == 11
