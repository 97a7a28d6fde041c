"""What a checker says.

A checker returns a list; an empty one is the only way to pass. What it could not decide within its
limit stands in the list too (``decided`` is False): nobody may take it for a pass by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sofs.sim.history import History, Operation


@dataclass(frozen=True)
class Violation:
    """A broken promise, or one that could not be decided."""

    checker: str
    message: str
    operations: tuple[Operation, ...] = ()
    decided: bool = True

    def __str__(self) -> str:
        head = self.checker if self.decided else f"{self.checker} (undecided)"
        return f"{head}: {self.message}"

    def story(self, history: History) -> str:
        """The message and the operations around those involved."""
        if not self.operations:
            return str(self)
        return f"{self}\n{history.window(self.operations)}"


def stories(history: History, found: Sequence[Violation], violations_max: int = 3) -> str:
    """All messages; the first ``violations_max`` with their operations. For a failing test."""
    told = [v.story(history) for v in found[:violations_max]]
    told += [str(v) for v in found[violations_max : 10 * violations_max]]
    if len(found) > 10 * violations_max:
        told.append(f"... and {len(found) - 10 * violations_max} more")
    return "\n\n".join(told)


def named(operations: Iterable[Operation]) -> str:
    """Operations by their numbers, for a message."""
    return ", ".join(f"#{o.number}" for o in operations)
