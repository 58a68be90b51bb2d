"""What the tests of the draft service share: sessions, links, a stand-in for a target."""

from treedraft.core.exchange import Commit, SessionOpen, TargetFrame
from treedraft.core.growth import ROOT
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, Verification
from treedraft.core.session import DraftSpec
from treedraft.core.token_tree import TokenTree
from treedraft.draft.drafter import Drafter
from treedraft.draft.growth import GrowthLimits
from treedraft.draft.links import FrameArrived, LinkOpened
from treedraft.draft.lookup import SessionLookup
from treedraft.draft.session import DraftSession
from treedraft.draft.settings import DraftSettings
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

VOCAB = 512
SAMPLED = SamplingParameters(temperature=1.0, seed=7)
GREEDY = SamplingParameters(temperature=0.0, seed=7)
REJECTION = SamplingParameters(temperature=1.0, seed=7, verification=Verification.REJECTION)


def make_spec(token_ids, *, sampling=SAMPLED, prompt_length=None, speculation=None, **fields):
    return DraftSpec(
        session_id="s",
        token_ids=tuple(token_ids),
        prompt_length=len(token_ids) if prompt_length is None else prompt_length,
        sampling=sampling,
        speculation=speculation or SpeculationOptions(),
        **fields,
    )


def make_session(token_ids, *, settings=None, lookup=False, **spec_options):
    settings = settings or DraftSettings()
    spec = make_spec(token_ids, **spec_options)
    session = DraftSession(
        1,
        spec,
        limits=GrowthLimits.of(settings.growth, spec.speculation),
        tree_capacity=settings.growth.max_live_nodes + 64,
        span=None,
        arrived_ns=0,
    )
    if lookup:
        session.use_lookup(SessionLookup(settings.lookup))
    return session


def make_drafter(tmp_path, *, settings=None, grower=None, exporter=None, grammars=None):
    """Return a drafter that no thread runs: the test calls `take` and `step`."""
    telemetry = TelemetrySettings(store_path=str(tmp_path / "spans.sqlite"), sample_ratio=1.0)
    return Drafter(
        settings or DraftSettings(),
        grower,
        tracing=Tracing("draft", telemetry, exporter=exporter),
        metrics=Metrics("draft"),
        grammars=grammars,
    )


class FakeTarget:
    """The other end of a link: keeps a tree per session as a target would."""

    def __init__(self, drafter, *, link_id=1, vocab_size=VOCAB, credit=8192):
        self.drafter = drafter
        self.link_id = link_id
        self.vocab_size = vocab_size
        self.frames = []
        self.texts = {}
        self.trees = {}
        self.laws = {}
        self.refusals = {}
        self.reopens = {}
        self.credit = 0
        drafter.take(LinkOpened(link_id, vocab_size, self.receive))
        if credit:
            self.send(credit_nodes=credit)

    def send(self, **fields):
        self.credit += fields.get("credit_nodes", 0)
        self.drafter.take(FrameArrived(self.link_id, TargetFrame(**fields), 0))

    def open(self, number, spec):
        self.texts[number] = list(spec.token_ids)
        self.trees[number] = TokenTree(len(spec.token_ids))
        self.send(opens=[SessionOpen(number, spec)])

    def commit(self, number, token_ids):
        base_length = len(self.texts[number])
        self.texts[number].extend(token_ids)
        moved = self.trees[number].reroot(token_ids)
        self.send(commits=[Commit(number, base_length, tuple(token_ids))])
        return moved

    def receive(self, frame):
        self.frames.append(frame)
        for growth in frame.growths:
            growth.check(self.vocab_size)
            self.credit -= growth.num_nodes
            assert self.credit >= 0
            number = growth.session_number
            grafted = self.trees[number].graft(growth, self.texts[number])
            assert not grafted.num_dropped
            for law in growth.sibling_laws:
                self.laws[number, law.first_child_id] = law
        self.refusals.update({r.session_number: r.reason for r in frame.refusals})
        self.reopens.update({r.session_number: r.known_length for r in frame.reopens})

    def grow(self, max_steps=200):
        """Let the drafter work until nothing is worth growing."""
        for _ in range(max_steps):
            if not self.drafter.step():
                return
        raise AssertionError("the drafter does not come to rest")

    def best_path(self, number):
        """Return the tokens along the best children."""
        tree, tokens, place = self.trees[number], [], ROOT
        while children := tree.children(place):
            place = max(children.values(), key=lambda child: (tree.score(child), -child))
            tokens.append(tree[place].token_id)
        return tokens
