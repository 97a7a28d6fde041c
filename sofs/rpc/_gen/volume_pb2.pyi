# mypy: disable-error-code="type-arg"
from . import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterNode(_message.Message):
    __slots__ = ("node", "incarnation", "endpoint", "nonce", "handles", "met")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    MET_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: bytes
    endpoint: str
    nonce: bytes
    handles: _containers.RepeatedCompositeFieldContainer[_common_pb2.BoundHandle]
    met: bytes
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., endpoint: _Optional[str] = ..., nonce: _Optional[bytes] = ..., handles: _Optional[_Iterable[_Union[_common_pb2.BoundHandle, _Mapping]]] = ..., met: _Optional[bytes] = ...) -> None: ...

class RegisterNodeReply(_message.Message):
    __slots__ = ("log_id", "epoch", "incarnation", "applied_sequence", "lost_handles", "tokens")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LOST_HANDLES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    log_id: int
    epoch: int
    incarnation: bytes
    applied_sequence: int
    lost_handles: _containers.RepeatedScalarFieldContainer[int]
    tokens: _containers.RepeatedCompositeFieldContainer[_common_pb2.Grant]
    def __init__(self, log_id: _Optional[int] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[bytes] = ..., applied_sequence: _Optional[int] = ..., lost_handles: _Optional[_Iterable[int]] = ..., tokens: _Optional[_Iterable[_Union[_common_pb2.Grant, _Mapping]]] = ...) -> None: ...

class AcquireToken(_message.Message):
    __slots__ = ("ino", "mode")
    INO_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ino: int
    mode: int
    def __init__(self, ino: _Optional[int] = ..., mode: _Optional[int] = ...) -> None: ...

class TokenReply(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: _common_pb2.Grant
    def __init__(self, grant: _Optional[_Union[_common_pb2.Grant, _Mapping]] = ...) -> None: ...

class FetchExtents(_message.Message):
    __slots__ = ("ino", "generation", "first_page", "pages")
    INO_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    FIRST_PAGE_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    ino: int
    generation: int
    first_page: int
    pages: int
    def __init__(self, ino: _Optional[int] = ..., generation: _Optional[int] = ..., first_page: _Optional[int] = ..., pages: _Optional[int] = ...) -> None: ...

class ExtentsReply(_message.Message):
    __slots__ = ("extents", "logs")
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    extents: bytes
    logs: _containers.RepeatedCompositeFieldContainer[_common_pb2.LogInfo]
    def __init__(self, extents: _Optional[bytes] = ..., logs: _Optional[_Iterable[_Union[_common_pb2.LogInfo, _Mapping]]] = ...) -> None: ...

class CommitRecords(_message.Message):
    __slots__ = ("commit",)
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    commit: _common_pb2.Commit
    def __init__(self, commit: _Optional[_Union[_common_pb2.Commit, _Mapping]] = ...) -> None: ...

class Disconnected(_message.Message):
    __slots__ = ("handles",)
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedCompositeFieldContainer[_common_pb2.BoundHandle]
    def __init__(self, handles: _Optional[_Iterable[_Union[_common_pb2.BoundHandle, _Mapping]]] = ...) -> None: ...

class Recall(_message.Message):
    __slots__ = ("ino", "generation")
    INO_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ino: int
    generation: int
    def __init__(self, ino: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class Detach(_message.Message):
    __slots__ = ("handles", "code")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedCompositeFieldContainer[_common_pb2.BoundHandle]
    code: str
    def __init__(self, handles: _Optional[_Iterable[_Union[_common_pb2.BoundHandle, _Mapping]]] = ..., code: _Optional[str] = ...) -> None: ...

class CommitReply(_message.Message):
    __slots__ = ("commit",)
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    commit: _common_pb2.Commit
    def __init__(self, commit: _Optional[_Union[_common_pb2.Commit, _Mapping]] = ...) -> None: ...

class LockUpdate(_message.Message):
    __slots__ = ("ino", "generation", "locks")
    INO_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    ino: int
    generation: int
    locks: _containers.RepeatedCompositeFieldContainer[_common_pb2.HeldLock]
    def __init__(self, ino: _Optional[int] = ..., generation: _Optional[int] = ..., locks: _Optional[_Iterable[_Union[_common_pb2.HeldLock, _Mapping]]] = ...) -> None: ...

class QuerySize(_message.Message):
    __slots__ = ("ino", "generation")
    INO_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ino: int
    generation: int
    def __init__(self, ino: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class ReportCorrupt(_message.Message):
    __slots__ = ("places",)
    PLACES_FIELD_NUMBER: _ClassVar[int]
    places: _containers.RepeatedCompositeFieldContainer[_common_pb2.CorruptPlace]
    def __init__(self, places: _Optional[_Iterable[_Union[_common_pb2.CorruptPlace, _Mapping]]] = ...) -> None: ...

class SizeReply(_message.Message):
    __slots__ = ("size", "modified_ns")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_NS_FIELD_NUMBER: _ClassVar[int]
    size: int
    modified_ns: int
    def __init__(self, size: _Optional[int] = ..., modified_ns: _Optional[int] = ...) -> None: ...
