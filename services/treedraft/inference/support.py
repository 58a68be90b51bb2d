"""Refuses models that a tree mask cannot verify, by the name of what is in the way.

A tree of drafted tokens goes through the model as rows of one pass, and the
attention mask alone decides which row sees which. That verifies a model only
if rows meet nowhere but in our attention function: no recurrent or
convolution state, no window or sink that the function does not know, no
position that is guessed from the order of rows.

Two checks: `check_supported` reads the configuration, before weights are
fetched into memory, and can say what is wrong; `probe_module` runs the loaded
model with an attention function in which no row sees another, and so finds
what no configuration tells.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.tree_attention import ATTENTION_NAME

REASON = "UNSUPPORTED_ATTENTION"

_FULL_ATTENTION = frozenset({"full_attention", "attention"})
# Rotary embeddings whose angles depend on the longest text of the pass.
_UNSTABLE_ROPE = frozenset({"dynamic", "longrope"})
# A setting that is not None or 0, and what it means.
_REFUSED_SETTINGS = {
    "attn_logit_softcapping": "soft-capped attention scores",
    "kv_lora_rank": "multi-head latent attention",
    "attention_chunk_size": "chunked attention",
    "alibi": "ALiBi position biases",
}
_PROBE_NAME = "treedraft_probe"
_PROBE_TOKENS = (3, 10, 17, 24)
_PROBE_POSITIONS = (5, 6, 6, 7)  # as in a tree: two rows at one position
# Of the logits' own spread. Rounding stays below 0.02, also in bfloat16; rows
# that influence each other differ by about 1.
_PROBE_TOLERANCE = 0.1


def check_supported(config: PreTrainedConfig) -> None:
    """Refuse a model by its configuration.

    Raises:
        UnsupportedModelError: reason UNSUPPORTED_ATTENTION, naming the layer or
            the setting.
    """
    kind = config.model_type
    if config.is_encoder_decoder:
        raise _refusal(kind, "it is an encoder-decoder, not a decoder alone")
    config = config.get_text_config(decoder=True)
    _check_layer_types(kind, config)
    _check_windows(kind, config)
    for setting, meaning in _REFUSED_SETTINGS.items():
        if getattr(config, setting, None):
            raise _refusal(kind, f"it has {meaning} ({setting}={getattr(config, setting)})")
    for rope_type in _rope_types(config):
        if rope_type in _UNSTABLE_ROPE:
            raise _refusal(kind, f"its rotary embedding ({rope_type}) changes with the length")
    _check_model_class(kind, config)


def _refusal(name: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{name} cannot be verified by a tree: {why}", reason=REASON)


def _check_layer_types(kind: str, config: PreTrainedConfig) -> None:
    for setting in ("layer_types", "layers_block_type"):
        for index, layer_type in enumerate(getattr(config, setting, None) or ()):
            if layer_type not in _FULL_ATTENTION:
                raise _refusal(kind, f"layer {index} is {layer_type!r}, not full attention")


def _check_windows(kind: str, config: PreTrainedConfig) -> None:
    """Refuse a sliding window within the context; with layer types, these decide."""
    window = getattr(config, "sliding_window", None)
    is_used = getattr(config, "use_sliding_window", True) and not getattr(
        config, "layer_types", None
    )
    if window and is_used and window < config.max_position_embeddings:
        raise _refusal(kind, f"every layer has a sliding window of {window} tokens")


def _rope_types(config: PreTrainedConfig) -> Iterator[str]:
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    # One set for all layers, or one set for each type of layer.
    groups = [parameters] if "rope_type" in parameters else parameters.values()
    for group in groups:
        if isinstance(group, dict):
            yield group.get("rope_type", "default")


def _check_model_class(kind: str, config: PreTrainedConfig) -> None:
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    if model_class is None:
        raise _refusal(kind, "transformers knows no causal language model of this type")
    if getattr(model_class, "_is_stateful", False):
        raise _refusal(kind, f"{model_class.__name__} has a recurrent state")
    if not model_class._supports_attention_backend:
        raise _refusal(kind, f"{model_class.__name__} takes no attention function of ours")


def probe_module(module: PreTrainedModel, num_layers: int) -> None:
    """Refuse a loaded model in which rows meet outside of our attention function.

    With an attention that lets each row see itself only, the logits of a row
    must be those of its token alone at the same position. Anything else that
    mixes rows (a convolution, a state, positions counted by row) shows up as
    a difference, a layer that bypasses the function as a missing call.

    Raises:
        UnsupportedModelError: reason UNSUPPORTED_ATTENTION.
    """
    kind = module.config.model_type
    calls: list[torch.nn.Module] = []
    with _probing(module):
        together = _probe_logits(module, _PROBE_TOKENS, _PROBE_POSITIONS, calls)
        rows = [
            _probe_logits(module, [token], [position], [])
            for token, position in zip(_PROBE_TOKENS, _PROBE_POSITIONS, strict=True)
        ]
    if len(calls) != num_layers:
        raise _refusal(kind, f"{len(calls)} of {num_layers} layers call our attention function")
    alone = torch.cat(rows)
    differences = (together - alone).square().mean(dim=1).sqrt() / alone.std(dim=1)
    # The median, since a rounding may send the odd row to another expert; the
    # first row, which has no other before it, may always be right.
    if not float(differences.median()) < _PROBE_TOLERANCE:
        raise _refusal(kind, "its rows influence each other outside of attention")


@contextmanager
def _probing(module: PreTrainedModel) -> Iterator[None]:
    attention = module.config._attn_implementation or ATTENTION_NAME
    module.set_attn_implementation(_PROBE_NAME)
    try:
        yield
    finally:
        module.set_attn_implementation(attention)


def _attend_to_self(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    probe_calls: list[torch.nn.Module] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return the value of each row itself, [1, rows, num_heads, head_dim]."""
    name = type(module).__name__
    if probe_calls is None:
        raise _refusal(name, "it hands no keyword arguments to attention")
    if attention_mask is not None or not getattr(module, "is_causal", True):
        raise _refusal(name, "its attention is not plainly causal")
    if value.shape != key.shape:
        raise _refusal(name, "its keys and values differ in size")
    for option in ("softcap", "s_aux", "position_bias"):
        if options.get(option) is not None:
            raise _refusal(name, f"its attention has {option}")
    probe_calls.append(module)
    num_groups = query.shape[1] // value.shape[1]
    return value.repeat_interleave(num_groups, dim=1).transpose(1, 2), None


@torch.inference_mode()
def _probe_logits(
    module: PreTrainedModel,
    token_ids: Sequence[int],
    positions: Sequence[int],
    calls: list[torch.nn.Module],
) -> torch.Tensor:
    outputs = module(
        input_ids=torch.tensor([token_ids], device=module.device),
        position_ids=torch.tensor([positions], device=module.device),
        attention_mask=None,
        use_cache=False,
        probe_calls=calls,
    )
    logits: torch.Tensor = outputs.logits[0].float()
    return logits


AttentionInterface.register(_PROBE_NAME, _attend_to_self)
