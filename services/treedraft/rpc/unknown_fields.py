"""Refusing what this version does not know.

protobuf keeps unknown fields and says nothing, so a client that asks a server
of an older version for something new would get an answer that quietly ignores
it. At the door that is an error instead.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from treedraft.core.errors import UnknownFieldError


def reject_unknown_fields(message: Message) -> None:
    """Raise UnknownFieldError if a message, or one inside it, has unknown fields.

    The error's `field` is the path to it, ending in the field's number, for
    example `sampling.#17`.
    """
    _reject(message, "")


def _reject(message: Message, path: str) -> None:
    unknown = UnknownFieldSet(message)
    if len(unknown):
        place = f"{path}#{unknown[0].field_number}"
        raise UnknownFieldError(f"the field {place} is not known here", field=place)
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in _messages_of(value):
                _reject(child, f"{path}{field.name}.")


def _messages_of(value: Any) -> Iterator[Message]:
    if isinstance(value, Message):
        yield value
    else:
        # Maps of scalars have no messages inside; what they do not know, they drop.
        items = value.values() if hasattr(value, "values") else value
        yield from (item for item in items if isinstance(item, Message))
