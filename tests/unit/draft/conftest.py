import pytest

from treedraft.inference.models import load_model
from treedraft.inference.toy import make_toy_model


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    return make_toy_model(tmp_path_factory.mktemp("toy"), seed=1)


@pytest.fixture(scope="session")
def toy_model(toy_folder):
    return load_model(toy_folder)


@pytest.fixture(scope="session")
def noisy_model(toy_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    return load_model(make_toy_model(folder, seed=1, noise_of=toy_folder, noise=0.02))
