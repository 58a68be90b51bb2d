import pytest

from treedraft.coordinator.session_store import codec
from treedraft.coordinator.session_store.records import SessionRequest
from treedraft.coordinator.session_store.redis_store import _readable_worker
from treedraft.core.errors import SessionConflictError
from treedraft.core.sampling import SamplingParameters
from treedraft.core.worker import WorkerRegistration, WorkerReport, WorkerRole

REQUEST = SessionRequest("s", "m", "f", (11, 12), SamplingParameters(seed=1))
WORKER = WorkerRegistration("w", "i", WorkerRole.TARGET, "w:1", "m")


@pytest.mark.parametrize(
    "spoilt",
    [
        {"request": b'{"prompt_token_ids": [11, 12]}'},
        {"epoch": b"first"},
        {"owner": b"\xff"},
        {"tokens": b"123"},
        {"placement": b"["},
        {"finish_reason": b"bored"},
    ],
)
def test_a_session_that_cannot_be_read_is_refused_without_quoting_it(spoilt):
    parts = {
        "request": codec.encode_request(REQUEST),
        "epoch": b"1",
        "owner": b"c1",
        "tokens": codec.encode_tokens((11, 12)),
        "placement": None,
        "finish_reason": None,
    }
    codec.decode_session(**parts)
    with pytest.raises(SessionConflictError) as caught:
        codec.decode_session(**{**parts, **spoilt})
    assert caught.value.reason == "RECORD_UNREADABLE"
    assert "11" not in caught.value.message


def test_a_worker_that_cannot_be_read_hides_no_other():
    registration, report = codec.encode_registration(WORKER), codec.encode_report(WorkerReport())
    assert _readable_worker(registration, report).registration == WORKER
    assert _readable_worker(registration.replace(b"target", b"oracle"), report) is None
    assert _readable_worker(registration, b"[" * 10_000) is None
