"""What a text must look like: a JSON schema, a regular expression, or a grammar."""

from dataclasses import dataclass
from enum import Enum

from treedraft.core.errors import InvalidRequestError

MAX_GRAMMAR_CHARS = 65_536
INVALID_GRAMMAR = "INVALID_GRAMMAR"


class GrammarKind(Enum):
    """How a grammar is written."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar that the whole output is a word of.

    Raises InvalidRequestError for one that is empty or too long; whether it can
    be read is found out by `text.grammar`.
    """

    kind: GrammarKind
    source: str

    def __post_init__(self) -> None:
        """Check the length."""
        if not 1 <= len(self.source) <= MAX_GRAMMAR_CHARS:
            raise InvalidRequestError(
                f"a grammar has 1 to {MAX_GRAMMAR_CHARS} characters",
                field="grammar",
                reason=INVALID_GRAMMAR,
            )


ANY_JSON_OBJECT = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}')
