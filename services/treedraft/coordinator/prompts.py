"""Turns what a client sent into the token ids that the model continues."""

import asyncio

from treedraft.coordinator.tool_use import check_knows_calls
from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import GenerateQuery
from treedraft.core.model_description import ModelDescription
from treedraft.text.chat_template import render_chat
from treedraft.text.tokenizer import Tokenizer

# Tokenising longer texts takes milliseconds: done on a thread, so that the
# streams of others do not wait for it.
_MAX_INLINE_CHARS = 2000


async def encode_prompt(
    query: GenerateQuery, model: ModelDescription, tokenizer: Tokenizer
) -> tuple[int, ...]:
    """Return the prompt as the model sees it.

    Raises:
        InvalidRequestError: not exactly one input is given (INVALID_INPUT), the
            model has no chat template (NO_CHAT_TEMPLATE), the template has no place
            for calls in the conversation (TOOLS_UNSUPPORTED) or refuses it
            (CHAT_TEMPLATE_FAILED).
    """
    given = [query.text, query.token_ids, query.conversation]
    if sum(part is not None for part in given) != 1:
        raise InvalidRequestError(
            "give exactly one of text, tokens and conversation",
            field="input",
            reason="INVALID_INPUT",
        )
    if query.token_ids is not None:
        return query.token_ids
    if query.conversation is not None:
        text = _render(query, model)
    else:
        text = _begin_text(query.text or "", model)
    if len(text) <= _MAX_INLINE_CHARS:
        return tuple(tokenizer.encode(text))
    return tuple(await asyncio.to_thread(tokenizer.encode, text))


def _render(query: GenerateQuery, model: ModelDescription) -> str:
    if not model.chat_template:
        raise InvalidRequestError(
            f"{model.model} has no chat template: send text or tokens",
            field="conversation",
            reason="NO_CHAT_TEMPLATE",
        )
    if not query.conversation:
        raise InvalidRequestError(
            "the conversation is empty", field="conversation", reason="EMPTY_PROMPT"
        )
    tools = query.tools.tools if query.tools else ()
    if any(message.tool_calls for message in query.conversation):
        check_knows_calls(model)
    return render_chat(model.chat_template, query.conversation, model.special_tokens, tools=tools)


def _begin_text(text: str, model: ModelDescription) -> str:
    # The empty text stays empty: a lone beginning-of-sequence is no prompt.
    if model.adds_bos and text:
        return model.special_tokens.get("bos_token", "") + text
    return text
