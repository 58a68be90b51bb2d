"""What an answer looks like, for the API reference; tests hold real answers to it.

Answers themselves are written as plain dictionaries, token by token: checking each
of them against a model would cost more than making it.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Answered(BaseModel):
    """Base of everything that goes out: nothing else is in it."""

    model_config = ConfigDict(extra="forbid")


class FunctionCalled(Answered):
    """What is called with what."""

    name: str
    arguments: str = Field(description="A JSON object, if the model wrote one.")


class ToolCalled(Answered):
    """A call."""

    id: str
    type: Literal["function"]
    function: FunctionCalled


class FunctionDelta(Answered):
    """What is added to a call."""

    name: str | None = None
    arguments: str


class ToolCallDelta(Answered):
    """A piece of a call; id, type and name come with the first."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class TopLogprob(Answered):
    """A token that could have been drawn."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """The token that was."""

    top_logprobs: list[TopLogprob]


class MessageLogprobs(Answered):
    """Log-probabilities of a message."""

    content: list[TokenLogprob]
    refusal: None


class CompletionLogprobs(Answered):
    """Log-probabilities of plain text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(Answered):
    """What any choice has. Token ids are there on request."""

    index: int
    finish_reason: Literal["stop", "length", "tool_calls", "cancelled"] | None
    token_ids: list[int] | None = None
    token_sources: list[Literal["target", "model", "lookup"]] | None = None
    prompt_token_ids: list[int] | None = None


class AnswerMessage(Answered):
    """What the assistant says and calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCalled] | None = None


class ChatChoice(Choice):
    """A message."""

    message: AnswerMessage
    logprobs: MessageLogprobs | None


class MessageDelta(Answered):
    """What is added to a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Choice):
    """A part of a message."""

    delta: MessageDelta
    logprobs: MessageLogprobs | None


class CompletionChoice(Choice):
    """Text, or a part of it."""

    text: str
    logprobs: CompletionLogprobs | None


class PromptDetails(Answered):
    """Where the prompt's computation was saved."""

    cached_tokens: int


class Usage(Answered):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class SpeculationMetrics(Answered):
    """What speculation did, in vLLM's words."""

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    acceptance_histogram_by_draft_length: dict[str, list[int]]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int


class AnswerMetrics(Answered):
    """What an answer took."""

    speculative_decoding: SpeculationMetrics


class Envelope(Answered):
    """What is around the choices."""

    id: str
    created: int
    model: str


class ChatAnswer(Envelope):
    """The answer of `/v1/chat/completions`."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    metrics: AnswerMetrics


class ChatChunk(Envelope):
    """An event of its stream; the last one may be counts alone."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    metrics: AnswerMetrics | None = None


class CompletionAnswer(Envelope):
    """The answer of `/v1/completions`."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage
    metrics: AnswerMetrics


class CompletionChunk(CompletionAnswer):
    """An event of its stream; the last one may be counts alone."""

    usage: Usage | None = None  # type: ignore[assignment]
    metrics: AnswerMetrics | None = None  # type: ignore[assignment]


class ModelObject(Answered):
    """A model served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    num_targets: int
    num_drafters: int


class ModelList(Answered):
    """All of them."""

    object: Literal["list"]
    data: list[ModelObject]


class ErrorDetail(Answered):
    """What went wrong; `code` and `reason` are stable, the message is for people."""

    message: str
    type: str
    param: str | None
    code: str
    reason: str


class ErrorAnswer(Answered):
    """An error, as the whole answer or as an event of a stream."""

    error: ErrorDetail
