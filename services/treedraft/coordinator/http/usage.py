"""Counts that go with an answer: tokens as OpenAI counts them, speculation as vLLM does."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from treedraft.core.session import SessionStatistics


def usage_object(
    *, num_prompt_tokens: int, num_cached_tokens: int, num_output_tokens: int
) -> dict[str, Any]:
    """Return `usage`."""
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_output_tokens,
        "total_tokens": num_prompt_tokens + num_output_tokens,
        "prompt_tokens_details": {"cached_tokens": num_cached_tokens},
    }


def speculation_metrics(statistics: Sequence[SessionStatistics]) -> dict[str, Any]:
    """Return `metrics`: what speculation did for these sessions.

    In a tree the drafted tokens of a step are its nodes, and the length of a draft is
    the longest path in it; `num_spec_tokens` is the longest path that a step accepted.
    """
    rounds = sum(item.rounds for item in statistics)
    accepted = sum(item.accepted_nodes for item in statistics)
    # Of a target that was lost nobody knows what was drafted.
    drafted = max(accepted, sum(item.admitted_nodes for item in statistics))
    by_length = zip_longest(*(item.accepted_lengths for item in statistics), fillvalue=0)
    histogram = [sum(counts) for counts in by_length] or [0]
    return {
        "speculative_decoding": {
            "mean_acceptance_length": 1.0 + accepted / rounds if rounds else 0.0,
            "draft_acceptance_rate": accepted / drafted if drafted else 0.0,
            "acceptance_histogram": histogram,
            "acceptance_histogram_by_draft_length": _by_draft_length(statistics),
            "num_spec_steps": rounds,
            "num_accepted_draft_tokens": accepted,
            "num_draft_tokens": drafted,
            "num_spec_tokens": len(histogram) - 1,
        }
    }


def _by_draft_length(statistics: Sequence[SessionStatistics]) -> dict[str, list[int]]:
    """Return how many steps accepted 0, 1, … tokens, for each length of a draft that there was."""
    found: dict[str, list[int]] = {}
    by_depth = zip_longest(*(item.accepted_lengths_by_depth for item in statistics), fillvalue=())
    for depth, rounds in enumerate(by_depth):
        counts = [sum(column) for column in zip_longest(*rounds, fillvalue=0)]
        if counts:
            found[str(depth)] = counts + [0] * (depth + 1 - len(counts))
    return found
