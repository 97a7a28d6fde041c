"""The leader's durable state: what the operator wants, and what was decided for it.

Small tables in a state database whose changesets go to the leader's log. What runs is not in them:
that is asked of the platform. Requests of operators are kept with their tokens, the last
REQUESTS_MAX of them, so that one that is sent again is not done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sofs.constants import SHARES_MAX
from sofs.core.share_table import (
    ShareEntry,
    check_share_name,
    check_volume_name,
    share_key,
)
from sofs.errors import (
    BadNetworkName,
    InvalidParameter,
    LimitReached,
    ObjectNameCollision,
    ObjectNameNotFound,
)
from sofs.ports.state import StateDatabase
from sofs.services.leader.plan import Desired, Placed, Plan

SCHEMA_VERSION: Final = 1
REQUESTS_MAX: Final = 256
AVOIDED_MAX: Final = 1_000
VOLUMES_MAX: Final = 100
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
    """CREATE TABLE leaving(
        name TEXT NOT NULL PRIMARY KEY
    ) WITHOUT ROWID""",
    """CREATE TABLE avoided(
        machine TEXT NOT NULL PRIMARY KEY
    ) WITHOUT ROWID""",
    """CREATE TABLE volume(
        number INTEGER NOT NULL PRIMARY KEY,
        name TEXT NOT NULL
    )""",
    """CREATE TABLE share(
        key TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        volume TEXT NOT NULL,
        read_only INTEGER NOT NULL,
        available INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE request(
        number INTEGER NOT NULL PRIMARY KEY,
        token BLOB NOT NULL
    )""",
)


class LeaderState:
    """Reads and changes the tables; changes happen inside a transaction of the caller."""

    def __init__(self, database: StateDatabase) -> None:
        self._database = database

    def _texts(self, sql: str) -> list[str]:
        return [str(value) for (value,) in self._database.execute(sql)]

    # Desired state
    # -------------------------------------------------------------------------------------

    def desired(self, wanted_nodes: int) -> Desired:
        """Return all of it."""
        return Desired(
            wanted_nodes,
            tuple(self.volumes()),
            tuple(self.avoided()),
            self.slots(),
            tuple(self.parts()),
            tuple(self._texts("SELECT name FROM leaving ORDER BY name")),
        )

    def slots(self) -> dict[int, str]:
        """Return slot -> machine id."""
        rows = self._database.execute("SELECT slot, machine FROM slot ORDER BY slot")
        return {int(str(slot)): str(machine) for slot, machine in rows}

    def parts(self) -> list[Placed]:
        """Return what is placed, by name."""
        rows = self._database.execute("SELECT name, role, machine FROM part ORDER BY name")
        return [Placed(str(name), str(role), str(machine)) for name, role, machine in rows]

    def take(self, plan: Plan) -> None:
        """Make the plan's next desired state the current one; rows that stay are not written."""
        before = self.desired(0)
        run = self._database.execute
        for slot in before.slots:
            if slot not in plan.slots:
                run("DELETE FROM slot WHERE slot = ?", (slot,))
        for slot, machine in plan.slots.items():
            if before.slots.get(slot) != machine:
                run("INSERT OR REPLACE INTO slot VALUES (?, ?)", (slot, machine))
        for part in before.parts:
            if part not in plan.parts:
                run("DELETE FROM part WHERE name = ?", (part.name,))
        for part in plan.parts:
            if part not in before.parts:
                run("INSERT INTO part VALUES (?, ?, ?)", (part.name, part.role, part.machine))
        for name in before.leaving:
            if name not in plan.leaving:
                run("DELETE FROM leaving WHERE name = ?", (name,))
        for name in plan.leaving:
            if name not in before.leaving:
                run("INSERT INTO leaving VALUES (?)", (name,))

    # Machines
    # ---------------------------------------------------------------------------------------

    def avoided(self) -> list[str]:
        """Return the names of machines that are to be left."""
        return self._texts("SELECT machine FROM avoided ORDER BY machine")

    def avoid(self, machine: str, avoided: bool) -> None:
        """A machine is to be left, or may serve again. Raises LimitReached."""
        self._database.execute("DELETE FROM avoided WHERE machine = ?", (machine,))
        if avoided:
            if len(self.avoided()) >= AVOIDED_MAX:
                raise LimitReached(
                    f"{AVOIDED_MAX} machines are drained; resume those that are gone"
                )
            self._database.execute("INSERT INTO avoided VALUES (?)", (machine,))

    # Volumes
    # ----------------------------------------------------------------------------------------

    def volumes(self) -> list[str]:
        """Return the names of the volumes, the oldest first."""
        return self._texts("SELECT name FROM volume ORDER BY number")

    def add_volume(self, name: str) -> None:
        """Take a volume in, with a share of its name. Not done for one that is known, so that a
        share which was deleted stays away. Raises InvalidName, LimitReached."""
        known = self.volumes()
        if name in known:
            return
        check_volume_name(name)
        if len(known) >= VOLUMES_MAX:
            raise LimitReached(f"a cluster serves at most {VOLUMES_MAX} volumes")
        row = self._database.one("SELECT max(number) FROM volume")
        number = int(str(row[0])) + 1 if row is not None and row[0] is not None else 1
        self._database.execute("INSERT INTO volume VALUES (?, ?)", (number, name))
        if self._find(name) is None:
            self._insert(ShareEntry(name, name))

    def check_removable(self, name: str) -> None:
        """Raises ObjectNameNotFound, or InvalidParameter for the first volume."""
        known = self.volumes()
        if name not in known:
            raise ObjectNameNotFound(f"there is no volume {name!r}; there is {', '.join(known)}")
        if name == known[0]:
            raise InvalidParameter(
                f"{name!r} is the cluster's first volume and goes with it: `sofs down`, then "
                "delete the root"
            )

    def remove_volume(self, name: str) -> None:
        """A volume and its shares are wanted no more. Raises as ``check_removable``."""
        self.check_removable(name)
        self._database.execute("DELETE FROM share WHERE volume = ?", (name,))
        self._database.execute("DELETE FROM volume WHERE name = ?", (name,))

    # Shares
    # -----------------------------------------------------------------------------------------

    def shares(self) -> list[ShareEntry]:
        """Return all shares, by name without case."""
        rows = self._database.execute(
            "SELECT name, volume, read_only, available FROM share ORDER BY key"
        )
        return [ShareEntry(str(n), str(v), bool(r), bool(a)) for n, v, r, a in rows]

    def _find(self, name: str) -> ShareEntry | None:
        wanted = share_key(name)
        return next((share for share in self.shares() if share_key(share.name) == wanted), None)

    def _insert(self, share: ShareEntry) -> None:
        self._database.execute(
            "INSERT INTO share VALUES (?, ?, ?, ?, ?)",
            (
                share_key(share.name),
                share.name,
                share.volume,
                int(share.read_only),
                int(share.available),
            ),
        )

    def create_share(self, share: ShareEntry) -> None:
        """Raises InvalidName, ObjectNameCollision, ObjectNameNotFound (volume), LimitReached."""
        check_share_name(share.name)
        self._check_volume(share)
        if self._find(share.name) is not None:
            raise ObjectNameCollision(
                f"there is a share {share.name!r}; `sofs share change` changes it"
            )
        if len(self.shares()) >= SHARES_MAX:
            raise LimitReached(f"a cluster has at most {SHARES_MAX} shares; remove one")
        self._insert(share)

    def change_share(self, share: ShareEntry) -> None:
        """Give an existing share these settings. Raises BadNetworkName, ObjectNameNotFound."""
        self.remove_share(share.name)
        self._check_volume(share)
        self._insert(share)

    def remove_share(self, name: str) -> None:
        """Raises BadNetworkName."""
        if self._find(name) is None:
            raise BadNetworkName(f"there is no share {name!r}; `sofs share ls` lists them")
        self._database.execute("DELETE FROM share WHERE key = ?", (share_key(name),))

    def _check_volume(self, share: ShareEntry) -> None:
        if share.volume not in self.volumes():
            raise ObjectNameNotFound(
                f"there is no volume {share.volume!r}; there is {', '.join(self.volumes())}"
            )

    # Requests
    # ---------------------------------------------------------------------------------------

    def done(self, token: bytes) -> bool:
        """Was the request with this token done?"""
        found = self._database.one("SELECT 1 FROM request WHERE token = ?", (token,))
        return found is not None

    def note(self, token: bytes) -> None:
        """Remember a request, in the transaction that does it."""
        row = self._database.one("SELECT max(number) FROM request")
        number = int(str(row[0])) + 1 if row is not None and row[0] is not None else 1
        self._database.execute("INSERT INTO request VALUES (?, ?)", (number, token))
        self._database.execute("DELETE FROM request WHERE number <= ?", (number - REQUESTS_MAX,))
