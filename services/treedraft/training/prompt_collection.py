"""Prompts as they come in: judged, counted by kind, stored."""

from collections import Counter

from treedraft.inference.downloads import Progress
from treedraft.training.prompt_filter import PromptFilter
from treedraft.training.prompt_settings import PromptKind, PromptSettings
from treedraft.training.prompt_store import PromptStore, TrainingPrompt
from treedraft.training.speed import Speed

_PROMPTS_PER_PART = 4096
# Attempts for each prompt wanted, after which a source is taken to be dry.
_MAX_ATTEMPTS = 8
_MIN_ATTEMPTS = 256


class PromptCollection:
    """What was kept so far, and what is missing of each kind.

    A store that was begun counts: its prompts are seen, and their kinds done.
    """

    def __init__(
        self,
        store: PromptStore,
        prompt_filter: PromptFilter,
        settings: PromptSettings,
        progress: Progress,
    ) -> None:
        """Take note of what the store has."""
        self.prompt_filter = prompt_filter
        self.num_kept = 0
        self.added: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._settings = settings
        self._store = store
        self._progress = progress
        self._speed = Speed()
        for prompt in store.read():
            prompt_filter.accepts(prompt.text)
            self._note(prompt)
        prompt_filter.num_refused.clear()

    @property
    def num_missing(self) -> int:
        """How many prompts are wanted yet, of any kind."""
        return max(0, self._settings.count - self.num_kept)

    @property
    def settings(self) -> PromptSettings:
        """What was asked for."""
        return self._settings

    def missing(self, kind: PromptKind) -> int:
        """Return how many prompts of a kind are wanted yet.

        The complete ones are those that come last: they fill what others left.
        """
        if kind is PromptKind.COMPLETE:
            return self.num_missing if self._settings.shares.complete else 0
        num_made_up = self._settings.count - (self.num_kept - sum(self._kept.values()))
        wanted = self._settings.shares.split(max(0, num_made_up))[kind]
        return min(self.num_missing, max(0, wanted - self._kept[kind]))

    def max_attempts(self, *kinds: PromptKind) -> int:
        """Return how often to try before giving up on kinds."""
        return _MIN_ATTEMPTS + _MAX_ATTEMPTS * sum(self.missing(kind) for kind in kinds)

    def add(self, prompt: TrainingPrompt) -> bool:
        """Keep a prompt if it is fit and wanted; return whether it was."""
        if not self.num_missing or not self.prompt_filter.accepts(prompt.text):
            return False
        self._store.append(prompt)
        self._note(prompt)
        self.added[prompt.kind] += 1
        if self._store.num_pending >= _PROMPTS_PER_PART:
            self._store.flush_part()
        return True

    def refuse(self, reason: str) -> None:
        """Count a prompt that never came to be."""
        self.prompt_filter.num_refused[reason] += 1

    def show(self, num_new_tokens: int) -> None:
        """Count tokens that were written, and say now and then how far it is."""
        if self._speed.count(num_new_tokens):
            self._progress(
                f"prompts: {self.num_kept:,} of {self._settings.count:,}, "
                f"{self._speed.per_second:,.0f} tokens/s, refused "
                f"{dict(self.prompt_filter.num_refused)}"
            )

    def _note(self, prompt: TrainingPrompt) -> None:
        self.num_kept += 1
        if prompt.kind in list(PromptKind):
            self._kept[prompt.kind] += 1
