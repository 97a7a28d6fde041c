# mypy: disable-error-code="type-arg"
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Entry(_message.Message):
    __slots__ = ("changeset", "lineage", "handover", "checkpoint", "boundary")
    CHANGESET_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    changeset: Changeset
    lineage: Lineage
    handover: Handover
    checkpoint: CheckpointEntry
    boundary: Boundary
    def __init__(self, changeset: _Optional[_Union[Changeset, _Mapping]] = ..., lineage: _Optional[_Union[Lineage, _Mapping]] = ..., handover: _Optional[_Union[Handover, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointEntry, _Mapping]] = ..., boundary: _Optional[_Union[Boundary, _Mapping]] = ...) -> None: ...

class Changeset(_message.Message):
    __slots__ = ("schema_version", "changes")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    changes: bytes
    def __init__(self, schema_version: _Optional[int] = ..., changes: _Optional[bytes] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("epoch", "sequence")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    sequence: int
    def __init__(self, epoch: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class CheckpointRef(_message.Message):
    __slots__ = ("key", "position", "digest", "n_bytes", "schema_version")
    KEY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    N_BYTES_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    key: str
    position: Position
    digest: int
    n_bytes: int
    schema_version: int
    def __init__(self, key: _Optional[str] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., digest: _Optional[int] = ..., n_bytes: _Optional[int] = ..., schema_version: _Optional[int] = ...) -> None: ...

class SealedEpoch(_message.Message):
    __slots__ = ("epoch", "first_sequence", "last_sequence", "nonce")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    first_sequence: int
    last_sequence: int
    nonce: bytes
    def __init__(self, epoch: _Optional[int] = ..., first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Lineage(_message.Message):
    __slots__ = ("checkpoint", "history")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    checkpoint: CheckpointRef
    history: _containers.RepeatedCompositeFieldContainer[SealedEpoch]
    def __init__(self, checkpoint: _Optional[_Union[CheckpointRef, _Mapping]] = ..., history: _Optional[_Iterable[_Union[SealedEpoch, _Mapping]]] = ...) -> None: ...

class Handover(_message.Message):
    __slots__ = ("target", "last_sequence")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    target: bytes
    last_sequence: int
    def __init__(self, target: _Optional[bytes] = ..., last_sequence: _Optional[int] = ...) -> None: ...

class CheckpointEntry(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: CheckpointRef
    def __init__(self, checkpoint: _Optional[_Union[CheckpointRef, _Mapping]] = ...) -> None: ...

class Boundary(_message.Message):
    __slots__ = ("position", "needless")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    NEEDLESS_FIELD_NUMBER: _ClassVar[int]
    position: Position
    needless: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, position: _Optional[_Union[Position, _Mapping]] = ..., needless: _Optional[_Iterable[str]] = ...) -> None: ...
