"""What the session store keeps: sessions, and workers with the KV they hold."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.session import FinishReason
from treedraft.core.worker import DrafterAddress, WorkerRegistration, WorkerReport


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What was asked; never changes. `sampling.seed` is never None here.

    Prompt, parameters and seed determine the whole output, so a session can
    be resumed from this and from the tokens logged so far. `query_digest` is of
    the query as it came, for one that may be repeated; `tool_names` are those of what
    the answer may call.
    """

    session_id: str
    model: str
    fingerprint: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParameters
    stopping: StoppingCriteria = field(default_factory=StoppingCriteria)
    speculation: SpeculationOptions = field(default_factory=SpeculationOptions)
    choice: int = 0
    tenant: str = ""
    query_digest: str = ""
    tool_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionPlacement:
    """Where a session runs, down to the start of each process that is meant."""

    target_id: str
    target_incarnation: str
    target_endpoint: str
    drafters: tuple[DrafterAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as the store has it.

    `token_ids` is the prompt and the output logged so far. `owner` is the
    coordinator whose lease runs, empty when nobody's does.
    """

    request: SessionRequest
    epoch: int
    owner: str
    token_ids: tuple[int, ...]
    placement: SessionPlacement | None = None
    finish_reason: FinishReason | None = None

    @property
    def output_token_ids(self) -> tuple[int, ...]:
        """The tokens after the prompt."""
        return self.token_ids[len(self.request.prompt_token_ids) :]


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker and its last report; the report's prefix deltas are empty here."""

    registration: WorkerRegistration
    report: WorkerReport


def without_prefixes(report: WorkerReport) -> WorkerReport:
    """Return the report as it is kept: prefixes live in the KV directory."""
    return replace(report, added_prefixes=(), removed_prefixes=())


def count_leading(held: Iterable[bool]) -> int:
    """Return how many pages are held before the first that is not."""
    count = 0
    for is_held in held:
        if not is_held:
            break
        count += 1
    return count
