"""`sofs cluster`: what run directories tell, whether anything answers or not."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from test_command import record

from sofs.actors import lifecycle, procfile, rundir
from sofs.actors.known import known_clusters
from sofs.cli.main import main
from sofs.core.messages import PartStateReply

ONE, TWO = b"1" * 16, b"2" * 16


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """One cluster that is up, with two of its processes, and one that is down."""
    made = rundir.base_dir(os.environ)
    for cluster, up in ((ONE, True), (TWO, False)):
        folder = made / cluster.hex()
        rundir.make_private(folder)
        rundir.write_run(folder, record(tmp_path / f"root-{cluster[:1].decode()}", cluster, up=up))
    mine = procfile.own_facts("node-1", "node", "127.0.0.11:20000", run="ab" * 16)
    procfile.write(made / ONE.hex(), mine)
    procfile.write(made / ONE.hex(), replace(mine, name="leader", role="leader"))
    procfile.write(made / ONE.hex(), replace(mine, name="node-2", boot_id="another boot"))
    procfile.write(made / ONE.hex(), replace(mine, name="node-3", run="cd" * 16))
    return made


def test_ls_counts_the_processes_that_run_of_those_that_should(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "ls"]) == 0
    titles, one, two = capsys.readouterr().out.splitlines()
    assert titles.split() == ["CLUSTER", "STATE", "RUN", "PARTS", "SINCE", "ROOT"]
    # A head, three Ray nodes, leader, coordinator, resume-key, and a node and witness for each.
    assert one.split()[:4] == [ONE.hex()[:8], "up", "abababab", "2/13"]
    assert one.endswith(str(tmp_path / "root-1")) or "..." in one
    assert two.split()[:5] == [TWO.hex()[:8], "down", "abababab", "-", "-"]
    assert main(["cluster", "ls", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["clusters"]
    assert [one["state"] for one in found] == ["up", "down"]
    assert found[0]["url"].startswith("sofs://127.0.0.11")
    assert found[0]["since"] > 1e9


def test_show_names_every_process_and_how_to_connect(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rundir.keep_credential("c" * 43, base / ONE.hex())
    assert main(["cluster", "show"]) == 0
    text = capsys.readouterr().out
    assert "2 of 13 processes run" in text
    assert f"SOFS_CREDENTIAL={base / ONE.hex() / 'credential'}" in text
    assert "c" * 43 not in text
    assert ["node-1", "running", str(os.getpid()), "127.0.0.11:20000"] in [
        line.split() for line in text.splitlines()
    ]
    assert ["node-2", "not", "there", "-", "-"] in [line.split() for line in text.splitlines()]
    assert main(["cluster", "show", ONE.hex()[:6], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cluster"] == ONE.hex()
    assert main(["cluster", "show", "--root", str(tmp_path / "root-2")]) == 0
    assert "state       down" in capsys.readouterr().out


def test_a_run_dir_that_cannot_be_read_hides_no_other(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rundir.make_private(base / "broken")
    (base / "broken" / rundir.RUN_FILE).write_text("{")
    assert main(["cluster", "ls"]) == 0
    assert "unreadable" in capsys.readouterr().out
    found = [one for one in known_clusters(os.environ) if one.state == "unreadable"]
    assert "cannot be read" in found[0].problem


def test_what_is_not_known_is_said(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, word in (
        (["cluster", "show", "ffff"], "no cluster with the uuid ffff"),
        (["cluster", "show", ""], ""),
        (["cluster", "show", "--root", "/nosuch"], "no cluster on /nosuch is known here"),
    ):
        if word:
            assert main(arguments) == 3
            assert word in capsys.readouterr().err
    rundir.write_run(base / TWO.hex(), replace(record(base, TWO), up=True))
    assert main(["cluster", "show"]) == 3
    assert "several clusters are up" in capsys.readouterr().err


def test_status_forgets_the_dead_parts_of_a_removed_volume_when_the_leader_says_so() -> None:
    names = ["leader", "coordinator", "resume-key", "coordinator-old", "resume-key-new"]
    leader = PartStateReply("leader", "leader", b"", "leading", ["volumes=share,new"])
    assert lifecycle.of_removed_volumes(leader, names) == ["coordinator-old"]
    assert lifecycle.of_removed_volumes("away", names) == []
    older = PartStateReply("leader", "leader", b"", "leading", ["epoch=1"])
    assert lifecycle.of_removed_volumes(older, names) == []
