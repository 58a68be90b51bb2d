import asyncio
import io
import os
import signal

from rich.console import Console

from treedraft.cli.chat import converse
from treedraft.cli.chat_state import ChatState
from treedraft.core.errors import OverloadedError
from treedraft.core.generation import Delta, Finished, Started
from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason, SessionStatistics


class Reader:
    """What is typed; an exception in its place is raised."""

    def __init__(self, *lines):
        self.lines = list(lines)

    async def read(self):
        if not self.lines:
            return None
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line


class Client:
    """Answers each question with the next of some scripts: texts, an error, or a wait for ever."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.queries = []

    async def generate(self, query, *, timeout_seconds=None, traceparent=""):
        self.queries.append(query)
        yield Started("session", 1, (1,), "", "model")
        for number, part in enumerate(self.scripts.pop(0)):
            if isinstance(part, BaseException):
                raise part
            if part is WAIT:
                os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C while nothing comes
                await asyncio.Event().wait()
            yield Delta(number, (number,), (TokenSource.LOOKUP,), part)
        statistics = SessionStatistics(rounds=1, emitted_tokens=2)
        yield Finished(FinishReason.STOP, statistics, 1.0)


WAIT = object()


def consoles():
    return [Console(file=io.StringIO(), width=100, highlight=False) for _ in range(2)]


async def talk(client, *lines):
    console, notes = consoles()
    state = await converse(client, ChatState(), Reader(*lines), console, notes)
    return state, console.file.getvalue(), notes.file.getvalue()


async def test_what_was_said_is_part_of_the_next_question():
    client = Client(["Hel", "lo"], ["Bye"])
    state, shown, notes = await talk(client, "hi", "", "and now?")
    assert shown == "Hello\nBye\n"
    assert [m.content for m in client.queries[1].conversation] == ["hi", "Hello", "and now?"]
    assert state.conversation[-1].content == "Bye"
    assert "tok/s" in notes


async def test_ctrl_c_stops_the_answer_and_not_the_program():
    client = Client(["half an ", WAIT], ["fine"])
    before = signal.getsignal(signal.SIGINT)
    state, shown, notes = await asyncio.wait_for(talk(client, "tell", "go on"), 30)
    assert "stopped" in notes
    assert shown == "half an \nfine\n"
    # What came is part of the conversation.
    assert client.queries[1].conversation[1].content == "half an "
    assert state.conversation[-1].content == "fine"
    assert signal.getsignal(signal.SIGINT) is before


async def test_ctrl_c_at_the_prompt_drops_the_line_only():
    client = Client(["yes"])
    _, shown, notes = await talk(client, KeyboardInterrupt(), "there?")
    assert shown == "yes\n"
    assert "Ctrl-D" in notes


async def test_an_error_ends_the_answer_and_says_what_to_do(capsys):
    client = Client([OverloadedError("no room", reason="QUEUE_FULL")], ["now"])
    _, shown, _ = await talk(client, "hi", "/retry", "/quit", "never asked")
    assert "now" in shown
    told = capsys.readouterr().err
    assert "error: no room (QUEUE_FULL)" in told
    assert "hint: " in told
    assert len(client.queries) == 2


async def test_commands_are_done_between_answers():
    client = Client(["a"])
    _, _, notes = await talk(client, "/temperature 0", "/settings", "hi", "/nonsense")
    assert "temperature 0" in notes
    assert "there is no /nonsense" in notes
    assert client.queries[0].sampling.temperature == 0
    assert "seed" not in notes.splitlines()[-2]  # a greedy answer has none to speak of
