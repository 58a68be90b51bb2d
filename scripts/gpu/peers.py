"""What transformers does on the same device: `generate` with the static cache, and batching."""

import time
from typing import Any

import torch
from scripts.gpu.subjects import CONFIGS, random_module
from transformers import AutoModelForCausalLM, GenerationConfig

from treedraft.inference.weights import resolve


def static_generate(name: str, device: torch.device, num_tokens: int) -> float:
    """Return tokens per second of `generate` with the static cache, one text at a time."""
    module = _module(name, device)
    prompt = torch.randint(3, 90, (1, 64), device=device)
    options: dict[str, Any] = {
        "do_sample": False,
        "max_new_tokens": num_tokens,
        "min_new_tokens": num_tokens,
        "cache_implementation": "static",
        "pad_token_id": 0,
    }
    best = 0.0
    with torch.inference_mode():
        for _ in range(4):  # the first compiles
            started = time.perf_counter()
            output = module.generate(prompt, **options)
            _ = output.tolist()
            best = max(best, num_tokens / (time.perf_counter() - started))
    return best


def batch_generate(name: str, device: torch.device, num_requests: int, num_tokens: int) -> float:
    """Return tokens per second of transformers' continuous batching."""
    module = _module(name, device)
    module.set_attn_implementation("paged|sdpa")
    config = GenerationConfig(
        max_new_tokens=num_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    prompts = [torch.randint(3, 90, (20 + i % 60,)).tolist() for i in range(num_requests)]
    best = 0.0
    for _ in range(2):
        started = time.perf_counter()
        answers = module.generate_batch(inputs=prompts, generation_config=config)
        count = sum(len(answer.generated_tokens) for answer in answers.values())
        best = max(best, count / (time.perf_counter() - started))
    return best


def _module(name: str, device: torch.device) -> Any:
    if name in CONFIGS:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        module = random_module(name, device, dtype)
        module.set_attn_implementation("sdpa")
        return module
    module = AutoModelForCausalLM.from_pretrained(
        resolve(name).folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    return module.to(device).eval()
