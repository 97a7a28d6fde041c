"""Deletion: checkpoints, the segments below them, and readers that are late (R10).

What is modelled. The owner of epoch 1 has a checkpoint (c0) and the log since then, in segments 1
and 2. It makes a newer checkpoint (c1, of all that segment 1 brings), names it in its log, writes
the boundary, and deletes c0 and segment 1. Two successors may read at any moment of this: each
takes the newest checkpoint that the log names, loads it, and replays what follows. So a successor
that read the log before c1 was named is a late reader with an older checkpoint. Power may fail once
and take what was not synced. The owner may have a write under way that lands in a segment long
after that was deleted.

| step | code |
|---|---|
| ``makes c1`` | ``take_checkpoint``: an object, durable before it is named |
| ``names c1``, ``syncs``, ``checks`` | ``Checkpoints.name``: ``GroupLog.write(CheckpointEntry)`` |
| ``writes the boundary``, ... | ``Checkpoints._delete_needless``: ``GroupLog.write(Boundary)`` |
| ``deletes c0``, ``deletes segment 1`` | the same; ``delete_segments``, ``keep_first`` |
| ``reads the log`` | ``StoreRecovery.derive_lineage``: ``_newest_checkpoint``, else the lineage's |
| ``syncs what it read`` | ``seal_append_log`` |
| ``loads``, ``replays`` | ``StoreRecovery.replay``: a missing object or segment is ``Corrupt`` |
| ``a late write lands`` | a pwrite of an owner that was frozen; names are never used again (R6) |

A finding: the boundary record is not what makes deleting safe here, the acknowledged entry is. The
variant ``deletes before the boundary`` is therefore not among the broken rules: see ``Boundless``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Final, NamedTuple

from .explore import Model

FOUND: Final = "recovery finds what it needs"
KEPT: Final = "records stay as they were written"
GONE: Final = 0
CACHE: Final = 1
DEVICE: Final = 2


class Reader(NamedTuple):
    """A successor. ``at``: what it does next. ``start``: the checkpoint that it takes."""

    at: str = ""
    start: int = -1


class State(NamedTuple):
    owner: str  # What it does next.
    entry: int  # Where the record is that names c1.
    boundary: int
    c0: bool
    c1: bool
    first: bool  # Segment 0, with the lineage.
    older: bool  # Segment 1.
    late: bool  # A write of the owner is under way.
    second: Reader
    third: Reader
    damaged: bool  # The log of epoch 2.
    losses: int
    broken: str


class Deletion(Model[State]):
    """See the module."""

    name = "deletion"
    boundary: ClassVar[bool] = True
    variants: ClassVar[Mapping[str, str]] = {
        "deletes before the entry is synced": FOUND,
        "deletes before the claim check": FOUND,
        "the object is made after it is named": FOUND,
        "the lineage's segment goes, too": FOUND,
        "a segment name is used again by another log": KEPT,
    }

    def initial(self) -> Iterable[State]:
        yield State(
            "makes", GONE, GONE, True, False, True, True, True, Reader(), Reader(), False, 1, ""
        )

    def invariants(self) -> Mapping[str, Callable[[State], bool]]:
        return {
            FOUND: lambda state: state.broken != FOUND,
            KEPT: lambda state: state.broken != KEPT,
        }

    def goals(self) -> Mapping[str, Callable[[State], bool]]:
        return {"the last claimant serves": lambda state: state.third.at == "serves"}

    def actions(self, state: State) -> Iterator[tuple[str, State]]:
        if state.owner != "ended":
            for label, after in self.own(state):
                yield f"1 {label}", after
        if state.late:
            hit = self.variant.startswith("a segment name") and state.second.at == "serves"
            yield "a late write lands", state._replace(late=False, damaged=hit and not state.older)
        for label, after in self.succeed(state, state.second, None):
            yield f"2 {label}", state._replace(second=after[0], **after[1])
        if state.second.at:
            for label, after in self.succeed(state, state.third, state.second):
                yield f"3 {label}", state._replace(third=after[0], **after[1])
        if state.losses and not state.third.at:
            yield from self.lose_power(state)

    # The owner --------------------------------------------------------------------------------

    def own(self, state: State) -> Iterator[tuple[str, State]]:
        owner, fenced = state.owner, state.second.at != ""
        late_object = self.variant == "the object is made after it is named"
        if owner == "makes":
            made = state if late_object else state._replace(c1=True)
            yield "makes c1", made._replace(owner="names")
        elif owner == "names":
            deletes = self.variant == "deletes before the entry is synced"
            after = state._replace(owner="deletes" if deletes else "syncs", entry=CACHE)
            yield "names c1", after
        elif owner == "syncs":
            deletes = self.variant == "deletes before the claim check"
            entry = DEVICE if state.entry else GONE
            yield "syncs", state._replace(owner="deletes" if deletes else "checks", entry=entry)
        elif owner == "checks":
            onwards = "bounds" if self.boundary else "deletes"
            yield "checks", state._replace(owner="ended" if fenced else onwards)
        elif owner == "bounds":
            yield "writes the boundary", state._replace(owner="syncs it", boundary=CACHE)
        elif owner == "syncs it":
            yield "syncs the boundary", state._replace(owner="checks it", boundary=DEVICE)
        elif owner == "checks it":
            yield "checks", state._replace(owner="ended" if fenced else "deletes")
        elif owner == "deletes":
            made = state._replace(c1=True) if late_object else state
            yield "deletes c0", made._replace(owner="deletes segments", c0=False)
        elif owner == "deletes segments":
            first = self.variant != "the lineage's segment goes, too"
            yield "deletes segment 1", state._replace(owner="ended", older=False, first=first)

    # Successors -------------------------------------------------------------------------------

    def succeed(
        self, state: State, reader: Reader, below: Reader | None
    ) -> Iterator[tuple[str, tuple[Reader, dict[str, object]]]]:
        at = reader.at
        if not at:
            yield "claims", (Reader("reads"), {})
        elif at == "reads":
            yield "reads the log", (self.choose(state, below), self.judge(state, below))
        elif at == "syncs":
            entry = DEVICE if state.entry else GONE
            yield "syncs what it read", (reader._replace(at="loads"), {"entry": entry})
        elif at == "loads":
            there = state.c1 if reader.start else state.c0
            broken = "" if there or self.superseded(state, below) else FOUND
            onwards = reader._replace(at="replays" if there else "ended")
            yield f"loads c{reader.start}", (onwards, {"broken": broken})
        elif at == "replays":
            there = state.older or reader.start == 1
            broken = "" if there or self.superseded(state, below) else FOUND
            onwards = reader._replace(at="serves" if there else "ended")
            yield "replays", (onwards, {"broken": broken})

    def choose(self, state: State, below: Reader | None) -> Reader:
        if below is not None and below.at == "serves":
            return Reader("loads", below.start)
        return Reader("syncs", 1 if state.entry else 0)

    def judge(self, state: State, below: Reader | None) -> dict[str, object]:
        if below is not None and below.at == "serves":
            return {"broken": KEPT if state.damaged else ""}
        return {"broken": "" if state.first else FOUND}

    def superseded(self, state: State, below: Reader | None) -> bool:
        """What a superseded reader misses, nobody needs from it: its next life finds the claim."""
        return below is None and state.third.at != ""

    def lose_power(self, state: State) -> Iterator[tuple[str, State]]:
        left = state._replace(
            owner="ended",
            boundary=DEVICE if state.boundary == DEVICE else GONE,
            late=False,
            losses=0,
            second=state.second if state.second.at in ("", "serves") else Reader("ended"),
        )
        if state.entry == CACHE:
            yield "power loss, the entry is gone", left._replace(entry=GONE)
            yield "power loss, the entry stays", left._replace(entry=DEVICE)
        else:
            yield "power loss", left


class Boundless(Deletion):
    """The same without a boundary record: the acknowledged entry alone makes deleting safe."""

    name = "deletion: no boundary"
    boundary = False
    variants: ClassVar[Mapping[str, str]] = {
        "deletes before the entry is synced": FOUND,
        "deletes before the claim check": FOUND,
    }
