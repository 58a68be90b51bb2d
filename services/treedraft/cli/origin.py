"""The colour of a text by where its tokens came from."""

from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from typing import Final

from rich.text import Text

from treedraft.core.generation import Delta
from treedraft.core.growth import TokenSource

STYLES: Final[Mapping[TokenSource, str]] = {
    TokenSource.DRAFT_MODEL: "green",
    TokenSource.LOOKUP: "cyan",
    TokenSource.TARGET: "",
}
LEGEND: Final = Text.assemble(
    ("from the draft model", STYLES[TokenSource.DRAFT_MODEL]),
    ", ",
    ("from lookup", STYLES[TokenSource.LOOKUP]),
    ", from the target itself",
)


def painted(delta: Delta) -> Text:
    """Return the text of a delta in its colours.

    Only who watches the rounds is told where each character came from. Without that,
    the text of one pass cannot be cut at its tokens, so all of it has the colour of
    what was drafted of it, by whom most of that was.
    """
    if delta.text_sources:
        text, start = Text(), 0
        for source, run in groupby(delta.text_sources):
            end = start + len(list(run))
            text.append(delta.text[start:end], style=STYLES[source])
            start = end
        return text
    counts = Counter(source for source in delta.sources if source is not TokenSource.TARGET)
    source = counts.most_common(1)[0][0] if counts else TokenSource.TARGET
    return Text(delta.text, style=STYLES[source])
