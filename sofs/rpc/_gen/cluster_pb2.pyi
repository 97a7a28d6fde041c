# mypy: disable-error-code="type-arg"
from . import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PartStatus(_message.Message):
    __slots__ = ("part", "name", "address", "incarnation", "pid", "state", "detail")
    PART_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    part: str
    name: str
    address: str
    incarnation: bytes
    pid: int
    state: str
    detail: str
    def __init__(self, part: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class ClusterStatus(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClusterStatusReply(_message.Message):
    __slots__ = ("run_id", "parts")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    parts: _containers.RepeatedCompositeFieldContainer[PartStatus]
    def __init__(self, run_id: _Optional[bytes] = ..., parts: _Optional[_Iterable[_Union[PartStatus, _Mapping]]] = ...) -> None: ...

class ListCorrupt(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CorruptList(_message.Message):
    __slots__ = ("places", "total")
    PLACES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    places: _containers.RepeatedCompositeFieldContainer[_common_pb2.CorruptPlace]
    total: int
    def __init__(self, places: _Optional[_Iterable[_Union[_common_pb2.CorruptPlace, _Mapping]]] = ..., total: _Optional[int] = ...) -> None: ...

class PartState(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PartStateReply(_message.Message):
    __slots__ = ("part", "name", "incarnation", "state", "facts")
    PART_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    part: str
    name: str
    incarnation: bytes
    state: str
    facts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, part: _Optional[str] = ..., name: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., state: _Optional[str] = ..., facts: _Optional[_Iterable[str]] = ...) -> None: ...

class ShareInfo(_message.Message):
    __slots__ = ("name", "volume", "read_only", "available")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    volume: str
    read_only: bool
    available: bool
    def __init__(self, name: _Optional[str] = ..., volume: _Optional[str] = ..., read_only: _Optional[bool] = ..., available: _Optional[bool] = ...) -> None: ...

class ListShares(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShareList(_message.Message):
    __slots__ = ("epoch", "version", "shares", "reached", "waiting")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    REACHED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    version: int
    shares: _containers.RepeatedCompositeFieldContainer[ShareInfo]
    reached: _containers.RepeatedScalarFieldContainer[str]
    waiting: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, epoch: _Optional[int] = ..., version: _Optional[int] = ..., shares: _Optional[_Iterable[_Union[ShareInfo, _Mapping]]] = ..., reached: _Optional[_Iterable[str]] = ..., waiting: _Optional[_Iterable[str]] = ...) -> None: ...

class ChangeShare(_message.Message):
    __slots__ = ("token", "action", "share")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    action: int
    share: ShareInfo
    def __init__(self, token: _Optional[bytes] = ..., action: _Optional[int] = ..., share: _Optional[_Union[ShareInfo, _Mapping]] = ...) -> None: ...

class LookAtShares(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SharesSeen(_message.Message):
    __slots__ = ("epoch", "version")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    version: int
    def __init__(self, epoch: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class MachineInfo(_message.Message):
    __slots__ = ("name", "id", "slot", "draining", "avoided", "parts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    AVOIDED_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: str
    slot: int
    draining: bool
    avoided: bool
    parts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., id: _Optional[str] = ..., slot: _Optional[int] = ..., draining: _Optional[bool] = ..., avoided: _Optional[bool] = ..., parts: _Optional[_Iterable[str]] = ...) -> None: ...

class ListMachines(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MachineList(_message.Message):
    __slots__ = ("machines", "avoided")
    MACHINES_FIELD_NUMBER: _ClassVar[int]
    AVOIDED_FIELD_NUMBER: _ClassVar[int]
    machines: _containers.RepeatedCompositeFieldContainer[MachineInfo]
    avoided: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, machines: _Optional[_Iterable[_Union[MachineInfo, _Mapping]]] = ..., avoided: _Optional[_Iterable[str]] = ...) -> None: ...

class ChangeMachine(_message.Message):
    __slots__ = ("token", "machine", "avoided")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    AVOIDED_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    machine: str
    avoided: bool
    def __init__(self, token: _Optional[bytes] = ..., machine: _Optional[str] = ..., avoided: _Optional[bool] = ...) -> None: ...

class VolumeInfo(_message.Message):
    __slots__ = ("name", "coordinator", "resume_key", "shares")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    RESUME_KEY_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    name: str
    coordinator: str
    resume_key: str
    shares: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., coordinator: _Optional[str] = ..., resume_key: _Optional[str] = ..., shares: _Optional[_Iterable[str]] = ...) -> None: ...

class ListVolumes(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AddVolume(_message.Message):
    __slots__ = ("token", "name")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    name: str
    def __init__(self, token: _Optional[bytes] = ..., name: _Optional[str] = ...) -> None: ...

class RemoveVolume(_message.Message):
    __slots__ = ("token", "name", "force")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    name: str
    force: bool
    def __init__(self, token: _Optional[bytes] = ..., name: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class VolumeList(_message.Message):
    __slots__ = ("volumes",)
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    volumes: _containers.RepeatedCompositeFieldContainer[VolumeInfo]
    def __init__(self, volumes: _Optional[_Iterable[_Union[VolumeInfo, _Mapping]]] = ...) -> None: ...

class HandleInfo(_message.Message):
    __slots__ = ("handle", "client", "principal", "path", "ino", "access", "share", "node", "generation", "timeout_ms", "locks", "delete_on_close")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    INO_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    DELETE_ON_CLOSE_FIELD_NUMBER: _ClassVar[int]
    handle: int
    client: bytes
    principal: str
    path: str
    ino: int
    access: int
    share: int
    node: str
    generation: int
    timeout_ms: int
    locks: int
    delete_on_close: bool
    def __init__(self, handle: _Optional[int] = ..., client: _Optional[bytes] = ..., principal: _Optional[str] = ..., path: _Optional[str] = ..., ino: _Optional[int] = ..., access: _Optional[int] = ..., share: _Optional[int] = ..., node: _Optional[str] = ..., generation: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., locks: _Optional[int] = ..., delete_on_close: _Optional[bool] = ...) -> None: ...

class ListHandles(_message.Message):
    __slots__ = ("after", "client", "path")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    after: int
    client: str
    path: str
    def __init__(self, after: _Optional[int] = ..., client: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class HandleList(_message.Message):
    __slots__ = ("handles", "next_after")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedCompositeFieldContainer[HandleInfo]
    next_after: int
    def __init__(self, handles: _Optional[_Iterable[_Union[HandleInfo, _Mapping]]] = ..., next_after: _Optional[int] = ...) -> None: ...

class CloseHandle(_message.Message):
    __slots__ = ("handle",)
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    handle: int
    def __init__(self, handle: _Optional[int] = ...) -> None: ...

class HandleReleased(_message.Message):
    __slots__ = ("was_open",)
    WAS_OPEN_FIELD_NUMBER: _ClassVar[int]
    was_open: bool
    def __init__(self, was_open: _Optional[bool] = ...) -> None: ...
