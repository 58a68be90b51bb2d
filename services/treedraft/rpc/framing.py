"""Frames that fit into a message.

All sessions of a stream share its frames, and gRPC ends a stream at the first
message over the limit. So a frame that is too large for one message travels as
several, which means the same since a frame is only a bundle; and what does not
fit by itself is refused before it is written, with the stream unharmed.
"""

from typing import TypeVar

from google.protobuf.message import Message

from treedraft.core.errors import InvalidRequestError
from treedraft.rpc.errors import MESSAGE_TOO_LARGE

AnyFrame = TypeVar("AnyFrame", bound=Message)

# Tag and length of a repeated element, or a whole number in a packed field.
_MAX_OVERHEAD_BYTES = 16


def split_frame(message: AnyFrame, max_bytes: int) -> list[AnyFrame]:
    """Return messages of at most `max_bytes` that together say the same.

    Repeated fields are spread in the order of their numbers, each in its own
    order; all other fields are in the first message.

    Raises:
        InvalidRequestError: reason MESSAGE_TOO_LARGE, for an element that no
            message can hold.
    """
    if message.ByteSize() <= max_bytes:
        return [message]
    parts = [type(message)()]
    repeated = [(field.name, value) for field, value in message.ListFields() if field.is_repeated]
    parts[0].CopyFrom(message)
    for name, _ in repeated:
        parts[0].ClearField(name)
    size = parts[0].ByteSize() + _MAX_OVERHEAD_BYTES
    for name, elements in repeated:
        for element in elements:
            added = _MAX_OVERHEAD_BYTES
            added += element.ByteSize() if isinstance(element, Message) else 0
            if size + added > max_bytes:
                parts.append(type(message)())
                size = 0
            if added > max_bytes:
                raise _too_large(name, added, max_bytes)
            getattr(parts[-1], name).append(element)
            size += added
    return parts


def _too_large(name: str, num_bytes: int, max_bytes: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"an element of {name} takes {num_bytes} bytes, a message holds {max_bytes}",
        field=name,
        reason=MESSAGE_TOO_LARGE,
    )
