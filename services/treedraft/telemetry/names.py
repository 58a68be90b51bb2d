"""Names of all spans, span events, attributes and metrics, in one place.

Dashboards, the trace renderer and users' queries depend on them, so a name is
written here and nowhere else; a test holds the code to it. There are no
semantic conventions for speculation, hence `specdec.*`; where OpenTelemetry's
`gen_ai.*` has a name, that one is used. Metrics follow Prometheus: base units
(seconds), counters end in `_total`; `telemetry.catalogue` says what each of them
means. Names that dashboards for vLLM know are kept as aliases.

Who emits which span:

    coordinator  generate                    one request, the root of its trace
                   admit                     validation, limits, waiting
                   place                     choice of target and drafters
                   failover                  a session moves to another target
    target         session                   a session while it is at a target
                     prefill                 one chunk of the prompt
                     round                   one pass of decoding
                       queue forward walk commit
    draft            draft session           a session while it is at a drafter
                       grow                  one step of growth
    autoscaler       decide                  one decision on a pair of pools
"""

from typing import Final

# Spans.
SPAN_GENERATE: Final = "generate"
SPAN_ADMIT: Final = "admit"
SPAN_PLACE: Final = "place"
SPAN_FAILOVER: Final = "failover"
SPAN_SESSION: Final = "session"
SPAN_PREFILL: Final = "prefill"
SPAN_ROUND: Final = "round"
SPAN_QUEUE: Final = "queue"
SPAN_FORWARD: Final = "forward"
SPAN_WALK: Final = "walk"
SPAN_COMMIT: Final = "commit"
SPAN_DRAFT_SESSION: Final = "draft session"
SPAN_GROW: Final = "grow"
SPAN_DECIDE: Final = "decide"

# Events on spans.
EVENT_FIRST_TOKEN: Final = "specdec.first_token"
EVENT_PREEMPTED: Final = "specdec.preempted"
EVENT_DRAFTER_LOST: Final = "specdec.drafter_lost"
EVENT_REOPENED: Final = "specdec.reopened"

# Attributes of requests and sessions.
ATTR_OPERATION: Final = "gen_ai.operation.name"
ATTR_PROVIDER: Final = "gen_ai.provider.name"
ATTR_REQUEST_MODEL: Final = "gen_ai.request.model"
ATTR_TEMPERATURE: Final = "gen_ai.request.temperature"
ATTR_TOP_K: Final = "gen_ai.request.top_k"
ATTR_TOP_P: Final = "gen_ai.request.top_p"
ATTR_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
ATTR_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
ATTR_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
# As text: a seed has 64 bits, an attribute's integer 63 and a sign.
ATTR_SEED: Final = "gen_ai.request.seed"
ATTR_RESPONSE_ID: Final = "gen_ai.response.id"
ATTR_RESPONSE_MODEL: Final = "gen_ai.response.model"
ATTR_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
ATTR_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
ATTR_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
ATTR_ERROR_TYPE: Final = "error.type"
ATTR_SESSION_ID: Final = "specdec.session_id"
ATTR_WORKER_ID: Final = "specdec.worker_id"
ATTR_VERIFICATION: Final = "specdec.verification"
ATTR_CACHED_TOKENS: Final = "specdec.cached_prompt_tokens"
ATTR_WAIT_MS: Final = "specdec.wait_ms"
ATTR_NUM_ROUNDS: Final = "specdec.num_rounds"
ATTR_TOKENS_PER_ROUND: Final = "specdec.tokens_per_round"
ATTR_HITS: Final = "specdec.hits"
ATTR_MISSES: Final = "specdec.misses"
ATTR_PREEMPTIONS: Final = "specdec.preemptions"
# Of a slow request, whose middle spans are not all kept.
ATTR_DROPPED_SPANS: Final = "specdec.trace.dropped_spans"

# Attributes of `place`.
ATTR_PLACE_TARGET: Final = "specdec.place.target"
ATTR_PLACE_DRAFTERS: Final = "specdec.place.drafters"
ATTR_PLACE_REASON: Final = "specdec.place.reason"

# Attributes of `failover`, which also has those of `place`.
ATTR_FAILOVER_CAUSE: Final = "specdec.failover.cause"
ATTR_FAILOVER_FROM: Final = "specdec.failover.from"
ATTR_FAILOVER_EPOCH: Final = "specdec.failover.epoch"
ATTR_FAILOVER_TOKENS: Final = "specdec.failover.tokens"

# Attributes of `prefill`, `round` and `grow`.
ATTR_BASE_LENGTH: Final = "specdec.base_length"
ATTR_PREFILL_TOKENS: Final = "specdec.prefill.tokens"
ATTR_ROUND_NUMBER: Final = "specdec.round.number"
ATTR_ROUND_DRAFTED: Final = "specdec.round.drafted_nodes"
ATTR_ROUND_ADMITTED: Final = "specdec.round.admitted_nodes"
ATTR_ROUND_ACCEPTED: Final = "specdec.round.accepted_nodes"
ATTR_ROUND_EMITTED: Final = "specdec.round.emitted_tokens"
ATTR_ROUND_IS_HIT: Final = "specdec.round.is_hit"
ATTR_ROUND_BATCH: Final = "specdec.round.batch_sessions"
# Draft and wire run beside the round, so they are numbers and not children.
ATTR_ROUND_DRAFT_MS: Final = "specdec.round.draft_ms"
ATTR_ROUND_WIRE_MS: Final = "specdec.round.wire_ms"
ATTR_GROW_NODES: Final = "specdec.grow.nodes"
ATTR_GROW_ROWS: Final = "specdec.grow.rows"

# Attributes of `decide`, with `target` or `draft` in place of the role.
ATTR_SCALE_TARGET_NOW: Final = "specdec.scale.target.now"
ATTR_SCALE_TARGET_WANTED: Final = "specdec.scale.target.wanted"
ATTR_SCALE_TARGET_REASON: Final = "specdec.scale.target.reason"
ATTR_SCALE_DRAFT_NOW: Final = "specdec.scale.draft.now"
ATTR_SCALE_DRAFT_WANTED: Final = "specdec.scale.draft.wanted"
ATTR_SCALE_DRAFT_REASON: Final = "specdec.scale.draft.reason"
ATTR_SCALE_GAIN: Final = "specdec.scale.gain"

# Attributes of the process that emits (OpenTelemetry resource).
ATTR_SERVICE_NAME: Final = "service.name"
ATTR_SERVICE_VERSION: Final = "service.version"
ATTR_SERVICE_INSTANCE: Final = "service.instance.id"

# Metrics: rounds at a target.
METRIC_ROUND_PART_SECONDS: Final = "treedraft_round_part_seconds"
METRIC_DRAFT_WAIT_SECONDS: Final = "treedraft_draft_wait_seconds"
METRIC_ACCEPTED_LENGTH: Final = "treedraft_accepted_length"
METRIC_ACCEPTED_AT_POSITION: Final = "treedraft_accepted_at_position_total"
METRIC_TREE_NODES: Final = "treedraft_tree_nodes"
METRIC_ROUNDS: Final = "treedraft_rounds_total"
METRIC_NODES_DRAFTED: Final = "treedraft_nodes_drafted_total"
METRIC_NODES_ADMITTED: Final = "treedraft_nodes_admitted_total"
METRIC_NODES_ACCEPTED: Final = "treedraft_nodes_accepted_total"
METRIC_DRAFT_LATENESS: Final = "treedraft_draft_lateness_tokens"
METRIC_NODES_DROPPED: Final = "treedraft_nodes_dropped_total"
METRIC_GROWTHS_REFUSED: Final = "treedraft_growths_refused_total"
METRIC_TOKENS_EMITTED: Final = "treedraft_tokens_emitted_total"
METRIC_TOKENS_PREFILLED: Final = "treedraft_tokens_prefilled_total"
METRIC_TOKENS_CACHED: Final = "treedraft_tokens_cached_total"
METRIC_PREEMPTIONS: Final = "treedraft_preemptions_total"

# Metrics: passes of a model, target's or draft's.
METRIC_FORWARD_SECONDS: Final = "treedraft_forward_seconds"
METRIC_FORWARD_ROWS: Final = "treedraft_forward_rows"
METRIC_PROMPT_PASS_SECONDS: Final = "treedraft_prompt_pass_seconds_total"
METRIC_FIRST_TOKENS_DUE: Final = "treedraft_first_tokens_due_total"
METRIC_FIRST_TOKENS_MISSED: Final = "treedraft_first_tokens_missed_total"
METRIC_BUSY_SECONDS: Final = "treedraft_busy_seconds_total"

# Metrics: what a request feels.
METRIC_QUEUE_WAIT_SECONDS: Final = "treedraft_queue_wait_seconds"
METRIC_FIRST_TOKEN_SECONDS: Final = "treedraft_time_to_first_token_seconds"
METRIC_INTER_TOKEN_SECONDS: Final = "treedraft_inter_token_seconds"
METRIC_SESSION_SECONDS: Final = "treedraft_session_seconds"
METRIC_SESSIONS_FINISHED: Final = "treedraft_sessions_finished_total"
METRIC_SESSIONS_FAILED: Final = "treedraft_sessions_failed_total"
METRIC_FAILOVERS: Final = "treedraft_failovers_total"
METRIC_TOOL_ANSWERS: Final = "treedraft_tool_answers_total"
METRIC_TOOL_CALLS: Final = "treedraft_tool_calls_total"
METRIC_TOOL_CALLS_MALFORMED: Final = "treedraft_tool_calls_malformed_total"

# Metrics: how a process is.
METRIC_LINK_FAILURES: Final = "treedraft_link_failures_total"
METRIC_SESSIONS: Final = "treedraft_sessions"
METRIC_SESSIONS_WAITING: Final = "treedraft_sessions_waiting"
METRIC_KV_BLOCKS_FREE: Final = "treedraft_kv_blocks_free"
METRIC_KV_BLOCKS: Final = "treedraft_kv_blocks"
METRIC_KV_USE: Final = "treedraft_kv_use_ratio"
METRIC_WORKERS: Final = "treedraft_workers"
METRIC_UPKEEP_FAILURES: Final = "treedraft_upkeep_failures_total"
METRIC_BUILD: Final = "treedraft_build_info"

# Metrics: the same numbers under the names that vLLM gives them.
ALIAS_NUM_DRAFTS: Final = "vllm:spec_decode_num_drafts_total"
ALIAS_DRAFT_TOKENS: Final = "vllm:spec_decode_num_draft_tokens_total"
ALIAS_ACCEPTED_TOKENS: Final = "vllm:spec_decode_num_accepted_tokens_total"
ALIAS_ACCEPTED_PER_POS: Final = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
ALIAS_FIRST_TOKEN_SECONDS: Final = "vllm:time_to_first_token_seconds"
ALIAS_INTER_TOKEN_SECONDS: Final = "vllm:inter_token_latency_seconds"
ALIAS_QUEUE_SECONDS: Final = "vllm:request_queue_time_seconds"
ALIAS_REQUEST_SECONDS: Final = "vllm:e2e_request_latency_seconds"
ALIAS_REQUEST_SUCCESS: Final = "vllm:request_success_total"
ALIAS_PROMPT_TOKENS: Final = "vllm:prompt_tokens_total"
ALIAS_GENERATION_TOKENS: Final = "vllm:generation_tokens_total"
ALIAS_PREFIX_QUERIES: Final = "vllm:prefix_cache_queries_total"
ALIAS_PREFIX_HITS: Final = "vllm:prefix_cache_hits_total"
ALIAS_PREEMPTIONS: Final = "vllm:num_preemptions_total"
ALIAS_REQUESTS_RUNNING: Final = "vllm:num_requests_running"
ALIAS_REQUESTS_WAITING: Final = "vllm:num_requests_waiting"
ALIAS_KV_USE: Final = "vllm:kv_cache_usage_perc"

# Labels. Every metric of ours has `role`: the service that exports it. Not
# `service`: in Kubernetes the scraper puts a label of that name on all series.
LABEL_ROLE: Final = "role"
# Metrics of the autoscaler, which has these and none of the above.
SCALING_WANTED: Final = "treedraft_autoscaler_replicas_wanted"
SCALING_PRESENT: Final = "treedraft_autoscaler_replicas_present"
SCALING_READY: Final = "treedraft_autoscaler_workers_ready"
SCALING_GAIN: Final = "treedraft_autoscaler_speculation_gain"
SCALING_BUDGET: Final = "treedraft_autoscaler_error_budget_spent"
SCALING_CHANGES: Final = "treedraft_autoscaler_changes_total"
SCALING_FAILURES: Final = "treedraft_autoscaler_failures_total"
SCALING_LEADER: Final = "treedraft_autoscaler_is_leader"
SCALING_DECISION_SECONDS: Final = "treedraft_autoscaler_decision_seconds"

# Labels.
LABEL_WORKLOAD: Final = "workload"
LABEL_DIRECTION: Final = "direction"
LABEL_PART: Final = "part"
LABEL_SOURCE: Final = "source"
LABEL_REASON: Final = "reason"
LABEL_OUTCOME: Final = "outcome"
LABEL_PEER: Final = "peer"
LABEL_POSITION: Final = "position"
LABEL_STATE: Final = "state"
LABEL_WORKER_ROLE: Final = "worker_role"
LABEL_MODEL_NAME: Final = "model_name"
LABEL_ENGINE: Final = "engine"
LABEL_FINISHED_REASON: Final = "finished_reason"
LABEL_VERSION: Final = "version"

# The parts of a round, in the order in which they are shown.
ROUND_PARTS: Final = ("draft", "wire", SPAN_QUEUE, SPAN_FORWARD, SPAN_WALK, SPAN_COMMIT)
