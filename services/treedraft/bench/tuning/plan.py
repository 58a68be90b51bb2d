"""What a tuning run tries."""

from dataclasses import dataclass

from treedraft.training.evaluation.held_out import HeldOutPrompt
from treedraft.training.evaluation.tree_length import TreeShape


@dataclass(frozen=True, slots=True)
class TunePlan:
    """Models, prompts, and the shapes of trees that are tried.

    Attributes:
        target: source of the target.
        drafters: sources of draft models; an empty one drafts by lookup alone.
        prompts: what users say; the more, the surer.
        temperature: at which texts are written and confirmed.
        dtype: of the target.
        device: of all models; empty leaves it to the services.
        num_tokens: length of a text, at most.
        budgets: nodes of a pass.
        depths: of trees, which are also the draft steps of a round.
        children: of a node; 1 makes chains.
        num_confirmed: settings of each drafter that are run for real, besides its defaults.
        confirmed_prompts: prompts of those runs.
    """

    target: str
    drafters: tuple[str, ...]
    prompts: tuple[HeldOutPrompt, ...]
    temperature: float = 0.0
    dtype: str = "float32"
    device: str = ""
    num_tokens: int = 96
    budgets: tuple[int, ...] = (2, 4, 6, 8, 12, 16, 24, 32)
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8)
    children: tuple[int, ...] = (1, 2, 4)
    num_confirmed: int = 2
    confirmed_prompts: int = 6

    @property
    def shapes(self) -> tuple[TreeShape, ...]:
        """Return all shapes in which neither nodes nor depth are of no use."""
        return tuple(
            TreeShape(budget, depth, children)
            for children in self.children
            for depth in self.depths
            for budget in self.budgets
            if (budget >= depth if children > 1 else budget == depth)
            and budget <= _most_nodes(depth, children)
        )


def spread(prompts: tuple[HeldOutPrompt, ...], number: int) -> tuple[HeldOutPrompt, ...]:
    """Return that many prompts, the categories in turns."""
    by_category: dict[str, list[HeldOutPrompt]] = {}
    for prompt in prompts:
        by_category.setdefault(prompt.category, []).append(prompt)
    longest = max(map(len, by_category.values()), default=0)
    turns = [
        group[index]
        for index in range(longest)
        for group in by_category.values()
        if index < len(group)
    ]
    return tuple(turns[:number])


def _most_nodes(depth: int, children: int) -> int:
    return sum(children**level for level in range(1, depth + 1))
