"""What simulated clients do."""

from __future__ import annotations

from typing import Final

from sofs.sim.workloads.appends import Appends, Counters
from sofs.sim.workloads.base import Workload
from sofs.sim.workloads.names import Exclusive, Tree
from sofs.sim.workloads.private import Private
from sofs.sim.workloads.registers import Registers

WORKLOADS: Final[dict[str, type[Workload]]] = {
    w.name: w for w in (Registers, Appends, Counters, Tree, Exclusive, Private)
}
