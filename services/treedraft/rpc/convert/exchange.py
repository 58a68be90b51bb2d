"""What target and drafter say to each other."""

import zlib

from treedraft.core.errors import InvalidRequestError
from treedraft.core.exchange import (
    Commit,
    DraftFrame,
    Economics,
    Hello,
    ReopenRequest,
    Rest,
    SessionOpen,
    SessionRefusal,
    SharedTokenizer,
    TargetFrame,
)
from treedraft.core.session import DraftSpec
from treedraft.rpc.convert.sampling import (
    sampling_from_proto,
    sampling_to_proto,
    speculation_from_proto,
    speculation_to_proto,
)
from treedraft.rpc.convert.tree import growth_from_proto, growth_to_proto
from treedraft.v1 import draft_service_pb2

# Far above any tokenizer, far below what memory holds.
_MAX_TOKENIZER_BYTES = 64 * 1024 * 1024


def hello_to_proto(hello: Hello) -> draft_service_pb2.ExchangeHello:
    """Return the wire form of a hello."""
    return draft_service_pb2.ExchangeHello(
        protocol_version=hello.protocol_version,
        min_protocol_version=hello.min_protocol_version,
        worker_id=hello.worker_id,
        incarnation=hello.incarnation,
        tokenizer_hash=hello.tokenizer_hash,
        vocab_size=hello.vocab_size,
        model=hello.model,
    )


def hello_from_proto(message: draft_service_pb2.ExchangeHello) -> Hello:
    """Return a hello; `Hello.check_peer` says whether it fits."""
    return Hello(
        protocol_version=message.protocol_version,
        min_protocol_version=message.min_protocol_version,
        worker_id=message.worker_id,
        incarnation=message.incarnation,
        tokenizer_hash=message.tokenizer_hash,
        vocab_size=message.vocab_size,
        model=message.model,
    )


def session_open_to_proto(opened: SessionOpen) -> draft_service_pb2.SessionOpen:
    """Return the wire form of a session to draft for."""
    spec = opened.spec
    return draft_service_pb2.SessionOpen(
        session_number=opened.session_number,
        session_id=spec.session_id,
        token_ids=spec.token_ids,
        prompt_length=spec.prompt_length,
        sampling=sampling_to_proto(spec.sampling),
        choice=spec.choice,
        speculation=speculation_to_proto(spec.speculation),
        tenant_salt=spec.tenant_salt,
        traceparent=spec.traceparent,
    )


def session_open_from_proto(message: draft_service_pb2.SessionOpen) -> SessionOpen:
    """Return a session to draft for.

    Raises:
        InvalidRequestError: parameters out of range.
    """
    spec = DraftSpec(
        session_id=message.session_id,
        token_ids=tuple(message.token_ids),
        prompt_length=message.prompt_length,
        sampling=sampling_from_proto(message.sampling),
        speculation=speculation_from_proto(message.speculation),
        choice=message.choice,
        tenant_salt=message.tenant_salt,
        traceparent=message.traceparent,
    )
    return SessionOpen(message.session_number, spec)


def target_frame_to_proto(frame: TargetFrame) -> draft_service_pb2.ExchangeTreesRequest:
    """Return the wire form of a target's frame."""
    return draft_service_pb2.ExchangeTreesRequest(
        hello=hello_to_proto(frame.hello) if frame.hello else None,
        opens=[session_open_to_proto(opened) for opened in frame.opens],
        commits=[
            draft_service_pb2.Commit(
                session_number=commit.session_number,
                base_length=commit.base_length,
                token_ids=commit.token_ids,
            )
            for commit in frame.commits
        ],
        closes=frame.closes,
        credit_nodes=frame.credit_nodes,
        token_us=frame.economics.token_us,
        row_us=frame.economics.row_us,
        pauses=frame.pauses,
        tokenizer=_tokenizer_to_proto(frame.tokenizer) if frame.tokenizer else None,
    )


def _tokenizer_to_proto(tokenizer: SharedTokenizer) -> draft_service_pb2.SharedTokenizer:
    return draft_service_pb2.SharedTokenizer(
        compressed_json=zlib.compress(tokenizer.tokenizer_json.encode()),
        eos_token_ids=tokenizer.eos_token_ids,
    )


def _tokenizer_from_proto(message: draft_service_pb2.SharedTokenizer) -> SharedTokenizer:
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(message.compressed_json, _MAX_TOKENIZER_BYTES).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise InvalidRequestError("a tokenizer is malformed", field="tokenizer") from error
    if not unpacking.eof:
        raise InvalidRequestError("a tokenizer is too large or cut off", field="tokenizer")
    return SharedTokenizer(text, tuple(message.eos_token_ids))


def target_frame_from_proto(message: draft_service_pb2.ExchangeTreesRequest) -> TargetFrame:
    """Return a target's frame.

    Raises:
        InvalidRequestError: parameters of a session are out of range.
    """
    return TargetFrame(
        hello=hello_from_proto(message.hello) if message.HasField("hello") else None,
        opens=tuple(session_open_from_proto(opened) for opened in message.opens),
        commits=tuple(
            Commit(commit.session_number, commit.base_length, tuple(commit.token_ids))
            for commit in message.commits
        ),
        closes=tuple(message.closes),
        credit_nodes=message.credit_nodes,
        economics=Economics(message.token_us, message.row_us),
        pauses=tuple(message.pauses),
        tokenizer=_tokenizer_from_proto(message.tokenizer)
        if message.HasField("tokenizer")
        else None,
    )


def draft_frame_to_proto(
    frame: DraftFrame, *, protocol_version: int = 1
) -> draft_service_pb2.ExchangeTreesResponse:
    """Return the wire form of a drafter's frame, for a target that speaks this version."""
    return draft_service_pb2.ExchangeTreesResponse(
        hello=hello_to_proto(frame.hello) if frame.hello else None,
        growths=[
            growth_to_proto(growth, protocol_version=protocol_version) for growth in frame.growths
        ],
        reopens=[
            draft_service_pb2.ReopenRequest(
                session_number=reopen.session_number, known_length=reopen.known_length
            )
            for reopen in frame.reopens
        ],
        refusals=[
            draft_service_pb2.SessionRefusal(
                session_number=refusal.session_number, reason=refusal.reason
            )
            for refusal in frame.refusals
        ],
        rests=[
            draft_service_pb2.Rest(session_number=rest.session_number, base_length=rest.base_length)
            for rest in frame.rests
        ],
    )


def draft_frame_from_proto(message: draft_service_pb2.ExchangeTreesResponse) -> DraftFrame:
    """Return a drafter's frame.

    Raises:
        InvalidGrowthError: a growth has too many nodes or sources that are none.
    """
    return DraftFrame(
        hello=hello_from_proto(message.hello) if message.HasField("hello") else None,
        growths=tuple(growth_from_proto(growth) for growth in message.growths),
        reopens=tuple(
            ReopenRequest(reopen.session_number, reopen.known_length) for reopen in message.reopens
        ),
        refusals=tuple(
            SessionRefusal(refusal.session_number, refusal.reason) for refusal in message.refusals
        ),
        rests=tuple(Rest(rest.session_number, rest.base_length) for rest in message.rests),
    )
