"""What can be said of images without building them."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
TARGETS = ("control", "inference-cpu", "inference-cuda")


def stages():
    """Return the instructions of each stage by its name, and what it is made from."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    found, name = {}, ""
    for line in text.splitlines():
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if words[0] == "FROM":
            name = words[3]
            found[name] = [("FROM", words[1])]
        elif name:
            found[name].append((words[0], " ".join(words[1:])))
    return found


def test_the_linter_finds_nothing():
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():
        pytest.skip("no hadolint for this machine")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", TARGETS)
def test_images_run_our_command_as_a_user_without_rights(target):
    instructions = stages()[target]
    assert ("USER", "65532:65532") in instructions
    assert ("ENTRYPOINT", '["treedraft"]') in instructions
    # Nothing is done after the user is chosen that root would be needed for.
    after = instructions[instructions.index(("USER", "65532:65532")) :]
    assert {word for word, _ in after} <= {"USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def test_every_image_stands_on_the_one_base_that_is_named():
    known = stages()
    for name, instructions in known.items():
        base = instructions[0][1]
        assert base in known or (name, base) == ("base", "${PYTHON_IMAGE}")


def test_the_small_image_is_made_without_torch():
    known = stages()
    chain, name = [], "control-environment"
    while name in known:
        chain += known[name]
        name = known[name][0][1]
    said = " ".join(text for _, text in [*chain, *known["control"]])
    assert "inference" not in said
    assert "g++" not in said


def test_requirements_are_those_of_the_package(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for extras, wanted in (
        (["autoscaler"], project["dependencies"] + project["optional-dependencies"]["autoscaler"]),
        (["inference"], project["dependencies"] + project["optional-dependencies"]["inference"]),
    ):
        done = subprocess.run(
            [sys.executable, DOCKERFILE.parent / "requirements.py", *extras],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines() == wanted


def test_the_commands_of_the_small_image_need_no_torch():
    # What the inference extra brings cannot be imported there.
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "accelerate", "gguf", "safetensors",
                                  "huggingface_hub", "filelock"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from treedraft.cli.app import make_app
make_app()
import treedraft.coordinator.__main__, treedraft.draft.__main__
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_built_from_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = set()
    for instructions in stages().values():
        for word, text in instructions:
            if word == "COPY" and not text.startswith("--from"):
                copied.update(text.split()[:-1])
    assert copied == allowed
    assert all((ROOT / path).exists() for path in copied)


def pins(path):
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines), "a version is exact"
    return {line.partition("==")[0].lower() for line in lines}


def test_each_package_of_an_image_is_pinned_once(tmp_path):
    for file in (ROOT / "constraints.txt", DOCKERFILE.parent / "transitive.txt"):
        shutil.copy(file, tmp_path)
    (tmp_path / "transitive.txt").write_text("click==8.5.1\ntorch==1.0\n")
    done = subprocess.run(
        [sys.executable, DOCKERFILE.parent / "requirements.py", "--constraints"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert "click==8.5.1" in lines
    # What constraints.txt says wins.
    (torch,) = [line for line in lines if line.startswith("torch==")]
    assert f"\n{torch}\n" in (ROOT / "constraints.txt").read_text()
    assert pins(DOCKERFILE.parent / "transitive.txt") >= {"click", "urllib3", "huggingface-hub"}
