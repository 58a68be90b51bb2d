"""The first stage: prompts that the target itself makes up, and prompts from files.

A chat model has seen many users. Given its template up to the point where the
user speaks, it goes on as a user would (Magpie: Xu et al. 2024, arXiv
2406.08464). Half of the prompts are made like that, freely; the other half go
on from the first words of a request, of a list that covers what people ask
for, since a small model left to itself talks about few things.

What comes out is text that the target finds likely, which is what its drafter
must know; nothing of it comes from elsewhere.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.core.generation import ChatMessage
from treedraft.inference.downloads import Progress
from treedraft.settings import Frozen
from treedraft.training.generation import GeneratorFactory
from treedraft.training.generator import FinishedText, Job
from treedraft.training.prompt_filter import PromptFilter
from treedraft.training.prompt_store import PromptStore, TrainingPrompt, read_prompt_file
from treedraft.training.speed import Speed
from treedraft.training.target import TrainingTarget

FREE = "free"
_STARTERS_FILE = Path(__file__).with_name("starters.jsonl")
_PROMPTS_PER_PART = 4096
# Where a message's content begins is found by rendering one with this content.
_MARKER = "QZCONTENTQZ"
# Attempts for each prompt wanted, after which the target is said to be unable.
_MAX_ATTEMPTS = 8
_MIN_ATTEMPTS = 256


class PromptSettings(Frozen):
    """What to ask the target."""

    count: int = Field(default=80_000, ge=1, description="Prompts to keep, files included.")
    files: tuple[str, ...] = Field(
        default=(), description="Files of prompts (.txt, .jsonl) to take first."
    )
    starter_share: float = Field(
        default=0.5, ge=0, le=1, description="Share of prompts that go on from given first words."
    )
    temperature: float = Field(
        default=1.0, ge=0, description="Of the prompts. Lower ones are duller and repeat."
    )
    max_tokens: int = Field(
        default=128, ge=8, description="Longest prompt; longer ones are given up."
    )


@dataclass(frozen=True, slots=True)
class Starter:
    """The first words of a request, and what kind of request it is."""

    category: str
    text: str


def starters() -> tuple[Starter, ...]:
    """Return the first words that prompts go on from."""
    lines = _STARTERS_FILE.read_text(encoding="utf-8").splitlines()
    return tuple(Starter(**json.loads(line)) for line in lines)


def opening_of_user_turn(target: TrainingTarget) -> list[int]:
    """Return the ids of the chat template up to where the user's words begin.

    Raises:
        InvalidRequestError: reason CHAT_TEMPLATE_FAILED.
    """
    rendered = target.render_chat([ChatMessage("user", _MARKER)])
    opening, marker, _ = rendered.partition(_MARKER)
    if not marker or not opening:
        raise InvalidRequestError(
            "the chat template puts nothing before what the user says, so the target cannot be "
            "brought to speak as one; give prompts in files",
            reason="CHAT_TEMPLATE_FAILED",
        )
    return target.tokenizer.encode(opening)


def collect_prompts(
    target: TrainingTarget,
    settings: PromptSettings,
    store: PromptStore,
    held_out: Sequence[str],
    *,
    seed: int,
    make_generator: GeneratorFactory,
    progress: Progress,
) -> dict[str, int]:
    """Fill the store up to the number wanted; what it holds counts.

    Args:
        target: who makes them up.
        settings: what to ask.
        store: gets the prompts; a store that was begun is gone on with.
        held_out: texts to keep away from.
        seed: of the draws; a store that was begun goes on with other draws.
        make_generator: makes the generator.
        progress: told how far it is.

    Returns:
        Numbers of prompts kept, and refused by reason, in this run.

    Raises:
        InvalidRequestError: a file of prompts cannot be read.
        UnavailableError: reason TOO_FEW_PROMPTS; the target's prompts are unfit.
    """
    kept = store.read()
    prompt_filter = PromptFilter(held_out)
    for prompt in kept:
        prompt_filter.accepts(prompt.text)
    prompt_filter.num_refused.clear()
    collection = _Collection(store, prompt_filter, settings.count, len(kept), progress)
    if not kept:
        for path in settings.files:
            for prompt in read_prompt_file(Path(path).expanduser()):
                collection.add(prompt)
        store.flush_part()
    if not collection.is_full:
        _synthesise(target, settings, collection, (seed, store.num_parts), make_generator)
    store.flush_part()
    return {"kept": collection.num_kept, **collection.prompt_filter.num_refused}


class _Collection:
    """What was kept so far, and the speed of it."""

    def __init__(
        self,
        store: PromptStore,
        prompt_filter: PromptFilter,
        num_wanted: int,
        num_kept: int,
        progress: Progress,
    ) -> None:
        self.prompt_filter = prompt_filter
        self.num_kept = num_kept
        self._num_wanted = num_wanted
        self._store = store
        self._progress = progress
        self._speed = Speed()

    @property
    def is_full(self) -> bool:
        return self.num_kept >= self._num_wanted

    @property
    def max_attempts(self) -> int:
        return _MIN_ATTEMPTS + _MAX_ATTEMPTS * (self._num_wanted - self.num_kept)

    def add(self, prompt: TrainingPrompt) -> None:
        if self.is_full or not self.prompt_filter.accepts(prompt.text):
            return
        self._store.append(prompt)
        self.num_kept += 1
        if self._store.num_pending >= _PROMPTS_PER_PART:
            self._store.flush_part()

    def show(self, num_new_tokens: int) -> None:
        if self._speed.count(num_new_tokens):
            self._progress(
                f"prompts: {self.num_kept:,} of {self._num_wanted:,}, "
                f"{self._speed.per_second:,.0f} tokens/s, refused "
                f"{dict(self.prompt_filter.num_refused)}"
            )


def _synthesise(
    target: TrainingTarget,
    settings: PromptSettings,
    collection: _Collection,
    seed: tuple[int, int],
    make_generator: GeneratorFactory,
) -> None:
    opening = opening_of_user_turn(target)
    beginnings = [(one.category, one.text, target.tokenizer.encode(one.text)) for one in starters()]
    longest = max(len(token_ids) for _, _, token_ids in beginnings)
    random = np.random.default_rng(seed)
    begun: dict[int, tuple[str, str]] = {}  # what each job under way began with

    def jobs() -> Iterator[Job]:
        for number in range(collection.max_attempts):
            if collection.is_full:
                return
            origin, text, token_ids = FREE, "", list[int]()
            if random.random() < settings.starter_share:
                origin, text, token_ids = beginnings[random.integers(len(beginnings))]
            begun[number] = (origin, text)
            yield Job(number, opening + token_ids, settings.temperature, settings.max_tokens)

    generator = make_generator(
        num_jobs=collection.max_attempts,
        max_length=len(opening) + longest + settings.max_tokens,
        prefix_ids=opening,
        seed=int(np.random.default_rng((*seed, 1)).integers(2**62)),
    )
    for finished in generator.run(jobs()):
        origin, text = begun.pop(finished.job.number)
        if said := _read(target, finished):
            collection.add(TrainingPrompt((ChatMessage("user", (text + said).strip()),), origin))
        else:
            collection.prompt_filter.num_refused["endless"] += 1
        collection.show(len(finished.new_ids))
        if collection.is_full:
            break
    if not collection.is_full:
        raise UnavailableError(
            f"the target made up only {collection.num_kept} fit prompts; refused were "
            f"{dict(collection.prompt_filter.num_refused)}",
            reason="TOO_FEW_PROMPTS",
        )


def _read(target: TrainingTarget, finished: FinishedText) -> str:
    """Return what was said; nothing if it was cut off or holds special tokens."""
    if not finished.is_complete:
        return ""
    token_ids = finished.new_ids[:-1].tolist()
    text = target.tokenizer.decode(token_ids, skip_special=True)
    return text if text == target.tokenizer.decode(token_ids, skip_special=False) else ""
