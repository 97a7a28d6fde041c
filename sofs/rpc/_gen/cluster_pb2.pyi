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
