"""Weights in float32, and how a step moves them.

Passes run in the weights' own dtype, which may be bfloat16; what is optimised
are float32 copies, since a step of 0.001 of a weight is lost in bfloat16's
eight bits. Matrices of layers may be moved by Muon (Jordan et al., 2024), whose
momentum is made orthogonal first; the rest by AdamW.

Nothing here makes the host wait for the device. A gradient that is not finite
counts as zero, and how many there were in a row is known to the device.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from treedraft.inference.drafter_storage import WeightsKind, as_stored
from treedraft.training.student import output_head
from treedraft.training.train_settings import TrainSettings

_BETAS = (0.9, 0.95)
_EPSILON = 1e-8
_MUON_MOMENTUM = 0.95


def learning_rate_factor(share: float, settings: TrainSettings) -> float:
    """Return what the peak learning rate is multiplied by: a rise, then half a cosine.

    Args:
        share: of the run that is done, from 0 to 1.
        settings: of the run.
    """
    if share < settings.warm_up_share:
        return max(share, 1e-3) / settings.warm_up_share
    rest = (min(share, 1.0) - settings.warm_up_share) / (1.0 - settings.warm_up_share)
    wave = 0.5 * (1.0 + math.cos(math.pi * rest))
    return settings.final_share + (1.0 - settings.final_share) * wave


class MasterWeights:
    """The trained weights of a student in float32, and their optimiser."""

    def __init__(self, student: PreTrainedModel, settings: TrainSettings) -> None:
        """Copy what needs a gradient."""
        self._settings = settings
        named = {n: p for n, p in student.named_parameters() if p.requires_grad}
        self.names = tuple(named)
        self._parameters: list[Tensor] = list(named.values())
        self._masters = [p.detach().float().clone() for p in self._parameters]
        for master in self._masters:
            master.grad = torch.zeros_like(master)
        self._average = [m.clone() for m in self._masters] if settings.ema_decay else []
        self._in_use = self._masters
        self._optimisers = _make_optimisers(
            self._masters, self._parameters, output_head(student).weight, settings
        )
        device = self._masters[0].device
        self.gradient_norm = torch.zeros((), device=device)
        self.num_bad_in_a_row = torch.zeros((), dtype=torch.int32, device=device)

    @torch.no_grad()
    def step(self, gradients: Mapping[int, Tensor], share: float) -> None:
        """Move the weights and put them, rounded, into the module.

        Args:
            gradients: float32, of parameters that have none of their own, by `id`.
            share: of the run that is done.
        """
        self._take_gradients(gradients)
        self._clip()
        factor = learning_rate_factor(share, self._settings)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self._settings.learning_rate * factor
            optimiser.step()
        if self._average:
            torch._foreach_lerp_(self._average, self._masters, 1.0 - self._settings.ema_decay)
        torch._foreach_copy_(self._parameters, self._masters)

    @torch.no_grad()
    def use_average(self) -> bool:
        """Put the moving average into the module until `use_latest`; False if none is kept."""
        if self._average:
            torch._foreach_copy_(self._parameters, self._average)
            self._in_use = self._average
        return bool(self._average)

    @torch.no_grad()
    def use_latest(self) -> None:
        """Put the weights of the last step into the module."""
        self._in_use = self._masters
        torch._foreach_copy_(self._parameters, self._masters)

    @torch.no_grad()
    def round_as(self, kind: WeightsKind) -> None:
        """Round all weights to what is read where they are stored so; no step should follow."""
        for held in (self._masters, self._average):
            for name, weight in zip(self.names, held, strict=False):
                weight.copy_(as_stored(name, weight, kind))
        self.use_latest()

    def in_use(self) -> dict[str, Tensor]:
        """Return the float32 weights that the module's own are rounded from, by name."""
        return dict(zip(self.names, self._in_use, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs to go on."""
        return {
            "weights": dict(zip(self.names, self._masters, strict=True)),
            "average": dict(zip(self.names, self._average, strict=False)),
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a student of the same shape.

        Raises:
            KeyError, RuntimeError, ValueError: it is of another shape.
        """
        torch._foreach_copy_(self._masters, [state["weights"][name] for name in self.names])
        if self._average:
            torch._foreach_copy_(self._average, [state["average"][name] for name in self.names])
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.use_latest()

    def _take_gradients(self, gradients: Mapping[int, Tensor]) -> None:
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            gradient = gradients.get(id(parameter), parameter.grad)
            assert master.grad is not None
            if gradient is None:
                master.grad.zero_()
            else:
                master.grad.copy_(gradient)
            parameter.grad = None

    def _clip(self) -> None:
        grads = [m.grad for m in self._masters if m.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        is_finite = torch.isfinite(norm)
        scale = (self._settings.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, torch.where(is_finite, scale, 0.0))
        for grad in grads:
            grad.nan_to_num_(0.0, 0.0, 0.0)
        self.gradient_norm = norm
        self.num_bad_in_a_row = (self.num_bad_in_a_row + 1) * (~is_finite)


def _make_optimisers(
    masters: list[Tensor],
    parameters: list[Tensor],
    head: Tensor,
    settings: TrainSettings,
) -> list[torch.optim.Optimizer]:
    pairs = list(zip(masters, parameters, strict=True))
    inner = [m for m, p in pairs if m.ndim == 2 and p is not head]
    outer = [m for m, p in pairs if m.ndim == 2 and p is head]
    vectors = [m for m, _ in pairs if m.ndim != 2]
    is_muon = settings.optimiser == "muon"
    decayed = outer if is_muon else inner + outer
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=_BETAS,
            eps=_EPSILON,
            fused=masters[0].device.type == "cuda",
        )
    ]
    if is_muon:
        optimisers.append(
            torch.optim.Muon(
                inner,
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
                momentum=_MUON_MOMENTUM,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimisers
