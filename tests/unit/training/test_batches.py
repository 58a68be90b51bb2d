import numpy as np
import pytest
import torch

from treedraft.core.errors import InvalidRequestError
from treedraft.training.batches import BatchMaker, plan_epoch, split_documents
from treedraft.training.corpus import Corpus, CorpusWriter, Document
from treedraft.training.vocabulary import choose_vocabulary, count_response_ids, coverage


def _corpus(folder, documents) -> Corpus:
    writer = CorpusWriter(folder)
    for tokens, prompt_length, temperature in documents:
        writer.append(Document(np.array(tokens, np.int32), prompt_length, temperature))
    writer.flush_part()
    return Corpus.open(folder)


def _random_corpus(folder, count=200, seed=0):
    rng = np.random.default_rng(seed)
    return _corpus(
        folder,
        [
            (rng.integers(0, 50, int(rng.integers(6, 90))), int(rng.integers(1, 5)), 0.7)
            for _ in range(count)
        ],
    )


def test_rows_predict_exactly_the_answers(tmp_path):
    corpus = _random_corpus(tmp_path, count=7)
    batch = BatchMaker(corpus, torch.device("cpu")).make(np.array([4, 1, 6]))
    flat = batch.tokens.flatten()
    answers = np.concatenate([corpus.document(i).response_ids for i in (4, 1, 6)])
    assert flat[batch.rows + 1].tolist() == answers.tolist()
    starts = np.flatnonzero(batch.is_first.numpy())
    lengths = [len(corpus.document(i).response_ids) for i in (4, 1, 6)]
    assert starts.tolist() == [0, lengths[0], lengths[0] + lengths[1]]
    assert len(set(batch.stored_rows.tolist())) == batch.num_rows
    assert int(batch.stored_rows.max()) < corpus.num_response_tokens


def test_an_epoch_shows_every_document_once_within_the_budget_and_follows_from_its_seed(tmp_path):
    corpus = _random_corpus(tmp_path)
    documents = np.arange(corpus.num_documents)
    plan = plan_epoch(corpus, documents, batch_tokens=512, seed=3, epoch=1)
    again = plan_epoch(corpus, documents, batch_tokens=512, seed=3, epoch=1)
    other = plan_epoch(corpus, documents, batch_tokens=512, seed=3, epoch=2)
    assert sorted(np.concatenate(plan).tolist()) == documents.tolist()
    assert [batch.tolist() for batch in plan] == [batch.tolist() for batch in again]
    assert [batch.tolist() for batch in plan] != [batch.tolist() for batch in other]
    maker = BatchMaker(corpus, torch.device("cpu"))
    assert max(maker.make(batch).tokens.numel() for batch in plan) <= 512


def test_prompts_are_held_out_with_all_their_answers(tmp_path):
    prompts = [[i, i + 1] for i in range(30)]
    corpus = _corpus(
        tmp_path, [([*prompt, 5, answer], 2, 0.0) for prompt in prompts for answer in (1, 2, 3)]
    )
    split = split_documents(corpus, num_validation_prompts=2, max_length=100)
    held_out = {tuple(corpus.document(i).token_ids[:2]) for i in split.validation}
    trained = {tuple(corpus.document(i).token_ids[:2]) for i in split.training}
    assert len(held_out) == 2
    assert len(split.validation) == 6
    assert not held_out & trained


def test_a_corpus_of_one_prompt_is_too_small(tmp_path):
    corpus = _corpus(tmp_path, [([1, 2, 3], 2, 0.0)])
    with pytest.raises(InvalidRequestError) as caught:
        split_documents(corpus, 1, 100)
    assert caught.value.reason == "CORPUS_TOO_SMALL"


def test_vocabulary_counts_answers_alone_and_keeps_what_it_must(tmp_path):
    corpus = _corpus(tmp_path, [([9, 9, 9, 3, 3, 4], 3, 0.0), ([9, 7, 3, 4, 6], 1, 0.0)])
    counts = count_response_ids(corpus, 12)
    assert {i: int(c) for i, c in enumerate(counts) if c} == {3: 3, 4: 2, 6: 1, 7: 1}
    assert choose_vocabulary(corpus, 4, vocab_size=12, always=(11,)) == (3, 4, 6, 11)
    assert coverage(corpus, (3, 4), 12) == pytest.approx(5 / 7)
    assert choose_vocabulary(corpus, 99, vocab_size=12) == tuple(range(12))


@pytest.mark.parametrize(
    ("size", "vocab_size", "reason"),
    [(1, 12, "VOCABULARY_TOO_SMALL"), (4, 5, "CORPUS_MISMATCH")],
)
def test_vocabularies_that_cannot_be_are_refused(tmp_path, size, vocab_size, reason):
    corpus = _corpus(tmp_path, [([1, 9, 8], 1, 0.0)])
    with pytest.raises(InvalidRequestError) as caught:
        choose_vocabulary(corpus, size, vocab_size=vocab_size, always=(2, 3))
    assert caught.value.reason == reason
