import pytest

from treedraft.core.errors import InvalidRequestError
from treedraft.inference.drafters import choose_drafter, describe_drafter, shipped_drafter
from treedraft.inference.weights import resolve


@pytest.fixture
def shipped(tmp_path):
    folder = tmp_path / "smollm2-135m-drafter"
    folder.mkdir()
    for name in ("config.json", "drafter.json"):
        (folder / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "target",
    [
        "default",
        "smollm2-135m-instruct",
        "SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "huggingfacetb/smollm2-135m-instruct",
    ],
)
def test_auto_is_the_drafter_that_is_shipped_for_the_target(shipped, target):
    assert choose_drafter("auto", target, shipped=shipped) == "smollm2-135m-drafter"


@pytest.mark.parametrize(
    "target", ["", "someone/else", "someone/SmolLM2-135M-Instruct", "/some/folder"]
)
def test_auto_is_lookup_for_any_other_target(shipped, target):
    assert choose_drafter("auto", target, shipped=shipped) == ""


def test_auto_is_lookup_where_none_is_shipped(tmp_path):
    assert choose_drafter("auto", "default", shipped=tmp_path) == ""


@pytest.mark.parametrize(("draft", "source"), [("lookup", ""), ("", ""), ("a/b", "a/b")])
def test_what_is_named_is_what_drafts(shipped, draft, source):
    assert choose_drafter(draft, "default", shipped=shipped) == source


def test_only_names_that_are_known_are_looked_for(shipped):
    assert shipped_drafter("SmolLM2-135M-drafter", shipped=shipped) == (
        shipped / "smollm2-135m-drafter"
    )
    for name in ("", ".", "..", "smollm2-135m-drafter/../x", "default"):
        assert shipped_drafter(name, shipped=shipped) is None


def test_a_shipped_drafter_resolves_by_its_name(shipped, monkeypatch):
    monkeypatch.setattr(
        "treedraft.inference.weights.shipped_drafter",
        lambda source: shipped_drafter(source, shipped=shipped),
    )
    folder = shipped / "smollm2-135m-drafter"
    (folder / "model.safetensors").write_bytes(b"")
    assert resolve("smollm2-135m-drafter").folder == folder
    with pytest.raises(InvalidRequestError):
        resolve("smollm2-135m-other")


def test_results_say_what_drafted():
    assert describe_drafter("") == "drafts by lookup"
    assert describe_drafter("x") == "draft model x"
