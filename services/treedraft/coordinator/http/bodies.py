"""What a client may write into a request, checked to the last name.

OpenAI's parameters under OpenAI's names, then the extensions that load
generators and vLLM's users know, then our own (`speculation`, `verification`).
An unknown name is an error, a null is the same as nothing, and numbers are
never read out of strings.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from treedraft.coordinator.http.body import Body
from treedraft.coordinator.http.tool_bodies import ToolBody, ToolCallBody, ToolChoiceBody
from treedraft.core.logprobs import MAX_LOGPROBS
from treedraft.core.tools import MAX_TOOLS

MAX_CHOICES = 16
MAX_PROMPTS = 64
MAX_MESSAGES = 2048

TokenIds = list[Annotated[int, Field(ge=0, lt=2**32)]]


UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": (),
    "functions": (),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "verbosity": (),
    "web_search_options": (),
}
"""Parameters known and not served, each with the values that ask for nothing."""


class StreamOptions(Body):
    """What a stream tells besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Speculation(Body):
    """How much may be speculated for this request."""

    enabled: bool | None = None
    max_nodes: int | None = None
    max_depth: int | None = None
    lookup: bool | None = Field(
        default=None, description="False: no drafts from texts seen before."
    )


class NamedSchema(Body):
    """A JSON schema with a name; `strict` changes nothing, the text always fits."""

    name: str = Field(min_length=1, max_length=64)
    json_schema: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Body):
    """What the text must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(Body):
    """The same as vLLM has it: exactly one of these."""

    json_schema: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = Field(default=None, min_length=1, max_length=1024)
    grammar: str | None = Field(default=None, description="In llguidance's dialect of Lark.")


class GenerationBody(Body):
    """What both kinds of completion take."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {
            name: value
            for name, value in given.items()
            if name not in UNSUPPORTED
            or name in cls.model_fields
            or not (value is None or value in UNSUPPORTED[name])
        }

    model: str | None = Field(default=None, description="Name of a model served.")
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="A label; changes nothing.")
    metadata: dict[str, str] | None = Field(default=None, description="Labels; change nothing.")
    # Extensions, as vLLM names them.
    top_k: int | None = Field(default=None, ge=-1, description="0 and -1 keep all tokens.")
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    return_token_ids: bool | None = Field(
        default=None, description="Also give token ids and where each came from."
    )
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    # Our own.
    resumable: bool | None = Field(
        default=None,
        description="A stream that breaks leaves its session for a while, to be resumed, and its "
        "events carry ids.",
    )
    speculation: Speculation | None = None
    verification: Literal["coupled", "rejection"] | None = None


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


# Parts of an answer that are not served, and that its reader sends back empty.
_ANSWERED = frozenset({"refusal", "annotations", "audio", "function_call", "reasoning_content"})


class Message(Body):
    """A message of a conversation. An assistant's is taken as it was answered."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_says_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {
            name: value
            for name, value in given.items()
            if name not in _ANSWERED or value not in (None, [])
        }

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCallBody] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_call_id: str | None = None
    name: str | None = Field(default=None, description="Of the tool, in a message of its own.")


class ChatBody(GenerationBody):
    """A request to `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    tools: list[ToolBody] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None


class CompletionBody(GenerationBody):
    """A request to `/v1/completions`."""

    prompt: str | TokenIds | list[str] | list[TokenIds]
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    best_of: int | None = Field(default=None, description="The same as `n`, or nothing.")
