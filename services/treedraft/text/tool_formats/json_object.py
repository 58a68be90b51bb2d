"""Where a JSON object ends, in a text that comes in pieces."""

from enum import Enum

_CLOSING = {"}": "{", "]": "["}
_PLAIN = frozenset(" \t\r\n:,.+-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class ObjectStatus(Enum):
    """How far an object has come."""

    OPEN = "open"
    ENDED = "ended"
    BROKEN = "broken"


class ObjectScanner:
    """Follows brackets and strings. It finds the end; whether all is JSON is not its question."""

    def __init__(self) -> None:
        """Begin before the opening bracket."""
        self.status = ObjectStatus.OPEN
        self._brackets: list[str] = []
        self._is_string = False
        self._is_escaped = False

    def push(self, text: str) -> int:
        """Return how many characters belong to the object; `status` says what came of it."""
        for position, char in enumerate(text):
            self._take(char)
            if self.status is ObjectStatus.ENDED:
                return position + 1
            if self.status is ObjectStatus.BROKEN:
                return position
        return len(text)

    def _take(self, char: str) -> None:
        if self._is_string:
            self._take_in_string(char)
        elif not self._brackets and char != "{":
            self.status = ObjectStatus.BROKEN
        elif char == '"':
            self._is_string = True
        elif char in "{[":
            self._brackets.append(char)
        elif char in _CLOSING and self._brackets[-1] == _CLOSING[char]:
            self._brackets.pop()
            if not self._brackets:
                self.status = ObjectStatus.ENDED
        elif char not in _PLAIN:
            self.status = ObjectStatus.BROKEN

    def _take_in_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._is_string = False
