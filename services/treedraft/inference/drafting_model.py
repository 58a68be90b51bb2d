"""Loads a model that drafts, in the way that is quickest here.

What a drafter computes in decides how soon it guesses, never what is said. So on a
CPU the native decoder runs it, a distilled drafter with weights in int8; a model
that the decoder does not know computes in bfloat16, if the processor has
instructions for it, since others emulate it slowly.
"""

from pathlib import Path

from treedraft.inference.downloads import Progress
from treedraft.inference.models import LoadedModel, choose_device, load_model
from treedraft.inference.native.compiler import native_library
from treedraft.inference.prepacked import multiplies_bfloat16
from treedraft.inference.weights import be_silent


def load_drafting_model(
    source: str | Path,
    *,
    name: str = "",
    dtype: str = "auto",
    device: str = "auto",
    weights: str = "auto",
    progress: Progress = be_silent,
) -> LoadedModel:
    """Load a model to draft with; arguments and errors are those of `load_model`.

    A `dtype` of `auto` is what is quickest.
    """

    def load(dtype: str) -> LoadedModel:
        return load_model(
            source, name=name, dtype=dtype, device=device, weights=weights, progress=progress
        )

    chosen = choose_device(device)
    if dtype != "auto" or chosen.type != "cpu" or not multiplies_bfloat16(chosen):
        return load(dtype)
    if native_library():
        model = load("float32")
        if model.native:
            return model
    return load("bfloat16")
