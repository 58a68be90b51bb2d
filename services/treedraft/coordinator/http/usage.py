"""Counts that go with an answer: tokens as OpenAI counts them, speculation as vLLM does."""

from collections.abc import Sequence
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
    """Return `metrics`: what speculation did for these sessions."""
    rounds = sum(item.rounds for item in statistics)
    drafted = sum(item.admitted_nodes for item in statistics)
    accepted = sum(item.accepted_nodes for item in statistics)
    emitted = sum(item.emitted_tokens for item in statistics)
    return {
        "speculative_decoding": {
            "mean_acceptance_length": emitted / rounds if rounds else 0.0,
            "draft_acceptance_rate": accepted / drafted if drafted else 0.0,
            "num_spec_steps": rounds,
            "num_draft_tokens": drafted,
            "num_accepted_draft_tokens": accepted,
        }
    }
