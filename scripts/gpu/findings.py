"""What sections left in a folder, joined in one file or shown as a short table."""

import json
from pathlib import Path
from typing import Any

from scripts.gpu.section import file_name

_MAX_LINE, _MAX_LINES = 300, 14  # of a section in the table


def join(names: list[str], out: Path, bundle: Path) -> None:
    """Write the findings of sections and the ends of their logs into one file."""
    whole = {name: {**_held(name, out), "log": _log_end(name, out, 20_000)} for name in names}
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text(json.dumps(whole, indent=1))


def print_table(names: list[str], out: Path) -> None:
    """Print the findings of sections, in a few lines each."""
    for name in names:
        held = _held(name, out)
        found = held.get("found", {})
        ended = "; ".join(str(held[why]) for why in ("failed", "ended") if why in held)
        print(f"== {name}{': ' if ended else ''}{ended[:_MAX_LINE]}")
        if not found and (end := _log_end(name, out, 600)):
            print(f"  nothing found; the log ends:\n{end}")
        lines = [line for key, value in found.items() for line in _lines(key, value)]
        for line in lines[:_MAX_LINES]:
            print(f"  {line[:_MAX_LINE]}")
        if len(lines) > _MAX_LINES:
            print(f"  and {len(lines) - _MAX_LINES} lines more in {file_name(name)}.json")


def _held(name: str, out: Path) -> dict[str, Any]:
    file = out / f"{file_name(name)}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _log_end(name: str, out: Path, size: int) -> str:
    file = out / f"{file_name(name)}.log"
    return file.read_text(errors="replace")[-size:] if file.is_file() else ""


def _lines(key: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"{key}:", *(f"  {_short(one)}" for one in value)]
    if isinstance(value, dict) and any(isinstance(own, dict) for own in value.values()):
        return [f"{key}:", *(f"  {own}: {_short(one)}" for own, one in value.items())]
    return [f"{key}: {_short(value)}"]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_short(own)}" for key, own in value.items())
    if isinstance(value, list):
        return "; ".join(map(_short, value))
    return " ".join(str(value).split())
