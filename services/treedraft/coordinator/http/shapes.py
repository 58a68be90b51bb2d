"""The two shapes in which OpenAI's API gives text: messages and plain completions.

A shape makes the objects of one choice; what is around them (`envelope`) is
the same for both but for names.
"""

from typing import Any, Protocol

from treedraft.coordinator.http.logprobs import Tokens, completion_logprobs, message_logprobs
from treedraft.core.session import FinishReason
from treedraft.text.token_bytes import TokenBytes

# OpenAI has no word for the third: the client itself cancelled, or its time was up.
FINISH_WORDS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
}

Choice = dict[str, Any]


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

    def piece(self, index: int, text: str, extras: Choice) -> Choice:
        """Return text that was added to a choice of a stream."""
        ...

    def ending(self, index: int, reason: FinishReason) -> Choice:
        """Return the end of a choice of a stream."""
        ...

    def whole(self, index: int, text: str, reason: FinishReason, extras: Choice) -> Choice:
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

    def piece(self, index: int, text: str, extras: Choice) -> Choice:
        """Return a delta with text."""
        delta = {"content": text}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return choice | extras

    def ending(self, index: int, reason: FinishReason) -> Choice:
        """Return an empty delta with the reason."""
        word = FINISH_WORDS[reason]
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": word}

    def whole(self, index: int, text: str, reason: FinishReason, extras: Choice) -> Choice:
        """Return a message."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": FINISH_WORDS[reason],
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

    def piece(self, index: int, text: str, extras: Choice) -> Choice:
        """Return text that was added."""
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None}
        return choice | extras

    def ending(self, index: int, reason: FinishReason) -> Choice:
        """Return the reason, and no text."""
        word = FINISH_WORDS[reason]
        return {"index": index, "text": "", "logprobs": None, "finish_reason": word}

    def whole(self, index: int, text: str, reason: FinishReason, extras: Choice) -> Choice:
        """Return the text."""
        word = FINISH_WORDS[reason]
        return {"index": index, "text": text, "logprobs": None, "finish_reason": word} | extras


CHAT = ChatShape()
COMPLETION = CompletionShape()
