"""Finds stop strings in a text that comes in pieces.

The reader must see neither a stop string nor the beginning of one that the
next piece completes, so the scanner keeps back the shortest end of the text
that may still grow into a stop string. How the text was cut into pieces makes
no difference: it ends at the first character that completes a stop string,
and where that one completes several, it is cut before the longest.
"""

from collections.abc import Sequence


class StopStringScanner:
    """Lets text through up to the first stop string."""

    def __init__(self, stop_strings: Sequence[str]) -> None:
        """Watch for these strings; empty ones never match."""
        self._stop_strings = [text for text in stop_strings if text]
        self._kept_back = ""
        self._completed = False

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next piece of text.

        Returns:
            The text that is safe to show, and whether a stop string is
            complete. After that everything is swallowed.
        """
        if self._completed:
            return "", True
        known = self._kept_back + text
        start = self._find_stop(known)
        if start is not None:
            self._completed = True
            self._kept_back = ""
            return known[:start], True
        safe = len(known) - self._open_length(known)
        self._kept_back = known[safe:]
        return known[:safe], False

    def finish(self) -> str:
        """Return the text that was kept back, now that no more comes."""
        rest, self._kept_back = self._kept_back, ""
        return rest

    def _find_stop(self, text: str) -> int | None:
        """Return where the stop string that is complete first begins."""
        found = []
        for stop in self._stop_strings:
            start = text.find(stop)
            if start >= 0:
                found.append((start + len(stop), start))
        return min(found)[1] if found else None

    def _open_length(self, text: str) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = max(map(len, self._stop_strings), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stop_strings):
                return length
        return 0
