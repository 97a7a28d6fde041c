"""What simulated clients do."""

from __future__ import annotations

from typing import Final

from sofs.sim.workloads.base import Workload
from sofs.sim.workloads.registers import Registers

WORKLOADS: Final[dict[str, type[Workload]]] = {w.name: w for w in (Registers,)}
