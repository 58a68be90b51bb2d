"""What the coordinator's tests share: a toy tokenizer, a scripted target, patience."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc
from tests.waiting import PATIENCE_SECONDS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from treedraft.core.growth import TokenSource
from treedraft.core.model_description import ModelDescription
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.core.session import (
    FinishReason,
    SessionFinish,
    SessionOutput,
    SessionSpec,
    SessionStatistics,
)
from treedraft.core.worker import WorkerRegistration, WorkerRole
from treedraft.rpc.convert import (
    coordinator_frame_from_proto,
    model_description_to_proto,
    outputs_to_proto,
)
from treedraft.v1.target_service_pb2_grpc import (
    TargetServiceServicer,
    add_TargetServiceServicer_to_server,
)

EOS = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def toy_tokenizer_json() -> str:
    """Return a tokenizer of one token per byte, and one special token that ends the text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(EOS, special=True)])
    return tokenizer.to_str()


def encode(text: str) -> list[int]:
    return Tokenizer.from_str(toy_tokenizer_json()).encode(text, add_special_tokens=False).ids


def describe_toy(**changes: object) -> ModelDescription:
    description = ModelDescription(
        model="toy",
        fingerprint="fingerprint",
        tokenizer_hash="toy-hash",
        vocab_size=257,
        context_length=128,
        max_prompt_tokens=96,
        eos_token_ids=frozenset({256}),
        tokenizer_json=toy_tokenizer_json(),
        chat_template=CHAT_TEMPLATE,
        special_tokens={"eos_token": EOS, "bos_token": EOS},
        block_size=4,
    )
    return replace(description, **changes)


def a_target(worker_id: str = "t1", **changes: object) -> WorkerRegistration:
    registration = WorkerRegistration(
        worker_id=worker_id,
        incarnation="first",
        role=WorkerRole.TARGET,
        endpoint=f"{worker_id}:1",
        model="toy",
        fingerprint="fingerprint",
        tokenizer_hash="toy-hash",
        max_sessions=8,
    )
    return replace(registration, **changes)


def a_drafter(worker_id: str = "d1", **changes: object) -> WorkerRegistration:
    return replace(a_target(worker_id), role=WorkerRole.DRAFT, fingerprint="", **changes)


def a_spec(session_id: str = "s1", **changes: object) -> SessionSpec:
    spec = SessionSpec(
        session_id=session_id,
        epoch=1,
        token_ids=(1, 2, 3),
        prompt_length=3,
        sampling=SamplingParameters(seed=7),
        stopping=StoppingCriteria(max_tokens=64),
    )
    return replace(spec, **changes)


def output(
    spec: SessionSpec, base: int, token_ids: list[int], reason: FinishReason | None = None
) -> SessionOutput:
    """Return an output of a session after `base` output tokens."""
    statistics = SessionStatistics(rounds=2, emitted_tokens=base + len(token_ids))
    return SessionOutput(
        session_id=spec.session_id,
        epoch=spec.epoch,
        base_length=spec.prompt_length + base,
        token_ids=tuple(token_ids),
        sources=(TokenSource.TARGET,) * len(token_ids),
        finish=SessionFinish(reason, statistics) if reason else None,
    )


async def until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Let the event loop run until a condition holds; fail if it never does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, some behind a socket
            await asyncio.sleep(0.002)


@dataclass
class FakeTarget(TargetServiceServicer):
    """A target that says what it is told to, over the real stream.

    `script` makes the outputs of a session from its spec; without one the
    test sends outputs itself, with `say`.
    """

    description: ModelDescription = field(default_factory=describe_toy)
    script: Callable[[SessionSpec], list[SessionOutput]] | None = None
    coordinator_ids: list[str] = field(default_factory=list)
    started: dict[str, SessionSpec] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    logged: dict[str, int] = field(default_factory=dict)
    num_streams: int = 0
    num_described: int = 0
    _outbox: asyncio.Queue = field(default_factory=asyncio.Queue)

    async def DescribeModel(self, request, context):  # noqa: N802
        self.num_described += 1
        return model_description_to_proto(self.description)

    async def RunSessions(self, request_iterator, context):  # noqa: N802
        self.num_streams += 1
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            while (outputs := await self._outbox.get()) is not None:
                yield outputs_to_proto(outputs)
        finally:
            reader.cancel()

    async def _read(self, messages):
        async for message in messages:
            frame = coordinator_frame_from_proto(message)
            if frame.coordinator_id:
                self.coordinator_ids.append(frame.coordinator_id)
            self.cancelled.extend(frame.cancels)
            self.logged |= {item.session_id: item.logged_length for item in frame.acknowledgements}
            for spec in frame.starts:
                self.started[spec.session_id] = spec
                if self.script is not None:
                    for item in self.script(spec):
                        self.say(item)

    def say(self, *outputs: SessionOutput) -> None:
        self._outbox.put_nowait(outputs)

    def hang_up(self) -> None:
        """End the stream."""
        self._outbox.put_nowait(None)

    async def session(self, number: int = 0) -> SessionSpec:
        """Return a session by its number, once it was started."""
        await until(lambda: len(self.started) > number)
        return list(self.started.values())[number]


@asynccontextmanager
async def serving(target: FakeTarget) -> AsyncIterator[str]:
    """Serve a fake target and give its endpoint."""
    server = grpc.aio.server()
    add_TargetServiceServicer_to_server(target, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def says(text: str, *, chunk: int = 3, reason: FinishReason = FinishReason.STOP):
    """Return a script that answers every session with a text, some tokens at a time.

    As a real target does, it goes on after the tokens that a session brings along.
    """

    def script(spec: SessionSpec) -> list[SessionOutput]:
        ids = encode(text)
        num_before = len(spec.token_ids) - spec.prompt_length
        pieces = [(i, ids[i : i + chunk]) for i in range(num_before, len(ids), chunk)]
        return [
            output(spec, base, piece, reason if base + chunk >= len(ids) else None)
            for base, piece in pieces
        ]

    return script
