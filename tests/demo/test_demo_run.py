"""The demo as a process: Ctrl-C in the middle leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(200)]


def parts_that_mention(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if text in line and "sofs.actors" in line:
                found.append(line)
    return found


def test_ctrl_c_ends_every_process_and_removes_every_file(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "sofs.demo", "--no-ray"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "operations in flight" in line:
                break
        assert parts_that_mention(str(tmp_path)), "the cluster runs"
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
        assert demo.wait() == 130
    assert "interrupted" in rest
    assert parts_that_mention(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


BROKEN = """
import sys
from sofs.demo import bank, main, run

examine = run.examine_bank

def loses_a_cent(share, tellers):
    with bank.open_bank(share) as database, database:
        database.execute("UPDATE account SET cents = cents - 1 WHERE id = 0")
    return examine(share, tellers)

run.examine_bank = loses_a_cent
sys.exit(main(["--no-ray", "--short"]))
"""


def test_a_cent_that_is_lost_on_the_share_ends_the_demo_with_status_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 1, done.stdout
    assert "BROKEN    " in done.stdout
    assert "accounts hold 9999999 cents" in done.stdout
    assert list(tmp_path.iterdir()) == []
