"""The second stage: the target's answers to the prompts, at mixed temperatures.

A drafter is trained on what its target says, not on what people wrote: only
then does it meet the words, and the errors, that it will have to guess. Users
run targets at different temperatures, so the answers do too; nothing is
filtered, since what the target says to users is not filtered either.

Every answer is a numbered job, fixed by the seed, so that a run which was
broken off knows what is missing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator

from treedraft.core.errors import InvalidRequestError
from treedraft.inference.downloads import Progress
from treedraft.settings import Frozen
from treedraft.training.corpus import Corpus, CorpusWriter, Document
from treedraft.training.generation import GeneratorFactory
from treedraft.training.generator import FinishedText, Job
from treedraft.training.prompt_store import TrainingPrompt
from treedraft.training.speed import FLUSH_SECONDS, Interval, Speed
from treedraft.training.target import TrainingTarget

_TOKENS_PER_PART = 4_000_000
# A stage that was broken off may be gone on with under other values of these.
PACE_OF_RESPONSES = {"max_seconds"}


class ResponseSettings(Frozen):
    """How the target answers."""

    per_prompt: int = Field(default=3, ge=1, description="Answers to each prompt.")
    temperatures: dict[float, float] = Field(
        default={0.0: 0.4, 0.5: 0.1, 0.7: 0.3, 1.0: 0.2},
        description="Share of answers by temperature. A prompt is answered greedily once at most.",
    )
    max_new_tokens: int = Field(default=256, ge=1, description="Longest answer, in tokens.")
    max_length: int = Field(
        default=448, ge=16, description="Longest prompt and answer together, in tokens."
    )

    max_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Time after which no more answers are begun; the stage is finished with what "
        "there is. 0 sets no limit.",
    )

    @field_validator("temperatures")
    @classmethod
    def _check_shares(cls, shares: dict[float, float]) -> dict[float, float]:
        is_law = abs(sum(shares.values()) - 1) < 1e-6 and all(s >= 0 for s in shares.values())
        if not is_law or min(shares) < 0:
            raise ValueError("temperatures are not negative, and their shares add up to 1")
        return shares


@dataclass(frozen=True, slots=True)
class _Order:
    """An answer to be given: its number, which prompt, how hot."""

    number: int
    prompt: int
    temperature: float


def collect_responses(
    target: TrainingTarget,
    prompts: Sequence[TrainingPrompt],
    settings: ResponseSettings,
    writer: CorpusWriter,
    done: frozenset[int],
    *,
    seed: int,
    make_generator: GeneratorFactory,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, int]:
    """Answer all prompts and write the corpus; what was answered stays if it is broken off.

    Args:
        target: who answers.
        prompts: conversations that end with what a user said.
        settings: how.
        writer: of the corpus.
        done: numbers of the jobs that the corpus has already.
        seed: of the temperatures and draws.
        make_generator: makes the generator.
        progress: told how far it is.
        clock: seconds from anywhere; decides when answers go to disk.

    Returns:
        Numbers of answers and their tokens in this run, and of prompts too long.

    Raises:
        InvalidRequestError: reason NO_PROMPTS; none is short enough.
    """
    encoded = [target.encode_chat(prompt.messages) for prompt in prompts]
    fits = [len(token_ids) < settings.max_length for token_ids in encoded]
    if not any(fits):
        raise InvalidRequestError("no prompt is short enough to be answered", reason="NO_PROMPTS")
    orders = [
        order
        for order in _orders(len(prompts), settings, seed)
        if fits[order.prompt] and order.number not in done
    ]
    counts = {"answers": 0, "response_tokens": 0, "too_long": fits.count(False)}
    if not orders:
        return counts
    generator = make_generator(
        num_jobs=len(orders),
        max_length=settings.max_length,
        prefix_ids=common_beginning([t for t, is_fit in zip(encoded, fits, strict=True) if is_fit]),
        seed=int(np.random.default_rng((seed, len(done), 2)).integers(2**62)),
    )
    jobs = _until(settings.max_seconds, clock, _jobs(orders, encoded, settings))
    speed, interval = Speed(clock), Interval(FLUSH_SECONDS, clock)
    try:
        for finished in generator.run(jobs):
            writer.append(_document(finished))
            if writer.num_pending_tokens >= _TOKENS_PER_PART or interval.is_over():
                writer.flush_part()
            counts["answers"] += 1
            counts["response_tokens"] += len(finished.new_ids)
            if speed.count(len(finished.new_ids)):
                progress(
                    f"responses: {counts['answers']:,} of {len(orders):,}, "
                    f"{counts['response_tokens'] / 1e6:,.2f} M tokens, "
                    f"{speed.per_second:,.0f} tokens/s"
                )
    finally:
        writer.flush_part()
    return counts


def done_jobs(corpus: Corpus) -> frozenset[int]:
    """Return the numbers of the jobs that a corpus has."""
    return frozenset(corpus.jobs.tolist())


def common_beginning(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the ids that all prompts begin with; each prompt has more than these."""
    # What the first and the last in order share, all between them share.
    ordered = [list(prompt) for prompt in prompts]
    first, last = min(ordered), max(ordered)
    pairs = enumerate(zip(first, last, strict=False))
    num_shared = next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))
    return first[: min(num_shared, min(len(prompt) for prompt in prompts) - 1)]


def _orders(num_prompts: int, settings: ResponseSettings, seed: int) -> Iterator[_Order]:
    """Yield all answers that are wanted: first one to each prompt, then a second, and so on."""
    random = np.random.default_rng(seed)
    temperatures = np.array(list(settings.temperatures))
    drawn = random.choice(
        temperatures,
        size=(settings.per_prompt, num_prompts),
        p=list(settings.temperatures.values()),
    )
    was_greedy = np.zeros(num_prompts, bool)
    for turn, row in enumerate(drawn):
        for prompt in range(num_prompts):
            if row[prompt] == 0 and was_greedy[prompt]:
                continue  # it would say the same once more
            was_greedy[prompt] |= row[prompt] == 0
            yield _Order(turn * num_prompts + prompt, prompt, float(row[prompt]))


def _jobs(
    orders: Sequence[_Order], encoded: Sequence[list[int]], settings: ResponseSettings
) -> Iterator[Job]:
    for order in orders:
        yield Job(order.number, encoded[order.prompt], order.temperature, settings.max_new_tokens)


def _until(max_seconds: float, clock: Callable[[], float], jobs: Iterator[Job]) -> Iterator[Job]:
    """Yield jobs until the time is up; without a limit, all of them."""
    if not max_seconds:
        yield from jobs
        return
    started = clock()
    for job in jobs:
        if clock() - started >= max_seconds:
            return
        yield job


def _document(finished: FinishedText) -> Document:
    job = finished.job
    return Document(finished.token_ids, len(job.prompt_ids), job.temperature, job.number)
