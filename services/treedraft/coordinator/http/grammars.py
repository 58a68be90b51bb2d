"""What a text must look like, in the words of OpenAI (`response_format`) and of vLLM."""

import json
import re

from treedraft.coordinator.http.bodies import GenerationBody, ResponseFormat, StructuredOutputs
from treedraft.core.errors import InvalidRequestError
from treedraft.core.grammar import ANY_JSON_OBJECT, Grammar, GrammarKind


def grammar_of(body: GenerationBody) -> Grammar | None:
    """Return the grammar that a body asks for, if it does.

    Raises:
        InvalidRequestError: it asks for two, or for none properly.
    """
    by_format = _of_format(body.response_format) if body.response_format else None
    by_output = _of_outputs(body.structured_outputs) if body.structured_outputs else None
    if by_format is not None and by_output is not None:
        raise InvalidRequestError(
            "give one of response_format and structured_outputs", field="structured_outputs"
        )
    return by_format or by_output


def _of_format(wanted: ResponseFormat) -> Grammar | None:
    if (wanted.type == "json_schema") != (wanted.json_schema is not None):
        raise InvalidRequestError(
            "json_schema goes with the type json_schema", field="response_format.json_schema"
        )
    if wanted.json_schema is not None:
        return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(wanted.json_schema.json_schema))
    return ANY_JSON_OBJECT if wanted.type == "json_object" else None


def _of_outputs(wanted: StructuredOutputs) -> Grammar:
    given: list[Grammar] = []
    if wanted.json_schema is not None:
        schema = wanted.json_schema
        source = schema if isinstance(schema, str) else json.dumps(schema)
        given.append(Grammar(GrammarKind.JSON_SCHEMA, source))
    if wanted.regex is not None:
        given.append(Grammar(GrammarKind.REGEX, wanted.regex))
    if wanted.choice is not None:
        given.append(Grammar(GrammarKind.REGEX, "|".join(map(_literally, wanted.choice))))
    if wanted.grammar is not None:
        given.append(Grammar(GrammarKind.LARK, wanted.grammar))
    if len(given) != 1:
        raise InvalidRequestError(
            "give exactly one of json, regex, choice and grammar", field="structured_outputs"
        )
    return given[0]


def _literally(text: str) -> str:
    # Not `re.escape`, which escapes spaces too: Rust's regex refuses that.
    return re.sub(r"[][\\.^$*+?{}()|/&~#-]", r"\\\g<0>", text)


def grammar_param(body: GenerationBody) -> str:
    """Return the parameter that is to blame for a grammar that cannot be followed."""
    if body.structured_outputs:
        return "structured_outputs"
    return "response_format" if _asks_for_form(body) else "tools"


def _asks_for_form(body: GenerationBody) -> bool:
    return body.response_format is not None and body.response_format.type != "text"
