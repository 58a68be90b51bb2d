"""Everything that can go wrong, in the words of the domain.

    TreedraftError
    ├── InvalidRequestError          the caller's fault: say what and where
    │   ├── UnknownFieldError
    │   ├── PromptTooLongError
    │   └── UnknownModelError
    ├── UnsupportedModelError        a model that a tree mask cannot verify
    ├── IncompatiblePeerError        handshake refused: tokenizer or protocol
    ├── InvalidGrowthError           a drafter sent what no tree can be
    ├── SessionConflictError         a late writer lost against a newer epoch
    ├── SessionNotFoundError
    ├── TokensMismatchError          a resuming client holds another text
    ├── UnauthenticatedError         nobody knows who is calling
    ├── PermissionDeniedError        known, and not allowed to
    ├── OverloadedError              bounded queue or pool full: try later
    ├── UnavailableError             no worker, or it is going away
    └── CancelledError               the client left or its time was up

Each error carries a `reason`: UPPER_SNAKE_CASE, at most 63 characters, part of
the public API and never changed. The message is for people. No transport code
appears here; `rpc.errors` maps classes to gRPC status codes.
"""

from collections.abc import Mapping


class TreedraftError(Exception):
    """Base of all errors of the domain."""

    reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Store the message, an optional more precise reason, and details."""
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.metadata: dict[str, str] = dict(metadata or {})


class InvalidRequestError(TreedraftError):
    """The request breaks a rule; `field` names the culprit."""

    reason = "INVALID_REQUEST"

    def __init__(self, message: str, *, field: str = "", reason: str | None = None) -> None:
        """Store the message and the offending field."""
        super().__init__(message, reason=reason, metadata={"field": field} if field else {})
        self.field = field


class UnknownFieldError(InvalidRequestError):
    """The request has a field that this version does not know."""

    reason = "UNKNOWN_FIELD"


class PromptTooLongError(InvalidRequestError):
    """The prompt exceeds the context or the KV pool."""

    reason = "PROMPT_TOO_LONG"


class UnknownModelError(InvalidRequestError):
    """No worker serves a model of that name."""

    reason = "UNKNOWN_MODEL"


class UnsupportedModelError(TreedraftError):
    """The model has layers that a tree mask cannot verify."""

    reason = "UNSUPPORTED_MODEL"


class IncompatiblePeerError(TreedraftError):
    """Two services cannot work together: `TOKENIZER_MISMATCH` or `PROTOCOL_MISMATCH`."""

    reason = "INCOMPATIBLE_PEER"


class InvalidGrowthError(TreedraftError):
    """A drafter sent nodes that cannot be a tree; its frame is dropped."""

    reason = "INVALID_GROWTH"


class SessionConflictError(TreedraftError):
    """Another owner with a newer epoch holds the session, or the base moved on."""

    reason = "SESSION_CONFLICT"


class SessionNotFoundError(TreedraftError):
    """No session of that name is known."""

    reason = "SESSION_NOT_FOUND"


class TokensMismatchError(TreedraftError):
    """The tokens that a resuming client holds are not the beginning of the session's."""

    reason = "TOKENS_MISMATCH"


class UnauthenticatedError(TreedraftError):
    """The caller does not say who it is, or not credibly."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(TreedraftError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"


class OverloadedError(TreedraftError):
    """A bounded resource is full; `retry_after_ms` says when to try again."""

    reason = "OVERLOADED"

    def __init__(
        self, message: str, *, reason: str | None = None, retry_after_ms: int = 1000
    ) -> None:
        """Store the message and the time after which a retry makes sense."""
        super().__init__(message, reason=reason)
        self.retry_after_ms = retry_after_ms


class UnavailableError(TreedraftError):
    """Nobody can serve this at the moment."""

    reason = "UNAVAILABLE"


class CancelledError(TreedraftError):
    """The work was given up before it was done."""

    reason = "CANCELLED"
