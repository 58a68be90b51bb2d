"""Reads the calls out of an answer, so that both doors get text and calls apart.

Targets, drafters and the session log know nothing of tools: they have tokens. The
store keeps the tools' names, so that an answer that is resumed is read as it was.
"""

import hashlib
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import replace

from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.text_output import TextOutput
from treedraft.core.generation import Delta, GenerateEvent, Started
from treedraft.core.sampling import StoppingCriteria
from treedraft.telemetry.metrics import Metrics
from treedraft.text.tokenizer import Tokenizer
from treedraft.text.tool_formats.format import ToolFormat
from treedraft.text.tool_formats.formats import ToolFormats


def with_calls_read(
    events: AsyncGenerator[GenerateEvent, None],
    tool_names: Collection[str],
    known: KnownModel,
    stopping: StoppingCriteria,
    formats: ToolFormats,
    metrics: Metrics | None = None,
) -> AsyncGenerator[GenerateEvent, None]:
    """Return the events of an answer that may call these tools; without tools, as they are.

    What it called is counted in `metrics` at its end.
    """
    model = known.description
    tool_format = formats.find(model.model, model.chat_template) if tool_names else None
    if tool_format is None:
        return events
    text = AnswerText(tool_format, tool_names, known.tokenizer, stopping)
    return _read(events, text, metrics)


async def _read(
    events: AsyncGenerator[GenerateEvent, None], text: "AnswerText", metrics: Metrics | None
) -> AsyncGenerator[GenerateEvent, None]:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Started):
                text.begin(event.session_id)
                yield event
            elif isinstance(event, Delta):
                yield text.take(event)
            else:
                closing = text.finish()
                if metrics is not None:
                    metrics.calls_read(text.num_calls, text.num_malformed)
                if closing.text or closing.tool_calls:
                    yield closing
                yield replace(event, has_tool_calls=text.has_calls)


class AnswerText:
    """The text of one answer, read from its tokens: markers of calls may be special ones."""

    def __init__(
        self,
        tool_format: ToolFormat,
        tool_names: Collection[str],
        tokenizer: Tokenizer,
        stopping: StoppingCriteria,
    ) -> None:
        """Begin before the first token."""
        self._format = tool_format
        self._session_id = ""
        self._num_tokens = 0
        self._output = TextOutput(
            tokenizer,
            stopping.stop_strings,
            min_tokens=stopping.min_tokens,
            marks=_marks(tool_format, tokenizer),
        )
        self._reader = tool_format.reader(tool_names, self._new_id)

    @property
    def has_calls(self) -> bool:
        """Whether something was called."""
        return self._reader.has_calls

    @property
    def num_calls(self) -> int:
        """How many calls have been told."""
        return self._reader.num_calls

    @property
    def num_malformed(self) -> int:
        """How many calls are none after all, or have arguments that are no whole JSON."""
        return self._reader.num_malformed

    def begin(self, session_id: str) -> None:
        """Note the session: ids of calls are made of it, so who asks again gets the same."""
        self._session_id = session_id

    def _new_id(self, index: int) -> str:
        return self._format.call_id(hashlib.sha256(f"{self._session_id}/{index}".encode()).digest())

    def take(self, delta: Delta) -> Delta:
        """Return a delta with its text read anew; what the client holds is read and not told."""
        self._reader.push(self._output.push(delta.held_token_ids))
        self._num_tokens = delta.base_length + len(delta.token_ids)
        text, calls = self._reader.push(self._output.push(delta.token_ids))
        return replace(delta, text=text, text_sources=(), tool_calls=calls)

    def finish(self) -> Delta:
        """Return what was kept back."""
        content, pieces = self._reader.push(self._output.finish())
        rest, last = self._reader.finish()
        return Delta(self._num_tokens, (), (), content + rest, tool_calls=(*pieces, *last))


def _marks(tool_format: ToolFormat, tokenizer: Tokenizer) -> dict[int, str]:
    """Return the markers that a text would be without: special tokens."""
    ids = {tokenizer.token_to_id(text): text for text in tool_format.markers}
    return {
        token_id: text
        for token_id, text in ids.items()
        if token_id is not None and not tokenizer.decode([token_id])
    }
