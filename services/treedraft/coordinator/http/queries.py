"""Turns a checked body into the queries that it stands for, one per choice."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from treedraft.coordinator.http.bodies import (
    MAX_PROMPTS,
    ChatBody,
    CompletionBody,
    GenerationBody,
    TokenIds,
)
from treedraft.coordinator.http.conversations import conversation_of, offer_of
from treedraft.coordinator.http.grammars import grammar_of
from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import GenerateQuery
from treedraft.core.sampling import (
    SamplingParameters,
    SpeculationOptions,
    StoppingCriteria,
    Verification,
)

_UNSIGNED = 2**64
_LAWS = (
    *("temperature", "top_p", "min_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


def chat_queries(body: ChatBody) -> list[GenerateQuery]:
    """Return the queries of a chat completion.

    Raises:
        InvalidRequestError: a value is out of range, or two of them disagree.
    """
    given = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(given) > 1:
        raise InvalidRequestError(
            "max_tokens and max_completion_tokens mean the same; give one", field="max_tokens"
        )
    query = replace(
        _query(body, given.pop() if given else None),
        conversation=conversation_of(body),
        num_logprobs=_num_logprobs(body),
        tools=offer_of(body),
    )
    return _choices([query], body)


def repeatable(queries: Sequence[GenerateQuery], key: str) -> list[GenerateQuery]:
    """Return queries that mean the same sessions whenever they are made under this key.

    Each choice has a key of its own, and a seed that is the same for all and each time.

    Raises:
        InvalidRequestError: IDEMPOTENCY_KEY_TOO_LONG.
    """
    keyed = [replace(query, idempotency_key=key) for query in queries]
    if not key or len(keyed) == 1:
        return keyed
    seed = int.from_bytes(hashlib.sha256(f"seed of {key}".encode()).digest()[:8], "little")
    return [
        replace(
            query,
            idempotency_key=hashlib.sha256(f"{index} of {key}".encode()).hexdigest(),
            sampling=replace(
                query.sampling,
                seed=seed if query.sampling.seed is None else query.sampling.seed,
            ),
        )
        for index, query in enumerate(keyed)
    ]


def completion_queries(body: CompletionBody) -> list[GenerateQuery]:
    """Return the queries of a completion, prompt by prompt; raises as `chat_queries`."""
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise InvalidRequestError(
            "best_of other than n is not served here",
            field="best_of",
            reason="UNSUPPORTED_PARAMETER",
        )
    if body.echo and body.logprobs is not None:
        raise InvalidRequestError(
            "log-probabilities of a prompt are not told: logprobs without echo, please",
            field="logprobs",
            reason="UNSUPPORTED_PARAMETER",
        )
    query = replace(_query(body, body.max_tokens), num_logprobs=body.logprobs)
    return _choices(_prompted(query, body.prompt), body)


def _num_logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequestError("top_logprobs without logprobs", field="top_logprobs")
    return None


def _prompted(
    query: GenerateQuery, prompt: str | TokenIds | list[str] | list[TokenIds]
) -> list[GenerateQuery]:
    """Return the query for each of the prompts, in any of the four forms of them."""
    if isinstance(prompt, str):
        return [replace(query, text=prompt)]
    prompts: list[GenerateQuery] = []
    token_ids: list[int] = []
    for item in prompt:
        if isinstance(item, int):
            token_ids.append(item)
        elif isinstance(item, str):
            prompts.append(replace(query, text=item))
        else:
            prompts.append(replace(query, token_ids=tuple(item)))
    if len(prompts) > MAX_PROMPTS:
        raise InvalidRequestError(f"at most {MAX_PROMPTS} prompts", field="input")
    return prompts or [replace(query, token_ids=tuple(token_ids))]


def _choices(queries: list[GenerateQuery], body: GenerationBody) -> list[GenerateQuery]:
    return [replace(query, choice=choice) for query in queries for choice in range(body.n or 1)]


def _query(body: GenerationBody, max_tokens: int | None) -> GenerateQuery:
    options = body.stream_options
    if options is not None and not body.stream:
        raise InvalidRequestError("stream_options without stream", field="stream_options")
    return GenerateQuery(
        model=body.model or "",
        sampling=_sampling(body),
        stopping=_stopping(body, max_tokens),
        speculation=_speculation(body),
    )


def _sampling(body: GenerationBody) -> SamplingParameters:
    given = {name: value for name in _LAWS if (value := getattr(body, name)) is not None}
    return SamplingParameters(
        **given,
        top_k=max(0, body.top_k or 0),
        logit_bias=_logit_bias(body.logit_bias or {}),
        grammar=grammar_of(body),
        seed=None if body.seed is None else body.seed % _UNSIGNED,
        verification=Verification(body.verification or "coupled"),
    )


def _logit_bias(bias: dict[str, float]) -> tuple[tuple[int, float], ...]:
    try:
        return tuple((int(token_id), value) for token_id, value in bias.items())
    except ValueError:
        raise InvalidRequestError("logit_bias is keyed by token ids", field="logit_bias") from None


def _stopping(body: GenerationBody, max_tokens: int | None) -> StoppingCriteria:
    stop = body.stop or ()
    return StoppingCriteria(
        max_tokens=max_tokens,
        stop_strings=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=body.min_tokens or 0,
    )


def _speculation(body: GenerationBody) -> SpeculationOptions:
    given = body.speculation
    if given is None:
        return SpeculationOptions()
    return SpeculationOptions(
        enabled=given.enabled is not False,
        max_nodes=given.max_nodes,
        max_depth=given.max_depth,
        lookup=given.lookup is not False,
    )
