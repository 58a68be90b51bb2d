"""Who takes part in a step, by the credit of its target."""

from dataclasses import dataclass, field

import pytest

from treedraft.draft.credit import MAX_FRAME_NODES, sessions_in_credit


@dataclass(eq=False)
class Session:
    last_step: int
    is_rejection: bool = False
    is_paused: bool = False
    step_room: int = 0


@dataclass
class Link:
    credit_nodes: int
    sessions: list[Session] = field(default_factory=list)


@dataclass
class Book:
    links: list[Link]

    @property
    def sessions(self):
        return ((session, link) for link in self.links for session in link.sessions)


@dataclass
class Grower:
    max_new_nodes: int = 768
    max_new_siblings: int = 100

    def wants_work(self, session):
        return True


def test_rooms_of_a_step_fit_in_a_frame_and_in_the_credit():
    for credit in (500, 1_000_000):
        link = Link(credit, [Session(number) for number in range(16)])
        chosen = sessions_in_credit(Book([link]), Grower())
        assert chosen
        assert sum(one.step_room for one in chosen) <= min(credit, MAX_FRAME_NODES)


def test_siblings_come_where_credit_covers_a_pass_of_them():
    session = Session(0, is_rejection=True)
    assert session in sessions_in_credit(Book([Link(100, [session])]), Grower())
    assert session.step_room == 100


@pytest.mark.parametrize("credit", [64, 99])
def test_credit_is_kept_for_the_session_that_waited_longest_for_siblings(credit):
    waiting, late = Session(0, is_rejection=True), Session(1)
    assert not sessions_in_credit(Book([Link(credit, [waiting, late])]), Grower())
    assert waiting in sessions_in_credit(Book([Link(200, [waiting, late])]), Grower())
