"""What should be, what must be done for it: pure rules over desired and observed state.

A *slot* is a place in the access point: a number from 1 to the wanted number of nodes, with an
address of its own. A machine that serves holds one slot; a slot outlives its machine, so that the
addresses that clients know stay the same when machines come and go. Every slot has a node and a
witness. Every volume has a coordinator and a resume-key, on different machines if there are two
that serve; coordinators are spread. The access point has DNS parts, if it has a name, on different
machines if there are as many that serve.

``plan`` takes the desired state and what was observed, and returns the next desired state, which
must be durable before it is acted upon, and the actions. A part that moves is first *leaving*: it
is ended, and made anew at its new machine only when it was seen to be gone. That it is leaving is
part of the desired state, so a leader that dies in between finishes the move.

Guards. What is gone is replaced at once. Whatever still runs is ended only while others do its
work: a coordinator while its resume-key runs, and the reverse; a node, or one of two DNS parts,
while another one runs; and one part of a volume, one node and one DNS part at a time. When all
machines are to be drained, all stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sofs.ports.platform import Machine

COORDINATOR: Final = "coordinator"
RESUME_KEY: Final = "resume-key"
NODE: Final = "node"
WITNESS: Final = "witness"
DNS: Final = "dns"
PAIR: Final = (COORDINATOR, RESUME_KEY)
ROLES: Final = (COORDINATOR, RESUME_KEY, NODE, WITNESS, DNS)


@dataclass(frozen=True, slots=True)
class Placed:
    """A part and the machine that it is meant for."""

    name: str
    role: str
    machine: str


@dataclass(frozen=True, slots=True)
class Desired:
    """What the operator wants, and what was decided for it. ``volumes``: by name; the parts of the
    first are named by their roles alone. ``avoided``: names of machines that are to be left
    (``sofs node drain``). ``dns``: so many DNS parts. ``leaving``: parts that must end where they
    are."""

    wanted_nodes: int
    volumes: tuple[str, ...] = ()
    avoided: tuple[str, ...] = ()
    slots: Mapping[int, str] = field(default_factory=dict)
    parts: tuple[Placed, ...] = ()
    leaving: tuple[str, ...] = ()
    dns: int = 0


@dataclass(frozen=True, slots=True)
class Observed:
    """What the platform said. ``running``: part -> the machine it runs on ("" when unknown).
    ``alone``: there has been only one machine for a while, so the resume-key and the second DNS
    part are made there too (they still help when a process dies) instead of waiting for another."""

    machines: Sequence[Machine]
    running: Mapping[str, str]
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """``slots``, ``parts`` and ``leaving`` are the next desired state. Then ``remove`` these by
    name, and ``create`` these."""

    slots: dict[int, str]
    parts: tuple[Placed, ...]
    leaving: tuple[str, ...]
    remove: tuple[str, ...]
    create: tuple[Placed, ...]

    def changes(self, desired: Desired) -> bool:
        """Is the next desired state another one?"""
        return (self.slots, self.parts, self.leaving) != (
            dict(desired.slots),
            desired.parts,
            desired.leaving,
        )


def plan(desired: Desired, observed: Observed) -> Plan:
    """Return the next step; see the module."""
    return _Step(desired, observed).plan()


def part_name(role: str, volume: str, volumes: Sequence[str]) -> str:
    """The name of a volume's part."""
    return role if volumes and volume == volumes[0] else f"{role}-{volume}"


def volume_of(part: Placed, volumes: Sequence[str]) -> str:
    """The volume of a coordinator or resume-key."""
    return part.name[len(part.role) + 1 :] or (volumes[0] if volumes else "")


def dns_name(index: int) -> str:
    """The name of a DNS part: ``dns-1`` is the first."""
    return f"{DNS}-{index + 1}"


def dns_index(name: str) -> int:
    """The reverse of ``dns_name``."""
    return int(name.removeprefix(f"{DNS}-")) - 1


def slot_of(part: Placed) -> int:
    """The slot of a node or witness; 0 for other parts."""
    return int(part.name[len(part.role) + 1 :]) if part.role in (NODE, WITNESS) else 0


def role_of(name: str) -> str:
    """The role that a part's name starts with; "" for what is not ours to end."""
    return next((r for r in ROLES if name == r or name.startswith(f"{r}-")), "")


def preferred_slot(machine: Machine, taken: Mapping[int, str], wanted: int) -> int | None:
    """The free slot whose number the machine's name ends in."""
    digits = machine.name[len(machine.name.rstrip("0123456789")) :]
    slot = int(digits) if digits.isascii() and digits else 0
    return slot if 1 <= slot <= wanted and slot not in taken else None


class _Step:
    """One step of the plan, while it is being made."""

    def __init__(self, desired: Desired, observed: Observed) -> None:
        self.desired = desired
        self.observed = observed
        self.alive = {machine.id: machine for machine in observed.machines}
        self.running = observed.running
        self.leaving = {name: None for name in desired.leaving if name in observed.running}
        self.slots = {
            slot: machine
            for slot, machine in desired.slots.items()
            if machine in self.alive and slot <= desired.wanted_nodes
        }
        self.before = {part.name: part for part in desired.parts}
        self.homes: dict[str, str] = {}  # Of coordinators and resume-keys, by part name.

    def plan(self) -> Plan:
        self._keep_the_last()
        self._give_slots()
        self._leave_a_slot()
        for volume in self.desired.volumes:
            self._place_pair(volume)
        if self._quiet():
            self._spread()
        parts = tuple(sorted(self._parts(), key=lambda part: part.name))
        for part in parts:
            self._note_where(part)
        self._note_unwanted({part.name for part in parts})
        create = [p for p in parts if p.name not in self.running and p.name not in self.leaving]
        slots = dict(sorted(self.slots.items()))
        return Plan(slots, parts, tuple(sorted(self.leaving)), self._removals(), tuple(create))

    # Machines and slots
    # --------------------------------------------------------------------------------------

    def _usable(self, machine: str) -> bool:
        """Is it alive, and nobody wants to leave it?"""
        found = self.alive.get(machine)
        return found is not None and not found.draining and found.name not in self.desired.avoided

    def _serving(self) -> list[str]:
        """Machines with a slot that are not to be left; all with a slot if there is none."""
        held = [machine for _, machine in sorted(self.slots.items())]
        return [machine for machine in held if self._usable(machine)] or held

    def _give_slots(self) -> None:
        """Who is new gets the slot of its number, else the lowest free one."""
        wanted = self.desired.wanted_nodes
        fresh = [
            machine
            for machine in self.observed.machines
            if machine.id not in self.slots.values() and self._usable(machine.id)
        ]
        if not fresh and not self.slots:  # Better one that is to be left than none.
            fresh = list(self.observed.machines)
        for machine in sorted(fresh, key=lambda m: preferred_slot(m, self.slots, wanted) is None):
            free = [slot for slot in range(1, wanted + 1) if slot not in self.slots]
            if not free:
                break
            self.slots[preferred_slot(machine, self.slots, wanted) or free[0]] = machine.id

    def _keep_the_last(self) -> None:
        """The only node that runs keeps its slot where it is, though the slot was given to another
        machine: that one gets a free slot instead, or waits."""
        nodes = [name for name in self.running if role_of(name) == NODE]
        number = nodes[0].rpartition("-")[2] if len(nodes) == 1 else ""
        if not number.isdecimal():
            return
        where, slot = self.running[nodes[0]], int(number)
        given = self.slots.get(slot)
        if given is None or where not in self.alive or where in self.slots.values():
            return
        self.slots[slot] = where
        self.leaving.pop(nodes[0], None)
        free = [s for s in range(1, self.desired.wanted_nodes + 1) if s not in self.slots]
        if free:
            self.slots[free[0]] = given

    def _leave_a_slot(self) -> None:
        """A machine that is to be left gives its slot back once no volume's part is meant for it
        (or to a spare machine, when all that serve are to be left), while all other nodes run."""
        held = list(self.slots.values())
        spare = any(self._usable(m) for m in self.alive if m not in held)
        only_spares = spare and not any(self._usable(machine) for machine in held)
        meant = {part.machine: None for part in self.desired.parts if part.role in PAIR}
        for slot, machine in sorted(self.slots.items(), key=lambda held: held[1] in meant):
            if self._usable(machine) or (machine in meant and not only_spares):
                continue
            others = [f"{NODE}-{s}" for s, m in self.slots.items() if s != slot]
            if others and all(self._runs(name) for name in others):
                del self.slots[slot]
                self._give_slots()
                return

    # Volumes
    # ---------------------------------------------------------------------------------------

    def _runs(self, name: str) -> bool:
        return name in self.running and name not in self.leaving

    def _name(self, role: str, volume: str) -> str:
        return part_name(role, volume, self.desired.volumes)

    def _load(self, machine: str, role: str) -> tuple[int, int, int]:
        """What counts against a machine for a part of ``role``: fewest of those, then of all, then
        the lowest slot."""
        names = [name for name, home in self._all_homes().items() if home == machine]
        of_role = sum(role_of(name) == role for name in names)
        first = of_role if role == COORDINATOR else len(names)
        slot = next((s for s, m in self.slots.items() if m == machine), 0)
        return first, len(names), slot

    def _all_homes(self) -> dict[str, str]:
        """Where parts of volumes are meant to be: as decided in this step, else as before."""
        before = {n: p.machine for n, p in self.before.items() if p.role in PAIR}
        return before | self.homes

    def _best(self, role: str, avoid: str | None) -> str:
        """The machine with the least load but ``avoid``; that one when there is no other."""
        serving = self._serving()
        choice = [machine for machine in serving if machine != avoid] or serving
        return min(choice, key=lambda machine: self._load(machine, role))

    def _home(self, name: str) -> str | None:
        """Where a part is meant to be, if that machine still serves."""
        part = self.before.get(name)
        return part.machine if part is not None and part.machine in self.slots.values() else None

    def _place_pair(self, volume: str) -> None:
        names = [self._name(role, volume) for role in PAIR]
        if not self.slots:
            return
        coordinator, keeper = names
        homes = {name: self._home(name) for name in names}
        # What is gone is replaced at once, away from the other.
        owner = homes[coordinator] or self._best(COORDINATOR, homes[keeper])
        self.homes[coordinator] = owner
        kept = homes[keeper]
        if kept is None:
            kept = self._best(RESUME_KEY, owner)
            if (
                kept == owner
                and not self.observed.alone
                and not self._must_come(coordinator, owner)
            ):
                return  # It waits for a second machine.
        self.homes[keeper] = kept
        if not any(name in self.leaving for name in names):
            self._move_one(coordinator, keeper)

    def _must_come(self, name: str, home: str) -> bool:
        """Does a part run elsewhere than at its home? Then another has to stand in for it."""
        if name not in self.running:
            return False
        before = self.before.get(name)
        where = self.running[name] or (before.machine if before is not None else "")
        return name in self.leaving or where != home

    def _move_one(self, coordinator: str, keeper: str) -> None:
        """Move one of a volume's parts if it should be elsewhere and the other does its work."""
        owner, kept = self.homes[coordinator], self.homes[keeper]
        if owner == kept and len(self._serving()) > 1:
            target = self._best(RESUME_KEY, owner)
            counts = [self._load(machine, COORDINATOR)[0] for machine in (owner, target)]
            first = COORDINATOR if counts[0] - counts[1] > 1 else RESUME_KEY
        elif not self._usable(owner) and owner not in self._serving():
            first = COORDINATOR
        elif not self._usable(kept) and kept not in self._serving():
            first = RESUME_KEY
        else:
            return
        mover, other = (coordinator, keeper) if first == COORDINATOR else (keeper, coordinator)
        if self._runs(other) or mover not in self.running:
            self._move(mover, self._best(first, self.homes[other]))

    def _move(self, name: str, target: str) -> None:
        if self.homes[name] != target:
            self.homes[name] = target
            if name in self.running:
                self.leaving[name] = None

    def _quiet(self) -> bool:
        """Does everything run, where it is meant to be?"""
        return (
            not self.leaving
            and bool(self.slots)
            and all(self._runs(name) for name in self.homes)
            and len(self.homes) == 2 * len(self.desired.volumes)
            and all(self._home(name) == home for name, home in self.homes.items())
        )

    def _spread(self) -> None:
        """Move one coordinator from the machine with the most to the one with the fewest. Where
        every candidate's resume-key is in the way, one of those goes elsewhere first."""
        serving = self._serving()
        count = {machine: self._load(machine, COORDINATOR)[0] for machine in serving}
        target = min(serving, key=lambda machine: self._load(machine, COORDINATOR))
        source = max(serving, key=lambda machine: count[machine])
        if count[source] - count[target] < 2:
            return
        blocked = ""
        for volume in self.desired.volumes:
            coordinator, keeper = (self._name(role, volume) for role in PAIR)
            if self.homes[coordinator] != source:
                continue
            if self.homes[keeper] != target:
                self._move(coordinator, target)
                return
            blocked = blocked or keeper
        others = [machine for machine in serving if machine not in (source, target)]
        if blocked and others:
            self._move(blocked, min(others, key=lambda m: self._load(m, RESUME_KEY)))

    # Parts
    # -----------------------------------------------------------------------------------------

    def _parts(self) -> Iterator[Placed]:
        for slot, machine in self.slots.items():
            for role in (NODE, WITNESS):
                yield Placed(f"{role}-{slot}", role, machine)
        for name, machine in self.homes.items():
            yield Placed(name, role_of(name), machine)
        for name, machine in self._dns_homes().items():
            yield Placed(name, DNS, machine)

    def _dns_homes(self) -> dict[str, str]:
        """Where DNS parts are meant to be. They stay where they are, each alone; at first they are
        on the last machines, since the others have authorities."""
        serving = self._serving()
        names = [dns_name(index) for index in range(self.desired.dns)]
        before = {name: home for name in names if (home := self._home(name)) in serving and home}
        homes: dict[str, str] = {}
        for name, home in before.items():
            if home not in homes.values():
                homes[name] = home
        for name in names:
            free = [machine for machine in serving if machine not in homes.values()]
            if name in homes or not serving:
                continue
            if free:
                homes[name] = free[-1]
            elif name in before or name in self.running or self.observed.alone:
                homes[name] = before.get(name, serving[-1])
        return homes

    def _note_where(self, part: Placed) -> None:
        """A part that runs elsewhere than it is meant to has to end there: it moved, its machine is
        gone, or a leader that was superseded made it late."""
        if part.name not in self.running or part.name in self.leaving:
            return
        before = self.before.get(part.name)
        moved = before is not None and before.machine != part.machine
        where = self.running[part.name]
        if where != part.machine if where else moved:
            self.leaving[part.name] = None

    def _removals(self) -> tuple[str, ...]:
        """Who is ended in this step: of those that are leaving all whose work others do."""
        left = dict.fromkeys(self.running)
        for name in sorted(self.leaving):
            where = self.running[name]
            if (where and where not in self.alive) or self._spared(name, left):
                del left[name]
        return tuple(name for name in sorted(self.leaving) if name not in left)

    def _spared(self, name: str, left: Collection[str]) -> bool:
        """Can ``name`` be spared among those that are ``left``?"""
        role = role_of(name)
        if role == NODE:
            return any(other != name and role_of(other) == NODE for other in left)
        if role == DNS and self.desired.dns > 1:
            return any(other != name and role_of(other) == DNS for other in left)
        volume = volume_of(Placed(name, role, ""), self.desired.volumes)
        if role not in PAIR or volume not in self.desired.volumes:
            return True
        pair = [self._name(r, volume) for r in PAIR]
        return any(other != name and other in left for other in pair)

    def _note_unwanted(self, wanted: Collection[str]) -> None:
        """What runs, is ours, and is wanted no more; but nobody wants to be without volumes."""
        for name in sorted(self.running):
            role = role_of(name)
            kept = role in PAIR and not self.desired.volumes
            if name not in wanted and role and not kept:
                self.leaving[name] = None
