"""The border between wire messages and the values of `treedraft.core`.

One pair of functions per value, `x_to_proto` and `x_from_proto`. Both
directions are lossless as far as the wire goes: scores of a growth travel as 32nds of a
nat, to older peers and like probabilities as 32-bit floats, durations in whole
nanoseconds, and a logit bias comes back sorted by token with each token once.

What comes from the wire is not trusted. An absent optional field takes the
default of the dataclass; a value that the domain does not know raises
InvalidRequestError, in a growth InvalidGrowthError; and nothing here allocates
more than a small multiple of the message it was given.
"""

from treedraft.rpc.convert.exchange import (
    draft_frame_from_proto,
    draft_frame_to_proto,
    hello_from_proto,
    hello_to_proto,
    session_open_from_proto,
    session_open_to_proto,
    target_frame_from_proto,
    target_frame_to_proto,
)
from treedraft.rpc.convert.generation import (
    generate_event_from_proto,
    generate_event_to_proto,
    generate_query_from_proto,
    generate_query_to_proto,
    resume_query_from_proto,
    resume_query_to_proto,
    served_models_from_proto,
    served_models_to_proto,
)
from treedraft.rpc.convert.numbers import duration_from_proto, duration_to_proto
from treedraft.rpc.convert.rollout import (
    rollout_from_proto,
    rollout_to_proto,
    weights_from_proto,
    weights_to_proto,
)
from treedraft.rpc.convert.sampling import (
    finish_reason_from_proto,
    finish_reason_to_proto,
    sampling_from_proto,
    sampling_to_proto,
    speculation_from_proto,
    speculation_to_proto,
    stopping_from_proto,
    stopping_to_proto,
)
from treedraft.rpc.convert.session import (
    coordinator_frame_from_proto,
    coordinator_frame_to_proto,
    model_description_from_proto,
    model_description_to_proto,
    outputs_from_proto,
    outputs_to_proto,
    session_spec_from_proto,
    session_spec_to_proto,
)
from treedraft.rpc.convert.statistics import (
    round_report_from_proto,
    round_report_to_proto,
    statistics_from_proto,
    statistics_to_proto,
)
from treedraft.rpc.convert.tree import (
    LEAST_SCORE,
    growth_from_proto,
    growth_to_proto,
    sources_from_proto,
    sources_to_proto,
)
from treedraft.rpc.convert.worker import (
    announcement_from_proto,
    announcement_to_proto,
    cluster_from_proto,
    cluster_to_proto,
    registration_from_proto,
    registration_to_proto,
    report_from_proto,
    report_to_proto,
    signals_from_proto,
)

__all__ = [
    "LEAST_SCORE",
    "announcement_from_proto",
    "announcement_to_proto",
    "cluster_from_proto",
    "cluster_to_proto",
    "coordinator_frame_from_proto",
    "coordinator_frame_to_proto",
    "draft_frame_from_proto",
    "draft_frame_to_proto",
    "duration_from_proto",
    "duration_to_proto",
    "finish_reason_from_proto",
    "finish_reason_to_proto",
    "generate_event_from_proto",
    "generate_event_to_proto",
    "generate_query_from_proto",
    "generate_query_to_proto",
    "growth_from_proto",
    "growth_to_proto",
    "hello_from_proto",
    "hello_to_proto",
    "model_description_from_proto",
    "model_description_to_proto",
    "outputs_from_proto",
    "outputs_to_proto",
    "registration_from_proto",
    "registration_to_proto",
    "report_from_proto",
    "report_to_proto",
    "resume_query_from_proto",
    "resume_query_to_proto",
    "rollout_from_proto",
    "rollout_to_proto",
    "round_report_from_proto",
    "round_report_to_proto",
    "sampling_from_proto",
    "sampling_to_proto",
    "served_models_from_proto",
    "served_models_to_proto",
    "session_open_from_proto",
    "session_open_to_proto",
    "session_spec_from_proto",
    "session_spec_to_proto",
    "signals_from_proto",
    "sources_from_proto",
    "sources_to_proto",
    "speculation_from_proto",
    "speculation_to_proto",
    "statistics_from_proto",
    "statistics_to_proto",
    "stopping_from_proto",
    "stopping_to_proto",
    "target_frame_from_proto",
    "target_frame_to_proto",
    "weights_from_proto",
    "weights_to_proto",
]
