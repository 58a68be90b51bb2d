"""An answer as server-sent events.

Every frame is one line `data: {json}` and an empty one. A frame is written for
each piece of text as it comes; pieces without text (half a character, what may
become a stop string) wait for the next one. An error ends the stream with a
frame of its own; `[DONE]` is the last word either way.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from treedraft.coordinator.http.answers import AnswerState, ChoiceState, IndexedEvent
from treedraft.coordinator.http.errors import to_http
from treedraft.coordinator.http.shapes import Choice
from treedraft.core.errors import TreedraftError
from treedraft.core.generation import Delta, Started

DONE = b"data: [DONE]\n\n"


def frame(content: dict[str, Any], event_id: str = "") -> bytes:
    """Return one event."""
    name = f"id: {event_id}\n".encode() if event_id else b""
    return name + b"data: " + _encode(content) + b"\n\n"


def _encode(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


class AnswerStream:
    """Writes the events of an answer as frames."""

    def __init__(self, state: AnswerState) -> None:
        """Begin with a fresh state."""
        self._state = state
        self._envelope: dict[str, Any] = {}

    async def frames(
        self, events: AsyncGenerator[IndexedEvent, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the frames of the whole stream; an error becomes the last of them."""
        try:
            async with aclosing(events):
                async for index, event in events:
                    content = self._write(index, event)
                    if content:
                        yield content
            if self._state.options.has_usage:
                yield frame(self._summary())
        except TreedraftError as error:
            yield frame(to_http(error, self._state.shape.input_name).body)
        yield DONE

    def _write(self, index: int, event: Any) -> bytes:
        state = self._state
        choice = state.take(index, event)
        if isinstance(event, Started):
            if not self._envelope:
                self._envelope = state.envelope(state.shape.chunk_name)
            return self._open(index, event)
        if isinstance(event, Delta):
            if state.options.is_resumable:
                choice.event_ids.take(event)
            if not event.token_ids and state.options.has_closing_text:
                return b""
            tells_tokens = state.options.has_token_ids or state.options.has_logprobs
            is_wanted = event.text or event.tool_calls or (tells_tokens and event.token_ids)
            return self._chunk(self._piece(choice, event)) if is_wanted else b""
        return self._chunk(state.shape.ending(index, choice.finish_word))

    def _open(self, index: int, started: Started) -> bytes:
        shape, written = self._state.shape, b""
        opening = shape.opening(index)
        if opening is not None and not self._state.options.is_resumed:
            if self._state.options.has_token_ids:
                opening["prompt_token_ids"] = list(started.prompt_token_ids)
            written = self._chunk(opening)
        prompt_texts = self._state.words.prompt_texts
        if prompt_texts:
            written += self._chunk(shape.piece(index, prompt_texts[index], (), {}))
        return written

    def _piece(self, choice: ChoiceState, delta: Delta) -> Choice:
        extras = self._state.extras(choice, delta.token_ids, delta.sources, delta.logprobs)
        return self._state.shape.piece(choice.index, delta.text, delta.tool_calls, extras)

    def _chunk(self, choice: Choice) -> bytes:
        content = {**self._envelope, "choices": [choice]}
        options = self._state.options
        if options.has_continuous_usage:
            content["usage"] = self._state.usage()
        elif options.has_usage:
            content["usage"] = None
        return frame(content, self._state.choices[choice["index"]].event_ids.current)

    def _summary(self) -> dict[str, Any]:
        state = self._state
        counts = {"usage": state.usage(), "metrics": state.metrics()}
        return {**self._envelope, "choices": [], **counts}
