"""Pieces of queries that panels are made of.

Names of metrics come from `telemetry.names`, so that a renamed one is renamed here.
"""

from treedraft.telemetry import names as n

RATE = "[$__rate_interval]"
DOOR = '{role="coordinator"}'
AT_TARGET = '{role="target"}'
OURS = '{role!=""}'  # of what Python processes export everywhere
QUANTILES = (0.5, 0.95, 0.99)


def rate(metric: str, labels: str = "", by: str = "") -> str:
    """Return the sum of a counter's rate."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{labels}{RATE}))"


def quantile(share: float, metric: str, labels: str, by: str = "") -> str:
    """Return a quantile of a histogram."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(metric + '_bucket', labels, groups)})"


def quantiles(metric: str, labels: str) -> list[tuple[str, str]]:
    """Return the usual quantiles, to be drawn together."""
    return [(quantile(share, metric, labels), f"p{share * 100:.0f}") for share in QUANTILES]


def mean(metric: str, labels: str, by: str = "") -> str:
    """Return the mean of a histogram."""
    return f"{rate(metric + '_sum', labels, by)} / {rate(metric + '_count', labels, by)}"


TOKENS = rate(n.METRIC_TOKENS_EMITTED, DOOR)
TOKENS_PER_ROUND = f"{rate(n.METRIC_TOKENS_EMITTED, AT_TARGET)} / {rate(n.METRIC_ROUNDS)}"
ACCEPTANCE = f"{rate(n.METRIC_NODES_ACCEPTED)} / {rate(n.METRIC_NODES_ADMITTED)}"
DRAFTED_ROUNDS = rate(n.METRIC_ROUNDS, '{outcome!="plain"}')
HITS = rate(n.METRIC_ROUNDS, '{outcome="hit"}')
HIT_RATE = f"{HITS} / {DRAFTED_ROUNDS}"
IN_TIME = rate(n.METRIC_DRAFT_LATENESS + "_bucket", '{le="0.0"}')
LATE = f"1 - {IN_TIME} / {rate(n.METRIC_DRAFT_LATENESS + '_count')}"
KV_USE = f"1 - {n.METRIC_KV_BLOCKS_FREE} / ({n.METRIC_KV_BLOCKS} > 0)"
