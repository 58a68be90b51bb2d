"""A short run over every reader; `make fuzz INPUTS=1000000` is the long one."""

from dataclasses import replace

import pytest
from tests.fuzz.endpoints import fuzz_endpoints
from tests.fuzz.guided import guide, is_installed
from tests.fuzz.openapi import fuzz_openapi
from tests.fuzz.run import MAX_GROWTH_MB, fuzz, fuzz_target
from tests.fuzz.targets import OK, all_targets


def test_no_reader_crashes_hangs_or_keeps_what_it_read(tmp_path):
    results = fuzz(all_targets(tmp_path), 40_000, seed=1)
    assert [name for name, result in results.items() if result["crashes"]] == []
    assert [name for name, one in results.items() if one["grown_mb"] > MAX_GROWTH_MB] == []
    # Inputs that are all refused at the door, or none of them, would show nothing.
    assert all(result["outcomes"].get(OK) for name, result in results.items() if name in _DEEP)
    assert all(len(result["outcomes"]) > 1 for name, result in results.items() if name in _DEEP)


_DEEP = {"convert.target_frame", "convert.draft_frame", "core.token_tree", "store.session"}


async def test_no_endpoint_breaks_or_ends_a_call_without_a_reason(tmp_path):
    counts = await fuzz_endpoints(1600, 1, tmp_path)
    assert len(counts) == 8
    # Some got through, most did not.
    assert all(outcomes.get(OK, 0) < 200 for outcomes in counts.values())
    assert counts["/treedraft.v1.DraftService/ExchangeTrees"][OK]


def test_the_http_door_answers_as_its_document_says():
    counts = fuzz_openapi(240, 1)
    assert len(counts) == 9
    for name in ("POST /v1/chat/completions", "POST /v1/completions"):
        assert {"200", "400"} <= set(counts[name]), counts[name]


@pytest.mark.skipif(not is_installed(), reason="needs atheris: pip install '.[fuzz]'")
def test_a_reader_holds_against_inputs_that_coverage_leads_to(tmp_path):
    assert guide(["convert.draft_frame"], 2000, 1, tmp_path) == {"convert.draft_frame": OK}


def test_a_reader_that_crashes_is_found(tmp_path, capsys):
    target = next(one for one in all_targets(tmp_path) if one.name == "convert.growth")

    def run(data):
        if len(data) > 60:
            raise IndexError("beyond the end")
        return target.run(data)

    result = fuzz_target(replace(target, run=run), 2000, seed=1)
    assert len(result["crashes"]) == 5
    assert "--replay" in capsys.readouterr().err
