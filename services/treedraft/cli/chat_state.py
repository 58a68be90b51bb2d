"""A conversation and how it is to be answered, and the commands that change it.

Pure: a command takes a state and returns another one, what to say, and what to do
next. Nothing here reads, prints or asks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from treedraft.bench.answer import Answer
from treedraft.core.errors import TreedraftError
from treedraft.core.generation import ChatMessage, GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria

_SWITCH = {"on": True, "off": False}


@dataclass(frozen=True, slots=True)
class ChatState:
    """What was said, and the parameters of the next answer. `last` is the answer before."""

    conversation: tuple[ChatMessage, ...] = ()
    system: str = ""
    model: str = ""
    max_tokens: int = 512
    is_speculative: bool = True
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    last: Answer | None = None

    def query(self) -> GenerateQuery:
        """Return the request for the next answer."""
        system = (ChatMessage("system", self.system),) if self.system else ()
        return GenerateQuery(
            model=self.model,
            conversation=(*system, *self.conversation),
            sampling=self.sampling,
            stopping=StoppingCriteria(max_tokens=self.max_tokens),
            speculation=SpeculationOptions(enabled=self.is_speculative),
            watch_rounds=True,  # for the colours
        )

    def said(self, role: str, text: str) -> "ChatState":
        """Return the state with another message."""
        return replace(self, conversation=(*self.conversation, ChatMessage(role, text)))


class Next(Enum):
    """What follows a command."""

    READ = "read"
    ANSWER = "answer"
    SHOW_TRACE = "show trace"
    QUIT = "quit"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did: the state after it, words about it, and what to do now."""

    state: ChatState
    words: str = ""
    next: Next = Next.READ


@dataclass(frozen=True, slots=True)
class Command:
    """A command: how it is written, what it is for, what it does."""

    usage: str
    text: str
    run: Callable[[ChatState, str], Outcome]


class WrongUsageError(Exception):
    """A command that cannot be done; the message says how it goes."""


def run_command(state: ChatState, line: str) -> Outcome:
    """Do what a line that begins with a slash says; what cannot be done is said in words."""
    name, _, argument = line[1:].strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        return Outcome(state, f"there is no /{name}; /help lists what there is")
    try:
        return command.run(state, argument.strip())
    except WrongUsageError as error:
        return Outcome(state, f"{error}; usage: {command.usage}")
    except TreedraftError as error:
        return Outcome(state, f"{error.message}; usage: {command.usage}")


def _help(state: ChatState, _argument: str) -> Outcome:
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"{command.usage:<{width}}  {command.text}" for command in COMMANDS.values()]
    keys = (
        "Enter sends; Alt+Enter, or a backslash at the end of a line, begins a new line.\n"
        "Ctrl-C stops an answer; what came stays. Ctrl-D leaves."
    )
    return Outcome(state, "\n".join([*lines, "", keys]))


def _new(state: ChatState, _argument: str) -> Outcome:
    return Outcome(replace(state, conversation=(), last=None), "a new conversation")


def _undo(state: ChatState, _argument: str) -> Outcome:
    cut = _last_question(state)
    return Outcome(replace(state, conversation=state.conversation[:cut]), "forgotten")


def _retry(state: ChatState, _argument: str) -> Outcome:
    cut = _last_question(state)
    shortened = replace(state, conversation=state.conversation[: cut + 1])
    return Outcome(shortened, next=Next.ANSWER)


def _last_question(state: ChatState) -> int:
    for place in reversed(range(len(state.conversation))):
        if state.conversation[place].role == "user":
            return place
    raise WrongUsageError("nothing was asked yet")


def _system(state: ChatState, argument: str) -> Outcome:
    words = "the system message is set" if argument else "no system message"
    return Outcome(replace(state, system=argument), words)


def _model(state: ChatState, argument: str) -> Outcome:
    return Outcome(replace(state, model=argument), f"asking {argument or 'the only model'}")


def _temperature(state: ChatState, argument: str) -> Outcome:
    sampling = replace(state.sampling, temperature=_number(argument, float))
    words = "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature:g}"
    return Outcome(replace(state, sampling=sampling), words)


def _seed(state: ChatState, argument: str) -> Outcome:
    seed = None if argument in ("", "none") else int(_number(argument, int))
    words = "a new seed for each answer" if seed is None else f"seed {seed}"
    return Outcome(replace(state, sampling=replace(state.sampling, seed=seed)), words)


def _max_tokens(state: ChatState, argument: str) -> Outcome:
    number = int(_number(argument, int))
    StoppingCriteria(max_tokens=number)  # checks it
    return Outcome(replace(state, max_tokens=number), f"answers of at most {number} tokens")


def _speculation(state: ChatState, argument: str) -> Outcome:
    if argument not in _SWITCH:
        raise WrongUsageError("on or off")
    return Outcome(replace(state, is_speculative=_SWITCH[argument]), f"speculation is {argument}")


def _number(argument: str, kind: Callable[[str], float]) -> float:
    try:
        return kind(argument)
    except ValueError:
        raise WrongUsageError(f"{argument or 'nothing'} is no number") from None


def _settings(state: ChatState, _argument: str) -> Outcome:
    sampling = state.sampling
    lines = (
        f"temperature {sampling.temperature:g}, seed {sampling.seed or 'drawn for each answer'}, "
        f"at most {state.max_tokens} tokens",
        f"speculation {'on' if state.is_speculative else 'off'}, "
        f"model {state.model or 'the only one served'}",
        f"system message: {state.system or 'none'}",
        f"{len(state.conversation)} messages so far",
    )
    return Outcome(state, "\n".join(lines))


def _trace(state: ChatState, _argument: str) -> Outcome:
    if state.last is None or not state.last.started.trace_id:
        return Outcome(state, "the last answer was not traced")
    return Outcome(state, next=Next.SHOW_TRACE)


def _quit(state: ChatState, _argument: str) -> Outcome:
    return Outcome(state, next=Next.QUIT)


COMMANDS: Mapping[str, Command] = {
    "help": Command("/help", "this", _help),
    "new": Command("/new", "forget what was said", _new),
    "retry": Command("/retry", "answer the last question again", _retry),
    "undo": Command("/undo", "forget the last question and its answer", _undo),
    "system": Command("/system [TEXT]", "set or drop the system message", _system),
    "temperature": Command("/temperature NUMBER", "0 is greedy", _temperature),
    "seed": Command("/seed [NUMBER]", "same seed, same text; without one, drawn", _seed),
    "max-tokens": Command("/max-tokens NUMBER", "longest answer", _max_tokens),
    "speculation": Command("/speculation on|off", "the text stays the same", _speculation),
    "model": Command("/model [NAME]", "whom to ask, where several are served", _model),
    "settings": Command("/settings", "how answers are made now", _settings),
    "trace": Command("/trace", "where the time of the last answer went", _trace),
    "quit": Command("/quit", "leave", _quit),
}
