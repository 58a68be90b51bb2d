from treedraft.coordinator.http.usage import speculation_metrics
from treedraft.core.session import SessionStatistics


def test_acceptance_is_told_by_the_length_of_the_draft():
    one = SessionStatistics(
        rounds=6,
        accepted_nodes=5,
        admitted_nodes=20,
        accepted_lengths=(3, 1, 2),
        accepted_lengths_by_depth=((2,), (), (), (1, 1, 2)),
    )
    other = SessionStatistics(
        rounds=2,
        accepted_nodes=1,
        admitted_nodes=2,
        accepted_lengths=(1, 1),
        accepted_lengths_by_depth=((), (1, 1)),
    )
    told = speculation_metrics([one, other])["speculative_decoding"]
    assert told["acceptance_histogram"] == [4, 2, 2]
    by_length = told["acceptance_histogram_by_draft_length"]
    assert by_length == {"0": [2], "1": [1, 1], "3": [1, 1, 2, 0]}
    assert sum(map(sum, by_length.values())) == told["num_spec_steps"]


def test_nothing_was_drafted_where_nobody_drafts():
    told = speculation_metrics([SessionStatistics()])["speculative_decoding"]
    assert told["acceptance_histogram"] == [0]
    assert told["acceptance_histogram_by_draft_length"] == {}
