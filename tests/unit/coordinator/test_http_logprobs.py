from treedraft.coordinator.http.logprobs import completion_logprobs
from treedraft.core.logprobs import TokenLogprobs

WORDS = {1: b"one ", 2: b"tw", 3: b"\xc3", 4: b"\xb6"}


class Words:
    def bytes_of(self, token_id):
        return WORDS[token_id]


def told(*token_ids):
    return [(token_id, TokenLogprobs(-0.5, ((2, -1.0),))) for token_id in token_ids]


def test_offsets_count_the_characters_before_each_token():
    found = completion_logprobs(told(1, 2, 3, 4, 1), Words(), 10)
    assert found["tokens"] == ["one ", "tw", "\ufffd", "\ufffd", "one "]
    assert found["text_offset"] == [10, 14, 16, 17, 18]
    assert completion_logprobs([], Words(), 10)["text_offset"] == []
