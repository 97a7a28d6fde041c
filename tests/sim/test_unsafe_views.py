"""The two-party probe in the simulator: parts whose disk is not the others' never serve beside
them."""

from __future__ import annotations

import asyncio
import copy
import weakref
from typing import cast

import pytest

from sofs.errors import BackendRefused
from sofs.ports.store import Store
from sofs.services.authority.service import AuthorityPart
from sofs.services.node.part import NodePart
from sofs.sim.cluster import Cluster
from sofs.sim.disk import SimDisk, SimOs
from sofs.sim.loop import SimLoop, simulate
from sofs.sim.plan import Plan, draw_plan
from sofs.sim.run import Gone, quiet
from sofs.sim.world import SimProcess, World
from sofs.storage import LocalAppendStore

SEEDS = range(5)
LATE_S, SETTLED_S = 2.0, 20.0  # Virtual.


class StaleOs(SimOs):
    """A name that was absent once stays absent for this process."""

    def __init__(self, disk: SimDisk, process: SimProcess) -> None:
        super().__init__(disk, process)
        self._gone: set[str] = set()

    def stat_at(self, name: str, folder_fd: int) -> None:
        if name in self._gone:
            raise FileNotFoundError(2, "cached as absent", name)
        try:
            super().stat_at(name, folder_fd)
        except FileNotFoundError:
            self._gone.add(name)
            raise


class UnsafeCluster(Cluster):
    """Machine ``m2`` sees another disk, or the same one through a cache."""

    def __init__(self, world: World, plan: Plan, how: str) -> None:
        self.how = how
        self.refusals: list[str] = []
        self.other: SimDisk | None = None
        super().__init__(world, plan)

    def store(self, process: SimProcess, root: str) -> Store:
        if process.machine.name != "m2":
            return super().store(process, root)
        if self.how == "stale":
            return LocalAppendStore(root, calls=StaleOs(self.disk, process))
        if self.other is None:
            self.other = SimDisk(self.world.draw("other"))
            if self.how == "copy":  # Of the moment at which the machine first looked.
                self.other.root = copy.deepcopy(self.disk.root)
                self.other._root = self.other.root.entries["sim-root"]
        return LocalAppendStore(root, calls=SimOs(self.other, process))

    def refused(self, what: str) -> None:
        self.refusals.append(what)


def run(seed: int, how: str, *, late: bool = False, pair: bool = True) -> list[list[str]]:
    """Two machines; the parts of the second one start with the first, or ``late``. Returns who
    joined on either one, and the refusals."""
    loops: list[SimLoop] = []

    async def main() -> list[list[str]]:
        world = World(loops[0], seed)
        cluster = UnsafeCluster(world, Plan(nodes=2, machines=2, pair=pair), how)
        for part in cluster.parts:
            if part.machine.name == "m1":
                cluster.start_part(part)
        await asyncio.sleep(LATE_S if late else 0)
        cluster.start()
        await asyncio.sleep(SETTLED_S)
        assert not world.failures, world.failures
        return [joined(cluster, "m1"), joined(cluster, "m2"), cluster.refusals]

    gone: list[Gone] = []
    with quiet([], gone):
        found = simulate(seed, main(), prepare=loops.append)[0]
        gone.append(weakref.ref(loops.pop()))
    return found


def joined(cluster: UnsafeCluster, machine: str) -> list[str]:
    """Who of a machine serves clients, owns the volume, or would take it over."""
    names = []
    for part in cluster.parts:
        made = part.part
        if part.machine.name != machine:
            continue
        if isinstance(made, AuthorityPart):
            joins = made.active is not None or made.follower_in_step
        else:
            node = cast("NodePart", made).node
            joins = node is not None and node.link.connected
        if joins:
            names.append(part.name)
    return names


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("how", ["private", "copy", "stale"])
@pytest.mark.parametrize("seed", SEEDS)
def test_parts_with_another_view_of_the_disk_never_serve_beside_those_that_serve(
    seed: int, how: str, late: bool
) -> None:
    one, other, refusals = run(seed, how, late=late)
    assert not (one and other), f"{one} and {other} serve at the same time"
    assert one or other
    assert refusals
    assert all(BackendRefused.code in what for what in refusals)


@pytest.mark.parametrize("how", ["private", "stale"])
def test_without_the_probe_both_sides_serve(how: str) -> None:
    """What the test above is worth."""
    one, other, _ = run(1, how, pair=False)
    assert one
    assert other


def test_half_of_the_seeds_probe() -> None:
    assert 60 < sum(draw_plan(seed).pair for seed in range(200)) < 140
