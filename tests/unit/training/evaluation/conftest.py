"""A toy target, a drafter that is the target with noise, and what the target wrote."""

import pytest
from evaluation_toys import PROMPTS, SETTINGS

from treedraft.inference.models import load_model
from treedraft.inference.toy import make_toy_model
from treedraft.training.evaluation.texts import target_texts


@pytest.fixture(scope="package")
def target(tmp_path_factory):
    return load_model(make_toy_model(tmp_path_factory.mktemp("target"), seed=1))


@pytest.fixture(scope="package")
def drafter(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drafter")
    source = make_toy_model(tmp_path_factory.mktemp("source"), seed=1)
    return load_model(make_toy_model(folder, seed=2, noise_of=source, noise=0.08))


@pytest.fixture(scope="package")
def texts(target):
    return target_texts(target, PROMPTS, SETTINGS, lambda _: None)
