"""What to ask the target, and how prompts of several kinds are shared out."""

from enum import StrEnum

from pydantic import Field, model_validator

from treedraft.settings import Frozen


class PromptKind(StrEnum):
    """Where a prompt's words come from."""

    PASTED = "pasted"
    FREE = "free"
    OPENING = "opening"
    COMPLETE = "complete"


class PromptShares(Frozen):
    """How many prompts of each kind, in proportion to each other."""

    complete: float = Field(
        default=0.36, ge=0, description="Drawn whole from the grammar of requests."
    )
    opening: float = Field(
        default=0.24, ge=0, description="First words drawn from the grammar; the target goes on."
    )
    free: float = Field(default=0.2, ge=0, description="Made up by the target, freely.")
    pasted: float = Field(
        default=0.2, ge=0, description="An instruction and a piece of text by the target."
    )

    @model_validator(mode="after")
    def _check_sum(self) -> "PromptShares":
        if not sum(self.of(kind) for kind in PromptKind) > 0:
            raise ValueError("one kind of prompts must have a share")
        return self

    def of(self, kind: PromptKind) -> float:
        """Return the share of a kind, in proportion."""
        share: float = getattr(self, kind.value)
        return share

    def split(self, count: int) -> dict[PromptKind, int]:
        """Return how many of `count` prompts are of each kind; they add up to it."""
        whole = sum(self.of(kind) for kind in PromptKind)
        ends, reached = [0], 0.0
        for kind in PromptKind:
            reached += self.of(kind)
            ends.append(round(count * reached / whole))
        return {kind: ends[i + 1] - ends[i] for i, kind in enumerate(PromptKind)}


class PromptSettings(Frozen):
    """What to ask the target."""

    count: int = Field(default=80_000, ge=1, description="Prompts to keep, files included.")
    files: tuple[str, ...] = Field(
        default=(), description="Files of prompts (.txt, .jsonl) to take first."
    )
    shares: PromptShares = Field(default_factory=PromptShares)
    prompts_per_text: int = Field(
        default=3, ge=1, description="Prompts with pasted pieces made out of one text."
    )
    temperature: float = Field(
        default=1.0,
        ge=0,
        description="Of what the target writes for prompts. Lower ones are duller and repeat.",
    )
    max_tokens: int = Field(
        default=192,
        ge=8,
        description="Longest prompt, and longest text to paste from; longer prompts are given up.",
    )
