"""Images of others get their digests, once docker has said all of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from scripts import pin_bases

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.mark.parametrize("before", ["", f"@{OLD}"])
def test_an_image_is_pinned_and_pinned_anew(before):
    text = f"ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm{before}\nFROM x\n"
    asked = []

    def digest(image):
        asked.append(image)
        return NEW

    assert pin_bases.pin(text, digest) == (
        f"ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm@{NEW}\nFROM x\n"
    )
    assert asked == ["docker.io/library/python:3.11.14-slim-bookworm"]


def test_images_of_our_own_are_left_alone():
    text = "image: treedraft/control:0.1.0\n"
    assert pin_bases.pin(text, lambda _: NEW) == text


def a_docker(folder: Path, script: str) -> None:
    program = folder / "docker"
    program.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    program.chmod(0o755)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in pin_bases.FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((pin_bases.ROOT / name).read_text())
    monkeypatch.setattr(pin_bases, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_every_file_is_pinned(tree, capsys):
    a_docker(tree, f"print({NEW!r})")
    assert pin_bases.main() == 0
    said = capsys.readouterr().out
    assert f"docker.io/library/redis:7.4.2-alpine@{NEW}" in said
    for name in pin_bases.FILES:
        images = pin_bases._IMAGE.findall((tree / name).read_text())
        pinned = (tree / name).read_text().count(f"@{NEW}")
        assert pinned == len(images) > 0


def test_a_registry_that_fails_half_way_leaves_everything_as_it_was(tree, capsys):
    a_docker(tree, f"print({NEW!r} if 'python' in sys.argv[-1] else 'denied')")
    before = {name: (tree / name).read_text() for name in pin_bases.FILES}
    assert pin_bases.main() == 1
    assert "no digest for docker.io/library/redis" in capsys.readouterr().err
    assert {name: (tree / name).read_text() for name in pin_bases.FILES} == before


def test_without_docker_it_says_so(tree):
    command = [sys.executable, "-m", "scripts.pin_bases"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={"PATH": str(tree)}
    )
    assert done.returncode == 1
    assert "docker is not installed" in done.stderr
