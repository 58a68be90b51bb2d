"""Workers as the coordinator knows them: who they are and how they are."""

from dataclasses import dataclass
from enum import Enum


class WorkerRole(Enum):
    """What a worker does."""

    TARGET = "target"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class WorkerRegistration:
    """Who a worker is; does not change while its process lives.

    `incarnation` is drawn anew at each start, so that a restarted process is
    never taken for its old self. A drafter that copies ids and knows no
    tokenizer has an empty `tokenizer_hash` and fits every target. `pool` names
    those that were set up alike, `weight` is the pool's share of new sessions.
    """

    worker_id: str
    incarnation: str
    role: WorkerRole
    endpoint: str
    model: str
    fingerprint: str = ""
    tokenizer_hash: str = ""
    max_sessions: int = 0
    pool: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class LoadSignals:
    """What a worker measured over its last seconds, for whoever sizes its pool.

    Durations are 95th percentiles in seconds; zero where nothing was measured.
    `utilisation` is the share of the time in which passes ran, `prompt_share` the
    share in which they carried tokens of prompts, `draft_wait_share` the share in
    which a target waited for drafts, `late_draft_share` the share of the received
    nodes that came in vain. First tokens are counted where they are due at an
    instant: those that came or were refused, and those of them that were not in time.
    """

    utilisation: float = 0.0
    queue_wait_seconds: float = 0.0
    time_to_first_token_seconds: float = 0.0
    inter_token_seconds: float = 0.0
    tokens_per_second: float = 0.0
    tokens_per_round: float = 0.0
    draft_wait_share: float = 0.0
    late_draft_share: float = 0.0
    prompt_share: float = 0.0
    first_tokens_due_per_second: float = 0.0
    first_tokens_missed_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """How a worker is. Prefix hashes are deltas against the report before.

    `num_pending_pages` are the pages of prompts that a target has still to compute.
    """

    num_sessions: int = 0
    num_waiting: int = 0
    free_kv_blocks: int = 0
    total_kv_blocks: int = 0
    is_draining: bool = False
    added_prefixes: tuple[int, ...] = ()
    removed_prefixes: tuple[int, ...] = ()
    signals: LoadSignals = LoadSignals()
    num_pending_pages: int = 0


@dataclass(frozen=True, slots=True)
class DrafterAddress:
    """Where a drafter is to be found, and which start of its process is meant."""

    worker_id: str
    incarnation: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class ClusterDescription:
    """The workers that a coordinator knows, each with its last report.

    The counts are those of this one coordinator: requests that run, requests that
    wait to be let in, and by the model that they named, requests since its start
    that found no target.
    """

    workers: tuple[tuple[WorkerRegistration, WorkerReport], ...] = ()
    num_sessions: int = 0
    num_waiting: int = 0
    num_unserved: tuple[tuple[str, int], ...] = ()
