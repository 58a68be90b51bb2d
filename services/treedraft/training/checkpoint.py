"""Training that was broken off, to go on with.

A checkpoint is one file, written under another name and renamed, so that
whatever is there is whole. It says what it belongs to: one of other settings,
texts or layers is not gone on with. It outlives the end of training: whoever
ordered the drafter removes it once that is noted.
"""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from treedraft.inference.downloads import Progress

CHECKPOINT_FILE = "checkpoint.pt"
_IDENTITY = "identity"


def save_checkpoint(folder: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Write a state, numbers and tensors in plain containers, in place of the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{CHECKPOINT_FILE}.partial"
    with partial.open("wb") as stream:
        torch.save({**state, _IDENTITY: identity}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(folder / CHECKPOINT_FILE)


def load_checkpoint(
    folder: Path, identity: str, device: torch.device, progress: Progress
) -> dict[str, Any] | None:
    """Return the state of a run that was broken off; None if there is none to go on with."""
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        progress(f"starting anew: {path} cannot be read ({type(error).__name__})")
        return None
    if state.pop(_IDENTITY, None) != identity:
        progress(f"starting anew: {path} is of another training")
        return None
    return state


def remove_checkpoint(folder: Path) -> None:
    """Forget a run that is finished."""
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
