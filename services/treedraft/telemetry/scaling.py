"""What the metrics of the autoscaler mean; it registers them itself, beside its decisions."""

from typing import Final

from treedraft.telemetry import names
from treedraft.telemetry.catalogue import MetricKind, MetricSpec

AUTOSCALER: Final = "autoscaler"
_ROLES = (AUTOSCALER,)
_BY_WORKLOAD = (names.LABEL_WORKLOAD,)

SCALING_METRICS: Final = (
    MetricSpec(
        names.SCALING_WANTED, MetricKind.GAUGE, "Replicas decided on.", _ROLES, _BY_WORKLOAD
    ),
    MetricSpec(
        names.SCALING_PRESENT,
        MetricKind.GAUGE,
        "Replicas that the workload wants.",
        _ROLES,
        _BY_WORKLOAD,
    ),
    MetricSpec(names.SCALING_READY, MetricKind.GAUGE, "Workers that report.", _ROLES, _BY_WORKLOAD),
    MetricSpec(
        names.SCALING_GAIN,
        MetricKind.GAUGE,
        "Tokens per second with speculation over those without, by target workload.",
        _ROLES,
        _BY_WORKLOAD,
    ),
    MetricSpec(
        names.SCALING_BUDGET,
        MetricKind.GAUGE,
        "Share of the late first tokens that the objective allows which is spent, by target "
        "workload; 1 where none are due.",
        _ROLES,
        _BY_WORKLOAD,
    ),
    MetricSpec(
        names.SCALING_CHANGES,
        MetricKind.COUNTER,
        "Sizes changed.",
        _ROLES,
        (*_BY_WORKLOAD, names.LABEL_DIRECTION),
    ),
    MetricSpec(
        names.SCALING_FAILURES,
        MetricKind.COUNTER,
        "Decisions that could not be made or carried out.",
        _ROLES,
        (names.LABEL_REASON,),
    ),
    MetricSpec(names.SCALING_LEADER, MetricKind.GAUGE, "1 at the one that acts.", _ROLES),
    MetricSpec(names.SCALING_DECISION_SECONDS, MetricKind.HISTOGRAM, "Time of a decision.", _ROLES),
)
