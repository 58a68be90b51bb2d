"""Tools that may be called, and calls."""

from collections.abc import Iterable

from treedraft.core.tools import Tool, ToolCall, ToolCallPiece, ToolChoice, ToolOffer
from treedraft.rpc.convert.numbers import enum_from_proto
from treedraft.v1 import coordinator_service_pb2 as pb2

_CHOICE_TO_PROTO = {
    ToolChoice.AUTO: pb2.TOOL_CHOICE_AUTO,
    ToolChoice.NONE: pb2.TOOL_CHOICE_NONE,
    ToolChoice.REQUIRED: pb2.TOOL_CHOICE_REQUIRED,
}
_CHOICE_FROM_PROTO = {
    pb2.TOOL_CHOICE_UNSPECIFIED: ToolChoice.AUTO,
    **{number: choice for choice, number in _CHOICE_TO_PROTO.items()},
}


def offer_to_proto(offer: ToolOffer) -> pb2.ToolOffer:
    """Return the wire form of an offer."""
    return pb2.ToolOffer(
        tools=[
            pb2.Tool(
                name=tool.name,
                description=tool.description,
                parameters=tool.parameters,
                is_strict=tool.is_strict,
            )
            for tool in offer.tools
        ],
        choice=_CHOICE_TO_PROTO[offer.choice],
        name=offer.name,
        is_parallel=None if offer.is_parallel else False,
    )


def offer_from_proto(message: pb2.ToolOffer) -> ToolOffer:
    """Return an offer.

    Raises:
        InvalidRequestError: a tool is none, or one is to be called that is not there.
    """
    return ToolOffer(
        tools=tuple(
            Tool(tool.name, tool.description, tool.parameters, tool.is_strict)
            for tool in message.tools
        ),
        choice=enum_from_proto(message.choice, _CHOICE_FROM_PROTO, "tools"),
        name=message.name,
        is_parallel=message.is_parallel if message.HasField("is_parallel") else True,
    )


def calls_to_proto(calls: Iterable[ToolCall]) -> list[pb2.ToolCall]:
    """Return the wire form of calls."""
    return [
        pb2.ToolCall(call_id=call.call_id, name=call.name, arguments=call.arguments)
        for call in calls
    ]


def calls_from_proto(messages: Iterable[pb2.ToolCall]) -> tuple[ToolCall, ...]:
    """Return calls."""
    return tuple(ToolCall(item.call_id, item.name, item.arguments) for item in messages)


def pieces_to_proto(pieces: Iterable[ToolCallPiece]) -> list[pb2.ToolCallPiece]:
    """Return the wire form of pieces of calls."""
    return [
        pb2.ToolCallPiece(
            index=piece.index, call_id=piece.call_id, name=piece.name, arguments=piece.arguments
        )
        for piece in pieces
    ]


def pieces_from_proto(messages: Iterable[pb2.ToolCallPiece]) -> tuple[ToolCallPiece, ...]:
    """Return pieces of calls."""
    return tuple(
        ToolCallPiece(item.index, item.arguments, item.call_id, item.name) for item in messages
    )
