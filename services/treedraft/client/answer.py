"""What a client holds of an answer, and what it has to ask for next."""

from dataclasses import dataclass, field

from treedraft.core.errors import UnavailableError
from treedraft.core.generation import (
    Delta,
    Finished,
    GenerateEvent,
    ResumeQuery,
    Started,
    hash_tokens,
)

ANSWER_GAP = "ANSWER_GAP"


@dataclass(slots=True)
class HeldAnswer:
    """The tokens that came so far, over all streams that carried them."""

    session_id: str = ""
    token_ids: list[int] = field(default_factory=list)
    has_closing_text: bool = False
    is_finished: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether the session is known."""
        return bool(self.session_id)

    def rest(self) -> ResumeQuery:
        """Return the request for what is missing."""
        tokens = self.token_ids
        return ResumeQuery(self.session_id, len(tokens), hash_tokens(tokens) if tokens else b"")

    def take(self, event: GenerateEvent) -> GenerateEvent | None:
        """Take what a stream brought; return what is new to the caller.

        Raises:
            UnavailableError: tokens are missing before these (ANSWER_GAP).
        """
        match event:
            case Started(session_id=session_id):
                is_first = not self.has_begun
                self.session_id = session_id
                return event if is_first else None
            case Delta(base_length=base_length, token_ids=token_ids):
                if base_length != len(self.token_ids):
                    raise UnavailableError(
                        f"tokens after {base_length}, {len(self.token_ids)} are held",
                        reason=ANSWER_GAP,
                    )
                if not token_ids:
                    return self._take_closing_text(event)
                self.token_ids.extend(token_ids)
            case Finished():
                self.is_finished = True
        return event

    def _take_closing_text(self, event: GenerateEvent) -> GenerateEvent | None:
        """Take text that was kept back until the end; a later stream says it again."""
        is_first, self.has_closing_text = not self.has_closing_text, True
        return event if is_first else None
