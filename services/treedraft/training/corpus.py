"""Texts as token ids in a folder: what the target wrote, and to which prompt.

A corpus is a row of parts, `part-00000.npz` and so on, each with the tokens of
its documents end to end and an index of arrays. A part is written under
another name and renamed, so that whatever is there is whole: a writer that is
killed loses the documents since its last part and no more, and a new writer
goes on behind the last one.

All of it is read into memory at once: 50 million tokens of a vocabulary under
65,536 are 100 MB.
"""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from treedraft.core.errors import InvalidRequestError

_PART_PATTERN = "part-*.npz"
_PARTIAL_SUFFIX = ".partial"
_MAX_UINT16 = np.iinfo(np.uint16).max

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Document:
    """A prompt and the target's answer to it.

    `token_ids` [length] are both, end to end; the first `prompt_length` are the
    prompt with its template. `temperature` is that of the answer. `job` is the
    number of the order that it fulfils, -1 if there was none: a generator that is
    resumed leaves out the jobs that are done.
    """

    token_ids: Tokens
    prompt_length: int
    temperature: float
    job: int = -1

    @property
    def response_ids(self) -> Tokens:
        """The answer alone, [length - prompt_length]."""
        return self.token_ids[self.prompt_length :]


class CorpusWriter:
    """Appends documents to a folder, part by part."""

    def __init__(self, folder: Path) -> None:
        """Go on behind the parts that are there; the folder is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"*{_PARTIAL_SUFFIX}"):
            leftover.unlink()
        self._folder = folder
        self._next_part = 1 + max((_part_number(path) for path in _part_paths(folder)), default=-1)
        self._documents: list[Document] = []
        self._num_pending_tokens = 0

    @property
    def num_parts(self) -> int:
        """How many parts are there."""
        return self._next_part

    @property
    def num_pending_tokens(self) -> int:
        """Tokens of documents that are in no part yet."""
        return self._num_pending_tokens

    def append(self, document: Document) -> None:
        """Take a document; it is safe once `flush_part` has returned."""
        self._documents.append(document)
        self._num_pending_tokens += len(document.token_ids)

    def flush_part(self) -> None:
        """Write what was appended since the last part, if anything."""
        if not self._documents:
            return
        path = self._folder / f"part-{self._next_part:05d}.npz"
        partial = path.with_name(path.name + _PARTIAL_SUFFIX)
        with partial.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **_columns(self._documents))
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        self._next_part += 1
        self._documents = []
        self._num_pending_tokens = 0


def _columns(documents: list[Document]) -> dict[str, npt.NDArray[np.generic]]:
    tokens = np.concatenate([document.token_ids for document in documents])
    narrow = np.uint16 if tokens.max(initial=0) <= _MAX_UINT16 else np.uint32
    return {
        "tokens": tokens.astype(narrow),
        "lengths": np.array([len(item.token_ids) for item in documents], np.int32),
        "prompt_lengths": np.array([item.prompt_length for item in documents], np.int32),
        "temperatures": np.array([item.temperature for item in documents], np.float32),
        "jobs": np.array([item.job for item in documents], np.int64),
    }


class Corpus:
    """All documents of a folder, in memory.

    `flat_tokens` [num_tokens] are the documents end to end (uint16 or uint32),
    document `i` beginning at `offsets[i]`; `offsets` has num_documents + 1 entries.
    `lengths`, `prompt_lengths` (int32), `temperatures` (float32) and `jobs` (int64)
    have one entry for each document.
    """

    def __init__(
        self,
        flat_tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32],
        lengths: npt.NDArray[np.int32],
        prompt_lengths: npt.NDArray[np.int32],
        temperatures: npt.NDArray[np.float32],
        jobs: npt.NDArray[np.int64],
    ) -> None:
        """Take the arrays as described above."""
        self.flat_tokens = flat_tokens
        self.lengths = lengths
        self.prompt_lengths = prompt_lengths
        self.temperatures = temperatures
        self.jobs = jobs
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Read all parts of a folder.

        Raises:
            InvalidRequestError: reason CORPUS_MISSING or CORPUS_CORRUPT.
        """
        paths = _part_paths(folder)
        if not paths:
            raise InvalidRequestError(f"{folder} holds no corpus", reason="CORPUS_MISSING")
        parts = [_read_part(path) for path in paths]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return cls(
            joined["tokens"],
            joined["lengths"],
            joined["prompt_lengths"],
            joined["temperatures"],
            joined["jobs"],
        )

    @property
    def num_documents(self) -> int:
        """How many prompts with their answers."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompts and answers."""
        return len(self.flat_tokens)

    @property
    def num_response_tokens(self) -> int:
        """Tokens of the answers alone, the id that ended them included."""
        return self.num_tokens - int(self.prompt_lengths.sum(dtype=np.int64))

    def document(self, index: int) -> Document:
        """Return one document; its tokens are a copy."""
        start, end = self.offsets[index], self.offsets[index + 1]
        return Document(
            token_ids=self.flat_tokens[start:end].astype(np.int32),
            prompt_length=int(self.prompt_lengths[index]),
            temperature=round(float(self.temperatures[index]), 6),
            job=int(self.jobs[index]),
        )


def _part_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob(_PART_PATTERN), key=_part_number)


def _part_number(path: Path) -> int:
    return int(path.stem.removeprefix("part-"))


def _read_part(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    names = ("tokens", "lengths", "prompt_lengths", "temperatures", "jobs")
    try:
        with np.load(path, allow_pickle=False) as archive:
            part = {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidRequestError(
            f"{path} is no part of a corpus: {error}", reason="CORPUS_CORRUPT"
        ) from error
    lengths, prompt_lengths = part["lengths"], part["prompt_lengths"]
    is_consistent = (
        len({len(part[name]) for name in names[1:]}) == 1
        and int(lengths.sum(dtype=np.int64)) == len(part["tokens"])
        and bool(((prompt_lengths >= 0) & (prompt_lengths <= lengths)).all())
    )
    if not is_consistent:
        raise InvalidRequestError(
            f"the index of {path} does not fit its tokens", reason="CORPUS_CORRUPT"
        )
    return part
