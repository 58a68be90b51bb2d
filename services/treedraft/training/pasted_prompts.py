"""Prompts with pasted material: an instruction and a piece of the target's own text.

People paste what they want changed, explained or summed up. Here that is what
the target wrote itself, in answer to requests drawn from the grammar: answers
are written first, kept in a folder of their own, and cut into pieces of 20 to
120 tokens; each piece goes behind an instruction that fits its kind.
"""

from collections.abc import Iterator
from itertools import cycle, islice
from math import ceil

import numpy as np

from treedraft.core.generation import ChatMessage
from treedraft.training.excerpts import Excerpt, cut_excerpts
from treedraft.training.generation import GeneratorFactory
from treedraft.training.generator import Job
from treedraft.training.prompt_collection import PromptCollection
from treedraft.training.prompt_grammar import PromptGrammar
from treedraft.training.prompt_settings import PromptKind
from treedraft.training.prompt_store import PromptStore, TrainingPrompt, user_prompt
from treedraft.training.responses import common_beginning
from treedraft.training.target import TrainingTarget
from treedraft.training.user_turns import read_plain

_MAX_EXCERPT_TOKENS = 120
_MAX_REQUEST_TOKENS = 128
# Texts beyond those needed, since some offer nothing that can be pasted.
_SPARE_SHARE = 0.25
_MIN_SPARE = 8
_MAX_ROUNDS = 4
# Kinds by how much they are wanted where a text offers several.
_WEIGHTS = {"code": 4, "bugs": 3, "list": 2, "dialogue": 2, "letter": 3, "prose": 3}


def paste_prompts(
    target: TrainingTarget,
    collection: PromptCollection,
    texts: PromptStore,
    grammar: PromptGrammar,
    seed: tuple[int, ...],
    make_generator: GeneratorFactory,
) -> None:
    """Add as many prompts with pasted pieces as are missing, if the target's texts allow.

    Args:
        target: whose texts are pasted.
        collection: gets the prompts.
        texts: gets the texts, each a request and its answer; those there are used.
        grammar: of requests and instructions.
        seed: of all draws.
        make_generator: makes the generator.
    """
    wanted = collection.missing(PromptKind.PASTED)
    if not wanted:
        return
    num_texts = ceil(wanted * (1 + _SPARE_SHARE) / collection.settings.prompts_per_text)
    num_texts += _MIN_SPARE
    num_lacking = num_texts - len(texts.read())
    if num_lacking > 0:
        jobs = _requests(target, grammar, num_lacking, np.random.default_rng((*seed, 0)))
        _write_texts(target, collection, jobs, texts, (*seed, 1), make_generator)
    random = np.random.default_rng((*seed, 2))
    for prompt in _pasted(target, collection, texts.read(), grammar, random):
        if not collection.missing(PromptKind.PASTED):
            return
        collection.add(prompt)


def _requests(
    target: TrainingTarget, grammar: PromptGrammar, count: int, random: np.random.Generator
) -> list[tuple[TrainingPrompt, list[int]]]:
    """Return requests and their ids; those that are long are passed over."""
    requests: list[tuple[TrainingPrompt, list[int]]] = []
    for _ in range(_MAX_ROUNDS * count):
        drawn = grammar.request(random)
        prompt = user_prompt(drawn.text, drawn.category)
        token_ids = target.encode_chat(prompt.messages)
        if len(token_ids) <= _MAX_REQUEST_TOKENS:
            requests.append((prompt, token_ids))
        if len(requests) == count:
            break
    return requests


def _write_texts(
    target: TrainingTarget,
    collection: PromptCollection,
    requests: list[tuple[TrainingPrompt, list[int]]],
    texts: PromptStore,
    seed: tuple[int, ...],
    make_generator: GeneratorFactory,
) -> None:
    if not requests:
        return
    settings = collection.settings
    generator = make_generator(
        num_jobs=len(requests),
        max_length=_MAX_REQUEST_TOKENS + settings.max_tokens,
        prefix_ids=common_beginning([token_ids for _, token_ids in requests]),
        seed=int(np.random.default_rng(seed).integers(2**62)),
    )
    jobs = (
        Job(number, token_ids, settings.temperature, settings.max_tokens)
        for number, (_, token_ids) in enumerate(requests)
    )
    for finished in generator.run(jobs):
        prompt = requests[finished.job.number][0]
        token_ids = finished.new_ids.tolist()
        answer = read_plain(target, token_ids[:-1] if finished.is_complete else token_ids)
        # An empty one is kept too: what was written is not written again.
        said = ChatMessage("assistant", answer)
        texts.append(TrainingPrompt((*prompt.messages, said), prompt.origin))
        collection.show(len(token_ids))
    texts.flush_part()


def _pasted(
    target: TrainingTarget,
    collection: PromptCollection,
    texts: list[TrainingPrompt],
    grammar: PromptGrammar,
    random: np.random.Generator,
) -> Iterator[TrainingPrompt]:
    """Yield prompts, so many of each text in a row, and then again of the first."""
    settings = collection.settings

    def count_tokens(text: str) -> int:
        return len(target.tokenizer.encode(text))

    max_tokens = min(_MAX_EXCERPT_TOKENS, settings.max_tokens)
    for text in islice(cycle(texts), _MAX_ROUNDS * len(texts)):
        excerpts = cut_excerpts(text.text, text.origin, max_tokens, count_tokens, random)
        for excerpt in _draw(excerpts, settings.prompts_per_text, random):
            drawn = grammar.pasted(excerpt.kind, excerpt.text, random)
            if count_tokens(drawn.text) <= settings.max_tokens:
                yield user_prompt(drawn.text, f"{PromptKind.PASTED}:{drawn.category}")
            else:
                collection.refuse("long")


def _draw(excerpts: list[Excerpt], count: int, random: np.random.Generator) -> list[Excerpt]:
    """Return some excerpts, each once."""
    if not excerpts:
        return []
    weights = np.array([_WEIGHTS.get(excerpt.kind, 1) for excerpt in excerpts], float)
    size = min(count, len(excerpts))
    chosen = random.choice(len(excerpts), size=size, replace=False, p=weights / weights.sum())
    return [excerpts[index] for index in chosen]
