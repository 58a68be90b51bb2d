"""Kernels of a pass that come up while the one before still runs.

A kernel of a few microseconds spends much of them on getting started. Launched as a
dependent one (programmatic dependent launch, Hopper and later) its programs take their
places as soon as those of the kernel before have theirs, fetch weights, which no kernel
writes, and wait with everything else until that kernel is over.

Invariants: every kernel of a pass waits, so that one that is over has all before it
behind it; and none touches anything but weights before it has waited. So it sees what
it would see without any of this.
"""

import triton
import triton.language as tl

# A cache line of the L2, in bytes.
_LINE_BYTES: tl.constexpr = tl.constexpr(128)


@triton.jit
def release_next(IS_EARLY: tl.constexpr):
    """Let the next kernel come up once all programs of this one have."""
    if IS_EARLY:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def await_last(IS_EARLY: tl.constexpr):
    """Wait until the kernel before is over and what it wrote can be seen."""
    if IS_EARLY:
        tl.extra.cuda.gdc_wait()


@triton.jit
def fetch(rows, NUM_LINES: tl.constexpr):
    """Bring the first cache lines of some rows of weights into the L2; nothing waits for them.

    `rows` points to the first weight of each that is read here, [ROWS].
    """
    if NUM_LINES > 0:
        each: tl.constexpr = _LINE_BYTES // (rows.dtype.element_ty.primitive_bitwidth // 8)
        places = rows[:, None] + (tl.arange(0, NUM_LINES) * each)[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
            "=r,l",
            [places.to(tl.int64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
