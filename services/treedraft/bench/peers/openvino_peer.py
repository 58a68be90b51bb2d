"""OpenVINO GenAI on the CPU: plain, and with prompt lookup.

It reads a target from GGUF but no draft model: that has to be in its own format.
"""

from typing import Any

import numpy as np
import openvino
import openvino_genai

from treedraft.bench.peers.protocol import Generation, PeerSetup, UnsupportedModeError

_NAMES = {"float32": "f32", "bfloat16": "bf16"}
_LOOKUP_TOKENS = 5
_LOOKUP_NGRAM = 3


class OpenVinoPeer:
    """One pipeline per mode, made when it is first asked for."""

    packages = ("openvino-genai", "openvino")

    def __init__(self, setup: PeerSetup) -> None:
        """Remember what to load, and load the plain pipeline."""
        if not setup.gguf:
            raise UnsupportedModeError("the model is not to be had as a GGUF file")
        self._setup = setup
        self._pipelines: dict[str, Any] = {}
        self._pipeline("plain")

    def generate(self, mode: str, prompt_ids: list[int], num_tokens: int) -> Generation:
        """Continue a prompt."""
        pipeline = self._pipeline(mode)
        ids = np.array([prompt_ids], dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(
            openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids))
        )
        output = pipeline.generate(inputs, self._generation(mode, num_tokens))
        return Generation([int(token) for token in output.tokens[0]])

    def _generation(self, mode: str, num_tokens: int) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = num_tokens
        config.ignore_eos = True
        config.do_sample = False
        if mode == "prompt lookup":
            config.num_assistant_tokens = _LOOKUP_TOKENS
            config.max_ngram_size = _LOOKUP_NGRAM
        return config

    def _pipeline(self, mode: str) -> Any:
        if mode not in self._pipelines:
            options = self._options()
            if mode == "prompt lookup":
                options["prompt_lookup"] = True
            elif mode != "plain":
                raise UnsupportedModeError("it reads no draft model from GGUF or safetensors")
            self._pipelines[mode] = openvino_genai.LLMPipeline(self._setup.gguf, "CPU", **options)
        return self._pipelines[mode]

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": self._setup.num_threads}
        if name := _NAMES.get(self._setup.precision):
            options |= {"INFERENCE_PRECISION_HINT": name, "KV_CACHE_PRECISION": name}
        return options
