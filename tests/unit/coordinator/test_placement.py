import random
from dataclasses import replace

import pytest

from treedraft.coordinator.placement import (
    DrafterCandidate,
    TargetCandidate,
    choose_drafters,
    choose_target,
    contenders,
    place,
)
from treedraft.core.errors import UnavailableError
from treedraft.core.worker import DrafterAddress, WorkerRegistration, WorkerReport, WorkerRole


def worker(worker_id, role=WorkerRole.TARGET, tokenizer_hash="h", max_sessions=8):
    return WorkerRegistration(
        worker_id=worker_id,
        incarnation="i-" + worker_id,
        role=role,
        endpoint=worker_id + ":1",
        model="smol",
        tokenizer_hash=tokenizer_hash,
        max_sessions=max_sessions,
    )


def target(worker_id, *, pages=10, held=0, assigned=0, max_sessions=8, **report):
    report = WorkerReport(**{"free_kv_blocks": 100, "total_kv_blocks": 100, **report})
    return TargetCandidate(
        worker(worker_id, max_sessions=max_sessions), report, pages, held, assigned
    )


def drafter(worker_id, *, tokenizer_hash="h", max_sessions=8, assigned=0, **report):
    registration = worker(worker_id, WorkerRole.DRAFT, tokenizer_hash, max_sessions)
    return DrafterCandidate(registration, WorkerReport(**report), assigned)


def chosen(*candidates):
    return choose_target(candidates).registration.worker_id


def test_a_prompt_goes_where_its_prefix_is():
    assert chosen(target("a"), target("b", held=9)) == "b"


def test_a_held_prefix_does_not_outweigh_a_long_queue():
    assert chosen(target("a"), target("b", held=9, num_waiting=3)) == "a"


def test_without_prefixes_the_least_loaded_target_is_taken():
    assert chosen(target("a", num_sessions=4), target("b", num_sessions=3)) == "b"


def test_sessions_placed_since_the_last_report_count():
    assert chosen(target("a", assigned=2), target("b", num_sessions=1)) == "b"


def test_prompts_that_come_first_count_by_their_length():
    assert chosen(target("a", num_sessions=3), target("b", num_pending_pages=40)) == "a"
    assert chosen(target("a", num_pending_pages=50), target("b", num_pending_pages=40)) == "b"


def test_pages_placed_since_the_last_report_count():
    fresh = replace(target("a", num_pending_pages=10), num_assigned_pages=40)
    assert chosen(fresh, target("b", num_pending_pages=40)) == "b"


def test_a_held_prefix_is_worth_the_pages_it_saves():
    assert chosen(target("a"), target("b", held=8, num_pending_pages=7)) == "b"
    assert chosen(target("a"), target("b", held=8, num_pending_pages=9)) == "a"


def ids(candidates):
    return [one.registration.worker_id for one in candidates]


def test_only_targets_that_could_win_by_what_they_hold_are_asked():
    near, far = target("b", pages=10, num_pending_pages=9), target("c", num_pending_pages=11)
    assert ids(contenders([target("a"), near, far])) == ["a", "b"]


def test_no_more_are_asked_than_the_limit_and_each_pool_has_its_own():
    many = [target(f"t{number}") for number in range(9)]
    other = replace(target("z", num_pending_pages=99))
    other = replace(other, registration=replace(other.registration, pool="blue"))
    assert ids(contenders([*many, other], limit=2)) == ["t0", "t1", "z"]


@pytest.mark.parametrize("seed", range(20))
def test_asking_only_contenders_changes_no_choice(seed):
    rng = random.Random(seed)
    everyone = [
        target(
            f"t{n}",
            num_sessions=rng.randrange(8),
            num_pending_pages=rng.randrange(30),
            free_kv_blocks=rng.randrange(20),
        )
        for n in range(20)
    ]
    held = {one.registration.worker_id: rng.randrange(11) for one in everyone}

    def informed(asked):
        names = set(ids(asked))
        return [
            replace(one, num_held_pages=held[one.registration.worker_id])
            if one.registration.worker_id in names
            else one
            for one in everyone
        ]

    full = choose_target(informed(everyone)).registration
    assert choose_target(informed(contenders(everyone))).registration == full


def test_a_target_without_free_pages_is_avoided():
    assert chosen(target("a", free_kv_blocks=0), target("b", num_sessions=3)) == "b"


def test_a_full_target_is_taken_only_if_all_are():
    full = target("a", held=10, num_sessions=8)
    assert chosen(full, target("b", num_sessions=7)) == "b"
    assert chosen(full, target("b", num_sessions=9)) == "a"


def test_draining_targets_take_nothing():
    assert chosen(target("a", is_draining=True), target("b", num_sessions=99)) == "b"
    with pytest.raises(UnavailableError) as caught:
        chosen(target("a", is_draining=True))
    assert caught.value.reason == "NO_TARGET"


def test_ties_go_to_the_lowest_id_in_any_order():
    assert chosen(target("b"), target("a")) == chosen(target("a"), target("b")) == "a"


def test_drafters_must_share_the_tokenizer_or_know_none():
    candidates = [drafter("alien", tokenizer_hash="x"), drafter("lookup", tokenizer_hash="")]
    assert [d.worker_id for d in choose_drafters(candidates, worker("t"), 5)] == ["lookup"]


def test_drafters_with_a_model_come_first_then_the_least_loaded():
    candidates = [
        drafter("lookup", tokenizer_hash=""),
        drafter("busy", num_sessions=4),
        drafter("idle", num_sessions=1, assigned=1),
        drafter("full", num_sessions=8),
        drafter("leaving", is_draining=True),
    ]
    found = choose_drafters(candidates, worker("t"), 5)
    assert [d.worker_id for d in found] == ["idle", "busy", "lookup"]
    (drafter_address,) = place([target("t")], candidates, num_drafters=1).drafters
    assert drafter_address == DrafterAddress("idle", "i-idle", "idle:1")
    assert choose_drafters(candidates, worker("t"), 0) == ()


def test_load_is_a_share_of_the_drafters_own_size():
    candidates = [drafter("small", num_sessions=2, max_sessions=4), drafter("big", num_sessions=3)]
    assert choose_drafters(candidates, worker("t"), 1)[0].worker_id == "big"


def test_a_placement_says_why():
    placement = place(
        [target("a", held=4, num_sessions=2, num_waiting=1)], [drafter("d")], num_drafters=2
    )
    assert placement.target.worker_id == "a"
    assert [d.worker_id for d in placement.drafters] == ["d"]
    assert placement.reason == "a of 1: holds 4 of 10 pages, 2 sessions, 0 pages ahead, 1 waiting"
    assert placement.num_pages == 6


def test_placement_is_a_function_of_its_arguments():
    targets = [target("a", held=3), target("b", num_sessions=1)]
    again = [replace(candidate) for candidate in reversed(targets)]
    assert place(targets, (), num_drafters=1).target == place(again, (), num_drafters=1).target
