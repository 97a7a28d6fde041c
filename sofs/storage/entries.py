"""Entries of an authority's log as protobuf (``sofs.record.v1.Entry``).

Domain classes know nothing of protobuf; these two functions do. A payload that does not parse,
holds no known entry or lacks what every entry has is ``FormatRefused``: the record's checksum
held, so a newer version wrote it, and guessing at it would lose what it means.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from sofs.core.entries import (
    Boundary,
    Changeset,
    CheckpointEntry,
    CheckpointRef,
    Entry,
    Handover,
    Lineage,
    SealedEpoch,
)
from sofs.errors import FormatRefused
from sofs.ids import Position
from sofs.storage._gen import authority_pb2 as pb

_CHECKPOINT_TAG: Final = 4 << 3 | 2  # Field 4, length-delimited: the first byte of such an entry.


def may_name_checkpoint(payload: memoryview) -> bool:
    """Is it worth decoding ``payload`` to look for a CheckpointEntry? (Most entries are
    changesets.)"""
    return len(payload) > 0 and payload[0] == _CHECKPOINT_TAG


class ProtobufEntries:
    """The EntryCodec."""

    def encode(self, entry: Entry) -> bytes:
        message = pb.Entry()
        match entry:
            case Changeset():
                message.changeset.schema_version = entry.schema_version
                message.changeset.changes = entry.changes
            case Lineage():
                message.lineage.SetInParent()
                if entry.checkpoint is not None:
                    _fill_checkpoint(message.lineage.checkpoint, entry.checkpoint)
                for sealed in entry.history:
                    message.lineage.history.add(
                        epoch=sealed.epoch,
                        first_sequence=sealed.first_sequence,
                        last_sequence=sealed.last_sequence,
                        nonce=sealed.nonce,
                    )
            case Handover():
                message.handover.target = entry.target
                message.handover.last_sequence = entry.last_sequence
            case CheckpointEntry():
                _fill_checkpoint(message.checkpoint.checkpoint, entry.checkpoint)
            case Boundary():
                _fill_position(message.boundary.position, entry.position)
                message.boundary.needless.extend(entry.needless)
        return message.SerializeToString()

    def decode(self, payload: bytes | memoryview) -> Entry:
        try:
            message = pb.Entry.FromString(bytes(payload))
        except DecodeError as error:
            raise FormatRefused(f"an entry of the log does not parse: {error}") from error
        match message.WhichOneof("entry"):
            case "changeset":
                return Changeset(message.changeset.schema_version, message.changeset.changes)
            case "lineage":
                return _lineage(message.lineage)
            case "handover":
                return Handover(message.handover.target, message.handover.last_sequence)
            case "checkpoint":
                return CheckpointEntry(_checkpoint(message.checkpoint.checkpoint))
            case "boundary":
                return Boundary(
                    _position(message.boundary.position), tuple(message.boundary.needless)
                )
            case _:
                raise FormatRefused("the log holds an entry of a newer version; use that version")


def _fill_position(message: pb.Position, position: Position) -> None:
    message.SetInParent()
    message.epoch = position.epoch
    message.sequence = position.sequence


def _fill_checkpoint(message: pb.CheckpointRef, checkpoint: CheckpointRef) -> None:
    message.key = checkpoint.key
    _fill_position(message.position, checkpoint.position)
    message.digest = checkpoint.digest
    message.n_bytes = checkpoint.n_bytes
    message.schema_version = checkpoint.schema_version


def _position(message: pb.Position) -> Position:
    return Position(message.epoch, message.sequence)


def _checkpoint(message: pb.CheckpointRef) -> CheckpointRef:
    if not message.key:
        raise FormatRefused("a checkpoint without a key is of a newer version; use that version")
    return CheckpointRef(
        message.key,
        _position(message.position),
        message.digest,
        message.n_bytes,
        message.schema_version,
    )


def _lineage(message: pb.Lineage) -> Lineage:
    return Lineage(
        _checkpoint(message.checkpoint) if message.HasField("checkpoint") else None,
        tuple(
            SealedEpoch(sealed.epoch, sealed.first_sequence, sealed.last_sequence, sealed.nonce)
            for sealed in message.history
        ),
    )
