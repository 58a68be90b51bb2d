"""A toy target that ends its texts, as toys hardly ever do by themselves."""

import torch

from treedraft.inference.toy import make_toy_model
from treedraft.training.generator import Generator
from treedraft.training.target import load_target


def make_target(folder, *, architecture="llama", ends=True):
    make_toy_model(folder, architecture=architecture)
    target = load_target(str(folder), device="cpu", dtype="float32")
    if ends:
        row = target.module.lm_head.weight[next(iter(target.eos_token_ids))]
        row.data.normal_(std=0.9, generator=torch.Generator().manual_seed(3))
    return target


def make_generator_of(target, *, num_slots=4):
    def make(*, num_jobs, max_length, prefix_ids, seed):
        return Generator(
            target,
            num_slots=min(num_jobs, num_slots),
            max_length=max_length,
            prefix_ids=prefix_ids,
            seed=seed,
            window=3,
        )

    return make


def greedy_text(target, prompt_ids, max_new_tokens):
    """Return what transformers says, without any cache."""
    ids = list(prompt_ids)
    with torch.no_grad():
        for _ in range(max_new_tokens):
            logits = target.module(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax()))
            if ids[-1] in target.eos_token_ids:
                break
    return ids
