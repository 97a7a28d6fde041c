"""Model-based tests on the simulator: see ``fs_machine``.

The usual run draws the same examples each time. For a search:

    python -m pytest tests/stateful/test_stateful_sim.py --hypothesis-profile=long
"""

from __future__ import annotations

import pytest
from fs_machine import FileSystemMachine
from hypothesis import HealthCheck, settings

LONG = settings.get_current_profile_name() == "long"
EXAMPLES = 200

TestFileSystem = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")(
    FileSystemMachine.TestCase
)
TestFileSystem.settings = settings(
    max_examples=settings().max_examples if LONG else EXAMPLES,
    stateful_step_count=50,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)
