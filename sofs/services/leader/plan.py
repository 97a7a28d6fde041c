"""Which machine gets which slot, and which part runs where: pure rules over what is recorded.

A *slot* is a place in the access point: a number from 1 to the wanted number of nodes, with an
address of its own. A machine that serves holds one slot; a slot outlives its machine, so that the
addresses that clients know stay the same when machines come and go. Every slot has a node and a
witness. The volume has a coordinator and a resume-key, on different machines if there are two. The
access point has a DNS part, if it has a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sofs.ports.platform import Machine

COORDINATOR: Final = "coordinator"
RESUME_KEY: Final = "resume-key"
NODE: Final = "node"
WITNESS: Final = "witness"
DNS: Final = "dns"


@dataclass(frozen=True, slots=True)
class Placed:
    """A part and the machine that it is meant for."""

    name: str
    role: str
    machine: str


def assign_slots(
    held: Mapping[int, str], machines: Sequence[Machine], wanted: int
) -> dict[int, str]:
    """Return slot -> machine id: who is gone loses its slot, who is new gets the lowest free one.
    A machine whose name ends in the number of a free slot gets that one."""
    alive = {machine.id for machine in machines}
    slots = {slot: machine for slot, machine in held.items() if machine in alive and slot <= wanted}
    fresh = [machine for machine in machines if machine.id not in slots.values()]
    for machine in sorted(fresh, key=lambda m: _preferred(m, slots, wanted) is None):
        free = [slot for slot in range(1, wanted + 1) if slot not in slots]
        if not free:
            break
        slots[_preferred(machine, slots, wanted) or free[0]] = machine.id
    return dict(sorted(slots.items()))


def _preferred(machine: Machine, taken: Mapping[int, str], wanted: int) -> int | None:
    digits = machine.name[len(machine.name.rstrip("0123456789")) :]
    slot = int(digits) if digits else 0
    return slot if 1 <= slot <= wanted and slot not in taken else None


def place(
    slots: Mapping[int, str], placed: Sequence[Placed], *, alone: bool, dns: bool = False
) -> list[Placed]:
    """Return every part that should exist, with its machine, given what is placed now.

    Authorities stay where they are as long as their machine serves; a resume-key that shares the
    coordinator's machine moves as soon as there is another. ``alone``: with one machine only, the
    resume-key is made there too (it still helps when a process dies) instead of waiting. ``dns``:
    there is a DNS part, which stays where it is too, at first on the last machine.
    """
    parts: list[Placed] = []
    for slot, machine in sorted(slots.items()):
        parts.append(Placed(f"{NODE}-{slot}", NODE, machine))
        parts.append(Placed(f"{WITNESS}-{slot}", WITNESS, machine))
    if not slots:
        return parts
    serving = [machine for _, machine in sorted(slots.items())]
    homes = {part.role: part.machine for part in placed if part.machine in serving}
    coordinator = homes.get(COORDINATOR) or _other(serving, homes.get(RESUME_KEY))
    parts.append(Placed(COORDINATOR, COORDINATOR, coordinator))
    keeper = homes.get(RESUME_KEY)
    if keeper is None or (keeper == coordinator and len(serving) > 1):
        keeper = _other(serving, coordinator)
    if keeper != coordinator or alone or RESUME_KEY in homes:
        parts.append(Placed(RESUME_KEY, RESUME_KEY, keeper))
    if dns:
        parts.append(Placed(DNS, DNS, homes.get(DNS) or serving[-1]))
    return parts


def _other(serving: Sequence[str], avoid: str | None) -> str:
    """The first machine but ``avoid``; that one when there is no other."""
    return next((machine for machine in serving if machine != avoid), serving[0])
