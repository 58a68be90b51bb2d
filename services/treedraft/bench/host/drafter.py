"""A drafter that costs nothing: it knows what a text will be and sends trees of one size.

The beginning of the text is the best path of each tree, as many nodes as are to be accepted;
all other nodes are wrong. So a step walks, commits and drops as much as one with a real
drafter, and every tree begins anew.
"""

from collections.abc import Mapping, Sequence

from treedraft.core.exchange import DraftFrame, Rest, TargetFrame
from treedraft.core.growth import Growth, TokenSource
from treedraft.core.worker import DrafterAddress

ADDRESS = DrafterAddress("host-drafter", "1", "stand-in:1")
_TOKENS = 256  # that wrong nodes are made of
_WIDTH = 2  # wrong nodes at a place of the path


class StandInDrafter:
    """Answers a target's frames."""

    def __init__(
        self, texts: Mapping[str, Sequence[int]], *, num_nodes: int, num_hits: int
    ) -> None:
        """Draft trees of `num_nodes` for `texts`, by session; `num_hits` of each come true."""
        self._texts = texts
        self._num_nodes = num_nodes
        self._num_hits = min(num_hits, num_nodes)
        self._text_of: dict[int, Sequence[int]] = {}
        self._next_node: dict[int, int] = {}

    def answer(self, frame: TargetFrame) -> DraftFrame:
        """Return a tree for each session that the frame opens or commits to."""
        bases = {c.session_number: c.base_length + len(c.token_ids) for c in frame.commits}
        for opened in frame.opens:
            self._text_of[opened.session_number] = self._texts[opened.spec.session_id]
            bases[opened.session_number] = len(opened.spec.token_ids)
        known = {number: base for number, base in bases.items() if number in self._text_of}
        return DraftFrame(
            growths=[self._tree(number, base) for number, base in known.items()],
            rests=[Rest(number, base) for number, base in known.items()],
        )

    def _tree(self, number: int, base: int) -> Growth:
        truth = self._text_of[number]
        following = [*truth[base : base + self._num_hits + 1], 0]
        path = following[: min(self._num_hits, len(following) - 1)]
        parents, tokens = list(range(-1, len(path) - 1)), list(path)
        for index in range(self._num_nodes - len(path)):
            place = index // _WIDTH % (len(path) + 1)
            # Apart from the truth and from its siblings: round after round, others.
            turn = 1 + index % _WIDTH + _WIDTH * (index // (_WIDTH * (len(path) + 1)))
            parents.append(place - 1)
            tokens.append((following[place] + turn) % _TOKENS)
        first = self._next_node.get(number, 0)
        self._next_node[number] = first + len(tokens)
        return Growth(
            session_number=number,
            base_length=base,
            first_node_id=first,
            parent_offsets=tuple(0 if p < 0 else node - p for node, p in enumerate(parents)),
            token_ids=tuple(tokens),
            scores=tuple(-0.01 * (node + 1) for node in range(len(tokens))),
            sources=(TokenSource.DRAFT_MODEL,) * len(tokens),
        )
