"""What only an accelerator can show: the captured step and the kernel."""

import pytest
import torch
from training_support import greedy_text

from treedraft.inference.toy import make_toy_model
from treedraft.training.generator import Generator, Job
from treedraft.training.slot_attention import SlotCache, masked_attention
from treedraft.training.target import load_target

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_the_captured_step_says_what_transformers_says(tmp_path):
    folder = make_toy_model(tmp_path, hidden=64)
    target = load_target(str(folder), device="cuda", dtype="float32")
    reference = load_target(str(folder), device="cpu", dtype="float32")
    prefix = target.tokenizer.encode("<|im_start|>user\nHello! How are you?")
    jobs = [Job(i, prefix + [5 + i] * (i % 4), 0.0, 4 + i % 9) for i in range(40)]
    generator = Generator(target, num_slots=6, max_length=64, prefix_ids=prefix, window=3)
    texts = {text.job.number: text.token_ids.tolist() for text in generator.run(jobs)}
    for job in jobs:
        expected = greedy_text(reference, job.prompt_ids, job.max_new_tokens)
        assert texts[job.number] == expected


def test_replays_draw_fresh_noise(tmp_path):
    target = load_target(str(make_toy_model(tmp_path)), device="cuda", dtype="float32")
    generator = Generator(target, num_slots=8, max_length=16)
    jobs = [Job(i, [5, 9], 1.0, 8) for i in range(64)]
    assert len({tuple(text.token_ids.tolist()) for text in generator.run(jobs)}) > 50


@pytest.mark.parametrize("shape", [(5, 3, 3, 384, 64), (300, 2, 1, 128, 32), (4, 1, 20, 64, 128)])
def test_the_kernel_attends_as_the_mask_says(shape):
    pytest.importorskip("triton")
    from treedraft.training.decode_kernel import decode_attention

    num_slots, num_kv_heads, num_rows, max_length, head_dim = shape
    cache = SlotCache(
        num_layers=1,
        num_slots=num_slots,
        num_kv_heads=num_kv_heads,
        max_length=max_length,
        head_dim=head_dim,
        dtype=torch.bfloat16,
        device=torch.device("cuda"),
    )
    query = torch.randn(num_slots, num_kv_heads, num_rows, head_dim, device="cuda").bfloat16()
    keys, values = (torch.randn_like(cache.keys[0]) for _ in range(2))
    cache.move_to(torch.arange(num_slots, device="cuda") * 63 % max_length)
    arguments = (query, keys, values, cache, head_dim**-0.5)
    difference = decode_attention(*arguments).float() - masked_attention(*arguments).float()
    assert float(difference.abs().max()) < 0.06
