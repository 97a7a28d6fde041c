"""Stored bytes of a running cluster change: readers are told, and so is who looks after it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from limits_rig import refused

import sofs
from sofs.actors import rundir
from sofs.actors.rundir import RunRecord
from sofs.cli.main import main
from sofs.errors import Corrupt
from sofs.testing import LocalCluster

PAGE = 4096


def damage(root: Path, data: bytes) -> None:
    """Change a byte of the only stored copy of ``data``."""
    [segment] = [path for path in root.rglob("*") if path.is_file() and data in path.read_bytes()]
    at = segment.read_bytes().index(data) + 100
    with segment.open("r+b") as stored:
        stored.seek(at)
        stored.write(b"?")


def status(cluster: LocalCluster, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What `sofs status` prints of the cluster."""
    main(["status", "--run-dir", str(cluster.run_dir), *options])
    return capsys.readouterr().out


def test_status_tells_what_is_damaged_until_it_is_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCluster(tmp_path / "root", nodes=1, witness=False) as cluster:
        monkeypatch.setenv("SOFS_CREDENTIAL", cluster.credential)
        record = RunRecord(str(cluster.root), "00" * 16, "", 1, cluster.port, 0, 0, "")
        rundir.write_run(cluster.run_dir, record)
        with sofs.connect(cluster.url, credential=cluster.credential, witness=False) as share:
            share.mkdir("/d")
            with share.open("/d/file", "x+b") as file:
                file.write(b"\x41" * PAGE + b"\x42" * PAGE)
            damage(Path(cluster.root), b"\x42" * PAGE)
            assert json.loads(status(cluster, capsys, "--json"))["corrupt"] == []
            with refused(Corrupt):
                share.read_file("/d/file")
            told: list[dict[str, object]] = []
            while not told:  # The test's own timeout is the limit.
                time.sleep(0.02)
                report = json.loads(status(cluster, capsys, "--json"))
                told = report["corrupt"]
            [place] = told
            assert report["corrupt_total"] == 1
            assert (place["kind"], place["path"]) == ("page", "/d/file")
            assert (place["offset"], place["length"]) == (PAGE, PAGE)
            assert place["found_by"] == "node-1"
            assert any("$corrupt" in note for note in report["notes"])
            text = status(cluster, capsys, "--facts")
            assert "/d/file: bytes 4096 to 8192 (log " in text
            assert "1 damaged places" in text
            cluster.kill("coordinator")
            cluster.wait_ready()
            share.write_file("/d/other", b"x")
            again = json.loads(status(cluster, capsys, "--json"))
            assert again["corrupt"] == told
            with share.open("/d/file", "r+b") as file:
                file.pwrite(b"\x43" * PAGE, PAGE)
            assert share.read_file("/d/file") == b"\x41" * PAGE + b"\x43" * PAGE
            after = json.loads(status(cluster, capsys, "--json"))
            assert (after["corrupt"], after["corrupt_total"]) == ([], 0)
            assert "DAMAGED" not in status(cluster, capsys, "--facts")
