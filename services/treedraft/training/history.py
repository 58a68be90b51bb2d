"""What a drafter in training was worth, each time that it was looked at.

The list is part of every checkpoint, so a run that is broken off goes on with it, and
lies beside as `history.json` for those who want to see the curve.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from treedraft.training.files import replace_text
from treedraft.training.validation import Validation

HISTORY_FILE = "history.json"


class TrainingHistory:
    """The looks so far, in a folder."""

    def __init__(self, work: Path) -> None:
        """Begin without any."""
        self._path = work / HISTORY_FILE
        self._looks: list[dict[str, Any]] = []

    def add(self, validation: Validation, **place: float) -> None:
        """Note what a look found, and in which place of the run; write it down."""
        self._looks.append({**place, **asdict(validation)})
        self.write()

    def write(self) -> None:
        """Write the file."""
        replace_text(self._path, json.dumps(self._looks, indent=1) + "\n")

    def to_json(self) -> str:
        """Return what `restore` takes."""
        return json.dumps(self._looks)

    def restore(self, text: str) -> None:
        """Go on with the looks of a run that was broken off."""
        self._looks = json.loads(text)
