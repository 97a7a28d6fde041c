"""The leader's durable state: who holds which slot, and which part is meant for which machine.

Two small tables in a state database whose changesets go to the leader's log. What runs is not in
them: that is asked of the platform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sofs.ports.state import StateDatabase
from sofs.services.leader.plan import Placed

SCHEMA_VERSION: Final = 1
SCHEMA: Final[Sequence[str]] = (
    """CREATE TABLE slot(
        slot INTEGER NOT NULL PRIMARY KEY,
        machine TEXT NOT NULL
    )""",
    """CREATE TABLE part(
        name TEXT NOT NULL PRIMARY KEY,
        role TEXT NOT NULL,
        machine TEXT NOT NULL
    ) WITHOUT ROWID""",
)


class LeaderState:
    """Reads and changes the tables; changes happen inside a transaction of the caller."""

    def __init__(self, database: StateDatabase) -> None:
        self._database = database

    def slots(self) -> dict[int, str]:
        """Return slot -> machine id."""
        rows = self._database.execute("SELECT slot, machine FROM slot ORDER BY slot")
        return {int(str(slot)): str(machine) for slot, machine in rows}

    def parts(self) -> list[Placed]:
        """Return what is placed, by name."""
        rows = self._database.execute("SELECT name, role, machine FROM part ORDER BY name")
        return [Placed(str(name), str(role), str(machine)) for name, role, machine in rows]

    def set_slots(self, slots: Mapping[int, str]) -> None:
        for slot in self.slots():
            if slot not in slots:
                self._database.execute("DELETE FROM slot WHERE slot = ?", (slot,))
        for slot, machine in sorted(slots.items()):
            self._database.execute(
                "INSERT INTO slot VALUES (?, ?) ON CONFLICT(slot) DO UPDATE SET machine = ?",
                (slot, machine, machine),
            )

    def set_parts(self, parts: Sequence[Placed]) -> None:
        names = {part.name for part in parts}
        for old in self.parts():
            if old.name not in names:
                self._database.execute("DELETE FROM part WHERE name = ?", (old.name,))
        for part in sorted(parts, key=lambda part: part.name):
            self._database.execute(
                "INSERT INTO part VALUES (?, ?, ?)"
                " ON CONFLICT(name) DO UPDATE SET role = ?, machine = ?",
                (part.name, part.role, part.machine, part.role, part.machine),
            )
