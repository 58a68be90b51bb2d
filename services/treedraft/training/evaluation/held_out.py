"""The held-out prompts: sixty that no drafter may be trained on.

They were written for this purpose, ten of each category, the way people write
to an assistant: short and long, some with text or code pasted in. Whoever makes
training prompts filters out what overlaps with them; figures of a report mean
nothing otherwise.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from treedraft.core.errors import InvalidRequestError

CATEGORIES = ("prose", "code", "questions", "rewriting", "lists", "dialogue")

# The category of prompts that came without one.
UNCATEGORISED = "other"

_FILE = Path(__file__).with_name("held_out_prompts.jsonl")


@dataclass(frozen=True, slots=True)
class HeldOutPrompt:
    """What a user could have written, and what kind of text it asks for."""

    category: str
    text: str


@cache
def held_out_prompts() -> tuple[HeldOutPrompt, ...]:
    """Return the sixty prompts, ten of each of `CATEGORIES`, in that order."""
    return read_prompts(_FILE)


def read_prompts(path: Path) -> tuple[HeldOutPrompt, ...]:
    """Read prompts of any origin to evaluate on.

    Args:
        path: lines of JSON, {"prompt": text, "category": optional}, if its name
            ends in .jsonl; otherwise one prompt a line. Empty lines are skipped.

    Raises:
        InvalidRequestError: the file is missing or empty, or a line has no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise _invalid(f"cannot read prompts from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _invalid(f"{path} is not UTF-8 text") from error
    parse = _parse_json if path.suffix == ".jsonl" else _parse_text
    prompts = tuple(
        parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    )
    if not prompts:
        raise _invalid(f"there are no prompts in {path}")
    return prompts


def _parse_text(line: str, _: str) -> HeldOutPrompt:
    return HeldOutPrompt(UNCATEGORISED, line.strip())


def _parse_json(line: str, where: str) -> HeldOutPrompt:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{where} is not JSON") from error
    prompt = entry.get("prompt") if isinstance(entry, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise _invalid(f'{where} has no "prompt"')
    return HeldOutPrompt(str(entry.get("category") or UNCATEGORISED), prompt)


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="prompts", reason="PROMPTS_UNREADABLE")
