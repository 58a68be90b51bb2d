"""What calls look like, as a grammar that holds a model to the schemas of its tools.

The grammar is llguidance's Lark. Each schema stands in it whole, so that references
inside of it keep their root; the frame around it is literal. A text that may call or
not is free up to the words that open a call.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from treedraft.core.grammar import Grammar, GrammarKind
from treedraft.core.tools import Tool, ToolOffer
from treedraft.text.grammar import JSON_STYLE, schema_of

TokenIds = Callable[[str], int | None]
"""Gives the id of a token by how the vocabulary writes it."""

_ANY_ARGUMENTS = {"type": "object"}
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class CallFrame:
    """What stands around calls, in parts of the grammar (see `literal` and `marker`).

    `opening` is before the first call, `between` before each other one, `closing` after
    the last. `before_arguments` makes of a tool's name what comes before the arguments.
    `lead` is a free text up to and with the opening, and `rules` are the rules that it
    needs, FREE among them: a text without calls.
    """

    opening: str
    between: str
    closing: str
    before_arguments: Callable[[str], str]
    after_arguments: str
    lead: str
    rules: str


def literal(text: str) -> str:
    """Return a part that is this text."""
    return _json(text)


def marker(text: str, token_ids: TokenIds) -> str:
    """Return a part that is this token, or this text where there is no such token."""
    token_id = token_ids(text)
    return literal(text) if token_id is None else f"<[{token_id}]>"


def json_head(arguments: str) -> Callable[[str], str]:
    """Return `before_arguments` of calls that are JSON objects.

    Args:
        arguments: the key that holds them.
    """
    return lambda name: literal(f'{{"name": "{name}", "{arguments}": ')


def free_until(text: str, pattern: str, token_ids: TokenIds) -> tuple[str, str]:
    """Return `lead` and `rules` of texts in which a marker opens the calls.

    Args:
        text: the marker.
        pattern: the marker as a regular expression.
        token_ids: whether it is one token.
    """
    free = rf"FREE: /(.|\n)*/ & ~/(.|\n)*{pattern}(.|\n)*/"
    if token_ids(text) is not None:
        return f"FREE {marker(text, token_ids)}", free
    return "lead", f"{free}\nlead[suffix={literal(text)}]: /(.|\\n)*/"


def calls_grammar(offer: ToolOffer, frame: CallFrame, content: Grammar | None = None) -> Grammar:
    """Return the grammar of the answers to an offer.

    Args:
        offer: the tools, and whether they must be called.
        frame: how the model writes calls.
        content: JSON that an answer without calls must be; None leaves it free.

    Raises:
        InvalidRequestError: INVALID_GRAMMAR, the form is no schema.
    """
    tools = [tool for tool in offer.tools if offer.name in ("", tool.name)]
    more = f"({frame.between} call){{0,{offer.max_calls - 1}}}" if offer.max_calls > 1 else ""
    calls = f"call {more} {frame.closing}"
    if offer.is_forced:
        rules = [f"start: {frame.opening} {calls}"]
    elif content is not None:
        rules = [f"start: content | {frame.opening} {calls}"]
        form = {"x-guidance": JSON_STYLE, **schema_of(content)}
        rules.append(f"content: %json {_json(form)}")
    else:
        rules = [f"start: FREE | {frame.lead} {calls}", frame.rules]
    rules.append("call: " + " | ".join(f"call_{index}" for index in range(len(tools))))
    for index, tool in enumerate(tools):
        before = frame.before_arguments(tool.name)
        arguments = f"%json {_schema(tool, is_forced=offer.is_forced)}"
        rules.append(f"call_{index}: {before} {arguments} {frame.after_arguments}")
    return Grammar(GrammarKind.LARK, "\n".join(rules))


def _schema(tool: Tool, *, is_forced: bool) -> str:
    schema: dict[str, object] = {}
    if is_forced or tool.is_strict:
        schema = json.loads(tool.parameters) if tool.parameters else _NO_ARGUMENTS
    # Without `strict`, a keyword that cannot be followed is passed over, as OpenAI's API does.
    options = {**JSON_STYLE, "lenient": not tool.is_strict}
    return _json({"x-guidance": options, **_ANY_ARGUMENTS, **schema})


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
