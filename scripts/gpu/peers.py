"""What transformers does on the same device, beside our engine without speculation.

`generate` with the static cache, one text at a time, and `generate_batch`, which batches
continuously; written for transformers 5.17 and later. Each is taken at its best of several
runs, the first of which compile and record.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from scripts.gpu.own import plain_speed
from scripts.gpu.section import Call, Found, tried
from scripts.gpu.subjects import CONFIGS, load, random_module
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from treedraft.inference.weights import resolve

_REPEATS = 3


def compare(call: Call) -> Found:
    """Yield tokens per second of transformers and of ours, and how often theirs go into ours."""
    weights = call.options.weights
    num_tokens, num_requests = (8, 3) if call.is_tiny else (128, 64)
    single, many = _prompts(1), _prompts(num_requests)
    for name in (weights, "tiny" if call.is_tiny else "1.5b"):
        label = name if name in CONFIGS else "the small model"
        ours = tried(lambda n=name: plain_speed(load(n, call.device), single, num_tokens, _REPEATS))
        yield f"ours, one text, {label}", ours
        theirs = tried(lambda n=name: static_generate(n, call.device, single[0], num_tokens))
        yield f"static, {label}", theirs
        yield f"over static, {label} (bar 2.5)", _over(ours, theirs)
        _give_back(call.device)
        if name == weights:
            yield from _batches(call, weights, many, num_tokens)


def _batches(call: Call, name: str, prompts: list[list[int]], num_tokens: int) -> Found:
    count = len(prompts)
    ours = tried(lambda: plain_speed(load(name, call.device), prompts, num_tokens, _REPEATS))
    yield f"ours, {count} at once", ours
    theirs = tried(lambda: batch_generate(name, call.device, prompts, num_tokens))
    yield f"generate_batch, {count} at once", theirs
    yield "over generate_batch (bar 10, with speculation or without)", _over(ours, theirs)
    _give_back(call.device)


def static_generate(
    name: str, device: torch.device, prompt: Sequence[int], num_tokens: int
) -> float:
    """Return tokens per second of `generate` with the static cache."""
    module = _module(name, device)
    options: dict[str, Any] = {
        "do_sample": False,
        "max_new_tokens": num_tokens,
        "min_new_tokens": num_tokens,
        "cache_implementation": "static",
        "pad_token_id": 0,
    }
    told, best = torch.tensor([list(prompt)], device=device), 0.0
    for _ in range(1 + _REPEATS):  # the first compiles
        started = time.perf_counter()
        output = module.generate(told, **options)
        _ = output.tolist()
        best = max(best, num_tokens / (time.perf_counter() - started))
    return best


def batch_generate(
    name: str, device: torch.device, prompts: list[list[int]], num_tokens: int
) -> float:
    """Return tokens per second of transformers' continuous batching."""
    module = _module(name, device)
    config = GenerationConfig(
        max_new_tokens=num_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    room = None  # as much of a GPU as it likes
    if device.type == "cpu":
        room = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
    best = 0.0
    try:
        for _ in range(_REPEATS):
            started = time.perf_counter()
            answers = module.generate_batch(
                inputs=prompts,
                generation_config=config,
                continuous_batching_config=room,
                persistent_manager=True,  # its graphs are recorded once
            )
            count = sum(len(answer.generated_tokens) for answer in answers.values())
            if count != num_tokens * len(prompts):
                raise RuntimeError(f"{count} tokens, and not {num_tokens} of each request")
            best = max(best, count / (time.perf_counter() - started))
    finally:
        module.destroy_cached_continuous_batching_manager()
    return best


def _prompts(count: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(1)
    lengths = [64] if count == 1 else [20 + i % 60 for i in range(count)]
    return [torch.randint(3, 90, (n,), generator=random).tolist() for n in lengths]


def _over(ours: Any, theirs: Any) -> Any:
    is_known = isinstance(ours, float) and isinstance(theirs, float)
    return round(ours / theirs, 2) if is_known else "not known"


def _give_back(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _module(name: str, device: torch.device) -> Any:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if name in CONFIGS:
        module = random_module(name, device, dtype)
        module.set_attn_implementation("sdpa")
        return module
    files = resolve(name)
    module = AutoModelForCausalLM.from_pretrained(
        files.folder, dtype=dtype, attn_implementation="sdpa"
    )
    return module.to(device).eval()
