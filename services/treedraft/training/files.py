"""Files that are replaced as a whole."""

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a text under another name and rename it: whoever reads sees the old or the new."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
