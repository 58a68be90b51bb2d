"""The first stage: what to ask the target.

A drafter is as good as the prompts of its training are broad, and a small model
left to itself asks about few things. So there are four kinds of prompts:
complete ones, drawn from a grammar of what people ask; such that the target
ends after first words out of the grammar, or makes up freely, speaking as the
user; and instructions with a pasted piece of text that the target wrote before.
Prompts from files come first and count.

The order of work is that of `PromptKind`; the complete ones come last and fill
up what the others left, since they need no model at all.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from treedraft.core.errors import UnavailableError
from treedraft.inference.downloads import Progress
from treedraft.training.generation import GeneratorFactory, free_memory
from treedraft.training.pasted_prompts import paste_prompts
from treedraft.training.prompt_collection import PromptCollection
from treedraft.training.prompt_filter import PromptFilter
from treedraft.training.prompt_grammar import PromptGrammar, prompt_grammar
from treedraft.training.prompt_settings import PromptKind, PromptSettings
from treedraft.training.prompt_store import PromptStore, read_prompt_file, user_prompt
from treedraft.training.target import TrainingTarget
from treedraft.training.user_turns import make_up_prompts

_TEXTS_FOLDER = "texts"


def collect_prompts(
    target: TrainingTarget,
    settings: PromptSettings,
    folder: Path,
    held_out: Sequence[str],
    *,
    seed: int,
    make_generator: GeneratorFactory,
    progress: Progress,
) -> dict[str, int]:
    """Fill a folder with prompts up to the number wanted; what it holds counts.

    Args:
        target: who makes up some of them.
        settings: what to ask.
        folder: of the prompts; one that was begun is gone on with.
        held_out: texts to keep away from.
        seed: of the draws; a folder that was begun goes on with other draws.
        make_generator: makes the generator.
        progress: told how far it is.

    Returns:
        Numbers of prompts kept, added by kind, and refused by reason, in this run.

    Raises:
        InvalidRequestError: a file of prompts cannot be read.
        UnavailableError: reason TOO_FEW_PROMPTS; no source gives as many fit ones.
    """
    store, texts = PromptStore(folder), PromptStore(folder / _TEXTS_FOLDER)
    collection = PromptCollection(store, PromptFilter(held_out), settings, progress)
    draws = (seed, store.num_parts + texts.num_parts)
    try:
        _read_files(collection)
        if collection.num_missing:
            grammar = prompt_grammar()
            paste_prompts(target, collection, texts, grammar, (*draws, 0), make_generator)
            free_memory()
            make_up_prompts(target, collection, grammar, (*draws, 1), make_generator)
            _draw_prompts(collection, grammar, np.random.default_rng((*draws, 2)))
    finally:
        store.flush_part()
        texts.flush_part()
    if collection.num_missing:
        raise UnavailableError(
            f"only {collection.num_kept} prompts are fit; refused were "
            f"{dict(collection.prompt_filter.num_refused)}",
            reason="TOO_FEW_PROMPTS",
        )
    made_up = {kind.value: collection.added[kind] for kind in PromptKind if collection.added[kind]}
    return {"kept": collection.num_kept, **made_up, **collection.prompt_filter.num_refused}


def _read_files(collection: PromptCollection) -> None:
    """Add the prompts of files, from the first one on: those that were read before are known."""
    for path in collection.settings.files:
        for prompt in read_prompt_file(Path(path).expanduser()):
            collection.add(prompt)


def _draw_prompts(
    collection: PromptCollection, grammar: PromptGrammar, random: np.random.Generator
) -> None:
    for _ in range(collection.max_attempts(PromptKind.COMPLETE)):
        if not collection.missing(PromptKind.COMPLETE):
            return
        drawn = grammar.request(random)
        collection.add(user_prompt(drawn.text, f"{PromptKind.COMPLETE}:{drawn.category}"))
