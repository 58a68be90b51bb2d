"""Turns the failure of a session at its target into an error of the domain.

The target names a stable reason; which class of error that is decides what a
client does next: mend the request, try again later, or give up.
"""

from dataclasses import replace

from treedraft.core.errors import (
    CancelledError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    SessionConflictError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.session import FinishReason, SessionFailure, SessionOutput

PASS_FAILED = "PASS_FAILED"
TARGET_CANCELLED = "TARGET_CANCELLED"

_CLASSES: dict[str, type[TreedraftError]] = {
    "PROMPT_TOO_LONG": PromptTooLongError,
    "INVALID_REQUEST": InvalidRequestError,
    "EMPTY_PROMPT": InvalidRequestError,
    "TOKEN_OUT_OF_RANGE": InvalidRequestError,
    "INVALID_GRAMMAR": InvalidRequestError,
    "GRAMMAR_CONFLICT": InvalidRequestError,
    "GRAMMAR_TOO_COMPLEX": InvalidRequestError,
    "GRAMMAR_UNSUPPORTED": InvalidRequestError,
    "OVERLOADED": OverloadedError,
    "KV_POOL_FULL": OverloadedError,
    "QUEUE_FULL": OverloadedError,
    "FIRST_TOKEN_LATE": OverloadedError,
    "TOO_MANY_SESSIONS": OverloadedError,
    "SESSION_CONFLICT": SessionConflictError,
    "UNAVAILABLE": UnavailableError,
    PASS_FAILED: UnavailableError,
    "DRAINING": UnavailableError,
    TARGET_CANCELLED: UnavailableError,
    "DEADLINE_EXCEEDED": CancelledError,
}


# They say something about the target, nothing about the request: another
# target can go on with it. A pass that failed may be the device's fault, or that
# of a text that would break it everywhere: it moves a session once.
MOVABLE_REASONS = frozenset(
    {
        "TARGET_LOST",
        "TARGET_SILENT",
        "DRAINING",
        "UNAVAILABLE",
        "OUTPUT_GAP",
        PASS_FAILED,
        TARGET_CANCELLED,
        "COORDINATOR_LOST",
    }
)


def is_movable(error: TreedraftError) -> bool:
    """Return whether a session that ended like this can go on at another target."""
    return isinstance(error, UnavailableError) and error.reason in MOVABLE_REASONS


def without_unasked_end(output: SessionOutput) -> SessionOutput:
    """Return an output in which a cancellation that nobody here asked for is a lost target.

    A text that is cut off is no good end: the session goes on elsewhere, from the tokens before.
    """
    is_cut = output.finish is not None and output.finish.reason is FinishReason.CANCELLED
    is_failed = output.failure is not None and output.failure.reason == CancelledError.reason
    if not (is_cut or is_failed):
        return output
    failure = SessionFailure(TARGET_CANCELLED, "the target gave the session up")
    return replace(output, token_ids=(), sources=(), logprobs=(), finish=None, failure=failure)


def error_of(failure: SessionFailure) -> TreedraftError:
    """Return the error that a failure stands for; INTERNAL if the reason is unknown."""
    kind = _CLASSES.get(failure.reason)
    if kind is None:
        return TreedraftError(f"the target failed: {failure.message}")
    return kind(failure.message, reason=failure.reason)
