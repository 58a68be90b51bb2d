"""What the tests of evaluation share: prompts, settings, and the slow way to logits."""

from treedraft.training.evaluation.held_out import (
    HeldOutPrompt,
)
from treedraft.training.evaluation.passes import make_runner, prompt_segment
from treedraft.training.evaluation.settings import EvaluationSettings

PROMPTS = (
    HeldOutPrompt("prose", "The quick brown fox"),
    HeldOutPrompt("code", "def fibonacci(number):"),
    HeldOutPrompt("prose", "Hello! How are you today?"),
)
SETTINGS = EvaluationSettings(
    temperatures=(0.0, 0.8),
    max_tokens=24,
    budgets=(1, 2, 4, 8),
    depths=(1, 2, 4),
    cost_rows=(1, 4, 9),
    cost_repeats=3,
    cost_context=20,
    batch_texts=4,
    rehearsed_prompts=1,
)
ONE_TEMPERATURE = SETTINGS.model_copy(update={"temperatures": (0.0,)})


def at(texts, temperature):
    return [text for text in texts if text.temperature == temperature]


def full_logits(model, token_ids):
    runner, slots = make_runner(model, len(token_ids))
    own = slots.allocate(len(token_ids))
    return runner.forward([prompt_segment(token_ids, own, first_output=0)]).clone()
