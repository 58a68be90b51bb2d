"""Follows the choices of an answer from event to event, and writes it down as one object."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from treedraft.coordinator.http.event_ids import EventIds
from treedraft.coordinator.http.shapes import AnswerShape, Choice, finish_word
from treedraft.coordinator.http.usage import speculation_metrics, usage_object
from treedraft.core.generation import Delta, Finished, GenerateEvent, Started
from treedraft.core.growth import TokenSource
from treedraft.core.logprobs import TokenLogprobs
from treedraft.core.tools import ToolCallPiece
from treedraft.text.token_bytes import TokenBytes

IndexedEvent = tuple[int, GenerateEvent]


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What a client wants of an answer besides its text.

    `choices_per_prompt` tells choices of one prompt from choices of another:
    a prompt is counted once. `has_closing_text` says that the client of a resumed
    stream has the text that was kept back until the end.
    """

    num_choices: int = 1
    choices_per_prompt: int = 1
    has_token_ids: bool = False
    has_logprobs: bool = False
    has_usage: bool = False
    has_continuous_usage: bool = False
    is_resumable: bool = False
    is_resumed: bool = False
    has_closing_text: bool = False


@dataclass(frozen=True, slots=True)
class PromptWords:
    """What an answer needs of the model's words.

    `prompt_texts` go before the text of each choice, none for nothing;
    `token_bytes` is there if log-probabilities are told.
    """

    prompt_texts: tuple[str, ...] = ()
    token_bytes: TokenBytes | None = None


@dataclass(slots=True)
class ChoiceState:
    """One choice as far as it has come."""

    index: int
    started: Started | None = None
    finished: Finished | None = None
    num_tokens: int = 0
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    sources: list[TokenSource] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    calls: list[ToolCallPiece] = field(default_factory=list)
    num_told_chars: int = 0
    event_ids: EventIds = field(default_factory=EventIds)

    @property
    def finish_word(self) -> str:
        """Why it ended; only once it has."""
        assert self.finished is not None
        return finish_word(self.finished.reason, has_calls=self.finished.has_tool_calls)


class AnswerState:
    """All choices of an answer. `take` tells it each event, in order."""

    def __init__(
        self,
        shape: AnswerShape,
        options: AnswerOptions,
        created: int,
        prompts: PromptWords | None = None,
    ) -> None:
        """Begin before the first event.

        Args:
            shape: how it will be written down.
            options: what is wanted.
            created: time of the request, in seconds of the epoch.
            prompts: what it needs of the model's words, if anything.
        """
        self.words = prompts or PromptWords()
        self.shape = shape
        self.options = options
        self.choices = [ChoiceState(index) for index in range(options.num_choices)]
        self._created = created
        self._name = ""
        self._model = ""

    def take(self, index: int, event: GenerateEvent) -> ChoiceState:
        """Note an event and return the choice that it belongs to."""
        choice = self.choices[index]
        if isinstance(event, Started):
            choice.started = event
            if not self._name:
                self._name, self._model = self.shape.id_prefix + event.session_id, event.model
        elif isinstance(event, Delta):
            choice.num_tokens = event.base_length + len(event.token_ids)
            choice.calls.extend(event.tool_calls)
        else:
            choice.finished = event
        return choice

    def envelope(self, object_name: str) -> dict[str, Any]:
        """Return what is around the choices."""
        return {
            "id": self._name,
            "object": object_name,
            "created": self._created,
            "model": self._model,
        }

    def usage(self) -> dict[str, Any]:
        """Return the count of tokens so far."""
        step = self.options.choices_per_prompt
        prompts = [choice.started for choice in self.choices[::step] if choice.started]
        finished = [choice.finished.statistics for choice in self.choices if choice.finished]
        return usage_object(
            num_prompt_tokens=sum(len(started.prompt_token_ids) for started in prompts),
            num_cached_tokens=sum(item.cached_prompt_tokens for item in finished),
            num_output_tokens=sum(choice.num_tokens for choice in self.choices),
        )

    def metrics(self) -> dict[str, Any]:
        """Return what speculation did, all choices together."""
        return speculation_metrics(
            [choice.finished.statistics for choice in self.choices if choice.finished]
        )

    def extras(
        self,
        choice: ChoiceState,
        token_ids: Sequence[int],
        sources: Sequence[TokenSource],
        logprobs: Sequence[TokenLogprobs],
    ) -> Choice:
        """Return what goes with the text of some tokens of a choice."""
        extras: Choice = {}
        if self.options.has_token_ids:
            extras["token_ids"] = list(token_ids)
            extras["token_sources"] = [source.name.lower() for source in sources]
        if self.options.has_logprobs and self.words.token_bytes is not None:
            tokens = list(zip(token_ids, logprobs, strict=True))
            told = self.shape.logprobs(tokens, self.words.token_bytes, choice.num_told_chars)
            choice.num_told_chars += sum(map(len, told.get("tokens", ())))
            extras["logprobs"] = told
        return extras


async def whole_answer(
    events: AsyncGenerator[IndexedEvent, None], state: AnswerState
) -> dict[str, Any]:
    """Return the complete answer as one object.

    Args:
        events: of all choices.
        state: fresh.
    """
    async with aclosing(events):
        async for index, event in events:
            choice = state.take(index, event)
            if isinstance(event, Delta):
                choice.texts.append(event.text)
                choice.token_ids.extend(event.token_ids)
                choice.sources.extend(event.sources)
                choice.logprobs.extend(event.logprobs)
    answer = state.envelope(state.shape.object_name)
    answer["choices"] = [_whole_choice(state, choice) for choice in state.choices]
    return answer | {"usage": state.usage(), "metrics": state.metrics()}


def _whole_choice(state: AnswerState, choice: ChoiceState) -> Choice:
    assert choice.started is not None
    text = "".join(choice.texts)
    if state.words.prompt_texts:
        text = state.words.prompt_texts[choice.index] + text
    extras = state.extras(choice, choice.token_ids, choice.sources, choice.logprobs)
    if state.options.has_token_ids:
        extras["prompt_token_ids"] = list(choice.started.prompt_token_ids)
    return state.shape.whole(choice.index, text, choice.calls, choice.finish_word, extras)
