"""What holds for all tests: no state of the user's machine gets in or out."""

import os
import sys
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
    is_real = any(item.get_closest_marker("real_model") for item in session.items)
    if torch is not None and not is_real:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _native_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the native decoder lies that the first process of a run to want it compiles."""
    return tmp_path_factory.mktemp("native")


@pytest.fixture(autouse=True)
def _own_environment(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    _native_decoder: Path,
) -> None:
    for name in os.environ:
        if name.startswith("TREEDRAFT_") and name != "TREEDRAFT_CACHE":
            monkeypatch.delenv(name)
    # Tests on the real weights share the cache that `make weights` fills.
    if request.node.get_closest_marker("real_model") is None:
        cache = tmp_path.with_name(f"{tmp_path.name}-cache")  # the test's own folder is empty
        cache.mkdir()
        (cache / "native").symlink_to(_native_decoder)
        monkeypatch.setenv("TREEDRAFT_CACHE", str(cache))
