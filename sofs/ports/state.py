"""The state database: tables of an authority, whose committed changes leave as changesets.

Synchronous and in memory: statements take microseconds, nothing here waits. Semantics are SQLite's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

Value = int | float | str | bytes | None
Row = tuple[Value, ...]


class StateDatabase(Protocol):
    """One authority's tables; one writer, on the event loop."""

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> Iterator[Row]:
        """Run one statement (statements are cached by text) and return its rows."""
        ...

    def one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """Run one query and return its first row, or None."""
        ...

    def changes(self) -> int:
        """Return how many rows were ever changed, those of rolled back transactions included."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """All statements inside take effect together, or not at all when the block raises."""
        ...

    def take_changeset(self) -> bytes:
        """Return all changes of transactions since the last call as one changeset (b"" when
        none)."""
        ...

    def apply_changesets(self, changesets: Sequence[bytes]) -> None:
        """Apply changesets of another database in order; a conflict is an InvariantViolation."""
        ...

    def serialize(self) -> bytes:
        """Return the whole database as bytes (checkpoint)."""
        ...

    def load(self, image: bytes) -> None:
        """Replace the whole database by a serialized image."""
        ...

    def close(self) -> None: ...
