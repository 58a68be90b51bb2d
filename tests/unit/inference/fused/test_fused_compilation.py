"""All kernels compile for a Hopper GPU without spilling, by the one kind of matrix product.

Tiles of other sizes would sum in another order if the compiler took another kind of
instruction for them, and rows would depend on the size of their pass.
"""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="no Triton here")

KERNELS_OF_A_PASS = (
    *("embed_norm", "add_norm", "final_norm", "product", "gated_product"),
    *("turn_and_store", "attend", "combine"),
)


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
    for kernel in found:
        assert kernel["spilled"] == 0, kernel
        assert kernel["wgmma"] == 0, kernel
        # What comes up before the last kernel is over waits for it, once and first of all.
        is_of_pass = kernel["kernel"] in KERNELS_OF_A_PASS
        assert kernel["waits"] == kernel["releases"] == is_of_pass, kernel
        assert bool(kernel["fetches"]) == kernel["kernel"].endswith("product"), kernel
        assert kernel["mma_sync"] or kernel["kernel"] not in ("product", "gated_product", "attend")
