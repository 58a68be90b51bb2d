"""Drafters that a test controls: one that knows the truth, one that makes trouble."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from treedraft.core.exchange import DraftFrame, ReopenRequest, SessionRefusal, TargetFrame
from treedraft.core.growth import Growth, SiblingLaw, TokenSource


@dataclass
class DraftedSession:
    """What a drafter knows of a session, and the nodes that it made up."""

    session_id: str
    token_ids: list[int]
    next_id: int = 0
    # Nodes by id: the tokens from the base of the node's growth down to it.
    paths: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)


class GuessingDrafter:
    """Grows random trees around the true text.

    Args:
        truth: the text that plain sampling gives, by session id.
        rng: where chance comes from.
        vocab_size: guesses are below this.
        depth, width: of the trees.
        accuracy: how often the true token is among the children.
        trouble: chance of each kind of trouble per frame: answers held back,
            sessions reopened, frames lost.
    """

    def __init__(
        self,
        truth: Mapping[str, Sequence[int]],
        rng: random.Random,
        *,
        vocab_size: int,
        depth: int = 4,
        width: int = 2,
        accuracy: float = 0.7,
        trouble: float = 0.0,
        with_laws: bool = False,
    ) -> None:
        self.truth = truth
        self.rng = rng
        self.vocab_size = vocab_size
        self.depth, self.width, self.accuracy = depth, width, accuracy
        self.trouble = trouble
        self.with_laws = with_laws
        self.sessions: dict[int, DraftedSession] = {}
        self.held_back: list[DraftFrame] = []
        self.num_nodes = 0

    def __call__(self, frame: TargetFrame) -> list[DraftFrame]:
        for opened in frame.opens:
            spec = opened.spec
            self.sessions[opened.session_number] = DraftedSession(
                spec.session_id, list(spec.token_ids)
            )
        for number in frame.closes:
            self.sessions.pop(number, None)
        for commit in frame.commits:
            session = self.sessions.get(commit.session_number)
            if session:
                assert commit.base_length == len(session.token_ids), "a commit leaves a gap"
                session.token_ids.extend(commit.token_ids)
        touched = {o.session_number for o in frame.opens} | {
            c.session_number for c in frame.commits
        }
        growths = [g for n in sorted(touched) if n in self.sessions for g in self._grow(n)]
        return self._deliver(growths)

    def _deliver(self, growths: list[Growth]) -> list[DraftFrame]:
        reopens, refusals = [], []
        if self.sessions and self.rng.random() < self.trouble / 8:
            number = self.rng.choice(sorted(self.sessions))
            reopens.append(ReopenRequest(number, 0))
            self.sessions.pop(number)
        if self.sessions and self.rng.random() < self.trouble / 20:
            number = self.rng.choice(sorted(self.sessions))
            refusals.append(SessionRefusal(number, "KV_POOL_FULL"))
            self.sessions.pop(number)
        frame = DraftFrame(growths=growths, reopens=reopens, refusals=refusals)
        if self.rng.random() < self.trouble:
            self.held_back.append(frame)
            return []
        late, self.held_back = self.held_back, []
        return [*late, frame]

    def _grow(self, number: int) -> list[Growth]:
        session = self.sessions[number]
        truth = list(self.truth.get(session.session_id.rstrip("+"), ()))
        base = len(session.token_ids)
        first = session.next_id
        offsets, tokens, laws = [], [], []
        level: list[tuple[int | None, int, bool]] = [(None, 0, True)]  # (node, depth, is true)
        for _ in range(self.depth):
            following = []
            for parent, depth, is_true in level:
                children = self._children(truth, base + depth, is_true)
                if self.with_laws:
                    share = 1.0 / len(children)
                    laws.append(
                        SiblingLaw(
                            first + len(tokens),
                            len(children),
                            tuple(children),
                            (share,) * len(children),
                        )
                    )
                for token in children:
                    node = first + len(tokens)
                    offsets.append(0 if parent is None else node - parent)
                    tokens.append(token)
                    right = is_true and base + depth < len(truth) and truth[base + depth] == token
                    following.append((node, depth + 1, right))
            level = self.rng.sample(following, min(len(following), 3))
            level.sort()
        session.next_id += len(tokens)
        self.num_nodes += len(tokens)
        return [
            Growth(
                session_number=number,
                base_length=base,
                first_node_id=first,
                parent_offsets=tuple(offsets),
                token_ids=tuple(tokens),
                scores=tuple(-0.01 * (i + 1) for i in range(len(tokens))),
                sources=(TokenSource.DRAFT_MODEL,) * len(tokens),
                sibling_laws=tuple(laws),
            )
        ]

    def _children(self, truth: list[int], place: int, is_true: bool) -> list[int]:
        guesses = {self.rng.randrange(self.vocab_size) for _ in range(self.width)}
        if is_true and place < len(truth) and self.rng.random() < self.accuracy:
            guesses = set(sorted(guesses)[: self.width - 1]) | {truth[place]}
        children = sorted(guesses)
        self.rng.shuffle(children)
        return children
