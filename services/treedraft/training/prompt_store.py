"""Prompts in a folder: parts of JSON lines, each written whole or not at all.

Also reads prompts that people bring: `.txt` with one a line, or `.jsonl` with
{"prompt": text} or {"messages": [{"role", "content"}, …]} in every line.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import ChatMessage
from treedraft.training.speed import FLUSH_SECONDS, Interval

_PART_PATTERN = "part-*.jsonl"
_PARTIAL_SUFFIX = ".partial"
FROM_FILE = "file"


@dataclass(frozen=True, slots=True)
class TrainingPrompt:
    """A conversation that waits for an answer, and where it comes from.

    `origin` is `file`, or the kind of the prompt, and after a colon the category
    of the template that it was made with: `free`, `opening:code`, `pasted:summaries`.
    """

    messages: tuple[ChatMessage, ...]
    origin: str

    @property
    def text(self) -> str:
        """What was said last."""
        return self.messages[-1].content

    @property
    def kind(self) -> str:
        """The origin without its category."""
        return self.origin.partition(":")[0]


def user_prompt(text: str, origin: str) -> TrainingPrompt:
    """Return a conversation of one message, without space around it."""
    return TrainingPrompt((ChatMessage("user", text.strip()),), origin)


class PromptStore:
    """Prompts on disk, in the order in which they were appended."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Open a folder, which is made if needed; the clock says when parts are due."""
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"*{_PARTIAL_SUFFIX}"):
            leftover.unlink()
        self._folder = folder
        self._pending: list[TrainingPrompt] = []
        self._interval = Interval(FLUSH_SECONDS, clock)

    @property
    def num_parts(self) -> int:
        """How many parts were written."""
        return len(list(self._folder.glob(_PART_PATTERN)))

    @property
    def num_pending(self) -> int:
        """Prompts that are in no part yet."""
        return len(self._pending)

    def append(self, prompt: TrainingPrompt) -> None:
        """Take a prompt; it is safe once `flush_part` has returned, or about a minute later."""
        self._pending.append(prompt)
        if self._interval.is_over():
            self.flush_part()

    def flush_part(self) -> None:
        """Write what was appended since the last part, if anything."""
        if not self._pending:
            return
        path = self._folder / f"part-{self.num_parts:05d}.jsonl"
        partial = path.with_name(path.name + _PARTIAL_SUFFIX)
        lines = [json.dumps(_to_entry(prompt), ensure_ascii=False) for prompt in self._pending]
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(path)
        self._pending = []

    def read(self) -> list[TrainingPrompt]:
        """Return all prompts that are in parts."""
        return [
            prompt
            for path in sorted(self._folder.glob(_PART_PATTERN))
            for prompt in read_prompt_file(path)
        ]


def read_prompt_file(path: Path) -> Iterator[TrainingPrompt]:
    """Yield the prompts of a `.txt` or `.jsonl` file; empty lines are skipped.

    Raises:
        InvalidRequestError: reason PROMPTS_UNREADABLE, naming the line.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise _unreadable(f"{path}: prompts come as .txt or .jsonl")
    try:
        # Not splitlines: JSON may hold other line separators unescaped.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(f"cannot read prompts from {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if path.suffix == ".txt":
            yield user_prompt(line, FROM_FILE)
        else:
            yield _from_line(line, f"{path}:{number}")


def _to_entry(prompt: TrainingPrompt) -> dict[str, Any]:
    messages = [{"role": item.role, "content": item.content} for item in prompt.messages]
    return {"messages": messages, "origin": prompt.origin}


def _from_line(line: str, place: str) -> TrainingPrompt:
    try:
        entry = json.loads(line)
        if "messages" in entry:
            pairs = [(item["role"], item["content"]) for item in entry["messages"]]
        else:
            pairs = [("user", entry["prompt"])]
        origin = entry.get("origin", FROM_FILE)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(f'{place} has neither "prompt" nor "messages"') from error
    if not pairs or not all(isinstance(part, str) for pair in (*pairs, (origin,)) for part in pair):
        raise _unreadable(f"{place}: a message is a role and a content, both text")
    return TrainingPrompt(tuple(ChatMessage(*pair) for pair in pairs), origin)


def _unreadable(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="prompts", reason="PROMPTS_UNREADABLE")
