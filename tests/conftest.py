"""What holds for all tests: no state of the user's machine gets in or out."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Without a GPU kernels run in Triton's interpreter. Triton reads that as it is first
# imported, by whichever test that may be; so it is said before any of them.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

# Machines of two busy cores: how long one example takes says nothing.
settings.register_profile(
    "treedraft", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("treedraft")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let toys have one thread: several wait for each other wherever cores are busy."""
    torch = sys.modules.get("torch")
    if torch is not None and not _uses_weights(session):
        torch.set_num_threads(1)


def _uses_weights(session: pytest.Session) -> bool:
    return any(item.get_closest_marker("real_model") for item in session.items)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Where several tests have what they share, the native decoder above all: compiled once."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "native").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        if not _uses_weights(request.session):
            patch.setenv("TREEDRAFT_CACHE", str(cache))
        yield cache


@pytest.fixture(autouse=True)
def _own_environment(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    _cache_of_the_run: Path,
) -> None:
    for name in os.environ:
        if name.startswith("TREEDRAFT_") and name != "TREEDRAFT_CACHE":
            monkeypatch.delenv(name)
    # Tests on the real weights share the cache that `make weights` fills.
    if request.node.get_closest_marker("real_model") is None:
        cache = tmp_path.with_name(f"{tmp_path.name}-cache")  # the test's own folder is empty
        cache.mkdir()
        (cache / "native").symlink_to(_cache_of_the_run / "native")
        monkeypatch.setenv("TREEDRAFT_CACHE", str(cache))
