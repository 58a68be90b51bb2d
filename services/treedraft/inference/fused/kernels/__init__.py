"""The kernels of a fused pass, in Triton; imported where Triton is there.

With `TRITON_INTERPRET=1` set before they are imported, they run on a CPU: slowly,
and with the same indices and the same order of sums.

No result of a row depends on what else is in the pass: every sum over inputs, keys
or parts has an order that follows from the row and the model alone.
"""
