"""What a client asks of the coordinator, and the events that answer it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from treedraft.core.errors import InvalidRequestError
from treedraft.core.growth import TokenSource
from treedraft.core.logprobs import TokenLogprobs, check_num_logprobs
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.session import FinishReason, RoundReport, SessionStatistics
from treedraft.core.tools import ToolCall, ToolCallPiece, ToolChoice, ToolOffer

MAX_CHOICES = 64
MAX_IDEMPOTENCY_KEY_CHARS = 128


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation.

    An assistant's may have called tools; what came of a call is a message of the
    role `tool`, with the call's id and perhaps the tool's name.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class GenerateQuery:
    """A request for text. Exactly one of the three inputs is given.

    `text` and `token_ids` are continued as they are; `conversation` is put
    into the model's chat template. An empty `model` takes the only one served.
    With `watch_rounds` the answer tells of each round; the text is the same.
    `choice` tells several answers to one prompt with one seed apart.
    Two queries with one `idempotency_key` mean one session; empty is no key. With
    `num_logprobs` each token comes with its log-probability and with so many of
    the most likely tokens. `tools` go with a conversation; what the answer calls is
    told apart from its text.
    """

    model: str = ""
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    conversation: tuple[ChatMessage, ...] | None = None
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    stopping: StoppingCriteria = field(default_factory=StoppingCriteria)
    speculation: SpeculationOptions = field(default_factory=SpeculationOptions)
    watch_rounds: bool = False
    choice: int = 0
    idempotency_key: str = ""
    num_logprobs: int | None = None
    tools: ToolOffer | None = None

    @property
    def may_call(self) -> bool:
        """Whether the answer may call tools."""
        return self.tools is not None and self.tools.choice is not ToolChoice.NONE

    def __post_init__(self) -> None:
        """Check the numbers and the length of the key."""
        check_num_logprobs(self.num_logprobs)
        if not 0 <= self.choice < MAX_CHOICES:
            raise InvalidRequestError(f"choice must be in [0, {MAX_CHOICES})", field="choice")
        if len(self.idempotency_key) > MAX_IDEMPOTENCY_KEY_CHARS:
            raise InvalidRequestError(
                f"a key has at most {MAX_IDEMPOTENCY_KEY_CHARS} characters",
                field="idempotency_key",
                reason="IDEMPOTENCY_KEY_TOO_LONG",
            )


@dataclass(frozen=True, slots=True)
class ResumeQuery:
    """A request for the rest of an answer: the session, and the output held of it."""

    session_id: str
    num_tokens: int
    tokens_hash: bytes

    def __post_init__(self) -> None:
        """Check the hash; without tokens there may be none."""
        if len(self.tokens_hash) != 32 and (self.num_tokens or self.tokens_hash):
            raise InvalidRequestError("a hash has 32 bytes", field="tokens_hash")

    def begins(self, output_token_ids: Sequence[int]) -> bool:
        """Return whether an output begins with the tokens that are held."""
        held = output_token_ids[: self.num_tokens]
        is_there = len(held) == self.num_tokens
        return is_there and (not held or hash_tokens(held) == self.tokens_hash)


def hash_tokens(token_ids: Sequence[int]) -> bytes:
    """Return SHA-256 over tokens, each as four bytes, the lowest first."""
    return hashlib.sha256(pack_tokens(token_ids)).digest()


def pack_tokens(token_ids: Sequence[int]) -> bytes:
    """Return tokens as four bytes each, the lowest first."""
    return b"".join(token.to_bytes(4, "little") for token in token_ids)


@dataclass(frozen=True, slots=True)
class Started:
    """The session exists; sent before the first token."""

    session_id: str
    seed: int
    prompt_token_ids: tuple[int, ...]
    trace_id: str
    model: str


@dataclass(frozen=True, slots=True)
class Delta:
    """Tokens that became final, and the text that they add.

    `base_length` counts the output tokens before these. `rounds` tells where
    they came from, if the request watches its rounds, and `text_sources` where
    each character of the text did. `held_token_ids` are those that the client of a
    resumed answer has, told with its first delta and never sent. Where tools were
    offered, `text` is without the calls, and `text_sources` is not told.
    """

    base_length: int
    token_ids: tuple[int, ...]
    sources: tuple[TokenSource, ...]
    text: str
    rounds: tuple[RoundReport, ...] = ()
    text_sources: tuple[TokenSource, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    held_token_ids: tuple[int, ...] = ()
    tool_calls: tuple[ToolCallPiece, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The text is complete."""

    reason: FinishReason
    statistics: SessionStatistics
    time_to_first_token_ms: float
    has_tool_calls: bool = False


GenerateEvent = Started | Delta | Finished


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that can be asked for, and how many workers serve it."""

    model: str
    context_length: int
    num_targets: int
    num_drafters: int
