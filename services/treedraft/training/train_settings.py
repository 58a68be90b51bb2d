"""What shapes the training of a drafter: its size, its data, its losses, its pace."""

from typing import Literal

from pydantic import Field, model_validator

from treedraft.inference.drafter_storage import WeightsKind
from treedraft.settings import Frozen

Precision = Literal["auto", "float32", "bfloat16"]
Compilation = Literal["off", "losses", "all"]
Optimiser = Literal["adamw", "muon"]

DEFAULT_LAYERS = 4
DEFAULT_COLUMNS = 16_384


class LossSettings(Frozen):
    """The mixture of losses and how it changes over a run."""

    kl_share: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="Share of the run that is trained on the divergence alone.",
    )
    ramp_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the run, after that, over which the other losses come in.",
    )
    acceptance: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Final weight of -log Σ min(p, q) at the temperature of each text.",
    )
    total_variation: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Final weight of 1 - Σ min(p, q) at the temperature of each text.",
    )
    hard: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Final weight of the cross entropy with the target's greedy token.",
    )
    hidden: float = Field(
        default=0.0,
        ge=0,
        description="Weight, throughout, of the distance to the target's last hidden state.",
    )
    survival_share: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="How far positions are weighted, in the end, by what a chain of drafts gains "
        "there; at 0 all count alike.",
    )
    survival_depth: int = Field(
        default=8, ge=1, le=64, description="Length of the chains that this weighting supposes."
    )

    @model_validator(mode="after")
    def _check_sum(self) -> "LossSettings":
        if self.acceptance + self.total_variation + self.hard > 1.0 + 1e-9:
            raise ValueError("acceptance, total_variation and hard add up to more than 1")
        return self


# A run that was broken off may be gone on with other values of these: they say how long it
# takes, or what is seen of it, not what is learned from which texts.
PACE_SETTINGS = {
    "cache_teacher",
    "checkpoint_seconds",
    "chunk_rows",
    "compilation",
    "epochs",
    "log_steps",
    "max_seconds",
    "validation_seconds",
}


class TrainSettings(Frozen):
    """How a drafter is made out of a target and its texts."""

    layers: int = Field(
        default=0,
        ge=0,
        description="Layers of the drafter, no fewer than those of `init`. 0 means as many, or "
        f"{DEFAULT_LAYERS} without it.",
    )
    layer_choice: str = Field(
        default="even",
        description="Which layers of the target it begins as: `first`, `even` (spread from the "
        "first to the last), `ends` (the first ones and the last), or their numbers with commas "
        "between them. With `init`, new layers lie between its own unless numbers name all.",
    )
    vocab_size: int = Field(
        default=0,
        ge=0,
        description="Columns of the head: those of `init`, then the ids most frequent in the "
        f"texts. 0 means as many as `init` has, or {DEFAULT_COLUMNS:,} without it.",
    )
    init: str = Field(
        default="",
        description="Folder of a drafter to begin from, or the name of a shipped one, in place of "
        "layers of the target. It may get more layers and columns, and says the same at first.",
    )
    storage: WeightsKind = Field(
        default="int8",
        description="Of the drafter's matrices in its folder; int8, with a scale for each 32 "
        "numbers, is half as large and what a CPU computes with anyway.",
    )
    seed: int = Field(default=0, ge=0, description="Of the order of texts.")
    epochs: float = Field(default=8.0, gt=0, description="How often each text is seen.")
    max_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Time at which training has to be done, in seconds of work; the learning rate "
        "is planned for it. 0 sets no limit.",
    )
    batch_tokens: int = Field(
        default=32_768, ge=1, description="Tokens of a step, padding included."
    )
    learning_rate: float = Field(default=2.5e-3, gt=0, description="At its peak.")
    warm_up_share: float = Field(default=0.02, ge=0, lt=1, description="Of the run.")
    final_share: float = Field(
        default=0.02, ge=0, le=1, description="Of the peak, the learning rate at the end."
    )
    optimiser: Optimiser = Field(
        default="adamw",
        description="`muon` moves the matrices of the layers by orthogonalised momentum and the "
        "rest as `adamw` does.",
    )
    weight_decay: float = Field(default=0.01, ge=0, description="Of matrices.")
    gradient_clip: float = Field(default=1.0, gt=0, description="Norm above which it is scaled.")
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Of a moving average of the weights, per step; what is better on the held-out "
        "texts is kept. 0 keeps none.",
    )
    precision: Precision = Field(
        default="auto",
        description="Of passes; the weights that are optimised are float32. `auto` is bfloat16 on "
        "an accelerator and float32 on a CPU.",
    )
    compilation: Compilation = Field(
        default="losses",
        description="What torch compiles, on an accelerator only: the losses, or the layers too.",
    )
    chunk_rows: int = Field(
        default=8192, ge=1, description="Most positions whose logits are in memory at once."
    )
    cache_teacher: bool = Field(
        default=True,
        description="Keep the target's last hidden states on an accelerator, if its memory holds "
        "them, so that the target passes over each text once and not once an epoch.",
    )
    validation_prompts: int = Field(
        default=400, ge=1, description="Prompts whose texts are never trained on."
    )
    validation_seconds: float = Field(
        default=20.0, gt=0, description="Time between two looks at these."
    )
    checkpoint_seconds: float = Field(
        default=90.0, gt=0, description="Time between two checkpoints."
    )
    log_steps: int = Field(default=20, ge=1, description="Steps between two reports of progress.")
    loss: LossSettings = Field(default_factory=LossSettings)
