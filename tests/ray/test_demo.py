"""The main job on a real Ray cluster, in its short form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sofs.demo.faults import SHORT_FAULTS

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def test_the_short_demo_on_ray_keeps_every_promise_through_its_faults(tmp_path: Path) -> None:
    facts_file = tmp_path / "facts.json"
    folder = tmp_path / "volume"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sofs.demo", "--short", "--seconds", "150"),
            *("--json", str(facts_file), "--folder", str(folder)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    facts = json.loads(facts_file.read_text())
    assert facts["cluster"] == "local Ray"
    assert [(fault["signal"], fault["role"]) for fault in facts["faults"]] == list(SHORT_FAULTS)
    assert all(fault["in_flight"] > 0 for fault in facts["faults"])
    assert facts["kept"] is True
    assert facts["tree"]["compared"] == facts["tree"]["copied"] > 0
    assert "every promise was kept" in done.stdout
