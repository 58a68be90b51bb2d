"""transformers' own `generate` in a process of its own, for comparison.

Reads one JSON request per line from stdin and answers each with one line on
stdout: `{"conversations": [[[role, content]…]…], "num_tokens": n}` gives
`{"seconds": s, "prompt_token_ids": […], "token_ids": […]}`. Prompts of one
request are padded on the left and go through `generate` together. A process of
its own keeps its threads and its memory apart from the engine's.
"""

import json
import sys
import time
from typing import Any

import torch
import transformers


class Baseline:
    """A model as a user of transformers would load it."""

    def __init__(self, folder: str, dtype: str, device: str, num_threads: int) -> None:
        """Load model and tokenizer."""
        if num_threads:
            torch.set_num_threads(num_threads)
        has_cuda = torch.cuda.is_available()
        self._device = ("cuda" if has_cuda else "cpu") if device in ("", "auto") else device
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder, padding_side="left"
        )
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
        self._model = model.to(self._device).eval()
        # The end of a text is an ordinary token here: all systems do the same work.
        self._model.generation_config.eos_token_id = None

    def generate(self, conversations: list[list[list[str]]], num_tokens: int) -> dict[str, Any]:
        """Continue all conversations greedily by exactly that many tokens."""
        texts = [
            self._tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=True,
                tokenize=False,
            )
            for messages in conversations
        ]
        started = time.perf_counter()
        inputs = self._tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=False
        ).to(self._device)
        with torch.inference_mode():
            output = self._model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=num_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        ids = output[:, inputs["input_ids"].shape[1] :].tolist()
        seconds = time.perf_counter() - started
        prompts = [
            row[mask.bool()].tolist()
            for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        return {"seconds": seconds, "prompt_token_ids": prompts, "token_ids": ids}


def main() -> None:
    """Answer requests until stdin ends."""
    folder, dtype, device, num_threads = sys.argv[1:]
    baseline = Baseline(folder, dtype, device, int(num_threads))
    sys.stdout.write("{}\n")  # ready
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        answer = baseline.generate(request["conversations"], request["num_tokens"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
