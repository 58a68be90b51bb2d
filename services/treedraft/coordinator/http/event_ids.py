"""Ids of a stream's events: which tokens a client holds that has seen the event.

`NUMBER-HASH`: so many output tokens, and SHA-256 over them in base64url. A
client that reconnects sends the last one it has seen as `Last-Event-ID`, and
gets what follows, or learns that the text is another one. `.end` after it says
that the client has seen the text that was kept back until the end, too.
"""

import base64
import hashlib
import re
from collections.abc import Sequence

from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import Delta, ResumeQuery, pack_tokens

_EVENT_ID = re.compile(r"(\d{1,9})-([A-Za-z0-9_-]{43})(?:\.end)?")
_END = ".end"


class EventIds:
    """Follows the tokens of one choice."""

    def __init__(self) -> None:
        """Begin before the first token."""
        self._hash = hashlib.sha256()
        self._num_tokens = 0
        self._has_closing_text = False

    def take(self, delta: Delta) -> None:
        """Note tokens that the client will hold."""
        for token_ids in (delta.held_token_ids, delta.token_ids):
            self._add(token_ids)
        self._has_closing_text |= not delta.token_ids

    def _add(self, token_ids: Sequence[int]) -> None:
        self._hash.update(pack_tokens(token_ids))
        self._num_tokens += len(token_ids)

    @property
    def current(self) -> str:
        """The id of an event after these tokens; empty before the first."""
        if not self._num_tokens:
            return ""
        digest = base64.urlsafe_b64encode(self._hash.digest()).decode().rstrip("=")
        return f"{self._num_tokens}-{digest}{_END if self._has_closing_text else ''}"


def resume_query(session_id: str, last_event_id: str) -> ResumeQuery:
    """Return the request for what follows an event; all of the answer for no id.

    Raises:
        InvalidRequestError: INVALID_EVENT_ID.
    """
    if not last_event_id:
        return ResumeQuery(session_id, 0, b"")
    match = _EVENT_ID.fullmatch(last_event_id)
    if match is None:
        raise InvalidRequestError(
            "no event of ours has this id", field="last-event-id", reason="INVALID_EVENT_ID"
        )
    return ResumeQuery(session_id, int(match[1]), base64.urlsafe_b64decode(match[2] + "="))


def tells_end(last_event_id: str) -> bool:
    """Return whether who has seen this event has the text that was kept back until the end."""
    return last_event_id.endswith(_END)
