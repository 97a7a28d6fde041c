"""Tests of the leader with nodes use the nodes' own world."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "node"))
