# mypy: disable-error-code="type-arg"
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DnsMember(_message.Message):
    __slots__ = ("node", "machine", "hosts", "port", "registered", "listed")
    NODE_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    LISTED_FIELD_NUMBER: _ClassVar[int]
    node: str
    machine: str
    hosts: _containers.RepeatedScalarFieldContainer[str]
    port: int
    registered: bool
    listed: bool
    def __init__(self, node: _Optional[str] = ..., machine: _Optional[str] = ..., hosts: _Optional[_Iterable[str]] = ..., port: _Optional[int] = ..., registered: _Optional[bool] = ..., listed: _Optional[bool] = ...) -> None: ...

class RegisterMember(_message.Message):
    __slots__ = ("access_point", "member")
    ACCESS_POINT_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    access_point: str
    member: DnsMember
    def __init__(self, access_point: _Optional[str] = ..., member: _Optional[_Union[DnsMember, _Mapping]] = ...) -> None: ...

class RegisterMemberReply(_message.Message):
    __slots__ = ("listed",)
    LISTED_FIELD_NUMBER: _ClassVar[int]
    listed: bool
    def __init__(self, listed: _Optional[bool] = ...) -> None: ...

class SetMembers(_message.Message):
    __slots__ = ("access_point", "epoch", "version", "members")
    ACCESS_POINT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    access_point: str
    epoch: int
    version: int
    members: _containers.RepeatedCompositeFieldContainer[DnsMember]
    def __init__(self, access_point: _Optional[str] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ..., members: _Optional[_Iterable[_Union[DnsMember, _Mapping]]] = ...) -> None: ...

class ListMembers(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MemberList(_message.Message):
    __slots__ = ("access_point", "address", "learned", "epoch", "version", "serial", "ttl_s", "members")
    ACCESS_POINT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEARNED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    access_point: str
    address: str
    learned: bool
    epoch: int
    version: int
    serial: int
    ttl_s: int
    members: _containers.RepeatedCompositeFieldContainer[DnsMember]
    def __init__(self, access_point: _Optional[str] = ..., address: _Optional[str] = ..., learned: _Optional[bool] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ..., serial: _Optional[int] = ..., ttl_s: _Optional[int] = ..., members: _Optional[_Iterable[_Union[DnsMember, _Mapping]]] = ...) -> None: ...
