"""Messages to protobuf and back, by tables that are built once from the dataclass fields.

The n-th field of a message class is field number n of the protobuf message of the same name;
building the tables fails when the two do not match, so a process with a wrong wire cannot start.

Two rules keep the two worlds equal. A protobuf field that is absent has protobuf's zero (0, "", no
element), not the dataclass's default, and a field with that zero is not sent: a `Window` with
watermark 1 therefore sends the 1. A nested message is sent if it has something to say; only one
that may be ``None`` is sent for its own sake.

What a caller put into a message and does not fit the wire (a negative number, a string with a lone
surrogate) is InvalidParameter, before anything is sent.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from sofs.core import messages
from sofs.core.messages import MESSAGES, Message, Signed
from sofs.errors import InvalidParameter, ProtocolError
from sofs.rpc._gen import (
    cluster_pb2,
    common_pb2,
    dns_pb2,
    file_pb2,
    resume_key_pb2,
    session_pb2,
    volume_pb2,
    witness_pb2,
)

_FILES = (common_pb2, file_pb2, volume_pb2, resume_key_pb2, witness_pb2, dns_pb2, cluster_pb2)

_SCALARS: dict[Any, int] = {
    bool: FieldDescriptor.TYPE_BOOL,
    int: FieldDescriptor.TYPE_UINT64,
    Signed: FieldDescriptor.TYPE_SINT64,
    str: FieldDescriptor.TYPE_STRING,
    bytes: FieldDescriptor.TYPE_BYTES,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field of a message class as the wire must have it. ``kind``: a protobuf scalar type, or
    the class of a nested message."""

    number: int
    name: str
    kind: int | type[Any]
    repeated: bool
    optional: bool


def wire_fields(cls: type[Any]) -> list[Field]:
    """Return what the wire must have for the dataclass ``cls``; TypeError for other field types."""
    hints = get_type_hints(cls, include_extras=True)
    return [
        _field(number, field.name, hints[field.name])
        for number, field in enumerate(dataclasses.fields(cls), 1)
    ]


def _field(number: int, name: str, hint: Any) -> Field:
    repeated = optional = False
    if get_origin(hint) is list:
        repeated, (hint,) = True, get_args(hint)
    elif get_origin(hint) in (types.UnionType, Union):
        optional = True
        (hint,) = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Annotated and hint != Signed:
        raise TypeError(f"field {name}: {hint} has no wire type")
    kind = _SCALARS.get(hint)
    if kind is not None:
        if optional:
            raise TypeError(f"field {name}: only a nested message may be None")
        return Field(number, name, kind, repeated, optional)
    if not dataclasses.is_dataclass(hint):
        raise TypeError(f"field {name}: {hint} has no wire type")
    return Field(number, name, typing.cast("type[Any]", hint), repeated, optional)


def wire_class(cls: type[Any]) -> Any:
    """Return the protobuf class of the dataclass ``cls``; TypeError if there is none."""
    for module in _FILES:
        found = getattr(module, cls.__name__, None)
        if found is not None:
            return found
    raise TypeError(f"protos/sofs/v1 has no message {cls.__name__}")


class Converter:
    """Fills the protobuf message of one dataclass and reads it back."""

    __slots__ = ("_all", "_cls", "_lists", "_nested", "_optional", "_scalar_lists", "_scalars")

    def __init__(self, cls: type[Any], fields: list[Field]) -> None:
        self._cls = cls
        self._all = _getter([field.name for field in fields])
        # Fields by how they are copied; the number is their position among all fields.
        self._scalars: list[tuple[int, str]] = []
        self._scalar_lists: list[tuple[int, str]] = []
        self._nested: list[tuple[int, str, Converter]] = []
        self._optional: list[tuple[int, str, Converter]] = []
        self._lists: list[tuple[int, str, Converter]] = []
        for field in fields:
            index, kind = field.number - 1, field.kind
            if isinstance(kind, int):
                (self._scalar_lists if field.repeated else self._scalars).append(
                    (index, field.name)
                )
                continue
            entry = (index, field.name, converter(kind))
            if field.repeated:
                self._lists.append(entry)
            elif field.optional:
                self._optional.append(entry)
            else:
                self._nested.append(entry)

    def fill(self, target: Any, body: Any) -> None:
        """Copy the dataclass ``body`` into the fresh protobuf message ``target``."""
        values = self._all(body)
        for index, name in self._scalars:
            if values[index]:
                setattr(target, name, values[index])
        for index, name in self._scalar_lists:
            if values[index]:
                getattr(target, name).extend(values[index])
        for index, name, child in self._nested:
            child.fill(getattr(target, name), values[index])
        for index, name, child in self._optional:
            if values[index] is not None:
                inner = getattr(target, name)
                inner.SetInParent()
                child.fill(inner, values[index])
        for index, name, child in self._lists:
            if values[index]:
                add = getattr(target, name).add
                for item in values[index]:
                    child.fill(add(), item)

    def read(self, source: Any) -> Any:
        """Return the dataclass of the protobuf message ``source``."""
        values = list(self._all(source))
        for index, _ in self._scalar_lists:
            values[index] = list(values[index])
        for index, _, child in self._nested:
            values[index] = child.read(values[index])
        for index, name, child in self._optional:
            values[index] = child.read(values[index]) if source.HasField(name) else None
        for index, _, child in self._lists:
            values[index] = [child.read(item) for item in values[index]]
        return self._cls(*values)


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that reads all ``names`` of an object as a tuple."""
    if not names:
        return lambda _: ()
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda source: (get(source),)


_CONVERTERS: dict[type[Any], Converter] = {}


def converter(cls: type[Any]) -> Converter:
    """Return the converter of a dataclass; TypeError when the wire does not match it."""
    found = _CONVERTERS.get(cls)
    if found is None:
        fields = wire_fields(cls)
        check_wire(cls, fields)
        found = _CONVERTERS[cls] = Converter(cls, fields)
    return found


def check_wire(cls: type[Any], fields: list[Field]) -> None:
    """Raise TypeError unless the protobuf message of ``cls`` has exactly ``fields``."""
    described = {field.number: field for field in wire_class(cls).DESCRIPTOR.fields}
    if sorted(described) != [field.number for field in fields]:
        raise TypeError(f"message {cls.__name__}: protos/sofs/v1 has fields {sorted(described)}")
    for field in fields:
        found = described[field.number]
        if isinstance(field.kind, int):
            matches = found.type == field.kind
        else:
            inner = found.message_type
            matches = inner is not None and inner.name == field.kind.__name__
        if not matches or found.name != field.name or found.is_repeated != field.repeated:
            raise TypeError(f"{cls.__name__}.{field.name}: protos/sofs/v1 has {found.name}")


def _bodies() -> tuple[dict[type[Message], tuple[str, Converter]], dict[str, Converter]]:
    """Return (field of the envelope, converter) by class, and the converter by that field."""
    fields: list[Any] = list(session_pb2.Envelope.DESCRIPTOR.oneofs_by_name["body"].fields)
    described = {field.number: field for field in fields}
    if sorted(described) != sorted(MESSAGES):
        raise TypeError("protos/sofs/v1/session.proto: Envelope.body does not match MESSAGES")
    by_class: dict[type[Message], tuple[str, Converter]] = {}
    for tag, cls in MESSAGES.items():
        if described[tag].message_type.name != cls.__name__:
            raise TypeError(f"Envelope.body {tag} is {described[tag].name}, not {cls.__name__}")
        by_class[cls] = (described[tag].name, converter(cls))
    return by_class, {name: child for name, child in by_class.values()}


_BY_CLASS, _BY_NAME = _bodies()


def fill_body(envelope: Any, body: Message) -> None:
    """Set ``body`` in the protobuf ``envelope``; InvalidParameter if it does not fit the wire."""
    try:
        name, child = _BY_CLASS[type(body)]
    except KeyError:
        raise InvalidParameter(
            f"{type(body).__name__} is no message; use one of {messages.__name__}"
        ) from None
    target = getattr(envelope, name)
    target.SetInParent()
    try:
        child.fill(target, body)
    except (TypeError, ValueError) as error:
        raise InvalidParameter(
            f"{type(body).__name__}: {error}; numbers are 0 to 2**64-1, strings valid UTF-8"
        ) from error


def read_body(envelope: Any) -> Message:
    """Return the body of the protobuf ``envelope``; ProtocolError when there is none."""
    name = envelope.WhichOneof("body")
    if name is None:
        raise ProtocolError("an envelope holds no message that this version knows; end the stream")
    body = _BY_NAME[name].read(getattr(envelope, name))
    assert isinstance(body, Message)
    return body


class WireCodec:
    """``ports.codec.MessageCodec``: one message with its tag, as an envelope that holds only it."""

    def encode(self, body: Message) -> bytes:
        """Return the bytes of ``body``; InvalidParameter for what does not fit the wire."""
        envelope = session_pb2.Envelope()
        fill_body(envelope, body)
        return envelope.SerializeToString()

    def decode(self, data: bytes) -> Message:
        """Return the message of ``encode``; ProtocolError for bytes that are no message."""
        try:
            envelope = session_pb2.Envelope.FromString(data)
        except DecodeError as error:
            raise ProtocolError(f"{len(data)} bytes are no message: {error}") from None
        return read_body(envelope)
