"""Settings drawn for a run: small enough that limits are met."""

import random

from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.draft.settings import DraftSettings
from treedraft.target.settings import TargetSettings


def target_settings(rng: random.Random) -> TargetSettings:
    """Return settings of a target with few pages and little credit."""
    return TargetSettings(
        model="toy",
        max_sessions=rng.choice([2, 4, 8]),
        max_waiting=16,
        prefill_chunk=rng.choice([4, 16, 64]),
        max_unlogged_tokens=rng.choice([8, 64]),
        kv={"tokens": rng.choice([80, 160, 400]), "block_size": 4},
        budget={
            "mode": rng.choice(["goodput", "fixed"]),
            "max_nodes": rng.choice([4, 12]),
            "max_depth": rng.choice([3, 8]),
        },
        patience={"enabled": rng.random() < 0.7},
        drafting={
            "credit_nodes": rng.choice([64, 128, 1024]),
            "max_live_nodes": rng.choice([16, 64]),
            "max_backoff_seconds": 0.5,
            "refusal_seconds": 0.5,
            "idle_seconds": 2.0,
        },
    )


def draft_settings(rng: random.Random) -> DraftSettings:
    """Return settings of a drafter."""
    return DraftSettings(
        kv_tokens=rng.choice([96, 256, 1024]),
        max_sessions=rng.choice([2, 8]),
        growth={
            "max_live_nodes": rng.choice([8, 24]),
            "num_children": rng.choice([1, 2, 3]),
            "max_rows_per_session": rng.choice([1, 4]),
            "max_depth": 6,
        },
        lookup={"enabled": rng.random() < 0.7},
    )


def coordinator_settings(rng: random.Random) -> CoordinatorSettings:
    """Return settings of the coordinators."""
    return CoordinatorSettings(
        drafters_per_session=rng.choice([1, 2]),
        disconnect_grace_seconds=8.0,
        limits={
            "max_sessions": rng.choice([3, 16]),
            "max_waiting": 16,
            "max_unread_tokens": rng.choice([4, 64]),
        },
        store={
            "lease_seconds": 1.0,
            "worker_ttl_seconds": 1.5,
            "refresh_seconds": 0.3,
            "log_patience_seconds": 1.0,
        },
        failover={
            "silence_seconds": 1.0,
            "max_moves": 12,
            "wait_seconds": 20.0,
            "max_at_once": rng.choice([1, 4]),
            "turn_seconds": 0.5,
        },
    )
