"""What an evaluation looks at."""

from pydantic import Field

from treedraft.core.sampling import SamplingParameters
from treedraft.settings import Frozen


class EvaluationSettings(Frozen):
    """Texts, shapes of trees, and measurements of time."""

    temperatures: tuple[float, ...] = Field(
        default=(0.0, 0.7, 1.0),
        min_length=1,
        description="Temperatures at which the target writes its texts.",
    )
    max_tokens: int = Field(
        default=128, ge=8, le=4096, description="Length of a text, prompt not counted, at most."
    )
    seed: int = Field(default=20_000, ge=0, description="Seed of the first prompt's texts.")
    num_children: int = Field(
        default=4, ge=1, le=16, description="Children of a node, and the k of top-k agreement."
    )
    max_depth: int = Field(default=16, ge=1, le=64, description="Depth of a tree, at most.")
    min_score: float = Field(
        default=-4.0,
        le=0.0,
        description="Log-probability of a path's survival below which it is not grown on; as the "
        "drafter's own setting.",
    )
    budgets: tuple[int, ...] = Field(
        default=(1, 2, 4, 8, 16, 32, 64),
        min_length=1,
        description="Nodes in a pass for which τ of chain and tree are told.",
    )
    depths: tuple[int, ...] = Field(
        default=(1, 2, 3, 4, 5, 6, 8),
        description="Depths for which the speed is predicted, with the budgets up to 32.",
    )
    cost_context: int = Field(
        default=200, ge=1, description="Tokens of context under which passes are timed."
    )
    cost_rows: tuple[int, ...] = Field(
        default=(1, 2, 4, 8, 12, 16, 24, 32), description="Rows of the timed passes."
    )
    cost_repeats: int = Field(
        default=15, ge=3, description="Times that each pass is timed; the median counts."
    )
    rehearsed_prompts: int = Field(
        default=2,
        ge=0,
        description="Prompts of each category for which the drafter's own loop is run too.",
    )
    rehearsed_budget: int = Field(default=16, ge=1, description="Nodes of a pass there.")
    rehearsed_steps: int = Field(
        default=6, ge=1, description="Draft steps between two passes there, at most."
    )
    max_rows: int = Field(
        default=256, ge=1, description="Drafted nodes in one pass of an evaluation."
    )
    batch_texts: int = Field(default=48, ge=1, description="Texts that the target writes at once.")

    def sampling(self, temperature: float, prompt_index: int) -> SamplingParameters:
        """Return how the text of one prompt is drawn.

        All temperatures of a prompt share a seed, and so their noise.
        """
        return SamplingParameters(temperature=temperature, seed=self.seed + prompt_index)
