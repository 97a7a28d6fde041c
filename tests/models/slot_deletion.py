"""Slots that are deleted while a successor looks for the end of the log (R10, R12).

What is modelled. The owner of a slot log wins one slot after the other; each is acknowledged and
names a checkpoint that makes all slots below it needless, so it deletes them, in ascending order
and slot 0 never. It may be frozen at any of this, and go on when successors are sealing its log.
Two successors seal it, each in steps of one store operation.

| step | code |
|---|---|
| ``wins slot n`` | ``SlotLog._make_durable`` |
| ``deletes slot n`` | ``Checkpoints._delete_needless``, ``StoreFences.delete_segments`` |
| ``lists`` | ``_SlotWalk._behind_deleted``: the run of slots that reaches the highest |
| ``gets slot n`` | ``_SlotWalk.read_to_free_slot``; absent below the highest: lists again |
| ``fences slot n`` | ``_SlotWalk.put_fence`` |
| ``looks above slot n`` | ``_SlotWalk._behind_deleted``, whoever put the fence |

This model found a flaw: the product took the first absent slot for the end (``free is the end``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Final, NamedTuple

from .explore import Model

ACKED: Final = "acknowledged slots stay"
ONE_END: Final = "a log has one end"
ABSENT: Final = 0
RECORD: Final = 1
FENCE: Final = 2
SLOTS: Final = 7


class Seal(NamedTuple):
    at: str = "lists"
    slot: int = 0
    run: int = 0  # Where the slots begin that reach the highest.
    highest: int = 0


class State(NamedTuple):
    log: tuple[int, ...]
    won: int  # Slots below it were won.
    deleted: int  # Slots from 1 up to below it were deleted.
    second: Seal
    third: Seal
    broken: str


class SlotDeletion(Model[State]):
    """See the module."""

    name = "slots: deletion"
    variants: ClassVar[Mapping[str, str]] = {
        "free is the end": ACKED,
        "the fence is not looked at again": ACKED,
        "any fence that is found is the end": ACKED,
    }

    def initial(self) -> Iterable[State]:
        log = (RECORD,) * 3 + (ABSENT,) * (SLOTS - 3)
        yield State(log, 3, 1, Seal(), Seal(), "")

    def invariants(self) -> Mapping[str, Callable[[State], bool]]:
        return {
            ACKED: lambda state: state.broken != ACKED,
            ONE_END: lambda state: state.broken != ONE_END,
        }

    def goals(self) -> Mapping[str, Callable[[State], bool]]:
        return {"both know the end": lambda s: s.second.at == s.third.at == "sealed"}

    def actions(self, state: State) -> Iterator[tuple[str, State]]:
        if state.won < SLOTS - 2 and state.log[state.won] == ABSENT:
            after = state._replace(log=_put(state.log, state.won, RECORD), won=state.won + 1)
            ends = [s.slot for s in (state.second, state.third) if s.at == "sealed"]
            yield f"1 wins slot {state.won}", after._replace(broken=ACKED if ends else "")
        if state.deleted < state.won - 1:
            log = _put(state.log, state.deleted, ABSENT)
            yield (
                f"1 deletes slot {state.deleted}",
                state._replace(log=log, deleted=state.deleted + 1),
            )
        for label, log, seal in self.seal(state, state.second):
            yield f"2 {label}", self.judged(state._replace(log=log, second=seal), seal)
        for label, log, seal in self.seal(state, state.third):
            yield f"3 {label}", self.judged(state._replace(log=log, third=seal), seal)

    def judged(self, state: State, seal: Seal) -> State:
        if seal.at != "sealed":
            return state
        ends = {s.slot for s in (state.second, state.third) if s.at == "sealed"}
        broken = ONE_END if len(ends) > 1 else ""
        return state._replace(broken=ACKED if seal.slot < state.won else broken)

    def seal(self, state: State, seal: Seal) -> Iterator[tuple[str, tuple[int, ...], Seal]]:
        log, slot = state.log, seal.slot
        if seal.at == "lists":
            listed = [number for number, held in enumerate(log) if held]
            run = highest = listed[-1]
            while run > 0 and log[run - 1]:
                run -= 1
            yield "lists", log, Seal("gets", 0, run, highest)
        elif seal.at == "gets":
            yield f"gets slot {slot}", log, self.got(log[slot], seal)
        elif seal.at == "fences":
            held = log[slot]
            log = log if held else _put(log, slot, FENCE)
            yield f"fences slot {slot}", log, self.fenced(held, seal)
        elif seal.at == "looks above":
            above = any(log[slot + 1 :])
            yield f"looks above slot {slot}", log, Seal() if above else Seal("sealed", slot)

    def got(self, held: int, seal: Seal) -> Seal:
        if held == ABSENT:
            free = seal.slot > seal.highest or self.variant == "free is the end"
            return seal._replace(at="fences") if free else Seal()
        if held == FENCE:
            if self.variant == "any fence that is found is the end":
                return Seal("sealed", seal.slot)
            if seal.slot >= seal.highest:
                return seal._replace(at="looks above")
        return self.onwards(seal)

    def fenced(self, held: int, seal: Seal) -> Seal:
        if held == RECORD:
            return self.onwards(seal)
        if held == ABSENT and self.variant in (
            "free is the end",
            "the fence is not looked at again",
        ):
            return Seal("sealed", seal.slot)
        return seal._replace(at="looks above")

    def onwards(self, seal: Seal) -> Seal:
        """The next slot; behind slot 0 the run that reaches the highest."""
        behind_first = seal.slot == 0 and seal.run > 1
        return seal._replace(at="gets", slot=seal.run if behind_first else seal.slot + 1)


def _put(log: tuple[int, ...], slot: int, held: int) -> tuple[int, ...]:
    return (*log[:slot], held, *log[slot + 1 :])
