"""Tells a text from the calls that are written into it, as it comes.

All formats are one machine with different words. Outside of calls a reader
looks for what opens one (`_look`). Then comes the head, which names the tool,
and the arguments, which are passed on as they are written. What turns out not
to be a call is content, every character of it; once a call has been told, what
follows it is its arguments, whether or not they are JSON in the end. How the
text was cut into pieces makes no difference.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from treedraft.core.tools import ToolCallPiece
from treedraft.text.tool_formats.heads import JSON_HEAD, OBJECT_HEAD, Part, read_head
from treedraft.text.tool_formats.json_object import ObjectScanner, ObjectStatus


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a call is opened: content ends at `start`, the head begins at `end`."""

    start: int
    end: int


class CallReader:
    """Reads one text. A format says with its words what a call looks like."""

    # What may stand after the arguments, in this order; each of them may be missing.
    tail: ClassVar[tuple[str, ...]] = ("}",)
    # What stands before another call, and after the last one.
    separator: ClassVar[str] = ""
    terminator: ClassVar[str] = ""

    def __init__(self, names: Collection[str], new_id: Callable[[int], str]) -> None:
        """Begin a text whose calls may be of these tools; `new_id` names a call by its number."""
        self._names = names
        self._new_id = new_id
        self._buffer = ""
        self._opened = ""  # what was taken for the opening of a call
        self._is_final = False
        self.num_calls = 0
        # What was marked as a call and is none, and calls whose arguments are no whole JSON.
        self.num_malformed = 0
        self._state: Callable[[], bool] = self._read_content
        self._scanner, self._num_scanned = ObjectScanner(), 0
        self._tail: list[str] = []
        self._content: list[str] = []
        self._pieces: list[ToolCallPiece] = []

    @property
    def has_calls(self) -> bool:
        """Whether a call has been told."""
        return self.num_calls > 0

    def push(self, text: str) -> tuple[str, tuple[ToolCallPiece, ...]]:
        """Take the next piece of text; return content and pieces of calls that are certain."""
        self._buffer += text
        while self._state():
            pass
        told = "".join(self._content), tuple(self._pieces)
        self._content, self._pieces = [], []
        return told

    def finish(self) -> tuple[str, tuple[ToolCallPiece, ...]]:
        """Return what was kept back, now that no text follows."""
        self._is_final = True
        told = self.push("")
        self.num_malformed += self._state == self._read_arguments  # which were cut off
        return told

    def _look(self) -> Opening | int:
        """Return where a call is opened, or how much of the buffer is surely content."""
        raise NotImplementedError

    def _parts(self) -> Sequence[Part]:
        """Return what a head consists of."""
        return JSON_HEAD

    def _read_content(self) -> bool:
        if not self._buffer:
            return False
        found = self._look()
        if isinstance(found, Opening):
            self._tell(self._buffer[: found.start].rstrip())
            self._opened = self._buffer[len(self._buffer[: found.start].rstrip()) : found.end]
            self._buffer = self._buffer[found.end :]
            self._state = self._read_head
            return True
        if self._is_final:
            is_space = self.has_calls and not self._buffer.strip()
            self._tell("" if is_space else self._buffer)
            self._buffer = ""
            return False
        safe = len(self._buffer[:found].rstrip())  # spaces before a call go with it
        self._tell(self._buffer[:safe])
        self._buffer = self._buffer[safe:]
        return False

    def _read_head(self) -> bool:
        head = read_head(self._buffer, self._parts())
        if head is None and not self._is_final:
            return False
        self._scanner, self._num_scanned = ObjectScanner(), 0
        if head and head.name in self._names:
            self._begin_call(head.name)
            self._buffer = self._buffer[head.end :]
            self._state = self._read_arguments
        else:
            self._state = self._read_whole
        return True

    def _read_whole(self) -> bool:
        """Read an object whose parts are in another order, all of it before any is told."""
        if not self._num_scanned:
            self._num_scanned = len(self._buffer) - len(self._buffer.lstrip())
        self._num_scanned += self._scanner.push(self._buffer[self._num_scanned :])
        status, end = self._scanner.status, self._num_scanned
        is_possible = read_head(self._buffer, OBJECT_HEAD) is not False
        if is_possible and status is ObjectStatus.OPEN and not self._is_final:
            return False
        has_ended = is_possible and status is ObjectStatus.ENDED
        call = _call_of(self._buffer[:end]) if has_ended else None
        if call and call[0] in self._names:
            self._begin_call(call[0])
            self._add_arguments(call[1])
            self._buffer = self._buffer[end:]
            self._end_arguments()
            self._tail = list(self.tail[1:])  # the object's own brace has been read
        else:
            self._tell(self._opened)
            self.num_malformed += bool(self._opened.strip())
            self._state = self._read_content
            self._refused()
        return True

    def _refused(self) -> None:
        """Note that what was opened is content: it is not to be opened again."""

    def _read_arguments(self) -> bool:
        end = self._scanner.push(self._buffer)
        self._add_arguments(self._buffer[:end])
        self._buffer = self._buffer[end:]
        if self._scanner.status is ObjectStatus.ENDED:
            self._end_arguments()
        elif self._scanner.status is ObjectStatus.BROKEN:
            self.num_malformed += 1
            self._state = self._read_broken_arguments
        return self._scanner.status is not ObjectStatus.OPEN

    def _read_broken_arguments(self) -> bool:
        """Pass on what is no JSON up to the end of the call, or of the text."""
        closing = self.tail[-1] if len(self.tail) > 1 else ""
        at = self._buffer.find(closing) if closing else -1
        if at >= 0:
            self._add_arguments(self._buffer[:at])
            self._buffer = self._buffer[at:]
            self._end_arguments()
            return True
        safe = len(self._buffer)
        if closing and not self._is_final:
            safe -= open_length(self._buffer, closing)
        self._add_arguments(self._buffer[:safe])
        self._buffer = self._buffer[safe:]
        return False

    def _end_arguments(self) -> None:
        self._tail = list(self.tail)
        self._state = self._read_tail

    def _read_tail(self) -> bool:
        while self._tail:
            if not self._consume(self._tail[0]):
                return False
            self._tail.pop(0)
        if self.separator:
            rest = self._buffer.lstrip()
            if not rest and not self._is_final:
                return False
            if rest.startswith(self.separator):
                self._opened = self._buffer[: len(self._buffer) - len(rest) + len(self.separator)]
                self._buffer = rest[len(self.separator) :]
                self._state = self._read_head
                return True
        if self.terminator and not self._consume(self.terminator):
            return False
        self._state = self._read_content
        return True

    def _consume(self, word: str) -> bool:
        """Drop a word if the buffer begins with it; return False if that is not certain yet."""
        rest = self._buffer.lstrip()
        if rest.startswith(word):
            self._buffer = rest[len(word) :]
        elif word.startswith(rest) and not self._is_final:
            return False
        return True

    def _tell(self, content: str) -> None:
        if content:
            self._content.append(content)

    def _begin_call(self, name: str) -> None:
        index = self.num_calls
        self.num_calls += 1
        self._pieces.append(ToolCallPiece(index, "", self._new_id(index), name))

    def _add_arguments(self, text: str) -> None:
        if not text:
            return
        index, last = self.num_calls - 1, self._pieces[-1] if self._pieces else None
        if last is not None and last.index == index:
            self._pieces[-1] = ToolCallPiece(index, last.arguments + text, last.call_id, last.name)
        else:
            self._pieces.append(ToolCallPiece(index, text))


def open_length(text: str, word: str) -> int:
    """Return how long the end of a text is that may still become a word."""
    for length in range(min(len(word) - 1, len(text)), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0


def _call_of(text: str) -> tuple[str, str] | None:
    """Return name and arguments of a call that is written as an object, however it is ordered."""
    try:
        written = json.loads(text)
        inner = written.get("function", written)
        inner = inner if isinstance(inner, dict) else written
        arguments = inner.get("arguments", inner.get("parameters"))
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    name = inner.get("name", written.get("function"))
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)
