"""Prompts that the target makes up itself, speaking as the user.

A chat model has seen many users. Given its template up to the point where the
user speaks, it goes on as a user would (Magpie: Xu et al. 2024, arXiv
2406.08464), freely or after the first words of a request.
"""

from collections.abc import Iterator

import numpy as np

from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import ChatMessage
from treedraft.training.generation import GeneratorFactory
from treedraft.training.generator import FinishedText, Job
from treedraft.training.prompt_collection import PromptCollection
from treedraft.training.prompt_grammar import PromptGrammar
from treedraft.training.prompt_settings import PromptKind
from treedraft.training.prompt_store import user_prompt
from treedraft.training.target import TrainingTarget

# Where a message's content begins is found by rendering one with this content.
_MARKER = "QZCONTENTQZ"
_MAX_OPENING_TOKENS = 64


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


def make_up_prompts(
    target: TrainingTarget,
    collection: PromptCollection,
    grammar: PromptGrammar,
    seed: tuple[int, ...],
    make_generator: GeneratorFactory,
) -> None:
    """Add free prompts and such with given first words, as many as are missing, if it can.

    Raises:
        InvalidRequestError: reason CHAT_TEMPLATE_FAILED.
    """
    kinds = (PromptKind.FREE, PromptKind.OPENING)
    if not any(collection.missing(kind) for kind in kinds):
        return
    opening = opening_of_user_turn(target)
    settings = collection.settings
    max_attempts = collection.max_attempts(*kinds)
    random = np.random.default_rng(seed)
    begun: dict[int, tuple[str, str]] = {}  # origin and first words of each job under way

    def jobs() -> Iterator[Job]:
        for number in range(max_attempts):
            missing = np.array([collection.missing(kind) for kind in kinds], float)
            if not missing.any():
                return
            origin, words, token_ids = PromptKind.FREE.value, "", list[int]()
            if random.random() * missing.sum() >= missing[0]:
                drawn = grammar.opening(random)
                origin, words = f"{PromptKind.OPENING}:{drawn.category}", drawn.text
                token_ids = target.tokenizer.encode(words)
                if len(token_ids) > _MAX_OPENING_TOKENS:
                    token_ids = token_ids[:_MAX_OPENING_TOKENS]
                    words = target.tokenizer.decode(token_ids, skip_special=True)
            begun[number] = (origin, words)
            yield Job(number, opening + token_ids, settings.temperature, settings.max_tokens)

    generator = make_generator(
        num_jobs=max_attempts,
        max_length=len(opening) + _MAX_OPENING_TOKENS + settings.max_tokens,
        prefix_ids=opening,
        seed=int(np.random.default_rng((*seed, 1)).integers(2**62)),
    )
    for finished in generator.run(jobs()):
        origin, words = begun.pop(finished.job.number)
        said = _said(target, finished)
        if not said:
            collection.refuse("endless")
        elif collection.missing(PromptKind(origin.partition(":")[0])):
            collection.add(user_prompt(words + said, origin))
        collection.show(len(finished.new_ids))
        if not any(collection.missing(kind) for kind in kinds):
            break


def read_plain(target: TrainingTarget, token_ids: list[int]) -> str:
    """Return the text of ids; nothing if special tokens are among them."""
    text = target.tokenizer.decode(token_ids, skip_special=True)
    return text if text == target.tokenizer.decode(token_ids, skip_special=False) else ""


def _said(target: TrainingTarget, finished: FinishedText) -> str:
    """Return what was said; nothing if it was cut off or holds special tokens."""
    return read_plain(target, finished.new_ids[:-1].tolist()) if finished.is_complete else ""
