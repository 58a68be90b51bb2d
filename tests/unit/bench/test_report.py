import json
from dataclasses import replace

import pytest

from treedraft.bench.plan import PLAIN, SPECULATIVE, SYSTEMS, TRANSFORMERS, BenchPlan
from treedraft.bench.report import BEGIN_MARK, END_MARK, markdown, to_json, update_document
from treedraft.bench.result import BenchResult, Check, Sample
from treedraft.core.errors import InvalidRequestError
from treedraft.inference.stamp import Stamp

STAMP = Stamp(
    time="2026-01-02T03:04:05+00:00",
    commit="abc123",
    treedraft="0.1.0",
    python="3.11.7",
    system="Linux x86_64",
    processor="A processor",
    num_cores=2,
    memory_gib=8.0,
    load_before=0.25,
    packages={"torch": "2.13.0"},
)
SPEEDS = {TRANSFORMERS: (10.0, 11.0, 9.0), PLAIN: (20.0, 25.0, 15.0), SPECULATIVE: (30.0,) * 3}


def sample(system, concurrency, speed):
    is_speculative = system == SPECULATIVE
    return Sample(
        system,
        concurrency,
        tokens_per_second=speed,
        seconds=1.0,
        num_tokens=int(speed),
        first_token_ms=None if system == TRANSFORMERS else 100.0,
        tokens_per_round=2.5 if is_speculative else None,
        hit_rate=0.5 if is_speculative else None,
    )


@pytest.fixture
def result():
    plan = BenchPlan(concurrencies=(1, 8), num_repeats=3)
    samples = tuple(
        sample(system, concurrency, speed)
        for concurrency in plan.concurrencies
        for system in SYSTEMS
        for speed in SPEEDS[system]
    )
    return BenchResult(STAMP, plan, 2, Check(6, 64, 6, 5, 6), samples)


def test_numbers_are_medians_and_ratios_of_them(result):
    assert result.speed(PLAIN, 8) == 20.0
    assert result.spread(PLAIN, 8) == (15.0, 25.0)
    assert result.speed_up(1) == 1.5
    assert result.mean(TRANSFORMERS, 1, "tokens_per_round") is None


def test_the_table_has_a_line_per_load_and_its_conditions(result):
    lines = markdown(result).splitlines()
    assert lines[2] == (
        "| 1 | 10.0 (9.0-11.0) | 20.0 (15.0-25.0) | 30.0 (30.0-30.0) | 1.50 | 2.50 | 50% "
        "| 100 ms | 100 ms |"
    )
    assert lines[3].startswith("| 8 |")
    for word in ("6 of 6", "5 of 6", "A processor, 2 cores, 8 GiB", "load 0.2 before", "abc123"):
        assert word in lines[-1]


def test_json_has_machine_versions_commit_and_every_sample(result):
    document = json.loads(to_json(result))
    assert document["stamp"]["commit"] == "abc123"
    assert document["stamp"]["packages"] == {"torch": "2.13.0"}
    assert len(document["samples"]) == 2 * 3 * 3
    assert document["table"] == markdown(result)


def test_whether_drafters_saw_recent_traffic_is_said(result):
    words = "drafts by lookup without recent traffic (every repeat asks the same), float32"
    assert words in markdown(result)
    settings = json.loads(to_json(result))["plan"]["settings"]
    assert settings == {"TREEDRAFT_DRAFT__LOOKUP__RECENT__ENABLED": "false"}
    with_it = replace(result, plan=replace(result.plan, settings={}))
    assert "drafts by lookup, float32" in markdown(with_it)


def test_only_what_is_between_the_marks_is_replaced(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN_MARK}\nold\n{END_MARK}\nafter\n")
    for text in ("new \\1 text", "newer"):
        update_document(path, text)
        assert path.read_text() == f"before\n{BEGIN_MARK}\n{text}\n{END_MARK}\nafter\n"


def test_a_document_without_marks_is_left_alone(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("nothing here")
    with pytest.raises(InvalidRequestError) as caught:
        update_document(path, "new")
    assert caught.value.reason == "NO_MARKS"
    assert path.read_text() == "nothing here"


def test_an_accelerator_is_named():
    assert replace(STAMP, accelerator="GPU X").machine == "A processor, 2 cores, 8 GiB, GPU X"


def test_what_was_not_measured_is_left_blank(result):
    alone = replace(
        result,
        samples=tuple(s for s in result.samples if s.system != TRANSFORMERS),
        check=Check(6, 64, 6, None, None),
    )
    assert "generate" not in markdown(alone)
    assert markdown(alone).splitlines()[2].startswith("| 1 |  | 20.0")
