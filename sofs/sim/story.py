"""The story of a run for people: who did what when, in virtual time, in 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from sofs.sim.run import Outcome

COLUMNS = 100
_INDENT = " " * 29


def lines(outcome: Outcome, keys: str = "") -> Iterator[str]:
    """Yield the story: what parts said, faults, and operations (``->`` sent, ``<-`` answered).
    ``keys``: only operations on keys that hold this text."""
    events = [(at, n, who, text) for n, (at, who, text) in enumerate(outcome.story)]
    history = outcome.history
    for o in history.operations if history is not None else []:
        if keys not in o.key and keys not in str(o.arguments):
            continue
        events.append((o.called_us, o.called, o.client, f"-> {o.text().rpartition(') ')[0]})"))
        if o.returned is not None and o.returned_us is not None:
            told = o.text().rpartition(") ")[2]
            events.append((o.returned_us, o.returned, o.client, f"<- #{o.number} {told}"))
    events.sort(key=lambda event: (event[0], event[1]))
    for at_us, _, who, text in events:
        yield from _wrapped(f"{at_us / 1000:11.3f} ms  {who:<13} ", text)


def _wrapped(head: str, text: str) -> Iterator[str]:
    """The text behind its head, in as many lines as it takes."""
    for line in text.splitlines() or [""]:
        for piece in textwrap.wrap(line, COLUMNS - len(head), drop_whitespace=False) or [""]:
            yield f"{head}{piece}".rstrip()
            head = _INDENT
