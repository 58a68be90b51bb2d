import pytest
from training_support import make_target

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.drafter_folder import save_drafter
from treedraft.training.student import make_student
from treedraft.training.target import load_target


def test_a_drafter_is_no_target(tmp_path):
    target = make_target(tmp_path / "target")
    save_drafter(
        make_student(target.module, (0,), range(50)),
        range(50),
        tmp_path / "drafter",
        target_name=target.name,
        target_source=target.source,
        tokenizer_hash=target.tokenizer_hash,
        eos_token_ids=target.eos_token_ids,
    )
    with pytest.raises(UnsupportedModelError, match="drafter is a drafter") as caught:
        load_target(str(tmp_path / "drafter"), device="cpu", dtype="float32")
    assert caught.value.reason == "NOT_A_TARGET"
