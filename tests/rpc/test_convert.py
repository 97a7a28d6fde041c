"""The dataclasses of ``sofs.core.messages`` and the protobuf messages are the same vocabulary."""

from __future__ import annotations

import dataclasses
import enum
import re
import types
import typing
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.core import message_parts, messages
from sofs.core.messages import (
    MESSAGES,
    Done,
    Grant,
    Message,
    OpenReply,
    Ping,
    Read,
    ReclaimItem,
    Signed,
    Stat,
    Window,
    Write,
)
from sofs.errors import InvalidParameter, ProtocolError
from sofs.rpc import convert
from sofs.rpc._gen import session_pb2

CLASSES: list[type[Any]] = [
    value
    for value in vars(messages).values()
    if dataclasses.is_dataclass(value) and isinstance(value, type)
]
ENUMS: list[type[enum.IntEnum] | type[enum.IntFlag]] = [
    value
    for value in vars(messages).values()
    if isinstance(value, type)
    and issubclass(value, enum.IntEnum | enum.IntFlag)
    and value.__module__ in (messages.__name__, message_parts.__name__)
]
KINDS = {
    bool: FieldDescriptor.TYPE_BOOL,
    int: FieldDescriptor.TYPE_UINT64,
    Signed: FieldDescriptor.TYPE_SINT64,
    str: FieldDescriptor.TYPE_STRING,
    bytes: FieldDescriptor.TYPE_BYTES,
}


def dataclass_of(hint: Any) -> Any:
    """The hint without list and None."""
    if get_origin(hint) is list:
        return get_args(hint)[0]
    if get_origin(hint) is types.UnionType:
        return next(part for part in get_args(hint) if part is not types.NoneType)
    return hint


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    if get_origin(hint) is list:
        return st.lists(values_of(get_args(hint)[0]), max_size=3)
    if get_origin(hint) is types.UnionType:
        return st.none() | values_of(dataclass_of(hint))
    if hint == Signed:
        return st.integers(-(2**63), 2**63 - 1)
    if dataclasses.is_dataclass(hint):
        return instances(typing.cast("type[Any]", hint))
    by_type: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(0, 2**64 - 1),
        str: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        bytes: st.binary(max_size=20),
    }
    return by_type[hint]


def instances(cls: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{f.name: values_of(hints[f.name]) for f in dataclasses.fields(cls)})


bodies = st.sampled_from(list(MESSAGES.values())).flatmap(instances)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_has_the_number_name_and_kind_of_its_place_in_the_dataclass(
    cls: type[Any],
) -> None:
    hints = get_type_hints(cls, include_extras=True)
    found = {field.number: field for field in convert.wire_class(cls).DESCRIPTOR.fields}
    assert sorted(found) == list(range(1, len(hints) + 1))
    for number, field in enumerate(dataclasses.fields(cls), 1):
        wire, hint = found[number], hints[field.name]
        assert wire.name == field.name
        assert wire.is_repeated == (get_origin(hint) is list)
        inner = dataclass_of(hint)
        if dataclasses.is_dataclass(inner):
            assert wire.message_type.name == typing.cast("type[Any]", inner).__name__
        else:
            assert wire.type == KINDS[inner]


def test_the_protos_have_no_message_that_the_dataclasses_lack() -> None:
    on_wire = {
        name
        for module in (*convert._FILES, session_pb2)
        for name in module.DESCRIPTOR.message_types_by_name
    }
    assert on_wire == {cls.__name__ for cls in CLASSES} | {"Envelope", "Frame"}


def test_the_envelope_holds_every_message_under_its_tag() -> None:
    fields = session_pb2.Envelope.DESCRIPTOR.oneofs_by_name["body"].fields
    assert {f.number: f.message_type.name for f in fields} == {
        tag: cls.__name__ for tag, cls in MESSAGES.items()
    }


def test_the_payload_is_the_last_field_of_a_frame() -> None:
    numbers = {field.name: field.number for field in session_pb2.Frame.DESCRIPTOR.fields}
    assert numbers == {"protocol_version": 1, "envelopes": 2, "payload": 15}


@pytest.mark.parametrize("cls", ENUMS, ids=lambda cls: cls.__name__)
def test_every_enum_has_the_values_of_the_wire(cls: type[enum.IntEnum]) -> None:
    wire = next(
        module.DESCRIPTOR.enum_types_by_name[cls.__name__]
        for module in convert._FILES
        if cls.__name__ in module.DESCRIPTOR.enum_types_by_name
    )
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper() + "_"
    values = {value.name.removeprefix(prefix): value.number for value in wire.values}
    ours = {name: int(value) for name, value in cls.__members__.items()}
    zero = {name: number for name, number in values.items() if number == 0 and name not in ours}
    assert values == ours | zero
    assert 0 in values.values()


def test_a_dataclass_that_differs_from_its_proto_is_refused() -> None:
    renamed = dataclasses.make_dataclass("Ping", [("number", int)])
    retyped = dataclasses.make_dataclass("Ping", [("nonce", str)])
    longer = dataclasses.make_dataclass("Ping", [("nonce", int), ("more", int)])
    repeated = dataclasses.make_dataclass("Ping", [("nonce", list[int])])
    unknown = dataclasses.make_dataclass("Nowhere", [("nonce", int)])
    for cls in (renamed, retyped, longer, repeated, unknown):
        with pytest.raises(TypeError):
            convert.converter(cls)


@pytest.mark.parametrize("hint", [float, int | None, typing.Annotated[int, "fixed64"], list[float]])
def test_a_field_type_without_a_wire_type_is_refused(hint: Any) -> None:
    cls = dataclasses.make_dataclass("Ping", [("nonce", hint)])
    with pytest.raises(TypeError):
        convert.wire_fields(cls)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@settings(max_examples=3, deadline=None, database=None)
@given(data=st.data())
def test_a_dataclass_comes_back_from_the_wire_as_it_was(cls: type[Any], data: Any) -> None:
    body = data.draw(instances(cls))
    wire = convert.wire_class(cls)()
    convert.converter(cls).fill(wire, body)
    again = convert.wire_class(cls).FromString(wire.SerializeToString())
    assert convert.converter(cls).read(again) == body


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@settings(max_examples=3, deadline=None, database=None)
@given(data=st.data())
def test_a_wire_message_comes_back_from_the_dataclass_as_it_was(cls: type[Any], data: Any) -> None:
    source = convert.wire_class(cls)()
    fill_any(source, data)
    again = convert.wire_class(cls)()
    convert.converter(cls).fill(again, convert.converter(cls).read(source))
    assert again == source


def fill_any(target: Any, data: Any) -> None:
    """Set some fields of a protobuf message to drawn values, by its descriptor alone."""
    scalars = {
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
        FieldDescriptor.TYPE_SINT64: st.integers(-(2**63), 2**63 - 1),
        FieldDescriptor.TYPE_STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
        FieldDescriptor.TYPE_BYTES: st.binary(max_size=9),
    }
    for field in target.DESCRIPTOR.fields:
        if not data.draw(st.booleans()):
            continue
        value = getattr(target, field.name)
        if field.message_type is not None:
            fill_any(value.add() if field.is_repeated else value, data)
            if not field.is_repeated and not value.ByteSize():
                target.ClearField(field.name)  # Sent for its own sake only if it may be None.
        elif field.is_repeated:
            value.append(data.draw(scalars[field.type]))
        else:
            setattr(target, field.name, data.draw(scalars[field.type]))


def test_defaults_that_are_not_zero_cross_the_wire() -> None:
    codec = convert.WireCodec()
    reply = OpenReply(grant=Grant(windows=[Window(), Window(watermark=0)]))
    assert codec.decode(codec.encode(reply)) == reply


def test_an_absent_nested_message_differs_from_an_empty_one() -> None:
    codec = convert.WireCodec()
    for reply in (OpenReply(grant=None), OpenReply(grant=Grant())):
        assert codec.decode(codec.encode(reply)) == reply


def test_decoded_lists_are_lists_of_their_own() -> None:
    codec = convert.WireCodec()
    encoded = codec.encode(OpenReply(grant=Grant(windows=[Window(abandoned=[3])])))
    one, two = codec.decode(encoded), codec.decode(encoded)
    assert isinstance(one, OpenReply)
    assert one.grant is not None
    one.grant.windows[0].abandoned.append(4)
    assert one != two


@pytest.mark.parametrize(
    "body",
    [
        Ping(nonce=-1),
        Ping(nonce=2**64),
        Stat(path="\ud800"),
        Stat(path=typing.cast("str", b"\xff")),
        Write(offset=typing.cast("int", "7")),
        Read(handle=typing.cast("int", 1.5)),
    ],
    ids=repr,
)
def test_a_value_that_does_not_fit_the_wire_is_an_invalid_parameter(body: Message) -> None:
    with pytest.raises(InvalidParameter, match=type(body).__name__):
        convert.WireCodec().encode(body)


def test_only_messages_can_be_encoded() -> None:
    with pytest.raises(InvalidParameter, match="ReclaimItem"):
        convert.WireCodec().encode(typing.cast("Message", ReclaimItem()))


@given(bodies)
@settings(max_examples=40, deadline=None)
def test_the_codec_gives_back_an_equal_message(body: Message) -> None:
    codec = convert.WireCodec()
    assert codec.decode(codec.encode(body)) == body


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_message_are_a_protocol_error(data: bytes) -> None:
    try:
        body = convert.WireCodec().decode(data)
    except ProtocolError:
        return
    assert isinstance(body, Message)


def test_an_empty_message_is_still_a_message() -> None:
    codec = convert.WireCodec()
    assert codec.decode(codec.encode(Done())) == Done()
    with pytest.raises(ProtocolError):
        codec.decode(b"")
