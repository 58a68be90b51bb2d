"""mini-infer: Qwen2 models only, so a Llama model is given to it as a Qwen2 one.

The two differ in the biases of attention, which are zero here. Its speculative
step is a function beside the engine that no part of it calls: plain only.
"""

import json
from pathlib import Path
from typing import Any

import torch
from mini_infer import InferenceEngine, Qwen2Config, Qwen2ForCausalLM
from mini_infer.models.loader import _load_safetensors_into_model

from treedraft.bench.peers.protocol import Generation, PeerSetup, UnsupportedModeError

_NUM_BLOCKS = 64


class MiniInferPeer:
    """The engine over one model, without its prefix cache."""

    packages = ("mini-infer", "torch")

    def __init__(self, setup: PeerSetup) -> None:
        """Load the model."""
        torch.set_num_threads(setup.num_threads)
        folder = Path(setup.model)
        config = _config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        dtype = getattr(torch, setup.precision)
        model = Qwen2ForCausalLM(config).to(dtype=dtype)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.zero_()
        for file in sorted(folder.glob("*.safetensors")):
            _load_safetensors_into_model(model, file, target_dtype=dtype)
        if config.tie_word_embeddings:
            model.lm_head.weight = model.model.embed_tokens.weight
        self._engine: Any = InferenceEngine(
            model.eval(),
            config,
            num_blocks=_NUM_BLOCKS,
            enable_prefix_caching=False,
            device=torch.device("cpu"),
        )

    def generate(self, mode: str, prompt_ids: list[int], num_tokens: int) -> Generation:
        """Continue a prompt; every step is a pass."""
        if mode != "plain":
            raise UnsupportedModeError(f"the engine has no {mode}")
        sequence = self._engine.add_request(prompt_ids, max_tokens=num_tokens)
        num_passes = 0
        while len(sequence.output_token_ids) < num_tokens:
            self._engine.step()
            num_passes += 1
        return Generation(list(sequence.output_token_ids), num_passes)


def _config(document: dict[str, Any]) -> Any:
    if document["model_type"] not in ("llama", "qwen2"):
        raise UnsupportedModeError(f"cannot be given a model of type {document['model_type']}")
    rope = document.get("rope_parameters") or {}
    return Qwen2Config.from_dict({**document, "rope_theta": rope.get("rope_theta", 10_000.0)})
