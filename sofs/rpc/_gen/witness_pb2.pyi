# mypy: disable-error-code="type-arg"
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Interface(_message.Message):
    __slots__ = ("node", "version", "state", "ipv4", "ipv6", "flags", "port")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IPV4_FIELD_NUMBER: _ClassVar[int]
    IPV6_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    node: str
    version: int
    state: int
    ipv4: str
    ipv6: str
    flags: int
    port: int
    def __init__(self, node: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[int] = ..., ipv4: _Optional[str] = ..., ipv6: _Optional[str] = ..., flags: _Optional[int] = ..., port: _Optional[int] = ...) -> None: ...

class GetInterfaceList(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InterfaceList(_message.Message):
    __slots__ = ("interfaces", "net_name")
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    NET_NAME_FIELD_NUMBER: _ClassVar[int]
    interfaces: _containers.RepeatedCompositeFieldContainer[Interface]
    net_name: str
    def __init__(self, interfaces: _Optional[_Iterable[_Union[Interface, _Mapping]]] = ..., net_name: _Optional[str] = ...) -> None: ...

class RegisterWitnessV1(_message.Message):
    __slots__ = ("version", "net_name", "address", "client_name")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NET_NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_NAME_FIELD_NUMBER: _ClassVar[int]
    version: int
    net_name: str
    address: str
    client_name: str
    def __init__(self, version: _Optional[int] = ..., net_name: _Optional[str] = ..., address: _Optional[str] = ..., client_name: _Optional[str] = ...) -> None: ...

class RegisterWitness(_message.Message):
    __slots__ = ("version", "net_name", "share_name", "address", "client_name", "flags", "keep_alive_s")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NET_NAME_FIELD_NUMBER: _ClassVar[int]
    SHARE_NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_NAME_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_S_FIELD_NUMBER: _ClassVar[int]
    version: int
    net_name: str
    share_name: str
    address: str
    client_name: str
    flags: int
    keep_alive_s: int
    def __init__(self, version: _Optional[int] = ..., net_name: _Optional[str] = ..., share_name: _Optional[str] = ..., address: _Optional[str] = ..., client_name: _Optional[str] = ..., flags: _Optional[int] = ..., keep_alive_s: _Optional[int] = ...) -> None: ...

class RegisterWitnessReply(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: bytes
    def __init__(self, context: _Optional[bytes] = ...) -> None: ...

class AsyncNotify(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: bytes
    def __init__(self, context: _Optional[bytes] = ...) -> None: ...

class Notification(_message.Message):
    __slots__ = ("kind", "state", "node", "address")
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    kind: int
    state: int
    node: str
    address: str
    def __init__(self, kind: _Optional[int] = ..., state: _Optional[int] = ..., node: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class UnregisterWitness(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: bytes
    def __init__(self, context: _Optional[bytes] = ...) -> None: ...

class MoveOutcome(_message.Message):
    __slots__ = ("context", "address", "text")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    context: bytes
    address: str
    text: str
    def __init__(self, context: _Optional[bytes] = ..., address: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class WitnessedClient(_message.Message):
    __slots__ = ("client_name", "share_name", "address", "node", "state", "flags", "version", "sent", "queued")
    CLIENT_NAME_FIELD_NUMBER: _ClassVar[int]
    SHARE_NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    client_name: str
    share_name: str
    address: str
    node: str
    state: str
    flags: int
    version: int
    sent: int
    queued: int
    def __init__(self, client_name: _Optional[str] = ..., share_name: _Optional[str] = ..., address: _Optional[str] = ..., node: _Optional[str] = ..., state: _Optional[str] = ..., flags: _Optional[int] = ..., version: _Optional[int] = ..., sent: _Optional[int] = ..., queued: _Optional[int] = ...) -> None: ...

class ListWitnessed(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class WitnessedList(_message.Message):
    __slots__ = ("witness", "address", "net_name", "clients", "total", "next")
    WITNESS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NET_NAME_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    witness: str
    address: str
    net_name: str
    clients: _containers.RepeatedCompositeFieldContainer[WitnessedClient]
    total: int
    next: int
    def __init__(self, witness: _Optional[str] = ..., address: _Optional[str] = ..., net_name: _Optional[str] = ..., clients: _Optional[_Iterable[_Union[WitnessedClient, _Mapping]]] = ..., total: _Optional[int] = ..., next: _Optional[int] = ...) -> None: ...

class MoveClients(_message.Message):
    __slots__ = ("client_name", "share_name", "leaving", "destinations")
    CLIENT_NAME_FIELD_NUMBER: _ClassVar[int]
    SHARE_NAME_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    client_name: str
    share_name: str
    leaving: str
    destinations: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, client_name: _Optional[str] = ..., share_name: _Optional[str] = ..., leaving: _Optional[str] = ..., destinations: _Optional[_Iterable[str]] = ...) -> None: ...

class ClientsMoved(_message.Message):
    __slots__ = ("told", "moved", "reasons", "ended")
    TOLD_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    told: int
    moved: int
    reasons: _containers.RepeatedScalarFieldContainer[str]
    ended: int
    def __init__(self, told: _Optional[int] = ..., moved: _Optional[int] = ..., reasons: _Optional[_Iterable[str]] = ..., ended: _Optional[int] = ...) -> None: ...
