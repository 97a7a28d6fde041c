"""Claim objects as bytes: one line of JSON with a checksum, readable by people.

A claim is complete when it can be seen (the store guarantees it), so one that does not parse is
damage.
"""

from __future__ import annotations

import json

from xxhash import xxh3_64_hexdigest

from sofs.constants import FORMAT_VERSION
from sofs.errors import Corrupt, FormatRefused
from sofs.ids import Epoch, Incarnation
from sofs.ports.log import Claim


def encode_claim(claim: Claim) -> bytes:
    """Return the contents of a claim object."""
    fields = {
        "format": FORMAT_VERSION,
        "role": claim.role,
        "epoch": claim.epoch,
        "incarnation": claim.incarnation.hex(),
        "nonce": claim.nonce.hex(),
        "endpoint": claim.endpoint,
        "run": claim.run_id.hex(),
        "part": claim.part,
    }
    text = json.dumps(fields, separators=(", ", ": "))
    return f'{text[:-1]}, "sum": "{xxh3_64_hexdigest(text.encode())}"}}\n'.encode()


def decode_claim(data: bytes, key: str) -> Claim:
    """Return the claim in ``data``; Corrupt when its checksum fails, FormatRefused when it is
    newer."""
    try:
        fields = json.loads(data)
        expected = fields.pop("sum")
        text = json.dumps(fields, separators=(", ", ": "))
        whole = xxh3_64_hexdigest(text.encode()) == expected
    except (ValueError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise Corrupt(f"the claim {key} is damaged; restore it from a copy")
    if fields["format"] != FORMAT_VERSION:
        raise FormatRefused(f"the claim {key} has format {fields['format']}; use its version")
    return Claim(
        role=fields["role"],
        epoch=Epoch(fields["epoch"]),
        incarnation=Incarnation(bytes.fromhex(fields["incarnation"])),
        nonce=bytes.fromhex(fields["nonce"]),
        endpoint=fields["endpoint"],
        run_id=bytes.fromhex(fields["run"]),
        part=fields["part"],
    )
