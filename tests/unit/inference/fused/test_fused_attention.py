"""Attention by kernels is that of torch over the keys of each row, and keeps their order."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treedraft.inference.fused.kernels.attention import attend, combine

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK, NUM_PARTS, HEAD_DIM, NUM_SLOTS = 16, 4, 16, 300


def run(queries, keys, values, seen):
    """Attend to what each row sees: (line, path) of slots."""
    num_rows, num_heads, _ = queries.shape
    num_kv_heads = keys.shape[1]
    group = num_heads // num_kv_heads
    flat, starts, at = [], [], 0
    for line, path in seen:
        starts.append((at, len(line), at + len(line), len(path)))
        flat += [*line, *path]
        at = len(flat)
    columns = [torch.tensor(c, dtype=torch.int32, device=DEVICE) for c in zip(*starts, strict=True)]
    slots = torch.tensor([*flat, 0], dtype=torch.int32, device=DEVICE)

    def empty(*sizes):
        return torch.full((num_rows, num_kv_heads, NUM_PARTS, group, *sizes), torch.nan).to(DEVICE)

    sums, peaks, masses = empty(HEAD_DIM), empty(), empty()
    output = torch.full_like(queries, torch.nan)
    sizes = {
        "NUM_KV_HEADS": num_kv_heads,
        "GROUP": group,
        "HEAD_DIM": HEAD_DIM,
        "BLOCK": BLOCK,
        "NUM_PARTS": NUM_PARTS,
    }
    attend[(num_rows, num_kv_heads, NUM_PARTS)](
        queries, keys, values, slots, *columns, sums, peaks, masses, 0.25 * 1.4426950408889634,
        PADDED_GROUP=16, **sizes,
    )  # fmt: skip
    combine[(num_rows, num_heads)](sums, peaks, masses, columns[1], columns[3], output, **sizes)
    return output


def by_definition(queries, keys, values, seen):
    rows = []
    for query, (line, path) in zip(queries.double(), seen, strict=True):
        slots = torch.tensor([*line, *path], dtype=torch.int64, device=DEVICE)
        group = query.shape[0] // keys.shape[1]
        own_keys = keys[slots].double().repeat_interleave(group, 1)
        own_values = values[slots].double().repeat_interleave(group, 1)
        weights = torch.softmax(torch.einsum("hd,khd->hk", query, own_keys) * 0.25, dim=-1)
        rows.append(torch.einsum("hk,khd->hd", weights, own_values))
    return torch.stack(rows)


def tensors(num_rows, num_kv_heads, group, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = (num_rows, num_kv_heads * group), (NUM_SLOTS, num_kv_heads), (NUM_SLOTS, num_kv_heads)
    return [torch.randn((*s, HEAD_DIM), generator=generator).to(DEVICE) for s in shapes]


slots = st.lists(st.integers(0, NUM_SLOTS - 1), min_size=1, max_size=150)
few_slots = st.lists(st.integers(0, NUM_SLOTS - 1), max_size=20)


@settings(deadline=None, max_examples=12)
@given(
    seen=st.lists(st.tuples(slots, few_slots), min_size=1, max_size=3),
    num_kv_heads=st.integers(1, 2),
    group=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_a_row_attends_to_its_line_and_its_path(seen, num_kv_heads, group, seed):
    held = tensors(len(seen), num_kv_heads, group, seed)
    found, expected = run(*held, seen), by_definition(*held, seen)
    assert (found - expected).norm() < 1e-5 * expected.norm()


@settings(deadline=None, max_examples=8)
@given(line=slots, path=few_slots, seed=st.integers(0, 9))
def test_where_a_line_ends_and_a_path_begins_changes_no_bit(line, path, seed):
    queries, keys, values = tensors(1, 2, 3, seed)
    apart = run(queries, keys, values, [(line, path)])
    assert torch.equal(apart, run(queries, keys, values, [(line + path, [])]))


def test_a_row_that_sees_nothing_gets_zeros_and_disturbs_nobody():
    queries, keys, values = tensors(2, 1, 2, 0)
    found = run(queries, keys, values, [([], []), ([3, 4], [])])
    assert not found[0].any()
    assert torch.equal(found[1:], run(queries[1:], keys, values, [([3, 4], [])]))
