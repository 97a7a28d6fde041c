"""`sofs events` and `sofs handles` against a cluster of real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sofs
from sofs.cli.main import main
from sofs.errors import ClosedByAdministrator, FileForcedClosed, SharingViolation
from sofs.testing import LocalCluster


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path / "root", nodes=2, run_dir=tmp_path / "run") as made:
        monkeypatch.setenv("SOFS_CREDENTIAL", made.credential)
        yield made


def connect(cluster: LocalCluster) -> sofs.Share:
    return sofs.connect(cluster.url, credential=cluster.credential)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def events(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str], *arguments: str
) -> list[dict[str, Any]]:
    text = run(capsys, "events", "--run-dir", str(cluster.run_dir), "--json", *arguments)
    return [json.loads(line) for line in text.splitlines()]


def handles(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str], *arguments: str
) -> list[dict[str, Any]]:
    text = run(capsys, "handles", "ls", "--root", cluster.root, "--json", *arguments)
    return list(json.loads(text)["handles"])


def test_a_killed_node_is_one_story_told_by_all_processes_in_order(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(cluster) as share, share.open("/ledger", "w+b") as file:
        file.pwrite(b"one", 0)
        killed = share.facts().node
        cluster.stop(killed)
        file.pwrite(b"two", 3)
        assert file.pread(6, 0) == b"onetwo"
        survivor = share.facts().node
    told = events(cluster, capsys)
    assert [one["monotonic_ns"] for one in told] == sorted(one["monotonic_ns"] for one in told)
    ids = [one["id"] for one in told if one["channel"] in ("SMBServer", "SMBClient")]
    story = [number for number in ids if number in (650, 651, 652, 654, 30805, 30806, 30611)]
    assert 30611 not in story
    assert story[0] == 650
    assert story[-1] == 654
    assert story.index(651) < story.index(652) < story.index(30806)
    assert story.index(30805) < story.index(30806)
    [kept] = [one for one in told if one["id"] == 651]
    assert kept["fields"]["path"] == "/ledger"
    assert kept["fields"]["node"] == killed
    assert kept["process"] == cluster.owner()
    [back] = [one for one in told if one["id"] == 652]
    assert back["fields"]["node"] == survivor
    assert len(back["trace"]) == 32, "it is a part of the client's failover"
    [restored] = [one for one in told if one["id"] == 30806]
    assert restored["pid"] == os.getpid()
    assert restored["trace"] == back["trace"]
    assert any(one["channel"] == "ResumeKeyFilter" and one["id"] == 6 for one in told)
    # What the dead process told is there, too.
    assert any(one["process"] == killed and one["id"] == 550 for one in told)

    only = events(cluster, capsys, "--channel", "smbclient", "--id", "30805", "--since", "1h")
    assert [(one["channel"], one["id"]) for one in only] == [("SMBClient", 30805)]
    assert events(cluster, capsys, "--since", "2999-01-01T00:00") == []
    table = run(capsys, "events", "--run-dir", str(cluster.run_dir), "--last", "1000")
    assert max(map(len, table.splitlines())) <= 100
    assert "SMBServer           651 " in table
    assert "handle" in table


def test_following_ends_in_order_at_an_interrupt(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "sofs", "events", "--follow", "--id", "650", "--json"]
    command += ["--run-dir", str(cluster.run_dir)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        timer = threading.Timer(60, child.kill)
        timer.start()
        try:
            assert child.stdout is not None
            with connect(cluster) as share:
                for name in ("/first", "/second"):
                    share.open(name, "wb").close()
                    told = json.loads(child.stdout.readline())
                    assert told["fields"]["path"] == name
            child.send_signal(signal.SIGINT)
            _, complaints = child.communicate()
            assert child.returncode == 0
            assert complaints == ""
        finally:
            timer.cancel()


def test_a_reader_that_has_enough_ends_the_command_without_a_complaint(
    cluster: LocalCluster,
) -> None:
    command = [sys.executable, "-m", "sofs", "events", "--run-dir", str(cluster.run_dir)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.close()
        assert child.stderr is not None
        assert child.stderr.read() == ""
    assert child.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["--channel", "SMB"], ["--since", "soon"], ["--last", "0"], ["--id", "x"]],
    ids=lambda given: " ".join(given),
)
def test_wrong_use_is_told_with_what_would_be_right(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["events", *arguments])
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_handles_are_listed_over_many_pages_and_found_by_client_path_and_share(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(cluster) as share, connect(cluster) as other:
        share.mkdir("/logs")
        files = [share.open(f"/logs/{number:03}", "wb") for number in range(300)]
        mine = other.open("/alone", "x+b")
        found = handles(cluster, capsys)
        assert len(found) == 301
        numbers = [one["handle"] for one in found]
        assert numbers == sorted(numbers)
        assert {one["node"] for one in found} == {share.facts().node, other.facts().node}
        [alone] = handles(cluster, capsys, "--path", "/alone")
        assert alone["client"] == other.client_id.hex()
        assert (alone["access"], alone["share"]) == ("rw", "rwd")
        assert handles(cluster, capsys, "--client", alone["client"][:8]) == [alone]
        assert len(handles(cluster, capsys, "--path", "logs", "--share", "share")) == 300
        assert handles(cluster, capsys, "--path", "/log") == []
        table = run(capsys, "handles", "ls", "--root", cluster.root, "--path", "/logs/007")
        assert table.splitlines()[1].split()[-1] == "/logs/007"
        assert len(table.splitlines()) == 2
        assert main(["handles", "ls", "--root", cluster.root, "--share", "none"]) == 3
        assert "sofs share ls" in capsys.readouterr().err
        mine.close()
        for file in files:
            file.close()
    assert "no handle is open" in run(capsys, "handles", "ls", "--root", cluster.root)


def test_an_administrator_closes_a_handle_and_its_client_is_told(
    cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(cluster) as share, connect(cluster) as other:
        file = share.open("/held", "w+b", share=sofs.ShareMode.NONE)
        file.pwrite(b"kept", 0)
        with pytest.raises(SharingViolation):
            other.open("/held", "rb")
        [held] = handles(cluster, capsys)
        number = str(held["handle"])
        text = run(capsys, "handles", "close", number, "--root", cluster.root)
        assert text == f"closed: handle {number} of the volume share\n"
        with pytest.raises(ClosedByAdministrator, match="FILE_CLOSED_BY_ADMIN") as refused:
            file.pwrite(b"late", 0)
        assert isinstance(refused.value, FileForcedClosed)
        with other.open("/held", "r+b", share=sofs.ShareMode.NONE) as again:
            assert again.pread(9, 0) == b"kept"
        assert main(["handles", "close", number, "--root", cluster.root]) == 3
        assert "sofs handles ls" in capsys.readouterr().err
    [told] = events(cluster, capsys, "--id", "658")
    assert told["fields"]["handle"] == held["handle"]
    assert told["fields"]["path"] == "/held"
