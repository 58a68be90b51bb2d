"""The two shapes in which OpenAI's API gives text: messages and plain completions.

A shape makes the objects of one choice; what is around them (`envelope`) is
the same for both but for names.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from treedraft.coordinator.http.calls import call_delta, whole_calls
from treedraft.coordinator.http.logprobs import Tokens, completion_logprobs, message_logprobs
from treedraft.core.session import FinishReason
from treedraft.core.tools import ToolCallPiece
from treedraft.text.token_bytes import TokenBytes

# OpenAI has no word for the third: the client itself cancelled, or its time was up.
_FINISH_WORDS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
}

_TOOL_CALLS = "tool_calls"

Choice = dict[str, Any]
CallPieces = Sequence[ToolCallPiece]


def finish_word(reason: FinishReason, *, has_calls: bool) -> str:
    """Return OpenAI's word for the end of a choice; one that ended by calling says so."""
    return _TOOL_CALLS if has_calls and reason is FinishReason.STOP else _FINISH_WORDS[reason]


class AnswerShape(Protocol):
    """How one of the two APIs writes choices down."""

    id_prefix: str
    object_name: str
    chunk_name: str
    input_name: str

    def opening(self, index: int) -> Choice | None:
        """Return what a stream says of a choice before its text, if anything."""
        ...

    def logprobs(self, tokens: Tokens, words: TokenBytes, offset: int) -> Choice:
        """Return `logprobs` of tokens whose text begins at an offset."""
        ...

    def piece(self, index: int, text: str, calls: CallPieces, extras: Choice) -> Choice:
        """Return what was added to a choice of a stream; only messages have calls."""
        ...

    def ending(self, index: int, finish_reason: str) -> Choice:
        """Return the end of a choice of a stream."""
        ...

    def whole(
        self, index: int, text: str, calls: CallPieces, finish_reason: str, extras: Choice
    ) -> Choice:
        """Return a choice that is complete."""
        ...


class ChatShape:
    """Messages: `/v1/chat/completions`."""

    id_prefix = "chatcmpl-"
    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"
    input_name = "messages"

    def logprobs(self, tokens: Tokens, words: TokenBytes, offset: int) -> Choice:
        """Return entries with bytes; they have no offsets."""
        return message_logprobs(tokens, words)

    def opening(self, index: int) -> Choice | None:
        """Return who is speaking."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, text: str, calls: CallPieces, extras: Choice) -> Choice:
        """Return a delta with text, calls or both."""
        delta: Choice = {"content": text} if text or not calls else {}
        if calls:
            delta["tool_calls"] = [call_delta(call) for call in calls]
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return choice | extras

    def ending(self, index: int, finish_reason: str) -> Choice:
        """Return an empty delta with the reason."""
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason}

    def whole(
        self, index: int, text: str, calls: CallPieces, finish_reason: str, extras: Choice
    ) -> Choice:
        """Return a message; one that is nothing but calls has no content."""
        content = text if text or not calls else None
        message: Choice = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message["tool_calls"] = whole_calls(calls)
        choice = {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return choice | extras


class CompletionShape:
    """Plain text: `/v1/completions`."""

    id_prefix = "cmpl-"
    object_name = "text_completion"
    chunk_name = "text_completion"
    input_name = "prompt"

    def logprobs(self, tokens: Tokens, words: TokenBytes, offset: int) -> Choice:
        """Return lists by kind, with offsets."""
        return completion_logprobs(tokens, words, offset)

    def opening(self, index: int) -> Choice | None:
        """Return nothing: plain text has no opening."""
        return None

    def piece(self, index: int, text: str, calls: CallPieces, extras: Choice) -> Choice:
        """Return text that was added."""
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None}
        return choice | extras

    def ending(self, index: int, finish_reason: str) -> Choice:
        """Return the reason, and no text."""
        return {"index": index, "text": "", "logprobs": None, "finish_reason": finish_reason}

    def whole(
        self, index: int, text: str, calls: CallPieces, finish_reason: str, extras: Choice
    ) -> Choice:
        """Return the text."""
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return choice | extras


CHAT = ChatShape()
COMPLETION = CompletionShape()
