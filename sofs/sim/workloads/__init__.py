"""What simulated clients do."""

from __future__ import annotations

from typing import Final

from sofs.sim.workloads.appends import Appends, Counters
from sofs.sim.workloads.base import Workload
from sofs.sim.workloads.copies import Copies
from sofs.sim.workloads.locks import Locks
from sofs.sim.workloads.names import Exclusive, Tree
from sofs.sim.workloads.opened import Apps, Opened, Overwrites
from sofs.sim.workloads.private import Private
from sofs.sim.workloads.registers import Registers
from sofs.sim.workloads.whole import Whole

WORKLOADS: Final[dict[str, type[Workload]]] = {
    workload.name: workload
    for workload in (
        Registers,
        Appends,
        Counters,
        Tree,
        Exclusive,
        Private,
        Locks,
        Whole,
        Opened,
        Overwrites,
        Apps,
        Copies,
    )
}
