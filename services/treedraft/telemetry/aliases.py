"""The names under which dashboards made for vLLM find our metrics."""

from dataclasses import dataclass
from typing import Final

from treedraft.telemetry import names


@dataclass(frozen=True, slots=True)
class AliasSpec:
    """A name of vLLM's; `of` is the metric of ours that it is made from."""

    name: str
    of: str
    text: str
    labels: tuple[str, ...] = ()


ALIASES: Final = (
    AliasSpec(
        names.ALIAS_NUM_DRAFTS, names.METRIC_TREE_NODES, "Rounds with at least one drafted node."
    ),
    AliasSpec(
        names.ALIAS_DRAFT_TOKENS,
        names.METRIC_NODES_ADMITTED,
        "Drafted nodes put into a pass; with trees, more than the depth of a draft.",
    ),
    AliasSpec(
        names.ALIAS_ACCEPTED_TOKENS, names.METRIC_NODES_ACCEPTED, "Drafted nodes that were emitted."
    ),
    AliasSpec(
        names.ALIAS_ACCEPTED_PER_POS,
        names.METRIC_ACCEPTED_AT_POSITION,
        "Rounds that accepted a drafted node at this depth.",
        (names.LABEL_POSITION,),
    ),
    AliasSpec(
        names.ALIAS_FIRST_TOKEN_SECONDS, names.METRIC_FIRST_TOKEN_SECONDS, "Time to first token."
    ),
    AliasSpec(
        names.ALIAS_INTER_TOKEN_SECONDS, names.METRIC_INTER_TOKEN_SECONDS, "Time between tokens."
    ),
    AliasSpec(names.ALIAS_QUEUE_SECONDS, names.METRIC_QUEUE_WAIT_SECONDS, "Time in the queue."),
    AliasSpec(names.ALIAS_REQUEST_SECONDS, names.METRIC_SESSION_SECONDS, "Time of a request."),
    AliasSpec(
        names.ALIAS_REQUEST_SUCCESS,
        names.METRIC_SESSIONS_FINISHED,
        "Requests that ended.",
        (names.LABEL_FINISHED_REASON,),
    ),
    AliasSpec(
        names.ALIAS_PROMPT_TOKENS,
        names.METRIC_TOKENS_PREFILLED,
        "Prompt tokens, those whose KV was shared included.",
    ),
    AliasSpec(names.ALIAS_GENERATION_TOKENS, names.METRIC_TOKENS_EMITTED, "Tokens made final."),
    AliasSpec(
        names.ALIAS_PREFIX_QUERIES,
        names.METRIC_TOKENS_PREFILLED,
        "Prompt tokens looked for among the shared pages.",
    ),
    AliasSpec(names.ALIAS_PREFIX_HITS, names.METRIC_TOKENS_CACHED, "Prompt tokens found there."),
    AliasSpec(names.ALIAS_PREEMPTIONS, names.METRIC_PREEMPTIONS, "Preempted requests."),
    AliasSpec(names.ALIAS_REQUESTS_RUNNING, names.METRIC_SESSIONS, "Requests that run."),
    AliasSpec(names.ALIAS_REQUESTS_WAITING, names.METRIC_SESSIONS_WAITING, "Requests that wait."),
    AliasSpec(names.ALIAS_KV_USE, names.METRIC_KV_BLOCKS_FREE, "Share of KV pages in use, 0 to 1."),
)
"""Exported by targets alone, so that no request is counted twice, with the labels
`model_name` and `engine`."""
