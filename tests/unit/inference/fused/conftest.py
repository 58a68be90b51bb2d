"""Kernels run in Triton's interpreter where there is no CUDA device (tests/conftest.py)."""

import os

collect_ignore_glob: list[str] = []
try:
    from treedraft.inference.fused.kernels import attention
except ImportError:
    collect_ignore_glob = [
        "test_fused_attention.py",
        "test_fused_products.py",
        "test_fused_decoder.py",
        "test_fused_draw.py",
        "test_fused_children.py",
        "test_fused_compilation.py",
        "test_fused_fence.py",
        "test_fused_levels.py",
        "test_fused_ways.py",
    ]


def _range(*bounds):
    """Return a range over numbers as the interpreter has them, arrays of one.

    Triton 3.6 asks numpy to take such an array for an integer, which numpy 2.4 no
    longer does.
    """
    return range(*(int(b.handle.data.item()) if hasattr(b, "handle") else int(b) for b in bounds))


if os.environ.get("TRITON_INTERPRET") == "1" and not collect_ignore_glob:
    attention.range = _range


def pytest_report_header() -> str | None:
    """Say why kernels are not tested, if they are not."""
    return "fused kernels are not tested: no Triton here" if collect_ignore_glob else None
