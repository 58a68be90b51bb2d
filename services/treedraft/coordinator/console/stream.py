"""A watched answer as the page reads it: server-sent events of small JSON objects.

`started`, then `delta` with pieces of text and the rounds they came from, then
`finished` or `error`. Flat arrays, as on every other wire of the project.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from treedraft.coordinator.http.errors import to_http
from treedraft.coordinator.http.streams import frame
from treedraft.coordinator.pieces import TextPieces, TokenReader
from treedraft.core.errors import TreedraftError
from treedraft.core.generation import Delta, Finished, GenerateEvent, Started
from treedraft.core.growth import ROOT, TokenSource
from treedraft.core.session import RoundReport, SessionStatistics
from treedraft.text.tokenizer import Tokenizer

# The page's word for a source is its place in this order.
SOURCES = (TokenSource.DRAFT_MODEL, TokenSource.LOOKUP, TokenSource.TARGET)
_CODE_OF = {source: code for code, source in enumerate(SOURCES)}


class WatchedStream:
    """Writes the events of one answer for the page."""

    def __init__(self, tokenizer_of: Callable[[str], Tokenizer]) -> None:
        """Read tokens by the tokenizer of the model that serves."""
        self._tokenizer_of = tokenizer_of
        self._pieces: TextPieces
        self._reader: TokenReader
        self._token_ids: list[int] = []
        self._prompt_length = 0

    async def frames(
        self, events: AsyncGenerator[GenerateEvent, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the frames of the whole answer; an error becomes the last of them."""
        try:
            async with aclosing(events):
                async for event in events:
                    yield frame(self._write(event))
        except TreedraftError as error:
            yield frame({**to_http(error).body["error"], "type": "error"})

    def _write(self, event: GenerateEvent) -> dict[str, Any]:
        match event:
            case Started():
                return self._start(event)
            case Delta():
                return self._delta(event)
            case Finished():
                return {
                    "type": "finished",
                    "reason": event.reason.value,
                    "first_token_ms": event.time_to_first_token_ms,
                    "statistics": _statistics(event.statistics),
                }

    def _start(self, started: Started) -> dict[str, Any]:
        tokenizer = self._tokenizer_of(started.model)
        self._pieces, self._reader = TextPieces(tokenizer), TokenReader(tokenizer)
        self._token_ids = list(started.prompt_token_ids)
        self._prompt_length = len(started.prompt_token_ids)
        return {
            "type": "started",
            "model": started.model,
            "seed": str(started.seed),  # 64 bits, more than a number of JavaScript holds
            "prompt_tokens": self._prompt_length,
            "trace_id": started.trace_id,
        }

    def _delta(self, delta: Delta) -> dict[str, Any]:
        self._token_ids.extend(delta.token_ids)
        pieces = self._pieces.push(delta.token_ids, delta.sources, delta.text)
        return {
            "type": "delta",
            "pieces": [[piece.index, _CODE_OF[piece.source], piece.text] for piece in pieces],
            "num_tokens": len(self._token_ids) - self._prompt_length,
            "rounds": [self._round(report) for report in delta.rounds],
        }

    def _round(self, report: RoundReport) -> dict[str, Any]:
        """Return a round; its base counts output tokens."""
        root = self._token_ids[report.base_length - 1]
        before = [root if p == ROOT else report.token_ids[p] for p in report.parents]
        last = report.token_ids[report.accepted[-1]] if report.accepted else root
        bonus = report.bonus_token_id
        return {
            "base": report.base_length - self._prompt_length,
            "parents": report.parents,
            "texts": [
                self._reader.read(token, above)
                for token, above in zip(report.token_ids, before, strict=True)
            ],
            "scores": [round(score, 3) for score in report.scores],
            "sources": [_CODE_OF[source] for source in report.sources],
            "accepted": report.accepted,
            "bonus": None if bonus is None else self._reader.read(bonus, last),
            "hit": report.is_hit,
            "drafted": report.drafted_nodes,
            "late": report.late_nodes,
            "ms": {part: round(ms, 3) for part, ms in asdict(report.times).items()},
        }


def _statistics(statistics: SessionStatistics) -> dict[str, Any]:
    return {
        **asdict(statistics),
        "tokens_per_round": statistics.tokens_per_round,
        "tokens_per_second": statistics.tokens_per_second,
    }
