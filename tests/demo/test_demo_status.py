"""The demo's exit status tells the truth: 0 with its table after a short real run, 1 for a promise
that was broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sofs.demo import main as entry
from sofs.demo import run
from sofs.demo.report import TreeReport


@pytest.mark.chaos
@pytest.mark.timeout(150)
def test_a_short_run_keeps_every_promise_and_prints_its_table(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sofs.demo", "--no-ray", "--seconds", "60"],
        capture_output=True, text=True, check=False, timeout=140,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "every promise was kept" in done.stdout
    assert "PRAGMA integrity_check: ok" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith(("SIGKILL", "SIGSTOP"))]
    assert rows, "at least one fault is in the table"
    for row in rows:
        assert row.split()[-2:] == ["0", "0"], "errors and losses"


def test_a_loss_that_the_check_finds_ends_the_demo_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tampered(demo: run.Demo) -> None:
        demo._outcome.under_way = True
        demo._outcome.tree = TreeReport(files=1, copied=1)
        demo._outcome.broken.append("acknowledged, and lost: /tree/a.py")

    monkeypatch.setattr(run.Demo, "run", tampered)
    assert entry(["--no-ray", "--folder", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "BROKEN    acknowledged, and lost: /tree/a.py" in shown
    assert "a promise was BROKEN" in shown
