"""The .proto files keep the style of the contract: everything has a comment, names follow the buf style guide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor, ServiceDescriptor

from cellserve.v1 import (
    cell_pb2,
    model_pb2,
    model_service_pb2,
    peer_service_pb2,
    record_pb2,
    recurrent_service_pb2,
    sequence_pb2,
    session_pb2,
    state_pb2,
    stream_pb2,
    tensor_pb2,
)
from tests.tools import ROOT

PROTO = ROOT / "proto"
FILES: list[FileDescriptor] = [
    module.DESCRIPTOR
    for module in (
        cell_pb2,
        model_pb2,
        model_service_pb2,
        peer_service_pb2,
        record_pb2,
        recurrent_service_pb2,
        sequence_pb2,
        session_pb2,
        state_pb2,
        stream_pb2,
        tensor_pb2,
    )
]
FILE_IDS = [file.name for file in FILES]

BLOCK = re.compile(r"(message|enum|service|oneof) (\w+) \{(\})?$")
RPC = re.compile(r"rpc (\w+)\(")
FIELD = re.compile(r"(?:repeated |optional )?[\w.]+(?:<.+>)? (\w+) = \d+(?: \[.*\])?;$")
VALUE = re.compile(r"([A-Z0-9_]+) = \d+;$")


class Declaration(NamedTuple):
    """Something that a .proto file declares: its full name, and the text of the comment above it."""

    name: str
    comment: str


def declarations(text: str) -> Iterator[Declaration]:
    """Reads a .proto file that is laid out one declaration a line, as ours are.

    A stub keeps no comments, so the text itself is read. What the reader would overlook shows up as a difference from
    the descriptor (see below). An enum's values are named within the enum here.
    """
    scope: list[tuple[str, str]] = []
    comment: list[str] = []
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        names = [name for kind, name in scope if kind != "oneof"]
        if block := BLOCK.match(line):
            yield Declaration(".".join([*names, block[2]]), " ".join(comment))
            if not block[3]:
                scope.append((block[1], block[2]))
        elif line == "}":
            scope.pop()
        elif scope and (found := RPC.match(line) or VALUE.match(line) or FIELD.match(line)):
            yield Declaration(".".join([*names, found[1]]), " ".join(comment))
        comment = []


def declared_names(file: FileDescriptor) -> Iterator[str]:
    """The names of everything in a file, from the compiled descriptor."""
    for message in file.message_types_by_name.values():
        yield from _message_names(message, message.name)
    for enum in file.enum_types_by_name.values():
        yield from _enum_names(enum, enum.name)
    for service in file.services_by_name.values():
        yield service.name
        yield from (f"{service.name}.{method.name}" for method in service.methods)


def _message_names(message: Descriptor, name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}.{field.name}" for field in message.fields)
    # An optional field is a oneof of its own in the descriptor; its name begins with an underscore.
    yield from (f"{name}.{oneof.name}" for oneof in message.oneofs if not oneof.name.startswith("_"))
    for nested in message.nested_types:
        yield from _message_names(nested, f"{name}.{nested.name}")
    for enum in message.enum_types:
        yield from _enum_names(enum, f"{name}.{enum.name}")


def _enum_names(enum: EnumDescriptor, name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}.{value.name}" for value in enum.values)


def all_messages() -> list[Descriptor]:
    def nested(message: Descriptor) -> Iterator[Descriptor]:
        yield message
        for inner in message.nested_types:
            yield from nested(inner)

    return [found for file in FILES for top in file.message_types_by_name.values() for found in nested(top)]


def all_enums() -> list[EnumDescriptor]:
    top: list[Any] = [enum for file in FILES for enum in file.enum_types_by_name.values()]
    return top + [enum for message in all_messages() for enum in message.enum_types]


def all_services() -> list[ServiceDescriptor]:
    return [service for file in FILES for service in file.services_by_name.values()]


def snake(name: str) -> str:
    """``OutputProjection`` -> ``output_projection``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def test_every_proto_file_is_checked() -> None:
    assert sorted(file.name for file in FILES) == sorted(
        path.relative_to(PROTO).as_posix() for path in PROTO.rglob("*.proto") if "build" not in path.parts
    )


@pytest.mark.parametrize("file", FILES, ids=FILE_IDS)
def test_everything_has_a_comment(file: FileDescriptor) -> None:
    text = (PROTO / file.name).read_text(encoding="utf-8")
    found = list(declarations(text))
    assert sorted(item.name for item in found) == sorted(declared_names(file)), "the reader of comments missed some"
    bare = [item.name for item in found if not item.comment.rstrip().endswith(".")]
    assert not bare, f"without a comment that ends as a sentence: {', '.join(bare)}"
    assert text.startswith("// "), "the file says at its top what it is about"


def test_the_reader_of_comments_sees_a_missing_one() -> None:
    text = "// A.\nmessage A {\n  // B.\n  int32 b = 1;\n  int32 c = 2;\n\n  // Far away.\n\n  int32 d = 3;\n}\n"
    assert [item.name for item in declarations(text) if not item.comment] == ["A.c", "A.d"]


@pytest.mark.parametrize("file", FILES, ids=FILE_IDS)
def test_package_is_the_path(file: FileDescriptor) -> None:
    assert file.package == "cellserve.v1"
    assert file.name.startswith("cellserve/v1/")
    assert re.fullmatch(r"[a-z_]+\.proto", file.name.rpartition("/")[2])
    assert (PROTO / file.name).read_text(encoding="utf-8").count('syntax = "proto3";') == 1


@pytest.mark.parametrize("service", all_services(), ids=lambda service: str(service.name))
def test_each_rpc_has_its_own_request_and_response(service: ServiceDescriptor) -> None:
    assert service.name.endswith("Service")
    for method in service.methods:
        assert re.fullmatch(r"[A-Z][A-Za-z]+", method.name)
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"
        assert method.input_type.file is service.file or method.input_type.file.package == "cellserve.v1"


def test_no_request_or_response_is_left_over() -> None:
    used = {
        message.full_name
        for service in all_services()
        for method in service.methods
        for message in (method.input_type, method.output_type)
    }
    ends = {message.full_name for message in all_messages() if message.name.endswith(("Request", "Response"))}
    assert ends == used


@pytest.mark.parametrize("enum", all_enums(), ids=lambda enum: str(enum.name))
def test_enum_values_have_the_prefix_and_begin_with_unspecified(enum: EnumDescriptor) -> None:
    prefix = snake(enum.name).upper() + "_"
    assert enum.values[0].name == prefix + "UNSPECIFIED"
    assert [value.number for value in enum.values] == list(range(len(enum.values)))
    assert all(value.name.startswith(prefix) for value in enum.values)


@pytest.mark.parametrize("message", all_messages(), ids=lambda message: str(message.name))
def test_messages_and_fields_are_named_by_the_style_guide(message: Descriptor) -> None:
    assert re.fullmatch(r"([A-Z][a-z0-9]+)+", message.name)
    for field in message.fields:
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name), field.full_name
    assert not message.extension_ranges
