"""transformers' `generate`: dynamic and static cache, assisted, prompt lookup."""

from typing import Any

import torch
import transformers

from treedraft.bench.peers.protocol import Generation, PeerSetup, UnsupportedModeError

_LOOKUP_TOKENS = 10  # as in transformers' documentation


class TransformersPeer:
    """A model as a user of transformers would load it, and a draft model beside it."""

    packages = ("transformers", "torch")

    def __init__(self, setup: PeerSetup) -> None:
        """Load the model, and the draft model if there is one."""
        transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        torch.set_num_threads(setup.num_threads)
        self._model = load_causal_lm(setup.model, setup.precision)
        self._drafter = load_causal_lm(setup.drafter, setup.precision) if setup.drafter else None
        self._num_passes = 0
        self._model.register_forward_hook(self._count)

    def generate(self, mode: str, prompt_ids: list[int], num_tokens: int) -> Generation:
        """Continue a prompt; the passes of the model are counted."""
        options = self._options(mode)
        self._num_passes = 0
        ids = torch.tensor([prompt_ids])
        with torch.inference_mode():
            output: Any = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=num_tokens,
                pad_token_id=0,
                **options,
            )
        return Generation(output[0, len(prompt_ids) :].tolist(), self._num_passes)

    def _options(self, mode: str) -> dict[str, Any]:
        if mode == "assisted":
            if self._drafter is None:
                raise UnsupportedModeError("there is no draft model for this target")
            return {"assistant_model": self._drafter}
        known: dict[str, dict[str, Any]] = {
            "plain": {},
            "static cache": {"cache_implementation": "static"},
            "prompt lookup": {"prompt_lookup_num_tokens": _LOOKUP_TOKENS},
        }
        return known[mode]

    def _count(self, *_of_the_pass: Any) -> None:
        self._num_passes += 1


def load_causal_lm(folder: str, precision: str) -> Any:
    """Load a causal language model for the CPU; the end of a text is an ordinary token."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, precision), attn_implementation="sdpa"
    )
    model.eval()
    model.generation_config.eos_token_id = None
    return model
