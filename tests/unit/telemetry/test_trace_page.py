from html.parser import HTMLParser

import pytest
from tests.unit.telemetry.test_waterfall import TraceBuilder, request

from treedraft.telemetry import names
from treedraft.telemetry.trace_page import trace_page


class Page(HTMLParser):
    """What a browser would make of a page: its elements and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.attributes = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_every_span_has_its_line_and_its_bar():
    spans = request(num_rounds=5)
    page = Page(trace_page(spans))
    assert page.open == []  # all that was opened was closed
    bars = [value for name, value in page.attributes if (name, value) == ("class", "bar")]
    # The parts of a round are seen twice: in its bar, and below it when it is opened.
    assert len(bars) == len(spans) + 4 * 5
    assert f"{len(spans)} spans" in "".join(page.text)
    assert "5 rounds" in "".join(page.text)


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "</style>"]
)
def test_what_others_wrote_is_text(evil):
    trace = TraceBuilder()
    root = trace.add(evil, evil, 0, 10, error=evil, **{names.ATTR_REQUEST_MODEL: evil})
    trace.add(names.SPAN_ADMIT, "coordinator", 0, 1, root)
    page = Page(trace_page(trace.spans))
    assert not {"script", "img"} & {*page.tags}
    assert page.tags.count("style") == 1
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert evil in "".join(page.text)


def test_the_page_asks_nobody_for_anything():
    page = Page(trace_page(request(num_rounds=2)))
    assert not {"script", "link", "img", "iframe"} & {*page.tags}
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_a_trace_without_its_root_is_drawn_all_the_same():
    spans = [span for span in request(num_rounds=2) if span.parent_id]
    assert f"{len(spans)} spans" in trace_page(spans)
