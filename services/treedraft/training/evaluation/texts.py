"""The target's own texts: what a drafter is asked to foresee.

They are drawn by the product's own law and noise, in float32 on a CPU unless
told otherwise, so they are what the engine would emit for the same seed. Since
no draft can change a text, one set of texts serves every drafter and every shape
of tree; it is kept in a folder and made once.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from treedraft.core.errors import PromptTooLongError
from treedraft.core.generation import ChatMessage
from treedraft.inference.downloads import Progress
from treedraft.inference.models import LoadedModel
from treedraft.inference.sampler import LawRow, NoiseRows, coupled_draw, processed_logits
from treedraft.inference.segment import Segment
from treedraft.text.chat_template import render_chat
from treedraft.text.tokenizer import Tokenizer
from treedraft.training.evaluation.held_out import HeldOutPrompt
from treedraft.training.evaluation.passes import make_runner, prompt_segment
from treedraft.training.evaluation.settings import EvaluationSettings

_FORMAT_VERSION = 1
_NOISE_ROWS = 512  # 200 MB over 49,152 tokens; prompts of several temperatures share them


@dataclass(frozen=True, slots=True)
class TargetText:
    """One text with its prompt, and how the target drew it.

    Attributes:
        category: of the prompt.
        temperature: of the text.
        seed: of its noise.
        token_ids: prompt and response; a token's index is its position.
        prompt_length: tokens before the response.
        log_probs: of each response token under the target's law at that
            temperature, float32 [response]; zeros at temperature 0.
    """

    category: str
    temperature: float
    seed: int
    token_ids: tuple[int, ...]
    prompt_length: int
    log_probs: npt.NDArray[np.float32]

    @property
    def num_response_tokens(self) -> int:
        """Tokens that the target wrote."""
        return len(self.token_ids) - self.prompt_length


def target_texts(
    target: LoadedModel,
    prompts: Sequence[HeldOutPrompt],
    settings: EvaluationSettings,
    progress: Progress,
    *,
    cache: Path | None = None,
) -> tuple[TargetText, ...]:
    """Return the target's text for every prompt and temperature.

    Args:
        target: as `load_model` gives it.
        prompts: what users say.
        settings: temperatures, length, seed.
        progress: told how far it is.
        cache: folder where texts are kept for the next time; None keeps none.

    Raises:
        InvalidRequestError: the model has no chat template.
        PromptTooLongError: a prompt and its text do not fit into the context.
    """
    file = cache / f"texts-{_key(target, prompts, settings)}.npz" if cache else None
    if file is not None and file.is_file():
        return _read(file, prompts, settings)
    tokenizer = Tokenizer.from_json(target.tokenizer_json)
    encoded = [_encode(target, tokenizer, prompt.text) for prompt in prompts]
    texts: list[TargetText] = []
    per_batch = max(1, settings.batch_texts // len(settings.temperatures))
    for first in range(0, len(prompts), per_batch):
        batch = range(first, min(first + per_batch, len(prompts)))

        def tell(done: int, first: int = first) -> None:
            share = first / len(prompts) + done * per_batch / settings.max_tokens / len(prompts)
            progress(f"the target writes its texts: {min(99, int(100 * share))} %")

        tell(0)
        texts += _Writer(target, settings, tell).write(
            {index: encoded[index] for index in batch},
            {index: prompts[index].category for index in batch},
        )
    if file is not None:
        _write(file, texts)
    return tuple(texts)


def _encode(target: LoadedModel, tokenizer: Tokenizer, prompt: str) -> list[int]:
    messages = [ChatMessage("user", prompt)]
    return tokenizer.encode(render_chat(target.chat_template, messages, target.special_tokens))


@dataclass(slots=True)
class _Draft:
    """A text while it is written; its prompt's KV belongs to several of them."""

    prompt_index: int
    temperature: float
    token_ids: list[int]
    prompt_slots: list[int]
    slots: list[int]
    log_probs: list[float]


class _Writer:
    """Writes the texts of a few prompts, all temperatures at once."""

    def __init__(
        self, target: LoadedModel, settings: EvaluationSettings, tell: Callable[[int], None]
    ) -> None:
        self._target = target
        self._settings = settings
        self._tell = tell
        self._noise = NoiseRows(max_rows=_NOISE_ROWS)

    def write(self, encoded: dict[int, list[int]], categories: dict[int, str]) -> list[TargetText]:
        """Return the texts, ordered by prompt and then by temperature."""
        settings = self._settings
        longest = max(map(len, encoded.values())) + settings.max_tokens
        if longest > self._target.context_length:
            raise PromptTooLongError(f"a prompt and its text need {longest} tokens of context")
        num_temperatures = len(settings.temperatures)
        num_slots = sum(map(len, encoded.values())) + (
            len(encoded) * num_temperatures * settings.max_tokens
        )
        runner, slots = make_runner(self._target, num_slots)
        drafts = []
        for index, token_ids in encoded.items():
            own = slots.allocate(len(token_ids))
            logits = runner.forward([prompt_segment(token_ids, own)])
            started = [
                _Draft(index, temperature, list(token_ids), own, [], [])
                for temperature in settings.temperatures
            ]
            self._draw(started, logits.expand(num_temperatures, -1))
            drafts += started
        for step in range(1, settings.max_tokens):
            running = [draft for draft in drafts if not self._has_ended(draft)]
            if not running:
                break
            for draft in running:
                draft.slots += slots.allocate(1)
            self._draw(running, runner.forward([_next_segment(draft) for draft in running]))
            self._tell(step)
        return [
            self._finished(draft, len(encoded[draft.prompt_index]), categories) for draft in drafts
        ]

    def _has_ended(self, draft: _Draft) -> bool:
        return draft.token_ids[-1] in self._target.eos_token_ids

    def _draw(self, drafts: Sequence[_Draft], logits: torch.Tensor) -> None:
        rows = [
            LawRow(
                self._settings.sampling(draft.temperature, draft.prompt_index),
                position=len(draft.token_ids),
            )
            for draft in drafts
        ]
        drawn = coupled_draw(logits, rows, self._noise)
        log_laws = torch.log_softmax(processed_logits(logits, rows), dim=-1)
        chosen = torch.tensor(drawn, device=logits.device)[:, None]
        log_probs = log_laws.gather(1, chosen)[:, 0].tolist()
        for draft, token_id, log_prob in zip(drafts, drawn, log_probs, strict=True):
            draft.token_ids.append(token_id)
            draft.log_probs.append(log_prob if draft.temperature else 0.0)

    def _finished(
        self, draft: _Draft, prompt_length: int, categories: dict[int, str]
    ) -> TargetText:
        return TargetText(
            category=categories[draft.prompt_index],
            temperature=draft.temperature,
            seed=self._settings.seed + draft.prompt_index,
            token_ids=tuple(draft.token_ids),
            prompt_length=prompt_length,
            log_probs=np.array(draft.log_probs, dtype=np.float32),
        )


def _next_segment(draft: _Draft) -> Segment:
    return Segment(
        token_ids=draft.token_ids[-1:],
        positions=[len(draft.token_ids) - 1],
        write_slots=draft.slots[-1:],
        context_slots=np.array(draft.prompt_slots + draft.slots[:-1], dtype=np.int64),
        tree_slots=draft.slots[-1:],
        tree_mask=np.ones((1, 1), dtype=np.bool_),
        output_rows=[0],
    )


def _key(
    target: LoadedModel, prompts: Sequence[HeldOutPrompt], settings: EvaluationSettings
) -> str:
    """Return a hash of everything that shapes the texts."""
    shaping = {
        "format": _FORMAT_VERSION,
        "target": target.fingerprint,
        "template": target.chat_template,
        "prompts": [asdict(prompt) for prompt in prompts],
        "temperatures": settings.temperatures,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed,
    }
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:24]


def _write(file: Path, texts: Sequence[TargetText]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".partial-{file.name}")
    np.savez(
        partial,
        token_ids=np.concatenate([np.array(text.token_ids, dtype=np.int64) for text in texts]),
        lengths=np.array([len(text.token_ids) for text in texts]),
        prompt_lengths=np.array([text.prompt_length for text in texts]),
        log_probs=np.concatenate([text.log_probs for text in texts]),
    )
    partial.replace(file)


def _read(
    file: Path, prompts: Sequence[HeldOutPrompt], settings: EvaluationSettings
) -> tuple[TargetText, ...]:
    with np.load(file) as stored:
        lengths, prompt_lengths = stored["lengths"], stored["prompt_lengths"]
        token_ids = np.split(stored["token_ids"], np.cumsum(lengths)[:-1])
        log_probs = np.split(stored["log_probs"], np.cumsum(lengths - prompt_lengths)[:-1])
    kinds = [
        (index, prompt, temperature)
        for index, prompt in enumerate(prompts)
        for temperature in settings.temperatures
    ]
    return tuple(
        TargetText(
            category=prompt.category,
            temperature=temperature,
            seed=settings.seed + index,
            token_ids=tuple(ids.tolist()),
            prompt_length=int(prompt_length),
            log_probs=own_log_probs,
        )
        for (index, prompt, temperature), ids, prompt_length, own_log_probs in zip(
            kinds, token_ids, prompt_lengths, log_probs, strict=True
        )
    )
