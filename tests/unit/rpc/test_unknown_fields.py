import pytest

from treedraft.core.errors import UnknownFieldError
from treedraft.rpc.unknown_fields import reject_unknown_fields
from treedraft.v1 import coordinator_service_pb2, sampling_pb2

UNKNOWN = bytes([15 << 3, 7])  # field 15, the number 7


def test_a_known_message_passes():
    message = coordinator_service_pb2.GenerateRequest(
        conversation=coordinator_service_pb2.Conversation(
            messages=[coordinator_service_pb2.ChatMessage(role="user", content="hi")]
        ),
        sampling=sampling_pb2.SamplingParameters(logit_bias={1: 2.0}, temperature=0.0),
        stopping=sampling_pb2.StoppingCriteria(stop_strings=["a"], stop_token_ids=[1]),
    )
    reject_unknown_fields(message)


def test_an_unknown_field_at_the_top_is_named():
    message = coordinator_service_pb2.GenerateRequest.FromString(UNKNOWN)
    with pytest.raises(UnknownFieldError) as caught:
        reject_unknown_fields(message)
    assert caught.value.field == "#15"
    assert caught.value.reason == "UNKNOWN_FIELD"


def test_an_unknown_field_deep_inside_is_named_with_its_path():
    message = coordinator_service_pb2.GenerateRequest()
    message.conversation.messages.add(role="user")
    message.conversation.messages.add().MergeFromString(UNKNOWN)
    with pytest.raises(UnknownFieldError) as caught:
        reject_unknown_fields(message)
    assert caught.value.field == "conversation.messages.#15"


def test_an_unknown_field_in_an_empty_message_is_found():
    message = coordinator_service_pb2.GenerateRequest(text="a")
    message.sampling.MergeFromString(UNKNOWN)
    with pytest.raises(UnknownFieldError) as caught:
        reject_unknown_fields(message)
    assert caught.value.field == "sampling.#15"
