"""Puts a conversation into the words that a chat model was trained on.

A template is a jinja2 program that comes with the model, so it is foreign
code: it runs in jinja2's immutable sandbox and sees plain values only. The
environment (block trimming, `tojson`, `raise_exception`, `strftime_now`, loop
controls, the `generation` tag) is that of transformers'
`apply_chat_template`, and so is the text that comes out.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import ChatMessage
from treedraft.core.tools import Tool

_NUM_CACHED_TEMPLATES = 16
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


def render_chat(
    template: str,
    messages: Sequence[ChatMessage],
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool = True,
    *,
    tools: Sequence[Tool] = (),
    now: Callable[[], datetime] = datetime.now,
) -> str:
    """Return the text of a conversation, ready to be encoded.

    Args:
        template: the model's chat template.
        messages: the conversation so far, oldest message first.
        special_tokens: `bos_token`, `eos_token` and the like, by their names.
        add_generation_prompt: whether to end with the opening of an answer.
        tools: what the model may call, for a template that `knows_tools`.
        now: the clock for templates that tell the model the date.

    Raises:
        InvalidRequestError: reason CHAT_TEMPLATE_FAILED; the template is
            missing or broken, or refuses the conversation (order of roles).
    """
    if not template:
        raise _failure("this model has no chat template: send text or token ids")
    try:
        return _compile(template).render(
            **special_tokens,
            messages=_messages(messages),
            tools=[_tool(tool) for tool in tools] or None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            strftime_now=lambda pattern: now().strftime(pattern),
        )
    except Exception as error:  # a template may fail with anything
        raise _failure(f"the chat template does not take this conversation: {error}") from error


def knows_tools(template: str) -> bool:
    """Return whether a template tells the model which tools there are."""
    try:
        return "tools" in _free_names(template)
    except jinja2.TemplateError:
        return False  # rendering says what is wrong with it


def knows_tool_calls(template: str) -> bool:
    """Return whether a template shows the calls that were made in a conversation."""
    return "tool_calls" in template


@lru_cache(maxsize=_NUM_CACHED_TEMPLATES)
def _free_names(template: str) -> frozenset[str]:
    return frozenset(meta.find_undeclared_variables(_environment().parse(template)))


def _messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    # OpenAI's clients name a result by its call alone; some templates want the tool's name.
    names = {call.call_id: call.name for message in messages for call in message.tool_calls}
    return [_message(message, names.get(message.tool_call_id, "")) for message in messages]


def _message(message: ChatMessage, called: str) -> dict[str, Any]:
    # A key that is not there: templates ask whether it is.
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        told["tool_call_id"] = message.tool_call_id
    if name := message.name or called:
        told["name"] = name
    return told


def _arguments(text: str) -> Any:
    """Return arguments as templates want them: an object, or text that is none."""
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return arguments if isinstance(arguments, dict) else text


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    function["parameters"] = json.loads(tool.parameters) if tool.parameters else _NO_PARAMETERS
    return {"type": "function", "function": function}


def _failure(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="conversation", reason="CHAT_TEMPLATE_FAILED")


@lru_cache(maxsize=_NUM_CACHED_TEMPLATES)
def _compile(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


class _GenerationTag(Extension):
    """`{% generation %}` marks answers for training; here its body passes through."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance variable

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML, which a model has never seen.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
