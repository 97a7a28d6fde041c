"""Shares: names under which clients reach volumes, and the table of them that is published.

A share name is compared without case. It is 1 to SHARE_NAME_CHARS_MAX characters, none of which is
a control character, "/", "\\" or ":"; it does not start or end with a blank or a dot.

A table is a whole: whoever has one has all shares of that version. Tables are ordered by (epoch of
the leader that published, version within the epoch), and their object names sort the same way. So
the highest name is the newest, whoever writes a lower one later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_64_hexdigest

from sofs.constants import FORMAT_VERSION, SHARES_MAX
from sofs.errors import Corrupt, FormatRefused, InvalidName

SHARES_FOLDER: Final = "shares"
VOLUMES_FOLDER: Final = "volumes"  # The table of volume roots, one object each.
SHARE_NAME_CHARS_MAX: Final = 80
VOLUME_NAME_CHARS_MAX: Final = 40
_VOLUME: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_FORBIDDEN: Final = '/\\:*?"<>|'


@dataclass(frozen=True, slots=True)
class ShareEntry:
    """One share. ``read_only``: nothing is opened for writing or changed through it.
    ``available``: continuously; else a handle ends with its session instead of waiting for its
    client."""

    name: str
    volume: str
    read_only: bool = False
    available: bool = True


@dataclass(frozen=True, slots=True)
class ShareTable:
    """All shares, by name. (0, 0) orders before every published table."""

    epoch: int = 0
    version: int = 0
    shares: tuple[ShareEntry, ...] = ()

    @property
    def order(self) -> tuple[int, int]:
        return self.epoch, self.version

    def find(self, name: str) -> ShareEntry | None:
        """Return the share of that name, in whatever case."""
        wanted = share_key(name)
        return next((share for share in self.shares if share_key(share.name) == wanted), None)


def share_key(name: str) -> str:
    """What two names of the same share have in common."""
    return name.casefold()


def check_share_name(name: str) -> str:
    """Return ``name``; InvalidName says what is wrong with it."""
    if not 0 < len(name) <= SHARE_NAME_CHARS_MAX:
        raise InvalidName(f"a share name has 1 to {SHARE_NAME_CHARS_MAX} characters")
    if name != name.strip(" ."):
        raise InvalidName(f"the share name {name!r} starts or ends with a blank or a dot")
    bad = [c for c in name if c in _FORBIDDEN or not c.isprintable()]
    if bad:
        raise InvalidName(f"the share name {name!r} holds {bad[0]!r}; choose another name")
    return name


def check_volume_name(name: str) -> str:
    """Return ``name``; InvalidName unless it is 1 to 40 of a-z, 0-9, "-", "_" and ".", the first
    one a letter or digit: it becomes part of the names of processes, files and folders."""
    if not 0 < len(name) <= VOLUME_NAME_CHARS_MAX or name[0] in "-_." or set(name) - _VOLUME:
        raise InvalidName(
            f"the volume name {name!r} is not 1 to {VOLUME_NAME_CHARS_MAX} of a-z, 0-9, '-', '_' "
            "and '.', a letter or digit first"
        )
    return name


def volume_key(name: str) -> str:
    """The object of a volume in the root's table of volumes."""
    return f"{VOLUMES_FOLDER}/{name}.json"


# Published tables -------------------------------------------------------------------------------


def table_key(epoch: int, version: int) -> str:
    """The name of the object that holds a table."""
    return f"{SHARES_FOLDER}/{epoch:020d}-{version:020d}"


def order_of(key: str) -> tuple[int, int] | None:
    """The order of the table under ``key``; None for a name that is no table's."""
    epoch, dash, version = key.removeprefix(f"{SHARES_FOLDER}/").partition("-")
    digits = epoch.isdecimal() and version.isdecimal() and dash
    return (int(epoch), int(version)) if digits and len(epoch) == len(version) == 20 else None


def encode_table(table: ShareTable) -> bytes:
    """Return a table as its object's contents: one line of JSON with a checksum."""
    fields = {
        "format": FORMAT_VERSION,
        "epoch": table.epoch,
        "version": table.version,
        "shares": [[s.name, s.volume, s.read_only, s.available] for s in table.shares],
    }
    text = json.dumps(fields)
    return f'{text[:-1]}, "sum": "{xxh3_64_hexdigest(text.encode())}"}}\n'.encode()


def decode_table(data: bytes, key: str) -> ShareTable:
    """Return the table in ``data``; Corrupt when its checksum fails, FormatRefused when it is of
    another format."""
    try:
        fields = json.loads(data)
        expected = fields.pop("sum")
        whole = xxh3_64_hexdigest(json.dumps(fields).encode()) == expected
    except (ValueError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise Corrupt(f"the table of shares {key} is damaged; `sofs share change` writes a new one")
    if fields["format"] != FORMAT_VERSION:
        raise FormatRefused(f"the table of shares {key} has format {fields['format']}")
    shares = tuple(ShareEntry(*row) for row in fields["shares"][:SHARES_MAX])
    return ShareTable(fields["epoch"], fields["version"], shares)
