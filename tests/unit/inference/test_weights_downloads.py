import sys
import zipfile
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.inference import downloads
from treedraft.inference.downloads import download_package, download_snapshot


@pytest.fixture
def only_local_index(tmp_path, monkeypatch):
    """An index that is a folder with one package; pip asks nobody else."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny_data-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_data-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_data/model.gguf", "GGUF")
        metadata = (
            "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\nRequires-Dist: not-there\n"
        )
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_pip_downloads_one_wheel_and_no_dependencies(tmp_path, only_local_index):
    messages = []
    wheel = download_package("tiny-data==1.0", tmp_path / "to", messages.append)
    assert [path.name for path in (tmp_path / "to").iterdir()] == [wheel.name]
    assert messages[0] == "downloading tiny-data==1.0 with pip"
    assert "tiny_data" not in sys.modules


def test_a_failing_pip_is_reported_with_its_own_words(tmp_path, only_local_index):
    with pytest.raises(UnavailableError, match="No matching distribution") as caught:
        download_package("tiny-data==2.0", tmp_path / "to", lambda _message: None)
    assert caught.value.reason == "WEIGHTS_UNAVAILABLE"


def hub_that_raises(monkeypatch, error):
    def snapshot_download(*_arguments, **_options):
        raise error

    monkeypatch.setattr(downloads, "snapshot_download", snapshot_download)


RESPONSE = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "expected", "reason"),
    [
        (RepositoryNotFoundError("?", response=RESPONSE), InvalidRequestError, "MODEL_NOT_FOUND"),
        (GatedRepoError("?", response=RESPONSE), InvalidRequestError, "MODEL_NOT_FOUND"),
        (LocalEntryNotFoundError("offline"), UnavailableError, "WEIGHTS_UNAVAILABLE"),
        (ConnectionError("no route"), UnavailableError, "WEIGHTS_UNAVAILABLE"),
    ],
)
def test_what_goes_wrong_at_the_hub_is_told_apart(monkeypatch, error, expected, reason):
    hub_that_raises(monkeypatch, error)
    with pytest.raises(expected) as caught:
        download_snapshot("org/name", lambda _message: None)
    assert caught.value.reason == reason


def test_a_snapshot_is_fetched_without_its_subfolders(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(downloads, "snapshot_download", snapshot_download)
    assert download_snapshot("org/name@v2", lambda _message: None) == tmp_path
    assert (asked["repository"], asked["revision"]) == ("org/name", "v2")
    assert asked["ignore_patterns"] == ["*/*"]
