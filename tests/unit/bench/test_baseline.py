import pytest

from treedraft.bench.baseline import TransformersBaseline
from treedraft.bench.prompts import conversations
from treedraft.core.errors import UnavailableError
from treedraft.inference.toy import make_toy_model


async def test_every_answer_has_the_length_asked_for(tmp_path):
    folder = make_toy_model(tmp_path / "toy", seed=5)
    async with TransformersBaseline(
        folder, dtype="float32", device="cpu", num_threads=1
    ) as baseline:
        alone = await baseline.generate(conversations(1), 6)
        together = await baseline.generate(conversations(3), 6)
    assert [len(ids) for ids in together.token_ids] == [6, 6, 6]
    # Padding on the left is no part of the prompt.
    assert together.prompt_token_ids[0] == alone.prompt_token_ids[0]
    assert together.seconds > 0


async def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path):
    baseline = TransformersBaseline(tmp_path, dtype="float32", device="cpu", num_threads=1)
    with pytest.raises(UnavailableError) as caught:
        async with baseline:
            pass
    assert caught.value.reason == "SERVICE_DIED"
