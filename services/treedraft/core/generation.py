"""What a client asks of the coordinator, and the events that answer it."""

from dataclasses import dataclass, field

from treedraft.core.growth import TokenSource
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.session import FinishReason, SessionStatistics


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class GenerateQuery:
    """A request for text. Exactly one of the three inputs is given.

    `text` and `token_ids` are continued as they are; `conversation` is put
    into the model's chat template. An empty `model` takes the only one served.
    """

    model: str = ""
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    conversation: tuple[ChatMessage, ...] | None = None
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    stopping: StoppingCriteria = field(default_factory=StoppingCriteria)
    speculation: SpeculationOptions = field(default_factory=SpeculationOptions)


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

    `base_length` counts the output tokens before these.
    """

    base_length: int
    token_ids: tuple[int, ...]
    sources: tuple[TokenSource, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The text is complete."""

    reason: FinishReason
    statistics: SessionStatistics
    time_to_first_token_ms: float


GenerateEvent = Started | Delta | Finished


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that can be asked for, and how many workers serve it."""

    model: str
    context_length: int
    num_targets: int
    num_drafters: int
