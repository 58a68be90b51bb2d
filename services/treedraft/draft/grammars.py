"""Grammars for the sessions of a drafter, made beside its thread.

To take in a vocabulary takes a good part of a second and to compile a grammar may take as long; a
drafter that did so itself would look frozen to all its targets. Until its grammar is there a
session is drafted for without: what is drafted against it is only not accepted.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from treedraft.core.errors import InvalidRequestError
from treedraft.core.exchange import SharedTokenizer
from treedraft.core.grammar import Grammar
from treedraft.text.grammar import GrammarFactory, GrammarState

Run = Callable[[Callable[[], None]], object]

_log = structlog.get_logger(__name__)


class DraftGrammars:
    """Makes grammars, one after the other, on a thread of its own."""

    def __init__(self, run: Run | None = None) -> None:
        """Hand work to `run`; without one to a thread that begins with the first of it."""
        self._run = run or ThreadPoolExecutor(1, thread_name_prefix="grammars").submit
        self._factories: dict[SharedTokenizer, GrammarFactory | None] = {}

    def want(
        self,
        tokenizer: SharedTokenizer,
        vocab_size: int,
        grammar: Grammar,
        output_token_ids: Sequence[int],
        on_ready: Callable[[GrammarState], None],
    ) -> None:
        """Begin to make the state of a text; `on_ready` gets it on the thread that made it.

        It is not called where the grammar cannot be followed.
        """

        def make() -> None:
            factory = self._factory_of(tokenizer, vocab_size)
            if factory is None:
                return
            try:
                state = factory.start(grammar, output_token_ids)
            except InvalidRequestError as error:
                _log.info("drafted for without its grammar", why=error.message)
            else:
                on_ready(state)

        self._run(make)

    def _factory_of(self, tokenizer: SharedTokenizer, vocab_size: int) -> GrammarFactory | None:
        if tokenizer not in self._factories:
            self._factories.clear()  # one is what a deployment has
            self._factories[tokenizer] = GrammarFactory.make(
                _without_merges(tokenizer.tokenizer_json), vocab_size, tokenizer.eos_token_ids
            )
        return self._factories[tokenizer]


def _without_merges(tokenizer_json: str) -> str:
    """Leave out how words are put together: a grammar asks only what each token stands for.

    The library holds the interpreter's lock while it takes a tokenizer in, half of the
    time for its merges.
    """
    try:
        parts = json.loads(tokenizer_json)
        if parts["model"]["type"] == "BPE":
            parts["model"]["merges"] = []
    except (ValueError, KeyError, TypeError, RecursionError):
        return tokenizer_json  # the library will say what is wrong with it
    return json.dumps(parts)
