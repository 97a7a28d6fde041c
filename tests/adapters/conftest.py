"""The world of real parts in one process is shared with the tests of the node."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "services" / "node"))
