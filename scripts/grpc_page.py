"""The reference of the gRPC API, made from the protos and their comments."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

PROTOS = Path(__file__).resolve().parent.parent / "protos"
PACKAGE = ".treedraft.v1."
# Field numbers of descriptor.proto, by which comments are found.
MESSAGE, ENUM, SERVICE = 4, 5, 6
FIELD, NESTED, NESTED_ENUM, ONEOF, METHOD, VALUE = 2, 3, 4, 8, 2, 2

INTRODUCTION = """\
<!-- Made from protos/ by `make docs`. -->
# gRPC API

The contracts are in [protos/treedraft/v1](../../protos/treedraft/v1); this page is made from
them. Clients need `CoordinatorService` alone. All services answer to the standard health service
and, unless told otherwise, to reflection.

A failed call carries `google.rpc.ErrorInfo` with a stable `reason` in upper case (domain
`treedraft`), `RetryInfo` where waiting helps, and `BadRequest` where a field is to blame.

A client in a few lines:

```python
import grpc
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1.coordinator_service_pb2_grpc import CoordinatorServiceStub

with grpc.insecure_channel("127.0.0.1:50050") as channel:
    request = pb.GenerateRequest(text="Leaves turn red because")
    for response in CoordinatorServiceStub(channel).Generate(request):
        print(response.delta.text, end="", flush=True)
```
"""


def grpc_page() -> str:
    """Return docs/api/grpc.md."""
    parts = [INTRODUCTION]
    # What clients need comes first.
    files = sorted(
        read_protos().file,
        key=lambda file: (not file.service, "coordinator" not in file.name, file.name),
    )
    for file in files:
        if file.package == PACKAGE.strip("."):
            parts.extend(Page(file).lines())
    return "".join(parts)


def read_protos() -> FileDescriptorSet:
    """Return the descriptors of all protos, with their comments."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "descriptors"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}"]
        options = ["--include_source_info", f"--descriptor_set_out={output}"]
        subprocess.run([*command, *options, *sources], check=True)
        return FileDescriptorSet.FromString(output.read_bytes())


class Page:
    """The part of the reference that one file makes."""

    def __init__(self, file: FileDescriptorProto) -> None:
        """Remember where the comments of a file are."""
        self.file = file
        self.comments = {
            tuple(place.path): place.leading_comments for place in file.source_code_info.location
        }

    def lines(self) -> Iterator[str]:
        """Yield services first, then messages, then enums."""
        yield f"\n## {Path(self.file.name).name}\n"
        for index, service in enumerate(self.file.service):
            path = (SERVICE, index)
            yield f"\n### {service.name}\n\n{self.comment(path)}\n\n"
            yield "| call | request | response | |\n| --- | --- | --- | --- |\n"
            for number, method in enumerate(service.method):
                yield self.call(method, (*path, METHOD, number))
        for index, message in enumerate(self.file.message_type):
            yield from self.message(message, message.name, (MESSAGE, index))
        for index, enum in enumerate(self.file.enum_type):
            yield from self.enum(enum, enum.name, (ENUM, index))

    def comment(self, path: tuple[int, ...]) -> str:
        """Return the comment above a place, in one line."""
        return " ".join(self.comments.get(path, "").split()).replace("|", "\\|")

    def call(self, method: MethodDescriptorProto, path: tuple[int, ...]) -> str:
        """Return the line of one call."""
        request = ("stream of " if method.client_streaming else "") + linked(method.input_type)
        response = ("stream of " if method.server_streaming else "") + linked(method.output_type)
        return f"| `{method.name}` | {request} | {response} | {self.comment(path)} |\n"

    def message(self, message: DescriptorProto, name: str, path: tuple[int, ...]) -> Iterator[str]:
        """Yield a message, then those inside it."""
        yield f"\n#### {name}\n\n{self.comment(path)}\n"
        if message.field:
            yield "\n| field | type | |\n| --- | --- | --- |\n"
        for index, field in enumerate(message.field):
            text = self.comment((*path, FIELD, index))
            yield f"| `{field.name}` = {field.number} | {kind(field, message)} | {text} |\n"
        for index, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self.message(nested, f"{name}.{nested.name}", (*path, NESTED, index))
        for index, enum in enumerate(message.enum_type):
            yield from self.enum(enum, f"{name}.{enum.name}", (*path, NESTED_ENUM, index))

    def enum(self, enum: EnumDescriptorProto, name: str, path: tuple[int, ...]) -> Iterator[str]:
        """Yield an enum."""
        yield f"\n#### {name}\n\n{self.comment(path)}\n\n| value | |\n| --- | --- |\n"
        for index, value in enumerate(enum.value):
            yield f"| `{value.name}` = {value.number} | {self.comment((*path, VALUE, index))} |\n"


def kind(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """Return the type of a field in words."""
    name = (
        linked(field.type_name) if field.type_name else FieldDescriptorProto.Type.Name(field.type)
    )
    words = name.removeprefix("TYPE_").lower() if not field.type_name else name
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {words}"
    if field.proto3_optional:
        return f"optional {words}"
    if field.HasField("oneof_index"):
        return f"{words}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return words


def linked(type_name: str) -> str:
    """Return the name of a type, with a link where it is one of ours."""
    if not type_name.startswith(PACKAGE):
        return f"`{type_name.strip('.')}`"
    name = type_name.removeprefix(PACKAGE)
    return f"[{name}](#{name.lower().replace('.', '')})"
