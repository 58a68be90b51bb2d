"""When frames of a drafter are expected: also where several answers are under way."""

import pytest

from treedraft.target.link_pace import Asked, LinkPace

MS = 1_000_000


def at(time_ms):
    return int(1e9 + time_ms * MS)


def over_a_long_link(*, round_trip_ms=50.0, held_ms=3.0, every_ms=20.0, steps=60):
    """Return the pace of a drafter that is told something in every step, and the time."""
    pace, arrivals = LinkPace(), []
    for step in range(steps):
        now_ms = step * every_ms
        while arrivals and arrivals[0][0] <= now_ms:
            arrival_ms, told_ms = arrivals.pop(0)
            pace.frame_arrived(at(arrival_ms), held_ms=held_ms, asked_ns=at(told_ms))
        pace.asked.append(Asked(at(now_ms)))
        arrivals.append((now_ms + round_trip_ms + held_ms, now_ms))
    return pace, (steps - 1) * every_ms


def test_answers_that_take_longer_than_a_step_are_told_from_each_other():
    pace, _ = over_a_long_link()
    assert pace.answer_gap.mean_ms == pytest.approx(53.0, abs=1.0)
    assert pace.travel_ms == pytest.approx(50.0, abs=1.0)


def test_the_answer_to_what_was_told_first_comes_first():
    pace, now_ms = over_a_long_link()
    # Told 40, 20 and 0 ms ago: the first of them is due in 13 ms.
    assert [round((at(now_ms) - asked.told_ns) / MS) for asked in pace.asked] == [40, 20, 0]
    assert pace.remaining_ms(at(now_ms)) == pytest.approx(13.0, abs=1.0)
    assert at(now_ms) < pace.overdue_ns(at(now_ms)) < at(now_ms + 53)


def test_what_is_overdue_does_not_stand_before_what_is_not():
    pace, now_ms = over_a_long_link()
    later_ms = now_ms + 25.0  # the first answer did not come
    assert pace.remaining_ms(at(later_ms)) == pytest.approx(8.0, abs=1.0)
    assert pace.overdue_ns(at(now_ms + 500)) < at(now_ms + 500)


def test_a_frame_answers_for_all_that_was_told_before():
    pace, now_ms = over_a_long_link()
    last = pace.asked[-1]
    pace.frame_arrived(at(now_ms + 53), held_ms=3.0, asked_ns=last.told_ns)
    assert not pace.asked
    # More to the same text is no answer again.
    pace.asked.append(Asked(at(now_ms + 55)))
    pace.frame_arrived(at(now_ms + 56), held_ms=6.0, asked_ns=last.told_ns)
    assert len(pace.asked) == 1


def test_a_measured_way_is_where_the_expectation_begins():
    pace = LinkPace()
    pace.measured(30.0)
    assert pace.travel_ms == 30.0
    assert pace.answer_gap.mean_ms > 30.0
    pace, _ = over_a_long_link()
    known_ms = pace.answer_gap.mean_ms
    pace.measured(10.0)  # answers know better than a measurement
    assert pace.answer_gap.mean_ms == known_ms
