"""Slots: the log of a slot backend, where ``put_if_absent`` alone decides what exists (R12).

What is modelled. The owner of epoch 1 has two batches for slots 1 and 2 of its log (slot 0 is its
lineage, and there). Epochs 2 and 3 are claimed by successors, which fence what is below them, put
their lineage into slot 0 of their own log, and serve; epoch 2 then writes a batch, too. Objects are
whole, durable and seen by all at once. A put whose reply is lost may have taken effect, or may do
so at any later time. A process that takes no step any more is frozen or dead.

| step | code |
|---|---|
| ``puts slot n`` | ``SlotLog._make_durable``; what was won is acknowledged, without a claim check |
| ``loses the reply`` | ``StoreUnknown``: the same bytes are put again, into the same slot |
| ``claims`` | ``StoreFences.try_claim`` |
| ``takes slot n`` | ``_SlotWalk.put_fence``: reads the slot, or puts the fence there |
| ``puts its lineage`` | ``ActiveAuthority.begin`` over ``StoreRecovery.derive_lineage`` |
| ``answers a read`` | ``SlotLog.check``, begun after the read (ADR 0014) |

The product has one put under way. ``Pipeline`` has two and is safe, too, as long as batches are
acknowledged in the order of their slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Final, NamedTuple

from .explore import Model

ACKED: Final = "acknowledged batches stay"
TOLD: Final = "what was answered is final"
REFUSED: Final = "what was refused never happens"
CURRENT: Final = "reads are current"
FREE: Final = 0
FENCE: Final = -1
LINEAGE: Final = 100  # And above: with the number of slots of log 1 that count.


class Owner(NamedTuple):
    """The owner of epoch 1. ``open``: puts without an answer, (slot, value)."""

    at: str = "serves"
    open: tuple[tuple[int, int], ...] = ()
    won: tuple[int, ...] = ()
    acked: int = 0
    given: int = 0
    slot: int = 1  # For the next batch.


class Successor(NamedTuple):
    at: str = ""
    log: int = 0
    slot: int = 0
    counts: int = 0  # Slots of log 1 that it stands on.


class State(NamedTuple):
    one: tuple[int, ...]  # Log 1: slots 0 to 3.
    two: tuple[int, ...]  # Log 2: slots 0 to 2.
    three: int  # Slot 0 of log 3.
    owner: Owner
    second: Successor
    third: Successor
    late: frozenset[tuple[int, int]]  # Puts into log 1 that may still take effect.
    told: tuple[int, ...]
    teller: int
    acked: frozenset[int]
    refused: frozenset[int]
    faults: int
    broken: str


def put(log: tuple[int, ...], slot: int, value: int) -> tuple[int, ...]:
    """The log after a put if absent."""
    return log if log[slot] else (*log[:slot], value, *log[slot + 1 :])


class Slots(Model[State]):
    """See the module."""

    name = "slots"
    pipeline: ClassVar[int] = 1
    variants: ClassVar[Mapping[str, str]] = {
        "a lost reply is a failure": REFUSED,
        "the slot of a lost reply is used again": ACKED,
        "the successor's claim is not in the chain": ACKED,
        "a log that never served gets no fence": ACKED,
        "reads are not checked": CURRENT,
    }

    def initial(self) -> Iterable[State]:
        one, none = (LINEAGE, FREE, FREE, FREE), frozenset[int]()
        yield State(
            one, (FREE,) * 3, FREE, Owner(), Successor(), Successor(), frozenset(), (), 1, none,
            none, 1, "",
        )  # fmt: skip

    def invariants(self) -> Mapping[str, Callable[[State], bool]]:
        def unbroken(name: str) -> Callable[[State], bool]:
            return lambda state: state.broken != name

        return {name: unbroken(name) for name in (ACKED, TOLD, REFUSED, CURRENT)}

    def goals(self) -> Mapping[str, Callable[[State], bool]]:
        return {"the last claimant serves": lambda state: state.third.at == "serves"}

    def actions(self, state: State) -> Iterator[tuple[str, State]]:
        if state.owner.at == "serves":
            yield from self.own(state, state.owner)
        for slot, value in sorted(state.late):
            left = state._replace(late=state.late - {(slot, value)})
            yield f"{value} lands late", left._replace(one=put(left.one, slot, value))
        yield from self.succeed(state, 2, state.second)
        if state.second.at:
            yield from self.succeed(state, 3, state.third)

    # The owner --------------------------------------------------------------------------------

    def own(self, state: State, owner: Owner) -> Iterator[tuple[str, State]]:
        if owner.given < 2 and len(owner.open) < self.pipeline:
            value = owner.given + 1
            begun = owner._replace(
                given=value, slot=owner.slot + 1, open=(*owner.open, (owner.slot, value))
            )
            yield f"1 begins slot {owner.slot}", state._replace(owner=begun)
        for item in owner.open:
            yield from self.finish(state, owner, item)
        yield from self.read(state, 1, state.second.at != "", self.history(state, owner))

    def finish(
        self, state: State, owner: Owner, item: tuple[int, int]
    ) -> Iterator[tuple[str, State]]:
        slot, value = item
        left = tuple(other for other in owner.open if other != item)
        after = state._replace(one=put(state.one, slot, value))
        held = after.one[slot]
        reused = self.variant == "the slot of a lost reply is used again"
        if held == value or (reused and held > 0):
            won = owner._replace(open=left, won=tuple(sorted((*owner.won, value))))
            yield f"1 puts slot {slot}", self.acknowledge(after._replace(owner=won), won)
        else:
            yield f"1 loses slot {slot}", after._replace(owner=Owner("ended"))
        if state.faults:
            failed, refused = owner, state.refused
            if self.variant == "a lost reply is a failure":
                failed, refused = Owner("ended"), refused | {value}
            elif reused:
                failed = owner._replace(open=left, slot=slot)
            late = state.late | {item}
            yield (
                f"1 loses the reply of slot {slot}",
                state._replace(owner=failed, late=late, faults=0, refused=refused),
            )

    def acknowledge(self, state: State, owner: Owner) -> State:
        """In the order of slots: what still waits for an answer holds up all above it."""
        first_open = min((value for _, value in owner.open), default=9)
        if self.variant == "acknowledged out of order":
            first_open = 9
        values = frozenset(value for value in owner.won if value < first_open) - state.acked
        if not values:
            return state
        if state.teller == 1:
            history = tuple(sorted(state.acked | values))
            return state._replace(acked=state.acked | values, told=history)
        lost = not values <= set(state.told)
        return state._replace(acked=state.acked | values, broken=ACKED if lost else "")

    def history(self, state: State, owner: Owner) -> tuple[int, ...]:
        return tuple(value for value in owner.won if value in state.acked)

    def read(
        self, state: State, epoch: int, claimed: bool, history: tuple[int, ...]
    ) -> Iterator[tuple[str, State]]:
        if not claimed or self.variant == "reads are not checked":
            stale = state.teller > epoch and history != state.told
            yield f"{epoch} answers a read", state._replace(broken=CURRENT if stale else "")

    # A successor ------------------------------------------------------------------------------

    def put_successor(self, state: State, epoch: int, successor: Successor) -> State:
        if epoch == 2:
            return state._replace(second=successor)
        return state._replace(third=successor)

    def succeed(
        self, state: State, epoch: int, successor: Successor
    ) -> Iterator[tuple[str, State]]:
        if not successor.at:
            walking = Successor("walks", log=epoch - 1)
            yield f"{epoch} claims", self.put_successor(state, epoch, walking)
        elif successor.at == "walks":
            after = self.take(state, epoch, successor)
            yield f"{epoch} takes slot {successor.slot} of {successor.log}", after
        elif successor.at == "lineage":
            yield f"{epoch} puts its lineage", self.stand(state, epoch, successor)
        elif successor.at == "serves" and epoch == 2:
            history = self.line_of(state, successor.counts)
            if 21 in state.acked:
                history = (*history, 21)
            else:
                yield "2 puts slot 1", self.second_writes(state)
            yield from self.read(state, 2, state.third.at != "", history)

    def take(self, state: State, epoch: int, successor: Successor) -> State:
        """Read a slot, or fence it."""
        log = state.one if successor.log == 1 else state.two
        fence = self.variant != "the successor's claim is not in the chain"
        if self.variant == "a log that never served gets no fence" and successor.slot == 0:
            fence = False
        ends = log[successor.slot] in (FREE, FENCE)
        if fence:
            log = put(log, successor.slot, FENCE)
            state = state._replace(one=log) if successor.log == 1 else state._replace(two=log)
        if not ends:
            onwards = successor._replace(slot=successor.slot + 1)
        elif successor.slot == 0:
            onwards = Successor("walks", log=successor.log - 1)
        elif successor.log == 1:
            onwards = Successor("lineage", 1, 0, successor.slot)
        else:
            onwards = Successor("lineage", 2, successor.slot, state.two[0] - LINEAGE)
        return self.put_successor(state, epoch, onwards)

    def line_of(self, state: State, counts: int) -> tuple[int, ...]:
        return tuple(value for value in state.one[1:counts] if value > 0)

    def stand(self, state: State, epoch: int, successor: Successor) -> State:
        """Put the lineage into slot 0, and answer what it stands on."""
        history = self.line_of(state, successor.counts)
        if epoch == 2:
            two = put(state.two, 0, LINEAGE + successor.counts)
            if two[0] == FENCE:
                return state._replace(second=Successor("ended"))
            state = state._replace(two=two)
        elif successor.log == 2:
            history += tuple(value for value in state.two[1 : successor.slot] if value > 0)
        successor = successor._replace(at="serves")
        return self.answered(self.put_successor(state, epoch, successor), epoch, history)

    def second_writes(self, state: State) -> State:
        two = put(state.two, 1, 21)
        if two[1] == FENCE:
            return state._replace(second=Successor("ended"))
        history = (*self.line_of(state, state.second.counts), 21)
        after = state._replace(two=two, acked=state.acked | {21})
        return self.answered(after, 2, history)

    def answered(self, state: State, epoch: int, history: tuple[int, ...]) -> State:
        if epoch < state.teller:
            broken = "" if history == state.told[: len(history)] else TOLD
            if not state.acked <= set(state.told):
                broken = ACKED
            return state._replace(broken=broken)
        broken = ""
        if not state.acked <= set(history):
            broken = ACKED
        elif state.refused & set(history):
            broken = REFUSED
        elif state.teller > 1 and state.told != history[: len(state.told)]:
            broken = TOLD
        return state._replace(told=history, teller=epoch, broken=broken)


class Pipeline(Slots):
    """Two puts under way."""

    name = "slots: pipeline"
    pipeline = 2
    variants: ClassVar[Mapping[str, str]] = {"acknowledged out of order": ACKED}
