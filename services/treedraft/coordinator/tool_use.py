"""Tools in a request: what they do to the law of its text, and how calls are read out of that.

The template tells the model of the tools and the model answers in its own format;
both doors get text and calls apart. Calls that must be made, or must fit their
schemas, are made so by a grammar, like any other form of a text.
"""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.text_output import TextOutput
from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import Delta, GenerateEvent, GenerateQuery, Started
from treedraft.core.model_description import ModelDescription
from treedraft.core.sampling import StoppingCriteria
from treedraft.core.tools import ToolOffer
from treedraft.text.chat_template import knows_tool_calls, knows_tools
from treedraft.text.tokenizer import Tokenizer
from treedraft.text.tool_formats.format import ToolFormat
from treedraft.text.tool_formats.formats import format_of

TOOLS_UNSUPPORTED = "TOOLS_UNSUPPORTED"
TOOLS_CONFLICT = "TOOLS_CONFLICT"


def check_knows_calls(model: ModelDescription) -> None:
    """Raise unless the model can be shown calls that were made: TOOLS_UNSUPPORTED."""
    if not knows_tool_calls(model.chat_template):
        raise InvalidRequestError(
            f"the chat template of {model.model} has no place for tool calls",
            field="conversation",
            reason=TOOLS_UNSUPPORTED,
        )


class ToolUse:
    """The tools of one request, at the model that it asks."""

    def __init__(self, query: GenerateQuery, offer: ToolOffer, known: KnownModel) -> None:
        """Prepare to serve a query with its tools.

        Raises:
            InvalidRequestError: TOOLS_UNSUPPORTED, the model does not call tools or writes
                calls in no format known; TOOLS_CONFLICT, something else does not go with them.
        """
        if query.conversation is None:
            raise InvalidRequestError(
                "tools go with a conversation", field="tools", reason=TOOLS_CONFLICT
            )
        self._offer = offer
        self._known = known
        self._format = _format_of(known.description)
        self._stopping = query.stopping
        self._query = self._bound(query)

    @property
    def query(self) -> GenerateQuery:
        """The query, with the law that the tools ask for."""
        return self._query

    def _bound(self, query: GenerateQuery) -> GenerateQuery:
        sampling = query.sampling
        if sampling.grammar is not None:
            raise InvalidRequestError(
                "a form of the text does not go with tools that may be called",
                field="grammar",
                reason=TOOLS_CONFLICT,
            )
        if not self._offer.is_bound:
            return query
        description, tokenizer = self._known.description, self._known.tokenizer
        grammar = self._format.grammar(
            self._offer, tokenizer.token_to_id, description.chat_template
        )
        return replace(query, sampling=replace(sampling, grammar=grammar))

    async def read(
        self, events: AsyncGenerator[GenerateEvent, None]
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Yield the events of the answer, with text and calls told apart."""
        text = _AnswerText(self._format, self._offer, self._known.tokenizer, self._stopping)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    text.begin(event.session_id)
                    yield event
                elif isinstance(event, Delta):
                    yield text.take(event)
                else:
                    closing = text.finish()
                    if closing.text or closing.tool_calls:
                        yield closing
                    yield event


class _AnswerText:
    """The text of one answer, read from its tokens: markers of calls may be special ones."""

    def __init__(
        self,
        tool_format: ToolFormat,
        offer: ToolOffer,
        tokenizer: Tokenizer,
        stopping: StoppingCriteria,
    ) -> None:
        self._format = tool_format
        self._session_id = ""
        self._num_tokens = 0
        self._output = TextOutput(
            tokenizer,
            stopping.stop_strings,
            min_tokens=stopping.min_tokens,
            marks=_marks(tool_format, tokenizer),
        )
        self._reader = tool_format.reader(offer.names, self._new_id)

    def begin(self, session_id: str) -> None:
        """Note the session: ids of calls are made of it, so who asks again gets the same."""
        self._session_id = session_id

    def _new_id(self, index: int) -> str:
        return self._format.call_id(hashlib.sha256(f"{self._session_id}/{index}".encode()).digest())

    def take(self, delta: Delta) -> Delta:
        """Return a delta with its text read anew."""
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


def _format_of(model: ModelDescription) -> ToolFormat:
    if not knows_tools(model.chat_template):
        raise InvalidRequestError(
            f"{model.model} calls no tools: its chat template does not know them",
            field="tools",
            reason=TOOLS_UNSUPPORTED,
        )
    found = format_of(model.chat_template)
    if found is None:
        raise InvalidRequestError(
            f"{model.model} writes its tool calls in a format that is not known here",
            field="tools",
            reason=TOOLS_UNSUPPORTED,
        )
    return found


def without_idle_tools(query: GenerateQuery) -> GenerateQuery:
    """Return the query without tools that must not be called: the model is not told of them."""
    return query if query.may_call else replace(query, tools=None)
