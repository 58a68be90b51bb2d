"""llama.cpp through llama-cpp-python: plain, and with its prompt lookup.

The binding drafts by prompt lookup only; a draft model would have to be driven
from Python, token by token, and would measure that.
"""

from itertools import islice
from typing import Any

from llama_cpp import Llama
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from treedraft.bench.peers.protocol import Generation, PeerSetup, UnsupportedModeError

_CONTEXT = 1024
# What the binding recommends for machines without an accelerator.
_LOOKUP_TOKENS = 2


class LlamaCppPeer:
    """One context per mode, made when it is first asked for."""

    packages = ("llama-cpp-python",)

    def __init__(self, setup: PeerSetup) -> None:
        """Remember what to load, and load the plain context."""
        if not setup.gguf:
            raise UnsupportedModeError("the model is not to be had as a GGUF file")
        self._setup = setup
        self._contexts: dict[str, Any] = {}
        self._context("plain")

    def generate(self, mode: str, prompt_ids: list[int], num_tokens: int) -> Generation:
        """Continue a prompt from an empty context."""
        context = self._context(mode)
        tokens = context.generate(prompt_ids, top_k=1, temp=0.0, repeat_penalty=1.0, reset=True)
        return Generation([int(token) for token in islice(tokens, num_tokens)])

    def _context(self, mode: str) -> Any:
        if mode not in self._contexts:
            lookup = {"draft_model": LlamaPromptLookupDecoding(num_pred_tokens=_LOOKUP_TOKENS)}
            self._contexts[mode] = Llama(
                self._setup.gguf,
                n_ctx=_CONTEXT,
                n_threads=self._setup.num_threads,
                n_threads_batch=self._setup.num_threads,
                verbose=False,
                **(lookup if mode == "prompt lookup" else {}),
            )
        self._contexts[mode].reset()  # no part of an earlier prompt is found again
        return self._contexts[mode]
