"""A toy target and what it wrote, small enough to train on in a test."""

from pathlib import Path

import numpy as np
import torch

from treedraft.inference.toy import make_toy_model
from treedraft.training.corpus import Corpus, CorpusWriter, Document
from treedraft.training.target import TrainingTarget, load_target

PROMPT_LENGTH = 4
TEMPERATURES = (0.0, 0.7, 1.0)


def toy_target(folder: Path, *, architecture="llama", layers=3) -> TrainingTarget:
    make_toy_model(folder, architecture=architecture, layers=layers, hidden=32, vocab=512)
    return load_target(str(folder), dtype="float32", device="cpu")


@torch.no_grad()
def toy_corpus(folder: Path, target: TrainingTarget, *, num_documents=60, length=20) -> Corpus:
    """Texts that the target wrote behind random prompts, of several lengths."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    temperatures = np.array([TEMPERATURES[i % 3] for i in range(num_documents)])
    hot = torch.tensor(temperatures, dtype=torch.float32)[:, None]
    tokens = torch.from_numpy(rng.integers(3, 500, (num_documents, PROMPT_LENGTH)))
    for _ in range(length - PROMPT_LENGTH):
        logits = target.module(tokens, use_cache=False).logits[:, -1].float()
        noise = torch.rand(logits.shape, generator=generator).log().neg().log().neg()
        tokens = torch.cat([tokens, (logits + hot * noise).argmax(dim=-1, keepdim=True)], dim=1)
    writer = CorpusWriter(folder)
    for row, temperature in zip(tokens.numpy(), temperatures, strict=True):
        end = int(rng.integers(PROMPT_LENGTH + 2, length + 1))
        writer.append(Document(row[:end].astype(np.int32), PROMPT_LENGTH, float(temperature)))
    writer.flush_part()
    return Corpus.open(folder)
