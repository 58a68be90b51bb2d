import io

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from treedraft.cli.chat_input import LineReader, PromptReader


async def typed(keys, history_file=None):
    with create_pipe_input() as source:
        source.send_text(keys)
        reader = PromptReader(history_file, source=source, output=DummyOutput())
        return await reader.read()


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),  # Alt+Enter
        ("one\\\rtwo\r", "one\ntwo"),  # a backslash at the end of the line
        ("\x1b[200~pasted\nlines\x1b[201~\r", "pasted\nlines"),
        ("\x04", None),  # Ctrl-D
    ],
)
async def test_keys_at_the_prompt(keys, text):
    assert await typed(keys) == text


async def test_ctrl_c_gives_the_line_up():
    with pytest.raises(KeyboardInterrupt):
        await typed("half a li\x03")


async def test_history_is_kept_for_its_owner_alone(tmp_path):
    file = tmp_path / "cache" / "chat_history"
    await typed("first\r", file)
    assert file.stat().st_mode & 0o077 == 0
    assert await typed("\x1b[A\r", file) == "first"  # arrow up


async def test_a_history_that_cannot_be_kept_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert await typed("hello\r", tmp_path / "file" / "history") == "hello"


async def test_lines_of_a_pipe():
    reader = LineReader(io.StringIO("one\\\ntwo\n\nlast"))
    assert [await reader.read() for _ in range(4)] == ["one\ntwo", "", "last", None]
