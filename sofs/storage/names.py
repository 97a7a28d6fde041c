"""Keys of claims and logs in a root. Fixed-width numbers, so that a sorted listing is in order."""

from __future__ import annotations

import re


def epoch_name(epoch: int) -> str:
    """Name of a claim in its role's folder, and of a log's folder."""
    return f"{epoch:020d}"


def claim_folder(role: str) -> str:
    return f"claims/{role}"


def claim_key(role: str, epoch: int) -> str:
    return f"claims/{role}/{epoch:020d}"


def hint_key(role: str) -> str:
    return f"claims/{role}.hint"


def log_folder(role: str, epoch: int) -> str:
    return f"logs/{role}/{epoch:020d}"


def segment_key(role: str, epoch: int, segment: int) -> str:
    return f"logs/{role}/{epoch:020d}/{segment:08d}"


def slot_key(role: str, epoch: int, slot: int) -> str:
    return f"logs/{role}/{epoch:020d}/{slot:020d}"


def ballast_key(part: str) -> str:
    """Name of a part's ballast; what no key may hold is replaced."""
    return "ballast/" + re.sub(r"[^a-z0-9_-]", "-", part.lower())


def number_of(key: str) -> int:
    """Number of the claim, segment or slot that a key names."""
    return int(key.rpartition("/")[2])


def below(url: str, name: str) -> str:
    """The URL of the folder ``name`` below a root, which may end in ``?options``."""
    where, mark, options = url.partition("?") if "://" in url else (url, "", "")
    return f"{where.rstrip('/')}/{name}{mark}{options}"
