"""A drafter as training begins: some layers of the target under its own final norm.

It reads the target's input embedding, which is shared and never trained, and
its head starts as the target's rows for the ids that it may say. So it begins
as the target with layers left out, and training teaches the layers that are
there to do without the others (DistilBERT, arXiv 1910.01108, begins so too).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from treedraft.core.errors import InvalidRequestError, UnsupportedModelError
from treedraft.inference.drafter_folder import build_drafter_module, drafter_config
from treedraft.training.causal_attention import CAUSAL_ATTENTION
from treedraft.training.quick_norms import use_quick_norms

_HEAD_TOLERANCE = 0.05  # of the logits' own spread; a cap or a factor would exceed it
_PROBE_TOKENS = (3, 10, 17, 24)
LAYER_CHOICES = ("first", "even", "ends")


def choose_layers(choice: str, depth: int, num_layers: int) -> tuple[int, ...]:
    """Return the layers of the target that a drafter begins as, ascending.

    Args:
        choice: `first`; `even`, spread from the first to the last; `ends`, the
            first ones and the last; or numbers with commas between them.
        depth: how many.
        num_layers: of the target.

    Raises:
        InvalidRequestError: reason INVALID_LAYERS.
    """
    if not 1 <= depth <= num_layers:
        raise _invalid_layers(f"cannot take {depth} of {num_layers} layers")
    if choice == "first" or depth == 1:
        return tuple(range(depth))
    if choice == "even":
        return tuple(round(index * (num_layers - 1) / (depth - 1)) for index in range(depth))
    if choice == "ends":
        return (*range(depth - 1), num_layers - 1)
    try:
        layers = tuple(int(number) for number in choice.split(","))
    except ValueError as error:
        raise _invalid_layers(f"{choice!r} is neither first, even, ends nor numbers") from error
    ascends = all(earlier < later for earlier, later in pairwise(layers))
    if len(layers) != depth or not ascends or not 0 <= layers[0] <= layers[-1] < num_layers:
        raise _invalid_layers(f"{choice!r} is not {depth} ascending layers of {num_layers}")
    return layers


def _invalid_layers(why: str) -> InvalidRequestError:
    return InvalidRequestError(why, field="layer_choice", reason="INVALID_LAYERS")


def make_student(
    target: PreTrainedModel,
    layers: Sequence[int],
    draft_token_ids: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """Return a drafter made of a target's parts, on its device.

    Layers, final norm and head need gradients; the input embedding is the
    target's own, in its storage if the dtype is the same.

    Args:
        target: transformers' module, as `load_target` has it.
        layers: which of its layers, in order.
        draft_token_ids: the target's id of each column of the head, ascending.
        dtype: of the weights; by default that of the target.
    """
    dtype = dtype or target.dtype
    student = build_drafter_module(
        drafter_config(target.config, len(layers)),
        len(draft_token_ids),
        dtype=dtype,
        attn_implementation=CAUSAL_ATTENTION,
    )
    student.to(target.device)  # type: ignore[arg-type]
    columns = torch.tensor(list(draft_token_ids), device=target.device)
    with torch.no_grad():
        for own, source in zip(decoder_layers(student), layers, strict=True):
            own.load_state_dict(decoder_layers(target)[source].state_dict())
        _copy_the_rest(student.base_model, target.base_model)
        output_head(student).weight.copy_(output_head(target).weight[columns])
    _share_embedding(student, target)
    use_quick_norms(student)
    student.eval()  # type: ignore[no-untyped-call]
    student.requires_grad_(True)
    student.get_input_embeddings().requires_grad_(False)
    return student


def decoder_layers(module: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a causal language model.

    Raises:
        UnsupportedModelError: it keeps them elsewhere.
    """
    layers: Any = getattr(module.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UnsupportedModelError(f"{type(module).__name__} has no list of layers to take from")
    return layers


def output_head(module: PreTrainedModel) -> nn.Linear:
    """Return the head.

    Raises:
        UnsupportedModelError: reason UNSUPPORTED_HEAD, if it is more than a matrix.
    """
    head: Any = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear) or getattr(head, "bias", None) is not None:
        raise UnsupportedModelError(
            f"{type(module).__name__} has a head that is more than a matrix",
            reason="UNSUPPORTED_HEAD",
        )
    return head


def last_hidden(module: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Return the normed states that the head reads.

    Args:
        module: a causal language model with our causal attention.
        tokens: [batch, length], padded at the end.

    Returns:
        [batch, length, hidden]; what stands behind padding is of no meaning.
    """
    states: Tensor = module.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    return states


@torch.no_grad()
def check_head(module: PreTrainedModel) -> None:
    """Refuse a model whose logits are not just its head on its last hidden state.

    Training takes the two apart, so that logits of few positions at a time are in
    memory; a cap or a factor on logits would be lost.

    Raises:
        UnsupportedModelError: reason UNSUPPORTED_HEAD.
    """
    tokens = torch.tensor([_PROBE_TOKENS], device=module.device)
    whole = module(input_ids=tokens, use_cache=False).logits.float()
    apart = output_head(module)(last_hidden(module, tokens)).float()
    if (whole - apart).abs().max() > _HEAD_TOLERANCE * whole.std():
        raise UnsupportedModelError(
            f"{type(module).__name__} does more to its logits than a linear head",
            reason="UNSUPPORTED_HEAD",
        )


def _copy_the_rest(own: nn.Module, source: nn.Module) -> None:
    """Copy what is neither layer nor embedding: the final norm."""
    wanted = dict(own.named_parameters())
    embedding = own.get_input_embeddings().weight  # type: ignore[operator]
    for name, parameter in source.named_parameters():
        if not name.startswith("layers.") and wanted[name] is not embedding:
            wanted[name].copy_(parameter)


def _share_embedding(student: PreTrainedModel, target: PreTrainedModel) -> None:
    own, shared = student.get_input_embeddings(), target.get_input_embeddings()
    assert isinstance(own, nn.Embedding)
    assert isinstance(shared, nn.Embedding)
    own.weight = nn.Parameter(shared.weight.detach().to(own.weight.dtype), requires_grad=False)
