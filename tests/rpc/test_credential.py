"""The cluster credential's file."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import stat
from pathlib import Path

import pytest

from sofs.errors import CredentialRefused
from sofs.rpc.credential import (
    find_credential,
    make_credential,
    matches,
    read_credential,
    verifier,
)


class Chance:
    """Entropy from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, n_bytes: int) -> bytes:
        return self._random.randbytes(n_bytes)

    def stream(self, name: str) -> random.Random:
        return random.Random(name)


ONE, TWO = "a" * 43, "b" * 43


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_made_credential_is_32_bytes_that_only_the_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "credential"
    credential = make_credential(path, Chance(1))
    assert len(base64.urlsafe_b64decode(credential + "=")) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_credential(path) == credential
    assert os.listdir(tmp_path) == ["credential"]


def test_a_credential_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "credential"
    assert make_credential(path, Chance(1)) == make_credential(path, Chance(2))


def test_a_maker_that_comes_second_at_the_last_moment_takes_the_first_ones(tmp_path: Path) -> None:
    path = tmp_path / "credential"

    class Slow(Chance):
        def token(self, n_bytes: int) -> bytes:
            if not path.exists():
                write(path, ONE)
            return super().token(n_bytes)

    assert make_credential(path, Slow(1)) == ONE
    assert os.listdir(tmp_path) == ["credential"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644])
def test_a_file_that_others_have_access_to_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "credential", ONE, mode)
    with pytest.raises(CredentialRefused, match="chmod"):
        read_credential(path)
    with pytest.raises(CredentialRefused):
        make_credential(path, Chance(1))


@pytest.mark.parametrize(
    "text", ["", "short", ONE + "a", "a" * 42 + "/", ONE + "\n" + TWO, "é" * 43]
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CredentialRefused, match="43 characters"):
        read_credential(write(tmp_path / "credential", text))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing"):
        with pytest.raises(CredentialRefused):
            read_credential(path)


def test_argument_comes_before_environment_before_run_dir(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write(run / "credential", "r" * 43)
    named = write(tmp_path / "named", TWO + "\n")
    environment = {"SOFS_CREDENTIAL": str(named)}
    assert find_credential(ONE, environment, run) == ONE
    assert find_credential(str(named), {}, None) == TWO
    assert find_credential(None, environment, run) == TWO
    assert find_credential(None, {"SOFS_CREDENTIAL": ONE}, run) == ONE
    assert find_credential(None, {}, run) == "r" * 43
    assert find_credential("", {"SOFS_CREDENTIAL": ""}, run) == "r" * 43


def test_a_named_credential_that_cannot_be_read_is_not_replaced_by_a_later_one(
    tmp_path: Path,
) -> None:
    write(tmp_path / "credential", ONE)
    missing = str(tmp_path / "missing")
    with pytest.raises(CredentialRefused, match="missing"):
        find_credential(missing, {"SOFS_CREDENTIAL": ONE}, tmp_path)
    with pytest.raises(CredentialRefused, match="missing"):
        find_credential(None, {"SOFS_CREDENTIAL": missing}, tmp_path)


def test_without_any_credential_the_error_says_how_to_give_one() -> None:
    with pytest.raises(CredentialRefused, match="SOFS_CREDENTIAL"):
        find_credential(None, {}, None)


def test_the_verifier_is_sha256_and_matches_only_its_credential() -> None:
    assert verifier(ONE) == hashlib.sha256(ONE.encode()).hexdigest()
    assert matches(ONE, verifier(ONE))
    assert not matches(TWO, verifier(ONE))
    assert not matches(ONE, "ü")
