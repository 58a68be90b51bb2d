"""Tool calls in OpenAI's two forms: piece by piece in a stream, and whole."""

from collections.abc import Sequence
from typing import Any

from treedraft.core.tools import ToolCallPiece


def call_delta(piece: ToolCallPiece) -> dict[str, Any]:
    """Return a piece of a call; the first names it."""
    if not piece.call_id:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.call_id, "type": "function", "function": function}


def whole_calls(pieces: Sequence[ToolCallPiece]) -> list[dict[str, Any]]:
    """Return the calls that pieces make."""
    calls: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        if piece.call_id:
            function = {"name": piece.name, "arguments": ""}
            calls[piece.index] = {"id": piece.call_id, "type": "function", "function": function}
        calls[piece.index]["function"]["arguments"] += piece.arguments
    return list(calls.values())
