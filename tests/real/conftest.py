"""The default model, served by real processes."""

from pathlib import Path

import pytest

from treedraft.inference.toy import truncate_model
from treedraft.inference.weights import resolve


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The folder of the default model's weights, fetched if they are not there."""
    return resolve("default").folder


@pytest.fixture(scope="session")
def shallow_draft(default_model, tmp_path_factory) -> Path:
    """The target's own first layers: an honest, weak drafter of the same tokenizer."""
    return truncate_model(default_model, tmp_path_factory.mktemp("draft") / "shallow", layers=6)
