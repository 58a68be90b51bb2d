import pytest

from treedraft.core.errors import InvalidRequestError
from treedraft.core.exchange import Commit, Hello, SessionOpen, TargetFrame
from treedraft.core.sampling import SamplingParameters, SpeculationOptions
from treedraft.core.session import DraftSpec
from treedraft.rpc.convert import target_frame_from_proto, target_frame_to_proto
from treedraft.rpc.framing import split_frame


def opened(number, num_tokens):
    spec = DraftSpec(
        session_id=f"s{number}",
        token_ids=tuple(range(1000, 1000 + num_tokens)),
        prompt_length=num_tokens,
        sampling=SamplingParameters(seed=1),
        speculation=SpeculationOptions(),
    )
    return SessionOpen(number, spec)


FRAME = TargetFrame(
    hello=Hello("w", "i", "h", 10, "m"),
    opens=tuple(opened(number, 100) for number in range(10)),
    commits=tuple(Commit(number, 100, (1, 2)) for number in range(30)),
    closes=tuple(range(100, 200)),
    credit_nodes=7,
)


def test_a_frame_that_fits_stays_as_it_is():
    message = target_frame_to_proto(FRAME)
    assert split_frame(message, message.ByteSize()) == [message]


@pytest.mark.parametrize("max_bytes", [400, 700, 2000])
def test_the_parts_fit_and_say_the_same_in_the_same_order(max_bytes):
    parts = split_frame(target_frame_to_proto(FRAME), max_bytes)
    assert len(parts) > 1
    assert all(part.ByteSize() <= max_bytes for part in parts)
    frames = [target_frame_from_proto(part) for part in parts]
    assert [frame.hello for frame in frames] == [FRAME.hello] + [None] * (len(parts) - 1)
    assert sum(frame.credit_nodes for frame in frames) == FRAME.credit_nodes
    for name in ("opens", "commits", "closes"):
        joined = tuple(item for frame in frames for item in getattr(frame, name))
        assert joined == getattr(FRAME, name)


def test_no_session_is_committed_or_closed_before_it_is_opened():
    frames = [
        target_frame_from_proto(part) for part in split_frame(target_frame_to_proto(FRAME), 400)
    ]
    last_open = max(index for index, frame in enumerate(frames) if frame.opens)
    first_commit = min(index for index, frame in enumerate(frames) if frame.commits)
    assert last_open <= first_commit


def test_what_fits_nowhere_is_refused():
    message = target_frame_to_proto(TargetFrame(opens=(opened(1, 10), opened(2, 5000))))
    with pytest.raises(InvalidRequestError) as caught:
        split_frame(message, 1000)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"
    assert caught.value.field == "opens"
