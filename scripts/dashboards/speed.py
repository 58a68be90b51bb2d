"""Is it fast, and where does the time go?"""

from dashboards.grafana import Dashboard, Panel
from dashboards.promql import DOOR, OURS, RATE, TOKENS, mean, quantile, quantiles, rate
from treedraft.telemetry import names as n

FAST = Dashboard(
    "fast",
    "treedraft: is it fast?",
    "What clients feel, measured at the coordinators.",
    (
        Panel(
            "First token, p95",
            "From the arrival of a request to its first token.",
            "s",
            [(quantile(0.95, n.METRIC_FIRST_TOKEN_SECONDS, DOOR), "p95")],
            "stat",
        ),
        Panel("Tokens a second", "Over all requests.", "short", [(TOKENS, "tokens/s")], "stat"),
        Panel(
            "Requests running",
            "Now, over all coordinators.",
            "short",
            [(f"sum({n.METRIC_SESSIONS}{DOOR})", "running")],
            "stat",
        ),
        Panel(
            "Time to first token",
            "Waiting, placement and prefill. High with a short queue: prompts are long or prefill "
            "is slow, see where the time goes.",
            "s",
            quantiles(n.METRIC_FIRST_TOKEN_SECONDS, DOOR),
        ),
        Panel(
            "Time between tokens",
            "Per token after the first; the tokens of one round share its time.",
            "s",
            quantiles(n.METRIC_INTER_TOKEN_SECONDS, DOOR),
        ),
        Panel(
            "Time of a request",
            "From arrival to the end of the text; abandoned ones are left out.",
            "s",
            quantiles(n.METRIC_SESSION_SECONDS, DOOR),
        ),
        Panel("Tokens", "Made final, a second.", "short", [(TOKENS, "tokens/s")]),
        Panel(
            "Waiting, p95",
            "Before the first work: at the door for a place, at the target for memory.",
            "s",
            [(quantile(0.95, n.METRIC_QUEUE_WAIT_SECONDS, "", "role"), "{{role}}")],
        ),
        Panel(
            "Tool calls",
            "A second: answers with tools to call, calls that were read, and malformed ones.",
            "short",
            [
                (rate(n.METRIC_TOOL_ANSWERS, DOOR), "answers with tools"),
                (rate(n.METRIC_TOOL_CALLS, DOOR), "calls"),
                (rate(n.METRIC_TOOL_CALLS_MALFORMED, DOOR), "malformed"),
            ],
        ),
        Panel(
            "Ends and failures",
            "Requests a second by how they ended.",
            "reqps",
            [
                (rate(n.METRIC_SESSIONS_FINISHED, DOOR, "reason"), "{{reason}}"),
                (rate(n.METRIC_SESSIONS_FAILED, DOOR, "reason"), "failed: {{reason}}"),
            ],
        ),
    ),
)


TIME = Dashboard(
    "time",
    "treedraft: where does the time go?",
    "Rounds and passes. One request in detail: `treedraft trace`.",
    (
        Panel(
            "A round, by its parts",
            "Means; queue, forward, walk and commit follow each other and add up to the round.",
            "s",
            [
                (
                    mean(
                        n.METRIC_ROUND_PART_SECONDS,
                        '{part!~"draft|wire"}',
                        "part",
                    ),
                    "{{part}}",
                )
            ],
            is_stacked=True,
        ),
        Panel(
            "Draft and wire",
            "Beside the round: time of the drafter, and of the way there and back.",
            "s",
            [(mean(n.METRIC_ROUND_PART_SECONDS, '{part=~"draft|wire"}', "part"), "{{part}}")],
        ),
        Panel(
            "Parts of a round, p95",
            "A part that grows apart from the others is where to look.",
            "s",
            [(quantile(0.95, n.METRIC_ROUND_PART_SECONDS, "", "part"), "{{part}}")],
        ),
        Panel(
            "A pass",
            "Of the target's and of the draft model, all sessions in it.",
            "s",
            [
                (quantile(0.5, n.METRIC_FORWARD_SECONDS, "", "role"), "{{role}} p50"),
                (quantile(0.95, n.METRIC_FORWARD_SECONDS, "", "role"), "{{role}} p95"),
            ],
        ),
        Panel(
            "Rows of a pass",
            "Committed tokens and drafted nodes of all sessions.",
            "short",
            [(mean(n.METRIC_FORWARD_ROWS, "", "role"), "{{role}}")],
        ),
        Panel(
            "Waits for drafts",
            "How long steps waited, and how many did, a second.",
            "s",
            [
                (quantile(0.95, n.METRIC_DRAFT_WAIT_SECONDS, ""), "p95"),
                (mean(n.METRIC_DRAFT_WAIT_SECONDS, ""), "mean"),
            ],
        ),
        Panel(
            "Prompt tokens",
            "Computed, and found among shared pages.",
            "short",
            [
                (rate(n.METRIC_TOKENS_PREFILLED), "computed"),
                (rate(n.METRIC_TOKENS_CACHED), "shared"),
            ],
            is_stacked=True,
        ),
        Panel(
            "At work",
            "Share of the time in which an engine computes.",
            "percentunit",
            [(f"rate({n.METRIC_BUSY_SECONDS}{RATE})", "{{role}} {{instance}}")],
        ),
        Panel(
            "Processor",
            "Cores used by each process.",
            "short",
            [(f"rate(process_cpu_seconds_total{OURS}{RATE})", "{{role}} {{instance}}")],
        ),
    ),
)
