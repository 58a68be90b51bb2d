"""The process of one peer: JSON lines in, JSON lines out.

Started with a `PeerSetup` as JSON for its argument. The first line says
`{"packages": {…}}` once the model is loaded; then every line
`{"mode": m, "prompt_ids": […], "num_tokens": n}` is answered by `{"seconds": s,
"token_ids": […], "num_passes": p}`. Whatever goes wrong is `{"error": why}`.

What engines print goes to standard error, so that nothing but answers is on the
pipe. Runs in a foreign Python: the standard library only.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module, metadata
from typing import Any, TextIO

from treedraft.bench.peers.protocol import Peer, PeerSetup, UnsupportedModeError

_ADAPTERS = {
    "transformers": "transformers_peer:TransformersPeer",
    "llama.cpp": "llama_cpp_peer:LlamaCppPeer",
    "openvino": "openvino_peer:OpenVinoPeer",
    "flashspec": "flashspec_peer:FlashSpecPeer",
    "mini-infer": "mini_infer_peer:MiniInferPeer",
}
_REASON_LENGTH = 200


def load_peer(setup: PeerSetup) -> Peer:
    """Return the adapter that a setup names, with its model loaded."""
    module_name, class_name = _ADAPTERS[setup.adapter].split(":")
    module = import_module(f"treedraft.bench.peers.{module_name}")
    peer: Peer = getattr(module, class_name)(setup)
    return peer


def serve(load: Callable[[], Peer], requests: Iterable[str], answers: TextIO) -> None:
    """Load a peer and answer requests until they end."""

    def answer(document: dict[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    try:
        peer = load()
    except Exception as error:  # engines raise whatever they like
        answer({"error": reason_of(error)})
        return
    answer({"packages": {name: metadata.version(name) for name in peer.packages}})
    for line in requests:
        try:
            answer(_measured(peer, json.loads(line)))
        except Exception as error:  # a mode that fails leaves the others
            answer({"error": reason_of(error)})


def _measured(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    generation = peer.generate(request["mode"], request["prompt_ids"], request["num_tokens"])
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "token_ids": generation.token_ids,
        "num_passes": generation.num_passes,
    }


def reason_of(error: Exception) -> str:
    """Return in one line why something failed."""
    if isinstance(error, ModuleNotFoundError):
        return f"not installed: no module named {error.name}"
    if isinstance(error, UnsupportedModeError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO begins with the place in its source and says the reason last.
    text = lines[-1] if lines and lines[0].startswith("Exception from") else " ".join(lines)
    return f"{type(error).__name__}: {text}"[:_REASON_LENGTH]


def main() -> None:
    """Serve one peer on stdin and stdout."""
    setup = PeerSetup(**json.loads(sys.argv[1]))
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        serve(lambda: load_peer(setup), sys.stdin, answers)


if __name__ == "__main__":
    main()
