"""Is speculation paying?"""

from dashboards.grafana import Dashboard, Panel
from dashboards.promql import (
    ACCEPTANCE,
    AT_TARGET,
    DRAFTED_ROUNDS,
    HIT_RATE,
    LATE,
    TOKENS_PER_ROUND,
    mean,
    quantiles,
    rate,
)
from treedraft.telemetry import names as n

SPECULATION = Dashboard(
    "speculation",
    "treedraft: is speculation paying?",
    "Rounds at the targets. docs/speculation.md says what to make of it.",
    (
        Panel(
            "Tokens a round (τ)",
            "Emitted per target pass and session, bonus included. 1 is no gain at all.",
            "short",
            [(TOKENS_PER_ROUND, "τ")],
            "stat",
        ),
        Panel(
            "Acceptance",
            "Drafted nodes that were emitted, of those put into a pass. Low is no fault by itself: "
            "a wide tree has many nodes that never come true.",
            "percentunit",
            [(ACCEPTANCE, "accepted")],
            "stat",
        ),
        Panel(
            "Hit rate",
            "Rounds after which the drafter could go on in its tree.",
            "percentunit",
            [(HIT_RATE, "hits")],
            "stat",
        ),
        Panel(
            "Tokens a round (τ)",
            "Should stay clear of what a pass with drafts costs more than a plain one.",
            "short",
            [(TOKENS_PER_ROUND, "τ")],
        ),
        Panel(
            "Cost of a token beside the cost of a pass",
            "Time of the target per emitted token, and per pass. The first is below the second "
            "only if speculation or batching pays.",
            "s",
            [
                (
                    f"{rate(n.METRIC_BUSY_SECONDS, AT_TARGET)} / "
                    f"{rate(n.METRIC_TOKENS_EMITTED, AT_TARGET)}",
                    "a token",
                ),
                (mean(n.METRIC_FORWARD_SECONDS, AT_TARGET), "a pass"),
            ],
        ),
        Panel(
            "Acceptance by depth",
            "Share of rounds with a drafter that accepted a node at this depth.",
            "percentunit",
            [
                (
                    f"{rate(n.METRIC_ACCEPTED_AT_POSITION, '', 'position')} / on () group_left () "
                    f"{DRAFTED_ROUNDS}",
                    "{{position}}",
                )
            ],
        ),
        Panel(
            "Rounds by outcome",
            "hit: the tree foresaw all; miss: the drafter starts afresh; plain: nobody drafts.",
            "short",
            [(rate(n.METRIC_ROUNDS, "", "outcome"), "{{outcome}}")],
            is_stacked=True,
        ),
        Panel(
            "Accepted nodes by source",
            "Draft model or lookup.",
            "short",
            [(rate(n.METRIC_NODES_ACCEPTED, "", "source"), "{{source}}")],
            is_stacked=True,
        ),
        Panel(
            "What becomes of drafted nodes",
            "Drafted at the drafters, admitted to a pass, accepted.",
            "short",
            [
                (rate(n.METRIC_NODES_DRAFTED, AT_TARGET), "drafted"),
                (rate(n.METRIC_NODES_ADMITTED), "admitted"),
                (rate(n.METRIC_NODES_ACCEPTED), "accepted"),
            ],
        ),
        Panel(
            "Size of trees",
            "Drafted nodes in a round; the budget takes fewer as load grows.",
            "short",
            quantiles(n.METRIC_TREE_NODES, ""),
        ),
        Panel(
            "Late drafts",
            "Drafts that came when the text had gone on: re-rooted if their path lived, else "
            "dropped.",
            "percentunit",
            [(LATE, "late")],
        ),
        Panel(
            "Nodes dropped",
            "By why they came in vain.",
            "short",
            [(rate(n.METRIC_NODES_DROPPED, "", "reason"), "{{reason}}")],
        ),
    ),
)
