"""Which tokens a grammar lets through, at any place of a token tree.

The work is llguidance's (https://github.com/guidance-ai/llguidance), which
follows a text through a grammar by its tokens. A `GrammarState` stands at the
end of the committed output; for a place of the tree it walks there, looks and
walks back, so every node is judged by its own path. What it answers depends on
the grammar and the output alone, which keeps the drawn text a function of
model, prompt, parameters and seed.

JSON is written with one space after commas and colons and with no other space
between its parts: small models would go on with spaces for ever.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import structlog
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from treedraft.core.errors import InvalidRequestError
from treedraft.core.grammar import INVALID_GRAMMAR, Grammar, GrammarKind

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions  # in the stubs alone

GRAMMAR_TOO_COMPLEX = "GRAMMAR_TOO_COMPLEX"
GRAMMAR_UNSUPPORTED = "GRAMMAR_UNSUPPORTED"

TokenMask = npt.NDArray[np.bool_]

JSON_STYLE: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
# Below llguidance's own limits: engine threads wait for these steps.
_MAX_GRAMMAR_SIZE = 50_000
_MAX_ERROR_CHARS = 300
_MAX_REMEMBERED_MASKS = 256
# Compiled grammars of a vocabulary that are at hand.
_MAX_COMPILED = 64

_log = structlog.get_logger(__name__)


def check_grammar(grammar: Grammar) -> None:
    """Raise InvalidRequestError, with what is wrong, for a grammar that cannot be followed."""
    problem = LLMatcher.validate_grammar(_source(grammar), None, limits=_limits())
    if problem:
        raise _invalid(problem)


def _source(grammar: Grammar) -> str:
    if grammar.kind is GrammarKind.REGEX:
        return LLMatcher.grammar_from_regex(grammar.source)
    if grammar.kind is GrammarKind.LARK:
        return LLMatcher.grammar_from_lark(grammar.source)
    schema_of(grammar)
    return LLMatcher.grammar_from_json_schema(grammar.source, overrides=JSON_STYLE)


def schema_of(grammar: Grammar) -> dict[str, Any]:
    """Return the schema that a grammar is; raises as `check_grammar` if it is none."""
    try:
        schema = json.loads(grammar.source)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"the schema is no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise _invalid("a schema is a JSON object")
    return schema


def _limits() -> LLParserLimits:
    return LLParserLimits(max_grammar_size=_MAX_GRAMMAR_SIZE)


def _invalid(problem: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the grammar cannot be followed: {problem[:_MAX_ERROR_CHARS].strip()}",
        field="grammar",
        reason=INVALID_GRAMMAR,
    )


class GrammarFactory:
    """Begins grammars over one vocabulary."""

    def __init__(self, tokenizer_json: str, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """Take in a tokenizer; takes about a second for 50,000 tokens.

        Args:
            tokenizer_json: as the tokenizers library writes it.
            vocab_size: token ids in use.
            eos_token_ids: tokens that end a text; a grammar ends with one of them.
        """
        self._eos_token_ids = tuple(sorted(eos_token_ids))
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._compiled_lock = threading.Lock()
        self._tokenizer = LLTokenizer(
            tokenizer_json, n_vocab=vocab_size, eos_token=list(self._eos_token_ids)
        )

    @classmethod
    def make(
        cls, tokenizer_json: str, vocab_size: int, eos_token_ids: Sequence[int]
    ) -> "GrammarFactory | None":
        """Return a factory, or None for a tokenizer that llguidance cannot follow."""
        try:
            return cls(tokenizer_json, vocab_size, eos_token_ids)
        except Exception as error:  # the library raises what it likes
            _log.warning("no grammars with this tokenizer", why=str(error)[:_MAX_ERROR_CHARS])
            return None

    def start(self, grammar: Grammar, output_token_ids: Sequence[int] = ()) -> "GrammarState":
        """Return the state of a text that begins, or that has come so far.

        Quick for a grammar that was prepared.

        Raises:
            InvalidRequestError: INVALID_GRAMMAR.
        """
        matcher = self._compile(grammar)
        if matcher.is_error():
            raise _invalid(matcher.get_error())
        state = GrammarState(matcher.deep_copy(), self._tokenizer.vocab_size, self._eos_token_ids)
        state.commit(output_token_ids)
        return state

    def prepare(self, grammar: Grammar) -> None:
        """Compile a grammar, so that it starts quickly; safe from any thread.

        May take a second, in which other threads run.

        Raises:
            InvalidRequestError: INVALID_GRAMMAR.
        """
        self._compile(grammar)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        """Return a matcher at the beginning, to be copied; one with an error for a bad grammar."""
        with self._compiled_lock:
            known = self._compiled.get(grammar)
            if known is not None:
                self._compiled.move_to_end(grammar)
                return known
        # Twice at once does no harm.
        matcher = LLMatcher(self._tokenizer, _source(grammar), log_level=0, limits=_limits())
        with self._compiled_lock:
            self._compiled[grammar] = matcher
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        return matcher


class GrammarState:
    """A grammar at the end of a committed text."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """Begin with no text; use `GrammarFactory.start`."""
        self._fresh = matcher.deep_copy()
        self._matcher = matcher
        self._token_ids: list[int] = []
        self._vocab_size = vocab_size
        self._eos_token_ids = frozenset(eos_token_ids)
        self._masks: dict[tuple[int, ...], TokenMask | None] = {}
        self._cut: set[tuple[int, ...]] = set()
        self._is_over = False
        self.problem = ""

    def commit(self, token_ids: Sequence[int]) -> None:
        """Take over tokens that became final; `problem` says if they are no such text."""
        self._masks.clear()
        self._cut.clear()
        for token_id in token_ids:
            if self._is_over or self.problem:
                return
            if token_id in self._eos_token_ids:
                self._is_over = True  # nothing follows, so nothing has to be consumed
            elif self._matcher.consume_token(token_id):
                self._token_ids.append(token_id)
            else:
                self.problem = self._matcher.get_error() or "the text left the grammar"

    def allowed_after(self, path: Sequence[int]) -> TokenMask | None:
        """Return which tokens may follow a path below the committed text, bool [vocab].

        None if the path itself is no text of the grammar, nothing may follow it, or it is
        cut.
        """
        key = tuple(path)
        if key not in self._masks:
            if len(self._masks) >= _MAX_REMEMBERED_MASKS:
                self._masks.clear()
            self._masks[key] = self._look(key)
        return self._masks[key]

    def is_cut(self, path: Sequence[int]) -> bool:
        """Return whether a path was found to be too much for the matcher.

        It may be a text of the grammar all the same: what follows it is known once the text
        itself has come there, and not before.
        """
        return tuple(path) in self._cut

    def allows(self, path: Sequence[int], token_id: int) -> bool:
        """Return whether a token may follow a path."""
        mask = self.allowed_after(path)
        return mask is not None and 0 <= token_id < len(mask) and bool(mask[token_id])

    def _look(self, path: tuple[int, ...]) -> TokenMask | None:
        if self._is_over or not self._eos_token_ids.isdisjoint(path):
            return None
        if self.problem:
            return self._end_only()
        # On a copy: a matcher that was rolled back may let through what another path allowed.
        matcher = self._matcher.deep_copy() if path else self._matcher
        num_consumed = matcher.try_consume_tokens(list(path))
        mask = self._mask(matcher) if num_consumed == len(path) else None
        if matcher.is_error():
            return self._give_up(path)
        return mask

    def _mask(self, matcher: LLMatcher) -> TokenMask:
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").astype(np.bool_)
        return mask if mask.any() else self._end_only()

    def _give_up(self, path: tuple[int, ...]) -> TokenMask | None:
        """Cut a path that is too much for the matcher, and set that one up anew.

        What a draft ran into is no problem of the text: it is one only once the
        text itself has come there.
        """
        problem = self._matcher.get_error()
        self._matcher = self._fresh.deep_copy()
        num_consumed = self._matcher.try_consume_tokens(self._token_ids)
        if path and num_consumed == len(self._token_ids):
            self._cut.add(path)
            return None
        self.problem = problem
        return self._end_only()

    def _end_only(self) -> TokenMask:
        mask = np.zeros(self._vocab_size, dtype=np.bool_)
        mask[sorted(self._eos_token_ids)] = True
        return mask
