"""Whether drafting is worth it for one session: what it brought against its share of the cost.

Texts differ more than loads do: one session is foreseen word by word, the next one
hardly ever, and both cost the same. So each has an account in tokens. What drafts
brought is paid in, its share of what the step took longer is taken out. Once it is
empty the session is left alone for a while, twice as long each time; then it is
tried again, for less.

Where a drafter has not followed a text, it has to compute what it missed first. For
the last few words of a text that never pays.
"""

from dataclasses import dataclass

# Of the first trial: what may be lost at a later one, and what may be saved up.
_LATER_TRIAL = 0.4
_MAX_GAIN = 0.6
# One hiccup of the machine must not close it; in tokens.
_MAX_LOSS = 0.75
_FIRST_PAUSE = 32
_MAX_PAUSE = 1024
# What has to be left over, in tokens, for a drafter to catch up with a text.
_LEAST_GAIN = 1.0


@dataclass(slots=True)
class SessionAccount:
    """What drafting has brought one session of late, in tokens."""

    balance: float = 0.0
    num_pauses: int = 0
    # Committed length from which on it may be drafted for.
    resumes_at: int = 0

    def enter(self, change: float, num_tokens: int, *, trial_tokens: float) -> None:
        """Enter what a step brought the session, less what it took longer.

        Args:
            change: in tokens.
            num_tokens: committed length after the step.
            trial_tokens: what drafting may lose before the session is left alone.
        """
        most = _MAX_GAIN * trial_tokens
        self.balance = min(most, self.balance + max(-_MAX_LOSS, change))
        if self.balance <= -trial_tokens * (_LATER_TRIAL if self.num_pauses else 1.0):
            pause = min(_FIRST_PAUSE * 2**self.num_pauses, _MAX_PAUSE)
            self.num_pauses += 1
            self.resumes_at = num_tokens + pause
            self.balance = 0.0
        elif self.balance >= most:
            self.num_pauses = 0

    def is_open(self, num_tokens: int) -> bool:
        """Return whether to draft for the session at this committed length."""
        return num_tokens >= self.resumes_at


def is_worth_catching_up(num_missed: int, tokens_left: int, *, gain: float, cost: float) -> bool:
    """Return whether the rest of a text can pay for what a drafter missed of it.

    Args:
        num_missed: tokens that the drafter has to compute first.
        tokens_left: tokens that the text can still become longer by.
        gain: tokens that drafts bring for each token of a text.
        cost: tokens that all sessions together lose while a missed one is computed.
    """
    return not num_missed or gain * tokens_left > cost * num_missed + _LEAST_GAIN
