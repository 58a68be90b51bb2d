"""Draws a trace in a terminal: a waterfall of its spans and a table of shares.

Lines follow the tree of spans, by start time, each with a bar on one time axis.
The parts of a round are colours of its bar instead of lines of their own. A
request has hundreds of rounds, so of many spans of one name under one parent
the middle is folded into a line that says how many there are. A span whose
parent is not there (not ended yet, or its process died) is drawn as a root:
what happened is shown whatever is missing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from treedraft.telemetry import names
from treedraft.telemetry.local_store import SpanRecord
from treedraft.telemetry.trace_summary import RoundsSummary, summarise_rounds

_SERVICE_STYLES = {"coordinator": "cyan", "target": "green", "draft": "magenta"}
_PART_STYLES = {
    names.SPAN_QUEUE: "bright_black",
    names.SPAN_FORWARD: "green",
    names.SPAN_WALK: "yellow",
    names.SPAN_COMMIT: "blue",
}
_MIN_BAR_WIDTH = 16
_MIN_NOTES_WIDTH = 16
_NOTES_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the waterfall: a span, or several folded into one."""

    depth: int
    spans: tuple[SpanRecord, ...]
    parts: tuple[SpanRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class _Bar:
    """A bar on the time axis, drawn to the width that the table leaves for it."""

    axis: tuple[int, int]  # ns
    pieces: tuple[tuple[int, int, str], ...]  # start ns, end ns, style; later ones on top

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for style in self._cells(options.max_width):
            yield Segment("━" if style else " ", Style.parse(style) if style else None)
        yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        # As little as it needs: the column grows into what the others leave.
        width = min(_MIN_BAR_WIDTH, options.max_width)
        return Measurement(width, width)

    def _cells(self, width: int) -> list[str]:
        begin, end = self.axis
        scale = width / max(end - begin, 1)
        cells = [""] * width
        for index, (start_ns, end_ns, style) in enumerate(self.pieces):
            first = min(int((start_ns - begin) * scale), width - 1)
            # The first piece is the span itself and is always seen; a part
            # only where it fills most of a cell.
            last = (
                max(first + 1, int((end_ns - begin) * scale))
                if index == 0
                else round((end_ns - begin) * scale)
            )
            for cell in range(first, min(last, width)):
                cells[cell] = style
        return cells


@dataclass(frozen=True, slots=True)
class _Waterfall:
    """The lines as a table that shares the width out between bars and notes."""

    axis: tuple[int, int]  # ns
    lines: tuple[_Line, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # What the bars must have comes first; a terminal too narrow for words
        # beside them gets none.
        left = options.max_width - max(_label(line).cell_len for line in self.lines) - 20
        notes_width = min(left - _MIN_BAR_WIDTH, int(left * _NOTES_SHARE))
        table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim")
        table.add_column("span", no_wrap=True)
        table.add_column("at ms", justify="right", no_wrap=True)
        table.add_column("ms", justify="right", no_wrap=True)
        table.add_column("", ratio=1, no_wrap=True)
        if notes_width >= _MIN_NOTES_WIDTH:
            table.add_column("", max_width=notes_width, no_wrap=True, overflow="ellipsis")
        for line in self.lines:
            row: list[RenderableType] = [
                _label(line),
                f"{(line.spans[0].start_ns - self.axis[0]) / 1e6:.1f}",
                f"{sum(span.duration_ms for span in line.spans):.2f}",
                _Bar(self.axis, tuple(_pieces(line))),
                _notes(line),
            ]
            table.add_row(*row[: len(table.columns)])
        yield table


def render_trace(spans: Sequence[SpanRecord], *, max_rows: int = 12) -> RenderableType:
    """Return a whole trace, to be printed by a rich console.

    Args:
        spans: of one trace, as `load_trace` returns them.
        max_rows: of one name under one parent, how many are drawn; the middle
            is folded.
    """
    if not spans:
        return Text("no spans")
    axis = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    rounds = summarise_rounds(spans)
    return Group(
        _header(spans, axis),
        Text(),
        _Waterfall(axis, tuple(_lines(spans, max_rows))),
        Text(),
        Text(_rounds_title(rounds), style="bold"),
        share_table(rounds),
    )


def share_table(rounds: RoundsSummary) -> Table:
    """Return a table of where the time of rounds went."""
    table = Table(caption="draft and wire run beside the rounds", caption_justify="left")
    table.add_column("part")
    for heading in ("mean ms", "total ms", "share of rounds"):
        table.add_column(heading, justify="right")
    rows = [(part, rounds.part_ms[part]) for part in names.ROUND_PARTS]
    for part, part_ms in [*rows, ("other", rounds.other_ms)]:
        table.add_row(
            Text(part, style=_PART_STYLES.get(part, "")),
            f"{part_ms / max(rounds.num_rounds, 1):.2f}",
            f"{part_ms:.1f}",
            f"{rounds.share(part_ms):.1%}",
        )
    return table


def _rounds_title(rounds: RoundsSummary) -> str:
    return (
        f"{rounds.num_rounds} rounds, {rounds.total_ms:.1f} ms: τ {rounds.tokens_per_round:.2f}, "
        f"hit rate {rounds.hit_rate:.0%}, nodes {rounds.drafted_nodes} drafted, "
        f"{rounds.admitted_nodes} admitted, {rounds.accepted_nodes} accepted"
    )


def _header(spans: Sequence[SpanRecord], axis: tuple[int, int]) -> Text:
    began = datetime.fromtimestamp(axis[0] / 1e9, UTC).isoformat(" ", "milliseconds")
    services = sorted({_process_name(span) for span in spans})
    text = Text.assemble("trace ", (spans[0].trace_id, "bold"))
    text.append(
        f"\n{began}, {(axis[1] - axis[0]) / 1e6:.1f} ms, {len(spans)} spans of "
        f"{', '.join(services)}"
    )
    return text


def _process_name(span: SpanRecord) -> str:
    return f"{span.service} {span.instance[:8]}".strip() or "?"


def _lines(spans: Sequence[SpanRecord], max_rows: int) -> Iterator[_Line]:
    known = {span.span_id for span in spans}
    children: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.end_ns)):
        children[span.parent_id if span.parent_id in known else ""].append(span)
    pending = _fold(children.pop("", []), 0, max_rows)[::-1]
    while pending:
        line = pending.pop()
        if len(line.spans) > 1:
            yield line
            continue
        span = line.spans[0]
        below = children.pop(span.span_id, [])
        parts = tuple(child for child in below if _is_part(span, child))
        yield _Line(line.depth, line.spans, parts)
        below = [child for child in below if not _is_part(span, child)]
        pending.extend(_fold(below, line.depth + 1, max_rows)[::-1])


def _is_part(span: SpanRecord, child: SpanRecord) -> bool:
    return span.name == names.SPAN_ROUND and child.name in _PART_STYLES


def _fold(siblings: Sequence[SpanRecord], depth: int, max_rows: int) -> list[_Line]:
    by_name: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in siblings:
        by_name[span.name].append(span)
    folds: dict[str, list[SpanRecord]] = {}  # first span id of a fold -> its spans
    hidden: set[str] = set()
    num_last = max_rows // 3
    for group in by_name.values():
        middle = group[max_rows - num_last : len(group) - num_last]
        if len(middle) > 1:
            folds[middle[0].span_id] = middle
            hidden.update(span.span_id for span in middle)
    lines = []
    for span in siblings:
        if span.span_id in folds:
            lines.append(_Line(depth, tuple(folds[span.span_id])))
        elif span.span_id not in hidden:
            lines.append(_Line(depth, (span,)))
    return lines


def _label(line: _Line) -> Text:
    span = line.spans[0]
    folded = f"… {len(line.spans)} × " if len(line.spans) > 1 else ""
    style = "red" if span.error else _SERVICE_STYLES.get(span.service, "")
    return Text("  " * line.depth + folded + span.name, style=style)


def _pieces(line: _Line) -> Iterator[tuple[int, int, str]]:
    first = line.spans[0]
    style = "red" if first.error else _SERVICE_STYLES.get(first.service, "white")
    last_ns = max(span.end_ns for span in line.spans)
    yield first.start_ns, last_ns, f"{style} dim" if len(line.spans) > 1 else style
    for part in line.parts:
        yield part.start_ns, part.end_ns, _PART_STYLES[part.name]


def _notes(line: _Line) -> Text:
    if len(line.spans) > 1:
        rounds = summarise_rounds(line.spans)
        is_rounds = bool(rounds.num_rounds)
        return Text(f"τ {rounds.tokens_per_round:.2f}" if is_rounds else "", style="dim")
    span = line.spans[0]
    describe = _DESCRIBE.get(span.name)
    text = Text(describe(span) if describe else "", style="dim")
    if span.error:
        reason = span.attributes.get(names.ATTR_ERROR_TYPE, "")
        text.append(f" {reason}: {span.error}" if reason else f" {span.error}", style="red")
    return text


def _describe_round(span: SpanRecord) -> str:
    get = span.attributes.get
    is_hit = get(names.ATTR_ROUND_IS_HIT)
    outcome = "plain" if is_hit is None else "hit" if is_hit else "miss"
    # What matters most comes first: a narrow terminal cuts the rest.
    return (
        f"#{get(names.ATTR_ROUND_NUMBER, '?')} {outcome}, "
        f"{get(names.ATTR_ROUND_ACCEPTED, 0)} accepted of {get(names.ATTR_ROUND_ADMITTED, 0)} "
        f"admitted of {get(names.ATTR_ROUND_DRAFTED, 0)} drafted"
    )


def _describe_place(span: SpanRecord) -> str:
    get = span.attributes.get
    return f"{get(names.ATTR_PLACE_TARGET, '')} {get(names.ATTR_PLACE_REASON, '')}".strip()


def _describe_counts(*labels: tuple[str, str]) -> Callable[[SpanRecord], str]:
    """Return a function that says `<value> <word>` of each attribute that is there."""

    def describe(span: SpanRecord) -> str:
        return ", ".join(
            f"{value:.2f} {word}" if isinstance(value, float) else f"{value} {word}"
            for attribute, word in labels
            if (value := span.attributes.get(attribute)) is not None
        )

    return describe


_DESCRIBE: dict[str, Callable[[SpanRecord], str]] = {
    names.SPAN_ROUND: _describe_round,
    names.SPAN_PLACE: _describe_place,
    names.SPAN_GENERATE: _describe_counts(
        (names.ATTR_INPUT_TOKENS, "tokens in"), (names.ATTR_OUTPUT_TOKENS, "out")
    ),
    names.SPAN_SESSION: _describe_counts(
        (names.ATTR_NUM_ROUNDS, "rounds"), (names.ATTR_TOKENS_PER_ROUND, "tokens a round")
    ),
    names.SPAN_PREFILL: _describe_counts((names.ATTR_PREFILL_TOKENS, "tokens")),
    names.SPAN_GROW: _describe_counts(
        (names.ATTR_GROW_NODES, "nodes"), (names.ATTR_GROW_ROWS, "rows")
    ),
}
