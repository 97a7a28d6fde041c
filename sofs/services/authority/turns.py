"""One at a time for each file, in the order of asking; a table of what is in use and nothing else.

Who waits counts as a user: between the moment a turn is given back and the moment the next one
wakes, the lock is free, and forgetting it then would let a third one in beside the second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turn:
    """A file's lock with everybody who has it or waits for it."""

    __slots__ = ("ino", "lock", "users")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.lock = asyncio.Lock()
        self.users = 0


class Turns:
    """Turns by file number."""

    def __init__(self) -> None:
        self._turns: dict[int, Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    async def take(self, ino: int) -> Turn:
        """Return when it is the caller's turn; it ends with ``give_back``."""
        turn = self._turns.get(ino)
        if turn is None:
            turn = self._turns[ino] = Turn(ino)
        turn.users += 1
        try:
            await turn.lock.acquire()
        except BaseException:
            self._left(turn)
            raise
        return turn

    def give_back(self, turn: Turn) -> None:
        turn.lock.release()
        self._left(turn)

    @asynccontextmanager
    async def held(self, ino: int) -> AsyncIterator[None]:
        """Inside the block it is the caller's turn."""
        turn = await self.take(ino)
        try:
            yield
        finally:
            self.give_back(turn)

    def _left(self, turn: Turn) -> None:
        turn.users -= 1
        if not turn.users:
            del self._turns[turn.ino]
