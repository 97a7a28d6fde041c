# mypy: disable-error-code="type-arg"
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TokenMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOKEN_MODE_NONE: _ClassVar[TokenMode]
    TOKEN_MODE_DIRECT_R: _ClassVar[TokenMode]
    TOKEN_MODE_DIRECT_RW: _ClassVar[TokenMode]

class CorruptKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CORRUPT_KIND_UNKNOWN: _ClassVar[CorruptKind]
    CORRUPT_KIND_PAGE: _ClassVar[CorruptKind]
    CORRUPT_KIND_LOST: _ClassVar[CorruptKind]
    CORRUPT_KIND_STORE: _ClassVar[CorruptKind]
TOKEN_MODE_NONE: TokenMode
TOKEN_MODE_DIRECT_R: TokenMode
TOKEN_MODE_DIRECT_RW: TokenMode
CORRUPT_KIND_UNKNOWN: CorruptKind
CORRUPT_KIND_PAGE: CorruptKind
CORRUPT_KIND_LOST: CorruptKind
CORRUPT_KIND_STORE: CorruptKind

class Caller(_message.Message):
    __slots__ = ("client", "principal", "op_id", "acked_below")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    OP_ID_FIELD_NUMBER: _ClassVar[int]
    ACKED_BELOW_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    principal: str
    op_id: int
    acked_below: int
    def __init__(self, client: _Optional[bytes] = ..., principal: _Optional[str] = ..., op_id: _Optional[int] = ..., acked_below: _Optional[int] = ...) -> None: ...

class FileInfo(_message.Message):
    __slots__ = ("ino", "is_directory", "size", "attributes", "created_ns", "modified_ns", "accessed_ns", "changed_ns", "links")
    INO_FIELD_NUMBER: _ClassVar[int]
    IS_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_NS_FIELD_NUMBER: _ClassVar[int]
    ACCESSED_NS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_NS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    ino: int
    is_directory: bool
    size: int
    attributes: int
    created_ns: int
    modified_ns: int
    accessed_ns: int
    changed_ns: int
    links: int
    def __init__(self, ino: _Optional[int] = ..., is_directory: _Optional[bool] = ..., size: _Optional[int] = ..., attributes: _Optional[int] = ..., created_ns: _Optional[int] = ..., modified_ns: _Optional[int] = ..., accessed_ns: _Optional[int] = ..., changed_ns: _Optional[int] = ..., links: _Optional[int] = ...) -> None: ...

class HeldLock(_message.Message):
    __slots__ = ("handle", "offset", "length", "exclusive")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    handle: int
    offset: int
    length: int
    exclusive: bool
    def __init__(self, handle: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., exclusive: _Optional[bool] = ...) -> None: ...

class AppendResult(_message.Message):
    __slots__ = ("op_sequence", "offset")
    OP_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    op_sequence: int
    offset: int
    def __init__(self, op_sequence: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("handle", "generation", "watermark", "bitmap", "results", "abandoned")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    BITMAP_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_FIELD_NUMBER: _ClassVar[int]
    handle: int
    generation: int
    watermark: int
    bitmap: bytes
    results: _containers.RepeatedCompositeFieldContainer[AppendResult]
    abandoned: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[int] = ..., generation: _Optional[int] = ..., watermark: _Optional[int] = ..., bitmap: _Optional[bytes] = ..., results: _Optional[_Iterable[_Union[AppendResult, _Mapping]]] = ..., abandoned: _Optional[_Iterable[int]] = ...) -> None: ...

class LogInfo(_message.Message):
    __slots__ = ("log_id", "incarnation", "nonce")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    log_id: int
    incarnation: bytes
    nonce: bytes
    def __init__(self, log_id: _Optional[int] = ..., incarnation: _Optional[bytes] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class FileCommit(_message.Message):
    __slots__ = ("ino", "token_generation", "size", "modified_ns", "extents", "windows")
    INO_FIELD_NUMBER: _ClassVar[int]
    TOKEN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_NS_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    ino: int
    token_generation: int
    size: int
    modified_ns: int
    extents: bytes
    windows: _containers.RepeatedCompositeFieldContainer[Window]
    def __init__(self, ino: _Optional[int] = ..., token_generation: _Optional[int] = ..., size: _Optional[int] = ..., modified_ns: _Optional[int] = ..., extents: _Optional[bytes] = ..., windows: _Optional[_Iterable[_Union[Window, _Mapping]]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("log_id", "after_sequence", "through_sequence", "files", "settled_below_segment")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    THROUGH_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    SETTLED_BELOW_SEGMENT_FIELD_NUMBER: _ClassVar[int]
    log_id: int
    after_sequence: int
    through_sequence: int
    files: _containers.RepeatedCompositeFieldContainer[FileCommit]
    settled_below_segment: int
    def __init__(self, log_id: _Optional[int] = ..., after_sequence: _Optional[int] = ..., through_sequence: _Optional[int] = ..., files: _Optional[_Iterable[_Union[FileCommit, _Mapping]]] = ..., settled_below_segment: _Optional[int] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("ino", "generation", "mode", "info", "locks", "windows", "extents", "extents_through_page", "logs")
    INO_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_THROUGH_PAGE_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    ino: int
    generation: int
    mode: int
    info: FileInfo
    locks: _containers.RepeatedCompositeFieldContainer[HeldLock]
    windows: _containers.RepeatedCompositeFieldContainer[Window]
    extents: bytes
    extents_through_page: int
    logs: _containers.RepeatedCompositeFieldContainer[LogInfo]
    def __init__(self, ino: _Optional[int] = ..., generation: _Optional[int] = ..., mode: _Optional[int] = ..., info: _Optional[_Union[FileInfo, _Mapping]] = ..., locks: _Optional[_Iterable[_Union[HeldLock, _Mapping]]] = ..., windows: _Optional[_Iterable[_Union[Window, _Mapping]]] = ..., extents: _Optional[bytes] = ..., extents_through_page: _Optional[int] = ..., logs: _Optional[_Iterable[_Union[LogInfo, _Mapping]]] = ...) -> None: ...

class BoundHandle(_message.Message):
    __slots__ = ("handle", "generation")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    handle: int
    generation: int
    def __init__(self, handle: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class CorruptPlace(_message.Message):
    __slots__ = ("kind", "ino", "page", "pages", "log_id", "segment", "sequence", "object", "found_by", "found_ns", "path")
    KIND_FIELD_NUMBER: _ClassVar[int]
    INO_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    FOUND_BY_FIELD_NUMBER: _ClassVar[int]
    FOUND_NS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    kind: int
    ino: int
    page: int
    pages: int
    log_id: int
    segment: int
    sequence: int
    object: str
    found_by: str
    found_ns: int
    path: str
    def __init__(self, kind: _Optional[int] = ..., ino: _Optional[int] = ..., page: _Optional[int] = ..., pages: _Optional[int] = ..., log_id: _Optional[int] = ..., segment: _Optional[int] = ..., sequence: _Optional[int] = ..., object: _Optional[str] = ..., found_by: _Optional[str] = ..., found_ns: _Optional[int] = ..., path: _Optional[str] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "text", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: str
    text: str
    retry_after_ms: int
    def __init__(self, code: _Optional[str] = ..., text: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ping(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("nonce", "incarnation")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    incarnation: bytes
    def __init__(self, nonce: _Optional[int] = ..., incarnation: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "sender", "target", "client", "principal", "share")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    sender: bytes
    target: bytes
    client: bytes
    principal: str
    share: str
    def __init__(self, protocol_version: _Optional[int] = ..., sender: _Optional[bytes] = ..., target: _Optional[bytes] = ..., client: _Optional[bytes] = ..., principal: _Optional[str] = ..., share: _Optional[str] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("protocol_version", "incarnation", "node", "volume", "write_bytes_max", "read_bytes_max", "addresses")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    WRITE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    incarnation: bytes
    node: str
    volume: bytes
    write_bytes_max: int
    read_bytes_max: int
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocol_version: _Optional[int] = ..., incarnation: _Optional[bytes] = ..., node: _Optional[str] = ..., volume: _Optional[bytes] = ..., write_bytes_max: _Optional[int] = ..., read_bytes_max: _Optional[int] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class Meet(_message.Message):
    __slots__ = ("volume", "token", "root", "host", "device", "inode")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    volume: bytes
    token: bytes
    root: str
    host: str
    device: int
    inode: int
    def __init__(self, volume: _Optional[bytes] = ..., token: _Optional[bytes] = ..., root: _Optional[str] = ..., host: _Optional[str] = ..., device: _Optional[int] = ..., inode: _Optional[int] = ...) -> None: ...

class Met(_message.Message):
    __slots__ = ("volume", "absent", "root", "host", "device", "inode")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    volume: bytes
    absent: bool
    root: str
    host: str
    device: int
    inode: int
    def __init__(self, volume: _Optional[bytes] = ..., absent: _Optional[bool] = ..., root: _Optional[str] = ..., host: _Optional[str] = ..., device: _Optional[int] = ..., inode: _Optional[int] = ...) -> None: ...

class MeetEnd(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    def __init__(self, token: _Optional[bytes] = ...) -> None: ...
