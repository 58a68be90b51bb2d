"""All kernels compile for a Hopper GPU without spilling, a product by one kind of instruction.

Tiles of other sizes might sum in another order if the compiler took another kind of
instruction for them, and rows would depend on the size of their pass.
"""

import json
import os
import subprocess
import sys

PRODUCTS = ("product", "gated_product", "turned_product", "attend")
OTHERS_OF_A_PASS = ("embed_norm", "add_norm", "final_norm", "turn_and_store", "combine")
KERNELS_OF_A_PASS = (*PRODUCTS, *OTHERS_OF_A_PASS)


def test_kernels_compile_without_spills_by_one_kind_of_instruction(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.inference.fused.compile_for_hopper"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": "services"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 30
    kinds = {}
    for kernel in found:
        assert kernel["spilled"] == 0, kernel
        # What comes up before the last kernel is over waits for it, once and first of all.
        is_of_pass = kernel["kernel"] in KERNELS_OF_A_PASS
        assert kernel["waits"] == kernel["releases"] == is_of_pass, kernel
        kind = kernel["mma_sync"] > 0, kernel["wgmma"] > 0
        product = kernel["kernel"], kernel["shape"].get("OUTPUTS"), kernel["shape"].get("INPUTS")
        kinds.setdefault(product, set()).add(kind)
        assert any(kind) == (kernel["kernel"] in PRODUCTS), kernel
    assert all(len(own) == 1 for own in kinds.values()), kinds
    assert any(kernel["fetches"] for kernel in found)
