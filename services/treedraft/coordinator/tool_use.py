"""Tools in a request: what they do to the law of its text.

The template tells the model of the tools, and the model answers in its own format
(`tool_reading`). Calls that must be made, or must fit their schemas, are made so by
a grammar, like any other form of a text.
"""

from dataclasses import replace

from treedraft.coordinator.catalog import KnownModel
from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import GenerateQuery
from treedraft.core.grammar import GrammarKind
from treedraft.core.model_description import ModelDescription
from treedraft.core.tools import TOOLS_CONFLICT, ToolOffer
from treedraft.text.chat_template import knows_tool_calls, knows_tools
from treedraft.text.tool_formats.format import ToolFormat
from treedraft.text.tool_formats.formats import ToolFormats

TOOLS_UNSUPPORTED = "TOOLS_UNSUPPORTED"


def without_idle_tools(query: GenerateQuery) -> GenerateQuery:
    """Return the query without tools that must not be called: the model is not told of them."""
    return query if query.may_call else replace(query, tools=None)


def bound_by_tools(
    query: GenerateQuery, offer: ToolOffer, known: KnownModel, formats: ToolFormats
) -> GenerateQuery:
    """Return the query with the law that its tools ask for.

    Raises:
        InvalidRequestError: TOOLS_UNSUPPORTED, the model does not call tools or writes
            calls in no format known; TOOLS_CONFLICT, something else does not go with them.
    """
    if query.conversation is None:
        raise _conflict("tools go with a conversation", "tools")
    content = query.sampling.grammar
    if content is not None and content.kind is not GrammarKind.JSON_SCHEMA:
        raise _conflict("of all forms of a text, JSON alone goes with tools", "grammar")
    tool_format = _format_of(known.description, formats)
    if not offer.is_bound and content is None:
        return query
    template = known.description.chat_template
    grammar = tool_format.grammar(offer, known.tokenizer.token_to_id, template, content)
    return replace(query, sampling=replace(query.sampling, grammar=grammar))


def check_knows_calls(model: ModelDescription) -> None:
    """Raise unless the model can be shown calls that were made: TOOLS_UNSUPPORTED."""
    if not knows_tool_calls(model.chat_template):
        raise _unsupported(
            f"the chat template of {model.model} has no place for tool calls", "conversation"
        )


def _format_of(model: ModelDescription, formats: ToolFormats) -> ToolFormat:
    if not knows_tools(model.chat_template):
        raise _unsupported(f"{model.model} calls no tools: its chat template does not know them")
    found = formats.find(model.model, model.chat_template)
    if found is None:
        raise _unsupported(
            f"{model.model} writes its tool calls in a format that is not known here"
        )
    return found


def _unsupported(message: str, field: str = "tools") -> InvalidRequestError:
    return InvalidRequestError(message, field=field, reason=TOOLS_UNSUPPORTED)


def _conflict(message: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(message, field=field, reason=TOOLS_CONFLICT)
