"""The drafter's whole engine against the target's own rules.

Coupled: whatever is drafted, and however late it arrives, the tokens that come
out are those of plain sampling. Rejection: what comes out follows the law.
"""

import random

import numpy as np
import pytest
import torch
from draft_support import REJECTION, SAMPLED, FakeTarget, make_drafter, make_spec
from scipy import stats
from test_model_grower import fresh_logits

from treedraft.core.flat_tree import FlatTree
from treedraft.core.noise import Domain, uniform
from treedraft.core.sampling import SamplingParameters
from treedraft.draft.assembly import assemble
from treedraft.draft.model_children import DraftLimits
from treedraft.draft.model_grower import ModelGrower
from treedraft.draft.settings import DraftSettings, GrowthSettings, LookupSettings
from treedraft.inference.block_pool import SlotPool
from treedraft.inference.sampler import LawRow, coupled_draw
from treedraft.target.verification import coupled_walk, rejection_walk

PROMPT = [11, 42, 7, 99, 300, 5, 64, 8, 11, 42, 7, 99]


class LateTarget(FakeTarget):
    """A target at the end of a slow line: frames wait until they are fetched."""

    def __init__(self, drafter, rng):
        self.line = []
        self.rng = rng
        super().__init__(drafter)

    def receive(self, frame):
        self.line.append(frame)

    def fetch(self):
        for _ in range(self.rng.randrange(len(self.line) + 1)):
            frame = self.line.pop(0)
            for growth in frame.growths:
                growth.check(self.vocab_size)
                number = growth.session_number
                self.trees[number].graft(growth, self.texts[number])


def draw_all(model, sampling, text, tree):
    """Return the target's draw at the root and at each node, one fresh pass each."""
    paths = [[], *([tree.token_ids[i] for i in tree.path(n)] for n in range(tree.num_nodes))]
    return [
        coupled_draw(
            fresh_logits(model, [*text, *path]), [LawRow(sampling, len(text) + len(path))]
        )[0]
        for path in paths
    ]


@pytest.mark.parametrize(
    "sampling",
    [SamplingParameters(temperature=0.0, seed=1), SAMPLED, SamplingParameters(top_p=0.9, seed=3)],
    ids=["greedy", "T1", "top-p"],
)
def test_the_stream_is_that_of_plain_sampling(tmp_path, toy_model, noisy_model, sampling):
    plain = list(PROMPT)
    for _ in range(30):
        plain.append(draw_all(toy_model, sampling, plain, FlatTree())[0])
    rng = random.Random(5)
    settings = DraftSettings(model="toy", kv_tokens=256, growth=GrowthSettings(num_children=3))
    drafter = make_drafter(
        tmp_path, settings=settings, grower=assemble(noisy_model, settings).grower
    )
    target = LateTarget(drafter, rng)
    target.open(1, make_spec(PROMPT, sampling=sampling))
    num_rounds = 0
    while len(target.texts[1]) < len(plain):
        for _ in range(rng.randrange(4)):
            drafter.step()
        target.fetch()
        nodes = sorted(target.trees[1], key=lambda node: -node.score)[:6]
        admitted = {i for node in nodes for i in target.trees[1].path(node.node_id)}
        tree = target.trees[1].flatten(admitted)
        walk = coupled_walk(tree, draw_all(toy_model, sampling, target.texts[1], tree))
        target.commit(1, walk.token_ids)
        num_rounds += 1
    assert target.texts[1][: len(plain)] == plain
    assert num_rounds < 30  # and drafting was of use


class FixedRunner:
    """A draft model over six tokens whose law depends on the last token only."""

    def __init__(self, laws):
        self.logits = torch.from_numpy(np.log(laws)).float()

    def forward(self, segments):
        last = [s.token_ids[row] for s in segments for row in s.output_rows]
        return self.logits[last]


@pytest.mark.statistical
def test_the_law_of_rejection_is_the_targets(tmp_path):
    """Three tokens, over rounds and re-rooted trees, by the real growth and the real walk."""
    num_sessions, vocab = 2000, 6
    rng = np.random.default_rng(0)
    p_laws, q_laws = rng.dirichlet(np.full(vocab, 0.7), (2, vocab))
    q_laws = 0.9 * q_laws + 0.1 / vocab
    settings = DraftSettings(
        model="fixed",
        max_sessions=500,
        lookup=LookupSettings(enabled=False),
        growth=GrowthSettings(
            num_children=2, max_live_nodes=6, max_depth=3, max_rows_per_step=1000
        ),
    )
    counts = np.zeros((vocab, vocab, vocab))
    for first in range(0, num_sessions, 500):
        limits = DraftLimits(vocab, vocab, 100, frozenset())
        grower = ModelGrower(FixedRunner(q_laws), SlotPool(20000), limits, settings.growth)
        target = FakeTarget(make_drafter(tmp_path, settings=settings, grower=grower), credit=50000)
        for number in range(1, 501):
            sampling = SamplingParameters(seed=first + number, verification=REJECTION.verification)
            target.open(number, make_spec([2], sampling=sampling))
        while any(len(text) < 4 for text in target.texts.values()):
            target.grow()
            for number, text in target.texts.items():
                if len(text) < 4:
                    target.commit(number, walk_once(target, number, p_laws, first + number))
        for text in target.texts.values():
            counts[tuple(text[1:4])] += 1
    expected = np.einsum("i,ij,jk->ijk", p_laws[2], p_laws, p_laws).ravel() * num_sessions
    large = expected >= 5
    observed = np.append(counts.ravel()[large], counts.ravel()[~large].sum())
    expected = np.append(expected[large], expected[~large].sum())
    result = stats.chisquare(observed, expected)
    assert result.pvalue > 1e-3
    # The same counts would not pass for the draft's law.
    wrong = np.einsum("i,ij,jk->ijk", q_laws[2], q_laws, q_laws).ravel() * num_sessions
    assert stats.chisquare(counts.ravel(), wrong).pvalue < 1e-6


def walk_once(target, number, p_laws, seed):
    text, living = target.texts[number], target.trees[number]
    tree = living.flatten([node.node_id for node in living])
    laws = {
        row: target.laws[number, min(tree.node_ids[child] for child in children)]
        for row, children in enumerate(tree.children())
        if children
    }
    probs = p_laws[[text[-1], *tree.token_ids]]

    def noise(depth, token_id, domain: Domain):
        position = np.array([len(text) + depth])
        return float(uniform(np.array([token_id]), position, seed=seed, domain=domain)[0])

    return rejection_walk(tree, laws, probs, noise).token_ids
