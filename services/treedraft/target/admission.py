"""Checks what coordinators ask for and makes sessions of it.

Coordinators check requests too, against the same description of the model; a
target trusts none of them.
"""

import time
from collections.abc import Callable
from contextlib import suppress

from treedraft.core.errors import InvalidRequestError, PromptTooLongError
from treedraft.core.model_description import ModelDescription
from treedraft.core.sampling import check_grammar_ends
from treedraft.core.session import SessionSpec
from treedraft.target.session import TargetSession
from treedraft.target.stopping import StopChecker
from treedraft.telemetry import names
from treedraft.telemetry.tracing import Tracing
from treedraft.text.grammar import GRAMMAR_UNSUPPORTED, GrammarFactory, GrammarState
from treedraft.text.tokenizer import Tokenizer


class SessionFactory:
    """Makes sessions of one model."""

    def __init__(
        self,
        description: ModelDescription,
        *,
        max_session_tokens: int,
        max_live_nodes: int,
        tracing: Tracing,
        grammars: GrammarFactory | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Serve the described model; no session holds more than `max_session_tokens`.

        Without `grammars` sessions that want one are refused.
        """
        self._grammars = grammars
        self._description = description
        self._tokenizer = Tokenizer.from_json(description.tokenizer_json)
        self._max_session_tokens = max_session_tokens
        self._max_live_nodes = max_live_nodes
        self._tracing = tracing
        self._now_ns = now_ns

    def prepare(self, spec: SessionSpec) -> None:
        """Do what takes long before `make`, which then does not; safe from any thread.

        What is wrong with a spec is for `make` to say.
        """
        wanted = spec.sampling.grammar
        if wanted is not None and self._grammars is not None:
            with suppress(InvalidRequestError):
                self._grammars.prepare(wanted)

    def make(self, spec: SessionSpec) -> TargetSession:
        """Return a session for a spec.

        Raises:
            InvalidRequestError: the spec cannot be run on this model.
        """
        self._check(spec)
        grammar = self._start_grammar(spec)
        stop_checker = StopChecker(
            spec.stopping,
            eos_token_ids=self._description.eos_token_ids,
            max_output_tokens=self._max_session_tokens - spec.prompt_length,
            tokenizer=self._tokenizer,
        )
        span = self._tracing.start(
            names.SPAN_SESSION,
            spec.traceparent,
            {names.ATTR_SESSION_ID: spec.session_id, names.ATTR_INPUT_TOKENS: spec.prompt_length},
        )
        return TargetSession(
            spec,
            stop_checker=stop_checker,
            fingerprint=self._description.fingerprint,
            span=span,
            now_ns=self._now_ns(),
            max_live_nodes=self._max_live_nodes,
            vocab_size=self._description.vocab_size,
            grammar=grammar,
        )

    def _start_grammar(self, spec: SessionSpec) -> GrammarState | None:
        wanted = spec.sampling.grammar
        if wanted is None:
            return None
        if self._grammars is None:
            raise InvalidRequestError(
                f"the tokenizer of {self._description.model} can follow no grammar",
                field="grammar",
                reason=GRAMMAR_UNSUPPORTED,
            )
        check_grammar_ends(spec.sampling, spec.stopping)
        return self._grammars.start(wanted, spec.token_ids[spec.prompt_length :])

    def _check(self, spec: SessionSpec) -> None:
        description = self._description
        if not 1 <= spec.prompt_length <= len(spec.token_ids):
            raise InvalidRequestError("the prompt is empty", field="input", reason="EMPTY_PROMPT")
        if spec.prompt_length > description.max_prompt_tokens:
            raise PromptTooLongError(
                f"a prompt of {spec.prompt_length} tokens exceeds the limit of "
                f"{description.max_prompt_tokens}",
                field="input",
            )
        if len(spec.token_ids) >= self._max_session_tokens:
            raise PromptTooLongError("no room for another token", field="input")
        if max(spec.token_ids) >= description.vocab_size or min(spec.token_ids) < 0:
            raise InvalidRequestError(
                f"token ids must be below {description.vocab_size}",
                field="input",
                reason="TOKEN_OUT_OF_RANGE",
            )
        if spec.sampling.seed is None:
            raise InvalidRequestError("a session needs a seed", field="seed")
        biased = [token_id for token_id, _ in spec.sampling.logit_bias]
        if any(token_id >= description.vocab_size for token_id in biased):
            raise InvalidRequestError(
                "logit_bias names a token outside the vocabulary",
                field="logit_bias",
                reason="TOKEN_OUT_OF_RANGE",
            )
