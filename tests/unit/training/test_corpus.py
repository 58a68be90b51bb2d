import numpy as np
import pytest

from treedraft.core.errors import InvalidRequestError
from treedraft.training.corpus import Corpus, CorpusWriter, Document


def document(*token_ids, prompt=1, temperature=0.7, job=-1):
    return Document(np.array(token_ids, np.int32), prompt, temperature, job)


def test_what_is_written_is_read_in_order_over_parts(tmp_path):
    writer = CorpusWriter(tmp_path)
    writer.append(document(1, 2, 3, prompt=2, job=4))
    writer.append(document(9, 8, temperature=0.0))
    assert writer.num_pending_tokens == 5
    writer.flush_part()
    writer.flush_part()  # nothing new: no part
    writer = CorpusWriter(tmp_path)  # another process goes on
    writer.append(document(70_000, 5, 6, 7, prompt=3))  # needs more than 16 bits
    writer.flush_part()

    corpus = Corpus.open(tmp_path)

    assert writer.num_parts == len(list(tmp_path.iterdir())) == 2
    assert (corpus.num_documents, corpus.num_tokens, corpus.num_response_tokens) == (3, 9, 3)
    assert corpus.lengths.tolist() == [3, 2, 4]
    assert corpus.prompt_lengths.tolist() == [2, 1, 3]
    assert corpus.offsets.tolist() == [0, 3, 5, 9]
    first, _, last = (corpus.document(i) for i in range(3))
    assert first.token_ids.tolist() == [1, 2, 3]
    assert first.response_ids.tolist() == [3]
    assert (first.prompt_length, first.temperature, first.job) == (2, 0.7, 4)
    assert last.token_ids.tolist() == [70_000, 5, 6, 7]


def test_a_writer_that_died_leaves_whole_parts_alone(tmp_path):
    writer = CorpusWriter(tmp_path)
    writer.append(document(1, 2))
    writer.flush_part()
    (tmp_path / "part-00001.npz.partial").write_bytes(b"half a part")
    assert Corpus.open(tmp_path).num_documents == 1
    writer = CorpusWriter(tmp_path)
    writer.append(document(3, 4))
    writer.flush_part()
    assert [Corpus.open(tmp_path).document(i).token_ids[0] for i in range(2)] == [1, 3]


def test_folders_without_a_corpus_are_refused(tmp_path):
    with pytest.raises(InvalidRequestError) as caught:
        Corpus.open(tmp_path)
    assert caught.value.reason == "CORPUS_MISSING"


@pytest.mark.parametrize("damage", ["bytes", "index"])
def test_damaged_parts_are_refused(tmp_path, damage):
    part = tmp_path / "part-00000.npz"
    if damage == "bytes":
        part.write_bytes(b"PK no archive")
    else:
        one = np.ones(1, np.int32)
        np.savez(part, tokens=one, lengths=one * 2, prompt_lengths=one, temperatures=one, jobs=one)
    with pytest.raises(InvalidRequestError) as caught:
        Corpus.open(tmp_path)
    assert caught.value.reason == "CORPUS_CORRUPT"
