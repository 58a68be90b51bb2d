"""The sizes of a Llama-like decoder, for those who take its weights over.

The fused decoder (`fused/weights`) and the native one (`native/decoder`) hold weights in
ways of their own; both begin with how many there are.
"""

from dataclasses import dataclass

from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """The sizes of a Llama-like decoder."""

    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab_size: int
    epsilon: float
    scaling: float

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.num_heads // self.num_kv_heads

    @property
    def qkv(self) -> int:
        """Outputs of the joined product of queries, keys and values."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


def shape_of(module: PreTrainedModel) -> DecoderShape:
    """Return the sizes of a module of the kinds that `lean.can_streamline` knows."""
    config, attention = module.config, module.model.layers[0].self_attn
    return DecoderShape(
        num_layers=len(module.model.layers),
        hidden=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=attention.head_dim,
        intermediate=config.intermediate_size,
        vocab_size=module.lm_head.out_features,
        epsilon=config.rms_norm_eps,
        scaling=attention.scaling,
    )
