"""The files that peers load, all made of the target that treedraft itself loads.

A shipped drafter has a head over some of the target's ids, which no other engine
reads. For them its head is widened to all ids, with zeros for those that it
never drafts: their logit is then 0, below whatever a trained head prefers, and
the guesses stay the drafter's own.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from treedraft.bench.peers.gguf_export import export_model
from treedraft.bench.peers.plan import SOURCE_TYPE
from treedraft.inference.downloads import Progress
from treedraft.inference.models import load_model
from treedraft.inference.weights import ModelFiles, gguf_source, resolve


@dataclass(frozen=True, slots=True)
class PeerFiles:
    """A target for others; empty what cannot be had. `gguf` is by type of its tensors."""

    model: str
    drafter: str
    gguf: dict[str, str]


def prepare(
    target: ModelFiles, source: str, draft: str, types: list[str], folder: Path, progress: Progress
) -> PeerFiles:
    """Write into a folder what peers need.

    Args:
        target: the files that treedraft loads.
        source: as the user named the target; only a GGUF file has others made of it.
        draft: source of the draft model, empty for none.
        types: of GGUF files that are wanted; `SOURCE_TYPE` is the source itself.
        folder: where to; it is the caller's to remove.
        progress: told in words what is written.
    """
    drafter = _drafter_folder(draft, target.folder, folder, progress) if draft else ""
    original = gguf_source(source)
    files: dict[str, str] = {}
    for name in types if original else ():
        progress(f"writing the weights as GGUF: {name}")
        assert original is not None
        made = folder / f"model.{name}.gguf"
        files[name] = str(original if name == SOURCE_TYPE else export_model(original, made, name))
    return PeerFiles(str(target.folder), drafter, files)


def _drafter_folder(draft: str, target: Path, folder: Path, progress: Progress) -> str:
    """Return a folder of the draft model that transformers loads."""
    found = resolve(draft, progress)
    loaded = load_model(draft, attention="sdpa", is_packed=False, progress=progress)
    if loaded.draft_token_ids is None:
        return str(found.folder)
    module: Any = loaded.module
    head = module.get_output_embeddings().weight.detach()
    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    weights["lm_head.weight"] = widened(head, loaded.draft_token_ids, loaded.config.vocab_size)
    made = folder / "drafter"
    made.mkdir()
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    config = json.loads((found.folder / "config.json").read_text(encoding="utf-8"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (made / name).write_bytes((target / name).read_bytes())
    (made / "config.json").write_text(
        json.dumps({**config, "dtype": "float32", "tie_word_embeddings": False}), encoding="utf-8"
    )
    return str(made)


def widened(head: torch.Tensor, token_ids: tuple[int, ...], vocab_size: int) -> torch.Tensor:
    """Return a head over all ids: the rows of those that it has, zeros elsewhere."""
    full = torch.zeros(vocab_size, head.shape[1], dtype=head.dtype)
    full[torch.tensor(token_ids)] = head
    return full
