"""flashspec: speculative only, with a draft model and lookup together, or lookup alone."""

from typing import Any

import torch
import transformers
from flashspec import BanditConfig, FlashSpecConfig, SamplingConfig, SpeculativeEngine
from flashspec.engine import HuggingFaceDrafter, NgramDrafter, TargetModel

from treedraft.bench.peers.protocol import Generation, PeerSetup, UnsupportedModeError
from treedraft.bench.peers.transformers_peer import load_causal_lm

_DEVICE = torch.device("cpu")


class FlashSpecPeer:
    """One engine per mode over one target."""

    packages = ("flashspec", "transformers", "torch")

    def __init__(self, setup: PeerSetup) -> None:
        """Load the target."""
        transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        torch.set_num_threads(setup.num_threads)
        self._setup = setup
        self._dtype = getattr(torch, setup.precision)
        model = load_causal_lm(setup.model, setup.precision)
        self._target = TargetModel(setup.model, _DEVICE, self._dtype, model=model)
        self._engines: dict[str, Any] = {}

    def generate(self, mode: str, prompt_ids: list[int], num_tokens: int) -> Generation:
        """Continue a prompt; every step is a pass of the target."""
        if mode not in self._engines:
            self._engines[mode] = self._engine(mode)
        with torch.inference_mode():
            result = self._engines[mode].generate(torch.tensor([prompt_ids]), num_tokens)
        return Generation(result.output_ids[0, :num_tokens].tolist(), len(result.arm_steps))

    def _engine(self, mode: str) -> Any:
        options: dict[str, Any] = {
            "device": "cpu",
            "dtype": self._setup.precision,
            "sampling": SamplingConfig(temperature=0.0),
        }
        if mode == "prompt lookup":
            config = FlashSpecConfig(
                drafter_strategy="bandit", bandit=BanditConfig(n_arms=1), **options
            )
            return SpeculativeEngine(config, [NgramDrafter()], self._target)
        if not self._setup.drafter:
            raise UnsupportedModeError("there is no draft model for this target")
        drafter = HuggingFaceDrafter(
            self._setup.drafter,
            _DEVICE,
            self._dtype,
            temperature=0.0,
            model=load_causal_lm(self._setup.drafter, self._setup.precision),
        )
        return SpeculativeEngine(FlashSpecConfig(**options), [drafter], self._target)
