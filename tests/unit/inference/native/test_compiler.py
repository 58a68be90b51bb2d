"""The library is made once for a machine, and doing without it is no error."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from treedraft.inference.native import compiler

CPP = compiler.find_compiler()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "cache_dir", lambda: tmp_path)
    compiler.native_library.cache_clear()
    yield
    compiler.native_library.cache_clear()


def fake_compiler(tmp_path, script):
    path = tmp_path / "fake-c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_processes_that_start_together_compile_once(tmp_path):
    # Writes its output like a compiler, slowly, and a line for each time that it did.
    script = (
        'if [ "$1" = --version ]; then echo fake; exit; fi\n'
        'while [ "$1" != -o ]; do shift; done\n'
        f'echo once >> "{tmp_path}/calls"; sleep 0.2; echo library > "$2"'
    )
    fake = fake_compiler(tmp_path, script)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: compiler.compile_library(fake, tmp_path / "n"), range(4)))
    assert len(set(made)) == 1
    assert made[0].read_text() == "library\n"
    assert (tmp_path / "calls").read_text() == "once\n"


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path):
    fake = fake_compiler(tmp_path, 'if [ "$1" = --version ]; then echo fake; else exit 3; fi')
    with pytest.raises(subprocess.CalledProcessError):
        compiler.compile_library(fake, tmp_path / "n")
    assert not list((tmp_path / "n").glob("*.so"))


@pytest.mark.parametrize("broken", ["no compiler", "fails", "no library", "switched off"])
def test_without_a_library_passes_go_through_torch(monkeypatch, tmp_path, broken):
    script = {"fails": "exit 3", "no library": "exit 0"}.get(broken)
    if script:
        monkeypatch.setenv("CXX", fake_compiler(tmp_path, script))
    elif broken == "switched off":
        monkeypatch.setenv("TREEDRAFT_NATIVE", "0")
    else:
        monkeypatch.setenv("CXX", "there-is-no-such-compiler")
    assert compiler.native_library() is None


@pytest.mark.skipif(CPP is None, reason="no C++ compiler")
def test_the_library_is_named_by_what_it_is_made_of(tmp_path, monkeypatch):
    first = compiler.compile_library(CPP, tmp_path)
    assert compiler.compile_library(CPP, tmp_path) == first
    monkeypatch.setattr(compiler, "_processor", lambda: "another one")
    monkeypatch.setattr(compiler, "_run", lambda command: "version")
    monkeypatch.setattr(compiler.Path, "replace", lambda *_: None)
    assert compiler.compile_library(CPP, tmp_path) != first
