"""The cluster credential: who may speak to the parts of a cluster at all.

It is 32 random bytes, written base64url (43 characters) into a file that only its owner may read,
made once per cluster and reused by later runs. Whoever holds it is trusted with everything; parts
and clients show it on every stream. The cluster's public files keep only its verifier (SHA-256), so
that a run can tell that it holds the right one without the backend knowing it.

A file that others may read is refused rather than repaired: it may have been read already.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sofs.errors import CredentialRefused
from sofs.ids import short
from sofs.ports.runtime import Entropy

CREDENTIAL_BYTES: Final = 32
CREDENTIAL_VARIABLE: Final = "SOFS_CREDENTIAL"
CREDENTIAL_FILE: Final = "credential"  # In the run dir.
_FILE_BYTES_MAX: Final = 4096
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FORM: Final = re.compile(r"[A-Za-z0-9_-]{43}")


def make_credential(path: Path, entropy: Entropy) -> str:
    """Create the credential file at ``path`` and return its credential; if the file is there, the
    one it holds. Two makers at once get the same one. Raises CredentialRefused as
    ``read_credential`` does, and OSError when the folder cannot be written."""
    if os.path.lexists(path):
        return read_credential(path)
    credential = base64.urlsafe_b64encode(entropy.token(CREDENTIAL_BYTES)).rstrip(b"=").decode()
    draft = path.with_name(f"{path.name}.{short(entropy.token(8))}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(credential + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # Another maker was first: use that one's.
            os.link(draft, path)
    finally:
        os.unlink(draft)
    return read_credential(path)


def read_credential(path: Path) -> str:
    """Return the credential in the file at ``path``. Raises CredentialRefused when there is none,
    when others than its owner have access to the file, or when it holds something else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CredentialRefused(f"cannot read the credential file {path}: {error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CredentialRefused(f"{path} is no regular file: name the credential file")
        if status.st_mode & _OTHERS:
            raise CredentialRefused(
                f"{path} is open to others than its owner (mode {status.st_mode & 0o777:03o}): if "
                "nobody can have read it, chmod it to 600; else make a new credential"
            )
        text = os.read(descriptor, _FILE_BYTES_MAX).decode("latin-1").strip()
    finally:
        os.close(descriptor)
    if not _FORM.fullmatch(text):
        raise CredentialRefused(f"{path} holds no credential: it is 43 characters of base64url")
    return text


def find_credential(
    argument: str | None, environment: Mapping[str, str], run_dir: Path | None
) -> str:
    """Return the credential that ``argument``, else SOFS_CREDENTIAL, else the run dir names.

    The first two are a credential itself if they look like one (43 characters of base64url, no
    slash), else the path of its file. Raises CredentialRefused when the first that is given does
    not yield one: a later one is never tried in its place.
    """
    named = argument or environment.get(CREDENTIAL_VARIABLE)
    if named:
        return named if _FORM.fullmatch(named) else read_credential(Path(named))
    if run_dir is not None:
        return read_credential(run_dir / CREDENTIAL_FILE)
    raise CredentialRefused(
        f"no cluster credential: give it, or set {CREDENTIAL_VARIABLE} to it or to its file's path"
    )


def verifier(credential: str) -> str:
    """Return what may be public about ``credential``: SHA-256 in hex. 256 random bits need no salt
    and no slow hash."""
    return hashlib.sha256(credential.encode()).hexdigest()


def matches(credential: str, expected_verifier: str) -> bool:
    """Return whether ``credential`` is the one that ``expected_verifier`` was made of."""
    return hmac.compare_digest(verifier(credential).encode(), expected_verifier.encode())
