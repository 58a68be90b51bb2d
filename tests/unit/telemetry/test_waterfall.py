import io
import itertools

import pytest
from rich.console import Console

from treedraft.telemetry import names
from treedraft.telemetry.local_store import SpanRecord
from treedraft.telemetry.trace_summary import summarise_rounds
from treedraft.telemetry.waterfall import render_trace, share_table

MS = 1_000_000
TRACE = "ab" * 16


class TraceBuilder:
    """Makes spans of one trace; times in milliseconds."""

    def __init__(self):
        self.spans: list[SpanRecord] = []
        self._ids = itertools.count(1)

    def add(self, name, service, start, end, parent="", error="", **attributes):
        span_id = f"{next(self._ids):016x}"
        self.spans.append(
            SpanRecord(
                *(TRACE, span_id, parent, name, service, "incarnation"),
                *(int(start * MS), int(end * MS), error, attributes),
            )
        )
        return span_id

    def add_round(self, number, start, parent, *, accepted=2, is_hit=True):
        span = self.add(
            *(names.SPAN_ROUND, "target", start, start + 10, parent),
            **{
                names.ATTR_ROUND_NUMBER: number,
                names.ATTR_ROUND_DRAFTED: 8,
                names.ATTR_ROUND_ADMITTED: 6,
                names.ATTR_ROUND_ACCEPTED: accepted,
                names.ATTR_ROUND_EMITTED: accepted + 1,
                names.ATTR_ROUND_DRAFT_MS: 4.0,
                names.ATTR_ROUND_WIRE_MS: 0.5,
            },
            **({} if is_hit is None else {names.ATTR_ROUND_IS_HIT: is_hit}),
        )
        for name, begin, end in (
            (names.SPAN_QUEUE, 0, 1),
            (names.SPAN_FORWARD, 1, 8),
            (names.SPAN_WALK, 8, 9),
            (names.SPAN_COMMIT, 9, 9.5),
        ):
            self.add(name, "target", start + begin, start + end, span)


def request(num_rounds: int) -> list[SpanRecord]:
    trace = TraceBuilder()
    end = 50 + 10 * num_rounds
    root = trace.add(names.SPAN_GENERATE, "coordinator", 0, end)
    trace.add(names.SPAN_ADMIT, "coordinator", 0, 1, root)
    place = {names.ATTR_PLACE_TARGET: "target-1", names.ATTR_PLACE_REASON: "holds the prefix"}
    trace.add(names.SPAN_PLACE, "coordinator", 1, 2, root, **place)
    session = trace.add(names.SPAN_SESSION, "target", 3, end - 5, root)
    prefill = {names.ATTR_PREFILL_TOKENS: 256}
    trace.add(names.SPAN_PREFILL, "target", 4, 40, session, **prefill)
    for number in range(1, num_rounds + 1):
        trace.add_round(number, 40 + 10 * (number - 1), session, is_hit=number % 2 == 0)
    drafting = trace.add(names.SPAN_DRAFT_SESSION, "draft", 5, end - 5, session)
    grow = {names.ATTR_GROW_NODES: 12, names.ATTR_GROW_ROWS: 4}
    trace.add(names.SPAN_GROW, "draft", 30, 35, drafting, **grow)
    return trace.spans


def draw(spans, *, width=160, **options) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(render_trace(spans, **options))
    return stream.getvalue().splitlines()


def test_rounds_add_up():
    summary = summarise_rounds(request(10))
    assert summary.num_rounds == 10
    assert summary.total_ms == pytest.approx(100)
    assert summary.part_ms == pytest.approx(
        {"draft": 40, "wire": 5, "queue": 10, "forward": 70, "walk": 10, "commit": 5}
    )
    assert summary.other_ms == pytest.approx(5)
    assert summary.share(summary.part_ms["forward"]) == pytest.approx(0.7)
    assert (summary.drafted_nodes, summary.admitted_nodes, summary.accepted_nodes) == (80, 60, 20)
    assert (summary.tokens_per_round, summary.hits, summary.misses) == (3.0, 5, 5)
    assert summary.hit_rate == 0.5


def test_no_rounds_add_up_to_nothing():
    summary = summarise_rounds([])
    assert (summary.tokens_per_round, summary.hit_rate, summary.share(1.0)) == (0.0, 0.0, 0.0)


def test_every_span_has_its_line_under_its_parent():
    lines = draw(request(3))
    labels = [line.split("  ")[0] if line[:1] != " " else line for line in lines]
    text = "\n".join(lines)
    assert TRACE in text
    order = [text.index(word) for word in ("generate", "admit", "place", "session", "prefill")]
    assert order == sorted(order)
    assert any(line.startswith("    round ") for line in labels)
    assert any(line.startswith("      grow ") for line in labels)
    assert "#2 hit, 2 accepted of 6 admitted of 8 drafted" in text
    assert "#3 miss, 2 accepted of 6 admitted of 8 drafted" in text
    assert "target-1 holds the prefix" in text
    assert "256 tokens" in text
    assert "12 nodes, 4 rows" in text
    # The parts of a round are colours of its bar.
    assert not any(line.strip().startswith(names.SPAN_WALK + " ") for line in lines[:-12])


def test_many_rounds_are_folded_in_the_middle():
    lines = draw(request(200), max_rows=6)
    rounds = [line for line in lines if line.lstrip().startswith(("round", "…"))]
    assert len(rounds) == 7
    assert "… 194 × round" in rounds[4]
    assert "τ 3.00" in rounds[4]
    assert "#4 hit" in rounds[3]
    assert "#199 miss" in rounds[5]
    assert len(lines) < 40


def test_one_hidden_round_is_not_worth_a_fold():
    assert not any("… " in line for line in draw(request(7), max_rows=6))


def test_bars_stand_where_the_time_was():
    trace = TraceBuilder()
    root = trace.add(names.SPAN_GENERATE, "coordinator", 0, 100)
    trace.add(names.SPAN_ADMIT, "coordinator", 0, 0.001, root)
    trace.add(names.SPAN_SESSION, "target", 50, 100, root)
    lines = draw(trace.spans)
    bars = {
        line.split()[0]: line[line.index("━") : line.rindex("━") + 1]
        for line in lines
        if "━" in line and line.split()[0] in {"generate", "admit", "session"}
    }
    start = {line.split()[0]: line.index("━") for line in lines if "━" in line and line.split()}
    assert len(bars["admit"]) == 1
    assert len(bars["generate"]) > 40
    assert len(bars["session"]) == pytest.approx(len(bars["generate"]) / 2, abs=1)
    middle = start["generate"] + len(bars["generate"]) / 2
    assert start["session"] == pytest.approx(middle, abs=1)


def test_spans_without_their_parent_are_shown_as_roots():
    trace = TraceBuilder()
    trace.add(names.SPAN_ROUND, "target", 5, 6, parent="f" * 16)
    trace.add(names.SPAN_GROW, "draft", 1, 2, parent="e" * 16)
    labels = [line.split()[0] for line in draw(trace.spans) if "━" in line]
    assert labels[:2] == [names.SPAN_GROW, names.SPAN_ROUND]


def test_an_error_is_shown_with_its_reason():
    trace = TraceBuilder()
    trace.add(
        *(names.SPAN_SESSION, "target", 0, 1),
        error="pool full",
        **{names.ATTR_ERROR_TYPE: "KV_POOL_FULL"},
    )
    assert any("KV_POOL_FULL: pool full" in line for line in draw(trace.spans))


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width):
    lines = draw(request(30), width=width)
    assert max(len(line) for line in lines) <= width
    (whole,) = (line for line in lines if line.startswith("generate"))
    assert whole.count("━") >= 8  # there is a bar whatever the width


def test_markup_in_what_others_wrote_is_plain_text():
    trace = TraceBuilder()
    attributes = {names.ATTR_PLACE_TARGET: "[red]x[/red]", names.ATTR_PLACE_REASON: ""}
    trace.add(names.SPAN_PLACE, "coordinator", 0, 1, **attributes)
    assert any("[red]x[/red]" in line for line in draw(trace.spans))


def test_an_empty_trace_is_said_to_be_empty():
    assert draw([]) == ["no spans"]


def test_the_table_names_every_part():
    table = share_table(summarise_rounds(request(4)))
    assert [str(cell) for cell in table.columns[0].cells] == [*names.ROUND_PARTS, "other"]
    assert list(table.columns[3].cells)[3] == "70.0%"
