"""Write the golden file: what transformers' own `generate` says, greedily, in fp32.

    python scripts/make_golden.py MODEL_FOLDER tests/golden/greedy.json

24 prompts of three kinds, 128 tokens each. With every token goes the margin by
which it won (difference of the best two logits), so that a comparison can tell
a numeric tie from a mistake. Slow, so the result is kept; run it again when the
weights or the prompts change.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import transformers

PROMPTS = {
    "prose": [
        "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
        "Describe a walk through an old town on a rainy evening in autumn.",
        "Tell me about the history of bread, from the first grains to the modern bakery.",
        "Write a letter from a grandmother to her grandson who has moved to another country.",
        "Explain to a child why the sky is blue and why sunsets are red.",
        "Write a speech for the opening of a small public library.",
        "Describe the life of a bee over one year, as if the bee told it.",
        "Summarise what makes a good teacher, with examples from daily life.",
    ],
    "code": [
        "Write a Python function that merges two sorted lists, with a docstring.",
        "Write a Python class for a bank account with deposit and withdraw methods.",
        "Show a SQL query that finds the ten customers with the most orders, and explain it.",
        "Write a JavaScript function that debounces another function.",
        "Write a bash script that renames all .jpeg files in a folder to .jpg.",
        "Write a C function that reverses a string in place.",
        "Implement binary search in Python and explain each line.",
        "Write an HTML page with a form for a name and an e-mail address.",
    ],
    "question": [
        "What is the difference between weather and climate?",
        "How does a refrigerator keep food cold?",
        "Why do leaves change colour in autumn?",
        "What are the main causes of the First World War?",
        "How do vaccines work?",
        "What is the greenhouse effect, and why does it matter?",
        "How can I learn a new language in six months? Give me ten steps.",
        "What should I consider before adopting a dog? Make a list.",
    ],
}
NUM_TOKENS = 128


def main() -> None:
    """Generate and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    cases = []
    for kind, prompts in PROMPTS.items():
        for prompt in prompts:
            started = time.monotonic()
            cases.append(
                {"kind": kind, "prompt": prompt, **continue_greedily(model, tokenizer, prompt)}
            )
            print(f"{len(cases):2d} {kind:9s} {time.monotonic() - started:5.1f} s  {prompt[:50]}")
    stamp = {
        "model": arguments.model.resolve().name,
        "dtype": "float32",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "attention": "sdpa",
        "date": time.strftime("%Y-%m-%d"),
    }
    text = json.dumps({"stamp": stamp, "num_tokens": NUM_TOKENS, "cases": cases})
    arguments.output.write_text(text.replace('{"kind"', '\n{"kind"') + "\n")


def continue_greedily(model, tokenizer, prompt: str) -> dict[str, list]:  # noqa: ANN001
    """Return prompt ids, output ids and the margin of each output token."""
    messages = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    with torch.inference_mode():
        result = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NUM_TOKENS,
            output_logits=True,
            return_dict_in_generate=True,
        )
    best = torch.cat(result.logits).topk(2, dim=-1).values
    return {
        "prompt_token_ids": ids[0].tolist(),
        "token_ids": result.sequences[0, ids.shape[1] :].tolist(),
        "margins": [round(margin, 5) for margin in (best[:, 0] - best[:, 1]).tolist()],
    }


if __name__ == "__main__":
    main()
