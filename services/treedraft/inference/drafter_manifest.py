"""What a drafter folder says of itself: `drafter.json` and `vocabulary.json`.

The weights of a drafter are those of an ordinary causal language model but for
two things: its head has a column for some of the target's ids only, and its
input embedding may be left to the target's own files. These two files say
which ids and whose embedding; docs/drafter-format.md describes them.

Invariant: a manifest that was read is whole: ids ascend, none twice, none
outside the embedding.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.drafter_storage import WeightsKind

# A folder says the lowest version that has all that it uses: the second has matrices in int8.
FORMAT_VERSIONS = (1, 2)
MANIFEST_FILE = "drafter.json"
VOCABULARY_FILE = "vocabulary.json"

EmbeddingKind = Literal["target", "int8", "plain"]


@dataclass(frozen=True, slots=True)
class DrafterManifest:
    """Whose drafter it is, which ids its head knows, where its embedding is.

    `draft_token_ids[c]` is the target's id of column `c` of the head, ascending.
    `embedding_sha256` is that of `target_embedding.embedding_sha256`, for the
    embedding that the drafter was trained with; `weights` is how its matrices are stored.
    """

    target_name: str
    target_source: str
    tokenizer_hash: str
    eos_token_ids: frozenset[int]
    draft_token_ids: tuple[int, ...]
    embedding: EmbeddingKind
    embedding_sha256: str
    weights: WeightsKind = "bfloat16"


def is_drafter_folder(folder: Path) -> bool:
    """Return whether a folder holds a drafter rather than a model of its own."""
    return (folder / MANIFEST_FILE).is_file()


def write_manifest(manifest: DrafterManifest, folder: Path) -> None:
    """Write both files; the vocabulary first, since `drafter.json` marks a whole folder."""
    vocabulary = json.dumps({"token_ids": manifest.draft_token_ids}, separators=(",", ":"))
    (folder / VOCABULARY_FILE).write_text(vocabulary + "\n", encoding="utf-8")
    is_plain = manifest.weights == "bfloat16"
    document: dict[str, Any] = {
        "format_version": FORMAT_VERSIONS[0] if is_plain else FORMAT_VERSIONS[1],
        "target": {
            "name": manifest.target_name,
            "source": manifest.target_source,
            "tokenizer_hash": manifest.tokenizer_hash,
            "eos_token_ids": sorted(manifest.eos_token_ids),
        },
        "draft_vocab_size": len(manifest.draft_token_ids),
        "embedding": {"kind": manifest.embedding, "sha256": manifest.embedding_sha256},
    }
    if not is_plain:
        document["weights"] = {"kind": manifest.weights}
    (folder / MANIFEST_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path, *, vocab_size: int) -> DrafterManifest:
    """Read and check both files.

    Args:
        folder: a drafter folder.
        vocab_size: rows of the input embedding; every id is below it.

    Raises:
        UnsupportedModelError: reason DRAFTER_VERSION for a version that is not
            ours, DRAFTER_INVALID for files that are missing or say nonsense.
    """
    document = _read_json(folder / MANIFEST_FILE)
    version = document.get("format_version")
    if type(version) is not int or version not in FORMAT_VERSIONS:
        known = " and ".join(map(str, FORMAT_VERSIONS))
        raise UnsupportedModelError(
            f"{folder} is a drafter of format {version!r}; this version reads {known}",
            reason="DRAFTER_VERSION",
        )
    target, embedding = (_field(folder, document, key, dict) for key in ("target", "embedding"))
    kind = _field(folder, embedding, "kind", str)
    if kind not in get_args(EmbeddingKind):
        raise invalid_drafter(folder, f"its embedding is of an unknown kind {kind!r}")
    token_ids = _checked_ids(
        folder, _field(folder, _read_json(folder / VOCABULARY_FILE), "token_ids", list), vocab_size
    )
    if (count := _field(folder, document, "draft_vocab_size", int)) != len(token_ids):
        raise invalid_drafter(folder, f"it names {len(token_ids)} ids but has {count} columns")
    eos_token_ids = _field(folder, target, "eos_token_ids", list)
    if not all(type(token_id) is int and 0 <= token_id < vocab_size for token_id in eos_token_ids):
        raise invalid_drafter(folder, "its eos_token_ids are no ids of the target")
    return DrafterManifest(
        target_name=_field(folder, target, "name", str),
        target_source=_field(folder, target, "source", str),
        tokenizer_hash=_field(folder, target, "tokenizer_hash", str),
        eos_token_ids=frozenset(eos_token_ids),
        draft_token_ids=token_ids,
        embedding=kind,
        embedding_sha256=_field(folder, embedding, "sha256", str),
        weights=_weights_kind(folder, document) if version > 1 else "bfloat16",
    )


def check_draft_token_ids(token_ids: list[Any], vocab_size: int) -> str:
    """Return what is wrong with the ids of a head's columns, empty if nothing is."""
    if not token_ids:
        return "it names no ids"
    if not all(type(token_id) is int for token_id in token_ids):
        return "its ids are not all whole numbers"
    if not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        return f"its ids are not all in [0, {vocab_size})"
    if not (np.diff(np.array(token_ids, dtype=np.int64)) > 0).all():
        return "its ids do not ascend, or one comes twice"
    return ""


def invalid_drafter(folder: Path, why: str) -> UnsupportedModelError:
    """Return the error for a folder that is no proper drafter."""
    return UnsupportedModelError(f"{folder} is no drafter: {why}", reason="DRAFTER_INVALID")


def _weights_kind(folder: Path, document: dict[str, Any]) -> WeightsKind:
    kind = _field(folder, _field(folder, document, "weights", dict), "kind", str)
    for known in get_args(WeightsKind):
        if kind == known:
            return known  # type: ignore[no-any-return]
    raise invalid_drafter(folder, f"its weights are of an unknown kind {kind!r}")


def _checked_ids(folder: Path, token_ids: list[Any], vocab_size: int) -> tuple[int, ...]:
    if why := check_draft_token_ids(token_ids, vocab_size):
        raise invalid_drafter(folder, why)
    return tuple(token_ids)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise invalid_drafter(file.parent, f"it has no {file.name}") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested without end
        raise invalid_drafter(file.parent, f"{file.name} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise invalid_drafter(file.parent, f"{file.name} is no JSON object")
    return document


def _field(folder: Path, document: dict[str, Any], key: str, kind: type) -> Any:
    value = document.get(key)
    if type(value) is not kind:
        raise invalid_drafter(folder, f"{key!r} is missing or no {kind.__name__}")
    return value
