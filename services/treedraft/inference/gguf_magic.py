"""What is a GGUF file at all: known by its first bytes, without a library that reads the rest."""

from pathlib import Path

from treedraft.core.errors import UnsupportedModelError

_MAGIC = b"GGUF"


def check_gguf(file: Path) -> None:
    """Raise UnsupportedModelError, reason WEIGHTS_CORRUPT, unless this is a GGUF file."""
    with file.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise UnsupportedModelError(f"{file} is no GGUF file", reason="WEIGHTS_CORRUPT")
