"""What an adapter of another engine is, and what goes over the pipe to its process.

Imported in a foreign Python: the standard library only.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PeerSetup:
    """What a peer loads: one model, in one precision.

    `precision` is what it computes in. `model` is a folder of safetensors,
    `drafter` such a folder of a draft model with the same token ids; `gguf` is
    the model as a single file. What is not there is empty.
    """

    adapter: str
    precision: str
    num_threads: int
    model: str = ""
    drafter: str = ""
    gguf: str = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """New tokens of one prompt; `num_passes` of the target, None where nobody counts them."""

    token_ids: list[int]
    num_passes: int | None = None


class Peer(Protocol):
    """Another engine with its model loaded; made from a `PeerSetup`.

    `packages` are the distributions whose versions matter. An adapter raises
    what it likes: its process turns that into a reason for people to read.
    """

    packages: tuple[str, ...]

    def generate(self, mode: str, prompt_ids: list[int], num_tokens: int) -> Generation:
        """Continue a prompt greedily by exactly that many tokens; ends of texts are ignored."""
        ...


class UnsupportedModeError(Exception):
    """The peer cannot do this with what it was given; the message says why."""
