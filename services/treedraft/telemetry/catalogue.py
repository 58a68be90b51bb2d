"""What each metric means, who exports it and with which labels.

`names` says what metrics are called, this module all that can be said of them
besides: the registry, the page `docs/metrics.md` and the tests of dashboards and
alert rules are made from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from treedraft.telemetry import names

COORDINATOR: Final = "coordinator"
TARGET: Final = "target"
DRAFT: Final = "draft"
ROLES: Final = (COORDINATOR, TARGET, DRAFT)

# From a cheap walk (10 µs) to a slow pass on CPU (10 s).
SECONDS: Final = (
    *(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
# What a person waits for.
WAIT_SECONDS: Final = (
    *(1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
# Every length up to the last position that is counted by itself, then some.
NUM_POSITIONS: Final = 16
LENGTHS: Final = (*(float(length) for length in range(NUM_POSITIONS + 1)), 24.0, 32.0)
SIZES: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
RATIOS: Final = tuple(tenth / 10 for tenth in range(11))


class MetricKind(Enum):
    """What a metric does."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `labels` are those besides `role`; `buckets` are for histograms.

    `known` are values of the labels that are there from the start, at zero: an
    alert sees no increase in a series that begins with its first event.
    """

    name: str
    kind: MetricKind
    text: str
    roles: tuple[str, ...]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    known: tuple[tuple[str, ...], ...] = ()


def _counter(
    name: str, text: str, roles: tuple[str, ...], *labels: str, known: tuple[str, ...] = ()
) -> MetricSpec:
    values = tuple((value,) for value in known)
    return MetricSpec(name, MetricKind.COUNTER, text, roles, labels, known=values)


def _gauge(name: str, text: str, roles: tuple[str, ...], *labels: str) -> MetricSpec:
    return MetricSpec(name, MetricKind.GAUGE, text, roles, labels)


def _histogram(
    name: str, text: str, roles: tuple[str, ...], buckets: tuple[float, ...], *labels: str
) -> MetricSpec:
    return MetricSpec(name, MetricKind.HISTOGRAM, text, roles, labels, buckets)


_AT_TARGET = (TARGET,)
_MODELS = (TARGET, DRAFT)
_DOORS = (COORDINATOR, TARGET)

METRICS: Final = (
    _histogram(
        names.METRIC_ROUND_PART_SECONDS,
        "Where the time of a session's round went; draft and wire run beside the other parts.",
        _AT_TARGET,
        SECONDS,
        names.LABEL_PART,
    ),
    _histogram(
        names.METRIC_DRAFT_WAIT_SECONDS, "Waits of a step for drafts to come.", _AT_TARGET, SECONDS
    ),
    _histogram(
        names.METRIC_ACCEPTED_LENGTH, "Drafted nodes accepted in a round.", _AT_TARGET, LENGTHS
    ),
    _counter(
        names.METRIC_ACCEPTED_AT_POSITION,
        f"Rounds that accepted a drafted node at this depth, from 0 to {NUM_POSITIONS - 1}.",
        _AT_TARGET,
        names.LABEL_POSITION,
    ),
    _histogram(names.METRIC_TREE_NODES, "Drafted nodes admitted to a round.", _AT_TARGET, SIZES),
    _counter(
        names.METRIC_ROUNDS,
        "Rounds by whether the tree foresaw all that was emitted (hit, miss); plain: nothing "
        "drafts for the session.",
        _AT_TARGET,
        names.LABEL_OUTCOME,
    ),
    _counter(
        names.METRIC_NODES_DRAFTED,
        "Nodes sent (at a drafter) or received (at a target).",
        _MODELS,
        names.LABEL_SOURCE,
    ),
    _counter(names.METRIC_NODES_ADMITTED, "Nodes put into a pass.", _AT_TARGET, names.LABEL_SOURCE),
    _counter(
        names.METRIC_NODES_ACCEPTED, "Nodes that were emitted.", _AT_TARGET, names.LABEL_SOURCE
    ),
    _histogram(
        names.METRIC_DRAFT_LATENESS,
        "Tokens that had been committed since the text that drafts were grown on, as they came; "
        "0 is in time.",
        _AT_TARGET,
        LENGTHS,
    ),
    _counter(
        names.METRIC_NODES_DROPPED,
        "Nodes that came in vain.",
        _AT_TARGET,
        names.LABEL_REASON,
        known=("SESSION_CLOSED", "STALE_OR_FULL"),
    ),
    _counter(
        names.METRIC_GROWTHS_REFUSED,
        "Frames of a drafter that no tree can be; each ends its link.",
        _AT_TARGET,
        names.LABEL_REASON,
        known=("CREDIT_EXCEEDED", "INVALID_GROWTH"),
    ),
    _counter(names.METRIC_TOKENS_EMITTED, "Tokens made final.", _DOORS),
    _counter(
        names.METRIC_TOKENS_PREFILLED, "Prompt tokens that went through the model.", _AT_TARGET
    ),
    _counter(names.METRIC_TOKENS_CACHED, "Prompt tokens whose KV was shared instead.", _AT_TARGET),
    _counter(names.METRIC_PREEMPTIONS, "Sessions that lost their KV to others.", _AT_TARGET),
    _histogram(
        names.METRIC_FORWARD_SECONDS,
        "Duration of a pass, all sessions in it.",
        _MODELS,
        SECONDS,
    ),
    _histogram(names.METRIC_FORWARD_ROWS, "Rows of a pass, all sessions in it.", _MODELS, SIZES),
    _counter(
        names.METRIC_PROMPT_PASS_SECONDS,
        "Time in passes that carried tokens of prompts; where its rate nears 1, prompts wait.",
        _AT_TARGET,
    ),
    _counter(
        names.METRIC_BUSY_SECONDS,
        "Time spent computing; its rate is the share of time in which the engine is at work.",
        _MODELS,
    ),
    _histogram(
        names.METRIC_QUEUE_WAIT_SECONDS, "From arrival to the first work.", _DOORS, WAIT_SECONDS
    ),
    _histogram(
        names.METRIC_FIRST_TOKEN_SECONDS, "From arrival to the first token.", _DOORS, WAIT_SECONDS
    ),
    _counter(
        names.METRIC_FIRST_TOKENS_DUE,
        "First tokens that came or were refused, where they are due at an instant.",
        _AT_TARGET,
    ),
    _counter(
        names.METRIC_FIRST_TOKENS_MISSED,
        "First tokens that came late, or were refused because they would have.",
        _AT_TARGET,
    ),
    _histogram(
        names.METRIC_INTER_TOKEN_SECONDS,
        "Time per token after the first; the tokens of one round share its time.",
        _DOORS,
        SECONDS,
    ),
    _histogram(
        names.METRIC_SESSION_SECONDS,
        "From arrival to the end of the text, where it came to one.",
        _DOORS,
        WAIT_SECONDS,
    ),
    _counter(names.METRIC_SESSIONS_FINISHED, "Sessions that ended.", _DOORS, names.LABEL_REASON),
    _counter(
        names.METRIC_SESSIONS_FAILED,
        "Sessions that were refused or failed.",
        _DOORS,
        names.LABEL_REASON,
    ),
    _counter(names.METRIC_TOOL_ANSWERS, "Answers that began with tools to call.", (COORDINATOR,)),
    _counter(
        names.METRIC_TOOL_CALLS,
        "Tool calls read out of answers, those with malformed arguments included.",
        (COORDINATOR,),
    ),
    _counter(
        names.METRIC_TOOL_CALLS_MALFORMED,
        "Tool calls that were begun and are none, or whose arguments are no JSON or were cut off.",
        (COORDINATOR,),
    ),
    _counter(
        names.METRIC_FAILOVERS,
        "Sessions that moved to another target, by why they left the last one.",
        (COORDINATOR,),
        names.LABEL_REASON,
        known=(
            *("COORDINATOR_LOST", "DRAINING", "OUTPUT_GAP"),
            *("PASS_FAILED", "TARGET_CANCELLED", "TARGET_LOST", "TARGET_SILENT", "UNAVAILABLE"),
        ),
    ),
    _counter(
        names.METRIC_LINK_FAILURES,
        "Streams to a peer that broke or were refused.",
        _DOORS,
        names.LABEL_PEER,
        names.LABEL_REASON,
    ),
    _gauge(names.METRIC_SESSIONS, "Sessions held.", ROLES),
    _gauge(
        names.METRIC_SESSIONS_WAITING, "Sessions waiting for memory or their first pass.", _DOORS
    ),
    _gauge(names.METRIC_KV_BLOCKS_FREE, "Free pages of KV.", _MODELS),
    _gauge(names.METRIC_KV_BLOCKS, "Pages of KV.", _MODELS),
    _histogram(
        names.METRIC_KV_USE,
        "Share of the pages in use, as the load is looked at.",
        _AT_TARGET,
        RATIOS,
    ),
    _gauge(
        names.METRIC_WORKERS,
        "Workers that the coordinator knows.",
        (COORDINATOR,),
        names.LABEL_WORKER_ROLE,
        names.LABEL_STATE,
    ),
    _counter(
        names.METRIC_UPKEEP_FAILURES,
        "Times that a part of the upkeep failed: mostly the store is away.",
        (COORDINATOR,),
    ),
    _gauge(
        names.METRIC_BUILD, "Version of the running code; always 1.", ROLES, names.LABEL_VERSION
    ),
)


def metrics_of(role: str) -> Iterator[MetricSpec]:
    """Yield the metrics that a service exports."""
    return (spec for spec in METRICS if role in spec.roles)
