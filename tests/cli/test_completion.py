"""Completion, as bash does it with the script that the command prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sofs.cli.completion import Command, bash, fish, names, tree, zsh
from sofs.cli.main import build_parser, main
from sofs.core.share_table import ShareEntry, ShareTable, encode_table, table_key
from sofs.storage import LocalAppendStore, roots

TREE = tree(build_parser())


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "sofs.bash"
    path.write_text(bash(TREE))
    return path


def complete(script: Path, line: str, folder: Path | None = None) -> list[str]:
    """What bash offers at the end of a command line."""
    words = line.split(" ")
    code = (
        f'source "{script}"\n'
        f'sofs() {{ "{sys.executable}" -m sofs "$@"; }}\n'
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}\n"
        "_sofs\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert not done.stderr
    return done.stdout.split()


def test_bash_completes_every_command_of_the_parser(script: Path) -> None:
    for noun in TREE.walk():
        if noun.commands:
            prefix = f"sofs {noun.path} ".replace("  ", " ")
            offered = complete(script, prefix)
            assert [c.path.split()[-1] for c in noun.commands] == offered[: len(noun.commands)]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sofs sh", ["share"]),
        ("sofs share c", ["create", "change"]),
        ("sofs share ls --j", ["--json"]),
        ("sofs up --n", ["--nodes"]),
        ("sofs volume rm --f", ["--force"]),
        ("sofs up --nodes 3 --t", ["--take-over"]),
        ("sofs up --nodes ", []),  # A number is the user's to know.
        ("sofs completion b", ["bash"]),
        ("sofs bench --no", ["--no-speed"]),
        ("sofs nosuch ", TREE.commands and [c.path for c in TREE.commands] + list(TREE.options)),
    ],
)  # fmt: skip
def test_bash_offers_what_fits(script: Path, line: str, offered: list[str]) -> None:
    assert complete(script, line) == offered


def test_bash_offers_files_where_a_path_is_wanted(script: Path, tmp_path: Path) -> None:
    (tmp_path / "root-one").mkdir()
    (tmp_path / "other").mkdir()
    assert complete(script, "sofs up --root roo", tmp_path) == ["root-one"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    store = LocalAppendStore(str(folder))
    for version, shares in ((1, ("share",)), (2, ("share", "logs", "archive"))):
        table = ShareTable(1, version, tuple(ShareEntry(name, "share") for name in shares))
        store.put_if_absent(table_key(1, version), encode_table(table))
    for name in ("share", "archive"):
        roots.add_volume(store, roots.VolumeEntry(name, b"v" * 16, f"file:///{name}"))
    return folder


def test_bash_offers_the_names_of_shares_and_volumes(script: Path, root: Path) -> None:
    where = f"--root {root}"
    assert complete(script, f"sofs share rm {where} l")[:1] == ["logs"]
    assert complete(script, f"sofs volume rm {where} a")[:1] == ["archive"]
    assert complete(script, f"sofs share create x {where} --volume s") == ["share"]


def test_names_that_cannot_be_told_are_none(root: Path, tmp_path: Path) -> None:
    assert names("share", None, str(root)) == ["share", "logs", "archive"]
    assert names("share", None, str(tmp_path / "nosuch")) == []
    assert names("share", None, "s3://bucket/root") == []
    newest = sorted((root / "shares").iterdir())[-1]
    newest.write_bytes(b"damaged")
    assert names("share", None, str(root)) == []
    assert not (tmp_path / "nosuch").exists()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_name_every_command(shell: str) -> None:
    text = {"zsh": zsh, "fish": fish}[shell](TREE)
    for command in TREE.walk():
        assert command.path in text
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here to parse it")
    done = subprocess.run([program, "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_prints_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == bash(TREE)


def test_a_command_that_is_added_is_completed() -> None:
    """The scripts are made from the parser, not from a list."""
    made = Command("", commands=[Command("new", "a noun", [Command("new verb")])])
    assert 'path="new verb"' in bash(made)
    assert "-a verb" in fish(made)
