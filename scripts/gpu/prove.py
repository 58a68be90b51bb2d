"""Prove and measure the engine on a CUDA device, section by section, in one go.

    python -m scripts.gpu.prove --out FOLDER [--only SECTION …]

A section runs in a process of its own under a time limit, so that a crash of one costs
that one alone; its findings go to FOLDER/SECTION.json, its log to FOLDER/SECTION.log. A
short table comes last. `--tiny` runs every section over a toy on whatever device there is
(`TRITON_INTERPRET=1` where there is none), to see that the script is right.

Nothing is fetched if the weights lie where a download would put them, as
`~/.cache/treedraft/downloads/SmolLM2-135M-Instruct.Q4_1.gguf`. Where a machine takes no
more than 64 MB at once, cut that file in two with `split -b 60M`, bring the first piece and
put it aside outside the repository, bring the second with the wheels of packages that are
missing there, and join the pieces with `cat`.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MODELS = ("8b", "1.5b", "135m")

Section = Callable[[argparse.Namespace, torch.device], Any]


def kernels(_options: argparse.Namespace, _device: torch.device) -> Any:
    """Run the tests of the kernels on the device itself."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", "."]
    command += ["-p", "no:cacheprovider", "tests/unit/inference/fused"]
    command += ["tests/unit/draft/test_model_levels.py"]
    if importlib.util.find_spec("xdist"):  # most of the time goes to compilation
        command += ["-n", "8"]
    command += ["--deselect", "tests/unit/inference/fused/test_fused_compilation.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout[-6000:], done.stderr[-2000:])
    return {"exit": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}


def identity(options: argparse.Namespace, device: torch.device) -> Any:
    """Compare logits bit by bit, and texts token by token."""
    from scripts.gpu.identity import check
    from scripts.gpu.subjects import load

    tokens = (40, 6) if options.tiny else (700, 160)
    return check(load(options.weights, device), num_context=tokens[0], num_steps=tokens[1])


def _passes(name: str) -> Section:
    def section(options: argparse.Namespace, device: torch.device) -> Any:
        from scripts.gpu.passes import by_kernel, copy_bandwidth, measure
        from scripts.gpu.subjects import load

        bandwidth = copy_bandwidth(device)
        model = load(name or options.weights, device)
        context, repeats = (20, 2) if options.tiny else (564, 40)
        sessions = (2,) if options.tiny else (4, 16, 64) if name else (4, 16, 64, 256)
        found = measure(model, bandwidth, num_context=context, repeats=repeats, sessions=sessions)
        found["copy_tb_per_s"] = bandwidth / 1e12
        found["path"] = type(model.native).__name__
        if device.type == "cuda":
            found["kernels"] = _tried(lambda: by_kernel(model, num_context=context))
        return found

    return section


def transformers(options: argparse.Namespace, device: torch.device) -> Any:
    """Measure transformers' own ways."""
    from scripts.gpu.peers import batch_generate, static_generate

    found: dict[str, Any] = {}
    count = 4 if options.tiny else 128
    for name in [options.weights] if options.tiny else [options.weights, "1.5b"]:
        label = name if name == "1.5b" else "real"
        found[f"static, {label}, tok/s"] = _tried(lambda n=name: static_generate(n, device, count))
    requests = 2 if options.tiny else 64
    found[f"generate_batch of {requests}, tok/s"] = _tried(
        lambda: batch_generate(options.weights, device, requests, count)
    )
    return found


def _tried(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:  # a peer's failure is a finding
        traceback.print_exc()
        return f"{type(error).__name__}: {str(error)[:200]}"


def cuts(_options: argparse.Namespace, device: torch.device) -> Any:
    """Look for better cuts of products."""
    from scripts.gpu.cuts import SHAPES, search

    return {name: search(device, name) for name in SHAPES} if device.type == "cuda" else {}


def exchange(options: argparse.Namespace, device: torch.device) -> Any:
    """Measure target and drafter over gRPC, placed in several ways."""
    from scripts.gpu.exchange import exchange as measure

    return measure(options, device)


def host(options: argparse.Namespace, device: torch.device) -> Any:
    """Say what each part of a step takes the host, and the device."""
    from scripts.gpu.host import measure
    from scripts.gpu.subjects import load

    names = ["tiny"] if options.tiny else [options.weights, "1.5b", "8b"]
    sizes = (20, 3) if options.tiny else (564, 200)
    return {
        name: measure(load(name, device), num_context=sizes[0], repeats=sizes[1]) for name in names
    }


def ways(options: argparse.Namespace, _device: torch.device) -> Any:
    """Compare ways to queue a pass, model by model."""
    from scripts.gpu.ways import compare

    seconds = options.limit or SECTIONS["ways"][1]
    out = Path(options.out)
    return compare(options.models, out, is_tiny=options.tiny, limit=seconds - 10)


SECTIONS: dict[str, tuple[Section, int]] = {
    "kernels": (kernels, 200),
    "identity": (identity, 120),
    "passes-135m": (_passes(""), 90),
    "passes-8b": (_passes("8b"), 120),
    "passes-1.5b": (_passes("1.5b"), 90),
    "transformers": (transformers, 150),
    "host": (host, 90),
    "exchange": (exchange, 300),
    "cuts": (cuts, 150),
    "ways": (ways, 150),
}


def main() -> int:
    """Run the sections asked for, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="default", help="the small model")
    parser.add_argument("--draft", default="auto", help="drafter for the exchange")
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", nargs="*", default=[], choices=[*SECTIONS, []])
    parser.add_argument("--loads", nargs="*", default=[], help="of the exchange; all by default")
    parser.add_argument("--models", nargs="*", default=[*MODELS], help="whose ways are compared")
    parser.add_argument("--skip", nargs="*", default=[])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--limit", type=int, default=0, help="seconds a section may take")
    parser.add_argument("--here", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        return _run_here(options)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    names = [n for n in options.only or SECTIONS if n not in options.skip]
    for name in names:
        _run_apart(name, options, out)
    _print_table(names, out)
    return 0


def _run_apart(name: str, options: argparse.Namespace, out: Path) -> None:
    limit = options.limit or SECTIONS[name][1]
    command = [sys.executable, "-m", "scripts.gpu.prove", "--here", name]
    command += ["--weights", options.weights, "--draft", options.draft, "--out", str(out)]
    if options.loads:
        command += ["--loads", *options.loads]
    command += ["--models", *options.models]
    command += ["--limit", str(limit), *(["--tiny"] if options.tiny else [])]
    own = [str(Path(name).resolve()) for name in ("services", ".")]
    paths = [*own, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    started = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        try:
            status: Any = subprocess.run(
                command, env=environment, stdout=log, stderr=log, timeout=limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            status = "out of time"
    print(f"{name}: {status} after {time.monotonic() - started:.0f} s", flush=True)


def _run_here(options: argparse.Namespace) -> int:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_grad_enabled(False)
    file = Path(options.out) / f"{options.here}.json"
    try:
        found = SECTIONS[options.here][0](options, device)
    except Exception as error:
        traceback.print_exc()
        file.write_text(json.dumps({"failed": f"{type(error).__name__}: {error}"[:600]}))
        return 1
    file.write_text(json.dumps({"found": found, "stamp": _stamp(device)}, indent=1, default=str))
    return 0


def _stamp(device: torch.device) -> dict[str, str]:
    from treedraft.inference.stamp import take_stamp

    stamp = {"inference": str(take_stamp())}
    if device.type == "cuda":
        driver = "nvidia-smi --query-gpu=name,driver_version --format=csv,noheader"
        said = subprocess.run(driver.split(), capture_output=True, text=True, check=False)
        stamp |= {"device": said.stdout.strip(), "cuda": str(torch.version.cuda)}
    return stamp


def _print_table(names: list[str], out: Path) -> None:
    for name in names:
        file = out / f"{name}.json"
        if not file.is_file():
            log = (out / f"{name}.log").read_text()
            print(f"== {name}: nothing found; the log ends:\n{log[-800:]}")
            continue
        held = json.loads(file.read_text())
        print(f"== {name}")
        found = held.get("found", held)
        for key, value in found.items() if isinstance(found, dict) else enumerate(found):
            print(f"  {key}: {_short(value)}")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_short(own)}" for key, own in value.items())
    if isinstance(value, list):
        return "".join(f"\n    {one}" for one in value)
    return str(value)[:1500]


if __name__ == "__main__":
    sys.exit(main())
