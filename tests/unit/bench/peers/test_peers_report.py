import json
from dataclasses import replace

import pytest
from peers_fakes import make_result

from treedraft.bench.peers import picture, report
from treedraft.bench.peers.plan import FLOAT32, LOOKUP, PLAIN
from treedraft.bench.peers.result import common_length


@pytest.fixture
def result():
    return make_result()


def test_numbers_are_medians_and_ratios_of_them(result):
    own = result.find("treedraft", FLOAT32, PLAIN)
    lookup = result.find("peer", FLOAT32, LOOKUP)
    assert (own.speed, min(own.speeds), max(own.speeds)) == (2.0, 1.0, 4.0)
    assert result.ratio(lookup) == 2.0
    assert result.speed_up(lookup) == 0.5
    assert result.speed_up(own) is None
    assert lookup.tokens_per_pass == 1.0
    assert own.tokens_per_pass is None


def test_the_table_has_every_row_and_failures_last(result):
    lines = report.table(result).splitlines()
    assert lines[2] == "| treedraft | float32 | plain | 2.0 (1.0-4.0) | 1.00 | 12/12 |  |"
    assert lines[3] == (
        "| treedraft | float32 | speculative | 4.0 (4.0-4.0) | 2.00 | 12/12 | S 2.00; τ 2.00 |"
    )
    assert lines[5] == (
        "| peer | float32 | prompt lookup | 4.0 (4.0-4.0) | 2.00 | 6/12 | "
        "S 0.50; τ 1.00; a \\| note |"
    )
    assert lines[6] == (
        "| other | bfloat16 | plain | – | – | – | "
        "not measured: not installed: no module named other |"
    )


def test_text_is_compared_up_to_the_first_difference():
    assert common_length((1, 2, 3), (1, 2, 4)) == 2
    assert common_length((1, 2), (1, 2, 4)) == 2
    assert common_length((), (1,)) == 0


def test_without_treedraft_transformers_is_the_reference(result):
    rows = [replace(one, row=replace(one.row, system="transformers")) for one in result.outcomes]
    alone = replace(result, outcomes=tuple(rows[3:4]))
    assert alone.reference() == rows[3]
    assert alone.ratio(rows[3]) is None
    nobody = replace(result, outcomes=result.outcomes[4:])
    assert nobody.num_same(nobody.outcomes[0]) is None
    assert "| – | – | S" not in report.table(nobody)


def test_each_at_its_best_names_the_fastest_first(result):
    lines = report.best(result).splitlines()
    assert lines == [
        "- peer: 8.0 tok/s (float32, plain), 1.00 of the fastest",
        "- treedraft: 4.0 tok/s (float32, speculative), 0.50 of the fastest",
    ]


def test_the_page_says_how_to_repeat_it(result):
    page = report.page(result, "treedraft bench peers --prompts 1", "results/peers.svg")
    assert "```sh\ntreedraft bench peers --prompts 1\n```" in page
    assert "](results/peers.svg)" in page
    for word in ("A processor, 2 cores, 8 GiB", "peer 1.2", "torch 2.13.0", "abc123", "load 0.2"):
        assert word in page
    assert "![" not in report.page(result, "x", "")


def test_json_has_stamp_versions_and_every_token(result):
    document = json.loads(report.to_json(result))
    assert document["stamp"]["commit"] == "abc123"
    assert document["packages"] == {"peer": "1.2"}
    assert document["outcomes"][1]["replies"][2][0]["token_ids"] == [1, 2, 3, 4]
    assert document["outcomes"][0]["failure"].startswith("not installed")
    assert document["table"] == report.table(result)


def test_the_picture_has_every_measured_row_and_the_limit(result, tmp_path):
    drawn = picture.draw(result, tmp_path / "peers.svg").read_text()
    for words in ("treedraft, speculative (float32)", "peer, prompt lookup", "limit: S = τ"):
        assert words in drawn
    assert "other" not in drawn
    again = picture.draw(result, tmp_path / "again.svg").read_text()
    assert again == drawn
