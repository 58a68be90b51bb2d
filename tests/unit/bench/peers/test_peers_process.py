import sys

import pytest

from treedraft.bench.peers.process import PeerProcess
from treedraft.bench.peers.protocol import PeerSetup
from treedraft.core.errors import UnavailableError
from treedraft.inference.toy import make_toy_model

SETUP = PeerSetup("transformers", "float32", 1)


def script(tmp_path, text):
    file = tmp_path / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


async def failure(python, setup=SETUP, **options):
    with pytest.raises(UnavailableError) as caught:
        async with PeerProcess(python, setup, **options) as peer:
            await peer.generate("plain", (1, 2), 3)
    assert caught.value.reason == "PEER_FAILED"
    return caught.value.message


async def test_transformers_answers_from_a_process_of_its_own(tmp_path):
    folder = make_toy_model(tmp_path / "toy", seed=5)
    setup = PeerSetup("transformers", "float32", 1, model=str(folder))
    async with PeerProcess(sys.executable, setup) as peer:
        plain = await peer.generate("plain", (5, 6, 7), 6)
        static = await peer.generate("static cache", (5, 6, 7), 6)
        with pytest.raises(UnavailableError, match="no draft model"):
            await peer.generate("assisted", (5, 6, 7), 6)
        assert set(peer.packages) == {"transformers", "torch"}
    assert plain.seconds > 0
    assert plain.num_passes == len(plain.token_ids) == 6
    assert static.token_ids == plain.token_ids


async def test_a_model_that_cannot_be_loaded_is_a_reason(tmp_path):
    setup = PeerSetup("transformers", "float32", 1, model=str(tmp_path))
    assert "Error: " in await failure(sys.executable, setup)


async def test_a_python_that_is_not_there_is_a_reason(tmp_path):
    assert "cannot be run" in await failure(str(tmp_path / "none"))


async def test_a_process_that_ends_is_a_reason(tmp_path):
    assert await failure(script(tmp_path, "exit 3")) == "its process ended with status 3"


async def test_silence_is_a_reason(tmp_path):
    message = await failure(script(tmp_path, "exec sleep 60"), limit_seconds=0.2)
    assert message == "no answer within 0.2 s"


async def test_too_few_tokens_are_a_reason(tmp_path):
    text = """echo '{"packages": {}}'
read line
echo '{"seconds": 1, "token_ids": [1], "num_passes": null}'
"""
    assert "gave 1 tokens where 3" in await failure(script(tmp_path, text))


async def test_a_process_that_died_is_a_reason_for_every_later_request(tmp_path):
    async with PeerProcess(script(tmp_path, """echo '{"packages": {}}'"""), SETUP) as peer:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="process"):
                await peer.generate("plain", (1,), 2)
