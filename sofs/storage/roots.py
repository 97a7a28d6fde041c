"""What a root is: ``cluster.json``, ``volume.json``, and the table of volume roots (R13).

A cluster's root holds ``cluster.json`` (uuid, format, verifier of the cluster credential) and the
table of volumes, one object ``volumes/<name>.json`` each. Every volume's root holds
``volume.json`` (volume uuid, cluster uuid). All are created exclusively: two runs that start at
once agree on the winner's. They hold no secret: the credential has at least 128 bits of chance (it
is drawn, not chosen), so its salted hash cannot be searched. All functions block.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any, Final

from sofs.constants import FORMAT_VERSION
from sofs.core.share_table import VOLUMES_FOLDER, volume_key
from sofs.errors import CredentialRefused, FormatRefused, InvalidParameter, ObjectNameCollision
from sofs.ids import ID_BYTES
from sofs.ports.runtime import Entropy
from sofs.ports.store import Lost, Store

CLUSTER_KEY: Final = "cluster.json"
VOLUME_KEY: Final = "volume.json"
VOLUMES_MAX: Final = 1000  # In one cluster's table.
CREDENTIAL_BYTES: Final = 32
_SALT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Root:
    """What ``cluster.json`` or ``volume.json`` says. ``volume`` and ``name`` are empty for the
    former, ``verifier`` for the latter."""

    cluster: bytes
    volume: bytes = b""
    name: str = ""
    verifier: str = ""


@dataclass(frozen=True, slots=True)
class VolumeEntry:
    """One row of a cluster's table of volume roots."""

    name: str
    volume: bytes
    url: str


def make_verifier(credential: bytes, salt: bytes) -> str:
    """Return what is stored to recognise ``credential``: ``sha256:salt:hash`` in hex."""
    digest = hashlib.sha256(b"sofs credential\0" + salt + credential).hexdigest()
    return f"sha256:{salt.hex()}:{digest}"


def check_credential(root: Root, credential: bytes) -> None:
    """Raise CredentialRefused unless ``credential`` is the cluster's."""
    kind, _, rest = root.verifier.partition(":")
    salt, _, _ = rest.partition(":")
    if kind != "sha256":
        raise FormatRefused(f"the credential verifier is of the unknown kind {kind!r}")
    if not hmac.compare_digest(make_verifier(credential, bytes.fromhex(salt)), root.verifier):
        raise CredentialRefused("the credential is not this cluster's; set SOFS_CREDENTIAL to it")


def encode_root(root: Root) -> bytes:
    """Return the contents of ``cluster.json`` or ``volume.json``."""
    fields: dict[str, object] = {"format": FORMAT_VERSION, "cluster": root.cluster.hex()}
    if root.volume:
        fields |= {"volume": root.volume.hex(), "name": root.name}
    else:
        fields |= {"credential": root.verifier}
    return (json.dumps(fields, indent=1) + "\n").encode()


def decode_root(data: bytes, key: str) -> Root:
    """Return what a root's object says; FormatRefused when this version does not know it."""
    fields = _fields(data, key)
    try:
        return Root(
            cluster=bytes.fromhex(fields["cluster"]),
            volume=bytes.fromhex(fields.get("volume", "")),
            name=str(fields.get("name", "")),
            verifier=str(fields.get("credential", "")),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise FormatRefused(f"{key} lacks a field: {error}; restore it from a copy") from error


def _fields(data: bytes, key: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
        version = fields["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatRefused(f"{key} is not ours or damaged; restore it from a copy") from error
    if version != FORMAT_VERSION:
        raise FormatRefused(
            f"{key} has format {version}, this version reads {FORMAT_VERSION}; use its writer"
        )
    return dict(fields)


def create_cluster(store: Store, *, credential: bytes, entropy: Entropy) -> Root:
    """Make ``store`` a cluster's root, or open the cluster that it is already. Returns what it is;
    CredentialRefused when it exists with another credential."""
    found = open_cluster(store)
    if found is None:
        verifier = make_verifier(credential, entropy.token(_SALT_BYTES))
        found = Root(cluster=entropy.token(ID_BYTES), verifier=verifier)
        outcome = store.put_if_absent(CLUSTER_KEY, encode_root(found))
        if isinstance(outcome, Lost):
            found = decode_root(outcome.existing, CLUSTER_KEY)
    check_credential(found, credential)
    return found


def open_cluster(store: Store) -> Root | None:
    """Return the cluster whose root this is, or None."""
    data = store.get(CLUSTER_KEY)
    return None if data is None else decode_root(data, CLUSTER_KEY)


def create_volume(store: Store, *, cluster: bytes, name: str, entropy: Entropy) -> Root:
    """Make ``store`` the root of the volume ``name`` of a cluster, or open it when it is that
    already. FormatRefused when it belongs to another cluster or volume."""
    data = store.get(VOLUME_KEY)
    if data is None:
        fresh = Root(cluster=cluster, volume=entropy.token(ID_BYTES), name=name)
        outcome = store.put_if_absent(VOLUME_KEY, encode_root(fresh))
        data = outcome.existing if isinstance(outcome, Lost) else encode_root(fresh)
    return _checked(store, decode_root(data, VOLUME_KEY), cluster, name)


def open_volume(store: Store, *, cluster: bytes, name: str) -> Root:
    """Return the volume whose root this is; FormatRefused when it is none, or not this one."""
    data = store.get(VOLUME_KEY)
    if data is None:
        raise FormatRefused(f"{store.url} is no volume root; create the volume first")
    return _checked(store, decode_root(data, VOLUME_KEY), cluster, name)


def _checked(store: Store, root: Root, cluster: bytes, name: str) -> Root:
    if root.cluster != cluster:
        raise FormatRefused(f"{store.url} belongs to another cluster; use a root of its own")
    if root.name != name:
        raise FormatRefused(f"{store.url} is the root of the volume {root.name!r}, not {name!r}")
    return root


# The table of volume roots ----------------------------------------------------------------------


def add_volume(store: Store, entry: VolumeEntry) -> None:
    """Enter a volume into the cluster's table; ObjectNameCollision when the name leads
    elsewhere."""
    if len(store.list(VOLUMES_FOLDER)) >= VOLUMES_MAX:
        raise InvalidParameter(f"a cluster holds at most {VOLUMES_MAX} volumes; remove one")
    fields = {
        "format": FORMAT_VERSION,
        "name": entry.name,
        "volume": entry.volume.hex(),
        "url": entry.url,
    }
    data = (json.dumps(fields, indent=1) + "\n").encode()
    if isinstance(store.put_if_absent(volume_key(entry.name), data), Lost):
        raise ObjectNameCollision(
            f"the volume {entry.name} exists with another root; choose a name"
        )


def list_volumes(store: Store) -> list[VolumeEntry]:
    """Return the cluster's table of volume roots, by name."""
    entries: list[VolumeEntry] = []
    for key in store.list(VOLUMES_FOLDER):
        data = store.get(key)
        if data is not None:
            fields = _fields(data, key)
            entries.append(
                VolumeEntry(fields["name"], bytes.fromhex(fields["volume"]), fields["url"])
            )
    return entries


def remove_volume(store: Store, name: str) -> None:
    """Take a volume out of the table. Its root stays as it is."""
    store.delete(volume_key(name))
