import pytest

from treedraft.core.errors import InvalidRequestError
from treedraft.training.evaluation.held_out import (
    CATEGORIES,
    HeldOutPrompt,
    held_out_prompts,
    read_prompts,
)


def test_there_are_ten_held_out_prompts_of_each_category():
    prompts = held_out_prompts()
    assert [prompt.category for prompt in prompts] == [c for c in CATEGORIES for _ in range(10)]
    assert len({prompt.text for prompt in prompts}) == 60


def test_prompts_are_read_line_by_line(tmp_path):
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("one\n\n two \n")
    lines.write_text('{"prompt": "a\\nb", "category": "code"}\n{"prompt": "c"}\n')
    assert [prompt.text for prompt in read_prompts(plain)] == ["one", "two"]
    assert read_prompts(lines) == (HeldOutPrompt("code", "a\nb"), HeldOutPrompt("other", "c"))


@pytest.mark.parametrize("content", ["", "{", '["x"]\n', '{"prompt": " "}', '{"text": "x"}'])
def test_prompts_that_are_none_are_refused(tmp_path, content):
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    with pytest.raises(InvalidRequestError) as caught:
        read_prompts(file)
    assert caught.value.reason == "PROMPTS_UNREADABLE"
