# mypy: disable-error-code="type-arg"
from . import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Access(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACCESS_NONE: _ClassVar[Access]
    ACCESS_READ: _ClassVar[Access]
    ACCESS_WRITE: _ClassVar[Access]
    ACCESS_APPEND: _ClassVar[Access]
    ACCESS_DELETE: _ClassVar[Access]
    ACCESS_READ_ATTRIBUTES: _ClassVar[Access]
    ACCESS_WRITE_ATTRIBUTES: _ClassVar[Access]

class Share(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHARE_NONE: _ClassVar[Share]
    SHARE_READ: _ClassVar[Share]
    SHARE_WRITE: _ClassVar[Share]
    SHARE_DELETE: _ClassVar[Share]
    SHARE_ALL: _ClassVar[Share]

class Disposition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DISPOSITION_UNSPECIFIED: _ClassVar[Disposition]
    DISPOSITION_OPEN: _ClassVar[Disposition]
    DISPOSITION_CREATE: _ClassVar[Disposition]
    DISPOSITION_OPEN_IF: _ClassVar[Disposition]
    DISPOSITION_OVERWRITE: _ClassVar[Disposition]
    DISPOSITION_OVERWRITE_IF: _ClassVar[Disposition]

class CreateAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CREATE_ACTION_UNSPECIFIED: _ClassVar[CreateAction]
    CREATE_ACTION_OPENED: _ClassVar[CreateAction]
    CREATE_ACTION_CREATED: _ClassVar[CreateAction]
    CREATE_ACTION_OVERWRITTEN: _ClassVar[CreateAction]

class OpenOptions(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPEN_OPTIONS_NONE: _ClassVar[OpenOptions]
    OPEN_OPTIONS_DELETE_ON_CLOSE: _ClassVar[OpenOptions]
    OPEN_OPTIONS_DIRECTORY: _ClassVar[OpenOptions]
    OPEN_OPTIONS_WRITE_THROUGH: _ClassVar[OpenOptions]
ACCESS_NONE: Access
ACCESS_READ: Access
ACCESS_WRITE: Access
ACCESS_APPEND: Access
ACCESS_DELETE: Access
ACCESS_READ_ATTRIBUTES: Access
ACCESS_WRITE_ATTRIBUTES: Access
SHARE_NONE: Share
SHARE_READ: Share
SHARE_WRITE: Share
SHARE_DELETE: Share
SHARE_ALL: Share
DISPOSITION_UNSPECIFIED: Disposition
DISPOSITION_OPEN: Disposition
DISPOSITION_CREATE: Disposition
DISPOSITION_OPEN_IF: Disposition
DISPOSITION_OVERWRITE: Disposition
DISPOSITION_OVERWRITE_IF: Disposition
CREATE_ACTION_UNSPECIFIED: CreateAction
CREATE_ACTION_OPENED: CreateAction
CREATE_ACTION_CREATED: CreateAction
CREATE_ACTION_OVERWRITTEN: CreateAction
OPEN_OPTIONS_NONE: OpenOptions
OPEN_OPTIONS_DELETE_ON_CLOSE: OpenOptions
OPEN_OPTIONS_DIRECTORY: OpenOptions
OPEN_OPTIONS_WRITE_THROUGH: OpenOptions

class LockRange(_message.Message):
    __slots__ = ("offset", "length", "exclusive")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    offset: int
    length: int
    exclusive: bool
    def __init__(self, offset: _Optional[int] = ..., length: _Optional[int] = ..., exclusive: _Optional[bool] = ...) -> None: ...

class DataRange(_message.Message):
    __slots__ = ("offset", "length")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    offset: int
    length: int
    def __init__(self, offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class DirectoryEntry(_message.Message):
    __slots__ = ("name", "ino", "is_directory", "size", "modified_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INO_FIELD_NUMBER: _ClassVar[int]
    IS_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    ino: int
    is_directory: bool
    size: int
    modified_ns: int
    def __init__(self, name: _Optional[str] = ..., ino: _Optional[int] = ..., is_directory: _Optional[bool] = ..., size: _Optional[int] = ..., modified_ns: _Optional[int] = ...) -> None: ...

class ReclaimItem(_message.Message):
    __slots__ = ("handle", "create_guid")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    CREATE_GUID_FIELD_NUMBER: _ClassVar[int]
    handle: int
    create_guid: bytes
    def __init__(self, handle: _Optional[int] = ..., create_guid: _Optional[bytes] = ...) -> None: ...

class ReclaimResult(_message.Message):
    __slots__ = ("handle", "code", "generation", "info", "watermark", "access")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    handle: int
    code: str
    generation: int
    info: _common_pb2.FileInfo
    watermark: int
    access: int
    def __init__(self, handle: _Optional[int] = ..., code: _Optional[str] = ..., generation: _Optional[int] = ..., info: _Optional[_Union[_common_pb2.FileInfo, _Mapping]] = ..., watermark: _Optional[int] = ..., access: _Optional[int] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("caller", "path", "access", "share", "disposition", "options", "create_guid", "app_instance", "timeout_ms", "attributes")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    DISPOSITION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CREATE_GUID_FIELD_NUMBER: _ClassVar[int]
    APP_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    path: str
    access: int
    share: int
    disposition: int
    options: int
    create_guid: bytes
    app_instance: bytes
    timeout_ms: int
    attributes: int
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., path: _Optional[str] = ..., access: _Optional[int] = ..., share: _Optional[int] = ..., disposition: _Optional[int] = ..., options: _Optional[int] = ..., create_guid: _Optional[bytes] = ..., app_instance: _Optional[bytes] = ..., timeout_ms: _Optional[int] = ..., attributes: _Optional[int] = ...) -> None: ...

class OpenReply(_message.Message):
    __slots__ = ("handle", "generation", "action", "info", "timeout_ms", "grant")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    handle: int
    generation: int
    action: int
    info: _common_pb2.FileInfo
    timeout_ms: int
    grant: _common_pb2.Grant
    def __init__(self, handle: _Optional[int] = ..., generation: _Optional[int] = ..., action: _Optional[int] = ..., info: _Optional[_Union[_common_pb2.FileInfo, _Mapping]] = ..., timeout_ms: _Optional[int] = ..., grant: _Optional[_Union[_common_pb2.Grant, _Mapping]] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("caller", "handle", "generation", "commit", "release_token")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    handle: int
    generation: int
    commit: _common_pb2.Commit
    release_token: int
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., handle: _Optional[int] = ..., generation: _Optional[int] = ..., commit: _Optional[_Union[_common_pb2.Commit, _Mapping]] = ..., release_token: _Optional[int] = ...) -> None: ...

class InfoReply(_message.Message):
    __slots__ = ("info", "held_by_asker")
    INFO_FIELD_NUMBER: _ClassVar[int]
    HELD_BY_ASKER_FIELD_NUMBER: _ClassVar[int]
    info: _common_pb2.FileInfo
    held_by_asker: bool
    def __init__(self, info: _Optional[_Union[_common_pb2.FileInfo, _Mapping]] = ..., held_by_asker: _Optional[bool] = ...) -> None: ...

class Reclaim(_message.Message):
    __slots__ = ("caller", "handles")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    handles: _containers.RepeatedCompositeFieldContainer[ReclaimItem]
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., handles: _Optional[_Iterable[_Union[ReclaimItem, _Mapping]]] = ...) -> None: ...

class ReclaimReply(_message.Message):
    __slots__ = ("results", "grants")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ReclaimResult]
    grants: _containers.RepeatedCompositeFieldContainer[_common_pb2.Grant]
    def __init__(self, results: _Optional[_Iterable[_Union[ReclaimResult, _Mapping]]] = ..., grants: _Optional[_Iterable[_Union[_common_pb2.Grant, _Mapping]]] = ...) -> None: ...

class Read(_message.Message):
    __slots__ = ("handle", "generation", "offset", "length")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    handle: int
    generation: int
    offset: int
    length: int
    def __init__(self, handle: _Optional[int] = ..., generation: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class ReadReply(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class Write(_message.Message):
    __slots__ = ("handle", "generation", "op_sequence", "acked_below", "offset", "append")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    OP_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKED_BELOW_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    handle: int
    generation: int
    op_sequence: int
    acked_below: int
    offset: int
    append: bool
    def __init__(self, handle: _Optional[int] = ..., generation: _Optional[int] = ..., op_sequence: _Optional[int] = ..., acked_below: _Optional[int] = ..., offset: _Optional[int] = ..., append: _Optional[bool] = ...) -> None: ...

class WriteReply(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class Flush(_message.Message):
    __slots__ = ("handle", "generation")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    handle: int
    generation: int
    def __init__(self, handle: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class Truncate(_message.Message):
    __slots__ = ("caller", "handle", "generation", "size", "commit", "tail", "modified_ns")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_NS_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    handle: int
    generation: int
    size: int
    commit: _common_pb2.Commit
    tail: bytes
    modified_ns: int
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., handle: _Optional[int] = ..., generation: _Optional[int] = ..., size: _Optional[int] = ..., commit: _Optional[_Union[_common_pb2.Commit, _Mapping]] = ..., tail: _Optional[bytes] = ..., modified_ns: _Optional[int] = ...) -> None: ...

class Lock(_message.Message):
    __slots__ = ("caller", "handle", "generation", "ranges", "wait_ms")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    handle: int
    generation: int
    ranges: _containers.RepeatedCompositeFieldContainer[LockRange]
    wait_ms: int
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., handle: _Optional[int] = ..., generation: _Optional[int] = ..., ranges: _Optional[_Iterable[_Union[LockRange, _Mapping]]] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class Unlock(_message.Message):
    __slots__ = ("caller", "handle", "generation", "ranges")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    handle: int
    generation: int
    ranges: _containers.RepeatedCompositeFieldContainer[LockRange]
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., handle: _Optional[int] = ..., generation: _Optional[int] = ..., ranges: _Optional[_Iterable[_Union[LockRange, _Mapping]]] = ...) -> None: ...

class Stat(_message.Message):
    __slots__ = ("path", "handle", "generation", "caller")
    PATH_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    path: str
    handle: int
    generation: int
    caller: _common_pb2.Caller
    def __init__(self, path: _Optional[str] = ..., handle: _Optional[int] = ..., generation: _Optional[int] = ..., caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ...) -> None: ...

class SetInfo(_message.Message):
    __slots__ = ("caller", "path", "handle", "generation", "set_attributes", "attributes", "created_ns", "modified_ns", "accessed_ns", "delete_on_close")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SET_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_NS_FIELD_NUMBER: _ClassVar[int]
    ACCESSED_NS_FIELD_NUMBER: _ClassVar[int]
    DELETE_ON_CLOSE_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    path: str
    handle: int
    generation: int
    set_attributes: bool
    attributes: int
    created_ns: int
    modified_ns: int
    accessed_ns: int
    delete_on_close: int
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., path: _Optional[str] = ..., handle: _Optional[int] = ..., generation: _Optional[int] = ..., set_attributes: _Optional[bool] = ..., attributes: _Optional[int] = ..., created_ns: _Optional[int] = ..., modified_ns: _Optional[int] = ..., accessed_ns: _Optional[int] = ..., delete_on_close: _Optional[int] = ...) -> None: ...

class Mkdir(_message.Message):
    __slots__ = ("caller", "path")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    path: str
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., path: _Optional[str] = ...) -> None: ...

class Rmdir(_message.Message):
    __slots__ = ("caller", "path")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    path: str
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., path: _Optional[str] = ...) -> None: ...

class Unlink(_message.Message):
    __slots__ = ("caller", "path")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    path: str
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., path: _Optional[str] = ...) -> None: ...

class Rename(_message.Message):
    __slots__ = ("caller", "source", "target", "replace")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    source: str
    target: str
    replace: bool
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., source: _Optional[str] = ..., target: _Optional[str] = ..., replace: _Optional[bool] = ...) -> None: ...

class ReadDir(_message.Message):
    __slots__ = ("path", "after", "entries_max", "caller")
    PATH_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_MAX_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    path: str
    after: str
    entries_max: int
    caller: _common_pb2.Caller
    def __init__(self, path: _Optional[str] = ..., after: _Optional[str] = ..., entries_max: _Optional[int] = ..., caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ...) -> None: ...

class ReadDirReply(_message.Message):
    __slots__ = ("entries", "more")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[DirectoryEntry]
    more: bool
    def __init__(self, entries: _Optional[_Iterable[_Union[DirectoryEntry, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class WriteFile(_message.Message):
    __slots__ = ("caller", "path", "disposition", "attributes", "size", "extents", "log_id", "modified_ns", "commit")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DISPOSITION_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_NS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    path: str
    disposition: int
    attributes: int
    size: int
    extents: bytes
    log_id: int
    modified_ns: int
    commit: _common_pb2.Commit
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., path: _Optional[str] = ..., disposition: _Optional[int] = ..., attributes: _Optional[int] = ..., size: _Optional[int] = ..., extents: _Optional[bytes] = ..., log_id: _Optional[int] = ..., modified_ns: _Optional[int] = ..., commit: _Optional[_Union[_common_pb2.Commit, _Mapping]] = ...) -> None: ...

class ReadFile(_message.Message):
    __slots__ = ("path", "offset", "length", "caller", "not_held")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    NOT_HELD_FIELD_NUMBER: _ClassVar[int]
    path: str
    offset: int
    length: int
    caller: _common_pb2.Caller
    not_held: bool
    def __init__(self, path: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., not_held: _Optional[bool] = ...) -> None: ...

class ReadFileReply(_message.Message):
    __slots__ = ("info", "grant")
    INFO_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    info: _common_pb2.FileInfo
    grant: _common_pb2.Grant
    def __init__(self, info: _Optional[_Union[_common_pb2.FileInfo, _Mapping]] = ..., grant: _Optional[_Union[_common_pb2.Grant, _Mapping]] = ...) -> None: ...

class Abandon(_message.Message):
    __slots__ = ("caller", "target_op", "handle", "generation", "op_sequence")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    TARGET_OP_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    OP_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    target_op: int
    handle: int
    generation: int
    op_sequence: int
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., target_op: _Optional[int] = ..., handle: _Optional[int] = ..., generation: _Optional[int] = ..., op_sequence: _Optional[int] = ...) -> None: ...

class AbandonReply(_message.Message):
    __slots__ = ("executed", "offset")
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    executed: bool
    offset: int
    def __init__(self, executed: _Optional[bool] = ..., offset: _Optional[int] = ...) -> None: ...

class EndClient(_message.Message):
    __slots__ = ("caller",)
    CALLER_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ...) -> None: ...

class HandleClosed(_message.Message):
    __slots__ = ("handle", "code")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    handle: int
    code: str
    def __init__(self, handle: _Optional[int] = ..., code: _Optional[str] = ...) -> None: ...

class ChangeLocks(_message.Message):
    __slots__ = ("caller", "handle", "generation", "drop", "test", "take", "wait_ms", "read_offset", "read_length", "beside")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    TAKE_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    READ_OFFSET_FIELD_NUMBER: _ClassVar[int]
    READ_LENGTH_FIELD_NUMBER: _ClassVar[int]
    BESIDE_FIELD_NUMBER: _ClassVar[int]
    caller: _common_pb2.Caller
    handle: int
    generation: int
    drop: _containers.RepeatedCompositeFieldContainer[LockRange]
    test: _containers.RepeatedCompositeFieldContainer[LockRange]
    take: _containers.RepeatedCompositeFieldContainer[LockRange]
    wait_ms: int
    read_offset: int
    read_length: int
    beside: str
    def __init__(self, caller: _Optional[_Union[_common_pb2.Caller, _Mapping]] = ..., handle: _Optional[int] = ..., generation: _Optional[int] = ..., drop: _Optional[_Iterable[_Union[LockRange, _Mapping]]] = ..., test: _Optional[_Iterable[_Union[LockRange, _Mapping]]] = ..., take: _Optional[_Iterable[_Union[LockRange, _Mapping]]] = ..., wait_ms: _Optional[int] = ..., read_offset: _Optional[int] = ..., read_length: _Optional[int] = ..., beside: _Optional[str] = ...) -> None: ...

class LocksChanged(_message.Message):
    __slots__ = ("known", "size", "nothing_beside")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    NOTHING_BESIDE_FIELD_NUMBER: _ClassVar[int]
    known: bool
    size: int
    nothing_beside: bool
    def __init__(self, known: _Optional[bool] = ..., size: _Optional[int] = ..., nothing_beside: _Optional[bool] = ...) -> None: ...

class WriteParts(_message.Message):
    __slots__ = ("handle", "generation", "op_sequence", "acked_below", "parts")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    OP_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKED_BELOW_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    handle: int
    generation: int
    op_sequence: int
    acked_below: int
    parts: _containers.RepeatedCompositeFieldContainer[DataRange]
    def __init__(self, handle: _Optional[int] = ..., generation: _Optional[int] = ..., op_sequence: _Optional[int] = ..., acked_below: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[DataRange, _Mapping]]] = ...) -> None: ...
