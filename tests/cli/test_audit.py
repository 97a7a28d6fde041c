"""Every command, as the parser has it: help, JSON, exit statuses, and what users can mend without a
traceback. A noun that is added is in these tests by itself."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_operator_commands import CREDENTIAL, Leader, Sofs, leader, sofs  # noqa: F401

from sofs.actors import admin, ray_cluster, rundir
from sofs.actors.compose import create_roots
from sofs.cli import delegate
from sofs.cli.completion import Command, tree
from sofs.cli.main import build_parser, main
from sofs.cli.operator import COLUMNS_MAX, table_lines

TREE = tree(build_parser())
ALL = [one for one in TREE.walk() if one.path]
LEAVES = [one for one in ALL if not one.commands]
ASKING = [one for one in LEAVES if one.path.split()[0] not in (*delegate.COMMANDS, "completion")]
# Prints a script, or is JSON itself.
WITHOUT_JSON = ("completion", "trace export")
REQUIRED = {"completion": ["bash"]}


def argv(command: Command) -> list[str]:
    """The command with something for each argument that it must have."""
    parser: argparse.ArgumentParser = build_parser()
    words = command.path.split()
    for word in words:
        inner = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = inner.choices[word]
    needed = [
        action
        for action in parser._actions
        if not action.option_strings and action.nargs not in ("?", "*")
    ]
    return [*words, *REQUIRED.get(command.path, ["x" for _ in needed])]


def ids(commands: list[Command]) -> list[str]:
    return [one.path.replace(" ", "-") for one in commands]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a leader that is not there, and Ray is never started."""

    def never(*arguments: object, **named: object) -> None:
        raise AssertionError("Ray would be started")

    monkeypatch.setattr(admin, "ASK_S_MAX", 0.1)
    monkeypatch.setattr(ray_cluster, "start_node", never)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that cannot be done: status 3, one line that says why, nothing else."""
    status = main(arguments)
    said = capsys.readouterr()
    assert status == 3, (arguments, status, said)
    assert said.err.startswith("sofs: "), said
    assert "Traceback" not in said.err
    return said.err


# Help and usage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ALL, ids=ids(ALL))
def test_help_has_examples_and_fits_the_screen(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS_MAX))
    with pytest.raises(SystemExit) as ended:
        main([*command.path.split(), "--help"])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "examples:\n  s" in said, said
    assert f"sofs {command.path}" in said
    long = [line for line in said.splitlines() if len(line) > COLUMNS_MAX]
    assert not long


@pytest.mark.parametrize("command", LEAVES, ids=ids(LEAVES))
def test_wrong_usage_is_2_and_says_the_usage(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*argv(command), "--no-such-option"])
    assert ended.value.code == 2
    assert "usage: sofs" in capsys.readouterr().err


@pytest.mark.parametrize("command", LEAVES, ids=ids(LEAVES))
def test_every_command_has_json(command: Command) -> None:
    assert ("--json" in command.options) != (command.path in WITHOUT_JSON)


@pytest.mark.parametrize("noun", [one for one in ALL if one.commands], ids=lambda one: one.path)
def test_a_noun_alone_is_wrong_usage(noun: Command) -> None:
    with pytest.raises(SystemExit) as ended:
        main(noun.path.split())
    assert ended.value.code == 2


# What users can mend ----------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("command", ASKING, ids=ids(ASKING))
class TestNoTraceback:
    def test_with_nothing_up(self, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
        if command.path == "up":
            pytest.skip("it would start one")
        status = main(argv(command))
        said = capsys.readouterr()
        assert status in (0, 3)
        assert "Traceback" not in said.err
        if status == 3:
            assert "no cluster" in said.out + said.err or "sofs " in said.err

    def test_with_a_root_that_is_a_file(
        self, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("x")
        self.bad_root(command, str(tmp_path / "file"), capsys)

    def test_with_a_folder_that_is_no_root(
        self, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if command.path == "up":
            pytest.skip("it would make it one")
        (tmp_path / "empty").mkdir()
        self.bad_root(command, str(tmp_path / "empty"), capsys)
        assert not list((tmp_path / "empty").iterdir())

    def test_with_a_root_that_is_not_there_it_makes_none(
        self, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if command.path == "up":
            pytest.skip("it makes it")
        self.bad_root(command, str(tmp_path / "none" / "root"), capsys)
        assert not (tmp_path / "none").exists()

    def test_with_a_root_that_no_driver_serves(
        self, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.bad_root(command, "gs://bucket/root", capsys)

    def bad_root(self, command: Command, root: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A command that reads run directories only finds nothing; all others refuse."""
        if "--root" not in command.options:
            pytest.skip("it takes no root")
        os.environ["SOFS_CREDENTIAL"] = CREDENTIAL
        status = main([*argv(command), "--root", root])
        said = capsys.readouterr()
        assert status in (0, 3)
        assert "Traceback" not in said.err
        if status == 3:
            assert said.err.startswith("sofs: ") or "no cluster" in said.out
        else:
            assert command.path.split()[0] in ("down", "trace", "events"), said

    def test_with_the_wrong_credential(
        self,
        command: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        if "--root" not in command.options:
            pytest.skip("it takes no root")
        create_roots(str(tmp_path / "root"), CREDENTIAL, "share")
        monkeypatch.setenv("SOFS_CREDENTIAL", "d" * 43)
        status = main([*argv(command), "--root", str(tmp_path / "root")])
        said = capsys.readouterr()
        assert status in (0, 3)
        assert "Traceback" not in said.err
        monkeypatch.setenv("SOFS_CREDENTIAL", str(tmp_path / "no-such-file"))
        assert main([*argv(command), "--root", str(tmp_path / "root")]) in (0, 3)

    def test_with_a_cluster_whose_leader_is_away(
        self,
        command: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        if "--root" not in command.options or command.path == "up":
            pytest.skip("it asks no leader")
        create_roots(str(tmp_path / "root"), CREDENTIAL, "share")
        monkeypatch.setenv("SOFS_CREDENTIAL", CREDENTIAL)
        status = main([*argv(command), "--root", str(tmp_path / "root")])
        said = capsys.readouterr()
        assert status in (0, 3)
        assert "Traceback" not in said.err

    def test_with_a_run_file_that_it_may_not_read(
        self,
        command: Command,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        if "--run-dir" not in command.options:
            pytest.skip("it takes no run directory")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / rundir.RUN_FILE).write_text("{}")
        read = Path.read_text

        def forbidden(path: Path, *arguments: object, **named: object) -> str:
            if path.name == rundir.RUN_FILE:
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        monkeypatch.setattr(Path, "read_text", forbidden)
        root = ["--root", str(tmp_path / "root")] if command.path == "up" else []
        status = main([*argv(command), "--run-dir", str(tmp_path / "run"), *root])
        said = capsys.readouterr()
        assert status in (0, 3)
        assert "Traceback" not in said.err
        if status == 3:
            assert said.err.startswith("sofs: ")

    def test_interrupted(
        self, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(*arguments: object, **named: object) -> None:
            raise KeyboardInterrupt

        for name in ("find_run_dir", "base_dir", "keyring_dir"):
            monkeypatch.setattr(rundir, name, interrupted)
        status = main(argv(command))
        assert status == 130
        assert capsys.readouterr().err == "sofs: interrupted\n"


def test_a_real_interrupt_of_a_command_that_waits_is_one_line(tmp_path: Path) -> None:
    create_roots(str(tmp_path / "root"), CREDENTIAL, "share")
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "share", "ls", "--root", str(tmp_path / "root")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SOFS_CREDENTIAL": CREDENTIAL},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "sofs: interrupted\n")


INTERRUPTED = """
import sys
from sofs.actors import admin
from sofs.cli.main import main
wait = admin.ask_until
def told(*arguments):
    print("waits", flush=True)
    return wait(*arguments)
admin.ask_until = told
sys.exit(main(sys.argv[1:]))
"""


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "import sys; from sofs.cli.main import main; sys.exit(main(['completion', 'bash']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), said) == (0, b"")


# Tables -----------------------------------------------------------------------------------------


def test_a_table_is_cut_to_the_screen_at_its_longest_cells() -> None:
    lines = table_lines(("NAME", "WHERE", "WHAT"), [("a" * 80, "b" * 60, "c"), ("x", "y", "z")])
    assert [len(line) <= COLUMNS_MAX for line in lines] == [True] * 3
    assert "..." in lines[1]
    assert lines[2].split() == ["x", "y", "z"]


def test_tables_of_long_names_fit_the_screen(sofs: Sofs) -> None:  # noqa: F811
    sofs("share", "create", "s" * 80)
    sofs("volume", "create", "v" * 40)
    for command in LEAVES:
        words = command.path.split()
        if words[-1] == "ls" and words[0] in ("share", "node", "volume"):
            assert max(map(len, sofs(*words).splitlines())) <= COLUMNS_MAX
            json.loads(sofs(*words, "--json"))


@pytest.fixture(autouse=True)
def _no_credential_stays() -> Iterator[None]:
    yield
    os.environ.pop("SOFS_CREDENTIAL", None)
