"""What targets are told of a session: when it begins, and when it is resumed.

Either way the salt is that of the tenant who asks, so that pages and drafts of
a session stay with its tenant.
"""

from dataclasses import replace

from treedraft.coordinator.admission import limit_output
from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.placement import Placement
from treedraft.coordinator.request import GenerationRequest
from treedraft.coordinator.session_store.records import SessionRecord
from treedraft.core.generation import GenerateQuery
from treedraft.core.session import SessionSpec


def first_spec(
    request: GenerationRequest,
    query: GenerateQuery,
    placement: Placement,
    known: KnownModel,
    prompt: tuple[int, ...],
    *,
    session_id: str,
    seed: int,
    default_max_tokens: int,
) -> SessionSpec:
    """Return the spec of a session that begins."""
    return SessionSpec(
        session_id=session_id,
        epoch=1,
        token_ids=prompt,
        prompt_length=len(prompt),
        sampling=replace(query.sampling, seed=seed),
        stopping=limit_output(
            query.stopping, len(prompt), known.description, default_max_tokens=default_max_tokens
        ),
        speculation=query.speculation,
        choice=query.choice,
        num_logprobs=query.num_logprobs,
        tenant_salt=request.tenant.salt,
        drafters=placement.drafters,
        traceparent=request.span.traceparent if request.span.is_recorded else "",
        time_limit_seconds=request.time_left(),
        watch_rounds=query.watch_rounds,
    )


def resumed_spec(request: GenerationRequest, record: SessionRecord) -> SessionSpec:
    """Return the spec of a session as it began, under the epoch that it has now."""
    kept = record.request
    return SessionSpec(
        session_id=kept.session_id,
        epoch=record.epoch,
        token_ids=kept.prompt_token_ids,
        prompt_length=len(kept.prompt_token_ids),
        sampling=kept.sampling,
        stopping=kept.stopping,
        speculation=kept.speculation,
        tenant_salt=request.tenant.salt,
        choice=kept.choice,
        traceparent=request.span.traceparent if request.span.is_recorded else "",
        time_limit_seconds=request.time_left(),
    )
