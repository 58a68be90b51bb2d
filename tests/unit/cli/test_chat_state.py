import pytest

from treedraft.cli.chat_state import COMMANDS, ChatState, Next, run_command
from treedraft.core.generation import ChatMessage

TALKED = ChatState().said("user", "one").said("assistant", "two").said("user", "three")


def test_a_question_asks_with_all_that_was_said_and_the_system_message_first():
    query = run_command(TALKED, "/system be brief").state.query()
    assert query.conversation == (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "one"),
        ChatMessage("assistant", "two"),
        ChatMessage("user", "three"),
    )


def test_help_tells_of_every_command():
    words = run_command(ChatState(), "/help").words
    for command in COMMANDS.values():
        assert command.usage in words
    assert "Ctrl-C" in words


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ("/temperature 0", lambda query: query.sampling.temperature == 0),
        ("/seed 7", lambda query: query.sampling.seed == 7),
        ("/max-tokens 9", lambda query: query.stopping.max_tokens == 9),
        ("/speculation off", lambda query: not query.speculation.enabled),
        ("/model big", lambda query: query.model == "big"),
        ("/new", lambda query: query.conversation == ()),
        ("/undo", lambda query: len(query.conversation) == 2),
    ],
)
def test_a_command_changes_the_next_request(line, check):
    outcome = run_command(TALKED, line)
    assert outcome.next is Next.READ
    assert check(outcome.state.query())


@pytest.mark.parametrize(
    "line",
    [
        "/temperature hot",
        "/temperature -1",
        "/seed x",
        "/seed -3",
        "/max-tokens 0",
        "/max-tokens",
        "/speculation maybe",
        "/undone",
        "/",
    ],
)
def test_what_cannot_be_done_changes_nothing_and_says_how_it_goes(line):
    outcome = run_command(TALKED, line)
    assert outcome.state == TALKED
    assert "usage: /" in outcome.words or "/help" in outcome.words


def test_a_seed_can_be_taken_back():
    state = run_command(run_command(TALKED, "/seed 7").state, "/seed none").state
    assert state.sampling.seed is None


def test_retry_drops_the_answer_and_asks_again():
    outcome = run_command(TALKED.said("assistant", "four"), "/retry")
    assert outcome.next is Next.ANSWER
    assert outcome.state.conversation == TALKED.conversation
    assert "nothing was asked" in run_command(ChatState(), "/retry").words


def test_the_trace_of_no_answer_is_said_to_be_none():
    assert "not traced" in run_command(ChatState(), "/trace").words
    assert run_command(ChatState(), "/quit").next is Next.QUIT
