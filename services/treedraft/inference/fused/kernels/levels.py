"""Which nodes of a drafter's tree the next pass runs, decided where the last one's scores are.

One program a session. It adds the children that the last level found to the session's
candidates, takes the best, and writes the rows of the next pass: their tokens, places, slots
and what they see. A row that nothing is left for sees nothing and writes nowhere.
"""

import triton
import triton.language as tl

# Rows of the table, as `layout.Column` numbers them.
_TOKEN: tl.constexpr = tl.constexpr(0)
_POSITION: tl.constexpr = tl.constexpr(1)
_WRITE_SLOT: tl.constexpr = tl.constexpr(2)
_LINE_START: tl.constexpr = tl.constexpr(3)
_LINE_LENGTH: tl.constexpr = tl.constexpr(4)
_PATH_START: tl.constexpr = tl.constexpr(5)
_PATH_LENGTH: tl.constexpr = tl.constexpr(6)


# Numbers that differ between shapes and levels are no constants: there are some forty pairs of
# them, and to compile a kernel for each took most of a drafter's start.
@triton.jit(
    do_not_specialize=(
        *("path_region", "total", "level", "first_rows", "num_slots"),
        *("first_stride", "level_stride"),
    )
)
def choose_rows(
    table,  # int32 [7, total]: the columns of all rows, first rows first, then level by level
    slots,  # int32 [sessions, slots of a session]
    last_positions,  # int32 [sessions]: of nodes that may be run
    barren,  # int32 [NUM_BARREN]: tokens that nothing follows
    scores,  # float32 [total]: of the rows' nodes
    min_scores,  # float32 [sessions]
    keys,  # int64 [total, 4], as of `draw_parts`
    tokens,  # int32 [total, NUM_CHILDREN]
    gains,  # float32 [total, NUM_CHILDREN]
    candidates,  # float32 [sessions, NUM_CANDIDATES]
    chosen,  # int32 [levels * level_stride]: which child, row * NUM_CHILDREN + rank, or -1
    key_slots,
    path_region,  # where in `key_slots` paths may be written, MAX_PATH for each row
    total,  # rows of all levels
    level,  # from 1 on
    first_rows,
    num_slots,  # of a session
    first_stride,
    level_stride,
    WIDTH: tl.constexpr,
    NUM_CHILDREN: tl.constexpr,
    NUM_CANDIDATES: tl.constexpr,
    NUM_BARREN: tl.constexpr,
    MAX_PATH: tl.constexpr,
):
    """Write the rows of one level of one session."""
    session = tl.program_id(0)
    at = tl.arange(0, NUM_CANDIDATES)
    own = at // NUM_CHILDREN
    later = own - first_rows
    level_rows = first_stride + (later // WIDTH) * level_stride + session * WIDTH + later % WIDTH
    rows = tl.where(own < first_rows, session * first_rows + own, level_rows)
    is_new = (later < (level - 1) * WIDTH) & ((later >= (level - 2) * WIDTH) | (level == 1))
    children = rows * NUM_CHILDREN + at % NUM_CHILDREN
    lowest = float("-inf")
    found = tl.load(scores + rows, mask=is_new, other=lowest)
    found += tl.load(gains + children, mask=is_new, other=lowest)
    position = tl.load(table + _POSITION * total + rows, mask=is_new, other=0) + 1
    is_fit = is_new & (position <= tl.load(last_positions + session))
    is_fit = is_fit & (found >= tl.load(min_scores + session)) & (found > -1e30)
    token = tl.load(tokens + children, mask=is_new, other=-1)
    for index in tl.static_range(NUM_BARREN):
        is_fit = is_fit & (token != tl.load(barren + index))
    held = candidates + session * NUM_CANDIDATES + at
    is_kept = (is_new == 0) & (level > 1)
    pool = tl.where(is_fit, found, tl.load(held, mask=is_kept, other=lowest))
    steps = tl.arange(0, MAX_PATH)
    for turn in tl.static_range(WIDTH):
        best = tl.max(pool, 0)
        is_there = best > -1e30
        index = tl.min(tl.where(pool == best, at, NUM_CANDIDATES - 1), 0)
        pool = tl.where(at == index, lowest, pool)
        parent = tl.max(tl.where(at == index, rows, 0), 0)
        child = tl.max(tl.where(at == index, children, 0), 0)
        row = first_stride + (level - 1) * level_stride + session * WIDTH + turn
        slot = tl.load(slots + session * num_slots + (level - 1) * WIDTH + turn)
        place = tl.load(table + _POSITION * total + parent, mask=is_there, other=-1) + 1
        line_length = tl.load(table + _LINE_LENGTH * total + parent, mask=is_there, other=0)
        depth = tl.load(table + _PATH_LENGTH * total + parent, mask=is_there, other=-1)
        begin = tl.load(table + _PATH_START * total + parent, mask=is_there, other=0)
        path = path_region + row * MAX_PATH
        tl.store(table + _TOKEN * total + row, tl.load(tokens + child, mask=is_there, other=0))
        tl.store(table + _POSITION * total + row, place)
        tl.store(table + _WRITE_SLOT * total + row, tl.where(is_there, slot, -1))
        line_start = tl.load(table + _LINE_START * total + parent, mask=is_there, other=0)
        tl.store(table + _LINE_START * total + row, line_start)
        tl.store(table + _LINE_LENGTH * total + row, line_length)
        tl.store(table + _PATH_START * total + row, path)
        tl.store(table + _PATH_LENGTH * total + row, depth + 1)
        seen = tl.load(key_slots + begin + steps, mask=steps < depth, other=0)
        seen = tl.where(steps == depth, slot, seen)
        tl.store(key_slots + path + steps, seen, mask=steps <= depth)
        tl.store(scores + row, tl.where(is_there, best, lowest))
        tl.store(keys + row * 4 + 2, (place + 1).to(tl.int64))
        where = (level - 1) * level_stride + session * WIDTH + turn
        tl.store(chosen + where, tl.where(is_there, child, -1))
    tl.store(held, pool)
