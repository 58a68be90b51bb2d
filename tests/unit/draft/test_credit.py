"""Who takes part in a step, by the credit of its target."""

from dataclasses import dataclass

import pytest

from treedraft.core.growth import Growth, TokenSource
from treedraft.draft.credit import sessions_in_credit
from treedraft.draft.links import MAX_FRAME_NODES, DraftLink


@dataclass(eq=False)
class Session:
    last_step: int
    is_rejection: bool = False
    is_paused: bool = False
    step_room: int = 0


def link_of(credit_nodes, sessions):
    own = dict(enumerate(sessions))
    return DraftLink(512, send=lambda frame: None, sessions=own, credit_nodes=credit_nodes)


@dataclass
class Book:
    links: list[DraftLink]

    @property
    def sessions(self):
        return ((session, link) for link in self.links for session in link.sessions.values())


@dataclass
class Grower:
    max_new_nodes: int = 768
    max_new_siblings: int = 100

    def wants_work(self, session):
        return True


def test_rooms_of_a_step_fit_in_a_frame_and_in_the_credit():
    for credit in (500, 1_000_000):
        link = link_of(credit, [Session(number) for number in range(16)])
        chosen = sessions_in_credit(Book([link]), Grower())
        assert chosen
        assert sum(one.step_room for one in chosen) <= min(credit, MAX_FRAME_NODES)


def test_siblings_come_where_credit_covers_a_pass_of_them():
    session = Session(0, is_rejection=True)
    assert session in sessions_in_credit(Book([link_of(100, [session])]), Grower())
    assert session.step_room == 100


@pytest.mark.parametrize("credit", [64, 99])
def test_credit_is_kept_for_the_session_that_waited_longest_for_siblings(credit):
    waiting, late = Session(0, is_rejection=True), Session(1)
    assert not sessions_in_credit(Book([link_of(credit, [waiting, late])]), Grower())
    assert waiting in sessions_in_credit(Book([link_of(200, [waiting, late])]), Grower())


def test_what_waits_for_a_frame_leaves_the_next_step_less_room():
    link = link_of(1_000_000, [Session(number) for number in range(16)])
    link.queue_growth(
        Growth(0, 1, 0, (0,) * 4000, (1,) * 4000, (-1.0,) * 4000, (TokenSource.DRAFT_MODEL,) * 4000)
    )
    chosen = sessions_in_credit(Book([link]), Grower())
    assert chosen
    assert sum(one.step_room for one in chosen) <= MAX_FRAME_NODES - 4000
