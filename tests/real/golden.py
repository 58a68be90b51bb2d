"""The golden texts, and a comparison that knows a tie from a mistake."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from treedraft.core.generation import Delta, Finished, GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.session import SessionStatistics
from treedraft.rpc.coordinator_client import CoordinatorClient

GOLDEN_FILE = Path(__file__).parents[1] / "golden" / "greedy.json"
TIE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class GoldenCase:
    """A prompt, what transformers' own `generate` says, and by how much each token won."""

    kind: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    margins: tuple[float, ...]


@dataclass
class Answer:
    """A text and what it took."""

    token_ids: list[int]
    statistics: SessionStatistics


def load_golden() -> tuple[int, list[GoldenCase]]:
    """Return the number of tokens asked for, and the cases."""
    document = json.loads(GOLDEN_FILE.read_text())
    cases = [
        GoldenCase(
            case["kind"],
            tuple(case["prompt_token_ids"]),
            tuple(case["token_ids"]),
            tuple(case["margins"]),
        )
        for case in document["cases"]
    ]
    return document["num_tokens"], cases


async def answer(
    client: CoordinatorClient,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    sampling: SamplingParameters,
    speculation: SpeculationOptions | None = None,
    ignore_eos: bool = False,
    on_tokens: Callable[[int], None] = lambda _: None,
) -> Answer:
    """Generate after a prompt of token ids; `on_tokens` is told how many there are."""
    query = GenerateQuery(
        token_ids=tuple(prompt),
        sampling=sampling,
        stopping=StoppingCriteria(max_tokens=max_tokens, ignore_eos=ignore_eos),
        speculation=speculation or SpeculationOptions(),
    )
    token_ids: list[int] = []
    statistics = SessionStatistics()
    async for event in client.generate(query):
        if isinstance(event, Delta):
            assert event.base_length == len(token_ids)
            token_ids.extend(event.token_ids)
            on_tokens(len(token_ids))
        elif isinstance(event, Finished):
            statistics = event.statistics
    return Answer(token_ids, statistics)


async def count_ties(
    client: CoordinatorClient,
    case: GoldenCase,
    *,
    max_tokens: int,
    speculation: SpeculationOptions,
) -> tuple[int, SessionStatistics]:
    """Compare one case with its golden text; return the ties that it took.

    Past a proven tie the comparison goes on from the golden text.

    Raises:
        AssertionError: a token differs where the golden margin is no tie.
    """
    greedy = SamplingParameters(temperature=0.0)
    done, num_ties, first = 0, 0, None
    while done < len(case.token_ids):
        prompt = case.prompt_token_ids + case.token_ids[:done]
        result = await answer(
            client,
            prompt,
            max_tokens=max_tokens - done,
            sampling=greedy,
            speculation=speculation,
        )
        first = first or result.statistics
        expected = case.token_ids[done:]
        same = next(
            (
                i
                for i, pair in enumerate(zip(expected, result.token_ids, strict=False))
                if pair[0] != pair[1]
            ),
            min(len(expected), len(result.token_ids)),
        )
        if same == len(expected) == len(result.token_ids):
            break
        margin = case.margins[min(done + same, len(case.margins) - 1)]
        assert margin < TIE_TOLERANCE, (
            f"{case.kind}: token {done + same} differs: {expected[same : same + 4]} expected, "
            f"{result.token_ids[same : same + 4]} came, margin {margin}"
        )
        num_ties += 1
        done += same + 1
    assert first is not None
    return num_ties, first


async def compare_all(
    endpoint: str, speculation: SpeculationOptions
) -> tuple[int, list[SessionStatistics]]:
    """Compare all cases at once, as one batch; return ties and statistics."""
    max_tokens, cases = load_golden()
    client = CoordinatorClient(endpoint)
    try:
        results = await asyncio.gather(
            *(
                count_ties(client, case, max_tokens=max_tokens, speculation=speculation)
                for case in cases
            )
        )
    finally:
        await client.close()
    return sum(ties for ties, _ in results), [statistics for _, statistics in results]
