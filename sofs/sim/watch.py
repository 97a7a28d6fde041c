"""Eyes on the product while it runs: what its gates do, what its tables go through, and whether it
tells of damage that nobody did. They look and change nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from sofs.services.authority.service import AuthorityPart
from sofs.services.node.part import NodePart
from sofs.sim.checkers.liveness import GateEvent
from sofs.sim.checkers.tables import STEP_TABLES, Steps, TablesOf
from sofs.sim.world import SimProcess, World
from sofs.storage import ApswState

if TYPE_CHECKING:
    from sofs.sim.cluster import Cluster

DAMAGE: Final = "$corrupt"


def rows(database: Any, table: str) -> list[dict[str, Any]]:
    """All rows of a table, by the names of their columns."""
    names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    return [
        dict(zip(names, row, strict=True)) for row in database.execute(f"SELECT * FROM {table}")
    ]


def tables_of(database: Any) -> TablesOf:
    """All tables of an authority's database."""
    found = database.execute(
        "SELECT name FROM main.sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%'"
    )
    return {name: rows(database, name) for (name,) in list(found)}


class WatchedState(ApswState):
    """The product's database; ``told`` hears of each change that breaks a rule."""

    def __init__(self, schema_sql: Sequence[str] = ()) -> None:
        super().__init__(schema_sql)
        self.told: Callable[[str], None] | None = None
        self.steps = Steps()
        self.known = -1  # Changes of the database when it was last looked at.
        self.depth = 0
        self._columns: dict[str, list[str]] = {}
        self._last: dict[str, tuple[list[Any], list[dict[str, Any]]]] = {}

    def transaction(self) -> AbstractContextManager[None]:
        return _Watched(self, super().transaction())

    def apply_changesets(self, changesets: Sequence[bytes]) -> None:
        self.known = -1
        self.steps.restart()
        super().apply_changesets(changesets)

    def load(self, image: bytes) -> None:
        self.known = -1
        self.steps.restart()
        super().load(image)

    def look(self) -> None:
        """Judge the change since the last look."""
        if self.told is None or self.known == self.changes():
            return
        self.known = self.changes()
        tables = {name: self._rows(name) for name in STEP_TABLES}
        if tables["counter"]:
            for violation in self.steps.next(tables):
                self.told(str(violation))

    def _rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table: the very list of the last look if none has changed."""
        names = self._columns.get(table)
        if names is None:
            names = [str(row[1]) for row in self.execute(f"PRAGMA table_info({table})")]
            self._columns[table] = names
        raw = list(self.execute(f"SELECT * FROM {table}"))
        last = self._last.get(table)
        if last is not None and last[0] == raw:
            return last[1]
        made = [dict(zip(names, row, strict=True)) for row in raw]
        self._last[table] = (raw, made)
        return made


class _Watched(AbstractContextManager[None]):
    def __init__(self, state: WatchedState, inner: AbstractContextManager[None]) -> None:
        self._state = state
        self._inner = inner

    def __enter__(self) -> None:
        state = self._state
        if not state.depth and state.known < 0:
            state.look()
        state.depth += 1
        self._inner.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inner.__exit__(kind, error, trace)
        self._state.depth -= 1
        if kind is None and not self._state.depth:
            self._state.look()


class Watch:
    """What a run sees of its cluster. ``gates``: on the clock of each owner's process."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.gates: list[GateEvent] = []
        self.served: dict[int, None] = {}
        self._last: dict[str, tuple[GateEvent, SimProcess]] = {}

    def look(self) -> None:
        """Look at all that runs; to be called every few milliseconds."""
        for part in [*self._cluster.parts, *self._cluster.twins]:
            made, process = part.part, part.process
            if process is None or process.frozen or not isinstance(made, AuthorityPart):
                continue
            active = made.active
            if active is None or active.ended.done():
                continue
            self.served[active.claim.epoch] = None
            self._gate(active, process)
            for problem in disconnected(self._cluster, active):
                self._cluster.world.fail(problem)

    def _gate(self, active: Any, process: SimProcess) -> None:
        owner = f"epoch {active.claim.epoch}"
        gate = active.resume._gate
        event = GateEvent(
            process.clock.monotonic_ms() * 1000,
            owner,
            active.resume.phase,
            len(gate.unclaimed()) + sum(map(len, gate._unreported.values())),
            bool(active.nodes.links()),
        )
        before = self._last.get(owner)
        self._last[owner] = (event, process)
        if before is None or _shown(before[0]) != _shown(event):
            self.gates.append(event)

    def end(self) -> list[GateEvent]:
        """The events, and for each owner its last sight."""
        return [*self.gates, *(event for event, _ in self._last.values())]


def _shown(event: GateEvent) -> tuple[str, int, bool]:
    return event.phase, event.open_handles, event.accepting


def disconnected(cluster: Cluster, active: Any) -> list[str]:
    """Handles that a registered node serves to a live session, and that count as an absent
    client's. (One that is being reclaimed may be told of by either.)"""
    found: list[str] = []
    away: dict[int, int] | None = None
    for part in cluster.running("node"):
        made = part.part
        node = made.node if isinstance(made, NodePart) else None
        if node is None or node.ended.done() or active.nodes.link(node.incarnation) is None:
            continue
        for handle in node.table.handles.values():
            if handle.leaving or handle.reclaiming:
                continue
            if handle.session is None or not handle.session.alive:
                continue
            if away is None:
                sql = "SELECT handle,generation FROM handle WHERE log_id=0"
                away = dict(active._database.execute(sql))
            if away.get(handle.number) == handle.generation:
                found.append(
                    f"handle {handle.number} was disconnected, though {part.name} serves it in "
                    f"generation {handle.generation} to a client that is there"
                )
    return found


class DamageHandler(logging.Handler):
    """Unless bytes were damaged in this run, whoever reports damage mistakes something else for it,
    or lost something."""

    def __init__(self, world: Callable[[], World | None]) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        world = self._world()
        if world is None:
            return
        owner = world.loop.current
        if isinstance(owner, SimProcess) and not owner.dead:
            text = record.getMessage()
            if text.startswith(DAMAGE) and not world.damaged.happened:
                world.fail(f"{owner.name} reports damage that nobody did: {text}")
