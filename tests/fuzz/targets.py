"""What is fuzzed: everything that turns bytes from outside into values of ours.

A target takes bytes and returns what became of them: `OK`, or the reason of the
refusal. Any other exception is a crash. Where a value was read, its invariants are
checked and it is written and read again.
"""

import json
import random
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from tests.fuzz.mutate import mutate_bytes, mutate_message
from tests.properties.test_convert_properties import ROUND_TRIPS, registrations, reports

from treedraft.coordinator.api_keys import TenantRoll
from treedraft.coordinator.session_store import codec
from treedraft.core.errors import TreedraftError
from treedraft.core.exchange import DraftFrame
from treedraft.core.growth import ROOT, Growth, TokenSource
from treedraft.core.token_tree import TokenTree
from treedraft.core.worker import WorkerRole
from treedraft.inference.drafter_manifest import MANIFEST_FILE, VOCABULARY_FILE, read_manifest
from treedraft.rpc import convert
from treedraft.rpc.framing import split_frame
from treedraft.text.tokenizer import Tokenizer, tokenizer_hash
from treedraft.text.tool_formats.formats import FORMATS
from treedraft.training.evaluation.held_out import read_prompts
from treedraft.training.evaluation.report import from_json as read_report
from treedraft.training.prompt_store import read_prompt_file

OK = "OK"
MALFORMED = "MALFORMED_MESSAGE"  # what the server's interceptor says of bytes that are no message
_VOCAB_SIZE = 512
_MAX_PART = 4096
# Deeper than any parser goes down.
_DEEP = b"[" * 60_000


@dataclass(frozen=True)
class FuzzTarget:
    """A reader, good inputs to begin from, and how to spoil them."""

    name: str
    run: Callable[[bytes], str]
    corpus: Sequence[bytes]
    message: type[Message] | None = None

    def draw(self, rng: random.Random) -> bytes:
        """Return a hostile input, or now and then a good one."""
        data = rng.choice(self.corpus)
        if self.message is not None and rng.random() < 0.6:
            message = self.message.FromString(data)
            mutate_message(message, rng)
            data = message.SerializeToString()
            if rng.random() < 0.8:
                return data
        return mutate_bytes(data, self.corpus, rng)


def examples_of(strategy: Any, count: int = 24) -> list[Any]:
    """Return values of a hypothesis strategy, the same each time."""
    found: list[Any] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def all_targets(folder: Path) -> list[FuzzTarget]:
    """Return all targets; those that read files use `folder`."""
    return [
        *(_convert_target(name) for name in ROUND_TRIPS),
        _announcement_target(),
        _tree_target(),
        _framing_target(),
        *_store_targets(),
        *_file_targets(folder),
        *_text_targets(),
        *_tool_call_targets(),
    ]


# The wire.


def _convert_target(name: str) -> FuzzTarget:
    from_proto = getattr(convert, f"{name}_from_proto")
    to_proto = getattr(convert, f"{name}_to_proto")
    message: type[Message] = get_type_hints(from_proto)["message"]

    def run(data: bytes) -> str:
        parsed = _parsed(message, data)
        if parsed is None:
            return MALFORMED
        value = from_proto(parsed)
        if value is not None:
            again = from_proto(message.FromString(to_proto(value).SerializeToString()))
            # NaN equals nothing, and sets have no order.
            assert again == value or repr(again) == repr(value), "a value changed on its way"
        return OK

    corpus = [to_proto(value).SerializeToString() for value in examples_of(ROUND_TRIPS[name])]
    return FuzzTarget(f"convert.{name}", run, corpus, message)


def _parsed(message: type[Message], data: bytes) -> Message | None:
    try:
        return message.FromString(data)
    except DecodeError:
        return None


def _announcement_target() -> FuzzTarget:
    from_proto = convert.announcement_from_proto
    message = get_type_hints(from_proto)["message"]

    def run(data: bytes) -> str:
        parsed = _parsed(message, data)
        if parsed is None:
            return MALFORMED
        registration, report = from_proto(parsed)
        convert.announcement_to_proto(registration, report)
        return OK

    pairs = zip(examples_of(registrations), examples_of(reports), strict=False)
    corpus = [convert.announcement_to_proto(*pair).SerializeToString() for pair in pairs]
    return FuzzTarget("convert.announcement", run, corpus, message)


def _framing_target() -> FuzzTarget:
    message = get_type_hints(convert.target_frame_from_proto)["message"]

    def run(data: bytes) -> str:
        parsed = _parsed(message, data)
        if parsed is None:
            return MALFORMED
        whole = message()
        for part in split_frame(parsed, _MAX_PART):
            assert part.ByteSize() <= _MAX_PART, "a part is too large"
            whole.MergeFrom(part)
        assert whole == parsed, "the parts are another frame" if parsed == parsed else ""
        return OK

    corpus = [
        convert.target_frame_to_proto(value).SerializeToString()
        for value in examples_of(ROUND_TRIPS["target_frame"])
    ]
    return FuzzTarget("rpc.split_frame", run, corpus, message)


def _tree_target() -> FuzzTarget:
    """Growths as a target takes them in: several in a row, re-rooted now and then."""
    message = get_type_hints(convert.draft_frame_from_proto)["message"]

    def run(data: bytes) -> str:
        tree, text, numbers = TokenTree(4, max_nodes=32), [1, 2, 3, 4], random.Random(len(data))
        parsed = _parsed(message, data)
        if parsed is None:
            return MALFORMED
        for growth in convert.draft_frame_from_proto(parsed).growths:
            growth.check(_VOCAB_SIZE)
            tree.graft(growth, text)
            _check_tree(tree)
            children = tree.children(ROOT)
            token = next(iter(children)) if children and numbers.random() < 0.5 else 7
            tree.reroot((token,))
            text.append(token)
            _check_tree(tree)
        return OK

    ways = ((4, 4, 4), (4, 5, 6), (4, 4, 5))
    corpus = [
        convert.draft_frame_to_proto(
            DraftFrame(growths=[_growth(base, 3 * i) for i, base in enumerate(bases)])
        ).SerializeToString()
        for bases in ways
    ]
    return FuzzTarget("core.token_tree", run, corpus, message)


def _growth(base: int, first: int) -> Growth:
    return Growth(
        session_number=1,
        base_length=base,
        first_node_id=first,
        parent_offsets=(0, 1, 0),
        token_ids=(5, 6, 7),
        scores=(-0.1, -0.2, -1.0),
        sources=(TokenSource.LOOKUP, TokenSource.LOOKUP, TokenSource.DRAFT_MODEL),
    )


def _check_tree(tree: TokenTree) -> None:
    assert len(tree) <= 32, "the tree outgrows its bound"
    waiting = list(tree.children(ROOT).values())
    seen = set()
    while waiting:
        node_id = waiting.pop()
        assert node_id not in seen, "a node is reached twice"
        seen.add(node_id)
        path = tree.path(node_id)
        assert path[-1] == node_id
        waiting += tree.children(node_id).values()
    assert len(seen) == len(tree), "a node cannot be reached from the root"


# The store.


def _store_targets() -> list[FuzzTarget]:
    from treedraft.coordinator.session_store.records import SessionPlacement, SessionRequest
    from treedraft.core.sampling import SamplingParameters
    from treedraft.core.worker import WorkerRegistration, WorkerReport

    request = SessionRequest("s", "m", "f", (1, 2), SamplingParameters(seed=1))
    parts = [
        codec.encode_request(request),
        b"3",
        b"c1",
        codec.encode_tokens((1, 2, 3)),
        codec.encode_placement(SessionPlacement("t", "i", "t:1")),
        b"stop",
    ]
    worker = [
        codec.encode_registration(WorkerRegistration("w", "i", WorkerRole.TARGET, "w:1", "m")),
        codec.encode_report(WorkerReport(added_prefixes=())),
    ]

    def session(data: bytes) -> str:
        fields = (data.split(b"\x1e") + [b""] * 6)[:6]
        codec.decode_session(*fields)
        return OK

    def one_worker(data: bytes) -> str:
        fields = (data.split(b"\x1e") + [b""] * 2)[:2]
        codec.decode_worker(*fields)
        return OK

    return [
        FuzzTarget("store.session", session, [b"\x1e".join(parts), b"\x1e".join(parts[:4]), _DEEP]),
        FuzzTarget("store.worker", one_worker, [b"\x1e".join(worker), _DEEP]),
    ]


# Files.

_KEYS = b"""[keys]
"%s" = "acme"
[tenants.acme]
requests_at_once = 8
tokens_per_day = 1000000
suspended = false
""" % (b"0" * 64)
_MANIFEST = {
    "format_version": 1,
    "target": {"name": "t", "source": "s", "tokenizer_hash": "h", "eos_token_ids": [2]},
    "draft_vocab_size": 3,
    "embedding": {"kind": "target", "sha256": "x"},
}


def _file_targets(folder: Path) -> list[FuzzTarget]:
    secret = folder / "secret"
    secret.write_text("s" * 64)
    drafter = Path(tempfile.mkdtemp(dir=folder))

    def keys(data: bytes) -> str:
        (folder / "keys.toml").write_bytes(data)
        TenantRoll(str(folder / "keys.toml"), str(secret))
        return OK

    def manifest(data: bytes) -> str:
        first, _, second = data.partition(b"\x1e")
        (drafter / MANIFEST_FILE).write_bytes(first)
        (drafter / VOCABULARY_FILE).write_bytes(second)
        read_manifest(drafter, vocab_size=_VOCAB_SIZE)
        return OK

    def lines(read: Callable[[Path], Any], suffix: str) -> Callable[[bytes], str]:
        path = folder / f"prompts{suffix}"

        def run(data: bytes) -> str:
            path.write_bytes(data)
            list(read(path))
            return OK

        return run

    good = json.dumps(_MANIFEST).encode() + b"\x1e" + b'{"token_ids": [1, 5, 9]}'
    prompts = [
        b'{"prompt": "hello", "category": "x"}\n{"prompt": "you"}\n',
        b'{"messages": [{"role": "user", "content": "hi"}], "origin": "mine"}\n',
    ]
    return [
        FuzzTarget("files.api_keys", keys, [_KEYS, b"a = " + _DEEP]),
        FuzzTarget("files.drafter_manifest", manifest, [good, _DEEP]),
        FuzzTarget("files.prompts_jsonl", lines(read_prompt_file, ".jsonl"), [*prompts, _DEEP]),
        FuzzTarget("files.prompts_txt", lines(read_prompt_file, ".txt"), [b"one\ntwo\n"]),
        FuzzTarget("files.held_out_jsonl", lines(read_prompts, ".jsonl"), [*prompts[:1], _DEEP]),
    ]


def _text_targets() -> list[FuzzTarget]:
    from tests.unit.coordinator.support import toy_tokenizer_json

    tokenizer_json = toy_tokenizer_json()
    tokenizer = Tokenizer.from_json(tokenizer_json)

    def hashed(data: bytes) -> str:
        tokenizer_hash(data.decode("utf-8", "replace"))
        return OK

    def streamed(data: bytes) -> str:
        # A stream gives up on bytes that make no character for long; not met here.
        ids = [byte if index % 7 else 256 for index, byte in enumerate(data[:512])]
        ids[::40] = tokenizer.encode("\n") * len(ids[::40])
        stream = tokenizer.stream()
        pieces = "".join(stream.push(token_id) for token_id in ids) + stream.finish()
        assert pieces == tokenizer.decode(ids), "the pieces are another text"
        return OK

    def report(data: bytes) -> str:
        read_report(data.decode("utf-8", "replace"))
        return OK

    small = json.dumps(
        {"model": {"vocab": {"a": 0, "b": 1}, "merges": ["a b"]}, "added_tokens": []}
    ).encode()
    return [
        FuzzTarget("text.tokenizer_hash", hashed, [small, _DEEP]),
        FuzzTarget("text.stream", streamed, [bytes(range(256)), "größer 日本".encode()]),
        FuzzTarget("training.report", report, [b'{"format_version": 1, "cost": null}', _DEEP]),
    ]


def _tool_call_targets() -> list[FuzzTarget]:
    """Answers of models that call tools, read in pieces and at once."""
    from tests.unit.text.test_tool_formats import ALL_TEXTS, read

    def of(name: str) -> FuzzTarget:
        def run(data: bytes) -> str:
            text = data.decode("utf-8", "replace")
            content, calls = read(name, [text])
            assert calls or content == text, "characters were lost"
            step = 1 + len(text) % 7
            pieces = [text[start : start + step] for start in range(0, len(text), step)]
            assert read(name, pieces) == (content, calls), "how it was cut made a difference"
            return OK

        good = [text.encode() for one, text in ALL_TEXTS if one == name]
        return FuzzTarget(f"text.tool_calls.{name}", run, [*good, b'{"name": "clock", ' + _DEEP])

    return [of(name) for name in FORMATS]


def reason_of(error: TreedraftError) -> str:
    """Return the reason of a refusal, having checked that it is one."""
    reason = error.reason
    assert re.fullmatch("[A-Z][A-Z0-9_]{0,62}", reason), reason
    assert reason != "INTERNAL", "a refusal without a reason"
    return reason
