import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treedraft.core.growth import ROOT, SiblingLaw, TokenSource
from treedraft.core.token_tree import TokenTree
from treedraft.target.budget import Budget, BudgetRequest, SurvivalCalibrator
from treedraft.target.step_costs import StepCosts

MODEL = TokenSource.DRAFT_MODEL
ONE = {"num_plain_rows": 1, "num_sessions": 1}
TWO = {"num_plain_rows": 2, "num_sessions": 2}


def chain(*probabilities: float) -> TokenTree:
    tree, parent, score = TokenTree(5), ROOT, 0.0
    for token, probability in enumerate(probabilities):
        score += math.log(probability)
        node = tree.add(parent, token, score, MODEL)
        assert node is not None
        parent = node
    return tree


def request(tree: TokenTree, max_nodes: int = 64, max_depth: int = 64) -> BudgetRequest:
    return BudgetRequest(tree, max_nodes, max_depth)


def costs(**times: float) -> StepCosts:
    measured = StepCosts()
    for rows, time in times.items():
        measured.observe(int(rows[1:]), time)
    return measured


def budget(measured: StepCosts, *, fixed: bool = False, max_step_nodes: int = 256) -> Budget:
    return Budget(measured, SurvivalCalibrator(), max_step_nodes=max_step_nodes, is_fixed=fixed)


def test_free_rows_admit_every_node():
    [tree] = budget(costs(r1=10.0, r64=10.0)).choose([request(chain(0.9, 0.5, 0.1))], **ONE)
    assert tree.num_nodes == 3


def test_dear_rows_admit_none():
    measured = costs(r1=10.0, r2=30.0, r64=900.0)
    [tree] = budget(measured).choose([request(chain(0.9, 0.9))], **ONE)
    assert tree.num_nodes == 0


def test_the_best_prefix_is_the_one_with_the_highest_goodput():
    # One row more costs 20 %: worth it at 0.9 and at 0.81, not at 0.081.
    measured = costs(r1=10.0, r2=12.0, r4=16.0, r8=24.0)
    [tree] = budget(measured).choose([request(chain(0.9, 0.9, 0.1))], **ONE)
    assert tree.num_nodes == 2


def test_a_cheap_jump_is_seen_past_a_dear_first_step():
    # 2 rows cost as much as 8, as matrix products do on CPU.
    measured = costs(r1=10.0, r2=20.0, r8=20.0)
    [tree] = budget(measured).choose([request(chain(0.95, 0.95, 0.95, 0.95))], **ONE)
    assert tree.num_nodes == 4


def test_nodes_go_where_they_survive():
    measured = costs(r1=10.0, r2=10.0, r4=10.5, r8=40.0)
    likely, unlikely = chain(0.95, 0.95), chain(0.05, 0.05)
    trees = budget(measured).choose([request(unlikely), request(likely)], **TWO)
    assert [tree.num_nodes for tree in trees] == [0, 2]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_limits_of_a_session_hold(limit):
    tree = chain(0.9, 0.9, 0.9, 0.9)
    [by_nodes] = budget(StepCosts(), fixed=True).choose([request(tree, max_nodes=limit)], **ONE)
    [by_depth] = budget(StepCosts(), fixed=True).choose([request(tree, max_depth=limit)], **ONE)
    assert by_nodes.num_nodes == by_depth.num_nodes == limit


def test_limit_of_the_step_holds_over_sessions():
    trees = budget(StepCosts(), fixed=True, max_step_nodes=5).choose(
        [request(chain(0.9, 0.9, 0.9)), request(chain(0.9, 0.9, 0.9))],
        num_plain_rows=2,
        num_sessions=2,
    )
    assert sum(tree.num_nodes for tree in trees) == 5


def test_sibling_groups_are_admitted_all_or_none():
    tree = TokenTree(5)
    first = [tree.add(ROOT, token, -0.5, MODEL) for token in range(3)]
    second = [tree.add(first[0], token, -1.0, MODEL) for token in range(3)]
    laws = {ids[0]: SiblingLaw(ids[0], 3, (0, 1, 2), (0.4, 0.3, 0.3)) for ids in (first, second)}
    for limit, expected in [(2, 0), (3, 3), (5, 3), (6, 6)]:
        [flat] = budget(costs(r1=10.0, r2=50.0), fixed=False).choose(
            [BudgetRequest(tree, limit, 8, laws)], **ONE
        )
        assert flat.num_nodes == expected


def test_a_group_that_is_not_whole_is_left_out():
    tree = TokenTree(5)
    first = tree.add(ROOT, 0, -0.5, MODEL)
    tree.add(ROOT, 1, -0.6, MODEL)
    laws = {first: SiblingLaw(first, 3, (0, 1, 2), (0.4, 0.3, 0.3))}
    [flat] = budget(StepCosts()).choose([BudgetRequest(tree, 8, 8, laws)], **ONE)
    assert flat.num_nodes == 0


def test_calibration_learns_that_claims_are_too_bold():
    calibrator = SurvivalCalibrator()
    bold = math.log(0.9)
    before = calibrator.edge_survival(bold, MODEL)
    for _ in range(200):
        calibrator.observe(bold, MODEL, is_accepted=False)
    assert before == pytest.approx(0.9)
    assert calibrator.edge_survival(bold, MODEL) < 0.1
    assert calibrator.edge_survival(bold, TokenSource.LOOKUP) == pytest.approx(0.9)


def test_a_walk_teaches_only_edges_that_were_put_to_the_test():
    tree = TokenTree(5)
    a = tree.add(ROOT, 1, math.log(0.9), MODEL)
    b = tree.add(ROOT, 2, math.log(0.05), MODEL)
    tree.add(b, 3, math.log(0.04), MODEL)  # below a rejected node: says nothing
    calibrator = SurvivalCalibrator()
    flat = tree.flatten([a, b, 2])
    calibrator.observe_walk(tree, flat, [flat.node_ids.index(a)])
    assert calibrator.edge_survival(math.log(0.9), MODEL) > 0.9
    assert calibrator.edge_survival(math.log(0.05), MODEL) < 0.05
    assert calibrator.edge_survival(math.log(0.8), MODEL) > 0.8


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12), st.integers(0, 12))
def test_the_admitted_set_is_closed_under_ancestors(probabilities, max_nodes):
    tree = chain(*probabilities)
    parent_of_branch = next(iter(tree)).node_id
    tree.add(parent_of_branch, 999, tree.score(parent_of_branch) - 0.1, MODEL)
    [flat] = budget(StepCosts(), fixed=True).choose([request(tree, max_nodes=max_nodes)], **ONE)
    assert flat.num_nodes == min(max_nodes, len(tree))
    assert all(parent < index for index, parent in enumerate(flat.parents))


def test_a_node_must_pay_for_the_sessions_without_a_tree_too():
    measured = costs(r32=100.0, r64=104.0)
    alone = budget(measured).choose([request(chain(0.2))], **ONE)
    crowded = budget(costs(r32=100.0, r64=300.0)).choose(
        [request(chain(0.9))], num_plain_rows=32, num_sessions=32
    )
    assert alone[0].num_nodes == 1
    assert crowded[0].num_nodes == 0


def test_a_price_and_a_verdict_of_long_ago_are_forgotten():
    measured = costs(r1=10.0, r8=12.0)
    for _ in range(50):
        measured.observe(8, 500.0)
    dear = measured.estimate(8)
    for _ in range(3000):
        measured.observe(1, 10.0)
    assert dear > 100.0
    assert measured.estimate(8) == pytest.approx(12.0, rel=0.1)
    calibrator, bold = SurvivalCalibrator(), math.log(0.9)
    for _ in range(300):
        calibrator.observe(bold, MODEL, is_accepted=False)
    tree = TokenTree(5)
    for _ in range(3000):
        calibrator.observe_walk(tree, tree.flatten([]), [])
    assert calibrator.edge_survival(bold, MODEL) > 0.7


def test_what_walks_without_drafts_let_be_forgotten_does_not_depend_on_when_one_looks():
    bold, tree = math.log(0.9), TokenTree(5)
    looked_at, left_alone = SurvivalCalibrator(), SurvivalCalibrator()
    for calibrator in (looked_at, left_alone):
        for _ in range(40):
            calibrator.observe(bold, MODEL, is_accepted=False)
    for _ in range(200):
        for calibrator in (looked_at, left_alone):
            calibrator.observe_walk(tree, tree.flatten([]), [])
        looked_at.edge_survival(bold, MODEL)
    survival = left_alone.edge_survival(bold, MODEL)
    assert survival == pytest.approx(looked_at.edge_survival(bold, MODEL))


def test_nodes_that_hold_up_a_prompt_longer_than_they_bring_tokens_are_left_out():
    # A row more costs 1.5 ms; a token is worth the 20 ms of a plain step.
    measured = costs(r1=20.0, r16=42.5, r64=114.5, r128=210.5)

    def admitted(survival):
        [flat] = budget(measured).choose(
            [request(chain(survival))], num_plain_rows=64, num_sessions=1, num_passing=2
        )
        return flat.num_nodes

    assert admitted(0.3) == 1
    assert admitted(0.06) == 0


def test_a_pass_that_mostly_computes_prompts_does_not_take_in_any_node():
    # By tokens per pass alone a node of one in ten would make 10 % more in 2 % more time.
    measured = costs(r1=20.0, r64=114.5, r128=210.5)
    tree = chain(0.05)
    naive = (1.0 + 0.05) / measured.estimate(65) > 1.0 / measured.estimate(64)
    assert naive
    [flat] = budget(measured).choose(
        [request(tree)], num_plain_rows=64, num_sessions=1, num_passing=2
    )
    assert flat.num_nodes == 0


def test_a_token_is_worth_its_part_of_a_step_of_all_who_wait_for_one():
    # Alone it is worth a pass; while the prompts of seven others wait, an eighth of one.
    measured = costs(r1=20.0, r8=22.0, r16=34.0, r64=106.0)

    def admitted(load):
        [flat] = budget(measured).choose(
            [request(chain(0.4))], num_plain_rows=32, num_sessions=1, num_passing=2, load=load
        )
        return flat.num_nodes

    assert admitted(1) == 1
    assert admitted(8) == 0
