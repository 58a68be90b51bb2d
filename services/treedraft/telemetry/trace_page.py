"""A trace as one HTML page that needs nothing else: to be kept, sent and read offline.

No script and no address of anything: what opens and shuts are the browser's own
disclosure elements, and the page's policy forbids the rest. Everything that comes
from spans is escaped, since names of models and errors are what others wrote.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

from treedraft.telemetry import names
from treedraft.telemetry.local_store import SpanRecord
from treedraft.telemetry.trace_summary import RoundsSummary, summarise_rounds

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_COLOURS: Final[Mapping[str, str]] = {
    "coordinator": "#0891b2",
    "target": "#16a34a",
    "draft": "#c026d3",
    names.SPAN_QUEUE: "#9ca3af",
    names.SPAN_FORWARD: "#22c55e",
    names.SPAN_WALK: "#eab308",
    names.SPAN_COMMIT: "#3b82f6",
}
_OTHER_COLOUR: Final = "#6b7280"
_ERROR_COLOUR: Final = "#dc2626"
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1f2937; --paper: #fff; --line: #e5e7eb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --paper: #111827; --line: #374151; }
}
body { font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 1.5rem; }
h1 { font-size: 1.1rem; } code { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; }
summary, .leaf { display: grid; grid-template-columns: 18rem 6rem 6rem 1fr; gap: .5rem;
  align-items: center; border-bottom: 1px solid var(--line); }
.leaf, summary { padding: .1rem 0; } .number { text-align: right; }
details { padding: 0; } summary { cursor: pointer; } summary:focus { outline: 2px solid #3b82f6; }
.axis { position: relative; height: .9rem; }
.bar { position: absolute; height: 100%; min-width: 2px; border-radius: 2px; }
.note { grid-column: 1 / -1; color: #6b7280; overflow-wrap: anywhere; }
.name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
"""


@dataclass(frozen=True, slots=True)
class _Tree:
    """The spans of a trace by parent, on one axis of nanoseconds."""

    children: Mapping[str, Sequence[SpanRecord]]
    begin: int
    end: int

    def share(self, ns: int) -> float:
        """Return a length as a percentage of the axis."""
        return 100.0 * ns / max(self.end - self.begin, 1)


def trace_page(spans: Sequence[SpanRecord]) -> str:
    """Return a whole trace as an HTML document.

    Args:
        spans: of one trace, at least one, as `load_trace` returns them.
    """
    known = {span.span_id for span in spans}
    children: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.end_ns)):
        children[span.parent_id if span.parent_id in known else ""].append(span)
    tree = _Tree(children, min(s.start_ns for s in spans), max(s.end_ns for s in spans))
    title = f"trace {spans[0].trace_id}"
    began = datetime.fromtimestamp(tree.begin / 1e9, UTC).isoformat(" ", "milliseconds")
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n",
            f"<h1>{escape(title)}</h1>\n",
            f"<p>{began}, {(tree.end - tree.begin) / 1e6:.1f} ms, {len(spans)} spans</p>\n",
            _shares(summarise_rounds(spans)),
            *(_rows(tree, span, 0) for span in children[""]),
            "</body></html>\n",
        )
    )


def _shares(rounds: RoundsSummary) -> str:
    parts = [(part, rounds.part_ms[part]) for part in names.ROUND_PARTS]
    rows = "".join(
        f"<tr><td>{part}</td><td>{ms / max(rounds.num_rounds, 1):.2f}</td><td>{ms:.1f}</td>"
        f"<td>{rounds.share(ms):.1%}</td></tr>"
        for part, ms in [*parts, ("other", rounds.other_ms)]
    )
    return (
        f"<p>{rounds.num_rounds} rounds, {rounds.total_ms:.1f} ms: "
        f"τ {rounds.tokens_per_round:.2f}, hit rate {rounds.hit_rate:.0%}, "
        f"nodes {rounds.drafted_nodes} drafted, {rounds.admitted_nodes} admitted, "
        f"{rounds.accepted_nodes} accepted</p>\n"
        "<table><tr><th>part</th><th>mean ms</th><th>total ms</th><th>share of rounds</th></tr>"
        f"{rows}</table>\n<p>draft and wire run beside the rounds</p>\n"
    )


def _rows(tree: _Tree, span: SpanRecord, depth: int) -> str:
    line = _line(tree, span, depth)
    below = tree.children.get(span.span_id, ())
    if not below:
        return f'<div class="leaf">{line}</div>\n'
    # What is below these is much: a round's parts are seen in its own bar anyway.
    is_shut = span.name in (names.SPAN_ROUND, names.SPAN_DRAFT_SESSION)
    opened = "" if is_shut else " open"
    inside = "".join(_rows(tree, child, depth + 1) for child in below)
    return f"<details{opened}><summary>{line}</summary>\n{inside}</details>\n"


def _line(tree: _Tree, span: SpanRecord, depth: int) -> str:
    parts = [span]
    if span.name == names.SPAN_ROUND:
        parts += tree.children.get(span.span_id, ())
    bars = "".join(_bar(tree, part) for part in parts)
    notes = "; ".join(_notes(span))
    return (
        f'<span class="name" style="padding-left:{depth}rem">{escape(span.name)}</span>'
        f'<span class="number">{(span.start_ns - tree.begin) / 1e6:.1f} ms</span>'
        f'<span class="number">{span.duration_ms:.2f} ms</span>'
        f'<span class="axis" title="{escape(notes)}">{bars}</span>'
        + (f'<span class="note">{escape(span.error)}</span>' if span.error else "")
    )


def _bar(tree: _Tree, span: SpanRecord) -> str:
    colour = _COLOURS.get(span.name) or _COLOURS.get(span.service, _OTHER_COLOUR)
    if span.error:
        colour = _ERROR_COLOUR
    left = tree.share(span.start_ns - tree.begin)
    width = tree.share(span.end_ns - span.start_ns)
    return (
        f'<span class="bar" style="left:{left:.3f}%;width:{width:.3f}%;background:{colour}"></span>'
    )


def _notes(span: SpanRecord) -> Iterator[str]:
    yield f"{span.service} {span.instance}".strip()
    for name, value in span.attributes.items():
        yield f"{name}: {value}"
    for event in span.events:
        yield f"{event.name} at {(event.time_ns - span.start_ns) / 1e6:.1f} ms"
