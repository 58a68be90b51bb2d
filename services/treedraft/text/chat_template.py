"""Puts a conversation into the words that a chat model was trained on.

A template is a jinja2 program that comes with the model, so it is foreign
code: it runs in jinja2's immutable sandbox and sees plain strings only. The
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
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import ChatMessage

_NUM_CACHED_TEMPLATES = 16


def render_chat(
    template: str,
    messages: Sequence[ChatMessage],
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool = True,
    *,
    now: Callable[[], datetime] = datetime.now,
) -> str:
    """Return the text of a conversation, ready to be encoded.

    Args:
        template: the model's chat template.
        messages: the conversation so far, oldest message first.
        special_tokens: `bos_token`, `eos_token` and the like, by their names.
        add_generation_prompt: whether to end with the opening of an answer.
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
            messages=[{"role": item.role, "content": item.content} for item in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            strftime_now=lambda pattern: now().strftime(pattern),
        )
    except Exception as error:  # a template may fail with anything
        raise _failure(f"the chat template does not take this conversation: {error}") from error


def _failure(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="conversation", reason="CHAT_TEMPLATE_FAILED")


@lru_cache(maxsize=_NUM_CACHED_TEMPLATES)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(template)


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
