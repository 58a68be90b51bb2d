"""Compile every kernel for a Hopper GPU, which need not be there, and print what it takes.

    python -m tests.unit.inference.fused.compile_for_hopper

A line for each kernel and shape: registers, bytes that spill, shared memory, and how
many matrix instructions of each kind it has.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from treedraft.inference.fused.kernels import (
    attention,
    children,
    draw,
    levels,
    norm,
    product,
    turn,
    turned,
)
from treedraft.inference.fused.plans import (
    KEY_BLOCK,
    NUM_PARTS,
    plan_gated_product,
    plan_head,
    plan_product,
    plan_turned_product,
)

TARGET = GPUTarget("cuda", 90, 32)
OBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {
    **dict.fromkeys(("part_stride", "row_stride", "num_rows"), "i32"),
    **dict.fromkeys(("epsilon", "scaling"), "fp32"),
    **dict.fromkeys(("token_ids", "positions", "write_slots", "output_rows"), "*i32"),
    **dict.fromkeys(("key_slots", "line_starts", "line_lengths"), "*i32"),
    **dict.fromkeys(("path_starts", "path_lengths", "best_tokens"), "*i32"),
    **dict.fromkeys(("parts", "states", "cosines", "sines", "sums", "peaks", "masses"), "*fp32"),
    **dict.fromkeys(("logits", "temperatures", "gains"), "*fp32"),
    "column_ids": "*i32",
    "score_temperature": "fp32",
    "best_scores": "*fp64",
    **dict.fromkeys(("keys", "tokens", "laws"), "*i64"),
}


def compiled(kernel, constants, *, num_warps=4, num_stages=3, types=None):
    """Compile one kernel; return what it takes."""
    kinds = TYPES | (types or {})
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        signature[name] = "constexpr" if name in constants else kinds.get(name, "*bf16")
        if signature[name].startswith("*") or name in ("part_stride", "row_stride"):
            attributes[(place,)] = [["tt.divisibility", 16]]
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    result = triton.compile(
        ASTSource(kernel, signature, constexprs=values, attrs=attributes),
        target=TARGET,
        options={"num_warps": num_warps, "num_stages": num_stages, "launch_pdl": True},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        command = [OBJDUMP, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", said).groups()
    ptx = result.asm["ptx"]
    return {
        "kernel": kernel.__name__,
        "shape": {k: v for k, v in constants.items() if k.startswith(("OUT", "IN", "BLOCK"))},
        "registers": int(registers),
        "spilled": int(stack) + int(local),
        "shared": result.metadata.shared,
        "mma_sync": ptx.count("mma.sync"),
        "wgmma": ptx.count("wgmma.mma_async"),
        "waits": ptx.count("griddepcontrol.wait"),
        "releases": ptx.count("griddepcontrol.launch_dependents"),
        "fetches": ptx.count("prefetch.global.L2"),
    }


def products(hidden, qkv, attended, intermediate, vocab):
    """Compile the products of a model, in the smallest and the largest tile."""
    shapes = [(qkv, hidden), (hidden, attended), (hidden, intermediate)]
    for tile in (16, 64):
        for plan in (*(plan_product(*shape) for shape in shapes), plan_head(vocab, hidden)):
            split = {"SPLIT_INPUTS": plan.split_inputs}
            yield _product(product.product, plan, tile, split)
        yield _product(product.gated_product, plan_gated_product(intermediate, hidden), tile, {})


def _product(kernel, plan, tile, constants):
    cut = plan.cut(tile)
    options = {name: cut.pop(name) for name in ("num_warps", "num_stages")}
    early = {"EARLY_LINES": plan.early_lines, "IS_EARLY": True}
    return compiled(kernel, constants | cut | early, **options)


def turned_products(hidden, num_heads, num_kv_heads, head_dim):
    """Compile the product that turns what it makes, in the smallest and the largest tile."""
    plan = plan_turned_product((num_heads + 2 * num_kv_heads) * head_dim, hidden)
    heads = {"NUM_HEADS": num_heads, "NUM_KV_HEADS": num_kv_heads, "HEAD_DIM": head_dim}
    for tile in (16, 64):
        cut = plan.cut(tile)
        del cut["OUTPUTS"]
        options = {name: cut.pop(name) for name in ("num_warps", "num_stages")}
        early = {"EARLY_LINES": plan.early_lines, "IS_EARLY": True}
        constants = heads | cut | early | {"HAS_BIAS": True}
        yield compiled(turned.turned_product, constants, types={"keys": "*bf16"}, **options)


def others(hidden, num_heads, num_kv_heads, head_dim, vocab):
    """Compile everything else of a model."""
    early = {"IS_EARLY": True}
    row = {"HIDDEN": hidden, "BLOCK": triton.next_power_of_2(hidden), **early}
    warps = 4 if hidden <= 2048 else 8
    yield compiled(norm.embed_norm, row, num_warps=warps)
    yield compiled(norm.add_norm, {"NUM_SPLITS": 3, **row}, num_warps=warps)
    yield compiled(norm.final_norm, {"NUM_SPLITS": 3, **row}, num_warps=warps)
    heads = {"NUM_HEADS": num_heads, "NUM_KV_HEADS": num_kv_heads, "HEAD_DIM": head_dim}
    bf16 = {"keys": "*bf16"}
    turned = {"NUM_SPLITS": 2, "HAS_BIAS": True, **heads, **early}
    yield compiled(turn.turn_and_store, turned, num_warps=1, types=bf16)
    group = {"NUM_KV_HEADS": num_kv_heads, "GROUP": num_heads // num_kv_heads}
    cut = {**group, "HEAD_DIM": head_dim, "BLOCK": KEY_BLOCK, "NUM_PARTS": NUM_PARTS, **early}
    yield compiled(attention.attend, {"PADDED_GROUP": 16, **cut}, num_stages=2, types=bf16)
    yield compiled(attention.combine, cut, num_warps=2)
    parts = -(-vocab // 2048)
    yield compiled(draw.draw_parts, {"VOCAB": vocab, "BLOCK": 1024, "NUM_PARTS": parts})
    padded = triton.next_power_of_2(parts)
    yield compiled(draw.draw_best, {"NUM_PARTS": parts, "PADDED_PARTS": padded}, num_warps=1)


def drafters(columns):
    """Compile the choice of children of a drafter with so many columns."""
    parts = -(-columns // 1024)
    int32 = {"tokens": "*i32"}
    sizes = {"COLUMNS": columns, "BLOCK": 1024, "NUM_PARTS": parts, "NUM_CHILDREN": 4}
    yield compiled(children.top_of_parts, sizes, types=int32)
    sizes = {"NUM_PARTS": parts, "PADDED_PARTS": parts, "PADDED_BEST": 4 * parts}
    yield compiled(children.top_children, {**sizes, "NUM_CHILDREN": 4}, num_warps=1, types=int32)


def growth():
    """Compile the choice of rows, one kernel for all levels and shapes of a drafter."""
    int32 = dict.fromkeys(("table", "slots", "last_positions", "barren", "chosen"), "*i32")
    floats = dict.fromkeys(("scores", "min_scores", "candidates"), "*fp32")
    numbers = ("path_region", "total", "level", "first_rows", "num_slots", "first_stride")
    counts = dict.fromkeys((*numbers, "level_stride"), "i32")
    constants = {"WIDTH": 4, "NUM_CHILDREN": 4, "NUM_CANDIDATES": 64}
    constants |= {"NUM_BARREN": 8, "MAX_PATH": 64}
    types = {**int32, **floats, **counts, "tokens": "*i32"}
    yield compiled(levels.choose_rows, constants, num_warps=1, types=types)


def main() -> None:
    """Print a line of JSON for each kernel."""
    for found in [
        *products(576, 960, 576, 1536, 49152),
        *products(4096, 6144, 4096, 14336, 128256),
        *turned_products(576, 9, 3, 64),
        *turned_products(4096, 32, 8, 128),
        *others(576, 9, 3, 64, 49152),
        *others(4096, 32, 8, 128, 128256),
        *drafters(8192),
        *drafters(16384),
        *growth(),
    ]:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
