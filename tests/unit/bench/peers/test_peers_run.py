from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count

import pytest

from treedraft.bench.peers.files import PeerFiles
from treedraft.bench.peers.plan import (
    BFLOAT16,
    FLOAT32,
    LOOKUP,
    PLAIN,
    ROWS,
    SPECULATIVE,
    PeersPlan,
    Row,
    rows_of,
)
from treedraft.bench.peers.result import Reply
from treedraft.bench.peers.run import Comparison, setup_of, tokenized_prompts
from treedraft.bench.peers.treedraft_peer import plan_cluster
from treedraft.core.errors import UnavailableError
from treedraft.inference.toy import make_toy_model

OWN, FAST = Row("treedraft", FLOAT32, PLAIN), Row("treedraft", FLOAT32, SPECULATIVE)
PEER, LOOK = Row("peer", FLOAT32, PLAIN), Row("peer", FLOAT32, LOOKUP)
PROMPTS = [[(1,)], [(2,), (3,)], [(4,), (5,)]]


class FakeContender:
    def __init__(self, row, log):
        self.packages = {row.system: "1.0"}
        self._system, self._log = row.system, log

    async def generate(self, mode, prompt_ids, num_tokens):
        if mode == LOOKUP and prompt_ids == (5,):
            raise UnavailableError("target-0 ended:\n  a trace\nOSError: no", reason="PEER_FAILED")
        self._log.append((self._system, mode, prompt_ids[0]))
        return Reply(2.0, tuple(range(num_tokens)))


class Systems:
    """Starts fakes; remembers what was started, asked and stopped."""

    def __init__(self, *, broken=()):
        self.started, self.log, self.stopped = [], [], []
        self._broken = broken

    @asynccontextmanager
    async def start(self, row):
        if row.system in self._broken:
            raise UnavailableError("not installed", reason="PEER_FAILED")
        self.started.append(row)
        yield FakeContender(row, self.log)
        self.stopped.append(row)


async def run(systems, *rows, times=None, **options):
    plan = PeersPlan(num_tokens=4, num_prompts=2, rows=rows, **options)
    clock = iter(times or count()).__next__
    comparison = Comparison(plan, systems.start, lambda _text: None, clock=clock)
    return await comparison.run(PROMPTS), comparison


async def test_rows_take_turns_and_every_second_repeat_goes_backwards():
    systems = Systems()
    outcomes, comparison = await run(systems, OWN, PEER)
    assert systems.log == [
        ("treedraft", PLAIN, 1), ("peer", PLAIN, 1),
        ("treedraft", PLAIN, 2), ("treedraft", PLAIN, 3), ("peer", PLAIN, 2), ("peer", PLAIN, 3),
        ("peer", PLAIN, 4), ("peer", PLAIN, 5), ("treedraft", PLAIN, 4), ("treedraft", PLAIN, 5),
    ]  # fmt: skip
    assert [outcome.speeds for outcome in outcomes] == [[2.0, 2.0]] * 2
    assert comparison.packages == {"treedraft": "1.0", "peer": "1.0"}
    assert set(systems.stopped) == {OWN, PEER}


async def test_a_system_is_started_once_for_its_modes_and_treedraft_for_each():
    systems = Systems()
    await run(systems, OWN, FAST, PEER, LOOK, replace(PEER, precision=BFLOAT16))
    assert systems.started == [OWN, FAST, PEER, replace(PEER, precision=BFLOAT16)]


async def test_what_cannot_be_started_is_a_row_that_says_so():
    outcomes, _ = await run(Systems(broken=("peer",)), OWN, PEER, LOOK)
    assert [outcome.failure for outcome in outcomes] == ["", "not installed", "not installed"]
    assert outcomes[0].replies
    assert not outcomes[1].replies


async def test_what_fails_later_is_a_row_of_one_line_and_disturbs_nobody():
    outcomes, _ = await run(Systems(), PEER, LOOK)
    assert outcomes[1].failure == "target-0 ended: OSError: no"
    assert outcomes[1].replies == ()
    assert len(outcomes[0].replies) == 2


@pytest.mark.parametrize(("limit", "repeats"), [(0, 2), (5, 1), (20, 2)])
async def test_no_repeat_but_the_first_begins_after_the_limit(limit, repeats):
    outcomes, _ = await run(Systems(), OWN, times=[100, 110], max_seconds=limit)
    assert len(outcomes[0].replies) == repeats


def test_prompts_are_all_different(tmp_path):
    plan = PeersPlan(num_prompts=2, num_repeats=3)
    prompts = tokenized_prompts(plan, make_toy_model(tmp_path / "toy"))
    assert [len(group) for group in prompts] == [1, 2, 2, 2]
    assert len({prompt for group in prompts for prompt in group}) == 7


def test_a_row_is_given_the_file_of_its_type():
    files = PeerFiles("/model", "/drafter", {"BF16": "/model.bf16"})
    setup = setup_of(Row("llama.cpp", BFLOAT16, PLAIN, "BF16"), files, 3)
    assert (setup.adapter, setup.precision, setup.num_threads) == ("llama.cpp", BFLOAT16, 3)
    assert (setup.model, setup.drafter, setup.gguf) == ("/model", "/drafter", "/model.bf16")
    assert setup_of(PEER, files, 3).gguf == ""


def test_plain_treedraft_has_no_drafter_beside_it():
    plan = PeersPlan(draft="a-drafter", num_threads=2)
    plain, fast = plan_cluster(plan, OWN, "/model"), plan_cluster(plan, FAST, "/model")
    assert (plain.draft, plain.num_drafters) == ("", 0)
    assert (fast.draft, fast.num_drafters, fast.target_threads) == ("a-drafter", 1, 2)
    assert plain.settings == fast.settings == plan.settings


def test_treedraft_is_in_every_choice_of_systems():
    chosen = {row.system for row in rows_of(["llama.cpp"])}
    assert chosen == {"treedraft", "llama.cpp"}
    assert rows_of([]) == ROWS
    assert len(set(ROWS)) == len(ROWS)
