"""Toys that the tests of engines share: they are read, and nothing more."""

import pytest
from tests.engine_harness import load_toy

from treedraft.inference.toy import make_toy_model


@pytest.fixture(scope="session", params=["llama", "qwen2"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / request.param
    return load_toy(make_toy_model(folder, architecture=request.param, seed=3))


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return load_toy(make_toy_model(tmp_path_factory.mktemp("toy") / "llama", seed=3))
